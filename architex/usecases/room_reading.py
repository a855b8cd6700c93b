"""Reading rooms: history, single events and their surroundings, state, members.

Spec: https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from architex.domain.client_event import ClientEvent, RecordedEvent
from architex.domain.errors import Forbidden, NotFound
from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import EventId, RoomId
from architex.domain.room.visibility import EVER
from architex.domain.sync_token import format_pagination_token
from architex.gateways.clock import Clock
from architex.projections.room_reads import StateSpan, list_state, list_state_of_type
from architex.storage.pool import Database
from architex.usecases.event_rendering import EventRendering
from architex.usecases.requester import Requester
from architex.usecases.room_reader import RoomReader

T = TypeVar("T")

_MEMBER: Final = "m.room.member"
NO_FILTER: Final = RoomEventFilter()


class HistoryFiller(Protocol):
    """Fetches history that is not here; see `BackfillingHistory`."""

    def fill(self, room_id: RoomId, low: int, high: int, wanted: int) -> bool:
        """Fetch what is missing before events of `low < ordering <= high`; whether any came."""

    def is_incomplete(self, room_id: RoomId, low: int, high: int) -> bool:
        """Whether something is missing before events of `low < ordering <= high`."""

    def may_come(self, room_id: RoomId, low: int, high: int) -> bool:
        """Whether something is missing before those that somebody may still give."""


@dataclass(frozen=True)
class RoomReading:
    """What people may read of rooms: who is in a room; who was, up to their leaving; and anybody
    as far as the room is world-readable.

    Every method raises Forbidden for who is none of these.
    """

    database: Database
    rendering: EventRendering
    clock: Clock
    history: HistoryFiller | None = None

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

        def read(reader: RoomReader) -> tuple[dict[str, Any], int, int]:
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
                members = self._members_of_senders(reader, events, page.rows[0].moment)
                response["state"] = reader.render(members, with_membership=False)
            # What is missing before the event that the page before ended with belongs to this one.
            return response, stop if page.next is None else page.next + 1, start + 1

        response, low, high = self._read(requester, room_id, read)
        if backwards and self.history is not None:
            if self.history.fill(room_id, low, high, limit):
                response, low, high = self._read(requester, room_id, read)
            if "end" not in response and self.history.may_come(room_id, low, high):
                # There is more, though nobody could be asked now.
                response["end"] = response["start"]
        return response

    def get_event(self, requester: Requester, room_id: RoomId, event_id: EventId) -> ClientEvent:
        """A single event.

        Raises:
            NotFound: it is not in the room, or the requester may not see it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid
        """

        def read(reader: RoomReader) -> ClientEvent:
            place = reader.find_visible(event_id)
            events = reader.rendering.load(reader.connection, [place.reference])
            return reader.render([events[place.position]])[0]

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

        def read(reader: RoomReader) -> dict[str, Any]:
            place = reader.find_visible(event_id)
            at = place.ordering
            if at is None:
                raise NotFound("This event is known, but not where it stands.")
            before = reader.list_page(
                -EVER, at - 1, limit=limit // 2, newest_first=True, event_filter=event_filter
            ).rows
            after = reader.list_page(
                at, EVER, limit=limit - limit // 2, newest_first=False, event_filter=event_filter
            ).rows
            event = reader.rendering.load(reader.connection, [place.reference])[place.position]
            events_before, events_after = reader.load(before), reader.load(after)
            moment = after[-1].moment if after else reader.find_moment(at)
            state = self._context_state(
                reader, [*events_before, event, *events_after], moment, event_filter
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

        def read(reader: RoomReader) -> list[ClientEvent]:
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

        def read(reader: RoomReader) -> Any:
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
            at: the ordering as of which, or as soon after as the requester may see events; None
                for now, or when the requester left.
            membership, not_membership: only events for which either condition holds.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers
        """

        def read(reader: RoomReader) -> list[ClientEvent]:
            moment = reader.state_at
            begin = None if at is None else reader.skip_hidden(at)
            if begin is not None and begin < moment:
                moment = min(moment, reader.find_moment(begin))
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

        def read(reader: RoomReader) -> dict[str, dict[str, str | None]]:
            if not reader.is_joined:
                raise Forbidden("You are not in this room.")
            rows = list_state_of_type(reader.connection, reader.room_nid, _MEMBER, None)
            return {
                str(event.state_key): _profile(event)
                for event in reader.load(row for row in rows if row.membership == "join")
            }

        return self._read(requester, room_id, read)

    # ---- within

    def _read(self, requester: Requester, room_id: RoomId, read: Callable[[RoomReader], T]) -> T:
        with self.database.snapshot() as connection:
            return read(
                RoomReader(connection, self.rendering, requester, room_id, self.clock.now_ms())
            )

    def _members_of_senders(
        self, reader: RoomReader, events: Iterable[RecordedEvent], at: int
    ) -> list[RecordedEvent]:
        senders = sorted({event.sender for event in events})
        return reader.find_state([(_MEMBER, sender) for sender in senders], at)

    def _context_state(
        self,
        reader: RoomReader,
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
