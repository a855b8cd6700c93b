"""Reading media: ours, and through us that of other servers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from architex.domain.errors import NotFound, NotYetUploaded
from architex.domain.identifiers import ServerName
from architex.domain.media import MediaUri
from architex.gateways.clock import Clock
from architex.gateways.media_files import PIECE_BYTES, MediaFiles, StoredFile
from architex.storage.media import Media, MediaStore

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_MS: Final = 20_000
MAX_TIMEOUT_MS: Final = 60_000

_FIRST_LOOK_S: Final = 0.1
_MAX_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Reader:
    """Who wants to read.

    Attributes:
        budget: whom what is fetched from other servers counts to: a user ID, an address; None
            for who may read only what we have.
        has_token: whether they showed an access token (or are a server).
        timeout_ms: how long they wait for content that is not there yet.
    """

    budget: str | None
    has_token: bool
    timeout_ms: int = DEFAULT_TIMEOUT_MS


@dataclass
class Content:
    """Content that is open for reading; to be closed.

    Attributes:
        etag: the same only for the same bytes.
    """

    content_type: str
    file_name: str | None
    file: StoredFile
    etag: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.size

    def pieces(self, first: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `first` on, piece by piece; closes the file at the end."""
        left = self.size - first if length is None else length
        try:
            while left > 0:
                piece = self.file.read(first, min(PIECE_BYTES, left))
                if not piece:
                    break
                first += len(piece)
                left -= len(piece)
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Read no more."""
        self.file.close()


class RemoteMediaFetcher(Protocol):
    """Brings media of other servers here."""

    def fetch(self, uri: MediaUri, budget: str, timeout_ms: int) -> Media:
        """Fetch it, and keep it for a while; raises NotFound, TooLargeElsewhere, RemoteFailed."""


@dataclass(frozen=True)
class MediaReading:
    """Finds content, waits for it, has it fetched.

    Attributes:
        is_frozen: what is stored now is never served without an access token; so it need not be
            fetched for who has none.
    """

    store: MediaStore
    files: MediaFiles
    remote: RemoteMediaFetcher
    clock: Clock
    server_name: ServerName
    is_frozen: bool

    def open(self, uri: MediaUri, reader: Reader) -> Content:
        """The content of a URI.

        Raises:
            NotFound: there is none, or none that this reader may see.
            NotYetUploaded: it has not come in time.
            TooLargeElsewhere, RemoteFailed, LimitExceeded: it cannot be had from its server.
        """
        media, file = self.open_media(uri, reader)
        return Content(media.content_type, media.file_name, file, etag_of(media))

    def open_media(self, uri: MediaUri, reader: Reader) -> tuple[Media, StoredFile]:
        """As `open`: what we know about it, and the open file."""
        media = self.store.find(uri)
        is_own = uri.server_name == self.server_name
        if is_own:
            media = self._wait(uri, media, reader.timeout_ms)
        if media is not None and (
            media.quarantined_by is not None or (media.needs_token and not reader.has_token)
        ):
            raise NotFound("There is no such media.")
        if media is not None and media.sha256 is not None:
            file = self.files.open(media.sha256)
            if file is not None:
                self.store.note_read(media, self.clock.now_ms())
                return media, file
            log.warning("the file of %s is lost: %s", uri, media.sha256.hex())
        if is_own or reader.budget is None or (self.is_frozen and not reader.has_token):
            raise NotFound("There is no such media.")
        return self._fetch(uri, reader)

    def _fetch(self, uri: MediaUri, reader: Reader) -> tuple[Media, StoredFile]:
        media = self.remote.fetch(uri, reader.budget or "", reader.timeout_ms)
        is_hidden = media.quarantined_by is not None or (
            media.needs_token and not reader.has_token
        )
        file = None
        if media.sha256 is not None and not is_hidden:
            file = self.files.open(media.sha256)
        if file is None:
            raise NotFound("There is no such media.")
        return media, file

    def _wait(self, uri: MediaUri, media: Media | None, timeout_ms: int) -> Media | None:
        """Media of ours, when its content has come."""
        ends = self.clock.monotonic() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        pause = _FIRST_LOOK_S
        while media is not None and media.sha256 is None:
            if media.expires_ts is not None and media.expires_ts <= self.clock.now_ms():
                return None
            left = ends - self.clock.monotonic()
            if left <= 0:
                raise NotYetUploaded("Its content has not been uploaded yet.")
            self.clock.sleep(min(pause, left))
            pause = min(pause * 2, _MAX_LOOK_S)
            media = self.store.find(uri)
        return media


def etag_of(media: Media) -> str:
    """A name for the bytes of media, for HTTP."""
    return f'"{media.sha256.hex()[:32]}"' if media.sha256 is not None else '""'
