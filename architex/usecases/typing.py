"""Typing notifications.

Spec: https://spec.matrix.org/v1.19/client-server-api/#typing-notifications
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from architex.domain.errors import Forbidden, MatrixError
from architex.domain.identifiers import RoomId, ServerName, UserId
from architex.gateways.clock import Clock
from architex.gateways.timers import CallLater
from architex.projections.room_reads import find_position, find_room_view
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Database, Execute
from architex.storage.typing import (
    STOPPED,
    count_typing_among_others,
    delete_stopped_typing,
    find_next_expiry,
    is_typing,
    list_expired_rooms,
    prolong_typing,
    put_typing,
    repeat_typing_among_others,
    stop_expired_typing,
)
from architex.usecases.requester import Requester

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_MS: Final = 30_000
MAX_TIMEOUT_MS: Final = 120_000

REMOTE_TIMEOUT_MS: Final = 60_000
"""A user of another server types for so long, unless their server says so again."""

KEPT_POSITIONS: Final = 100_000
"""For so many positions it is remembered that somebody stopped typing."""


class Typing:
    """Who is typing where.

    When somebody's time is over, the others are told by `announce_expired`: soon after, by a timer
    of the process that was told of the typing, or by whoever does the housekeeping.
    """

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        call_later: CallLater | None = None,
    ) -> None:
        """Remember the collaborators.

        Args:
            call_later: None for no timers: then somebody has to call `announce_expired`.
        """
        self._database = database
        self._commits = commits
        self._clock = clock
        self._call_later = call_later
        self._lock = threading.Lock()
        self._next_check_ms: int | None = None

    def set_typing(
        self,
        requester: Requester,
        user_id: UserId,
        room_id: RoomId,
        *,
        typing: bool,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
    ) -> None:
        """The requester has begun, goes on, or has stopped typing.

        Args:
            timeout_ms: for how long, unless said again; at most two minutes.

        Raises:
            Forbidden: it is somebody else, or the requester is not in the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidtypinguserid
        """
        if requester.user_id != user_id:
            raise Forbidden("You may only say of yourself that you are typing.")
        self._set(user_id, room_id, min(max(timeout_ms, 0), MAX_TIMEOUT_MS), typing=typing)

    def set_remote_typing(self, user_id: UserId, room_id: RoomId, *, typing: bool) -> None:
        """A user of another server has begun, goes on, or has stopped typing, says that server.

        Raises:
            Forbidden: the user is not in the room.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#typing-notifications
        """
        self._set(user_id, room_id, REMOTE_TIMEOUT_MS, typing=typing)

    def _set(self, user_id: UserId, room_id: RoomId, timeout_ms: int, *, typing: bool) -> None:
        now_ms = self._clock.now_ms()
        with self._database.connection() as connection:
            view = find_room_view(connection, user_id, room_id)
            if view is None or not view.is_joined:
                raise Forbidden("You are not in this room.")
            was_typing = is_typing(connection, view.room_nid, user_id, now_ms)
        room_nid = view.room_nid
        expires_ts = now_ms + timeout_ms if typing else STOPPED
        if typing and was_typing:
            # The others know; only the end moves.
            prolong_typing(self._database, room_nid, user_id, expires_ts)
        elif typing or was_typing:
            self._commits.write_rows(
                lambda execute, position: put_typing(
                    execute, position, room_nid=room_nid, user_id=user_id, expires_ts=expires_ts
                ),
                wake_rooms=[room_nid],
                durable=False,
            )
        if typing:
            self._check_at(expires_ts)

    def announce_expired(self) -> int:
        """Tell the others of those whose time is over; returns in how many rooms that was.

        Forgets, too, who stopped long ago. For whoever does the housekeeping; call it every few
        seconds.
        """
        now_ms = self._clock.now_ms()
        with self._database.connection() as connection:
            room_nids = list_expired_rooms(connection, now_ms)
            kept_from = find_position(connection) - KEPT_POSITIONS
        if not room_nids:
            return 0

        def write(execute: Execute, position: int) -> None:
            stop_expired_typing(execute, position, now_ms=now_ms)
            delete_stopped_typing(execute, before_position=kept_from)

        self._commits.write_rows(write, wake_rooms=room_nids, durable=False)
        return len(room_nids)

    def announce_again(self, server_name: ServerName) -> int:
        """Have other servers told again who of ours is typing; returns how many are.

        Users who go on typing are announced once, and other servers give them a minute or so. For
        whoever does the housekeeping; call it more often than that.

        Args:
            server_name: ours.
        """
        now_ms = self._clock.now_ms()
        with self._database.connection() as connection:
            count = count_typing_among_others(connection, server_name, now_ms)
        if count:
            self._commits.write_rows(
                lambda execute, position: repeat_typing_among_others(
                    execute, position, own=server_name, now_ms=now_ms
                ),
                durable=False,
            )
        return count

    def _check_at(self, expires_ts: int) -> None:
        """Have `announce_expired` called when that moment has come."""
        if self._call_later is None:
            return
        with self._lock:
            if self._next_check_ms is not None and self._next_check_ms <= expires_ts:
                # An earlier check comes first, and then sees when the next one is due.
                return
            self._next_check_ms = expires_ts
        self._start_timer(expires_ts)

    def _start_timer(self, due_ms: int) -> None:
        if self._call_later is not None:
            delay_s = max(due_ms - self._clock.now_ms(), 0) / 1000 + 0.02
            self._call_later(delay_s, lambda: self._on_timer(due_ms))

    def _on_timer(self, due_ms: int) -> None:
        with self._lock:
            if self._next_check_ms != due_ms:
                return  # another timer was set for an earlier moment
            self._next_check_ms = None
        try:
            self.announce_expired()
            next_expiry = find_next_expiry(self._database)
        except MatrixError as error:
            log.warning("Typing that expired is announced later: %s", error)
            return
        if next_expiry is not None:
            self._check_at(next_expiry)
