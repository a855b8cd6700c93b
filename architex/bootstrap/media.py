"""Everything about files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from architex import __version__
from architex.bootstrap.core import Core
from architex.bootstrap.federation import build_federation_http
from architex.gateways.federation_client import FederationClient
from architex.gateways.http import OutboundHttp
from architex.gateways.media_files import LocalMediaFiles, MediaFiles
from architex.gateways.name_lookup import SystemNames
from architex.gateways.off_loop import OffLoop
from architex.gateways.thumbnailer import ChildThumbnailer
from architex.projections.media_references import RedactedMedia
from architex.settings import Settings
from architex.storage.media import MediaStore
from architex.storage.url_previews import UrlPreviewStore
from architex.usecases.media_care import MediaCare, Retention
from architex.usecases.media_reading import MediaReading
from architex.usecases.media_uploads import MediaPolicy, MediaUploads
from architex.usecases.rate_limits import RateLimits
from architex.usecases.remote_media import RemoteMedia
from architex.usecases.thumbnails import Thumbnails
from architex.usecases.url_previews import UrlPreviews

MAX_PREVIEW_PICTURE_BYTES = 10 * 1024 * 1024
"""Larger pictures are left out of previews of web pages."""


@dataclass(frozen=True)
class MediaUseCases:
    """What is done with media."""

    uploads: MediaUploads
    reading: MediaReading
    thumbnails: Thumbnails
    care: MediaCare
    url_previews: UrlPreviews


def build_media_files(settings: Settings, core: Core) -> MediaFiles:
    """Where the files of media are: on the disk, or in a bucket."""
    local = LocalMediaFiles(settings.media_directory, core.randomness, OffLoop())
    bucket = settings.media_s3
    if bucket is None:
        return local
    build: Callable[[Any, LocalMediaFiles], MediaFiles] = import_module(
        "architex.bootstrap.bucket"
    ).build_bucket_files
    return build(bucket, local)


def build_media(
    settings: Settings, core: Core, federation: FederationClient, rate_limits: RateLimits
) -> MediaUseCases:
    """Everything about media."""
    chosen, clock, chance = settings.media, core.clock, core.randomness
    store = MediaStore(core.database)
    files = build_media_files(settings, core)
    is_frozen = not chosen.unauthenticated_downloads
    care = MediaCare(
        store,
        files,
        clock,
        Retention(
            chosen.remote_cache_bytes,
            chosen.remote_days,
            chosen.local_days,
            removes_redacted=chosen.remove_redacted,
            cache_bytes_per_server=chosen.remote_cache_bytes_per_server,
        ),
        RedactedMedia(core.database, settings.server_name),
        settings.server_name,
    )
    remote = RemoteMedia(
        store=store,
        files=files,
        client=federation,
        http=build_federation_http(
            settings, SystemNames(), clock, settings.federation.ip_blocklist
        ),
        rate_limits=rate_limits,
        clock=clock,
        max_bytes=chosen.max_upload_bytes,
        cache_bytes=chosen.remote_cache_bytes,
        make_room=care.make_room,
        is_frozen=is_frozen,
    )
    reading = MediaReading(store, files, remote, clock, settings.server_name, is_frozen)
    thumbnails = Thumbnails(
        store, files, reading, ChildThumbnailer(chosen.max_thumbnail_pixels), core.call_later
    )
    uploads = MediaUploads(
        store=store,
        files=files,
        clock=clock,
        randomness=chance,
        server_name=settings.server_name,
        policy=MediaPolicy(chosen.max_upload_bytes, chosen.max_bytes_per_user, is_frozen),
        prepare=thumbnails.prepare,
    )
    url_previews = UrlPreviews(
        store=UrlPreviewStore(core.database),
        media=store,
        files=files,
        thumbnails=thumbnails,
        http=OutboundHttp(
            SystemNames(),
            clock,
            blocked_networks=chosen.url_preview_ip_blocklist,
            ca_file=settings.outbound.ca_file,
            user_agent=f"Architex/{__version__} (URL previews)",
        ),
        rate_limits=rate_limits,
        clock=clock,
        randomness=chance,
        server_name=settings.server_name,
        is_enabled=chosen.url_previews,
        max_picture_bytes=min(chosen.max_upload_bytes, MAX_PREVIEW_PICTURE_BYTES),
    )
    return MediaUseCases(uploads, reading, thumbnails, care, url_previews)
