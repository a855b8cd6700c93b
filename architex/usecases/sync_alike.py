"""Answers to /sync that many devices get alike: what is new in a room, put together once for all.

When somebody says something in a room of five hundred, five hundred waiting clients are woken to
be told the same. What they are told is read once; of each of them this process knows, from what it
told them before, that nothing else is new for them, and what they have not read.

Whatever is out of the ordinary (state, own receipts, messages to devices, an event on a branch, a
client that this process has not met) is left to `usecases.syncing`, which asks the database for
everything. An answer given here is the one it would give.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import orjson

from architex.domain.canonical_json import encode_json
from architex.domain.client_event import Viewer
from architex.domain.event_filter import SyncFilter
from architex.domain.identifiers import RoomId, UserId
from architex.gateways.clock import Clock
from architex.projections.plain_news import PlainEvent, PlainNews, read_plain_news
from architex.projections.room_reads import list_named_room_views
from architex.storage.lazy_members import LazyMemberStore, Member, list_known_members
from architex.storage.notifier import Notifier
from architex.storage.pool import Database, PgConnection
from architex.usecases.sync_parts import SyncRequest, quiet_room, receipt_events
from architex.usecases.sync_rooms import RoomsRequest, SyncRooms
from architex.usecases.unread_counts import RoomToCount, Threads, UnreadCounts, told_in_sync

MAX_DEVICES: Final = 10_000
MAX_MEMBERS: Final = 1000
"""Members of whom is remembered that a device knows them."""

MAX_SPANS: Final = 32
MAX_SPAN_POSITIONS: Final = 500
MAX_ROOMS: Final = 5
"""A client that has news of more rooms gets an answer of its own."""

FRESH_S: Final = 5.0
"""So long what was put together is told: it says how old its events are."""

_DeviceKey: TypeAlias = tuple[UserId, str | None, SyncFilter, bool]
_RoomKey: TypeAlias = tuple[int, SyncFilter, bool]


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer that was read from the database shows about its device.

    Attributes:
        since: the token it was for; None for a fresh start.
        position: of its `next_batch`.
        rooms: numbers of the rooms the user is in.
        changed: of the rooms in which something happened after the token.
        counted: of the rooms whose unread counts it tells.
        has_new_basis: rules or receipts changed, on which other counts may rest.
        known_members: of whom it is remembered that the client knows them.
        is_plain: the user ignores nobody; no messages to the device wait to be deleted.
    """

    since: int | None
    position: int
    rooms: frozenset[int]
    changed: Collection[int]
    counted: Collection[int]
    has_new_basis: bool
    known_members: Collection[Member]
    is_plain: bool


@dataclass(slots=True)
class _Device:
    """What is known of a device that comes again and again.

    Attributes:
        position: up to here, and on as long as nothing is announced for the user, it holds.
        counted: numbers of rooms of which the unread counts are known.
        behind: of those in which something happened that another process told: number → up to
            where they are counted.
        members: from which token on the device knows a member, as far as that is known here.
    """

    position: int = -1
    rooms: frozenset[int] = frozenset()
    counted: set[int] = field(default_factory=set)
    behind: dict[int, int] = field(default_factory=dict)
    members: dict[Member, int] = field(default_factory=dict)
    is_plain: bool = False

    def note(self, told: Told) -> None:
        """Take in what an answer shows."""
        if told.since is None or told.since > self.position:
            self.forget_counts()
            self.members = {}
        elif told.has_new_basis:
            self.forget_counts()
        for room_nid in told.changed:
            self.forget_count(room_nid)
        for room_nid in told.counted:
            self.note_counted(room_nid)
        if len(self.members) + len(told.known_members) > MAX_MEMBERS:
            self.members = {}
        if len(told.known_members) <= MAX_MEMBERS:
            for member in told.known_members:
                self.members.setdefault(member, told.position)
        self.rooms, self.is_plain = told.rooms, told.is_plain
        self.position = max(self.position, told.position)

    def note_elsewhere(self, position: int, room_nids: Iterable[int]) -> None:
        """Take in that another process has answered it, up to a position.

        Args:
            room_nids: numbers of the rooms in which something happened since what is known here.
        """
        for room_nid in room_nids:
            if room_nid in self.counted:
                self.counted.discard(room_nid)
                self.behind[room_nid] = self.position
        self.position = position
        # It may have begun afresh there, and know nobody.
        self.members = {}

    def note_member(self, member: Member, since: int) -> None:
        """Take in that the device knows a member from a token on."""
        if len(self.members) > MAX_MEMBERS:
            self.members = {}
        self.members[member] = since

    def note_counted(self, room_nid: int) -> None:
        """Take in that the unread counts of a room are known again."""
        self.counted.add(room_nid)
        self.behind.pop(room_nid, None)

    def forget_count(self, room_nid: int) -> None:
        """The unread counts of a room are not known any more."""
        self.counted.discard(room_nid)
        self.behind.pop(room_nid, None)

    def forget_counts(self) -> None:
        """None are."""
        self.counted, self.behind = set(), {}


@dataclass(frozen=True, slots=True)
class _RoomNews:
    """What is new in a room for everybody in it.

    Attributes:
        body: as JSON, section by section; None when the filter lets nothing pass.
        stirred: numbers of the rooms of users whose presence or devices changed.
        not_for: users who must be told otherwise.
        members: who spoke → position and JSON of their m.room.member event, if members are loaded
            lazily: for clients that do not know them.
        joined: how many are in the room; None: that may have changed since.
    """

    room_id: RoomId
    body: Mapping[str, Any] | None
    events: Sequence[PlainEvent]
    stirred: frozenset[int]
    not_for: frozenset[UserId]
    members: Mapping[UserId, tuple[int, orjson.Fragment]] = field(default_factory=dict)
    joined: int | None = None


class _Span:
    """What happened between two positions, as far as somebody asked."""

    def __init__(self, since: int, now: int, made: float) -> None:
        self.since = since
        self.now = now
        self.made = made
        self.lock = threading.Lock()
        self.rooms: dict[_RoomKey, _RoomNews | None] = {}


class AlikeAnswers:
    """Knows the devices that come again, and tells them what all are told."""

    def __init__(
        self,
        database: Database,
        rooms: SyncRooms,
        notifier: Notifier,
        unread: UnreadCounts,
        lazy_members: LazyMemberStore,
        clock: Clock,
    ) -> None:
        """Remember the collaborators."""
        self._database = database
        self._rooms = rooms
        self._notifier = notifier
        self._unread = unread
        self._lazy_members = lazy_members
        self._clock = clock
        self._lock = threading.Lock()
        self._devices: OrderedDict[_DeviceKey, _Device] = OrderedDict()
        self._spans: OrderedDict[tuple[int, int], _Span] = OrderedDict()

    def note(self, request: SyncRequest, told: Told) -> None:
        """Remember what an answer shows about the device that asked."""
        if not _is_usual(request):
            return
        key = _device_key(request)
        with self._lock:
            device = self._devices.setdefault(key, _Device())
            self._devices.move_to_end(key)
            while len(self._devices) > MAX_DEVICES:
                self._devices.popitem(last=False)
            if told.since is None:
                device = self._devices[key] = _Device()
            device.note(told)

    def note_nothing(self, request: SyncRequest, since: int, position: int) -> None:
        """Remember that between two positions there was nothing new for a device."""
        device = self._find_device(request)
        if device is not None and since <= device.position < position:
            device.position = position

    def find_rooms(self, request: SyncRequest, position: int) -> Collection[int] | None:
        """The numbers of the rooms a user was in at a position or later; None: not known."""
        device = self._find_device(request)
        return None if device is None or device.position < position else device.rooms

    def find_answer(
        self, request: SyncRequest, since: int
    ) -> tuple[dict[RoomId, dict[str, Any]], int] | None:
        """The rooms in which something is new after a position, and up to where nothing else is.

        Returns None when that cannot be told without asking for all of it.
        """
        device = self._find_device(request)
        if device is None or since > device.position or not device.is_plain:
            return None
        user_id = request.requester.user_id
        news = self._notifier.find_announced(user_id, device.rooms, since)
        if news is None:
            device.forget_counts()
            return None
        found = None
        if not (
            news.user
            or not 0 < len(news.rooms) <= MAX_ROOMS
            or news.position - since > MAX_SPAN_POSITIONS
            # The rooms it is known to be in may be those of later.
            or device.position > news.position
            # What was there when the request came must be in its answer.
            or news.position < (request.requester.log_position or 0)
        ):
            found = self._look(request, self._span(since, news.position), device, news.rooms)
        if found is None:
            return None
        rooms: dict[RoomId, dict[str, Any]] = {}
        told: list[tuple[Member, int]] = []
        by_thread = request.filter.room.timeline.unread_thread_notifications
        for room_nid, (room, threads) in found.items():
            if room.body is None:
                device.forget_count(room_nid)
                continue
            device.note_counted(room_nid)
            rooms[room.room_id] = {**room.body, **told_in_sync(threads, by_thread=by_thread)}
            # Whoever is told now is known with the token of this answer.
            unknown = self._find_unknown(request, since, device, room_nid, room)
            if unknown:
                events = [room.members[user_id][1] for user_id in unknown]
                rooms[room.room_id][_state_section(request)] = {"events": events}
                told += [((room_nid, u), room.members[u][0]) for u in unknown]
        if told:
            self._lazy_members.note(
                user_id, request.requester.device_id or "", told, news.position
            )
            for member, _ in told:
                device.note_member(member, news.position)
        device.position = max(device.position, news.position)
        return rooms, news.position

    # ---- within

    def _find_device(self, request: SyncRequest) -> _Device | None:
        since = request.since
        if since is None or not _is_usual(request) or request.received != since:
            return None
        device = self._devices.get(_device_key(request))
        if device is not None and device.position < since:
            # Another process has answered it. What is known holds if nothing concerned the user.
            user_id = request.requester.user_id
            news = self._notifier.find_announced(user_id, device.rooms, device.position)
            if news is not None and not news.user and news.position >= since:
                device.note_elsewhere(since, news.rooms)
        return device

    def _find_unknown(
        self,
        request: SyncRequest,
        since: int,
        device: _Device,
        room_nid: int,
        room: _RoomNews,
    ) -> list[UserId]:
        """Which of those who spoke in a room the device does not know."""
        unknown = [u for u in room.members if device.members.get((room_nid, u), since + 1) > since]
        if not unknown:
            return []
        requester = request.requester
        with self._database.connection() as connection:
            known = list_known_members(
                connection,
                requester.user_id,
                requester.device_id or "",
                [(room_nid, user_id) for user_id in unknown],
                since,
            )
        for member, position in known.items():
            if position == room.members[member[1]][0]:
                device.note_member(member, since)
                unknown.remove(member[1])
        return unknown

    def _span(self, since: int, now: int) -> _Span:
        at = self._clock.monotonic()
        with self._lock:
            span = self._spans.get((since, now))
            if span is None or at - span.made > FRESH_S:
                span = self._spans[since, now] = _Span(since, now, at)
                while len(self._spans) > MAX_SPANS:
                    self._spans.popitem(last=False)
        return span

    def _look(
        self, request: SyncRequest, span: _Span, device: _Device, room_nids: Iterable[int]
    ) -> dict[int, tuple[_RoomNews, Threads]] | None:
        """What is new in rooms for a device, and what is unread there; None: something else."""
        user_id = request.requester.user_id
        found: dict[int, tuple[_RoomNews, Threads]] = {}
        for room_nid in room_nids:
            room = self._find_room(request, span, room_nid)
            if (
                room is None
                or not room.stirred.isdisjoint(device.rooms)
                or user_id in room.not_for
            ):
                return None
            if room.body is None:
                found[room_nid] = (room, {})
                continue
            uncounted: _RoomNews | None = room
            if room_nid not in device.counted:
                uncounted = self._find_uncounted(request, span, device, room_nid)
            threads = None
            if uncounted is not None:
                threads = self._unread.count_on(
                    user_id, (room_nid, room.room_id), room.joined, uncounted.events, span.now
                )
            if threads is None:
                threads = self._count(user_id, room_nid, span.now)
            if threads is None:
                return None
            found[room_nid] = (room, threads)
        return found

    def _find_uncounted(
        self, request: SyncRequest, span: _Span, device: _Device, room_nid: int
    ) -> _RoomNews | None:
        """What happened in a room since its unread counts were known; None: nobody knows."""
        counted_to = device.behind.get(room_nid)
        if counted_to is None or span.now - counted_to > MAX_SPAN_POSITIONS:
            return None
        room = self._find_room(request, self._span(counted_to, span.now), room_nid)
        return None if room is None or request.requester.user_id in room.not_for else room

    def _count(self, user_id: UserId, room_nid: int, now: int) -> Threads | None:
        """What is unread in a room, from what the database has; None: the user has just left."""
        with self._database.snapshot() as connection:
            views = list_named_room_views(connection, user_id, room_nids=[room_nid])
            if not views or not views[0].is_joined:
                return None
            view = views[0]
            room = RoomToCount(
                room_nid, view.room_id, view.room_version, view.join_position or view.position
            )
            counts = self._unread.count(connection, user_id, [room], now, frozenset())
        return counts.get(room_nid, {})

    def _find_room(self, request: SyncRequest, span: _Span, room_nid: int) -> _RoomNews | None:
        key = (room_nid, request.filter, request.use_state_after)
        # Whoever comes first asks the database; the others wait for what it says.
        with span.lock:
            if key not in span.rooms:
                with self._database.connection() as connection:
                    span.rooms[key] = self._read_room(connection, request, span, room_nid)
            return span.rooms[key]

    def _read_room(
        self, connection: PgConnection, request: SyncRequest, span: _Span, room_nid: int
    ) -> _RoomNews | None:
        now_ms = self._clock.now_ms()
        news = read_plain_news(
            connection, request.requester.user_id, room_nid, span.since, span.now, now_ms
        )
        # Who redacts takes from what others have not read.
        if news is None or any(event.type == "m.room.redaction" for event in news.events):
            return None
        view, events = news.view, news.events
        not_for = {event.sender for event in events} | {r.user_id for r in news.receipts}
        if not request.filter.room.is_room_included(view.room_id):
            return _RoomNews(view.room_id, None, events, news.stirred, frozenset(not_for))
        ephemeral: list[dict[str, Any]] = []
        wanted = request.filter.room.ephemeral
        if wanted.is_room_included(view.room_id) and not wanted.passes_nothing:
            if wanted.is_type_included("m.typing") and news.typing is not None:
                ephemeral.append({"type": "m.typing", "content": {"user_ids": news.typing}})
            if wanted.is_type_included("m.receipt"):
                public = [r for r in news.receipts if r.receipt_type != "m.read.private"]
                ephemeral += receipt_events(public).get(room_nid, [])
        body = None
        members: dict[UserId, tuple[int, orjson.Fragment]] = {}
        if events:
            collected = self._collect(connection, request, span, news, now_ms)
            if collected is None:
                return None
            body, positions = collected
            if body is not None:
                found = _members_by_id(body[_state_section(request)]["events"], positions)
                if found is None:
                    return None
                members = found
                body[_state_section(request)]["events"] = []
        if ephemeral:
            if body is None:
                body = quiet_room(span.now, use_state_after=request.use_state_after)
            body["ephemeral"]["events"] = ephemeral
        pieces = None
        if body is not None:
            pieces = {name: orjson.Fragment(encode_json(part)) for name, part in body.items()}
        joined = news.joined if view.last_position <= span.now else None
        return _RoomNews(
            view.room_id, pieces, events, news.stirred, frozenset(not_for), members, joined
        )

    def _collect(
        self,
        connection: PgConnection,
        request: SyncRequest,
        span: _Span,
        news: PlainNews,
        now_ms: int,
    ) -> tuple[dict[str, Any] | None, Mapping[UserId, int]] | None:
        """The room as anybody in it is told of it who knows none of its members."""
        wanted = request.filter
        return self._rooms.collect_plain(
            connection,
            RoomsRequest(
                viewer=Viewer(
                    request.requester.user_id,
                    None,
                    now_ms,
                    event_fields=wanted.event_fields,
                    federation_format=wanted.federation_format,
                ),
                since=span.since,
                now=span.now,
                filter=wanted,
                use_state_after=request.use_state_after,
            ),
            news,
        )


def _device_key(request: SyncRequest) -> _DeviceKey:
    requester = request.requester
    return (requester.user_id, requester.device_id, request.filter, request.use_state_after)


def _is_usual(request: SyncRequest) -> bool:
    return (
        request.in_pieces
        and not request.full_state
        and not request.filter.room.state.include_redundant_members
    )


def _state_section(request: SyncRequest) -> str:
    return "state_after" if request.use_state_after else "state"


def _members_by_id(
    state: Iterable[Any], positions: Mapping[UserId, int]
) -> dict[UserId, tuple[int, orjson.Fragment]] | None:
    """User ID → position and JSON of the event that tells who they are.

    Returns None when the client wants no part of these events that says of whom they are.
    """
    found: dict[UserId, tuple[int, orjson.Fragment]] = {}
    for event in state:
        event_json = encode_json(event)
        user_id = orjson.loads(event_json).get("state_key")
        if user_id not in positions:
            return None
        found[user_id] = (positions[user_id], orjson.Fragment(event_json))
    return found
