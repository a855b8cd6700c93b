"""RoomReader: a room as one person may read it, in one snapshot of the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from architex.domain.client_event import ClientEvent, RecordedEvent, Viewer
from architex.domain.errors import Forbidden, NotFound
from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.room.visibility import EVER
from architex.projections.event_reads import EventPlace, Placed
from architex.projections.relation_reads import Parent, find_threads
from architex.projections.room_reads import (
    MAX_SCANNED,
    StateRow,
    StateSpan,
    Stretch,
    TimelineRow,
    find_position,
    find_resumption,
    find_room_nid,
    find_room_view,
    find_scan_end,
    is_hiding,
    is_in_state,
    list_state_entries,
    list_timeline,
)
from architex.projections.sync_reads import list_ignored_users
from architex.storage.pool import PgConnection
from architex.usecases.event_rendering import EventRendering, Shown
from architex.usecases.requester import Requester
from architex.usecases.standing import Standing

P = TypeVar("P", bound=Placed)

ACCEPTED: Final = 0

MAX_LOOKS: Final = 5
"""How often a page goes on looking when events on branches turn out to be hidden."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events of one stretch of a room's history.

    Attributes:
        rows: in the order in which they were asked for.
        next: the ordering at which to go on; None when there is nothing more.
    """

    rows: list[TimelineRow]
    next: int | None


class RoomReader:
    """A room, as one requester may read it, in one snapshot of the database.

    Attributes:
        view: how the requester stands to the room; None when they never were in it.
        now: the snapshot's position.
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
        self.view = view
        self.room_nid = room_nid
        self.now = find_position(connection)
        self.is_joined = view is not None and view.is_joined
        self.standing = Standing(room_nid)
        self._places: dict[int, Placed] = {}
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
        ignored = list_ignored_users(self.connection, self.requester.user_id)
        found: list[TimelineRow] = []
        for _ in range(MAX_LOOKS):
            page = self._look(low, high, limit - len(found), newest_first, event_filter, ignored)
            visible = self.only_visible(page.rows)
            found += visible
            if page.next is None or len(visible) == len(page.rows):
                break
            low, high = (low, page.next) if newest_first else (page.next, high)
        return Page(found, page.next)

    def _look(
        self,
        low: int,
        high: int,
        limit: int,
        newest_first: bool,
        event_filter: RoomEventFilter,
        ignored: Collection[UserId],
    ) -> Page:
        """A page, as if events on branches that may be visible were."""
        stretches = self.standing.visible_stretches(low, high)
        branches = self.standing.hidden_stretches(low, high)
        rows = list_timeline(
            self.connection,
            stretches,
            limit=limit + 1,
            newest_first=newest_first,
            event_filter=event_filter,
            ignored=ignored,
            branches=branches,
        )
        rows.sort(key=lambda row: row.ordering, reverse=newest_first)
        scan_end = None
        if is_hiding(event_filter, ignored):
            scan_end = self._find_scan_end(stretches, branches, newest_first)
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

    def _find_scan_end(
        self, stretches: Sequence[Stretch], branches: Sequence[Stretch], newest_first: bool
    ) -> int | None:
        """Where a filtered look at stretches stopped; None when it saw all of them."""
        some = sorted(
            [(stretch.low, False, stretch) for stretch in stretches]
            + [(stretch.low, True, stretch) for stretch in branches],
            reverse=newest_first,
            key=lambda one: one[0],
        )
        for _, only_branches, stretch in some:
            # No stretch has more events than orderings.
            if stretch.high - stretch.low < MAX_SCANNED:
                continue
            scan_end = find_scan_end(
                self.connection, stretch, newest_first=newest_first, branches=only_branches
            )
            if scan_end is not None:
                return scan_end
        return None

    def only_visible(self, rows: Sequence[P]) -> list[P]:
        """Without the events that the requester may not see."""
        self.rendering.standings.decide(
            self.connection, self.requester.user_id, [(self.standing, row) for row in rows]
        )
        return [row for row in rows if self.standing.is_visible(row)]

    def find_visible(self, event_id: EventId) -> EventPlace:
        """Where an event of the room is.

        Raises:
            NotFound: there is none of this ID here that the requester may see.
        """
        place = self.rendering.event_reads.find_places(self.connection, [event_id]).get(event_id)
        if place is not None and place.room_nid == self.room_nid and place.verdict == ACCEPTED:
            self.rendering.standings.decide(
                self.connection, self.requester.user_id, [(self.standing, place)]
            )
            if self.standing.is_visible(place) or self._is_in_state(place):
                self._places[place.position] = place
                return place
        raise NotFound("There is no such event, or you may not see it.")

    def _is_in_state(self, place: EventPlace) -> bool:
        """Whether an event that has no place in the timeline is part of the state they see."""
        return place.ordering is None and is_in_state(
            self.connection, self.room_nid, place.position, self.state_at
        )

    def note_place(self, place: Placed) -> None:
        """Remember where an event stands that is going to be rendered."""
        self._places[place.position] = place

    def load_access(self) -> None:
        """Look up the room's history visibility."""
        self.rendering.standings.load_access(
            self.connection, self.requester.user_id, [self.standing]
        )

    # ---- state

    def skip_hidden(self, ordering: int) -> int:
        """The first place from an ordering on whose state the requester may see.

        That is what held before or after an event that they may see.
        """
        self.load_access()
        for stretch in self.standing.visible_stretches(-EVER, EVER):
            if ordering <= stretch.high:
                return max(ordering, stretch.low)
        return EVER

    def find_moment(self, ordering: int) -> int:
        """The position whose current state comes closest to the one after a place.

        Where the history was backfilled, nobody here knows the state.
        """
        resumes_at = find_resumption(self.connection, self.room_nid, ordering)
        return ordering if resumes_at is None else resumes_at

    def find_state(self, keys: Collection[tuple[str, str]], at: int) -> list[RecordedEvent]:
        """Those entries of the state after a position that exist."""
        span = StateSpan(self.room_nid, at, at)
        rows = list_state_entries(
            self.connection, [(span, type_, state_key) for type_, state_key in keys]
        )
        return self.load(rows)

    def load(self, rows: Iterable[StateRow | TimelineRow | EventPlace]) -> list[RecordedEvent]:
        """The events of rows, in the same order."""
        rows = list(rows)
        self._places |= {row.position: row for row in rows if not isinstance(row, StateRow)}
        events = self.rendering.load(self.connection, [row.reference for row in rows])
        return [events[row.position] for row in rows if row.position in events]

    def find_threaded(
        self, roots: Collection[RecordedEvent], ignored: Collection[UserId]
    ) -> set[EventId]:
        """Those of the events of whose threads the requester may see something."""
        visible = self.standing.visible_stretches(-EVER, EVER)
        parents = [
            Parent(self.room_nid, event.event_id, event.type, event.sender, visible)
            for event in roots
        ]
        return set(find_threads(self.connection, self.requester.user_id, parents, ignored))

    def render(
        self, events: Collection[RecordedEvent], *, with_membership: bool = True
    ) -> list[ClientEvent]:
        """Events as the requester sees them, in the same order.

        Args:
            with_membership: whether they are shown as part of the timeline, and so with what
                their children add up to.
        """
        shown = [
            Shown(
                self.standing,
                event,
                self._places.get(event.position) if with_membership else None,
                with_relations=with_membership,
            )
            for event in events
        ]
        rendered = self.rendering.render(self.connection, self.viewer, shown)
        return [rendered[event.position] for event in events]
