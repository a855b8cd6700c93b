"""ToldRoom: the events of an answer in an order in which they can be checked."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter

import orjson
import pytest

from architex.domain.pdu import Pdu
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
