"""Uploading media: whole, or created first and uploaded later.

Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import (
    CannotOverwriteMedia,
    Forbidden,
    LimitExceeded,
    NotFound,
    NotJson,
    TooLarge,
)
from architex.domain.identifiers import ServerName, UserId
from architex.domain.media import MediaUri, clean_content_type, clean_file_name
from architex.gateways.clock import Clock, Randomness
from architex.gateways.media_files import IncomingFile, MediaFiles
from architex.storage.media import Media, MediaStore, QuotaExceeded
from architex.usecases.requester import Requester

PENDING_KEPT_MS: Final = 24 * 60 * 60 * 1000
"""How long media that was created may be uploaded."""
MAX_PENDING: Final = 50
"""Media that one user may have created and not uploaded."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sends.

    Attributes:
        read: the next piece of the body; empty at its end. Raises OSError when it breaks off.
        length: bytes, if the client says so.
    """

    read: Callable[[], bytes]
    length: int | None
    content_type: str | None
    file_name: str | None


@dataclass(frozen=True)
class MediaPolicy:
    """What an operator chose.

    Attributes:
        max_user_bytes: what one user's uploads may take together; 0: any amount.
        is_frozen: what is stored now is never served without an access token.
    """

    max_upload_bytes: int
    max_user_bytes: int
    is_frozen: bool


@dataclass(frozen=True)
class MediaUploads:
    """Takes what users upload.

    Attributes:
        prepare: told of each new piece of media, to make its thumbnails; must not block.
    """

    store: MediaStore
    files: MediaFiles
    clock: Clock
    randomness: Randomness
    server_name: ServerName
    policy: MediaPolicy
    prepare: Callable[[Media], None]

    @property
    def max_upload_bytes(self) -> int:
        """The largest upload."""
        return self.policy.max_upload_bytes

    def make_boundary(self) -> str:
        """What no content holds: for answers in parts."""
        return "architex-" + self.randomness.token_urlsafe(24)

    def create(self, requester: Requester) -> tuple[MediaUri, int]:
        """A URI whose content is to be uploaded later, and until when (ms since 1970).

        Raises:
            LimitExceeded: the user has created too much that was not uploaded.
        """
        now = self.clock.now_ms()
        if self.store.count_pending(requester.user_id, now) >= MAX_PENDING:
            raise LimitExceeded("Upload what you have created first.", retry_after_ms=60_000)
        media = dataclasses.replace(
            self._new(requester.user_id, now), expires_ts=now + PENDING_KEPT_MS
        )
        self.store.insert_pending(media)
        return media.uri, now + PENDING_KEPT_MS

    def upload(self, requester: Requester, upload: Upload) -> MediaUri:
        """Keep a file.

        Raises:
            TooLarge: it is larger than uploads may be.
            Forbidden: the user's quota is used up.
            NotJson: it broke off.
        """
        self._check_quota(requester.user_id, upload.length)
        media = self._new(requester.user_id, self.clock.now_ms())
        with self.files.incoming() as file:
            media = self._receive(media, upload, file)
            with self._within_quota():
                self.store.insert(media, file.put, most_of_user=self.policy.max_user_bytes)
        self.prepare(media)
        return media.uri

    def fill(self, requester: Requester, uri: MediaUri, upload: Upload) -> None:
        """Keep a file under a URI that was created before.

        Raises:
            NotFound: it was never created, or too long ago.
            Forbidden: somebody else created it; or the user's quota is used up.
            CannotOverwriteMedia: it has content.
            TooLarge: it is larger than uploads may be.
            NotJson: it broke off.
        """
        created = self.store.find(uri)
        now = self.clock.now_ms()
        if created is None or not created.is_local or _has_expired(created, now):
            raise NotFound("There is no such media, or it was created too long ago.")
        if created.uploader != requester.user_id:
            raise Forbidden("Somebody else created this.")
        if created.sha256 is not None:
            raise CannotOverwriteMedia("This has content already.")
        self._check_quota(requester.user_id, upload.length)
        with self.files.incoming() as file:
            media = self._receive(created, upload, file)
            media = dataclasses.replace(
                media,
                created_ts=now,
                read_ts=now,
                expires_ts=None,
                needs_token=self.policy.is_frozen,
            )
            with self._within_quota():
                is_filled = self.store.fill(
                    media, file.put, most_of_user=self.policy.max_user_bytes
                )
            if not is_filled:
                raise CannotOverwriteMedia("Somebody was quicker.")
        self.prepare(media)

    def _new(self, user_id: UserId, now: int) -> Media:
        return Media(
            uri=MediaUri(self.server_name, self.randomness.token_urlsafe(18)),
            sha256=None,
            size=0,
            content_type="application/octet-stream",
            file_name=None,
            uploader=user_id,
            is_local=True,
            created_ts=now,
            read_ts=now,
            expires_ts=None,
            needs_token=self.policy.is_frozen,
        )

    def _check_quota(self, user_id: UserId, length: int | None) -> None:
        if (length or 0) > self.policy.max_upload_bytes:
            raise _too_large(self.policy)
        if not self.policy.max_user_bytes:
            return
        used = self.store.bytes_of_user(user_id)
        if used + (length or 0) > self.policy.max_user_bytes:
            raise self._quota_exceeded(used)

    @contextmanager
    def _within_quota(self) -> Iterator[None]:
        """Around storing: what others of the user's uploads took meanwhile counts too."""
        try:
            yield
        except QuotaExceeded as error:
            raise self._quota_exceeded(error.used) from None

    def _quota_exceeded(self, used: int) -> Forbidden:
        return Forbidden(
            f"Your uploads may take {self.policy.max_user_bytes} bytes together;"
            f" they take {used} already."
        )

    def _receive(self, media: Media, upload: Upload, file: IncomingFile) -> Media:
        while piece := _next_piece(upload):
            file.write(piece)
            if file.size > self.policy.max_upload_bytes:
                raise _too_large(self.policy)
        if upload.length is not None and file.size != upload.length:
            raise NotJson("The upload broke off.")
        if upload.length is None and media.uploader is not None:
            self._check_quota(media.uploader, file.size)
        return dataclasses.replace(
            media,
            sha256=file.finish(),
            size=file.size,
            content_type=clean_content_type(upload.content_type),
            file_name=clean_file_name(upload.file_name),
        )


def _next_piece(upload: Upload) -> bytes:
    try:
        return upload.read()
    except OSError as error:
        raise NotJson(f"The upload broke off: {error}.") from error


def _too_large(policy: MediaPolicy) -> TooLarge:
    return TooLarge(f"Uploads may have at most {policy.max_upload_bytes} bytes.")


def _has_expired(media: Media, now: int) -> bool:
    return media.expires_ts is not None and media.expires_ts <= now
