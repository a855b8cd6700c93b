"""History visibility."""

import pytest

from architex.domain.room.visibility import (
    EVER,
    Change,
    HeldEntry,
    HistoryAccess,
    PastEntry,
    is_allowed,
    order_changes,
)


def changes(*events: tuple[int, str]) -> list[Change]:
    """Changes that events made."""
    return [Change(ordering, value) for ordering, value in events]


# Events 1 to 10: the visibility is set by event 2, the user is invited by event 4, joins by
# event 6 and leaves by event 8.
MEMBERSHIPS = changes((4, "invite"), (6, "join"), (8, "leave"))


@pytest.mark.parametrize(
    ("visibility", "visible"),
    [
        ("world_readable", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}),
        ("shared", {1, 2, 3, 4, 5, 6, 7, 8}),
        ("nonsense", {1, 2, 3, 4, 5, 6, 7, 8}),
        # The event that set the visibility counts by what held before it, too.
        ("invited", {1, 2, 4, 5, 6, 7, 8}),
        ("joined", {1, 2, 6, 7, 8}),
    ],
)
def test_visibility_decides_at_each_event(visibility: str, visible: set[int]) -> None:
    access = HistoryAccess(changes((2, visibility)), MEMBERSHIPS)
    assert {p for p in range(1, 11) if access.is_visible(p)} == visible


def test_user_who_never_joined_sees_only_world_readable_history() -> None:
    access = HistoryAccess(changes((2, "shared"), (5, "world_readable"), (7, "joined")), changes())
    assert access.ranges == ((5, 7),)


def test_invited_user_sees_from_the_invite_on_while_visibility_is_invited() -> None:
    access = HistoryAccess(changes((2, "invited")), changes((4, "invite")))
    assert access.ranges == ((4, EVER),)


def test_rejoining_user_does_not_see_what_happened_between_under_joined() -> None:
    access = HistoryAccess(changes((1, "joined")), changes((2, "join"), (5, "leave"), (9, "join")))
    assert [p for p in range(1, 12) if access.is_visible(p)] == [1, 2, 3, 4, 5, 9, 10, 11]


def test_rejoining_user_sees_what_happened_between_under_shared() -> None:
    access = HistoryAccess(changes((1, "shared")), changes((2, "join"), (5, "leave"), (9, "join")))
    assert access.ranges == ((-EVER, EVER),)


def test_ban_after_leaving_is_not_visible_but_the_kick_was() -> None:
    access = HistoryAccess(changes((1, "shared")), changes((2, "join"), (5, "leave"), (9, "ban")))
    assert access.is_visible(5)
    assert not access.is_visible(9)


def test_membership_is_that_after_the_event() -> None:
    access = HistoryAccess(changes(), MEMBERSHIPS)
    assert [access.membership_at(p) for p in (1, 4, 6, 7, 8, 20)] == [
        "leave",
        "invite",
        "join",
        "join",
        "leave",
        "leave",
    ]


def test_banned_user_is_denied_under_shared_unless_joining_later() -> None:
    assert not is_allowed("shared", "ban", joins_later=False)
    assert is_allowed("shared", "ban", joins_later=True)


def test_backfilled_changes_hold_up_to_where_we_saw_the_room_go_on() -> None:
    held = [HeldEntry(-100, "shared"), HeldEntry(20, "shared")]
    past = [PastEntry(12, "joined", 20), PastEntry(15, "invited", 20)]
    values = HistoryAccess(order_changes(held, past, "shared"), [])
    assert [values.visibility_at(p) for p in (11, 12, 14, 15, 19, 20)] == [
        "shared",
        "joined",
        "joined",
        "invited",
        "invited",
        "shared",
    ]


def test_told_event_without_a_place_is_older_than_all_that_was_backfilled() -> None:
    held = [HeldEntry(5, "world_readable", told_after=-EVER)]
    access = HistoryAccess(order_changes(held, [], "shared"), [])
    assert access.is_visible(-20)
    held = [HeldEntry(1, "joined"), HeldEntry(50, "world_readable", told_after=9)]
    access = HistoryAccess(order_changes(held, [], "shared"), [])
    assert [p for p in (8, 9, 10, 49, 50) if access.is_visible(p)] == [10, 49, 50]


def test_told_event_counts_from_its_place_once_it_has_one() -> None:
    held = [HeldEntry(5, "world_readable", is_moved=True)]
    past = [PastEntry(10, "world_readable", 20)]
    order = order_changes(held, past, "shared")
    access = HistoryAccess(order, [], first_visibility="joined")
    assert [p for p in (4, 6, 9, 10, 11, 19, 20, 21) if access.is_visible(p)] == [
        10,
        11,
        19,
        20,
        21,
    ]


def test_event_after_a_gap_counts_by_what_held_before_it_and_not_by_the_gap() -> None:
    held = [HeldEntry(1, "joined")]
    past = [PastEntry(12, "world_readable", 20)]
    access = HistoryAccess(order_changes(held, past, "shared"), [])
    assert [p for p in range(10, 23) if access.is_visible(p)] == list(range(12, 20))
