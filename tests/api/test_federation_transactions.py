"""PUT /send: what another server has for us, as it comes over HTTP and as people here see it.

Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from architex.domain.canonical_json import Json
from architex.domain.identifiers import EventId
from architex.domain.pdu import compute_reference_hash
from architex.domain.room_versions import get_room_version
from architex.domain.unpadded_base64 import encode_base64
from architex.projections.event_reads import EventReads
from architex.settings import RateLimit, RateLimitSettings
from architex.storage.early_receipts import MAX_PER_ORIGIN, EarlyReceipts
from architex.storage.expiries import Expiries
from architex.usecases.receipts import Receipts
from tests.api.client import Answer, User, segment, stop_server
from tests.federation.visitors import Visitor, World, event_id_of

_numbers = itertools.count()

ODD: list[Any] = [None, True, -1, 2**60, "", "x" * 5000, "a\0b", [], [1], [[]], {}, {"a": {}}]


@pytest.fixture(scope="module")
def visitor(world: World) -> Visitor:
    return world.meet("visitor.example")


@pytest.fixture(scope="module")
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def inbox(world: World) -> Callable[[], int]:
    """Has receipts noted whose events have come; gives their number."""
    database = world.server.core.database
    database.execute("DELETE FROM early_receipts")
    commits = world.server.core.commits
    clock = world.server.core.clock
    early = EarlyReceipts(database)
    return Receipts(database, EventReads(), commits, early, clock).receive_early


@dataclass
class Guest:
    """A user of another server in a room of ours."""

    visitor: Visitor
    user_id: str
    room_id: str
    version: str
    events: dict[EventId, Json] = field(default_factory=dict)
    state: dict[tuple[str, str], EventId] = field(default_factory=dict)
    end: EventId = ""
    depth: int = 100

    def compose(self, type: str, content: Any, **fields: Any) -> tuple[Json, EventId]:
        """An event at the end of the room, as this user's server has it."""
        keys = [("m.room.power_levels", ""), ("m.room.member", self.user_id)]
        if self.version != "12":
            keys.append(("m.room.create", ""))
        self.depth += 1
        event = {
            "type": type,
            "content": content,
            "sender": self.user_id,
            "room_id": self.room_id,
            "prev_events": self._references([self.end]),
            "auth_events": self._references([self.state[key] for key in keys]),
            "depth": self.depth,
            "origin_server_ts": 1_700_000_000_000 + self.depth,
            **fields,
        }
        signed, event_id = self.visitor.sign(self.version, event)
        self.events[event_id] = signed
        return signed, event_id

    def say(self, body: str) -> tuple[Json, EventId]:
        """A message at the end of the room; what comes next follows it."""
        event, event_id = self.compose("m.room.message", {"msgtype": "m.text", "body": body})
        self.end = event_id
        return event, event_id

    def send(self, *pdus: Any, **more: Any) -> Answer:
        """A transaction of the server; `more` is beside the events, or in their place."""
        txn_id = f"txn{next(_numbers)}"
        content = {"pdus": list(pdus), "origin_server_ts": 1, **more}
        return self.visitor.request("PUT", ["v1", "send", txn_id], content)

    def tell(self, edu_type: str, content: Any) -> None:
        """An EDU of the server."""
        self.send(edus=[{"edu_type": edu_type, "content": content}]).ok()

    def _references(self, event_ids: list[EventId]) -> list[Any]:
        rules = get_room_version(self.version)
        if rules.event_id_format != "domain":
            return event_ids
        return [
            [e, {"sha256": encode_base64(compute_reference_hash(rules, self.events[e]))}]
            for e in event_ids
        ]


def let_in(alice: User, visitor: Visitor, version: str = "11") -> Guest:
    """A new public room of Alice's, with somebody of the other server in it."""
    room_id = alice.create_room(preset="public_chat", room_version=version)
    user_id = visitor.user(f"bob{next(_numbers)}")
    guest = Guest(visitor, user_id, room_id, version)
    answer = visitor.join(room_id, user_id)
    for event in [*answer["state"], answer["event"]]:
        event_id = event_id_of(version, event)
        guest.events[event_id] = event
        guest.state[event["type"], event["state_key"]] = event_id
    guest.end = guest.state["m.room.member", user_id]
    return guest


def bodies(user: User, room_id: str) -> list[str]:
    """What was said in a room, the oldest first; nothing for what was redacted."""
    chunk = user.get(f"/rooms/{segment(room_id)}/messages", dir="b", limit=100).ok()["chunk"]
    said = [e["content"] for e in reversed(chunk) if e["type"] == "m.room.message"]
    return [content.get("body", "") for content in said]


def ephemeral(user: User, room_id: str, type: str) -> Any:
    """The newest content of an ephemeral event of a room, as /sync tells it."""
    room = user.get("/sync").ok()["rooms"]["join"][room_id]
    found = [e["content"] for e in room["ephemeral"]["events"] if e["type"] == type]
    return found[-1] if found else None


@pytest.mark.parametrize("version", ["1", "6", "9", "10", "11", "12"])
def test_message_of_another_server_is_read_here(
    alice: User, visitor: Visitor, version: str
) -> None:
    guest = let_in(alice, visitor, version)
    event, event_id = guest.say("hello")
    assert guest.send(event).ok() == {"pdus": {event_id: {}}}
    assert bodies(alice, guest.room_id) == ["hello"]


@pytest.mark.parametrize(
    "content",
    [
        {"pdus": [{}] * 51},
        {"edus": [{}] * 101},
        {"pdus": {}},
        {"pdus": None},
        {"edus": 1},
    ],
)
def test_transaction_of_another_form_is_refused(
    alice: User, visitor: Visitor, content: Json
) -> None:
    let_in(alice, visitor).send(**content).refused(400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "pdu",
    [
        None,
        1,
        "text",
        [],
        {},
        {"room_id": 1},
        {"room_id": "!x"},
        {"room_id": "!a\0b:c"},
        {"type": "m.room.create"},
        {"type": "m.room.create", "content": {"room_version": "12"}, "sender": 1},
        {"room_id": "!nowhere:x.example", "event_id": "$a:b", "type": {}, "content": []},
    ],
)
def test_what_is_no_event_hurts_nothing(alice: User, visitor: Visitor, pdu: Any) -> None:
    guest = let_in(alice, visitor)
    event, event_id = guest.say("still here")
    told = guest.send(pdu, event, pdu).ok()["pdus"]
    assert told[event_id] == {}
    assert bodies(alice, guest.room_id) == ["still here"]


def mutations(event: Mapping[str, Any]) -> Iterator[Json]:
    """The event with each of its fields gone, or of another type."""
    odd = [*ODD, 1.5]
    for name in event:
        yield {key: value for key, value in event.items() if key != name}
        for value in odd:
            yield {**event, name: value}
    yield {**event, "auth_events": ["$" + "A" * 43] * 11}
    yield {**event, "prev_events": ["$" + "A" * 43] * 21}
    yield {**event, "depth": 2**63 - 1}
    yield {**event, "state_key": event["sender"], "type": "m.room.member"}
    yield {**event, "type": "m.room.create", "state_key": ""}
    yield {**event, "sender": "@alice:test.example"}
    yield {**event, "redacts": event["prev_events"][0], "type": "m.room.redaction"}


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_no_mutation_of_an_event_fails_the_server_or_gets_in_unsigned(
    alice: User, visitor: Visitor, version: str
) -> None:
    guest = let_in(alice, visitor, version)
    event, _ = guest.compose("m.room.message", {"msgtype": "m.text", "body": "mutated"})
    for unsigned in mutations(event):
        guest.send(unsigned).ok()
    # With another content it is redacted; what no hash covers may be changed without harm.
    assert set(bodies(alice, guest.room_id)) <= {"", "mutated"}
    for signed in mutations(event):
        again, _ = visitor.sign_anyhow(version, signed)
        guest.send(again).ok()
    bodies(alice, guest.room_id)
    alice.get("/sync").ok()
    after = alice.put(f"/rooms/{segment(guest.room_id)}/send/m.room.message/canary", {"body": "c"})
    assert after.status == 200


def test_budget_counts_before_the_signature_is_looked_at(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    limits = RateLimitSettings(federation=RateLimit(per_second=0.01, burst=2))
    world = World(database_url, tmp_path_factory.mktemp("server"), rate_limits=limits)
    try:
        visitor, other = world.meet("visitor.example"), world.meet("other.example")
        for n in range(2):
            visitor.request("PUT", ["v1", "send", f"t{n}"], {"pdus": []}).ok()
        refused = visitor.request("PUT", ["v1", "send", "t9"], {"pdus": []})
        assert refused.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"] > 0
        other.request("PUT", ["v1", "send", "t1"], {"pdus": []}).ok()
    finally:
        stop_server(world.server)


# ---- EDUs


def test_typing_of_another_servers_user_is_shown_and_ends(alice: User, visitor: Visitor) -> None:
    guest = let_in(alice, visitor)
    content = {"room_id": guest.room_id, "user_id": guest.user_id, "typing": True}
    guest.tell("m.typing", content)
    assert ephemeral(alice, guest.room_id, "m.typing") == {"user_ids": [guest.user_id]}
    guest.tell("m.typing", {**content, "typing": False})
    assert ephemeral(alice, guest.room_id, "m.typing") in (None, {"user_ids": []})


def test_receipt_of_another_servers_user_is_shown(alice: User, visitor: Visitor) -> None:
    guest = let_in(alice, visitor)
    event, event_id = guest.say("read me")
    guest.send(event).ok()
    receipt = {"data": {"ts": 1234}, "event_ids": ["$unknown", event_id]}
    guest.tell("m.receipt", {guest.room_id: {"m.read": {guest.user_id: receipt}}})
    told = ephemeral(alice, guest.room_id, "m.receipt")
    assert told == {event_id: {"m.read": {guest.user_id: {"ts": 1234}}}}


def test_receipt_waits_for_its_event(
    alice: User, visitor: Visitor, inbox: Callable[[], int]
) -> None:
    guest = let_in(alice, visitor)
    event, event_id = guest.say("read me")
    receipt = {"data": {"ts": 1234}, "event_ids": [event_id]}
    threaded = {"data": {"ts": 1235, "thread_id": "main"}, "event_ids": [event_id]}
    for told in (receipt, threaded):
        guest.tell("m.receipt", {guest.room_id: {"m.read": {guest.user_id: told}}})
    assert inbox() == 0
    guest.send(event).ok()
    assert not ephemeral(alice, guest.room_id, "m.receipt")
    assert inbox() == 2
    events = alice.get("/sync").ok()["rooms"]["join"][guest.room_id]["ephemeral"]["events"]
    assert sorted(e["content"][event_id]["m.read"][guest.user_id]["ts"] for e in events) == [
        1234,
        1235,
    ]
    assert inbox() == 0


def test_receipt_that_waited_does_not_go_back(
    alice: User, visitor: Visitor, inbox: Callable[[], int]
) -> None:
    guest = let_in(alice, visitor)
    (first, first_id), (second, second_id) = guest.say("one"), guest.say("two")
    for event_id in (first_id, second_id, first_id):
        receipt = {"data": {"ts": 1}, "event_ids": [event_id]}
        guest.tell("m.receipt", {guest.room_id: {"m.read": {guest.user_id: receipt}}})
    guest.send(first).ok()
    guest.send(second).ok()
    receipt = {"data": {"ts": 2}, "event_ids": [second_id]}
    guest.tell("m.receipt", {guest.room_id: {"m.read": {guest.user_id: receipt}}})
    assert inbox() == 1
    told = ephemeral(alice, guest.room_id, "m.receipt")
    assert told == {second_id: {"m.read": {guest.user_id: {"ts": 2}}}}


def test_receipts_that_wait_have_a_bound(
    world: World, alice: User, visitor: Visitor, inbox: Callable[[], int]
) -> None:
    guest = let_in(alice, visitor)
    for n in range(MAX_PER_ORIGIN + 5):
        data = {"ts": 1, "thread_id": f"$thread{n}"}
        receipt = {"data": data, "event_ids": [f"$nothing{n}"]}
        guest.tell("m.receipt", {guest.room_id: {"m.read": {guest.user_id: receipt}}})
    count = "SELECT count(*) FROM early_receipts"
    assert world.server.core.database.fetch_all(count) == [(MAX_PER_ORIGIN,)]
    Expiries(world.server.core.database).delete_expired(2**62)
    assert world.server.core.database.fetch_all(count) == [(0,)]


def test_presence_of_another_servers_user_is_shown(alice: User, visitor: Visitor) -> None:
    guest = let_in(alice, visitor)
    one = {
        "user_id": guest.user_id,
        "presence": "online",
        "status_msg": "here",
        "last_active_ago": 5000,
        "currently_active": False,
    }
    guest.tell("m.presence", {"push": [one]})
    told = alice.get(f"/presence/{segment(guest.user_id)}/status").ok()
    assert told["presence"] == "online"
    assert told["status_msg"] == "here"
    assert told["last_active_ago"] >= 5000


def test_a_server_speaks_for_its_own_users_only(alice: User, visitor: Visitor) -> None:
    guest = let_in(alice, visitor)
    event, event_id = guest.say("read me")
    guest.send(event).ok()
    receipt = {"data": {"ts": 1}, "event_ids": [event_id]}
    others = [alice.user_id, "@x:third.example", guest.user_id.upper(), guest.user_id + ":1"]
    for user_id in others:
        guest.tell("m.typing", {"room_id": guest.room_id, "user_id": user_id, "typing": True})
        guest.tell("m.receipt", {guest.room_id: {"m.read": {user_id: receipt}}})
        push = [{"user_id": user_id, "presence": "unavailable"}]
        guest.tell("m.presence", {"push": push})
    assert not ephemeral(alice, guest.room_id, "m.typing")
    assert not ephemeral(alice, guest.room_id, "m.receipt")
    assert alice.get(f"/presence/{alice.path}/status").ok()["presence"] != "unavailable"


def test_users_who_are_not_in_the_room_neither_type_nor_read(
    alice: User, visitor: Visitor
) -> None:
    guest = let_in(alice, visitor)
    outsider = visitor.user("outsider")
    guest.tell("m.typing", {"room_id": guest.room_id, "user_id": outsider, "typing": True})
    receipt = {"data": {"ts": 1}, "event_ids": [guest.end]}
    guest.tell("m.receipt", {guest.room_id: {"m.read": {outsider: receipt}}})
    guest.tell("m.presence", {"push": [{"user_id": outsider, "presence": "online"}]})
    assert not ephemeral(alice, guest.room_id, "m.typing")
    assert not ephemeral(alice, guest.room_id, "m.receipt")
    assert alice.get(f"/presence/{segment(outsider)}/status").status in (403, 404)


def test_private_receipts_are_not_taken_from_others(alice: User, visitor: Visitor) -> None:
    guest = let_in(alice, visitor)
    receipt = {"data": {"ts": 1}, "event_ids": [guest.end]}
    guest.tell("m.receipt", {guest.room_id: {"m.read.private": {guest.user_id: receipt}}})
    assert not ephemeral(alice, guest.room_id, "m.receipt")


def test_edus_of_a_server_that_the_rooms_acl_denies_are_left_out(
    alice: User, visitor: Visitor
) -> None:
    guest = let_in(alice, visitor)
    acl = {"allow": ["*"], "deny": [visitor.name]}
    room = segment(guest.room_id)
    alice.put(f"/rooms/{room}/state/m.room.server_acl", acl).ok()
    guest.tell("m.typing", {"room_id": guest.room_id, "user_id": guest.user_id, "typing": True})
    receipt = {"data": {"ts": 1}, "event_ids": [guest.end]}
    guest.tell("m.receipt", {guest.room_id: {"m.read": {guest.user_id: receipt}}})
    assert not ephemeral(alice, guest.room_id, "m.typing")
    assert not ephemeral(alice, guest.room_id, "m.receipt")
    event, event_id = guest.say("denied")
    assert "error" in guest.send(event).ok()["pdus"][event_id]


@pytest.mark.parametrize("edu_type", ["m.typing", "m.receipt", "m.presence", "m.unknown", 1, None])
def test_odd_edus_are_left_out(alice: User, visitor: Visitor, edu_type: Any) -> None:
    guest = let_in(alice, visitor)
    user_id, room_id = guest.user_id, guest.room_id
    contents: list[Any] = [*ODD, 1.5]
    for value in [*ODD, 1.5]:
        contents += [
            {"room_id": value, "user_id": user_id, "typing": True},
            {"room_id": room_id, "user_id": value, "typing": True},
            {"room_id": room_id, "user_id": user_id, "typing": value},
            {room_id: value},
            {room_id: {"m.read": value}},
            {room_id: {"m.read": {user_id: value}}},
            {room_id: {"m.read": {user_id: {"data": value, "event_ids": [guest.end]}}}},
            {room_id: {"m.read": {user_id: {"data": {"ts": value}, "event_ids": [guest.end]}}}},
            {room_id: {"m.read": {user_id: {"data": {"ts": 1}, "event_ids": value}}}},
            {room_id: {"m.read": {user_id: {"data": {"ts": 1}, "event_ids": [value]}}}},
            {
                room_id: {
                    "m.read": {
                        user_id: {
                            "data": {"ts": 1, "thread_id": value},
                            "event_ids": [guest.end],
                        }
                    }
                }
            },
            {"push": value},
            {"push": [value]},
            {"push": [{"user_id": value, "presence": "online"}]},
            {"push": [{"user_id": user_id, "presence": value}]},
            {"push": [{"user_id": user_id, "presence": "online", "status_msg": value}]},
            {"push": [{"user_id": user_id, "presence": "online", "last_active_ago": value}]},
        ]
    edus = [{"edu_type": edu_type, "content": content} for content in contents]
    for start in range(0, len(edus), 100):
        guest.send(edus=edus[start : start + 100]).ok()
    alice.get("/sync").ok()


# ---- reading beyond a gap


def test_messages_ask_for_what_is_missing_before_the_page(
    alice: User, visitor: Visitor, world: World
) -> None:
    guest = let_in(alice, visitor)
    missing, missing_id = guest.say("missing")
    after, _ = guest.say("after")
    last, _ = guest.say("last")
    room = segment(guest.room_id)
    path = "/_matrix/federation/v1"
    answers: dict[str, Json] = {
        f"{path}/get_missing_events/{room}": {"events": [after]},
        f"{path}/state_ids/{room}": {
            "pdu_ids": list(guest.state.values()),
            "auth_chain_ids": [],
        },
        f"{path}/event/{segment(missing_id)}": {"pdus": [missing]},
    }
    for answered, answer in answers.items():
        world.federation.replies[visitor.name, answered] = answer
    guest.send(last).ok()
    told = alice.get("/sync", filter='{"room": {"timeline": {"limit": 2}}}').ok()
    timeline = told["rooms"]["join"][guest.room_id]["timeline"]
    assert [event["content"]["body"] for event in timeline["events"]] == ["after", "last"]
    world.federation.replies[visitor.name, f"{path}/backfill/{room}"] = {"pdus": [missing]}
    page = alice.get(
        f"/rooms/{room}/messages", dir="b", limit=5, **{"from": timeline["prev_batch"]}
    )
    assert page.ok()["chunk"][0]["event_id"] == missing_id
    assert bodies(alice, guest.room_id) == ["missing", "after", "last"]
