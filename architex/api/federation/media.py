"""/media: other servers read our media.

Spec: https://spec.matrix.org/v1.19/server-server-api/#content-repository
"""

from __future__ import annotations

from collections.abc import Callable

import falcon

from architex.api.federation.authentication import require_server
from architex.api.media_answers import answer_multipart, wish_of
from architex.api.requests import int_param
from architex.domain.identifiers import ServerName
from architex.domain.media import MediaUri, check_media_uri
from architex.usecases.media_reading import (
    DEFAULT_TIMEOUT_MS,
    MAX_TIMEOUT_MS,
    MediaReading,
    Reader,
)
from architex.usecases.rate_limits import RateLimits
from architex.usecases.thumbnails import Thumbnails


class _Resource:
    """What both have in common: who asks, and what may be asked for."""

    def __init__(self, server_name: ServerName, rate_limits: RateLimits, kind: str) -> None:
        self._server_name = server_name
        self._rate_limits = rate_limits
        self._kind = kind

    def _uri_and_reader(self, req: falcon.Request, media_id: str) -> tuple[MediaUri, Reader]:
        """Our media of that ID, and a reader who gets only what we have.

        Raises:
            Unauthorized: it is no server that asks.
            LimitExceeded: it asks too often.
            NotFound: there cannot be such media.
        """
        origin = require_server(req)
        self._rate_limits.spend(self._kind, origin)
        timeout_ms = int_param(req, "timeout_ms", DEFAULT_TIMEOUT_MS, at_most=MAX_TIMEOUT_MS)
        return check_media_uri(self._server_name, media_id), Reader(None, True, timeout_ms)


class DownloadResource(_Resource):
    """GET /_matrix/federation/v1/media/download/{mediaId}."""

    def __init__(
        self,
        reading: MediaReading,
        rate_limits: RateLimits,
        make_boundary: Callable[[], str],
    ) -> None:
        super().__init__(reading.server_name, rate_limits, "federation_reads")
        self._reading = reading
        self._make_boundary = make_boundary

    def on_get(self, req: falcon.Request, resp: falcon.Response, media_id: str) -> None:
        """Our media, in two parts.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
        """
        content = self._reading.open(*self._uri_and_reader(req, media_id))
        answer_multipart(resp, content, self._make_boundary())


class ThumbnailResource(_Resource):
    """GET /_matrix/federation/v1/media/thumbnail/{mediaId}."""

    def __init__(
        self, thumbnails: Thumbnails, rate_limits: RateLimits, make_boundary: Callable[[], str]
    ) -> None:
        # They cost more than reading: a process each, until they are there.
        super().__init__(thumbnails.reading.server_name, rate_limits, "remote_media")
        self._thumbnails = thumbnails
        self._make_boundary = make_boundary

    def on_get(self, req: falcon.Request, resp: falcon.Response, media_id: str) -> None:
        """A small picture of our media, in two parts.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediathumbnailmediaid
        """
        uri, reader = self._uri_and_reader(req, media_id)
        content = self._thumbnails.open(uri, wish_of(req), reader)
        answer_multipart(resp, content, self._make_boundary())
