"""Showing events to a user: what they may see of a room, and how each event looks to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from architex.domain.client_event import (
    ClientEvent,
    RecordedEvent,
    Viewer,
    render_client_event,
    without_content,
)
from architex.domain.identifiers import EventId, UserId
from architex.domain.room.visibility import EVER, Change, HistoryAccess
from architex.projections.event_reads import EventReads, Reference
from architex.projections.room_reads import Stretch, list_history_changes
from architex.storage.accounts import list_erased_users
from architex.storage.pool import PgConnection


@dataclass(slots=True)
class Standing:
    """How a user stands to a room's history, as far as it was looked up.

    Attributes:
        joined_since: since which position the user is in the room; None when not in it.
        joined_until: the position up to which that holds.
        access: the decision for the whole history; None as long as nobody needed it.
    """

    room_nid: int
    joined_since: int | None = None
    joined_until: int = EVER
    access: HistoryAccess | None = None

    def is_visible(self, position: int) -> bool | None:
        """Whether the user may see an event; None when that needs `access`."""
        if self._is_in_stay(position):
            return True
        return None if self.access is None else self.access.is_visible(position)

    def membership_at(self, position: int) -> str | None:
        """The user's membership after an event; None when that needs `access`."""
        if self._is_in_stay(position):
            return "join"
        return None if self.access is None else self.access.membership_at(position)

    def visible_stretches(self, low: int, high: int) -> list[Stretch]:
        """The parts of `low < position <= high` that the user may see, ascending."""
        if self.access is None:
            return [Stretch(self.room_nid, low, high)] if low < high else []
        stretches = []
        for first, last in self.access.ranges:
            clipped = Stretch(self.room_nid, max(first - 1, low), min(last, high))
            if clipped.low < clipped.high:
                stretches.append(clipped)
        return stretches

    def _is_in_stay(self, position: int) -> bool:
        since = self.joined_since
        return since is not None and since <= position <= self.joined_until


@dataclass(frozen=True, slots=True)
class Shown:
    """An event to render, in which room's light, and whether as part of the timeline."""

    standing: Standing
    event: RecordedEvent
    with_membership: bool = True


@dataclass(frozen=True)
class EventRendering:
    """Loads what renderings need, for many events at once."""

    event_reads: EventReads = field(default_factory=EventReads)

    def load(
        self, connection: PgConnection, references: Iterable[Reference]
    ) -> dict[int, RecordedEvent]:
        """Events by position."""
        return self.event_reads.load_events(connection, references)

    def load_access(
        self, connection: PgConnection, user_id: UserId, standings: Collection[Standing]
    ) -> None:
        """Look up what the user may see of those rooms for which nobody has yet."""
        wanting = {s.room_nid: s for s in standings if s.access is None}
        if not wanting:
            return
        changes = list_history_changes(connection, user_id, wanting)
        events = self.event_reads.load_events(
            connection,
            [
                (change.position, change.redacted_by)
                for change in changes
                if change.type == "m.room.history_visibility"
            ],
        )
        visibilities: dict[int, list[Change]] = {room_nid: [] for room_nid in wanting}
        memberships: dict[int, list[Change]] = {room_nid: [] for room_nid in wanting}
        for change in changes:
            if change.type == "m.room.member":
                memberships[change.room_nid].append((change.valid_from, change.membership or ""))
            elif change.position in events:
                value = events[change.position].content.get("history_visibility")
                text = value if isinstance(value, str) else ""
                visibilities[change.room_nid].append((change.valid_from, text))
        for room_nid, standing in wanting.items():
            standing.access = HistoryAccess(visibilities[room_nid], memberships[room_nid])

    def render(
        self, connection: PgConnection, viewer: Viewer, shown: Collection[Shown]
    ) -> dict[int, ClientEvent]:
        """Events as the viewer sees them, by position."""
        companions = self.event_reads.load_companions(connection, [s.event for s in shown])
        self._look_up_replaced(connection, viewer, shown, companions)
        erased = _find_erased(connection, shown)
        rendered = {}
        for s in shown:
            event = s.event
            if event.sender in erased and _is_from_outside(s):
                event = without_content(event)
            replaced = None
            if event.replaces is not None and event.redacted_by is None:
                replaced = companions.get(event.replaces)
                if replaced is not None and not s.standing.is_visible(replaced.position):
                    replaced = None
            membership = s.standing.membership_at(event.position) if s.with_membership else None
            redaction = (
                companions.get(event.redacted_by) if event.redacted_by is not None else None
            )
            rendered[event.position] = render_client_event(
                event, viewer, membership=membership, replaced=replaced, redaction=redaction
            )
        return rendered

    def _look_up_replaced(
        self,
        connection: PgConnection,
        viewer: Viewer,
        shown: Collection[Shown],
        companions: Mapping[EventId | int, RecordedEvent],
    ) -> None:
        """Make sure that it is known whether replaced events may be seen."""
        undecided = {}
        for s in shown:
            replaces = s.event.replaces
            replaced = companions.get(replaces) if replaces is not None else None
            if replaced is not None and s.standing.is_visible(replaced.position) is None:
                undecided[s.standing.room_nid] = s.standing
        self.load_access(connection, viewer.user_id, undecided.values())


def _find_erased(connection: PgConnection, shown: Collection[Shown]) -> Collection[UserId]:
    """Those of the senders who wanted to be forgotten when their account ended.

    Who was in the room when an event was sent goes on seeing it; for them nothing is looked up.
    """
    senders = {s.event.sender for s in shown if _is_from_outside(s)}
    return list_erased_users(connection, senders) if senders else ()


def _is_from_outside(shown: Shown) -> bool:
    """Whether this is a message that was sent when the viewer was not in the room."""
    event = shown.event
    return event.state_key is None and shown.standing.membership_at(event.position) != "join"
