"""Rules 5 to 8 and those of old: every other event."""

from __future__ import annotations

import pytest

from architex.domain.errors import Forbidden
from architex.domain.pdu import parse_pdu
from architex.domain.room_versions import ROOM_VERSIONS
from tests.builders import ALICE, BOB, CAROL, RoomBuilder

every_version = pytest.mark.parametrize("version", ROOM_VERSIONS)


@every_version
def test_only_members_send(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="not in the room"):
        room.message(BOB)
    room.invite(ALICE, BOB)
    with pytest.raises(Forbidden, match="not in the room"):
        room.message(BOB)
    room.join(BOB)
    room.message(BOB)
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="not in the room"):
        room.message(BOB)


@every_version
def test_sending_needs_the_level_of_the_event_type(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    with pytest.raises(Forbidden, match="needs power level 50"):
        room.send_state(BOB, "m.room.topic", {"topic": "x"})
    room.set_levels(ALICE, events={"m.room.topic": 0, "m.room.message": 1}, events_default=0)
    room.send_state(BOB, "m.room.topic", {"topic": "x"})
    room.send(BOB, "org.example", {})
    with pytest.raises(Forbidden, match="needs power level 1"):
        room.message(BOB)
    # The same type as a message event goes by the same level.
    room.send(BOB, "m.room.topic", {})


@every_version
def test_before_there_are_power_levels_only_the_creator_sets_state(version: str) -> None:
    room = RoomBuilder(version, empty=True)
    room.join(ALICE)
    room.send_state(ALICE, "m.room.join_rules", {"join_rule": "public"})
    room.join(BOB)
    room.message(BOB)
    with pytest.raises(Forbidden, match="needs power level 50"):
        room.send_state(BOB, "m.room.topic", {"topic": "x"})


@every_version
def test_state_whose_key_is_a_user_id_is_that_users_own(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    room.set_levels(ALICE, state_default=0)
    room.send_state(BOB, "org.example", {}, BOB)
    for state_key in (ALICE, "@", "@bob", BOB + "x"):
        with pytest.raises(Forbidden, match="state key"):
            room.send_state(BOB, "org.example", {}, state_key)
    room.send_state(BOB, "org.example", {}, "x" + ALICE)


@every_version
def test_aliases_belong_to_the_server_that_is_the_state_key_until_v5(version: str) -> None:
    room = RoomBuilder(version)
    old = int(version) <= 5
    if old:
        # Not even a member; and no level needed.
        room.send_state(BOB, "m.room.aliases", {"aliases": []}, "b.example")
        with pytest.raises(Forbidden, match="own users"):
            room.send_state(BOB, "m.room.aliases", {"aliases": []}, "a.example")
        with pytest.raises(Forbidden, match="state key"):
            room.send(BOB, "m.room.aliases", {"aliases": []})
    else:
        with pytest.raises(Forbidden, match="not in the room"):
            room.send_state(BOB, "m.room.aliases", {"aliases": []}, "b.example")
        room.send_state(ALICE, "m.room.aliases", {"aliases": []}, "b.example")


@every_version
def test_redactions_need_a_level_or_the_same_server_until_v2(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    room.join(CAROL)
    target = room.message(CAROL).event_id
    own = room.message(BOB).event_id
    room.fork().send(BOB, "m.room.redaction", {}, redacts=own)
    room.fork().send(ALICE, "m.room.redaction", {}, redacts=target)
    if int(version) > 2:
        # Whether it is applied is decided elsewhere.
        room.send(BOB, "m.room.redaction", {}, redacts=target)
        return
    for wrong in (target, "$nodomain", None):
        with pytest.raises(Forbidden, match="redact"):
            room.send(BOB, "m.room.redaction", {}, redacts=wrong)
    room.set_levels(ALICE, redact=0)
    room.send(BOB, "m.room.redaction", {}, redacts=target)


@every_version
def test_a_redaction_needs_the_level_of_its_event_type(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    own = room.message(BOB).event_id
    room.set_levels(ALICE, events={"m.room.redaction": 1})
    with pytest.raises(Forbidden, match="needs power level 1"):
        room.send(BOB, "m.room.redaction", {}, redacts=own)


def test_a_sender_of_the_same_domain_as_the_event_id_redacts_in_old_rooms() -> None:
    room = RoomBuilder("1")
    room.join(BOB)
    redaction = room.compose(BOB, "m.room.redaction", {}, redacts="$x:b.example")
    room.check(redaction)
    moved = parse_pdu(room.rules, {**redaction.event, "event_id": "$y:c.example"})
    with pytest.raises(Forbidden, match="redact"):
        room.check(moved)
