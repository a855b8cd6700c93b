"""History visibility."""

import pytest

from architex.domain.room.visibility import EVER, HistoryAccess, is_allowed

# Events 1 to 10: the visibility is set by event 2, the user is invited by event 4, joins by
# event 6 and leaves by event 8.
MEMBERSHIPS = [(4, "invite"), (6, "join"), (8, "leave")]


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
    access = HistoryAccess([(2, visibility)], MEMBERSHIPS)
    assert {p for p in range(1, 11) if access.is_visible(p)} == visible


def test_user_who_never_joined_sees_only_world_readable_history() -> None:
    access = HistoryAccess([(2, "shared"), (5, "world_readable"), (7, "joined")], [])
    assert access.ranges == ((5, 7),)


def test_invited_user_sees_from_the_invite_on_while_visibility_is_invited() -> None:
    access = HistoryAccess([(2, "invited")], [(4, "invite")])
    assert access.ranges == ((4, EVER),)


def test_rejoining_user_does_not_see_what_happened_between_under_joined() -> None:
    access = HistoryAccess([(1, "joined")], [(2, "join"), (5, "leave"), (9, "join")])
    assert [p for p in range(1, 12) if access.is_visible(p)] == [1, 2, 3, 4, 5, 9, 10, 11]


def test_rejoining_user_sees_what_happened_between_under_shared() -> None:
    access = HistoryAccess([(1, "shared")], [(2, "join"), (5, "leave"), (9, "join")])
    assert access.ranges == ((-EVER, EVER),)


def test_ban_after_leaving_is_not_visible_but_the_kick_was() -> None:
    access = HistoryAccess([(1, "shared")], [(2, "join"), (5, "leave"), (9, "ban")])
    assert access.is_visible(5)
    assert not access.is_visible(9)


def test_membership_is_that_after_the_event() -> None:
    access = HistoryAccess([], MEMBERSHIPS)
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
