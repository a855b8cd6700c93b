"""ToldRoom: the events of an answer in an order in which they can be checked."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter

import orjson
import pytest

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.pdu import Pdu, parse_pdu
from architex.usecases.told_room import BrokenAnswer, ToldRoom
from tests.builders import ALICE, RoomBuilder


def told(room: RoomBuilder, pdus: Iterable[Pdu], state: Iterable[Pdu] | None = None) -> ToldRoom:
    """A room as told, read to its end."""
    if state is None:
        state = [room.pdus[event_id] for event_id in room.state.values()]
    answer = {
        "state": [pdu.event for pdu in state],
        "auth_chain": [pdu.event for pdu in pdus],
    }
    found = ToldRoom(room.rules, room.room_id)
    for _ in found.read([orjson.dumps(answer)]):
        pass
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("version", ["1", "6", "12"])
def test_what_authorises_comes_first(version: str, seed: int) -> None:
    chance = Random(seed)  # noqa: S311 - as above
    room = RoomBuilder(version)
    users = [f"@u{n}:s{n}.example" for n in range(4)]
    for _ in range(30):
        user = chance.choice(users)
        room.join(user, displayname=str(chance.random()))
        if chance.random() < 0.3:
            room.kick(ALICE, user)
    pdus = list(room.pdus.values())
    chance.shuffle(pdus)
    with told(room, pdus) as found:
        ordered = list(found.auth_events_first())
    assert sorted(ordered) == sorted(room.pdus)
    places = {event_id: place for place, event_id in enumerate(ordered)}
    for event_id, place in places.items():
        assert all(places[auth_id] < place for auth_id in room.pdus[event_id].auth_events)
    assert room.pdus[ordered[0]].type == "m.room.create"


def test_chain_of_ten_thousand_is_no_deeper_than_any() -> None:
    room = RoomBuilder("6")
    user = "@u:s.example"
    pdus = []
    last = None
    for number in range(10_000):
        auth_events = sorted({*room.state.values()} - {last and last.event_id})[:3]
        pdu = room.compose(
            user,
            "m.room.member",
            {"membership": "join", "number": number},
            state_key=user,
            auth_events=auth_events if last is None else [*auth_events[:3], last.event_id],
        )
        pdus.append(pdu)
        last = pdu
    pdus.reverse()
    with told(room, pdus) as found:
        ordered = [e for e in found.auth_events_first() if e not in room.pdus]
    assert ordered == [pdu.event_id for pdu in reversed(pdus)]


def test_unsigned_data_is_not_kept() -> None:
    room = RoomBuilder("12")
    create = next(iter(room.pdus.values()))
    event = {**create.event, "unsigned": {"age": 7, "evil": True}}
    found = ToldRoom(room.rules, room.room_id)
    with found:
        (given,) = found.read([orjson.dumps({"state": [event]})])
        assert "unsigned" not in given
        assert "unsigned" not in found.load(create.event_id).event


def test_state_of_another_room_has_no_create_event() -> None:
    room, other = RoomBuilder("12"), RoomBuilder("12", creator="@bob:b.example")
    answer = {"state": [pdu.event for pdu in other.pdus.values()]}
    with ToldRoom(room.rules, room.room_id) as found, pytest.raises(BrokenAnswer):
        list(found.read([orjson.dumps(answer)]))


def test_event_that_was_not_told_cannot_be_loaded() -> None:
    room = RoomBuilder("11")
    create = room.find_state("m.room.create")
    assert create is not None
    # Referred to, but not told.
    missing = room.state["m.room.member", ALICE]
    with told(
        room, [], [create, *[p for p in room.pdus.values() if p.type == "m.room.power_levels"]]
    ) as found:
        with pytest.raises(KeyError):
            found.load(missing)
        assert missing not in list(found.auth_events_first())


@pytest.mark.parametrize("version", ["1", "5", "6", "11", "12"])
def test_it_knows_which_events_are_whole(version: str) -> None:
    room = RoomBuilder(version)
    changed = room.find_state("m.room.power_levels")
    assert changed is not None
    forged = {**changed.event, "content": {**changed.content, "forged": 1}}
    if room.rules.event_id_format != "domain":
        # Content that is redacted away is not in the hash that makes the ID.
        assert parse_pdu(room.rules, forged).event_id == changed.event_id
    pdus = [pdu for pdu in room.pdus.values() if pdu is not changed]
    answer = {"state": [*(pdu.event for pdu in pdus), forged]}
    with ToldRoom(room.rules, room.room_id) as found:
        list(found.read([orjson.dumps(answer)]))
        assert {e: found.worked_out(e).is_whole for e in room.pdus} == {
            e: e != changed.event_id for e in room.pdus
        }
        assert found.load(changed.event_id).event == forged


def test_numbers_of_old_rooms_are_kept_as_they_are() -> None:
    room = RoomBuilder("5")
    pdu = room.send_state(ALICE, "m.room.topic", {"topic": "", "huge": 2**70, "float": 0.5})
    answer = {"state": [room.pdus[event_id].event for event_id in room.state.values()]}
    with ToldRoom(room.rules, room.room_id) as found:
        list(found.read([encode_lenient_json(answer)]))
        kept = found.load(pdu.event_id)
        assert kept.content == pdu.content
        assert type(kept.content["huge"]) is int
        assert found.worked_out(pdu.event_id).is_whole
