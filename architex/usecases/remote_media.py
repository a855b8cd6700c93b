"""Media of other servers: fetched for whoever asks first, kept for a while for everybody.

Spec: https://spec.matrix.org/v1.19/server-server-api/#content-repository
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Final

from architex.domain.errors import (
    LimitExceeded,
    MatrixError,
    NotFound,
    NotYetUploaded,
    RemoteFailed,
    TooLargeElsewhere,
)
from architex.domain.media import MediaUri, clean_content_type, clean_file_name
from architex.gateways.clock import Clock
from architex.gateways.errors import (
    RemoteError,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnintelligible,
)
from architex.gateways.federation_client import FederationClient, federation_path
from architex.gateways.http import AnswerStream, OutboundHttp
from architex.gateways.media_files import IncomingFile, MediaFiles
from architex.gateways.multipart import PartsReader, find_boundary
from architex.storage.media import Media, MediaStore
from architex.usecases.rate_limits import RateLimits
from architex.usecases.single_flight import SingleFlight

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S: Final = 180.0
"""For one file, from the first byte of the request to the last of the answer."""

_MAX_AROUND_BYTES: Final = 131_072


@dataclass(frozen=True, slots=True)
class _Body:
    """Content on its way: how its server calls it, and its pieces."""

    content_type: str | None
    file_name: str | None
    pieces: Iterator[bytes]


@dataclass
class RemoteMedia:
    """Fetches files of other servers.

    Attributes:
        http: for files that a server keeps elsewhere; with the blocked networks of federation.
        max_bytes: of a file.
        cache_bytes: of all that is kept.
        make_room: removes from what is kept what exceeds `cache_bytes`.
        is_frozen: what is stored now is never served without an access token.
    """

    store: MediaStore
    files: MediaFiles
    client: FederationClient
    http: OutboundHttp
    rate_limits: RateLimits
    clock: Clock
    max_bytes: int
    cache_bytes: int
    make_room: Callable[[], int]
    is_frozen: bool
    _flights: SingleFlight[MediaUri, Media] = field(default_factory=SingleFlight)
    _fetched_bytes: int = 0

    def fetch(self, uri: MediaUri, budget: str, timeout_ms: int) -> Media:
        """Fetch a file and keep it. Whoever asks while it is under way waits for the same.

        Args:
            budget: whom it counts to.
            timeout_ms: how long its server may wait for its upload.

        Raises:
            NotFound, NotYetUploaded, TooLargeElsewhere: so its server says.
            RemoteFailed: it does not answer, or makes no sense.
            LimitExceeded: too many are fetched for this one.
        """

        def fetch_it() -> Media:
            self.rate_limits.spend("remote_media", budget)
            return self._fetch(uri, timeout_ms)

        return self._flights.do(uri, fetch_it, FETCH_TIMEOUT_S)

    def _fetch(self, uri: MediaUri, timeout_ms: int) -> Media:
        known = self.store.find(uri)
        if known is not None and known.sha256 is not None:
            file = self.files.open(known.sha256)
            if file is not None:  # another process was quicker
                file.close()
                return known
            self.store.delete(uri)
        with self.files.incoming() as file_in, _errors_named(uri):
            content_type, file_name = self._receive(uri, timeout_ms, file_in)
            now = self.clock.now_ms()
            media = Media(
                uri=uri,
                sha256=file_in.finish(),
                size=file_in.size,
                content_type=clean_content_type(content_type),
                file_name=clean_file_name(file_name),
                uploader=None,
                is_local=False,
                created_ts=now,
                read_ts=now,
                expires_ts=None,
                needs_token=self.is_frozen,
            )
            self.store.insert(media, file_in.put)
        self._note_fetched(media.size)
        # As it stands in the store: it may be quarantined already.
        return self.store.find(uri) or media

    def _note_fetched(self, size: int) -> None:
        """Make room before what is kept grows far beyond its bounds; the chore comes rarely."""
        self._fetched_bytes += size
        if self._fetched_bytes > self.cache_bytes // 20:
            self._fetched_bytes = 0
            self.make_room()

    # ---- asking

    def _receive(
        self, uri: MediaUri, timeout_ms: int, file: IncomingFile
    ) -> tuple[str | None, str | None]:
        """Write the content into a file; its type and name."""
        try:
            with self._asked(uri, timeout_ms) as body:
                return self._write(uri, body, file)
        except RemoteRefused as error:
            # Servers before v1.11 have only the old endpoint.
            if not _knows_no_such_endpoint(error):
                raise
        with self._asked_at_old_endpoint(uri, timeout_ms) as body:
            return self._write(uri, body, file)

    def _write(
        self, uri: MediaUri, body: _Body, file: IncomingFile
    ) -> tuple[str | None, str | None]:
        for piece in body.pieces:
            file.write(piece)
            if file.size > self.max_bytes:
                raise RemoteTooLarge(uri.server_name, "The file is larger than we take.")
        return body.content_type, body.file_name

    @contextmanager
    def _asked(self, uri: MediaUri, timeout_ms: int) -> Iterator[_Body]:
        with self.client.stream(
            "GET",
            uri.server_name,
            federation_path("v1", "media", "download", uri.media_id),
            query={"timeout_ms": str(timeout_ms)},
            timeout_s=FETCH_TIMEOUT_S,
            max_bytes=self.max_bytes + _MAX_AROUND_BYTES,
        ) as answer:
            boundary = find_boundary(answer.headers.get("Content-Type", ""))
            if boundary is None:
                raise RemoteUnintelligible(uri.server_name, "The answer is not in parts.")
            parts = PartsReader(answer.read, boundary, uri.server_name)
            parts.next_part()  # metadata, of which there is none yet
            headers = parts.next_part()
            if headers is None:
                raise RemoteUnintelligible(uri.server_name, "The answer has no content.")
            location = headers.get("Location")
            if not location:
                yield _body_of(headers, parts.pieces())
                return
        with self._redirected(str(location).strip()) as body:
            yield body

    @contextmanager
    def _redirected(self, url: str) -> Iterator[_Body]:
        """What a server keeps elsewhere. Each address is looked at like any other."""
        if not url.startswith("https://"):
            raise RemoteUnintelligible(url[:200], "It leads to something without TLS.")
        with self.http.stream_url(url, timeout_s=FETCH_TIMEOUT_S, max_bytes=self.max_bytes) as (
            answer,
            _,
        ):
            if answer.status != 200:
                raise RemoteRefused(url[:200], answer.status)
            yield _body_of(answer.headers, _pieces_of(answer))

    @contextmanager
    def _asked_at_old_endpoint(self, uri: MediaUri, timeout_ms: int) -> Iterator[_Body]:
        with self.client.stream(
            "GET",
            uri.server_name,
            f"/_matrix/media/v3/download/{uri.server_name}/{uri.media_id}",
            query={
                "allow_remote": "false",
                "allow_redirect": "false",
                "timeout_ms": str(timeout_ms),
            },
            timeout_s=FETCH_TIMEOUT_S,
            max_bytes=self.max_bytes,
        ) as answer:
            yield _body_of(answer.headers, _pieces_of(answer))


def _pieces_of(answer: AnswerStream) -> Iterator[bytes]:
    return iter(answer.read, b"")


def _body_of(headers: Message, pieces: Iterator[bytes]) -> _Body:
    content_type = headers.get("Content-Type")
    return _Body(None if content_type is None else str(content_type), _name_of(headers), pieces)


def _name_of(headers: Message) -> str | None:
    """The file name of a Content-Disposition."""
    try:
        return headers.get_filename()
    except (LookupError, ValueError, UnicodeError):  # an encoding that there is not
        return None


def _knows_no_such_endpoint(error: RemoteRefused) -> bool:
    return error.status in (404, 405) and error.errcode in (None, "M_UNRECOGNIZED")


@contextmanager
def _errors_named(uri: MediaUri) -> Iterator[None]:
    """What a failure of another server means for who asked us."""
    try:
        yield
    except RemoteTooLarge as error:
        raise TooLargeElsewhere("The file is larger than this server takes.") from error
    except RemoteRefused as error:
        raise _refusal(error) from error
    except RemoteError as error:
        log.info("cannot fetch %s: %s", uri, error)
        raise RemoteFailed(f"{uri.server_name} does not hand it out now.") from error


_MEANINGS: Final[Mapping[str, tuple[type[MatrixError], str]]] = {
    "M_NOT_FOUND": (NotFound, "Its server has no such media."),
    "M_NOT_YET_UPLOADED": (NotYetUploaded, "Its content has not been uploaded yet."),
    "M_TOO_LARGE": (TooLargeElsewhere, "The file is too large for its server."),
}


def _refusal(error: RemoteRefused) -> MatrixError:
    if error.status == 404:
        return NotFound("Its server has no such media.")
    if error.status == 429:
        return LimitExceeded(
            "Its server wants to be asked less.", retry_after_ms=error.retry_after_ms or 5000
        )
    kind, message = _MEANINGS.get(
        error.errcode or "", (RemoteFailed, "Its server does not hand it out.")
    )
    return kind(message)
