"""What the rules read from the room state when there is little or nothing to read."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.auth_rules import AuthState
from architex.domain.errors import Forbidden
from architex.domain.room_versions import ROOM_VERSIONS
from tests.builders import ALICE, BOB, RoomBuilder

every_version = pytest.mark.parametrize("version", ROOM_VERSIONS)


@pytest.mark.parametrize("content", [{}, {"membership": None}, {"membership": 5}])
@every_version
def test_a_membership_that_is_no_text_counts_as_having_left(
    version: str, content: dict[str, Any]
) -> None:
    room = RoomBuilder(version)
    room.add(room.compose(BOB, "m.room.member", content, state_key=BOB))
    state = AuthState(room.rules, room.find_state)
    assert state.membership_of(ALICE) == "join"
    assert state.membership_of(BOB) == "leave"


@every_version
def test_who_was_never_there_counts_as_having_left(version: str) -> None:
    room = RoomBuilder(version)
    assert AuthState(room.rules, room.find_state).membership_of(BOB) == "leave"


@every_version
def test_a_room_without_a_join_rule_is_by_invitation(version: str) -> None:
    room = RoomBuilder(version, join_rule=None)
    assert AuthState(room.rules, room.find_state).join_rule == "invite"
    room.send_state(ALICE, "m.room.join_rules", {})
    assert AuthState(room.rules, room.find_state).join_rule == "invite"


def test_without_a_create_event_there_is_nothing_to_go_by() -> None:
    room = RoomBuilder("11")
    state = AuthState(room.rules, lambda type, state_key: None)
    for _ in range(2):
        with pytest.raises(Forbidden, match=r"no m\.room\.create"):
            state.create  # noqa: B018 -- it raises
