"""Standing: how a user stands to a room's history, and what they may see of it.

The timeline itself says what the room was like at most of its events; an event on a branch is
judged by the state before it. Looked up is only what a decision needs, for many rooms and events
at once.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from architex.domain.client_event import RecordedEvent
from architex.domain.identifiers import UserId
from architex.domain.room.visibility import (
    EVER,
    SHARED,
    HeldEntry,
    HistoryAccess,
    PastEntry,
    is_allowed,
    order_changes,
)
from architex.projections.event_reads import EventReads, Placed, Reference
from architex.projections.room_reads import (
    HistoryChange,
    ReaderEntries,
    Stretch,
    list_history_changes,
    list_reader_entries,
)
from architex.storage.pool import PgConnection

_CREATE: Final = "m.room.create"
_MEMBER: Final = "m.room.member"
_VISIBILITY: Final = "m.room.history_visibility"


@dataclass(frozen=True, slots=True)
class OnBranch:
    """What was decided about an event on a branch.

    Attributes:
        membership: of the user before the event.
    """

    is_visible: bool
    membership: str


@dataclass(slots=True)
class Standing:
    """How a user stands to a room's history, as far as it was looked up.

    Attributes:
        joined_since: since which ordering the user is in the room; None when not in it.
        joined_until: the ordering up to which that holds.
        access: the decision for the whole timeline; None as long as nobody needed it.
        on_branches: position → what was decided about events on branches.
    """

    room_nid: int
    joined_since: int | None = None
    joined_until: int = EVER
    access: HistoryAccess | None = None
    on_branches: dict[int, OnBranch] = field(default_factory=dict)

    def is_visible(self, event: Placed) -> bool | None:
        """Whether the user may see an event; None when that needs `Standings.decide`.

        What has no place in the timeline is no part of the history.
        """
        if event.state_at is not None:
            if event.overlay is None and self.is_in_stay(event.state_at):
                return True
            decided = self.on_branches.get(event.position)
            return None if decided is None else decided.is_visible
        if event.ordering is None:
            return False
        if self.is_in_stay(event.ordering):
            return True
        return None if self.access is None else self.access.is_visible(event.ordering)

    def membership_at(self, event: Placed) -> str | None:
        """The user's membership at an event that is not their own m.room.member.

        None when nobody knows, or when it needs `Standings.decide`.
        """
        if event.state_at is not None:
            if event.overlay is None and self.is_in_stay(event.state_at):
                return "join"
            decided = self.on_branches.get(event.position)
            return None if decided is None else decided.membership
        if event.ordering is None:
            return None
        if self.is_in_stay(event.ordering):
            return "join"
        return None if self.access is None else self.access.membership_at(event.ordering)

    def visible_stretches(self, low: int, high: int) -> list[Stretch]:
        """The parts of `low < ordering <= high` that the user may see, ascending."""
        if self.access is None:
            return [Stretch(self.room_nid, low, high)] if low < high else []
        stretches = []
        for first, last in self.access.ranges:
            clipped = Stretch(self.room_nid, max(first - 1, low), min(last, high))
            if clipped.low < clipped.high:
                stretches.append(clipped)
        return stretches

    def hidden_stretches(self, low: int, high: int) -> list[Stretch]:
        """The other parts, in which only events on branches may be visible, ascending."""
        hidden = []
        for visible in self.visible_stretches(low, high):
            if low < visible.low:
                hidden.append(Stretch(self.room_nid, low, visible.low))
            low = visible.high
        if low < high:
            hidden.append(Stretch(self.room_nid, low, high))
        return hidden

    def is_in_stay(self, ordering: int) -> bool:
        """Whether the user was in the room, by what `joined_since` tells."""
        since = self.joined_since
        return since is not None and since <= ordering <= self.joined_until


@dataclass(frozen=True)
class Standings:
    """Looks up what decisions about many rooms and events need."""

    event_reads: EventReads

    def load_access(
        self, connection: PgConnection, user_id: UserId, standings: Iterable[Standing]
    ) -> None:
        """Look up what the user may see of those rooms for which nobody has yet."""
        wanting = {s.room_nid: s for s in standings if s.access is None}
        if not wanting:
            return
        changes = list_history_changes(connection, user_id, wanting)
        events = self.event_reads.load_events(
            connection, [(c.position, c.redacted_by) for c in changes if c.type == _VISIBILITY]
        )
        by_room: dict[int, list[HistoryChange]] = {room_nid: [] for room_nid in wanting}
        for change in changes:
            by_room[change.room_nid].append(change)
        for room_nid, standing in wanting.items():
            standing.access = _access(by_room[room_nid], events)

    def decide(
        self,
        connection: PgConnection,
        user_id: UserId,
        pairs: Iterable[tuple[Standing, Placed]],
    ) -> None:
        """Find out whether the user may see events, as far as it is not known."""
        undecided = [(s, event) for s, event in pairs if s.is_visible(event) is None]
        if not undecided:
            return
        on_branches = [(s, event) for s, event in undecided if event.state_at is not None]
        branches = self._load_branches(connection, user_id, [event for _, event in on_branches])
        needing = {
            s.room_nid: s
            for s, event in undecided
            if event.state_at is None or not branches.tell_joined(s, event)
        }
        self.load_access(connection, user_id, needing.values())
        denied = []
        for standing, event in on_branches:
            decision = branches.decide(standing, event)
            standing.on_branches[event.position] = decision
            if not decision.is_visible:
                denied.append((standing, event))
        self._allow_own_changes(connection, user_id, branches, denied)

    def _load_branches(
        self, connection: PgConnection, user_id: UserId, events: Iterable[Placed]
    ) -> _Branches:
        overlays = {event.overlay for event in events if event.overlay is not None}
        entries = list_reader_entries(connection, user_id, overlays)
        references: list[Reference] = []
        for entry in entries.values():
            references += [r for r in (entry.visibility, entry.membership) if r is not None]
        return _Branches(entries, self.event_reads.load_events(connection, references))

    def _allow_own_changes(
        self,
        connection: PgConnection,
        user_id: UserId,
        branches: _Branches,
        denied: Collection[tuple[Standing, Placed]],
    ) -> None:
        """Allow what changes the visibility or the user's membership so that they may see it.

        "[…] the user should be allowed to see the event if the history_visibility before *or*
        after the event would allow them to see it", and likewise for the membership.
        """
        events = self.event_reads.load_events(
            connection, [(event.position, event.redacted_by) for _, event in denied]
        )
        for standing, place in denied:
            event = events.get(place.position)
            if event is None or event.state_key is None:
                continue
            visibility, membership = branches.values_before(standing, place)
            if event.type == _VISIBILITY and event.state_key == "":
                visibility = _visibility_in(event)
            elif event.type == _MEMBER and event.state_key == user_id:
                membership = _membership_in(event)
            joins_later = _joins_later(standing, place)
            if is_allowed(visibility, membership, joins_later=joins_later):
                before = standing.on_branches[place.position]
                standing.on_branches[place.position] = OnBranch(True, before.membership)


@dataclass(frozen=True, slots=True)
class _Branches:
    """What the overlays of some events say to a reader."""

    entries: Mapping[int, ReaderEntries]
    events: Mapping[int, RecordedEvent]

    def tell_joined(self, standing: Standing, event: Placed) -> bool:
        """Whether the overlay, or the user's stay, says that they were in the room."""
        entries = self._entries_of(event)
        if entries.has_membership:
            return self._membership(entries) == "join"
        return event.state_at is not None and standing.is_in_stay(event.state_at)

    def decide(self, standing: Standing, event: Placed) -> OnBranch:
        """Whether the state before an event lets the user see it."""
        if self.tell_joined(standing, event):
            return OnBranch(True, "join")
        visibility, membership = self.values_before(standing, event)
        joins_later = _joins_later(standing, event)
        return OnBranch(is_allowed(visibility, membership, joins_later=joins_later), membership)

    def values_before(self, standing: Standing, event: Placed) -> tuple[str, str]:
        """The history visibility and the user's membership in the state before an event."""
        entries = self._entries_of(event)
        access, at = standing.access, event.state_at
        if access is None or at is None:
            raise ValueError("the standing was not looked up, or the event stands on no branch")
        if not entries.has_visibility:
            visibility = access.visibility_at(at)
        else:
            event_set = entries.visibility and self.events.get(entries.visibility[0])
            visibility = SHARED if event_set is None else _visibility_in(event_set)
        if not entries.has_membership:
            return visibility, access.membership_at(at)
        return visibility, self._membership(entries)

    def _entries_of(self, event: Placed) -> ReaderEntries:
        return _NO_ENTRIES if event.overlay is None else self.entries[event.overlay]

    def _membership(self, entries: ReaderEntries) -> str:
        event = entries.membership and self.events.get(entries.membership[0])
        return "leave" if event is None else _membership_in(event)


_NO_ENTRIES: Final = ReaderEntries(None)


def _joins_later(standing: Standing, event: Placed) -> bool:
    """Whether the user joined after the event: later than all that the event knows of."""
    at = event.state_at
    return standing.access is not None and at is not None and standing.access.joins_after(at)


def _access(
    changes: Iterable[HistoryChange], events: Mapping[int, RecordedEvent]
) -> HistoryAccess:
    """What changes of one room mean for the user whose membership is among them."""
    held: dict[str, list[HeldEntry]] = {_VISIBILITY: [], _MEMBER: [], _CREATE: []}
    past: dict[str, list[PastEntry]] = {_VISIBILITY: [], _MEMBER: []}
    for change in changes:
        if change.type == _VISIBILITY:
            value = _visibility_in(events[change.position]) if change.position in events else ""
        else:
            value = change.membership or ""
        if change.resumes_at is not None:
            past[change.type].append(PastEntry(change.since, value, change.resumes_at))
        else:
            entry = HeldEntry(change.since, value, change.told_after, change.is_moved)
            held[change.type].append(entry)
    return HistoryAccess(
        order_changes(held[_VISIBILITY], past[_VISIBILITY], SHARED),
        order_changes(held[_MEMBER], past[_MEMBER], "leave"),
        first_visibility=_first_visibility(held, past),
    )


def _first_visibility(
    held: Mapping[str, Collection[HeldEntry]], past: Mapping[str, Collection[PastEntry]]
) -> str:
    """What counts before the first event that set the history visibility.

    Where our history begins after the room's own, and an event that we have replaced another one,
    nobody here knows which: then the strictest one counts.
    """
    begins_later = any(entry.told_after is not None for entry in held[_CREATE])
    is_told = any(entry.told_after == -EVER for entry in held[_VISIBILITY])
    return "joined" if begins_later and past[_VISIBILITY] and not is_told else SHARED


def _visibility_in(event: RecordedEvent) -> str:
    value = event.content.get("history_visibility")
    return value if isinstance(value, str) else ""


def _membership_in(event: RecordedEvent) -> str:
    value = event.content.get("membership")
    return value if isinstance(value, str) else ""
