"""Syncing: what is new for a client since its last token; waiting when nothing is.

Spec: https://spec.matrix.org/v1.19/client-server-api/#syncing
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Final

from architex.domain.canonical_json import encode_json
from architex.domain.client_event import Viewer
from architex.domain.identifiers import RoomId, UserId
from architex.domain.push_rules import effective_push_rules
from architex.gateways.clock import Clock
from architex.projections.room_reads import (
    RoomView,
    find_position,
    list_changed_room_views,
    list_joined_rooms,
    list_named_room_views,
    list_room_views,
)
from architex.projections.sync_reads import (
    News,
    list_account_data,
    list_ignored_users,
    look_for_news,
)
from architex.storage.gathering import Gathering
from architex.storage.lazy_members import LazyMemberStore
from architex.storage.notifier import Notifier
from architex.storage.one_time_keys import Device, KeySupply, find_key_supplies
from architex.storage.pool import Database, Params, PgConnection, Row
from architex.storage.presence import list_changed_presence, list_present_users
from architex.storage.push_rules import list_changed_push_rules
from architex.storage.receipts import Receipt, list_changed_receipts, list_receipts
from architex.storage.restores import Restores
from architex.storage.to_device import ToDeviceStore
from architex.storage.typing import list_changed_typing, list_typing
from architex.usecases.presence import PresenceUpdates, presence_event
from architex.usecases.sync_alike import AlikeAnswers, Told
from architex.usecases.sync_devices import (
    DeviceSections,
    put_key_counts,
    read_device_sections,
)
from architex.usecases.sync_parts import (
    SyncRequest,
    empty_response,
    quiet_room,
    receipt_events,
)
from architex.usecases.sync_rooms import RoomsRequest, RoomsResponse, SyncRooms
from architex.usecases.unread_counts import RoomToCount, UnreadCounts, told_in_sync

MAX_TIMEOUT_MS: Final = 600_000

READS_AT_ONCE: Final = 4

ROOMS_AT_ONCE: Final = 100
"""So many rooms are read at once when a client that is in many begins afresh."""

_SECTIONS: Final = ("join", "invite", "knock", "leave")

RECENT_POSITIONS: Final = 1000
"""Up to so many positions ago, what is new is looked for in the log instead of in the rooms."""


class Syncing:
    """Answers /sync."""

    def __init__(
        self,
        database: Database,
        rooms: SyncRooms,
        notifier: Notifier,
        lazy_members: LazyMemberStore,
        presence: PresenceUpdates,
        clock: Clock,
        unread: UnreadCounts,
        reads_at_once: int = READS_AT_ONCE,
    ) -> None:
        """Remember the collaborators.

        Args:
            reads_at_once: how many may read at the same time: when many are woken, the others find
                connections, too.
        """
        self._turns = threading.BoundedSemaphore(reads_at_once)
        self._unread = unread
        self._to_device = ToDeviceStore(database)
        self._restores = Restores(database)
        self._database = database
        self._rooms = rooms
        self._notifier = notifier
        self._lazy_members = lazy_members
        self._presence = presence
        self._clock = clock
        self._key_supplies = Gathering(partial(find_key_supplies, database.fetch_all))
        self._alike = AlikeAnswers(database, rooms, notifier, unread, lazy_members, clock)
        # The newest position this process has seen: says whether a token is recent.
        self._newest = 0

    def mark_keys(self) -> int | None:
        """How many changes of keys have been announced; None: not known. For `keys_mark`."""
        self._notifier.start()
        return self._notifier.key_changes

    def sync(self, request: SyncRequest) -> dict[str, Any]:
        """As `answer`, whole."""
        answer = self.answer(replace(request, in_pieces=False))
        if not isinstance(answer, dict):
            raise TypeError("It came in pieces, which nobody asked for.")
        return answer

    def answer(self, request: SyncRequest) -> dict[str, Any] | Iterator[bytes]:
        """What is new for a client; waits up to the timeout for something.

        Returns the response; for a client in many rooms that begins afresh and takes it in pieces:
        the response as JSON, whose rooms are read while it is sent.

        A token from the future (the database was restored from a backup) is answered like none:
        the client starts afresh and misses nothing.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
        """
        waits = request.since is not None and not request.full_state
        timeout_ms = min(request.timeout_ms, MAX_TIMEOUT_MS) if waits else 0
        self._presence.note_sync(request.requester, request.set_presence, wait_ms=timeout_ms)
        if request.since is not None and self._restores.is_lost(request.since):
            # From before a restore: the reading finds it in the future, and begins afresh.
            return self._read(request, 2**62)[0]
        if request.since is None or request.full_state:
            return self._read(request, request.since)[0]
        deadline = self._clock.monotonic() + timeout_ms / 1000
        since = request.since
        # Whoever has seen all there was when their token was looked up, has seen all there is.
        knows_all = request.requester.log_position == since == request.received
        news = News(since) if knows_all else None
        while True:
            alike = None if knows_all else self._alike.find_answer(request, since)
            if alike is not None:
                rooms, position = alike
                if rooms:
                    return self._answer_alike(request, rooms, position)
                news = News(position)
            news = news or self._look(request, since)
            position = news.position
            if news.is_anything or position < since:
                response, position, is_empty = self._read(request, since)
                if not is_empty:
                    return response
            else:
                self._alike.note_nothing(request, since, position)
            remaining = deadline - self._clock.monotonic()
            if remaining <= 0 or self._notifier.is_stopped:
                told = request.requester.device_news
                if knows_all and (told is None or told.has_messages):
                    self._note_received(request)
                return self._nothing(request, position)
            self._wait(request, position, remaining)
            # Up to here there was nothing to tell.
            since, news, knows_all = position, None, False

    def _look(self, request: SyncRequest, since: int) -> News:
        news = look_for_news(
            self._database,
            request.requester.user_id,
            since,
            recent=self._is_recent(since),
            device_id=request.requester.device_id,
            received=request.received,
        )
        self._newest = max(self._newest, news.position)
        return news

    def _answer_alike(
        self, request: SyncRequest, rooms: dict[RoomId, dict[str, Any]], position: int
    ) -> dict[str, Any]:
        """The answer when there is only what all in these rooms are told."""
        response = self._nothing(request, position)
        response["rooms"]["join"] = rooms
        self._newest = max(self._newest, position)
        return response

    def _nothing(self, request: SyncRequest, position: int) -> dict[str, Any]:
        """The answer when there is nothing to tell."""
        response = empty_response(position)
        put_key_counts(partial(self._find_key_supply, request), request.requester, response)
        return response

    def _find_key_supply(self, request: SyncRequest, device: Device) -> KeySupply | None:
        """What the device has for others to claim: as it was told, if that is still so."""
        told, mark = request.requester.device_news, request.keys_mark
        if told is not None and mark is not None:
            is_current = self._notifier.are_keys_unchanged(device[0], mark)
            return told.supply if is_current else self._key_supplies.find(device)
        return self._key_supplies.find(device)

    def _note_received(self, request: SyncRequest) -> None:
        """Delete the messages that a device has shown to have received."""
        requester = request.requester
        if requester.device_id is not None:
            self._to_device.delete_received(
                requester.user_id, requester.device_id, request.received
            )

    def _is_recent(self, since: int) -> bool:
        return since >= self._newest - RECENT_POSITIONS

    def _wait(self, request: SyncRequest, after: int, timeout_s: float) -> None:
        user_id = request.requester.user_id
        room_nids = self._alike.find_rooms(request, after)
        if room_nids is None:
            with self._database.connection() as connection:
                room_nids = list_joined_rooms(connection, user_id)
        self._notifier.wait(user_id, room_nids, after, timeout_s)

    def _read(
        self, request: SyncRequest, since: int | None
    ) -> tuple[dict[str, Any] | Iterator[bytes], int, bool]:
        """The response, the position up to which it tells, and whether it tells nothing."""
        with self._snapshot() as connection:
            reading = _Reading(
                connection, request, since, self._clock.now_ms(), self._rooms, self._unread
            )
            reading.run(recent=since is not None and self._is_recent(since))
            room_nids = list_joined_rooms(connection, request.requester.user_id)
            if not reading.has_more:
                self._alike.note(request, reading.told(room_nids))
        self._newest = max(self._newest, reading.now)
        if reading.has_received:
            self._note_received(request)
        self._note_lazy_members(request, reading)
        if reading.has_more:
            return self._send(request, reading, room_nids), reading.now, False
        return reading.response, reading.now, reading.is_empty

    def _send(
        self, request: SyncRequest, reading: _Reading, room_nids: Collection[int]
    ) -> Iterator[bytes]:
        """A response as JSON, while the rooms that were held back are read."""
        section = reading.first_section
        first = reading.response.pop("rooms")[section]
        yield encode_json(reading.response)[:-1] + b',"rooms":'
        reading.response["rooms"] = {}
        yield from _write_rooms(itertools.chain([(section, first)], self._go_on(request, reading)))
        yield b"}"
        self._alike.note(request, reading.told(room_nids))

    def _go_on(
        self, request: SyncRequest, reading: _Reading
    ) -> Iterator[tuple[str, dict[RoomId, Any]]]:
        for section, rooms in reading.collect_more(self._snapshot):
            self._note_told_members(request, reading)
            yield section, rooms

    @contextmanager
    def _snapshot(self) -> Iterator[PgConnection]:
        """A snapshot of the database, when it is one's turn."""
        with self._turns, self._database.snapshot() as connection:
            yield connection

    def _note_lazy_members(self, request: SyncRequest, reading: _Reading) -> None:
        if not request.filter.room.state.lazy_load_members:
            return
        requester = request.requester
        device_id = requester.device_id or ""
        if reading.since is None:
            self._lazy_members.forget_device(requester.user_id, device_id)
        self._note_told_members(request, reading)

    def _note_told_members(self, request: SyncRequest, reading: _Reading) -> None:
        if request.filter.room.state.lazy_load_members and reading.rooms.told_members:
            requester = request.requester
            self._lazy_members.note(
                requester.user_id,
                requester.device_id or "",
                reading.rooms.told_members,
                reading.now,
            )


def _section_of(view: RoomView) -> str:
    """Under what name a room is told."""
    return "leave" if view.membership == "ban" else view.membership


def _write_rooms(pieces: Iterable[tuple[str, Mapping[RoomId, Any]]]) -> Iterator[bytes]:
    """Rooms as a JSON object of sections; some of a section come at a time."""
    opening = b"{"
    missing = dict.fromkeys(_SECTIONS)
    for section, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
        missing.pop(section)
        yield opening + encode_json(section) + b":{"
        opening, separator = b",", b""
        for _, rooms in group:
            for room_id, room in rooms.items():
                yield separator + encode_json(room_id) + b":" + encode_json(room)
                separator = b","
        yield b"}"
    for section in missing:
        yield opening + encode_json(section) + b":{}"
    yield b"}"


class _Reading:
    """One look at one snapshot of the database."""

    def __init__(
        self,
        connection: PgConnection,
        request: SyncRequest,
        since: int | None,
        now_ms: int,
        sync_rooms: SyncRooms,
        unread: UnreadCounts,
    ) -> None:
        self._unread = unread
        self._connection = connection
        self._request = request
        self._user_id = request.requester.user_id
        self._filter = request.filter
        self.since = since
        self._now_ms = now_ms
        self._sync_rooms = sync_rooms
        self.now = 0
        self.rooms = RoomsResponse({}, {}, {}, {}, frozenset(), frozenset(), [], [])
        # When the answer is sent as it is made: what comes later.
        self.first_section = ""
        self._later: deque[tuple[str, Sequence[RoomView]]] = deque()
        self._news = News(0)
        self._room_data: dict[RoomId, list[dict[str, Any]]] = {}
        self._changed: frozenset[int] = frozenset()
        self._counted: set[int] = set()
        self._has_new_basis = False
        self.response: dict[str, Any] = {}
        self.is_empty = True
        self.has_received = False

    @property
    def has_more(self) -> bool:
        """Whether rooms were held back."""
        return bool(self._later)

    def run(self, *, recent: bool) -> None:
        """Ask for everything, and put the response together."""
        connection, user_id = self._connection, self._user_id
        if self.since is not None:
            news = look_for_news(
                connection,
                user_id,
                self.since,
                recent=recent,
                device_id=self._request.requester.device_id,
                received=self._request.received,
            )
            self.now = news.position
            if self.since > self.now:
                self.since = None  # a token of the future, as if there were none
        if self.since is None:
            self.now = find_position(connection)
            news = News(self.now, True, True, True, True, True, True, True)
        self.has_received = self.since is not None and news.received
        self._has_new_basis = news.receipts or news.account_data
        devices = self._devices(news)
        views = self._views(news, recent=recent)
        self._changed = frozenset(view.room_nid for view in views)
        first = self._hold_back(views)
        if self._later:
            self._news, self._room_data = news, self._account_data(news, {}, ())
            ids = {"", *(view.room_id for view in first)}
            of_these = {r: d for r, d in self._room_data.items() if r in ids}
            rooms, global_data = self._collect_rooms(first, news, of_these)
        else:
            rooms, global_data = self._collect_rooms(views, news)
        presence = self._presence_events(news, self._fresh_rooms())
        told_data = self._global_account_data(global_data)
        self.is_empty = not (any(rooms.values()) or presence or told_data or devices.is_anything)
        self.response = empty_response(self.now, devices.seen)
        devices.put_into(self.response)
        put_key_counts(self._find_key_supply, self._request.requester, self.response)
        self.response["rooms"] = rooms
        self.response["presence"] = {"events": presence}
        self.response["account_data"] = {"events": told_data}

    def _find_key_supply(self, device: Device) -> KeySupply | None:
        return find_key_supplies(self._fetch_all, [device]).get(device)

    def _fetch_all(self, sql: str, params: Params) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def told(self, room_nids: Collection[int]) -> Told:
        """What the answer shows about the device.

        Args:
            room_nids: numbers of the rooms the user is in.
        """
        waiting = self.response["to_device"]["events"]
        return Told(
            since=self.since,
            position=self.now,
            rooms=frozenset(room_nids),
            changed=self._changed,
            counted=self._counted,
            has_new_basis=self._has_new_basis,
            known_members=self.rooms.known_members,
            is_plain=not (self._ignored or waiting),
        )

    def _collect_rooms(
        self,
        views: Sequence[RoomView],
        news: News,
        account_data: dict[RoomId, list[dict[str, Any]]] | None = None,
    ) -> tuple[dict[str, dict[RoomId, Any]], list[dict[str, Any]]]:
        """The rooms of the response by section, and the account data of no room.

        Args:
            account_data: of these rooms; None to look it up, with that of no room.
        """
        if views:
            self.rooms = self._sync_rooms.collect(
                self._connection, self._rooms_request(self._ignored), views
            )
        by_id = {view.room_nid: view for view in views}
        new_rooms = self._fresh_rooms()
        if account_data is None:
            account_data = self._account_data(news, by_id, new_rooms)
        ephemeral = self._ephemeral(news, new_rooms)
        joined = self._joined(by_id, account_data, ephemeral)
        left = {by_id[nid].room_id: body for nid, body in self.rooms.left.items()}
        self._put_account_data(left, account_data)
        rooms: dict[str, dict[RoomId, Any]] = {
            "join": joined,
            "invite": self.rooms.invited,
            "knock": self.rooms.knocked,
            "leave": left,
        }
        return rooms, account_data.pop("", [])

    def _hold_back(self, views: Sequence[RoomView]) -> Sequence[RoomView]:
        """The rooms to begin with, when a client in many rooms begins afresh: first those joined.

        The others come later, by `collect_more`.
        """
        if not (self.since is None and self._request.in_pieces and len(views) > ROOMS_AT_ONCE):
            return views
        for section in _SECTIONS:
            of_section = [view for view in views if _section_of(view) == section]
            self._later += [
                (section, of_section[start : start + ROOMS_AT_ONCE])
                for start in range(0, len(of_section), ROOMS_AT_ONCE)
            ]
        self.first_section, first = self._later.popleft()
        return first

    def collect_more(
        self, open_snapshot: Callable[[], AbstractContextManager[PgConnection]]
    ) -> Iterator[tuple[str, dict[RoomId, Any]]]:
        """The rooms that were held back, some at a time, each with its section.

        They are read in snapshots of their own, as they were at the position of the answer: nobody
        holds a connection while a client takes its time. What has no history (receipts, typing,
        account data) may be newer, and is told again by the next sync.
        """
        while self._later:
            section, views = self._later.popleft()
            with open_snapshot() as connection:
                self._connection = connection
                room_ids = {view.room_id for view in views}
                of_these = {r: d for r, d in self._room_data.items() if r in room_ids}
                rooms, _ = self._collect_rooms(views, self._news, of_these)
            yield section, rooms[section]

    def _devices(self, news: News) -> DeviceSections:
        """What is new for the device, for end-to-end encryption."""
        received = 0 if self.since is None else self._request.received
        # Who begins afresh with a token from before a restore may hold devices that are no more.
        since = 0 if self.since is None and self._request.since is not None else self.since
        return read_device_sections(
            self._connection, self._request.requester, since, received, news
        )

    # ---- rooms

    def _views(self, news: News, *, recent: bool) -> list[RoomView]:
        """The rooms to look at."""
        connection, user_id, since = self._connection, self._user_id, self.since
        memberships = ["join", "invite", "knock"]
        if self._filter.room.include_leave:
            memberships += ["leave", "ban"]
        if since is None:
            return list_room_views(connection, user_id, memberships)
        views: list[RoomView] = []
        if news.rooms:
            views = list_changed_room_views(connection, user_id, since, recent=recent)
        if self._request.full_state:
            seen = {view.room_nid for view in views}
            every = list_room_views(connection, user_id, memberships)
            views += [view for view in every if view.room_nid not in seen]
        return views

    def _rooms_request(self, ignored: frozenset[UserId]) -> RoomsRequest:
        requester = self._request.requester
        return RoomsRequest(
            viewer=Viewer(
                requester.user_id,
                requester.device_id,
                self._now_ms,
                event_fields=self._filter.event_fields,
                federation_format=self._filter.federation_format,
            ),
            since=self.since,
            now=self.now,
            filter=self._filter,
            full_state=self._request.full_state,
            use_state_after=self._request.use_state_after,
            ignored=ignored,
        )

    def _fresh_rooms(self) -> frozenset[int]:
        """The joined rooms about which the client knows nothing yet."""
        if self.since is None:
            return frozenset(self.rooms.joined)
        return self.rooms.new_rooms

    def _joined(
        self,
        by_id: dict[int, RoomView],
        account_data: dict[RoomId, list[dict[str, Any]]],
        ephemeral: dict[int, list[dict[str, Any]]],
    ) -> dict[RoomId, dict[str, Any]]:
        """The joined rooms, also those where only receipts and the like are new."""
        joined = {by_id[nid].room_id: body for nid, body in self.rooms.joined.items()}
        nids = {view.room_id: nid for nid, view in by_id.items()}
        wanted = self._filter.room
        more_nids = set(ephemeral) - set(self.rooms.joined)
        more_ids = {room_id for room_id in account_data if room_id and room_id not in joined}
        if more_nids or more_ids:
            for view in list_named_room_views(
                self._connection, self._user_id, room_nids=more_nids, room_ids=more_ids
            ):
                is_told = view.room_id in account_data or wanted.ephemeral.is_room_included(
                    view.room_id
                )
                if view.is_joined and wanted.is_room_included(view.room_id) and is_told:
                    nids[view.room_id] = view.room_nid
                    by_id[view.room_nid] = view
                    joined.setdefault(
                        view.room_id,
                        quiet_room(self.now, use_state_after=self._request.use_state_after),
                    )
        for room_id, body in joined.items():
            if wanted.ephemeral.is_room_included(room_id):
                body["ephemeral"]["events"] = ephemeral.get(nids[room_id], [])
        self._put_account_data(joined, account_data)
        self._put_unread_counts(joined, [by_id[nids[room_id]] for room_id in joined])
        return joined

    @cached_property
    def _ignored(self) -> frozenset[UserId]:
        return list_ignored_users(self._connection, self._user_id)

    def _put_unread_counts(
        self, joined: Mapping[RoomId, dict[str, Any]], views: Sequence[RoomView]
    ) -> None:
        """How much is unread in each of the rooms."""
        if not views:
            return
        rooms = [
            RoomToCount(v.room_nid, v.room_id, v.room_version, v.join_position or v.position)
            for v in views
        ]
        counts = self._unread.count(
            self._connection, self._user_id, rooms, self.now, self._ignored
        )
        by_thread = self._filter.room.timeline.unread_thread_notifications
        self._counted.update(room.room_nid for room in rooms)
        for room in rooms:
            told = told_in_sync(counts.get(room.room_nid, {}), by_thread=by_thread)
            joined[room.room_id].update(told)

    # ---- account data

    def _account_data(
        self, news: News, by_id: Mapping[int, RoomView], new_rooms: Collection[int]
    ) -> dict[RoomId, list[dict[str, Any]]]:
        """Room ID (empty for none) → entries to tell."""
        new_ids = [by_id[room_nid].room_id for room_nid in new_rooms]
        if not (news.account_data or (new_ids and self.since is not None)):
            return {}
        room_data = self._filter.room.account_data
        found: dict[RoomId, list[dict[str, Any]]] = {}
        for entry in list_account_data(self._connection, self._user_id, self.since or 0, new_ids):
            if entry.room_id and not (
                self._filter.room.is_room_included(entry.room_id)
                and room_data.is_room_included(entry.room_id)
                and room_data.includes(entry.type, self._user_id)
            ):
                continue
            found.setdefault(entry.room_id, []).append(
                {"type": entry.type, "content": entry.content}
            )
        return found

    def _put_account_data(
        self,
        rooms: Mapping[RoomId, dict[str, Any]],
        account_data: Mapping[RoomId, list[dict[str, Any]]],
    ) -> None:
        for room_id, body in rooms.items():
            if room_id in account_data:
                body["account_data"]["events"] = account_data[room_id]

    def _global_account_data(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [entry for entry in entries if entry["type"] != "m.push_rules"]
        # Their row only says when they were changed last; who never did has them all the same.
        if self.since is None or len(others) < len(entries):
            changed = list_changed_push_rules(self._connection, self._user_id)
            rules = {"global": effective_push_rules(self._user_id, changed)}
            others.append({"type": "m.push_rules", "content": rules})
        wanted = self._filter.account_data
        return [entry for entry in others if wanted.includes(entry["type"], self._user_id)]

    # ---- ephemeral

    def _ephemeral(
        self, news: News, new_rooms: Collection[int]
    ) -> dict[int, list[dict[str, Any]]]:
        """Room number → m.typing and m.receipt events."""
        wanted = self._filter.room.ephemeral
        events: dict[int, list[dict[str, Any]]] = {}
        if wanted.passes_nothing:
            return events
        since = self.since
        if wanted.is_type_included("m.typing"):
            typing: dict[int, list[UserId]] = {}
            if since is not None and news.typing:
                typing = list_changed_typing(self._connection, self._user_id, since, self._now_ms)
            if new_rooms:
                typing |= list_typing(self._connection, new_rooms, self._now_ms)
            for room_nid, user_ids in typing.items():
                events.setdefault(room_nid, []).append(
                    {"type": "m.typing", "content": {"user_ids": user_ids}}
                )
        if wanted.is_type_included("m.receipt"):
            receipts: list[Receipt] = []
            if since is not None and news.receipts:
                receipts = list_changed_receipts(self._connection, self._user_id, since)
            if new_rooms:
                receipts = [r for r in receipts if r.room_nid not in new_rooms]
                receipts += list_receipts(self._connection, self._user_id, new_rooms)
            for room_nid, told in receipt_events(receipts).items():
                events.setdefault(room_nid, []).extend(told)
        return events

    # ---- presence

    def _presence_events(self, news: News, new_rooms: Collection[int]) -> list[dict[str, Any]]:
        wanted = self._filter.presence
        if wanted.passes_nothing or not wanted.is_type_included("m.presence"):
            return []
        if self.since is None:
            held = list_present_users(self._connection, self._user_id)
        elif news.presence or new_rooms or self.rooms.newcomers:
            held = list_changed_presence(
                self._connection,
                self._user_id,
                self.since,
                new_rooms=new_rooms,
                newcomers=self.rooms.newcomers,
            )
        else:
            return []
        return [
            presence_event(shown, self._now_ms)
            for shown in held
            if wanted.is_sender_included(shown.presence.user_id)
        ]
