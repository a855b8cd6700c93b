"""What other servers answer when we ask them for a room's past is as hostile as what they send."""

from __future__ import annotations

from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.canonical_json import Json
from architex.domain.pdu import Pdu
from architex.domain.signing import SigningKey
from architex.gateways.errors import RemoteTimedOut, RemoteTooLarge, RemoteUnintelligible
from architex.usecases.backfilling import REST_S
from architex.usecases.receiving import RETRY_S
from tests.builders import ALICE, BOB, RoomBuilder
from tests.usecases.test_receiving import PEER, World, make_world, sign

MALLORY = "@mallory:a.example"
MOST_REQUESTS = 60
"""That one event may make us send."""


@pytest.fixture
def world(core: Core) -> World:
    return make_world(core)


def odd_answers(name: str) -> list[Json]:
    """Answers that are no answers; the last ones with something in the list."""
    return [
        {},
        {name: None},
        {name: {}},
        {name: "text"},
        {name: [None, 1, "x", [], {}, {"type": 1}, "$a\0b", "$" + "x" * 300]},
        {name: [{}] * 1000},
    ]


def gap(world: World) -> tuple[Pdu, Pdu, Pdu]:
    """A missing state event, what follows it, and what follows that and will be sent."""
    missing = world.room.send_state(ALICE, "m.room.topic", {"topic": "missing"})
    after = world.room.message(BOB, "after")
    last = world.room.message(BOB, "last")
    world.peer.twisted["get_missing_events"] = lambda answer: {
        "events": [event for event in answer["events"] if event == after.event]
    }
    return missing, after, last


def check_unharmed(world: World) -> None:
    """The room goes on, and we did not ask too much."""
    assert len(world.peer.asked) <= MOST_REQUESTS
    before = world.extremities()
    world.peer.twisted.clear()
    canary = world.room.compose(
        ALICE, "m.room.message", {"body": "canary"}, prev_events=sorted(before)[:1], depth=500
    )
    assert world.send(canary) == {canary.event_id: {}}
    assert world.is_accepted(canary)


@pytest.mark.parametrize("answer", odd_answers("events"))
def test_odd_answers_about_missing_events(world: World, answer: Json) -> None:
    _, _, last = gap(world)
    world.peer.twisted["get_missing_events"] = lambda _: answer
    world.send(last)
    assert not world.is_accepted(last)
    check_unharmed(world)


@pytest.mark.parametrize("endpoint", ["state_ids", "state", "event", "event_auth"])
@pytest.mark.parametrize("number", range(6))
def test_odd_answers_about_states(world: World, endpoint: str, number: int) -> None:
    _, _, last = gap(world)
    names = {"state_ids": "pdu_ids", "event_auth": "auth_chain"}
    answer = odd_answers(names.get(endpoint, "pdus"))[number]
    world.peer.twisted[endpoint] = lambda _: answer
    world.send(last)
    check_unharmed(world)


@pytest.mark.parametrize(
    "error",
    [
        RemoteTimedOut(PEER, "slow"),
        RemoteTooLarge(PEER, "huge"),
        RemoteUnintelligible(PEER, "no JSON"),
    ],
)
@pytest.mark.parametrize("endpoint", ["get_missing_events", "state_ids", "event"])
def test_failing_answers(world: World, endpoint: str, error: Exception) -> None:
    _, _, last = gap(world)
    world.peer.twisted[endpoint] = lambda _: error
    world.send(last)
    check_unharmed(world)


def test_server_that_does_not_answer_delays_a_transaction_once(world: World) -> None:
    _, _, last = gap(world)
    another = world.room.message(BOB, "another")
    world.peer.twisted["get_missing_events"] = lambda _: RemoteTimedOut(PEER, "slow")
    world.send(last)
    world.send(another)
    assert world.peer.count("get_missing_events") == 1
    world.clock.pass_seconds(REST_S + 1)
    world.send(another)
    assert world.peer.count("get_missing_events") == 2


def test_events_that_connect_to_nothing_are_left_out(world: World) -> None:
    missing, after, last = gap(world)
    aside = world.room.fork().message(BOB, "aside")
    other = RoomBuilder("11", creator="@x:z.example").message("@x:z.example")
    world.peer.twisted["get_missing_events"] = lambda _: {
        "events": [other.event, aside.event, after.event, missing.event, other.event]
    }
    assert world.send(last) == {last.event_id: {}}
    assert world.is_accepted(missing)
    assert not {aside.event_id, other.event_id} & world.known().keys()
    check_unharmed(world)


def test_every_missing_event_is_checked_like_one_that_was_sent(world: World) -> None:
    missing, after, last = gap(world)
    forged = sign(world.room, dict(after.event), "b.example", SigningKey.from_seed(b"f" * 32, "k"))
    world.peer.twisted["get_missing_events"] = lambda _: {"events": [missing.event, forged]}
    world.peer.twisted["event"] = lambda _: {"pdus": [forged]}
    world.send(last)
    assert after.event_id not in world.known()
    # What follows it is signed, and stands on the state that its sender tells.
    assert world.is_accepted(last)
    world.send(after)
    assert world.is_accepted(after)
    check_unharmed(world)


def test_endless_past_is_not_followed_without_end(world: World) -> None:
    for n in range(500):
        world.room.message(BOB, str(n))
    last = world.room.message(BOB, "last")
    world.peer.max_missing = 1
    world.peer.twisted["state_ids"] = lambda _: RemoteTooLarge(PEER, "huge")
    world.send(last)
    assert world.peer.count("get_missing_events") <= 5
    check_unharmed(world)


def test_many_gaps_at_once_cost_a_bounded_number_of_states(world: World) -> None:
    (end,) = world.extremities()
    sides = []
    for n in range(20):
        hidden = world.room.compose(BOB, "m.room.message", {"body": f"hidden {n}"})
        world.room.pdus[hidden.event_id] = hidden
        world.room.state_after[hidden.event_id] = world.room.state
        sides.append(hidden)
    last = world.room.compose(
        BOB, "m.room.message", {"body": "last"}, prev_events=[pdu.event_id for pdu in sides]
    )
    world.room.add(last)
    follower = world.room.message(BOB, "follower")
    world.peer.twisted["get_missing_events"] = lambda answer: {
        "events": [event for event in answer["events"] if event == last.event]
    }
    world.send(follower)
    assert world.peer.count("state_ids") <= 10
    assert end in world.extremities()
    check_unharmed(world)


def test_event_of_another_room_of_ours_is_not_drawn_into_this_one(world: World) -> None:
    other = RoomBuilder("11", creator=BOB)
    topic = other.send_state(BOB, "m.room.topic", {"topic": "theirs"})
    world.enter(other)
    missing, _, last = gap(world)
    world.peer.twisted["state_ids"] = lambda answer: {
        **answer,
        "pdu_ids": [*answer["pdu_ids"], topic.event_id],
    }
    world.peer.room.pdus[topic.event_id] = topic
    world.send(last)
    rows = world.core.database.fetch_all(
        "SELECT r.room_id FROM event_graph JOIN rooms r USING (room_nid) WHERE event_id = %s",
        (topic.event_id,),
    )
    assert rows == [(other.room_id,)]
    assert world.state(world.room)["m.room.topic", ""] == missing.event_id
    check_unharmed(world)


def test_state_without_its_create_event_does_not_take_it_away(world: World) -> None:
    _, _, last = gap(world)
    create = world.room.state["m.room.create", ""]
    world.peer.twisted["state_ids"] = lambda _: {"pdu_ids": [], "auth_chain_ids": []}
    world.send(last)
    assert world.state(world.room)["m.room.create", ""] == create
    check_unharmed(world)


def test_told_state_does_not_give_anybody_power(world: World) -> None:
    """A server tells a state in which its user has power, by an event that nobody allowed."""
    power = {"users": {ALICE: 100, MALLORY: 100}}
    coup = world.room.compose(MALLORY, "m.room.power_levels", power, state_key="")
    missing, _, last = gap(world)
    world.peer.room.pdus[coup.event_id] = coup
    world.peer.twisted["state_ids"] = lambda answer: {
        **answer,
        "pdu_ids": [*answer["pdu_ids"], coup.event_id],
    }
    world.send(last)
    levels = world.room.state["m.room.power_levels", ""]
    assert world.state(world.room)["m.room.power_levels", ""] == levels
    assert world.known().get(coup.event_id, (2, True))[0] == 2
    assert missing.event_id in world.known()
    check_unharmed(world)


def test_told_state_does_not_bring_back_old_power(core: Core) -> None:
    """A server that was deposed tells the state from before as that of its new event."""

    def before(world: World) -> None:
        world.room.join(MALLORY)
        world.room.set_power_levels(ALICE, users={ALICE: 100, MALLORY: 50})

    world = make_world(core, before=before)
    old = dict(world.room.state)
    deposed = world.room.set_power_levels(ALICE, users={ALICE: 100})
    assert world.send(deposed) == {deposed.event_id: {}}
    fake = world.room.fork()
    fake.state = old
    hidden = fake.compose(MALLORY, "m.room.message", {"body": "hidden"})
    fake.add(hidden)
    coup = fake.send_state(MALLORY, "m.room.name", {"name": "mine"})
    last = fake.send(MALLORY, "m.room.message", {"body": "last"})
    world.peer.room = fake
    world.peer.twisted["get_missing_events"] = lambda answer: {
        "events": [event for event in answer["events"] if event == coup.event]
    }
    world.peer.twisted["state_ids"] = lambda _: {
        "pdu_ids": list(old.values()),
        "auth_chain_ids": [],
    }
    world.send(last)
    state = world.state(world.room)
    assert state["m.room.power_levels", ""] == deposed.event_id
    assert ("m.room.name", "") not in state


@pytest.mark.parametrize("number", range(6))
def test_odd_answers_about_a_large_state(world: World, number: int) -> None:
    for n in range(40):
        world.room.send_state(ALICE, "com.example.entry", {"n": n}, str(n))
    _, _, last = gap(world)
    world.peer.twisted["state"] = lambda _: odd_answers("pdus")[number]
    world.send(last)
    assert world.peer.count("state") == 1
    check_unharmed(world)


def test_huge_lists_of_ids_are_refused(world: World) -> None:
    _, _, last = gap(world)
    many: list[Any] = [f"${n:043}" for n in range(300_000)]
    world.peer.twisted["state_ids"] = lambda _: {"pdu_ids": many, "auth_chain_ids": []}
    world.send(last)
    assert not world.is_accepted(last)
    check_unharmed(world)


def test_missing_auth_events_are_fetched_and_checked(world: World) -> None:
    carol = "@carol:b.example"
    hidden_join = world.room.join(carol)
    world.room.leave(carol)
    (end,) = world.extremities()
    message = world.room.compose(
        BOB,
        "m.room.message",
        {"body": "named too much"},
        prev_events=[end],
        auth_events=[
            world.room.state["m.room.create", ""],
            world.room.state["m.room.power_levels", ""],
            world.room.state["m.room.member", BOB],
        ],
    )
    assert world.send(message) == {message.event_id: {}}
    rejoin = world.room.compose(
        carol,
        "m.room.member",
        {"membership": "join", "displayname": "Carol"},
        state_key=carol,
        prev_events=[end],
        auth_events=[
            world.room.state["m.room.create", ""],
            world.room.state["m.room.power_levels", ""],
            world.room.state["m.room.join_rules", ""],
            hidden_join.event_id,
        ],
    )
    assert world.send(rejoin) == {rejoin.event_id: {}}
    assert world.known()[hidden_join.event_id] == (0, True)
    assert world.is_accepted(rejoin)
    check_unharmed(world)


def test_waiting_events_of_one_server_and_room_are_bounded(world: World) -> None:
    world.room.message(BOB, "hidden")
    world.peer.twisted["get_missing_events"] = lambda _: RemoteTimedOut(PEER, "slow")
    for _ in range(6):
        messages = [world.room.message(BOB, "unjudged") for _ in range(50)]
        world.send(*messages)
    row = world.core.database.fetch_one("SELECT count(*) FROM waiting_pdus")
    assert row == (200,)
    for _ in range(len(RETRY_S) + 10):
        world.clock.pass_seconds(4000)
        world.receiving.retry_waiting()
    check_unharmed(world)
