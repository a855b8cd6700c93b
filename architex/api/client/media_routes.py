"""The part of the client API's table that is about media."""

from __future__ import annotations

from typing import Final

from architex.api.client import media
from architex.api.routing import Route
from architex.usecases.catalogue import UseCases

OLD_VERSIONS: Final = ("v3", "v1", "r0")
"""Prefixes below /_matrix/media."""


def media_routes(use_cases: UseCases) -> list[Route]:
    """Rows below `/_matrix/client/{version}`: all need an access token.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
    """
    download = media.DownloadResource(use_cases.media_reading)
    return [
        Route("/media/config", media.ConfigResource(use_cases.media_uploads)),
        Route("/media/preview_url", media.PreviewResource(use_cases.url_previews)),
        Route("/media/download/{server_name}/{media_id}", download),
        Route("/media/download/{server_name}/{media_id}/{file_name}", download),
        Route(
            "/media/thumbnail/{server_name}/{media_id}",
            media.ThumbnailResource(use_cases.thumbnails),
        ),
    ]


def old_media_routes(use_cases: UseCases) -> list[Route]:
    """Rows with their full paths: uploading, and reading as it was before v1.11."""
    uploads = use_cases.media_uploads
    download = media.DownloadResource(use_cases.media_reading, needs_token=False)
    rows = [
        Route("/upload", media.UploadResource(uploads)),
        Route("/upload/{server_name}/{media_id}", media.FillResource(uploads)),
        Route("/create", media.CreateResource(uploads)),
        Route("/config", media.ConfigResource(uploads)),
        Route("/preview_url", media.PreviewResource(use_cases.url_previews)),
        Route("/download/{server_name}/{media_id}", download),
        Route("/download/{server_name}/{media_id}/{file_name}", download),
        Route(
            "/thumbnail/{server_name}/{media_id}",
            media.ThumbnailResource(use_cases.thumbnails, needs_token=False),
        ),
    ]
    return [
        Route(f"/_matrix/media/{version}{row.path}", row.resource)
        for row in rows
        for version in OLD_VERSIONS
    ]
