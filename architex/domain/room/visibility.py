"""History visibility: which stretches of a room's history a user may read.

The decision for one event needs the history visibility and the user's membership at that event.
Both change rarely, so the decisions for all events of a timeline are a few ranges of orderings.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

Range: TypeAlias = tuple[int, int]
"""Orderings, both ends included."""

EVER: Final = 2**62
"""Beyond every ordering; its negative is before every ordering."""

SHARED: Final = "shared"
"""What counts where nobody said otherwise."""

_KNOWN: Final = frozenset({"world_readable", SHARED, "invited", "joined"})


class Change(NamedTuple):
    """A value that holds from a place of the timeline on.

    Attributes:
        ordering: of the first event at which it holds.
        value: what holds.
        is_event: whether the event at `ordering` made the change; if not, the value held there
            before that event, too.
    """

    ordering: int
    value: str
    is_event: bool = True


class HeldEntry(NamedTuple):
    """A value that the current state of a room had for a time.

    Attributes:
        since: the position from which on.
        told_after: of an event that another server told, and that has no place in the timeline:
            the ordering of what we last saw happen before. It is older than all that was
            backfilled since. None for events that have a place.
        is_moved: the event came as part of a whole state, and has its place elsewhere by now: in
            `PastEntry`s.
    """

    since: int
    value: str
    told_after: int | None = None
    is_moved: bool = False


class PastEntry(NamedTuple):
    """A value that a backfilled event set, up to where we saw the room go on."""

    ordering: int
    value: str
    resumes_at: int


def order_changes(
    held: Sequence[HeldEntry], past: Sequence[PastEntry], default: str
) -> list[Change]:
    """How a value changed along a timeline, parts of which were backfilled.

    Args:
        held: as the current state had it, ascending.
        past: as backfilled events set it, ascending.
        default: what holds while nobody says anything.
    """
    changes = [Change(entry.since, entry.value) for entry in held if not entry.is_moved]
    changes += [
        Change(entry.told_after + 1, entry.value, is_event=False)
        for entry in held
        if entry.told_after is not None
    ]
    changes += [Change(entry.ordering, entry.value) for entry in past]
    for resumes_at in {entry.resumes_at for entry in past}:
        value = default
        for entry in held:
            if entry.since < resumes_at:
                value = entry.value
        changes.append(Change(resumes_at, value, is_event=False))
    return sorted(changes, key=lambda change: (change.ordering, change.is_event))


class HistoryAccess:
    """What one user may read of one room.

    Attributes:
        ranges: the readable stretches, ascending, apart from each other.
        last_join: the ordering of the newest event that made the user join; None when they never
            joined.
    """

    __slots__ = ("_memberships", "_visibilities", "last_join", "ranges")

    def __init__(
        self,
        visibility_changes: Iterable[Change],
        membership_changes: Iterable[Change],
        *,
        first_visibility: str = SHARED,
    ) -> None:
        """Decide from how things changed.

        Args:
            visibility_changes: of `history_visibility`, in the order of `order_changes`; a value
                that is not known counts as `shared`.
            membership_changes: of the user's `membership`, likewise.
            first_visibility: what holds before the first change.
        """
        self._visibilities = _Values(visibility_changes, first_visibility)
        self._memberships = _Values(membership_changes, "leave")
        self.last_join: int | None = self._memberships.last_turn_to("join")
        self.ranges: tuple[Range, ...] = tuple(self._visible_ranges())

    def is_visible(self, ordering: int) -> bool:
        """Whether the user may read the event at an ordering."""
        at = bisect_right(self.ranges, (ordering, EVER)) - 1
        return at >= 0 and self.ranges[at][0] <= ordering <= self.ranges[at][1]

    def membership_at(self, ordering: int) -> str:
        """The user's membership after the event at an ordering; `leave` before the first."""
        return self._memberships.at(ordering)

    def visibility_at(self, ordering: int) -> str:
        """The history visibility after the event at an ordering."""
        return self._visibilities.at(ordering)

    def joins_after(self, ordering: int) -> bool:
        """Whether the user joined at some point after the event at an ordering."""
        return self.last_join is not None and self.last_join > ordering

    def _visible_ranges(self) -> Iterator[Range]:
        """The ranges that are allowed, those put together that touch each other."""
        low: int | None = None
        high = -EVER
        for first, last, visibility, membership in self._stretches():
            is_readable = is_allowed(visibility, membership, joins_later=self.joins_after(first))
            if first > last or not is_readable:
                continue
            if low is not None and first > high + 1:
                yield low, high
                low = None
            low = first if low is None else low
            high = last
        if low is not None:
            yield low, high

    def _stretches(self) -> Iterator[tuple[int, int, str, str]]:
        """The first and the last ordering, the visibility and the membership of stretches.

        An event that changes the visibility or the membership is the last of one stretch and the
        first of the next: it may be read if what was before *or* what came after allows it.
        """
        visibility, membership = self._visibilities.first, self._memberships.first
        turns = sorted(
            [(c.ordering, c.is_event, True, c.value) for c in self._visibilities.changes]
            + [(c.ordering, c.is_event, False, c.value) for c in self._memberships.changes]
        )
        first = -EVER
        for ordering, is_event, is_visibility, value in turns:
            yield first, ordering if is_event else ordering - 1, visibility, membership
            first = ordering
            if is_visibility:
                visibility = value
            else:
                membership = value
        yield first, EVER, visibility, membership


class _Values:
    """A value along a timeline."""

    __slots__ = ("_orderings", "changes", "first")

    def __init__(self, changes: Iterable[Change], first: str) -> None:
        self.changes = list(changes)
        self.first = first
        self._orderings = [change.ordering for change in self.changes]

    def at(self, ordering: int) -> str:
        """The value after the event at an ordering."""
        at = bisect_right(self._orderings, ordering) - 1
        return self.changes[at].value if at >= 0 else self.first

    def last_turn_to(self, value: str) -> int | None:
        """The last ordering at which it became a value that it was not before."""
        found, before = None, self.first
        for change in self.changes:
            if change.value == value != before:
                found = change.ordering
            before = change.value
        return found


def is_allowed(visibility: str, membership: str, *, joins_later: bool) -> bool:
    """Whether an event may be read, by the state of the room at that event.

    Args:
        visibility: the `history_visibility`; unknown values count as `shared`.
        membership: of the user.
        joins_later: the user joined at some point after the event.
    """
    # 1. If the history_visibility was set to world_readable, allow.
    if visibility == "world_readable":
        return True
    # 2. If the user's membership was join, allow.
    if membership == "join":
        return True
    # 3. If history_visibility was set to shared, and the user joined the room at any point after
    #    the event was sent, allow.
    if visibility == SHARED or visibility not in _KNOWN:
        return joins_later
    # 4. If the user's membership was invite, and the history_visibility was set to invited, allow.
    # 5. Otherwise, deny.
    return membership == "invite" and visibility == "invited"
