"""/media: uploading, downloading, thumbnails, previews of web pages.

Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
"""

from __future__ import annotations

import falcon

from architex.api.authentication import client_address
from architex.api.media_answers import answer_content, wish_of
from architex.api.requests import int_param, require_user, string_param
from architex.domain.errors import MissingParam
from architex.domain.media import check_media_uri, clean_file_name
from architex.gateways.media_files import PIECE_BYTES
from architex.usecases.media_reading import (
    DEFAULT_TIMEOUT_MS,
    MAX_TIMEOUT_MS,
    MediaReading,
    Reader,
)
from architex.usecases.media_uploads import MediaUploads, Upload
from architex.usecases.thumbnails import Thumbnails
from architex.usecases.url_previews import UrlPreviews


class UploadResource:
    """POST /_matrix/media/v3/upload."""

    def __init__(self, uploads: MediaUploads) -> None:
        self._uploads = uploads

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Keep a file.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload
        """
        requester = require_user(req, suspended=False, limit="media")
        uri = self._uploads.upload(requester, _upload(req))
        resp.media = {"content_uri": str(uri)}


class CreateResource:
    """POST /_matrix/media/v1/create."""

    def __init__(self, uploads: MediaUploads) -> None:
        self._uploads = uploads

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A URI to upload to later.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create
        """
        requester = require_user(req, suspended=False, limit="media")
        uri, expires_ts = self._uploads.create(requester)
        resp.media = {"content_uri": str(uri), "unused_expires_at": expires_ts}


class FillResource:
    """PUT /_matrix/media/v3/upload/{serverName}/{mediaId}."""

    def __init__(self, uploads: MediaUploads) -> None:
        self._uploads = uploads

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, server_name: str, media_id: str
    ) -> None:
        """Keep a file under a URI that was created before.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixmediav3uploadservernamemediaid
        """
        requester = require_user(req, suspended=False, limit="media")
        self._uploads.fill(requester, check_media_uri(server_name, media_id), _upload(req))
        resp.media = {}


class ConfigResource:
    """GET /media/config."""

    def __init__(self, uploads: MediaUploads) -> None:
        self._uploads = uploads

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What may be uploaded.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediaconfig
        """
        require_user(req, guests=True)
        resp.media = {"m.upload.size": self._uploads.max_upload_bytes}


class DownloadResource:
    """GET /media/download/{serverName}/{mediaId}, with or without a file name."""

    def __init__(self, reading: MediaReading, *, needs_token: bool = True) -> None:
        """Take what reads.

        Args:
            needs_token: False at the old paths, which serve what was stored before their end.
        """
        self._reading = reading
        self._needs_token = needs_token

    def on_get(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        server_name: str,
        media_id: str,
        file_name: str | None = None,
    ) -> None:
        """The content, or a part of it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
        """
        reader = reader_of(req, needs_token=self._needs_token)
        content = self._reading.open(check_media_uri(server_name, media_id), reader)
        answer_content(req, resp, content, clean_file_name(file_name))


class ThumbnailResource:
    """GET /media/thumbnail/{serverName}/{mediaId}."""

    def __init__(self, thumbnails: Thumbnails, *, needs_token: bool = True) -> None:
        """Take what makes them.

        Args:
            needs_token: as for DownloadResource.
        """
        self._thumbnails = thumbnails
        self._needs_token = needs_token

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, server_name: str, media_id: str
    ) -> None:
        """A small picture of the content.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
        """
        reader = reader_of(req, needs_token=self._needs_token)
        wish = wish_of(req)
        content = self._thumbnails.open(check_media_uri(server_name, media_id), wish, reader)
        answer_content(req, resp, content)


class PreviewResource:
    """GET /media/preview_url."""

    def __init__(self, previews: UrlPreviews) -> None:
        self._previews = previews

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What a web page says about itself.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url
        """
        requester = require_user(req)
        url = string_param(req, "url")
        if not url:
            raise MissingParam("Missing: url.")
        resp.media = self._previews.preview(requester, url)


def reader_of(req: falcon.Request, *, needs_token: bool) -> Reader:
    """Who wants to read.

    Raises:
        MissingToken, UnknownToken: an access token is needed, and there is no valid one.
        InvalidParam: a parameter is not of its form.
    """
    timeout_ms = int_param(req, "timeout_ms", DEFAULT_TIMEOUT_MS, at_most=MAX_TIMEOUT_MS)
    if needs_token:
        return Reader(require_user(req, guests=True).user_id, True, timeout_ms)
    # Whatever else it says: for who needs no token, only "no" is without danger.
    may_fetch = string_param(req, "allow_remote") != "false"
    return Reader(client_address(req) if may_fetch else None, False, timeout_ms)


def _upload(req: falcon.Request) -> Upload:
    """The body of a request, to be read piece by piece."""
    is_chunked = "chunked" in (req.get_header("Transfer-Encoding") or "").lower()
    # Without either there is no body.
    length = None if is_chunked else req.content_length or 0
    stream = req.stream if is_chunked else req.bounded_stream
    return Upload(
        read=lambda: stream.read(PIECE_BYTES),
        length=length,
        content_type=req.content_type,
        file_name=string_param(req, "filename"),
    )
