"""RoomReader: a room as one person may read it, in one snapshot of the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.client_event import ClientEvent, RecordedEvent, Viewer
from architex.domain.errors import Forbidden, NotFound
from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import EventId, RoomId
from architex.domain.room.visibility import EVER
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
    list_state_entries,
    list_timeline,
)
from architex.projections.sync_reads import list_ignored_users
from architex.storage.pool import PgConnection
from architex.usecases.event_rendering import EventRendering, Shown, Standing
from architex.usecases.requester import Requester

ACCEPTED: Final = 0


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
