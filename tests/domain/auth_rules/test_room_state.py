"""What the rules read from the room state when there is little or nothing to read."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.auth_rules import AuthState, find_state_among
from architex.domain.errors import Forbidden
from architex.domain.pdu import Pdu
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


def test_state_is_looked_up_once() -> None:
    room = RoomBuilder("11")
    asked = []

    def find_state(type: str, state_key: str = "") -> Pdu | None:
        asked.append(type)
        return room.find_state(type, state_key)

    state = AuthState(room.rules, find_state)
    assert state.create == room.find_state("m.room.create")
    for _ in range(2):
        assert state.power_levels.of_user(ALICE) == 100
        assert state.create.sender == ALICE
    assert asked == ["m.room.create", "m.room.power_levels"]


def test_create_event_counts_though_it_is_not_among_the_auth_events() -> None:
    # https://spec.matrix.org/v1.19/rooms/v12/#event-format
    room = RoomBuilder("12")
    create, levels = room.find_state("m.room.create"), room.find_state("m.room.power_levels")
    assert create is not None
    assert levels is not None
    find_state = find_state_among([levels, room.message(ALICE)], create=create)
    assert find_state("m.room.create", "") == create
    assert find_state("m.room.power_levels", "") == levels
    assert find_state("m.room.message", "") is None
    assert find_state_among([levels])("m.room.create", "") is None
