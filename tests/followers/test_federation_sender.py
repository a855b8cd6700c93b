"""Sending to other servers: everybody gets what is owed to them, in order, whatever fails."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.canonical_json import Json
from architex.domain.errors import DatabaseUnavailable, InvalidCanonicalJson
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.followers.federation_sender import FederationSender
from architex.followers.workers import InlineWorkers, Job, ThreadWorkers
from architex.gateways.clock import SystemRandomness
from architex.gateways.errors import RemoteRefused, RemoteUnreachable
from architex.projections.federation_outbox import (
    forget_delivered_events,
    forget_oldest_events,
    forward,
)
from architex.projections.following import FollowerOvertaken
from architex.projections.outgoing_edus import EduBatch, EduSource
from architex.storage.destinations import Destinations
from architex.storage.pool import PgConnection
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.tracked_positions import move_position
from tests.core import (
    ALICE,
    BOB,
    SERVER_NAME,
    append,
    create_room,
    member_draft,
    message_draft,
    send_message,
)
from tests.fakes.clock import FakeClock
from tests.fakes.federation_client import FakeFederation
from tests.statements import noted_statements

CAROL = "@carol:c.example"
DAVE = "@dave:d.example"


@dataclass
class Others(FakeFederation):
    """Other servers, which take transactions.

    Attributes:
        transactions: server → the IDs and contents of those it got, also twice.
        events: server → the events that it knows, in the order in which it got them.
        fails: server → what it does instead of taking a transaction, given its content.
    """

    transactions: dict[ServerName, list[tuple[str, Json]]] = field(default_factory=dict)
    events: dict[ServerName, list[EventId]] = field(default_factory=dict)
    fails: dict[ServerName, Callable[[Json], Json | None]] = field(default_factory=dict)
    timeline: list[ServerName] = field(default_factory=list)

    def put(self, destination: ServerName, path: str, content: Any, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        self.timeline.append(destination)
        assert path.startswith("/_matrix/federation/v1/send/")
        answer = None
        if destination in self.fails:
            answer = self.fails[destination](content)
        taken = self.transactions.setdefault(destination, [])
        taken.append((path.rsplit("/", 1)[1], content))
        events = self.events.setdefault(destination, [])
        for pdu in content["pdus"]:
            events.append(pdu["content"].get("body") or pdu["type"])
        return answer or {"pdus": {}}

    def edus(self, destination: ServerName, edu_type: str) -> list[Any]:
        """The contents of the EDUs of a type that a server got."""
        return [
            edu["content"]
            for _, content in self.transactions.get(destination, [])
            for edu in content.get("edus", [])
            if edu["edu_type"] == edu_type
        ]

    def breaks(self, destination: ServerName, error: Exception | None = None) -> None:
        """Let a server be unreachable from now on."""

        def fail(content: Json) -> Json:
            raise error or RemoteUnreachable(destination, "No route.")

        self.fails[destination] = fail

    def mends(self, destination: ServerName) -> None:
        """Let a server take everything again."""
        del self.fails[destination]


def make_sender(
    core: Core,
    others: Others,
    clock: FakeClock,
    sources: Sequence[EduSource] = (),
    *,
    workers: Any = None,
) -> FederationSender:
    return FederationSender(
        core.database,
        others,
        clock,
        SystemRandomness(),
        server_name=SERVER_NAME,
        sources=sources,
        workers=workers or InlineWorkers(),
    )


def run(sender: FederationSender) -> None:
    """Send until there is nothing to do now."""
    while sender.advance():
        pass


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def sender(core: Core, others: Others, clock: FakeClock) -> FederationSender:
    return make_sender(core, others, clock)


@pytest.fixture
def room_id(core: Core) -> RoomId:
    """A room with Alice of ours and Carol of c.example."""
    room_id = create_room(core)
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    return room_id


def test_members_servers_get_our_events_in_order(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    for number in range(120):
        send_message(core, room_id, ALICE, str(number))
    run(sender)
    for server in ("c.example", "d.example"):
        assert others.events[server] == [str(number) for number in range(120)]
        assert [len(content["pdus"]) for _, content in others.transactions[server]] == [50, 50, 20]
    assert set(others.events) == {"c.example", "d.example"}
    run(sender)
    assert len(others.transactions["c.example"]) == 3


# ---- who is owed what


def test_server_gets_nothing_from_before_it_was_in_the_room(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    send_message(core, room_id, ALICE, "before")
    append(core, room_id, member_draft(ALICE, DAVE, "invite"))
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    send_message(core, room_id, ALICE, "after")
    run(sender)
    assert others.events["c.example"] == ["before", "m.room.member", "after"]
    assert others.events["d.example"] == ["after"]


def test_kicked_users_server_gets_the_kick_and_nothing_after_it(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    append(
        core,
        room_id,
        message_draft(ALICE, "hello"),
        member_draft(ALICE, CAROL, "leave"),
        message_draft(ALICE, "she is gone"),
    )
    run(sender)
    assert others.events["c.example"] == ["hello", "m.room.member"]


def test_what_waited_across_a_leave_and_a_rejoin_shows_nothing_of_the_time_between(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    append(core, room_id, message_draft(ALICE, "one"), member_draft(CAROL, CAROL, "leave"))
    append(core, room_id, message_draft(ALICE, "two"), member_draft(CAROL, CAROL, "join"))
    append(core, room_id, message_draft(ALICE, "three"))
    run(sender)
    assert others.events["c.example"] == ["three"]


def test_events_of_other_servers_are_theirs_to_send(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(DAVE, DAVE, "join"), message_draft(CAROL, "hello"))
    run(sender)
    assert others.events == {}


def test_rooms_of_ours_alone_leave_no_trace(core: Core, sender: FederationSender) -> None:
    room_id = create_room(core)
    append(core, room_id, member_draft(BOB, BOB, "join"), message_draft(BOB, "hello"))
    run(sender)
    assert core.database.fetch_all("SELECT * FROM outgoing_events") == []
    assert core.database.fetch_all("SELECT * FROM destinations") == []


def test_forwarded_join_goes_to_all_but_the_server_it_came_from(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    def decide(session: RoomSession) -> None:
        join = session.append(member_draft(DAVE, DAVE, "join"))
        forward(session, join, came_from="d.example")

    core.commits.write_room(RoomCommand(room_id, decide))
    send_message(core, room_id, ALICE, "welcome")
    run(sender)
    assert others.events["c.example"] == ["m.room.member", "welcome"]
    assert others.events["d.example"] == ["welcome"]


def test_message_to_400_servers_costs_its_transaction_one_statement(
    core: Core, sender: FederationSender, others: Others
) -> None:
    room_id = create_room(core)
    users = [f"@user:s{number}.example" for number in range(400)]
    append(core, room_id, *(member_draft(user, user, "join") for user in users))
    send_message(core, room_id, ALICE, "hello")
    assert core.database.fetch_all("SELECT count(*) FROM outgoing_events") == [(1,)]
    with noted_statements(core.database.conninfo) as asked:
        run(sender)
    assert len(others.events) == 400
    statements = [one for one in asked if "destinations" in one or "tracking" in one]
    # Begin, look for nudges, note who waits, note who has it.
    assert 2 <= len(statements) < 15, statements


# ---- failures


def test_unreachable_server_gets_everything_in_order_later(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    others.breaks("c.example")
    for number in range(60):
        send_message(core, room_id, ALICE, str(number))
        run(sender)
    assert others.events["d.example"] == [str(number) for number in range(60)]
    assert "c.example" not in others.events
    held = Destinations(core.database).find("c.example")
    assert held is not None
    assert held.failures == 1
    assert held.failing_since_ts == clock.now_ms()
    assert held.next_try_ts > clock.now_ms()
    assert "No route" in (held.last_error or "")
    others.mends("c.example")
    run(sender)
    assert "c.example" not in others.events
    clock.pass_seconds(2)
    run(sender)
    assert others.events["c.example"] == [str(number) for number in range(60)]
    held = Destinations(core.database).find("c.example")
    assert held is not None
    assert (held.delivered, held.failures, held.last_error) == (None, 0, None)
    assert held.last_success_ts == clock.now_ms()


def test_tries_grow_rarer_up_to_an_hour(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example")
    send_message(core, room_id, ALICE, "hello")
    tries: list[int] = []
    for _ in range(24 * 60 * 3):
        before = len(others.timeline)
        run(sender)
        tries += [clock.now_ms()] * (len(others.timeline) - before)
        clock.pass_seconds(20)
    pauses = [(after - before) / 1000 for before, after in itertools.pairwise(tries)]
    assert pauses[0] <= 40
    assert 2000 < max(pauses) <= 3600 + 20
    assert len(tries) < 60


def test_sign_of_life_brings_the_next_try_forward(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example")
    send_message(core, room_id, ALICE, "hello")
    for _ in range(12):
        run(sender)
        clock.pass_seconds(3600)
    run(sender)
    others.mends("c.example")
    clock.pass_seconds(120)
    run(sender)
    assert others.events == {}
    Destinations(core.database).note_alive("c.example")
    run(sender)
    assert others.events["c.example"] == ["hello"]
    assert core.database.fetch_all("SELECT 1 FROM destinations WHERE nudge > 0") == []


def test_signs_of_life_without_taking_anything_do_not_hurry_us_for_ever(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example")
    send_message(core, room_id, ALICE, "hello")
    for _ in range(1000):
        run(sender)
        Destinations(core.database).note_alive("c.example")
        clock.pass_seconds(10)
    assert len(others.timeline) < 100


def test_many_signs_of_life_cost_one_statement(core: Core) -> None:
    later: list[Callable[[], None]] = []
    destinations = Destinations(core.database, lambda delay_s, call: later.append(call))
    for _ in range(100):
        destinations.note_alive("c.example")
        destinations.note_alive("d.example")
    assert len(later) == 1
    later[0]()
    destinations.note_alive("c.example")
    assert len(later) == 1


def test_operator_has_a_server_tried_at_once(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example")
    send_message(core, room_id, ALICE, "hello")
    for _ in range(10):
        run(sender)
        clock.pass_seconds(3600)
    run(sender)
    others.mends("c.example")
    destinations = Destinations(core.database)
    assert destinations.retry("c.example")
    run(sender)
    assert others.events["c.example"] == ["hello"]
    assert not destinations.retry("c.example")
    assert not destinations.retry("unknown.example")


def test_server_that_asks_for_a_pause_gets_it(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example", RemoteRefused("c.example", 429, retry_after_ms=60_000))
    send_message(core, room_id, ALICE, "hello")
    run(sender)
    clock.pass_seconds(59)
    run(sender)
    assert len(others.timeline) == 1
    clock.pass_seconds(2)
    run(sender)
    assert len(others.timeline) == 2


# ---- lost answers, crashes


def test_transaction_whose_answer_was_lost_is_sent_again_with_its_id_before_any_other(
    core: Core,
    sender: FederationSender,
    others: Others,
    clock: FakeClock,
    room_id: RoomId,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[Json] = []
    ids: list[str] = []
    put = others.put

    def note_id(destination: ServerName, path: str, *rest: Any, **more: Any) -> Json:
        ids.append(path.rsplit("/", 1)[1])
        return put(destination, path, *rest, **more)

    monkeypatch.setattr(others, "put", note_id)

    def take_and_fall_silent(content: Json) -> Json:
        got.append(content)
        raise RemoteUnreachable("c.example", "The connection was cut.")

    others.fails["c.example"] = take_and_fall_silent
    send_message(core, room_id, ALICE, "one")
    run(sender)
    others.mends("c.example")
    send_message(core, room_id, ALICE, "two")
    clock.pass_seconds(5)
    run(sender)
    (first, again), (second, after) = others.transactions["c.example"]
    assert again["pdus"] == got[0]["pdus"]
    assert [pdu["content"]["body"] for pdu in after["pdus"]] == ["two"]
    assert ids == [first, first, second]
    assert first != second


def test_repeated_transaction_has_the_same_id(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    """Also when the process died before it noted that the first one had arrived."""
    ids: list[str] = []
    for _ in range(2):
        sender = make_sender(core, others, clock)
        if not ids:
            send_message(core, room_id, ALICE, "hello")
        with pytest.MonkeyPatch.context() as patch:
            # It dies after sending, before the next look.
            patch.setattr(sender, "_save", lambda end, nudged: None)
            sender.advance()
        ids.append(others.transactions["c.example"][-1][0])
    assert ids[0] == ids[1]
    sender = make_sender(core, others, clock)
    run(sender)
    run(make_sender(core, others, clock))
    assert len(others.transactions["c.example"]) == 3


def test_restarted_sender_goes_on_with_what_waits(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example")
    sender = make_sender(core, others, clock)
    send_message(core, room_id, ALICE, "one")
    run(sender)
    send_message(core, room_id, ALICE, "two")
    run(sender)
    others.mends("c.example")
    sender = make_sender(core, others, clock)
    run(sender)
    assert others.events == {}
    clock.pass_seconds(5)
    run(sender)
    assert others.events["c.example"] == ["one", "two"]


def test_second_process_and_the_first_one_again_lose_nothing(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    one, two = make_sender(core, others, clock), make_sender(core, others, clock)
    for number in range(12):
        send_message(core, room_id, ALICE, str(number))
        if number % 4 == 1:
            others.breaks("c.example")
        run_whatever_happens(one if number % 3 else two)
        if number % 4 == 3:
            others.mends("c.example")
            clock.pass_seconds(4000)
    others.fails.clear()
    clock.pass_seconds(4000)
    run_whatever_happens(two)
    run_whatever_happens(one)
    seen = list(dict.fromkeys(others.events["c.example"]))
    assert seen == [str(number) for number in range(12)]


def run_whatever_happens(sender: FederationSender) -> None:
    """As the runner does: an overtaken follower is called again."""
    for _ in range(3):
        try:
            run(sender)
        except FollowerOvertaken:
            continue
        return


def test_database_that_fails_while_noting_loses_nothing(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    sender = make_sender(core, others, clock)
    run(sender)
    others.breaks("c.example")
    for fails_at in range(4):
        send_message(core, room_id, ALICE, str(fails_at))
        calls = iter(range(100))

        def fail(*args: Any, at: int = fails_at, calls: Iterator[int] = calls) -> bool:
            if next(calls) == at:
                raise DatabaseUnavailable("The database went away.")
            return move_position(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("architex.followers.federation_sender.move_position", fail)
            for _ in range(5):
                try:
                    run(sender)
                except DatabaseUnavailable:
                    continue
        clock.pass_seconds(60)
    others.mends("c.example")
    clock.pass_seconds(4000)
    run(sender)
    assert others.events["c.example"] == ["0", "1", "2", "3"]


# ---- what a server will never take


def refuses(body: str, status: int = 400) -> Callable[[Json], Json | None]:
    """A server that refuses every transaction with a certain message in it."""

    def answer(content: Json) -> Json | None:
        if any(pdu["content"].get("body") == body for pdu in content["pdus"]):
            raise RemoteRefused("c.example", status, {"errcode": "M_BAD_JSON", "error": "no"})
        return None

    return answer


def test_poisonous_event_is_set_aside_and_named_and_the_others_arrive(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    others.fails["c.example"] = refuses("17")
    sent = [send_message(core, room_id, ALICE, str(number)) for number in range(60)]
    run(sender)
    assert others.events["c.example"] == [str(n) for n in range(60) if n != 17]
    (refused,) = Destinations(core.database).list_refused("c.example")
    assert (refused.what, refused.room_id) == (sent[17], room_id)
    assert "M_BAD_JSON" in refused.error
    tried = len(others.timeline)
    run(sender)
    assert len(others.timeline) == tried


def test_event_at_which_a_server_breaks_is_set_aside_after_some_tries(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.fails["c.example"] = refuses("1", status=500)
    for number in range(3):
        send_message(core, room_id, ALICE, str(number))
    run(sender)
    assert others.events == {}
    for _ in range(5):
        clock.pass_seconds(120)
        run(sender)
    assert others.events["c.example"] == ["0", "2"]
    assert Destinations(core.database).count_refused() == {"c.example": 1}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500, 502])
def test_server_that_takes_no_transaction_at_all_keeps_everything_waiting(
    core: Core,
    sender: FederationSender,
    others: Others,
    clock: FakeClock,
    room_id: RoomId,
    status: int,
) -> None:
    others.breaks("c.example", RemoteRefused("c.example", status))
    send_message(core, room_id, ALICE, "hello")
    for _ in range(8):
        run(sender)
        clock.pass_seconds(600)
    assert Destinations(core.database).count_refused() == {}
    others.mends("c.example")
    clock.pass_seconds(3600)
    run(sender)
    assert others.events["c.example"] == ["hello"]


def test_event_that_a_server_answers_with_an_error_is_named_and_not_repeated(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    event_id = send_message(core, room_id, ALICE, "hello")
    others.fails["c.example"] = lambda content: {
        "pdus": {event_id: {"error": "You are not\0allowed \ud800"}, "$other": {"error": "?"}}
    }
    run(sender)
    run(sender)
    assert len(others.timeline) == 1
    (refused,) = Destinations(core.database).list_refused("c.example")
    assert refused.what == event_id
    assert "not" in refused.error


@pytest.mark.parametrize(
    "answer", [{}, {"pdus": None}, {"pdus": []}, {"pdus": {"$x": 1}}, {"pdus": {"$x": {}}}]
)
def test_odd_answers_do_no_harm(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId, answer: Json
) -> None:
    others.fails["c.example"] = lambda content: answer or {"more": 1}
    send_message(core, room_id, ALICE, "hello")
    run(sender)
    assert others.events["c.example"] == ["hello"]


def test_event_that_cannot_be_written_is_set_aside(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    def cannot_write(content: Json) -> None:
        if any(pdu["content"].get("body") == "odd" for pdu in content["pdus"]):
            raise InvalidCanonicalJson("A lone surrogate.")

    others.fails["c.example"] = cannot_write
    for body in ("one", "odd", "two"):
        send_message(core, room_id, ALICE, body)
    run(sender)
    assert others.events["c.example"] == ["one", "two"]


def test_failure_of_ours_with_one_server_does_not_stop_the_others(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    others.breaks("c.example", KeyError("a bug"))
    send_message(core, room_id, ALICE, "hello")
    run(sender)
    assert others.events == {"d.example": ["hello"]}
    others.mends("c.example")
    clock.pass_seconds(10)
    run(sender)
    assert others.events["c.example"] == ["hello"]


# ---- long outages


def test_server_that_missed_very_much_is_told_of_the_newest_in_each_room(
    core: Core,
    others: Others,
    clock: FakeClock,
    room_id: RoomId,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("architex.followers.federation_readings.MAX_BEHIND", 70)
    quiet = create_room(core)
    append(core, quiet, member_draft(CAROL, CAROL, "join"), message_draft(ALICE, "quiet"))
    others.breaks("c.example")
    sender = make_sender(core, others, clock)
    run(sender)
    for number in range(80):
        send_message(core, room_id, ALICE, str(number))
    run(sender)
    others.mends("c.example")
    clock.pass_seconds(4000)
    run(sender)
    # First the transaction that failed, then the newest of all.
    assert others.events["c.example"] == ["quiet", "79"]
    send_message(core, room_id, ALICE, "and on")
    run(sender)
    assert others.events["c.example"][-1] == "and on"


def test_what_everybody_has_is_forgotten_and_what_waits_is_bounded(
    core: Core,
    others: Others,
    clock: FakeClock,
    room_id: RoomId,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("architex.projections.federation_outbox.KEPT_PER_ROOM", 20)
    sender = make_sender(core, others, clock)
    append(core, room_id, *(message_draft(ALICE, str(number)) for number in range(30)))
    assert forget_delivered_events(core.database) == 0
    assert forget_oldest_events(core.database) == 0
    run(sender)
    clock.pass_seconds(10)
    run(sender)
    assert forget_delivered_events(core.database) == 30
    others.breaks("c.example")
    append(core, room_id, *(message_draft(ALICE, str(number)) for number in range(30)))
    run(sender)
    assert forget_delivered_events(core.database) == 0
    assert forget_oldest_events(core.database) == 10
    others.mends("c.example")
    clock.pass_seconds(10)
    run(sender)
    assert others.events["c.example"][-1] == "29"


def test_what_was_refused_long_ago_and_idle_servers_are_forgotten(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.fails["c.example"] = refuses("bad")
    send_message(core, room_id, ALICE, "bad")
    send_message(core, room_id, ALICE, "good")
    run(sender)
    destinations = Destinations(core.database)
    assert destinations.forget_old(clock.now_ms() - 1000) == 0
    assert destinations.forget_old(clock.now_ms() + 1000) == 2
    assert destinations.list_all() == []
    send_message(core, room_id, ALICE, "on it goes")
    run(sender)
    assert others.events["c.example"][-1] == "on it goes"


# ---- EDUs of any kind


@dataclass
class Letters:
    """Things for one server that must arrive; see EduSource."""

    name: str = "letters"
    is_durable: bool = True
    is_perishable: bool = False
    traces: Sequence[str] = ("(SELECT position AS at FROM log_position)",)
    servers_per_second: float | None = None
    letters: dict[int, str] = field(default_factory=dict)
    delivered: list[int] = field(default_factory=list)

    def write(self, core: Core, text: str) -> None:
        self.letters[core.commits.write_rows(lambda execute, position: None)] = text

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        mine = [position for position in self.letters if after < position <= up_to]
        return {"c.example": min(mine)} if mine else {}

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        mine = [position for position in sorted(self.letters) if after < position <= up_to]
        if len(mine) > limit:
            mine = mine[:limit]
            up_to = mine[-1]
        edus = [{"edu_type": "letter", "content": {"text": self.letters[p]}} for p in mine]
        return EduBatch(edus, up_to)

    def note_delivered(
        self, connection: PgConnection, destination: ServerName, up_to: int
    ) -> None:
        self.delivered.append(up_to)
        self.letters = {p: text for p, text in self.letters.items() if p > up_to}


def test_durable_edus_survive_outages_and_restarts_and_come_in_order_in_bounded_transactions(
    core: Core, others: Others, clock: FakeClock
) -> None:
    letters = Letters()
    others.breaks("c.example")
    sender = make_sender(core, others, clock, [letters])
    run(sender)
    for number in range(130):
        letters.write(core, str(number))
    run(sender)
    others.mends("c.example")
    clock.pass_seconds(10)
    sender = make_sender(core, others, clock, [letters])
    run(sender)
    texts = [content["text"] for content in others.edus("c.example", "letter")]
    assert texts == [str(number) for number in range(130)]
    sizes = [len(content["edus"]) for _, content in others.transactions["c.example"]]
    assert max(sizes) == 100
    assert letters.letters == {}
    run(make_sender(core, others, clock, [letters]))
    assert len(others.edus("c.example", "letter")) == 130


def test_kind_of_edu_is_asked_only_when_it_has_traces_of_news(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    asked: list[str] = []

    @dataclass
    class Counted(Letters):
        def list_destinations(
            self, connection: PgConnection, after: int, up_to: int
        ) -> Mapping[ServerName, int]:
            asked.append(self.name)
            return {}

    joins = ("(SELECT since AS at FROM room_servers)",)
    sources = [
        Counted("quiet", traces=()),
        Counted("joins", traces=joins),
        Counted("both", traces=(*joins, "(SELECT position AS at FROM timeline)")),
    ]
    sender = make_sender(core, others, clock, sources)
    run(sender)
    assert asked == ["joins", "both"]
    asked.clear()
    send_message(core, room_id, ALICE, "who came has come")
    run(sender)
    assert asked == ["both"]
    asked.clear()
    run(sender)
    assert asked == []


def test_poisonous_edu_is_set_aside_too(core: Core, others: Others, clock: FakeClock) -> None:
    letters = Letters()
    sender = make_sender(core, others, clock, [letters])
    run(sender)

    def refuse(content: Json) -> None:
        if any(edu["content"]["text"] == "bad" for edu in content.get("edus", [])):
            raise RemoteRefused("c.example", 400)

    others.fails["c.example"] = refuse
    for text in ("one", "bad", "two"):
        letters.write(core, text)
    run(sender)
    assert [one["text"] for one in others.edus("c.example", "letter")] == ["one", "two"]
    (refused,) = Destinations(core.database).list_refused("c.example")
    assert refused.what == "letter"


def test_kind_of_edu_that_fails_keeps_no_event_back(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    @dataclass
    class Broken(Letters):
        name: str = "broken"
        is_durable: bool = False
        fails_in: str = "list_edus"

        def list_destinations(
            self, connection: PgConnection, after: int, up_to: int
        ) -> Mapping[ServerName, int]:
            if self.fails_in == "list_destinations":
                raise KeyError("a bug")
            return {"c.example": up_to}

        def list_edus(self, *_: Any) -> EduBatch:
            raise KeyError("another bug")

    for fails_in in ("list_destinations", "list_edus"):
        sender = make_sender(core, others, clock, [Broken(fails_in=fails_in)])
        send_message(core, room_id, ALICE, fails_in)
        run(sender)
        clock.pass_seconds(5)
        run(sender)
    assert others.events["c.example"] == ["list_destinations", "list_edus"]


# ---- threads


class Threadlike:
    """Workers that do their jobs when the test says so, the last first."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        """See Workers."""
        self.jobs.append(job)

    def work(self) -> None:
        """Do all."""
        while self.jobs:
            self.jobs.pop()()


def test_what_comes_while_a_server_is_being_sent_to_follows(
    core: Core, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    workers = Threadlike()
    sender = make_sender(core, others, clock, workers=workers)
    send_message(core, room_id, ALICE, "one")
    sender.advance()
    assert len(workers.jobs) == 1

    def meanwhile(content: Json) -> None:
        del others.fails["c.example"]
        send_message(core, room_id, ALICE, "two")
        sender.advance()

    others.fails["c.example"] = meanwhile
    workers.work()
    assert others.events["c.example"] == ["one", "two"]
    run(sender)
    assert core.database.fetch_all("SELECT 1 FROM destinations WHERE delivered IS NOT NULL") == []


def test_threads_work_on_several_at_once_and_not_more_than_so_many() -> None:
    workers = ThreadWorkers(3, "test")
    running, most = [0], [0]
    lock, gate, done = threading.Lock(), threading.Semaphore(0), threading.Semaphore(0)

    def job() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.acquire(timeout=20)
        with lock:
            running[0] -= 1
        done.release()
        raise ValueError("a bug in a job ends no worker")

    for _ in range(10):
        workers.submit(job)
    for _ in range(10):
        gate.release()
        assert done.acquire(timeout=20)
    assert 1 <= most[0] <= 3
    workers.submit(job)
    gate.release()
    assert done.acquire(timeout=20)
