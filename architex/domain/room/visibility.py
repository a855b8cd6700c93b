"""History visibility: which stretches of a room's history a user may read.

The decision for one event needs the history visibility and the user's membership at that event.
Both change rarely, so the decisions for all events of a room are a few ranges of log positions.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

Change: TypeAlias = tuple[int, str]
"""A log position and the value from there on."""

Range: TypeAlias = tuple[int, int]
"""Log positions, both ends included."""

EVER: Final = 2**62
"""Beyond every position; its negative is before every position."""

_KNOWN: Final = frozenset({"world_readable", "shared", "invited", "joined"})


class HistoryAccess:
    """What one user may read of one room.

    Attributes:
        ranges: the readable stretches, ascending, apart from each other.
    """

    __slots__ = ("_membership_changes", "_memberships", "ranges")

    def __init__(
        self, visibility_changes: Iterable[Change], membership_changes: Iterable[Change]
    ) -> None:
        """Decide from how things changed.

        Args:
            visibility_changes: of `history_visibility`, ascending; before the first it counts
                as `shared`, and so does a value that is not known.
            membership_changes: of the user's `membership`, ascending.
        """
        visibilities = list(visibility_changes)
        memberships = list(membership_changes)
        self._membership_changes = [position for position, _ in memberships]
        self._memberships = [membership for _, membership in memberships]
        self.ranges: tuple[Range, ...] = _visible_ranges(visibilities, memberships)

    def is_visible(self, position: int) -> bool:
        """Whether the user may read the event at a position."""
        at = bisect_right(self.ranges, (position, EVER)) - 1
        return at >= 0 and self.ranges[at][0] <= position <= self.ranges[at][1]

    def membership_at(self, position: int) -> str:
        """The user's membership after the event at a position; `leave` before the first."""
        at = bisect_right(self._membership_changes, position) - 1
        return self._memberships[at] if at >= 0 else "leave"


def _visible_ranges(
    visibilities: Sequence[Change], memberships: Sequence[Change]
) -> tuple[Range, ...]:
    starts = sorted({-EVER, *(p for p, _ in visibilities), *(p for p, _ in memberships)})
    last_join = max((p for p, membership in memberships if membership == "join"), default=None)
    ranges: list[Range] = []
    for start, next_start in zip(starts, [*starts[1:], EVER], strict=True):
        visibility = _value_at(visibilities, start, "shared")
        membership = _value_at(memberships, start, "leave")
        joins_later = last_join is not None and last_join > start
        if not is_allowed(visibility, membership, joins_later=joins_later):
            continue
        # The event at either end of the stretch is the one that changed the visibility or the
        # membership: it may be read if what was before *or* what came after allows it.
        if ranges and ranges[-1][1] >= start:
            ranges[-1] = (ranges[-1][0], next_start)
        else:
            ranges.append((start, next_start))
    return tuple(ranges)


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
    if visibility == "shared" or visibility not in _KNOWN:
        return joins_later
    # 4. If the user's membership was invite, and the history_visibility was set to invited, allow.
    # 5. Otherwise, deny.
    return membership == "invite" and visibility == "invited"


def _value_at(changes: Sequence[Change], position: int, default: str) -> str:
    value = default
    for changed_at, changed_to in changes:
        if changed_at > position:
            break
        value = changed_to
    return value
