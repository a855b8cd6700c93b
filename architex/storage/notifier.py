"""Wakes whoever waits for something new, when a commit says whom it concerns."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import psycopg

from architex.domain.errors import LimitExceeded
from architex.domain.identifiers import UserId
from architex.storage.announcements import CHANNEL

log = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 50_000
MAX_WATCHES: Final = 20_000
MAX_WAITING: Final = 200
"""Requests of one user that wait at once; each takes one of the connections for everybody."""

_TRY_AGAIN_MS: Final = 5_000


@dataclass(slots=True)
class _Watch:
    """A user who waits, or waited lately, and the rooms that concern them."""

    rooms: frozenset[int] = frozenset()
    waiting: set[threading.Event] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Announced:
    """What was announced after a position.

    Attributes:
        position: up to where announcements have come.
        user: whether one was for the user.
        rooms: which of the rooms some were for.
    """

    position: int
    user: bool
    rooms: tuple[int, ...]


class Notifier:
    """Listens on one connection of its own; parks and wakes the others without any.

    Nothing is lost between looking and waiting: `wait` returns at once when something newer than
    what the caller has seen was announced before it began to wait.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._watches: OrderedDict[UserId, _Watch] = OrderedDict()
        self._watchers_of_room: dict[int, set[UserId]] = {}
        self._listeners: list[Callable[[int], None]] = []
        # The newest position announced for rooms and users; older than the floor: forgotten.
        self._newest: OrderedDict[int | UserId, int] = OrderedDict()
        self._floor = 0
        self._position = 0
        # The same of changed keys, counted as they are heard of.
        self._key_changes = 0
        self._keys_changed: OrderedDict[UserId, int] = OrderedDict()
        self._keys_floor = 0
        self._is_listening = False
        self._started = False
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether nobody may wait any more: the process is about to end."""
        return self._stopped

    # Waiting

    def wait(
        self, user_id: UserId, room_nids: Collection[int], after: int, timeout_s: float
    ) -> None:
        """Wait until something after a position concerns a user or one of the rooms.

        Also returns when `timeout_s` seconds have passed, at shutdown, and sometimes for nothing:
        the caller looks again.

        Args:
            user_id: whose own news count.
            room_nids: numbers of the rooms whose news count.
            after: the position up to which the caller has seen everything.

        Raises:
            LimitExceeded: MAX_WAITING requests of the user wait already.
        """
        woken = threading.Event()
        with self._lock:
            watch = self._watch(user_id, frozenset(room_nids))
            if self._stopped or self._announced_after(user_id, watch.rooms, after):
                return
            if len(watch.waiting) >= MAX_WAITING:
                raise LimitExceeded(
                    "Too many of your requests wait for news.", retry_after_ms=_TRY_AGAIN_MS
                )
            watch.waiting.add(woken)
        self.start()
        try:
            woken.wait(timeout_s)
        finally:
            with self._lock:
                watch.waiting.discard(woken)

    def is_waited_for(self, user_id: UserId) -> bool:
        """Whether a request of a user waits."""
        with self._lock:
            watch = self._watches.get(user_id)
            return watch is not None and bool(watch.waiting)

    def find_announced(
        self, user_id: UserId, room_nids: Collection[int], after: int
    ) -> Announced | None:
        """What was announced after a position for a user and rooms.

        Returns None when that is not known any more, or not yet.
        """
        with self._lock:
            if after < self._floor or after > self._position:
                return None
            newest = self._newest
            return Announced(
                self._position,
                newest.get(user_id, 0) > after,
                tuple(r for r in room_nids if newest.get(r, 0) > after),
            )

    @property
    def key_changes(self) -> int | None:
        """How many announcements that devices' keys have changed were heard; None: not known."""
        return self._key_changes if self._is_listening else None

    def are_keys_unchanged(self, user_id: UserId, since: int) -> bool:
        """Whether all is known that was announced of a user's keys, and nothing was.

        Args:
            since: the `key_changes` from which on.
        """
        with self._lock:
            return (
                self._is_listening
                and self._keys_floor <= since
                and self._keys_changed.get(user_id, 0) <= since
            )

    def on_position(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the position of every announcement, from the listening thread."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to listen; does nothing when it has begun. Call it after a fork."""
        with self._lock:
            if self._started or self._stopped:
                return
            self._started = True
        threading.Thread(target=self._listen, name="notifier", daemon=True).start()

    def stop(self) -> None:
        """Wake everybody, and let nobody wait any more."""
        with self._lock:
            self._stopped = True
        self._wake_all()

    # Within

    def _watch(self, user_id: UserId, rooms: frozenset[int]) -> _Watch:
        """The user's watch, over exactly these rooms."""
        watch = self._watches.get(user_id)
        if watch is None:
            watch = self._watches[user_id] = _Watch()
            self._drop_idle_watches()
        self._watches.move_to_end(user_id)
        if watch.rooms != rooms:
            for room_nid in watch.rooms - rooms:
                self._unwatch(user_id, room_nid)
            for room_nid in rooms - watch.rooms:
                self._watchers_of_room.setdefault(room_nid, set()).add(user_id)
            watch.rooms = rooms
        return watch

    def _unwatch(self, user_id: UserId, room_nid: int) -> None:
        watchers = self._watchers_of_room[room_nid]
        watchers.discard(user_id)
        if not watchers:
            del self._watchers_of_room[room_nid]

    def _drop_idle_watches(self) -> None:
        excess = len(self._watches) - MAX_WATCHES
        if excess <= 0:
            return
        idle = [user_id for user_id, watch in self._watches.items() if not watch.waiting]
        for user_id in idle[:excess]:
            for room_nid in self._watches.pop(user_id).rooms:
                self._unwatch(user_id, room_nid)

    def _announced_after(self, user_id: UserId, rooms: frozenset[int], after: int) -> bool:
        if after < self._floor:
            return True
        newest = self._newest
        return newest.get(user_id, 0) > after or any(newest.get(r, 0) > after for r in rooms)

    def _listen(self) -> None:
        pause = 0.1
        while not self._stopped:
            try:
                with psycopg.connect(
                    self._conninfo, autocommit=True, application_name="architex notifier"
                ) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._catch_up(connection)
                    pause = 0.1
                    for notification in connection.notifies():
                        news = orjson.loads(notification.payload)
                        if "k" in news:
                            self._note_changed_keys(news["k"])
                        else:
                            self._announce(news)
            except psycopg.Error as error:
                self._is_listening = False
                if self._stopped:
                    return
                log.warning("The notifier lost its connection; trying again: %s", error)
                time.sleep(pause)
                pause = min(pause * 2, 2.0)

    def _catch_up(self, connection: psycopg.Connection[Any]) -> None:
        """After a (re)connection: what was announced meanwhile is unknown, so all look again."""
        row = connection.execute("SELECT position FROM log_position").fetchone()
        position = 0 if row is None else int(row[0])
        with self._lock:
            self._floor = max(self._floor, position)
            self._position = position
            self._forget_keys()
            self._is_listening = True
        self._wake_all()
        for listener in self._listeners:
            listener(position)

    def _note_changed_keys(self, user_ids: list[UserId] | None) -> None:
        """Note that the keys of some users' devices have changed; None: of anybody's."""
        with self._lock:
            if user_ids is None:
                self._forget_keys()
                return
            self._key_changes += 1
            for user_id in user_ids:
                self._keys_changed[user_id] = self._key_changes
                self._keys_changed.move_to_end(user_id)
            while len(self._keys_changed) > MAX_REMEMBERED:
                _, self._keys_floor = self._keys_changed.popitem(last=False)

    def _forget_keys(self) -> None:
        self._key_changes += 1
        self._keys_floor = self._key_changes
        self._keys_changed.clear()

    def _announce(self, news: dict[str, Any]) -> None:
        position = news["p"]
        if news.get("all"):
            with self._lock:
                self._forget_keys()
                self._floor = max(self._floor, position)
                self._position = position
            self._wake_all()
        else:
            with self._lock:
                self._position = position
                concerned = set(news["u"])
                for key in (*news["r"], *news["u"]):
                    self._newest[key] = max(position, self._newest.get(key, 0))
                    self._newest.move_to_end(key)
                for room_nid in news["r"]:
                    concerned |= self._watchers_of_room.get(room_nid, set())
                while len(self._newest) > MAX_REMEMBERED:
                    _, forgotten = self._newest.popitem(last=False)
                    self._floor = max(self._floor, forgotten)
                woken = [
                    event
                    for user_id in concerned
                    if (watch := self._watches.get(user_id)) is not None
                    for event in watch.waiting
                ]
            for event in woken:
                event.set()
        for listener in self._listeners:
            listener(position)

    def _wake_all(self) -> None:
        with self._lock:
            woken = [event for watch in self._watches.values() for event in watch.waiting]
        for event in woken:
            event.set()
