"""Rule 1: m.room.create, and what a room without one allows."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.auth_rules import (
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from architex.domain.errors import Forbidden
from architex.domain.pdu import Pdu, parse_pdu
from architex.domain.room_versions import ROOM_VERSIONS
from tests.builders import ALICE, BOB, RoomBuilder


def check_create(version: str, **changes: Any) -> None:
    room = RoomBuilder(version, empty=True)
    create = room.find_state("m.room.create")
    assert create is not None
    changed = parse_pdu(room.rules, {**create.event, **changes}, event_id=create.event_id)
    check_state_independent_auth_rules(room.rules, changed, [])
    check_state_dependent_auth_rules(room.rules, changed, lambda type, state_key: None)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_room_can_be_created(version: str) -> None:
    check_create(version)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_create_event_with_parents_is_refused(version: str) -> None:
    parents: list[Any] = [["$x:a.example", {}]] if version in ("1", "2") else ["$x"]
    with pytest.raises(Forbidden, match="previous events"):
        check_create(version, prev_events=parents)


@pytest.mark.parametrize("version", [version for version in ROOM_VERSIONS if version != "12"])
def test_a_room_id_of_another_server_than_the_creators_is_refused(version: str) -> None:
    with pytest.raises(Forbidden, match="room ID"):
        check_create(version, room_id="!room:b.example")


def test_a_create_event_with_a_room_id_is_refused_since_v12() -> None:
    with pytest.raises(Forbidden, match="no room_id"):
        check_create("12", room_id="!" + "a" * 43)


@pytest.mark.parametrize("room_version", ["unknown", "0", None, 1, ["1"], ""])
@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_an_unknown_room_version_is_refused(version: str, room_version: Any) -> None:
    with pytest.raises(Forbidden, match="room version"):
        check_create(version, content={"creator": ALICE, "room_version": room_version})


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_the_room_version_may_be_left_out(version: str) -> None:
    check_create(version, content={"creator": ALICE})


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_the_creator_must_be_named_until_v10(version: str) -> None:
    if int(version) >= 11:
        check_create(version, content={})
    else:
        with pytest.raises(Forbidden, match="creator"):
            check_create(version, content={})


@pytest.mark.parametrize("creators", [[], [BOB], [BOB, BOB], ["@ODD user:x.org"]])
def test_additional_creators_are_user_ids(creators: Any) -> None:
    check_create("12", content={"additional_creators": creators})


@pytest.mark.parametrize("creators", [None, BOB, {}, [5], ["bob"], [BOB, "@bob"], [None]])
def test_additional_creators_that_are_no_user_ids_are_refused_since_v12(creators: Any) -> None:
    check_create("11", content={"additional_creators": creators})
    with pytest.raises(Forbidden, match="additional creators"):
        check_create("12", content={"additional_creators": creators})


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_nothing_happens_in_a_room_without_a_create_event(version: str) -> None:
    room = RoomBuilder(version)
    message = room.compose(ALICE, "m.room.message", {})

    def find_all_but_create(type: str, state_key: str) -> Pdu | None:
        return None if type == "m.room.create" else room.find_state(type, state_key)

    with pytest.raises(Forbidden, match=r"m\.room\.create"):
        check_state_dependent_auth_rules(room.rules, message, find_all_but_create)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_room_that_is_not_federated_takes_events_of_its_own_server_only(version: str) -> None:
    room = RoomBuilder(version, create_content={"m.federate": False})
    room.join("@local:a.example")
    with pytest.raises(Forbidden, match="not federated"):
        room.join(BOB)


@pytest.mark.parametrize("federate", [True, None, 0, "false"])
def test_only_false_keeps_other_servers_out(federate: Any) -> None:
    RoomBuilder("11", create_content={"m.federate": federate}).join(BOB)
