"""Wakes whoever waits for something new, when a commit says whom it concerns."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import orjson
import psycopg

from architex.domain.errors import LimitExceeded
from architex.domain.identifiers import UserId
from architex.storage.announcements import CHANNEL
from architex.storage.latch import Latch

log = logging.getLogger(__name__)

Key = TypeVar("Key")

MAX_REMEMBERED: Final = 50_000
MAX_WATCHES: Final = 20_000
MAX_WAITING: Final = 200
"""Requests of one user that wait at once; each takes one of the connections for everybody."""

_TRY_AGAIN_MS: Final = 5_000


@dataclass(slots=True)
class _Watch:
    """A user who waits, or waited lately, and the rooms that concern them."""

    rooms: frozenset[int] = frozenset()
    waiting: set[Latch] = field(default_factory=set)


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


class _Newest(Generic[Key]):
    """The newest number that each of many keys was heard of with.

    Attributes:
        floor: what was heard up to here may be forgotten.
    """

    def __init__(self) -> None:
        self.floor = 0
        self._numbers: OrderedDict[Key, int] = OrderedDict()

    def note(self, keys: Iterable[Key], number: int) -> None:
        """Note what was heard; of too many keys the longest silent are forgotten."""
        numbers = self._numbers
        for key in keys:
            numbers[key] = max(number, numbers.get(key, 0))
            numbers.move_to_end(key)
        while len(numbers) > MAX_REMEMBERED:
            self.forget_up_to(numbers.popitem(last=False)[1])

    def forget_up_to(self, number: int) -> None:
        """Up to a number anything may have been missed."""
        self.floor = max(self.floor, number)

    def is_after(self, key: Key, number: int) -> bool:
        """Whether a key was heard of after a number, which is not below the floor."""
        return self._numbers.get(key, 0) > number


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
        # Positions announced for rooms and users.
        self._newest: _Newest[int | UserId] = _Newest()
        self._position = 0
        # Changes of keys, counted as they are heard of.
        self._key_changes = 0
        self._keys_changed: _Newest[UserId] = _Newest()
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
        woken = Latch()
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
            newest = self._newest
            if not newest.floor <= after <= self._position:
                return None
            return Announced(
                self._position,
                newest.is_after(user_id, after),
                tuple([room_nid for room_nid in room_nids if newest.is_after(room_nid, after)]),
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
                and self._keys_changed.floor <= since
                and not self._keys_changed.is_after(user_id, since)
            )

    def on_position(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the position of every announcement, from the listening thread."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to listen; does nothing when it has begun. Call it after a fork."""
        if self._started:
            return
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
        newest = self._newest
        return (
            after < newest.floor
            or newest.is_after(user_id, after)
            or any(newest.is_after(room_nid, after) for room_nid in rooms)
        )

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
            self._newest.forget_up_to(position)
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
            self._keys_changed.note(user_ids, self._key_changes)

    def _forget_keys(self) -> None:
        self._key_changes += 1
        self._keys_changed.forget_up_to(self._key_changes)

    def _announce(self, news: dict[str, Any]) -> None:
        position = news["p"]
        if news.get("all"):
            with self._lock:
                self._forget_keys()
                self._newest.forget_up_to(position)
                self._position = position
            self._wake_all()
        else:
            with self._lock:
                self._position = position
                concerned = set(news["u"])
                self._newest.note((*news["r"], *news["u"]), position)
                for room_nid in news["r"]:
                    concerned |= self._watchers_of_room.get(room_nid, set())
                woken = [
                    latch
                    for user_id in concerned
                    if (watch := self._watches.get(user_id)) is not None
                    for latch in watch.waiting
                ]
            for latch in woken:
                latch.open()
        for listener in self._listeners:
            listener(position)

    def _wake_all(self) -> None:
        with self._lock:
            woken = [latch for watch in self._watches.values() for latch in watch.waiting]
        for latch in woken:
            latch.open()
