"""Taking care of media: removing, quarantining, protecting; what time and crashes leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import NotFound
from architex.domain.identifiers import ServerName, UserId
from architex.domain.media import MediaUri
from architex.gateways.clock import Clock
from architex.gateways.media_files import MediaFiles
from architex.projections.media_references import RedactedMedia
from architex.storage.media import Media, MediaStore, Usage

DAY_MS: Final = 24 * 60 * 60 * 1000
AT_ONCE: Final = 200
"""How much one turn of a chore removes at most."""


@dataclass(frozen=True)
class Retention:
    """What an operator chose.

    Attributes:
        cache_bytes: what files of other servers may take together.
        cache_bytes_per_server: what those of any one server may take; 0: any part of it.
        remote_days, local_days: how long files stay that nobody reads; 0: for ever.
        removes_redacted: uploads go when all events that named them were redacted.
    """

    cache_bytes: int
    remote_days: int
    local_days: int
    removes_redacted: bool = True
    cache_bytes_per_server: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """What became of comparing files and rows.

    Attributes:
        lost: media whose file is not there.
        unknown: how many files there are that nothing refers to.
    """

    lost: Sequence[MediaUri]
    unknown: int


@dataclass(frozen=True)
class MediaCare:
    """For the operator, and for time."""

    store: MediaStore
    files: MediaFiles
    clock: Clock
    retention: Retention
    redacted: RedactedMedia
    server_name: ServerName

    # ---- the operator's

    def get(self, uri: MediaUri) -> Media:
        """What we know of a piece of media. Raises NotFound when we have none."""
        media = self.store.find(uri)
        if media is None:
            raise NotFound(f"There is no {uri} here.")
        return media

    def list_after(
        self,
        after: MediaUri | None,
        limit: int,
        *,
        server_name: ServerName | None = None,
        uploader: UserId | None = None,
    ) -> Sequence[Media]:
        """Media in the order of its URIs."""
        return self.store.list_after(after, limit, server_name=server_name, uploader=uploader)

    def usage(self, users: int) -> tuple[Sequence[Usage], Sequence[Usage]]:
        """What media takes: by server, and by user (the first so many)."""
        return self.store.usage_by_server(), self.store.usage_by_user(users)

    def remove(self, uri: MediaUri) -> None:
        """Remove media, and its file if no other has the same content.

        Raises:
            NotFound: there is none.
        """
        media = self.get(uri)
        self._remove(media)

    def quarantine(self, uri: MediaUri, by: str) -> int:
        """Show the content of media to nobody any more, under whatever URI; how many those are.

        What is protected stays visible.

        Raises:
            NotFound: there is none, or it has no content.
        """
        media = self.get(uri)
        if media.sha256 is None:
            raise NotFound(f"{uri} has no content.")
        self.store.set_quarantined(media.sha256, by, self.clock.now_ms())
        same = self.store.list_same_content(media.sha256)
        return sum(one.quarantined_by is not None for one in same)

    def end_quarantine(self, uri: MediaUri) -> None:
        """Show it again. Raises NotFound when there is none."""
        media = self.get(uri)
        if media.sha256 is not None:
            self.store.set_quarantined(media.sha256, None, self.clock.now_ms())

    def protect(self, uri: MediaUri, protected: bool) -> None:
        """Keep media from quarantine and from being removed by time, or do so no longer.

        Raises:
            NotFound: there is none.
        """
        if not self.store.set_protected(uri, protected):
            raise NotFound(f"There is no {uri} here.")

    def check(self, *, repair: bool) -> Check:
        """Compare the files with what is known of them, as after a restore.

        Args:
            repair: remove files that nothing refers to, and rows of other servers' media whose
                file is lost; those are fetched again when somebody asks.
        """
        lost: list[MediaUri] = []
        after: MediaUri | None = None
        while page := self.store.list_after(after, AT_ONCE):
            after = page[-1].uri
            for media in page:
                if media.sha256 is not None and not self._is_there(media.sha256):
                    lost.append(media.uri)
                    if repair and not media.is_local:
                        self._remove(media)
        unknown = 0
        for sha256 in self.files.list_stored():
            if not self.store.is_referenced(sha256):
                unknown += 1
                if repair:
                    self._release(sha256)
        return Check(lost, unknown)

    def _is_there(self, sha256: bytes) -> bool:
        file = self.files.open(sha256)
        if file is not None:
            file.close()
        return file is not None

    # ---- chores

    def remove_expired(self) -> int:
        """Remove what was created and never uploaded, and pictures of old previews."""
        return self._remove_all(self.store.list_expired(self.clock.now_ms(), AT_ONCE))

    def remove_unread(self) -> int:
        """Remove what nobody has read for longer than it is kept."""
        removed = 0
        now = self.clock.now_ms()
        kept = ((self.retention.remote_days, False), (self.retention.local_days, True))
        for days, is_local in kept:
            if days:
                before = now - days * DAY_MS
                removed += self._remove_all(
                    self.store.list_unread(before, AT_ONCE, is_local=is_local)
                )
        return removed

    def remove_redacted(self) -> int:
        """Remove uploads that only redacted events of their uploaders named."""
        if not self.retention.removes_redacted:
            return 0
        unnamed = [self.store.find(uri) for uri in self.redacted.list_unnamed(AT_ONCE)]
        return self._remove_all([media for media in unnamed if media is not None])

    def make_room(self) -> int:
        """Remove files of other servers, longest unread first, while they take too much."""
        removed = self._shrink(self.store.bytes_of_others() - self.retention.cache_bytes, None)
        share = self.retention.cache_bytes_per_server
        if share:
            for usage in self.store.usage_by_server():
                if usage.size > share and usage.owner != self.server_name:
                    removed += self._shrink(usage.size - share, usage.owner)
        return removed

    def _shrink(self, surplus: int, server_name: ServerName | None) -> int:
        """Remove so many bytes of other servers, or of one of them; how many files it were."""
        if surplus <= 0:
            return 0
        removed = 0
        before = self.clock.now_ms() + DAY_MS
        for media in self.store.list_unread(
            before, AT_ONCE, is_local=False, server_name=server_name
        ):
            if surplus <= 0:
                break
            self._remove(media)
            surplus -= media.size
            removed += 1
        return removed

    def settle_abandoned(self) -> int:
        """Put right what processes left behind that ended in the middle of something."""
        abandoned = self.files.list_abandoned()
        for one in abandoned:
            if one.sha256 is None:
                one.settle(False)
            else:
                self.store.settle(one.sha256, one.settle)
        return len(abandoned)

    def remove_unreferenced(self) -> int:
        """Remove files that nothing refers to any more: their removal was interrupted."""
        files = self.store.list_unreferenced(AT_ONCE)
        return sum(self._release(sha256) for sha256 in files)

    # ---- within

    def _remove_all(self, several: Sequence[Media]) -> int:
        for media in several:
            self._remove(media)
        return len(several)

    def _remove(self, media: Media) -> None:
        self.store.delete(media.uri)
        if media.sha256 is None:
            return
        thumbnails = self.store.list_thumbnails(media.sha256)
        if self._release(media.sha256):
            for thumbnail in thumbnails:
                if thumbnail.sha256 is not None:
                    self._release(thumbnail.sha256)

    def _release(self, sha256: bytes) -> bool:
        with self.files.removing(sha256) as removal:
            is_released = self.store.release(sha256, removal.take_away)
            if is_released:
                removal.finish()
        return is_released
