"""Turns: what is done for a room by one at a time, in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from architex.domain.identifiers import RoomId


class Turns:
    """One at a time per room: so nothing is asked for twice at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rooms: dict[RoomId, tuple[threading.Lock, int]] = {}

    @contextmanager
    def take(self, room_id: RoomId, timeout_s: float) -> Iterator[bool]:
        """Wait for one's turn; gives whether it came in time."""
        with self._lock:
            turn, users = self._rooms.get(room_id, (threading.Lock(), 0))
            self._rooms[room_id] = (turn, users + 1)
        is_ours = turn.acquire(timeout=timeout_s)
        try:
            yield is_ours
        finally:
            if is_ours:
                turn.release()
            with self._lock:
                turn, users = self._rooms[room_id]
                if users == 1:
                    del self._rooms[room_id]
                else:
                    self._rooms[room_id] = (turn, users - 1)
