"""Receiving: what becomes of the transactions of other servers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from architex.bootstrap import Core, all_projections
from architex.domain.errors import BadJson, InvalidParam, LimitExceeded
from architex.domain.identifiers import EventId, RoomId, ServerName, server_name_of
from architex.domain.pdu import Pdu, parse_pdu
from architex.domain.signing import SigningKey, sign_event
from architex.gateways.errors import RemoteRefused, RemoteTimedOut
from architex.projections.branch_states import BranchStates
from architex.projections.known_events import KnownEvents
from architex.projections.member_reads import MemberReads
from architex.projections.server_acls import ServerAcls
from architex.storage.received_transactions import ReceivedTransactions
from architex.storage.server_keys import ServerKeyStore
from architex.storage.waiting_pdus import WaitingPdus
from architex.usecases import receiving
from architex.usecases.backfilling import KEY_TRIES, Backfilling
from architex.usecases.doors import Doors
from architex.usecases.fetching_events import FetchingEvents
from architex.usecases.importing import Importing
from architex.usecases.judging import Judging
from architex.usecases.rate_limits import RateLimit, RateLimits
from architex.usecases.receiving import RETRY_S, Receiving
from architex.usecases.receiving_edus import ReceivingEdus
from architex.usecases.server_keys import KeyRing
from architex.usecases.verifying import Verifying
from tests.builders import ALICE, BOB, CAROL, DAVE, TEST_KEY, RoomBuilder
from tests.core import SERVER_NAME
from tests.fakes.clock import FakeClock
from tests.fakes.room_peer import RoomPeer

PEER = "a.example"
EVE = "@eve:e.example"
OURS = f"@carol:{SERVER_NAME}"
Json = dict[str, Any]


@dataclass
class World:
    """A server that is in a room of other servers, and those."""

    core: Core
    room: RoomBuilder
    peer: RoomPeer
    clock: FakeClock
    receiving: Receiving
    importing: Importing
    doors: Doors
    edus: list[tuple[ServerName, Mapping[str, Any]]]
    entering: set[RoomId]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def send(self, *pdus: Pdu | Json, origin: str = PEER, edus: list[Any] | None = None) -> Json:
        """What became of events that a server sends, by their IDs."""
        events = [pdu.event if isinstance(pdu, Pdu) else pdu for pdu in pdus]
        content = {"pdus": events, "edus": edus or []}
        answer = self.receiving.receive_transaction(origin, f"t{next(self.numbers)}", content)
        results: Json = answer["pdus"]
        return results

    def enter(self, room: RoomBuilder) -> None:
        """Let our user join a room through another server."""
        state = [room.pdus[event_id] for event_id in room.state.values()]
        chain = [room.pdus[e] for e in room.auth_chain(room.state.values())]
        join = room.join(OURS)
        self.importing.record_state(
            room.room_id,
            [*chain, *state],
            as_state={pdu.event_id for pdu in state},
            creates=room.rules,
        )
        self.importing.record_join(room.room_id, join, [pdu.event_id for pdu in state])

    def known(self) -> dict[EventId, tuple[int, bool]]:
        """Event ID → verdict, and whether it is an outlier."""
        rows = self.core.database.fetch_all(
            "SELECT event_id, verdict, is_outlier FROM event_graph"
        )
        return {event_id: (verdict, is_outlier) for event_id, verdict, is_outlier in rows}

    def is_accepted(self, pdu: Pdu) -> bool:
        """Whether an event is part of its room's history."""
        return self.known().get(pdu.event_id) == (0, False)

    def extremities(self) -> set[EventId]:
        return set(self.core.event_log.get_room(self.room.room_id).extremities)

    def state(self, room: RoomBuilder) -> dict[tuple[str, str], EventId]:
        rows = self.core.database.fetch_all(
            "SELECT c.type, c.state_key, g.event_id FROM current_state c JOIN rooms r"
            " USING (room_nid) JOIN event_graph g ON g.position = c.position"
            " WHERE r.room_id = %s AND c.valid_to = 9223372036854775807",
            (room.room_id,),
        )
        return {(type_, state_key): event_id for type_, state_key, event_id in rows}


def make_world(
    core: Core,
    version: str = "11",
    limit: RateLimit | None = None,
    before: Callable[[World], None] = lambda _: None,
) -> World:
    """A world with a room in it.

    Args:
        limit: of transactions.
        before: what happens in the room before our user joins.
    """
    room = RoomBuilder(version)
    room.join(BOB)
    peer = RoomPeer(room=room)
    clock = FakeClock(core.clock.now_ms())
    key_ring = KeyRing(
        ServerKeyStore(core.database),
        peer,
        clock,
        server_name=SERVER_NAME,
        signing_key=core.signing_key,
    )
    branches = BranchStates()
    importing = Importing(core.commits, branches)
    judging = Judging(core.commits, branches, MemberReads(core.database))
    doors = Doors(
        key_ring,
        judging,
        importing,
        KnownEvents(core.database),
        FetchingEvents(peer, clock),
        clock,
    )
    edus: list[tuple[ServerName, Mapping[str, Any]]] = []
    entering: set[RoomId] = set()
    receives = Receiving(
        event_log=core.event_log,
        acls=ServerAcls(core.database),
        backfilling=Backfilling(core.event_log, doors, clock),
        edus=ReceivingEdus({"test.edu": lambda *told: edus.append(told)}),
        transactions=ReceivedTransactions(core.database),
        waiting=WaitingPdus(core.database),
        rate_limits=RateLimits(clock, {"federation": limit} if limit else {}, enabled=True),
        clock=clock,
        server_name=SERVER_NAME,
        is_entering=entering.__contains__,
    )
    world = World(core, room, peer, clock, receives, importing, doors, edus, entering)
    before(world)
    world.enter(room)
    return world


def sign(room: RoomBuilder, event: Json, server_name: str, key: SigningKey) -> Json:
    """The same event with nothing but one signature."""
    bare = {name: value for name, value in event.items() if name not in ("signatures", "hashes")}
    signed, _ = sign_event(room.rules, bare, server_name, key)
    return signed


@pytest.fixture
def world(core: Core) -> World:
    return make_world(core)


# ---- events


@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
def test_event_that_follows_the_end_is_accepted(core: Core, version: str) -> None:
    world = make_world(core, version)
    message = world.room.message(BOB)
    assert world.send(message) == {message.event_id: {}}
    assert world.is_accepted(message)
    assert world.extremities() == {message.event_id}


def test_event_that_breaks_the_rules_is_kept_as_rejected_and_does_not_fail(world: World) -> None:
    stranger = world.room.compose("@mallory:b.example", "m.room.message", {"body": "hi"})
    assert world.send(stranger) == {stranger.event_id: {}}
    assert world.known()[stranger.event_id] == (2, False)


def test_bad_event_spoils_no_other(world: World) -> None:
    first, second = world.room.message(BOB, "one"), world.room.message(BOB, "two")
    forged = {**first.event, "signatures": {"b.example": {"ed25519:test": "A" * 86}}}
    forged["content"] = {"body": "forged"}
    results = world.send(forged, first, {"type": 1}, "no event", second)  # type: ignore[arg-type]
    assert results[first.event_id] == {}
    assert results[second.event_id] == {}
    assert world.is_accepted(second)


def test_event_signed_by_another_server_is_dropped(world: World) -> None:
    message = world.room.compose(BOB, "m.room.message", {"body": "hi"})
    wrong = sign(world.room, dict(message.event), "a.example", TEST_KEY)
    assert "error" in world.send(wrong)[message.event_id]
    forged_key = SigningKey.from_seed(b"w" * 32, "test")
    wrong = sign(world.room, dict(message.event), "b.example", forged_key)
    assert "error" in world.send(wrong)[message.event_id]
    assert message.event_id not in world.known()


def test_event_with_a_number_that_is_no_integer_is_dropped_alone(world: World) -> None:
    good = world.room.message(BOB)
    bad = {**good.event, "content": {"body": 1.1}}
    assert world.send(bad, good)[good.event_id] == {}
    assert world.is_accepted(good)


def test_event_of_an_unknown_room_is_refused(world: World) -> None:
    other = RoomBuilder("11", creator="@x:z.example")
    message = other.message("@x:z.example")
    assert "error" in world.send(message)[message.event_id]
    assert message.event_id not in world.known()


def test_event_of_a_room_that_we_left_is_refused(world: World) -> None:
    # Nobody here but our user: removed by somebody of another server.
    world.send(world.room.kick(ALICE, OURS))
    late = world.room.message(BOB)
    assert "error" in world.send(late)[late.event_id]


def test_event_that_comes_while_the_room_is_entered_waits_for_that(world: World) -> None:
    other = RoomBuilder("11", creator=BOB)
    world.entering.add(other.room_id)
    fork = other.fork()
    state = dict(other.state)
    join = fork.join(OURS)
    message = fork.message(BOB, "welcome")
    assert world.send(message) == {message.event_id: {}}
    world.clock.pass_seconds(RETRY_S[0])
    assert world.receiving.retry_waiting() == 1
    events = [other.pdus[event_id] for event_id in state.values()]
    world.importing.record_state(
        other.room_id, events, as_state=set(state.values()), creates=other.rules
    )
    world.importing.record_join(other.room_id, join, list(state.values()))
    world.entering.clear()
    world.clock.pass_seconds(RETRY_S[1])
    assert world.receiving.retry_waiting() == 1
    assert world.is_accepted(message)


def test_event_named_twice_is_answered_once(world: World) -> None:
    message = world.room.message(BOB)
    assert world.send(*[message] * 10) == {message.event_id: {}}


def test_server_that_the_rooms_acl_denies_sends_nothing(world: World) -> None:
    acl = world.room.send_state(
        ALICE, "m.room.server_acl", {"allow": ["*"], "deny": ["b.example"]}
    )
    assert world.send(acl) == {acl.event_id: {}}
    message = world.room.message(BOB)
    assert "error" in world.send(message, origin="b.example")[message.event_id]
    assert message.event_id not in world.known()
    assert world.send(message, origin=PEER) == {message.event_id: {}}


# ---- transactions


def test_same_transaction_again_gets_the_same_answer_and_does_nothing(world: World) -> None:
    message = world.room.message(BOB)
    edu = {"edu_type": "test.edu", "content": {"n": 1}}
    content = {"pdus": [message.event], "edus": [edu]}
    first = world.receiving.receive_transaction(PEER, "same", content)
    again = world.receiving.receive_transaction(PEER, "same", {"pdus": [], "edus": [edu]})
    assert first == again == {"pdus": {message.event_id: {}}}
    assert len(world.edus) == 1
    other = world.receiving.receive_transaction("b.example", "same", {"pdus": []})
    assert other == {"pdus": {}}


@pytest.mark.parametrize(
    "content",
    [
        {"pdus": [{}] * 51},
        {"pdus": [], "edus": [{}] * 101},
        {"pdus": {}},
        {"pdus": [], "edus": "no list"},
    ],
)
def test_transaction_of_another_form_or_size_is_refused(world: World, content: Json) -> None:
    with pytest.raises(BadJson):
        world.receiving.receive_transaction(PEER, "t", content)


@pytest.mark.parametrize("txn_id", ["", "a\0b", "x" * 256])
def test_odd_transaction_ids_are_refused(world: World, txn_id: str) -> None:
    with pytest.raises(InvalidParam):
        world.receiving.receive_transaction(PEER, txn_id, {"pdus": []})


def test_each_server_has_a_budget_of_its_own(core: Core) -> None:
    world = make_world(core, limit=RateLimit(1, 2))
    world.send()
    world.send()
    with pytest.raises(LimitExceeded) as refused:
        world.send()
    assert refused.value.fields["retry_after_ms"] > 0
    with pytest.raises(LimitExceeded):
        world.receiving.check_budget(PEER)
    world.receiving.check_budget("b.example")
    world.send(origin="b.example")
    world.clock.pass_seconds(1)
    world.send()


def test_edu_that_fails_hurts_nothing(world: World) -> None:
    message = world.room.message(BOB)
    edus: list[Any] = [None, {}, {"edu_type": 1}, {"edu_type": "test.edu", "content": 1}]
    good = {"edu_type": "test.edu", "content": {"n": 1}}
    assert world.send(message, edus=[*edus, good]) == {message.event_id: {}}
    assert world.edus == [(PEER, {"n": 1})]


# ---- what is missing


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_missing_events_are_fetched_from_the_sender(core: Core, version: str) -> None:
    world = make_world(core, version)
    (end,) = world.extremities()
    between = [world.room.message(BOB, str(n)) for n in range(5)]
    last = world.room.message(BOB, "last")
    assert world.send(last) == {last.event_id: {}}
    assert all(world.is_accepted(pdu) for pdu in [*between, last])
    assert world.extremities() == {last.event_id}
    method, server, _, _, content = next(
        asked for asked in world.peer.asked if "get_missing" in asked[2]
    )
    assert (method, server) == ("POST", PEER)
    assert content["earliest_events"] == [end]
    assert content["latest_events"] == [last.event_id]


def test_missing_events_are_fetched_in_several_rounds(world: World) -> None:
    between = [world.room.message(BOB, str(n)) for n in range(70)]
    last = world.room.message(BOB, "last")
    assert world.send(last) == {last.event_id: {}}
    assert all(world.is_accepted(pdu) for pdu in between)
    assert world.peer.count("get_missing_events") == 4
    assert world.peer.count("state_ids") == 0


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
@pytest.mark.parametrize("is_told", [True, False])
def test_room_goes_on_after_an_event_of_a_server_without_a_key(
    core: Core, version: str, is_told: bool
) -> None:
    world = make_world(core, version, before=lambda world: (world.room.join(CAROL), None)[1])
    message = world.room.message(CAROL, "who is this?")
    event = dict(message.event)
    server = server_name_of(CAROL)
    event["signatures"] = {server: {"ed25519:unknown": "A" * 86}}
    world.room.pdus[message.event_id] = parse_pdu(world.room.rules, event)
    first, second = world.room.message(BOB, "first"), world.room.message(BOB, "second")
    topic = world.room.send_state(ALICE, "m.room.topic", {"topic": "Tea"})
    if not is_told:
        world.peer.hidden.add(message.event_id)
        assert world.send(second) == {second.event_id: {}}
    else:
        assert world.send(first) == {first.event_id: {}}
        assert world.send(second) == {second.event_id: {}}
    assert world.send(topic) == {topic.event_id: {}}
    assert world.is_accepted(first)
    assert world.is_accepted(second)
    assert message.event_id not in world.known()
    assert world.state(world.room) == world.room.state
    assert topic.event_id in world.extremities()


def test_event_of_who_counts_characters_is_rejected_and_followed(world: World) -> None:
    large = world.room.send_state(ALICE, "x.emoji", {}, "\N{BEER MUG}" * 70)
    message = world.room.message(BOB)
    assert world.send(message) == {message.event_id: {}}
    assert world.is_accepted(message)
    assert world.known()[large.event_id] == (2, False)
    assert large.key not in world.state(world.room)


def test_auth_events_that_are_not_told_alone_are_asked_for_as_a_chain(world: World) -> None:
    # Those who reject an event do not tell it, but what it authorises has it in its chain.
    rejected = world.room.add(
        world.room.compose(BOB, "m.room.power_levels", {"users": {BOB: 100}}, state_key="")
    )
    world.room.heads = rejected.prev_events
    message = world.room.message(BOB)
    assert rejected.event_id in message.auth_events
    world.peer.twisted["event"] = lambda _: RemoteRefused(PEER, 404, {"errcode": "M_NOT_FOUND"})
    assert world.send(message) == {message.event_id: {}}
    assert world.known()[rejected.event_id] == (2, True)
    assert world.known()[message.event_id] == (2, False)


def test_event_whose_sender_does_not_tell_what_it_follows_is_refused(world: World) -> None:
    hidden = world.room.message(BOB, "hidden")
    last = world.room.message(BOB, "last")
    world.peer.hidden.add(hidden.event_id)
    assert "error" in world.send(last)[last.event_id]
    assert world.peer.count("state_ids") == 0
    assert last.event_id not in world.known()
    assert world.receiving._waiting.count() == 0


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_event_from_before_we_came_does_not_bring_its_state_back(core: Core, version: str) -> None:
    def before(world: World) -> None:
        world.room.send_state(ALICE, "m.room.topic", {"topic": "old"})
        world.room.join(DAVE)
        world.room.send_state(ALICE, "m.room.topic", {"topic": "new"})
        world.room.message(BOB, "long ago")

    world = make_world(core, version, before=before)
    world.room.set_join_rule(ALICE, "invite")
    world.send(*list(world.room.pdus.values())[-1:])
    state, ends = world.state(world.room), world.extremities()
    assert ("m.room.member", DAVE) in state
    for old in list(world.room.pdus.values())[:-2]:
        world.send(old)
        assert world.state(world.room) == state
        assert world.extremities() == ends


@pytest.mark.parametrize("version", ["1", "2", "11", "12"])
def test_user_who_is_kicked_out_of_what_we_missed_has_gone(core: Core, version: str) -> None:
    world = make_world(core, version)
    world.room.message(BOB, "missed")
    kick = world.room.kick(ALICE, OURS)
    forbidden = RemoteRefused(PEER, 403, {"errcode": "M_FORBIDDEN"})
    for endpoint in ("get_missing_events", "state_ids", "event"):
        world.peer.twisted[endpoint] = lambda _: forbidden
    assert world.send(kick) == {kick.event_id: {}}
    assert world.state(world.room)["m.room.member", OURS] == kick.event_id
    assert not world.doors.judging.members.list_joined_rooms(OURS)


def test_user_is_not_kicked_out_of_what_we_missed_by_who_may_not(world: World) -> None:
    world.room.message(BOB, "missed")
    kick = world.room.add(
        world.room.compose(BOB, "m.room.member", {"membership": "leave"}, state_key=OURS)
    )
    before = world.state(world.room)
    forbidden = RemoteRefused(PEER, 403, {"errcode": "M_FORBIDDEN"})
    world.peer.twisted["get_missing_events"] = lambda _: forbidden
    world.send(kick, origin="b.example")
    assert world.state(world.room) == before


def test_state_at_a_gap_is_asked_for_and_the_event_before_it_becomes_an_outlier(
    world: World,
) -> None:
    outlier = world.room.send_state(ALICE, "m.room.topic", {"topic": "told"})
    after_gap = world.room.message(BOB, "after the gap")
    last = world.room.message(BOB, "last")
    world.peer.twisted["get_missing_events"] = lambda answer: {
        "events": [e for e in answer["events"] if e == after_gap.event]
    }
    assert world.send(last) == {last.event_id: {}}
    assert world.is_accepted(after_gap)
    assert world.is_accepted(last)
    assert world.known()[outlier.event_id] == (0, True)
    assert world.state(world.room)["m.room.topic", ""] == outlier.event_id
    asked = [query for _, _, path, query, _ in world.peer.asked if "state_ids" in path]
    assert asked == [{"event_id": outlier.event_id}]


def test_long_gap_is_bridged_by_the_state(world: World) -> None:
    topic = world.room.send_state(ALICE, "m.room.topic", {"topic": "in the gap"})
    for n in range(150):
        world.room.message(BOB, str(n))
    last = world.room.message(BOB, "last")
    assert world.send(last) == {last.event_id: {}}
    assert world.is_accepted(last)
    assert world.state(world.room)["m.room.topic", ""] == topic.event_id
    assert len([1 for _, outlier in world.known().values() if not outlier]) < 120
    following = world.room.message(ALICE, "goes on")
    assert world.send(following) == {following.event_id: {}}


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_who_came_in_the_gap_is_heard_after_it(core: Core, version: str) -> None:
    world = make_world(core, version)
    world.room.join(DAVE)
    for n in range(150):
        world.room.message(DAVE, str(n))
    last = world.room.message(DAVE, "last")
    assert world.send(last) == {last.event_id: {}}
    assert world.is_accepted(last)
    assert (
        world.state(world.room)["m.room.member", DAVE] == world.room.state["m.room.member", DAVE]
    )
    following = world.room.message(DAVE, "goes on")
    assert world.send(following) == {following.event_id: {}}
    assert following.event_id in world.extremities()
    report = Verifying(core.database, all_projections, lambda *_: TEST_KEY.verify_key).verify()
    assert [problem.what for problem in report.problems] == []


def test_who_is_banned_and_says_that_much_was_missed_is_not_heard(world: World) -> None:
    world.send(world.room.join(DAVE))
    before_ban = world.room.fork()
    world.send(world.room.ban(ALICE, DAVE))
    for n in range(150):
        before_ban.message(DAVE, str(n))
    last = before_ban.message(DAVE, "last")
    world.send(last)
    assert world.known()[last.event_id] == (1, False)


def test_large_unknown_state_is_fetched_at_once(world: World) -> None:
    for n in range(60):
        world.room.send_state(ALICE, "com.example.entry", {"n": n}, str(n))
    for n in range(50):
        world.room.message(BOB, str(n))
    after = world.room.message(BOB, "after")
    last = world.room.message(BOB, "last")
    world.peer.twisted["get_missing_events"] = lambda answer: {
        "events": [e for e in answer["events"] if e == after.event]
    }
    assert world.send(last) == {last.event_id: {}}
    assert world.state(world.room) == world.room.state
    assert world.peer.count("state") == 1
    assert world.peer.count("event") == 1


def test_event_that_cannot_be_judged_now_waits_and_is_judged_later(world: World) -> None:
    between = world.room.message(BOB, "between")
    last = world.room.message(BOB, "last")
    world.peer.twisted["get_missing_events"] = lambda _: RemoteTimedOut(PEER, "slow")
    assert world.send(last) == {last.event_id: {}}
    assert last.event_id not in world.known()
    assert world.receiving.retry_waiting() == 0
    world.clock.pass_seconds(RETRY_S[0])
    world.peer.twisted["get_missing_events"] = lambda _: RemoteRefused(PEER, 500)
    assert world.receiving.retry_waiting() == 1
    assert last.event_id not in world.known()
    world.clock.pass_seconds(RETRY_S[1])
    del world.peer.twisted["get_missing_events"]
    assert world.receiving.retry_waiting() == 1
    assert world.is_accepted(between)
    assert world.is_accepted(last)
    world.clock.pass_seconds(10_000)
    assert world.receiving.retry_waiting() == 0


def gap_with_a_member_of_a_mute_server(world: World) -> tuple[Pdu, Pdu]:
    """Who joins in a long gap, from a server whose key cannot be had; an event after it."""
    join = world.room.join(EVE)
    world.peer.mute.add(server_name_of(EVE))
    for n in range(150):
        world.room.message(BOB, str(n))
    last = world.room.message(BOB, "last")
    assert world.send(last) == {last.event_id: {}}
    assert last.event_id not in world.known()
    return join, last


def retry(world: World, tries: int) -> None:
    """Let what waits be tried again for so many times."""
    for wait_s in RETRY_S[:tries]:
        world.clock.pass_seconds(wait_s)
        assert world.receiving.retry_waiting() == 1


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_state_that_cannot_be_verified_is_verified_when_its_keys_are_there(
    core: Core, version: str
) -> None:
    world = make_world(core, version)
    join, last = gap_with_a_member_of_a_mute_server(world)
    retry(world, KEY_TRIES - 1)
    assert last.event_id not in world.known()
    world.peer.mute.clear()
    world.clock.pass_seconds(RETRY_S[KEY_TRIES - 1])
    assert world.receiving.retry_waiting() == 1
    assert world.is_accepted(last)
    assert world.state(world.room)["m.room.member", EVE] == join.event_id


def test_server_that_is_away_for_ever_holds_no_room_up(world: World) -> None:
    join, last = gap_with_a_member_of_a_mute_server(world)
    retry(world, KEY_TRIES)
    assert world.is_accepted(last)
    assert join.event_id not in world.known()
    following = world.room.message(ALICE, "goes on")
    assert world.send(following) == {following.event_id: {}}
    assert world.is_accepted(following)


def test_refusal_by_what_stands_before_a_server_is_none_of_the_server(world: World) -> None:
    topic = world.room.send_state(ALICE, "m.room.topic", {"topic": "in the gap"})
    for n in range(150):
        world.room.message(BOB, str(n))
    last = world.room.message(BOB, "last")
    world.peer.twisted["event"] = lambda _: RemoteRefused(PEER, 404)
    assert world.send(last) == {last.event_id: {}}
    assert last.event_id not in world.known()
    del world.peer.twisted["event"]
    retry(world, 1)
    assert world.is_accepted(last)
    assert world.state(world.room)["m.room.topic", ""] == topic.event_id


def test_event_that_waits_is_given_up_in_the_end(world: World) -> None:
    world.room.message(BOB, "between")
    last = world.room.message(BOB, "last")
    world.peer.twisted["get_missing_events"] = lambda _: RemoteTimedOut(PEER, "slow")
    world.send(last)
    for _ in RETRY_S:
        world.clock.pass_seconds(4000)
        assert world.receiving.retry_waiting() == 1
    world.clock.pass_seconds(100_000)
    assert world.receiving.retry_waiting() == 0


# ---- several at once


class Slow:
    """An answer that does not come until it is let."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let = threading.Event()

    def __call__(self, answer: Json) -> Json:
        self.asked.set()
        assert self.let.wait(30)
        return answer


def in_background(work: Callable[[], Any]) -> Future[Any]:
    """What a call gives, made in another thread."""
    return ThreadPoolExecutor(1).submit(work)


@pytest.fixture
def slow(world: World) -> Iterator[Slow]:
    answer = world.peer.twisted["get_missing_events"] = Slow()
    yield answer
    answer.let.set()


def test_same_transaction_twice_at_once_is_done_once(world: World, slow: Slow) -> None:
    world.room.message(BOB, "missing")
    last = world.room.message(BOB, "last")
    content = {
        "pdus": [last.event],
        "edus": [{"edu_type": "test.edu", "content": {"n": 1}}],
    }
    send = partial(world.receiving.receive_transaction, PEER, "same", content)
    first = in_background(send)
    assert slow.asked.wait(30)
    second = in_background(send)
    slow.let.set()
    assert first.result(30) == second.result(30) == {"pdus": {last.event_id: {}}}
    assert len(world.edus) == 1


def test_room_that_waits_for_others_delays_no_other_room(world: World, slow: Slow) -> None:
    other = RoomBuilder("11", creator=BOB)
    world.enter(other)
    world.room.message(BOB, "missing")
    last = world.room.message(BOB, "last")
    broken = in_background(lambda: world.send(last))
    assert slow.asked.wait(30)
    message = other.message(BOB)
    assert world.send(message) == {message.event_id: {}}
    assert not broken.done()
    slow.let.set()
    assert broken.result(30) == {last.event_id: {}}


def test_what_is_missing_is_asked_for_once_though_two_need_it(world: World, slow: Slow) -> None:
    world.room.message(BOB, "missing")
    one, two = world.room.message(BOB, "one"), world.room.message(BOB, "two")
    first = in_background(lambda: world.send(one))
    assert slow.asked.wait(30)
    second = in_background(lambda: world.send(two, origin="b.example"))
    slow.let.set()
    assert first.result(30) == {one.event_id: {}}
    assert second.result(30) == {two.event_id: {}}
    assert world.peer.count("get_missing_events") == 1


def test_server_with_too_many_transactions_at_once_is_told_to_wait(
    world: World, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "_TURN_S", 0.05)
    monkeypatch.setattr(receiving, "AT_ONCE", 1)
    world.room.message(BOB, "missing")
    last = world.room.message(BOB, "last")
    busy = in_background(lambda: world.send(last))
    assert slow.asked.wait(30)
    with pytest.raises(LimitExceeded):
        world.send()
    world.send(origin="b.example")
    slow.let.set()
    busy.result(30)
    world.send()


def test_defect_in_one_room_spoils_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = RoomBuilder("11", creator=BOB)
    world.enter(other)
    here, there = world.room.message(BOB), other.message(BOB)
    judge = Backfilling.judge

    def fail(self: Backfilling, origin: str, room_id: str, *rest: Any) -> Any:
        if room_id == world.room.room_id:
            raise RuntimeError("a defect")
        return judge(self, origin, room_id, *rest)

    monkeypatch.setattr(Backfilling, "judge", fail)
    results = world.send(here, there)
    assert results[there.event_id] == {}
    assert "error" in results[here.event_id]
