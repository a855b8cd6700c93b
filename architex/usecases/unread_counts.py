"""Unread counts: how many events notify a user whom they have not read yet.

Most events are alike to the push rules, by type and room: those are counted, nobody looks at them.
What was counted is remembered in the process, so a room costs what is new in it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from architex.domain.auth_rules.power_levels import PowerLevels
from architex.domain.client_event import RecordedEvent
from architex.domain.identifiers import RoomId, UserId
from architex.domain.pdu import Pdu
from architex.domain.push_evaluation import (
    Notifying,
    PushEvaluator,
    PushOutcome,
    RoomContext,
)
from architex.domain.push_rules import ChangedPushRule, effective_push_rules
from architex.domain.room_versions import get_room_version
from architex.projections.event_reads import EventReads
from architex.projections.plain_news import PlainEvent
from architex.projections.room_reads import list_member_counts
from architex.projections.unread_reads import (
    MAIN,
    ReadUpTo,
    SpecialEvent,
    UnreadSpan,
    count_alike,
    list_own_names,
    list_power_pdus,
    list_read_up_to,
    list_special,
    list_spoken_up_to,
)
from architex.storage.pool import PgConnection
from architex.storage.push_rules import list_changed_push_rules

MAX_LOOKED_AT: Final = 500
"""Events of a room that are looked at one by one, when the user's own rules need that."""

MAX_REMEMBERED: Final = 50_000


@dataclass(slots=True)
class Unread:
    """How many events a user has not read that notify, and how many of them stand out."""

    notifications: int = 0
    highlights: int = 0

    def as_json(self) -> dict[str, int]:
        """As /sync tells it."""
        return {
            "notification_count": self.notifications,
            "highlight_count": self.highlights,
        }


Threads: TypeAlias = dict[str, Unread]
"""MAIN or the event ID of a thread's root → what is unread there."""


@dataclass(frozen=True, slots=True)
class RoomToCount:
    """A room that a user is in, since a position."""

    room_nid: int
    room_id: RoomId
    room_version: str
    since: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What was counted up to an ordering, by receipts and rules that may have changed since."""

    basis: object
    up_to: int
    threads: Mapping[str, tuple[int, int]]
    by_type: Mapping[str, bool] | None
    """Whether events of `Notifying.ALL` notify, by type; None when more than the type counts."""
    changed: Sequence[ChangedPushRule]
    """The rules that are not the predefined ones."""


@dataclass(slots=True)
class _RoomCount:
    room: RoomToCount
    basis: object
    span: UnreadSpan
    threads: Threads = field(default_factory=dict)
    by_type: dict[str, bool] | None = None


class UnreadCounts:
    """Counts what users have not read."""

    def __init__(self, event_reads: EventReads) -> None:
        """Remember the collaborators."""
        self._event_reads = event_reads
        self._lock = threading.Lock()
        self._remembered: OrderedDict[tuple[UserId, int], _Remembered] = OrderedDict()

    def count(
        self,
        connection: PgConnection,
        user_id: UserId,
        rooms: Collection[RoomToCount],
        now: int,
        ignored: frozenset[UserId],
    ) -> dict[int, Threads]:
        """Room number → what is unread, thread by thread.

        Args:
            connection: in a snapshot at position `now`.
            ignored: whose messages do not count.
        """
        if not rooms:
            return {}
        changed = list_changed_push_rules(connection, user_id)
        evaluator = PushEvaluator(effective_push_rules(user_id, changed))
        counts = self._begin(connection, user_id, rooms, now, ignored, changed)
        spoken = self._note_spoken(connection, user_id, counts)
        plain, loud = _apart(counts.values(), evaluator, now)
        looked_at = LookedAt(self._event_reads, connection, evaluator, rooms, user_id)
        special: list[SpecialEvent] = []
        if plain:
            alike_of = (connection, user_id, plain, [Notifying.ALL], ignored, spoken)
            for alike in count_alike(*alike_of):
                if looked_at.of_type(alike.room_nid, alike.type).notifies:
                    threads = counts[alike.room_nid].threads
                    threads.setdefault(alike.thread, Unread()).notifications += alike.count
            classes = [Notifying.SOME]
            special += list_special(
                connection, user_id, plain, classes, ignored, MAX_LOOKED_AT, spoken
            )
        if loud:
            classes = [Notifying.NOBODY, Notifying.ALL, Notifying.SOME]
            special += list_special(
                connection, user_id, loud, classes, ignored, MAX_LOOKED_AT, spoken
            )
        for event, outcome in looked_at.evaluate(special):
            if outcome.notifies:
                unread = counts[event.room_nid].threads.setdefault(event.thread, Unread())
                unread.notifications += 1
                unread.highlights += outcome.highlights
        for count in counts.values():
            if evaluator.goes_by_type_alone_in(count.room.room_id):
                count.by_type = looked_at.by_type(count.room.room_nid)
        self._remember(user_id, counts.values(), now, changed)
        return {room_nid: count.threads for room_nid, count in counts.items()}

    def count_on(
        self,
        user_id: UserId,
        room: tuple[int, RoomId],
        joined: int | None,
        events: Iterable[PlainEvent],
        now: int,
    ) -> Threads | None:
        """What is unread in a room, by what is remembered and by what came since.

        Nothing else may have changed for the user: neither receipts, nor rules, nor members.

        Args:
            room: its number and ID.
            joined: how many are in it at `now`; None: unknown.
            events: all since, up to position `now`; others may be among them.

        Returns None when not enough is remembered.
        """
        room_nid, room_id = room
        with self._lock:
            known = self._remembered.get((user_id, room_nid))
            if known is None or known.by_type is None or known.up_to > now:
                return None
            threads = {thread: Unread(*told) for thread, told in known.threads.items()}
            by_type = dict(known.by_type)
            for event in events:
                if event.position <= known.up_to or event.notifies == Notifying.NOBODY:
                    continue
                if event.type not in by_type:
                    if joined is None:
                        return None
                    by_type[event.type] = _notifies(
                        user_id, known.changed, room_id, joined, event.type
                    )
                if by_type[event.type]:
                    threads.setdefault(event.thread, Unread()).notifications += 1
            self._remembered[user_id, room_nid] = _Remembered(
                known.basis, now, _as_pairs(threads), by_type, known.changed
            )
            self._remembered.move_to_end((user_id, room_nid))
        return threads

    def _begin(
        self,
        connection: PgConnection,
        user_id: UserId,
        rooms: Collection[RoomToCount],
        now: int,
        ignored: frozenset[UserId],
        changed: Sequence[ChangedPushRule],
    ) -> dict[int, _RoomCount]:
        """What is remembered of the rooms, and from where to count on."""
        read: dict[int, dict[str, int]] = {}
        for up_to in list_read_up_to(connection, user_id, [room.room_nid for room in rooms]):
            read.setdefault(up_to.room_nid, {})[up_to.thread] = up_to.ordering
        rules = repr(changed)
        counts = {}
        for room in rooms:
            receipts = read.get(room.room_nid, {})
            basis = (room.since, tuple(receipts.items()), rules, ignored)
            low = max(room.since, receipts.get("", room.since))
            threads: Threads = {}
            with self._lock:
                known = self._remembered.get((user_id, room.room_nid))
            if known is not None and known.basis == basis and known.up_to <= now:
                low = max(low, known.up_to)
                threads = {thread: Unread(*told) for thread, told in known.threads.items()}
            span = UnreadSpan(room.room_nid, low, now)
            counts[room.room_nid] = _RoomCount(room, basis, span, threads)
        return counts

    def _note_spoken(
        self, connection: PgConnection, user_id: UserId, counts: Mapping[int, _RoomCount]
    ) -> list[ReadUpTo]:
        """Take what the user has answered for read; gives how far, for threads."""
        spans = [count.span for count in counts.values() if count.span.low < count.span.high]
        in_threads = []
        for spoken in list_spoken_up_to(connection, user_id, spans):
            count = counts[spoken.room_nid]
            count.threads.pop(spoken.thread, None)
            if spoken.thread == MAIN:
                count.span = replace(count.span, low_of_main=spoken.ordering)
            else:
                in_threads.append(spoken)
        return in_threads

    def _remember(
        self,
        user_id: UserId,
        counts: Iterable[_RoomCount],
        now: int,
        changed: Sequence[ChangedPushRule],
    ) -> None:
        with self._lock:
            for count in counts:
                room_nid = count.room.room_nid
                key = (user_id, room_nid)
                types = count.by_type
                known = self._remembered.get(key)
                if types is not None and known is not None and known.up_to == now:
                    # Nothing happened since, by which an event of some type would count otherwise.
                    types |= dict(known.by_type or {}) if known.basis == count.basis else {}
                self._remembered[key] = _Remembered(
                    count.basis, now, _as_pairs(count.threads), types, changed
                )
                self._remembered.move_to_end(key)
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)


def _apart(
    counts: Iterable[_RoomCount], evaluator: PushEvaluator, now: int
) -> tuple[list[UnreadSpan], list[UnreadSpan]]:
    """What is to be counted: where events of a type are alike, and where each is looked at."""
    plain: list[UnreadSpan] = []
    loud: list[UnreadSpan] = []
    for count in counts:
        if count.span.low < now:
            is_plain = evaluator.goes_by_type_alone_in(count.room.room_id)
            (plain if is_plain else loud).append(count.span)
    return plain, loud


class LookedAt:
    """Evaluates events for one user, with what rules ask about their rooms looked up once."""

    def __init__(
        self,
        event_reads: EventReads,
        connection: PgConnection,
        evaluator: PushEvaluator,
        rooms: Iterable[RoomToCount],
        user_id: UserId,
    ) -> None:
        self._user_id = user_id
        self._event_reads = event_reads
        self._connection = connection
        self._evaluator = evaluator
        self._rooms = {room.room_nid: room for room in rooms}
        self._of_type: dict[tuple[int, str], PushOutcome] = {}
        self._member_counts: dict[int, tuple[int, int]] | None = None
        self._power: dict[int, tuple[Pdu, Pdu | None]] | None = None
        self._names: dict[int, str] | None = None

    def of_type(self, room_nid: int, type: str) -> PushOutcome:
        """The outcome of all events of `Notifying.ALL` of a type in a room."""
        outcome = self._of_type.get((room_nid, type))
        if outcome is None:
            event = _plain_event(self._rooms[room_nid].room_id, type)
            outcome = self._evaluator.evaluate(event, self._context(room_nid, ""))
            self._of_type[room_nid, type] = outcome
        return outcome

    def by_type(self, room_nid: int) -> dict[str, bool]:
        """Whether events of a room notify, for the types that were asked for so far."""
        return {
            type_: outcome.notifies
            for (of_room, type_), outcome in self._of_type.items()
            if of_room == room_nid
        }

    def evaluate(self, events: Sequence[SpecialEvent]) -> list[tuple[SpecialEvent, PushOutcome]]:
        """The outcome of each event."""
        loaded = self._event_reads.load_events(
            self._connection, [(event.position, event.redacted_by) for event in events]
        )
        return [
            (event, self._outcome(event.room_nid, loaded[event.position]))
            for event in events
            if event.position in loaded
        ]

    def _outcome(self, room_nid: int, event: RecordedEvent) -> PushOutcome:
        shown: dict[str, Any] = {
            "type": event.type,
            "sender": event.sender,
            "room_id": self._rooms[room_nid].room_id,
            "content": event.content,
            "event_id": event.event_id,
        }
        if event.state_key is not None:
            shown["state_key"] = event.state_key
        return self._evaluator.evaluate(shown, self._context(room_nid, event.sender))

    def _context(self, room_nid: int, sender: UserId) -> RoomContext:
        if self._member_counts is None:
            self._member_counts = list_member_counts(self._connection, list(self._rooms))
        joined, _ = self._member_counts.get(room_nid, (0, 0))
        return RoomContext(
            joined,
            lambda key: self._may_notify(room_nid, sender, key),
            lambda: self._own_name(room_nid),
        )

    def _own_name(self, room_nid: int) -> str | None:
        if self._names is None:
            self._names = list_own_names(self._connection, self._user_id, list(self._rooms))
        return self._names.get(room_nid)

    def _may_notify(self, room_nid: int, sender: UserId, key: str) -> bool:
        if self._power is None:
            self._power = list_power_pdus(self._connection, list(self._rooms))
        if room_nid not in self._power:
            return False
        create, event = self._power[room_nid]
        levels = PowerLevels(get_room_version(self._rooms[room_nid].room_version), create, event)
        return levels.of_user(sender) >= levels.notification(key)


def _notifies(
    user_id: UserId,
    changed: Sequence[ChangedPushRule],
    room_id: RoomId,
    joined: int,
    type: str,
) -> bool:
    """Whether events of `Notifying.ALL` of a type notify a user for whom only the type counts."""
    evaluator = PushEvaluator(effective_push_rules(user_id, changed))
    context = RoomContext(joined, lambda key: False)
    return evaluator.evaluate(_plain_event(room_id, type), context).notifies


def _plain_event(room_id: RoomId, type: str) -> dict[str, Any]:
    """What the push rules see of an event when only its type counts."""
    return {"type": type, "sender": "", "room_id": room_id, "content": {}}


def _as_pairs(threads: Threads) -> dict[str, tuple[int, int]]:
    return {
        thread: (unread.notifications, unread.highlights) for thread, unread in threads.items()
    }


def totals(threads: Threads) -> Unread:
    """All threads of a room together."""
    return Unread(
        sum(unread.notifications for unread in threads.values()),
        sum(unread.highlights for unread in threads.values()),
    )


def told_in_sync(threads: Threads, *, by_thread: bool) -> dict[str, Any]:
    """The counts of a room as /sync tells them.

    Args:
        by_thread: whether the client asked for threads to be counted by themselves.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications
    """
    if not by_thread:
        return {"unread_notifications": totals(threads).as_json()}
    told: dict[str, Any] = {"unread_notifications": threads.get(MAIN, Unread()).as_json()}
    others = {
        thread: unread.as_json()
        for thread, unread in threads.items()
        if thread != MAIN and unread.notifications
    }
    if others:
        told["unread_thread_notifications"] = others
    return told
