"""Reading rooms: history, single events and their surroundings, state, members.

Spec: https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from architex.domain.client_event import ClientEvent, RecordedEvent, Viewer
from architex.domain.errors import Forbidden, NotFound
from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import EventId, RoomId
from architex.domain.room.visibility import EVER
from architex.domain.sync_token import format_pagination_token
from architex.gateways.clock import Clock
from architex.projections.event_reads import EventPlace
from architex.projections.room_reads import (
    MAX_SCANNED,
    StateRow,
    StateSpan,
    Stretch,
    TimelineRow,
    find_position,
    find_room_nid,
    find_room_view,
    find_scan_end,
    is_hiding,
    list_state,
    list_state_entries,
    list_state_of_type,
    list_timeline,
)
from architex.projections.sync_reads import list_ignored_users
from architex.storage.pool import Database, PgConnection
from architex.usecases.event_rendering import EventRendering, Shown, Standing
from architex.usecases.requester import Requester

T = TypeVar("T")

ACCEPTED: Final = 0
_MEMBER: Final = "m.room.member"
NO_FILTER: Final = RoomEventFilter()


@dataclass(frozen=True, slots=True)
class Page:
    """Events of one stretch of a room's history.

    Attributes:
        rows: in the order in which they were asked for.
        next: the ordering at which to go on; None when there is nothing more.
    """

    rows: list[TimelineRow]
    next: int | None


class _RoomReader:
    """A room, as one requester may read it, in one snapshot of the database.

    Attributes:
        state_at: the position as of which the requester sees the room's state.
    """

    def __init__(
        self,
        connection: PgConnection,
        rendering: EventRendering,
        requester: Requester,
        room_id: RoomId,
        now_ms: int,
    ) -> None:
        """Look up how the requester stands to the room.

        Raises:
            Forbidden: the requester never was in the room, and it is not world-readable.
        """
        self.connection = connection
        self.rendering = rendering
        self.requester = requester
        self.room_id = room_id
        self.viewer = Viewer(requester.user_id, requester.device_id, now_ms, room_id)
        view = find_room_view(connection, requester.user_id, room_id)
        room_nid = view.room_nid if view else find_room_nid(connection, room_id)
        if room_nid is None:
            raise Forbidden("You are not in this room.")
        self.room_nid = room_nid
        self.now = find_position(connection)
        self.is_joined = view is not None and view.is_joined
        self.standing = Standing(room_nid)
        self.state_at = self.now
        if view is not None and view.is_joined:
            self.standing.joined_since = view.join_position
        elif (
            view is not None
            and view.left_position is not None
            and view.left_position > view.forgotten_position
        ):
            self.state_at = view.left_position
        elif not self._is_world_readable():
            raise Forbidden("You are not in this room.")

    def _is_world_readable(self) -> bool:
        events = self.find_state([("m.room.history_visibility", "")], self.now)
        return any(e.content.get("history_visibility") == "world_readable" for e in events)

    # ---- history

    def list_page(
        self,
        low: int,
        high: int,
        *,
        limit: int,
        newest_first: bool,
        event_filter: RoomEventFilter,
    ) -> Page:
        """Events of `low < ordering <= high` that pass, from one end."""
        if not event_filter.is_room_included(self.room_id) or event_filter.passes_nothing:
            return Page([], None)
        high = min(high, self.now)
        if low + 1 < (self.standing.joined_since or EVER):
            self.load_access()
        stretches = self.standing.visible_stretches(low, high)
        ignored = list_ignored_users(self.connection, self.requester.user_id)
        rows = list_timeline(
            self.connection,
            stretches,
            limit=limit + 1,
            newest_first=newest_first,
            event_filter=event_filter,
            ignored=ignored,
        )
        rows.sort(key=lambda row: row.ordering, reverse=newest_first)
        scan_end = None
        if is_hiding(event_filter, ignored):
            scan_end = self._find_scan_end(stretches, newest_first)
        if scan_end is not None:
            rows = [
                row
                for row in rows
                if (row.ordering >= scan_end if newest_first else row.ordering <= scan_end)
            ]
        if len(rows) > limit:
            rows = rows[:limit]
            scan_end = rows[-1].ordering if rows else (high + 1 if newest_first else low)
        if scan_end is None:
            return Page(rows, None)
        return Page(rows, scan_end - 1 if newest_first else scan_end)

    def _find_scan_end(self, stretches: Sequence[Stretch], newest_first: bool) -> int | None:
        """Where a filtered look at stretches stopped; None when it saw all of them."""
        for stretch in reversed(stretches) if newest_first else stretches:
            # No stretch has more events than positions.
            if stretch.high - stretch.low < MAX_SCANNED:
                continue
            scan_end = find_scan_end(self.connection, stretch, newest_first=newest_first)
            if scan_end is not None:
                return scan_end
        return None

    def find_visible(self, event_id: EventId) -> EventPlace:
        """Where an event of the room is.

        Raises:
            NotFound: there is none of this ID here that the requester may see.
        """
        place = self.rendering.event_reads.find_places(self.connection, [event_id]).get(event_id)
        if place is not None and place.room_nid == self.room_nid and place.verdict == ACCEPTED:
            if self.standing.is_visible(place.position) is None:
                self.load_access()
            if self.standing.is_visible(place.position):
                return place
        raise NotFound("There is no such event, or you may not see it.")

    def load_access(self) -> None:
        """Look up the room's history visibility."""
        self.rendering.load_access(self.connection, self.requester.user_id, [self.standing])

    # ---- state

    def find_state(self, keys: Collection[tuple[str, str]], at: int) -> list[RecordedEvent]:
        """Those entries of the state after a position that exist."""
        span = StateSpan(self.room_nid, at, at)
        rows = list_state_entries(
            self.connection, [(span, type_, state_key) for type_, state_key in keys]
        )
        return self.load(rows)

    def load(self, rows: Iterable[StateRow | TimelineRow]) -> list[RecordedEvent]:
        """The events of rows, in the same order."""
        rows = list(rows)
        events = self.rendering.load(self.connection, [row.reference for row in rows])
        return [events[row.position] for row in rows if row.position in events]

    def render(
        self, events: Collection[RecordedEvent], *, with_membership: bool = True
    ) -> list[ClientEvent]:
        """Events as the requester sees them, in the same order."""
        shown = [Shown(self.standing, event, with_membership) for event in events]
        rendered = self.rendering.render(self.connection, self.viewer, shown)
        return [rendered[event.position] for event in events]


@dataclass(frozen=True)
class RoomReading:
    """What people may read of rooms: who is in a room; who was, up to their leaving; and anybody
    as far as the room is world-readable.

    Every method raises Forbidden for who is none of these.
    """

    database: Database
    rendering: EventRendering
    clock: Clock

    def get_messages(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        backwards: bool,
        begin: int | None = None,
        end: int | None = None,
        limit: int = 10,
        event_filter: RoomEventFilter = NO_FILTER,
    ) -> dict[str, Any]:
        """A page of a room's history.

        Args:
            begin: the ordering at which to start; None for the end of the room that lies behind.
            end: the ordering at which to stop.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages
        """

        def read(reader: _RoomReader) -> dict[str, Any]:
            start = begin if begin is not None else (reader.now if backwards else -EVER)
            stop = end if end is not None else (-EVER if backwards else reader.now)
            page = reader.list_page(
                stop if backwards else start,
                start if backwards else stop,
                limit=limit,
                newest_first=backwards,
                event_filter=event_filter,
            )
            events = reader.load(page.rows)
            response: dict[str, Any] = {
                "start": format_pagination_token(start),
                "chunk": reader.render(events),
            }
            following = page.next
            if following is None and page.rows:
                # Whether there is more is for the next page to say: forwards, more may come.
                following = page.rows[-1].ordering - (1 if backwards else 0)
            if following is not None:
                response["end"] = format_pagination_token(following)
            if event_filter.lazy_load_members and events:
                members = self._members_of_senders(reader, events, events[0].position)
                response["state"] = reader.render(members, with_membership=False)
            return response

        return self._read(requester, room_id, read)

    def get_event(self, requester: Requester, room_id: RoomId, event_id: EventId) -> ClientEvent:
        """A single event.

        Raises:
            NotFound: it is not in the room, or the requester may not see it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid
        """

        def read(reader: _RoomReader) -> ClientEvent:
            place = reader.find_visible(event_id)
            events = reader.rendering.load(reader.connection, [place.reference])
            return reader.render(list(events.values()))[0]

        try:
            return self._read(requester, room_id, read)
        except Forbidden:
            raise NotFound("There is no such event, or you may not see it.") from None

    def get_context(
        self,
        requester: Requester,
        room_id: RoomId,
        event_id: EventId,
        *,
        limit: int = 10,
        event_filter: RoomEventFilter = NO_FILTER,
    ) -> dict[str, Any]:
        """The events around an event, and the state after them.

        Raises:
            NotFound: it is not in the room, or the requester may not see it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid
        """

        def read(reader: _RoomReader) -> dict[str, Any]:
            place = reader.find_visible(event_id)
            at = place.position
            before = reader.list_page(
                -EVER, at - 1, limit=limit // 2, newest_first=True, event_filter=event_filter
            ).rows
            after = reader.list_page(
                at, EVER, limit=limit - limit // 2, newest_first=False, event_filter=event_filter
            ).rows
            event = reader.rendering.load(reader.connection, [place.reference])[at]
            events_before, events_after = reader.load(before), reader.load(after)
            last = after[-1].position if after else at
            state = self._context_state(
                reader, [*events_before, event, *events_after], last, event_filter
            )
            return {
                "start": format_pagination_token((before[-1].ordering if before else at) - 1),
                "end": format_pagination_token(after[-1].ordering if after else at),
                "events_before": reader.render(events_before),
                "event": reader.render([event])[0],
                "events_after": reader.render(events_after),
                "state": reader.render(state, with_membership=False),
            }

        return self._read(requester, room_id, read)

    def get_state(self, requester: Requester, room_id: RoomId) -> list[ClientEvent]:
        """The room's state: now, or as it was when the requester left.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate
        """

        def read(reader: _RoomReader) -> list[ClientEvent]:
            span = StateSpan(reader.room_nid, reader.state_at, reader.state_at)
            rows = list_state(reader.connection, [span], with_members=True)
            return reader.render(reader.load(rows), with_membership=False)

        return self._read(requester, room_id, read)

    def get_state_event(
        self,
        requester: Requester,
        room_id: RoomId,
        type: str,
        state_key: str,
        *,
        whole_event: bool = False,
    ) -> Any:
        """The content of an entry of the room's state, or the whole event.

        Raises:
            NotFound: the state has no such entry.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey
        """

        def read(reader: _RoomReader) -> Any:
            events = reader.find_state([(type, state_key)], reader.state_at)
            if not events:
                raise NotFound("The room has no such state.")
            if whole_event:
                return reader.render(events, with_membership=False)[0]
            return events[0].content

        return self._read(requester, room_id, read)

    def list_members(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        at: int | None = None,
        membership: str | None = None,
        not_membership: str | None = None,
    ) -> list[ClientEvent]:
        """The m.room.member events of the room's state.

        Args:
            at: the position as of which; None for now, or when the requester left.
            membership, not_membership: only events for which either condition holds.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers
        """

        def read(reader: _RoomReader) -> list[ClientEvent]:
            moment = reader.state_at if at is None else min(at, reader.state_at)
            rows = [
                row
                for row in list_state_of_type(
                    reader.connection,
                    reader.room_nid,
                    _MEMBER,
                    None if moment == reader.now else moment,
                )
                if _is_wanted(row.membership, membership, not_membership)
            ]
            return reader.render(reader.load(rows), with_membership=False)

        return self._read(requester, room_id, read)

    def list_joined_members(
        self, requester: Requester, room_id: RoomId
    ) -> dict[str, dict[str, str | None]]:
        """User ID → display name and avatar (None where not set) of everybody in the room.

        Raises:
            Forbidden: the requester is not in the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidjoined_members
        """

        def read(reader: _RoomReader) -> dict[str, dict[str, str | None]]:
            if not reader.is_joined:
                raise Forbidden("You are not in this room.")
            rows = list_state_of_type(reader.connection, reader.room_nid, _MEMBER, None)
            return {
                str(event.state_key): _profile(event)
                for event in reader.load(row for row in rows if row.membership == "join")
            }

        return self._read(requester, room_id, read)

    # ---- within

    def _read(self, requester: Requester, room_id: RoomId, read: Callable[[_RoomReader], T]) -> T:
        with self.database.snapshot() as connection:
            reader = _RoomReader(
                connection, self.rendering, requester, room_id, self.clock.now_ms()
            )
            return read(reader)

    def _members_of_senders(
        self, reader: _RoomReader, events: Iterable[RecordedEvent], at: int
    ) -> list[RecordedEvent]:
        senders = sorted({event.sender for event in events})
        return reader.find_state([(_MEMBER, sender) for sender in senders], at)

    def _context_state(
        self,
        reader: _RoomReader,
        events: Sequence[RecordedEvent],
        at: int,
        event_filter: RoomEventFilter,
    ) -> list[RecordedEvent]:
        lazy = event_filter.lazy_load_members
        rows = list_state(
            reader.connection, [StateSpan(reader.room_nid, at, at)], with_members=not lazy
        )
        found = reader.load(row for row in rows if event_filter.is_type_included(row.type))
        if lazy and event_filter.is_type_included(_MEMBER):
            found += self._members_of_senders(reader, events, at)
        return [event for event in found if event_filter.is_sender_included(event.sender)]


def _is_wanted(held: str | None, membership: str | None, not_membership: str | None) -> bool:
    if membership is None and not_membership is None:
        return True
    return held == membership or (not_membership is not None and held != not_membership)


def _profile(event: RecordedEvent) -> dict[str, str | None]:
    names = {"displayname": "display_name", "avatar_url": "avatar_url"}
    values = {name: event.content.get(key) for key, name in names.items()}
    return {name: value if isinstance(value, str) else None for name, value in values.items()}
