"""What another server tells of a room that our user joins: all of it may be a lie.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from architex.bootstrap import all_projections, build_core
from architex.bootstrap.web import build_app
from architex.domain.canonical_json import Json
from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import Pdu, StateKey, compute_event_id, parse_pdu
from architex.domain.room.events import StateImported
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import add_event_signature
from architex.gateways.errors import RemoteRefused, RemoteTimedOut, RemoteUnreachable
from architex.settings import RateLimitSettings
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases import remote_joining, told_room
from architex.usecases.importing import Importing
from architex.usecases.verifying import Verifying
from tests.api.client import SERVER_NAME, Answer, Server, User, segment, settings_for, stop_server
from tests.builders import TEST_KEY, RoomBuilder
from tests.federation.hosts import Host, HostedRoom, Hosts, resign, unchanged

NOW = 9223372036854775807


@pytest.fixture(scope="module")
def hosts() -> Hosts:
    return Hosts()


@pytest.fixture(scope="module")
def server(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory, hosts: Hosts
) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("server")
    settings = settings_for(directory, rate_limits=RateLimitSettings(enabled=False))
    core = build_core(settings, conninfo=module_database_url)
    hosts.now_ms = core.clock.now_ms
    started = Server(build_app(settings, core, hosts), core)
    yield started
    stop_server(started)


@pytest.fixture
def alice(server: Server, hosts: Hosts) -> User:
    hosts.asked.clear()
    hosts.hosts.clear()
    hosts.mute.clear()
    return server.register()


@pytest.fixture
def host(hosts: Hosts, alice: User) -> Host:
    return hosts.add(Host(HostedRoom("12")))


def join(user: User, host: Host) -> Answer:
    path = f"/join/{segment(host.room.room_id)}"
    return user.server.request("POST", path, {}, token=user.token, params={"via": host.name})


def query(server: Server, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    return server.core.database.fetch_all(sql, params)


def current_state(server: Server, room_id: RoomId) -> dict[tuple[str, str], str]:
    rows = query(
        server,
        "SELECT c.type, c.state_key, g.event_id FROM current_state c JOIN rooms USING (room_nid)"
        " JOIN event_graph g ON g.position = c.position WHERE room_id = %s AND valid_to = %s",
        room_id,
        NOW,
    )
    return {(type_, state_key): event_id for type_, state_key, event_id in rows}


def assert_nothing_happened(user: User, host: Host) -> None:
    """The user is not in the room, and sees nothing of it."""
    room = segment(host.room.room_id)
    assert host.room.room_id not in user.get("/joined_rooms").ok()["joined_rooms"]
    assert not user.get("/sync").ok().get("rooms", {}).get("join")
    user.get(f"/rooms/{room}/state").refused(403, "M_FORBIDDEN")
    user.get(f"/rooms/{room}/messages", dir="b").refused(403, "M_FORBIDDEN")


def assert_joined(user: User, host: Host, without: Iterable[StateKey] = ()) -> None:
    """Our server has the state that the other one has, but for some entries."""
    expected = dict(host.room.state)
    for key in without:
        del expected[key]
    assert current_state(user.server, host.room.room_id) == expected


# ---- what honest servers tell


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_state_is_what_the_resident_told(hosts: Hosts, alice: User, version: str) -> None:
    host = hosts.add(Host(HostedRoom(version)))
    join(alice, host).ok()
    assert_joined(alice, host)


def test_events_of_the_auth_chain_alone_are_known_and_are_no_state(
    alice: User, host: Host
) -> None:
    join(alice, host).ok()
    rows = query(
        alice.server,
        "SELECT count(*) FROM event_graph JOIN rooms USING (room_nid) WHERE room_id = %s",
        host.room.room_id,
    )
    assert rows == [(len(host.room.pdus),)]


def test_server_without_the_second_version_of_the_endpoint_is_asked_the_first(
    alice: User, host: Host
) -> None:
    host.failures["v2/send_join"] = RemoteRefused(host.name, 404, {"errcode": "M_UNRECOGNIZED"})
    host.tell = lambda told: [b"[200,", orjson.dumps(told), b"]"]
    join(alice, host).ok()
    assert_joined(alice, host)


def test_user_comes_back_and_known_events_are_not_recorded_again(alice: User, host: Host) -> None:
    join(alice, host).ok()
    room = segment(host.room.room_id)
    owner, room_id = host.room.creator, host.room.room_id
    alice.post(f"/rooms/{room}/leave").ok()
    left = query(alice.server, "SELECT version FROM rooms WHERE room_id = %s", room_id)[0][0]
    # Meanwhile: a name comes, Erin goes back to what she was called, join rules are set anew.
    rows = query(alice.server, "SELECT state FROM stored_events WHERE originator_id = %s", room_id)
    leave = orjson.loads(rows[-1][0])["pdu"]
    host.room.add(parse_pdu(host.room.rules, leave))
    host.room.send_state(owner, "m.room.name", {"name": "Tea"})
    first_join = host.room.first_join
    host.room.state[first_join.key] = first_join.event_id
    host.room.state.pop(("m.room.join_rules", ""), None)
    host.room.set_join_rule(owner, "public")
    join(alice, host).ok()
    assert_joined(alice, host)
    # The name, the join rules, the join.
    came = query(alice.server, "SELECT version FROM rooms WHERE room_id = %s", room_id)[0][0]
    assert came - left == 3


# ---- lies about the state


def leaving_out(hidden: set[EventId], room: RoomBuilder) -> Callable[[Json], Json]:
    """Does not tell some events at all."""

    def tell(told: Json) -> Json:
        parts = {
            part: [e for e in told[part] if compute_event_id(room.rules, e) not in hidden]
            for part in ("state", "auth_chain")
        }
        return {**told, **parts}

    return tell


def without(room: RoomBuilder, *keys: tuple[str, str]) -> Callable[[Json], Json]:
    """Does not tell some entries of the state."""
    return leaving_out({room.state[key] for key in keys}, room)


def replacing(
    room: RoomBuilder, event_id: EventId, changes: Mapping[str, Any]
) -> Callable[[Json], Json]:
    """Tells an event otherwise than it is."""

    def tell(told: Json) -> Json:
        parts = {
            part: [
                {**e, **changes} if compute_event_id(room.rules, e) == event_id else e
                for e in told[part]
            ]
            for part in ("state", "auth_chain")
        }
        return {**told, **parts}

    return tell


def refuse(user: User, host: Host) -> None:
    """The join comes to nothing, the client is told why, and nobody sees anything."""
    told = join(user, host).refused(502, "M_UNKNOWN")
    assert host.name in told["error"]
    assert_nothing_happened(user, host)


def test_state_without_create_event_is_refused(alice: User, host: Host) -> None:
    host.tell = without(host.room, ("m.room.create", ""))
    refuse(alice, host)


def test_state_of_another_room_is_refused(alice: User, host: Host) -> None:
    other = Host(HostedRoom("12"))
    host.tell = lambda told: other.told()
    refuse(alice, host)


def test_events_of_another_room_among_the_state_are_left_out(alice: User, host: Host) -> None:
    other = HostedRoom("12")
    other.send_state(other.creator, "m.room.name", {"name": "Not here"})
    foreign = [dict(pdu.event) for pdu in other.pdus.values()]
    host.tell = lambda told: {
        **told,
        "state": [*told["state"], *foreign],
        "auth_chain": [*foreign, *told["auth_chain"]],
    }
    join(alice, host).ok()
    assert_joined(alice, host)


def test_state_that_says_two_things_about_one_place_is_refused(alice: User, host: Host) -> None:
    first = host.room.first_join
    host.tell = lambda told: {**told, "state": [*told["state"], dict(first.event)]}
    refuse(alice, host)


def test_state_by_which_the_user_may_not_join_is_refused(alice: User, host: Host) -> None:
    host.is_lax = True
    host.room.ban(host.room.creator, alice.user_id)
    refuse(alice, host)


def test_state_without_the_join_rules_that_let_the_user_in_is_refused(
    alice: User, host: Host
) -> None:
    host.tell = without(host.room, ("m.room.join_rules", ""))
    refuse(alice, host)


def test_state_that_leaves_members_out_unasked_is_refused(alice: User, host: Host) -> None:
    host.tell = lambda told: {**told, "members_omitted": True}
    refuse(alice, host)


def test_create_event_that_others_signed_is_refused(hosts: Hosts, alice: User) -> None:
    host = hosts.add(Host(HostedRoom("11")))
    create = host.room.find_state("m.room.create")
    assert create is not None
    host.tell = replacing(host.room, create.event_id, {"signatures": create.event["hashes"]})
    refuse(alice, host)


def test_event_with_a_bad_signature_is_left_out(alice: User, host: Host) -> None:
    name = host.room.send_state(host.room.creator, "m.room.name", {"name": "Tea"})
    bad = {host.name: {"ed25519:test": "A" * 86}}
    host.tell = replacing(host.room, name.event_id, {"signatures": bad})
    join(alice, host).ok()
    assert_joined(alice, host, without=[("m.room.name", "")])


def test_event_of_a_server_that_tells_no_keys_is_left_out(
    hosts: Hosts, alice: User, host: Host
) -> None:
    gone = "@frank:gone.example"
    host.room.join(gone)
    hosts.mute.add("gone.example")
    join(alice, host).ok()
    assert_joined(alice, host, without=[("m.room.member", gone)])


def test_event_whose_content_was_changed_is_redacted(alice: User, host: Host) -> None:
    topic = host.room.send_state(host.room.creator, "m.room.topic", {"topic": "Green tea"})
    host.tell = replacing(host.room, topic.event_id, {"content": {"topic": "Coffee"}})
    join(alice, host).ok()
    assert_joined(alice, host)
    room = segment(host.room.room_id)
    assert alice.get(f"/rooms/{room}/state/m.room.topic").ok() == {}


def test_event_that_breaks_the_rules_is_rejected_and_no_state(alice: User, host: Host) -> None:
    # Erin has no power to do this.
    usurped = host.room.add(
        host.room.compose(host.room.erin, "m.room.name", {"name": "Mine"}, state_key="")
    )
    # And this relies on it.
    auth_events = [host.room.state["m.room.member", host.room.erin], usurped.event_id]
    follows = host.room.compose(
        host.room.erin, "com.example.entry", {}, state_key="", auth_events=auth_events
    )
    host.room.add(follows)
    join(alice, host).ok()
    assert_joined(alice, host, without=[usurped.key, follows.key])
    verdicts = query(
        alice.server,
        "SELECT verdict FROM event_graph WHERE event_id = ANY(%s)",
        [usurped.event_id, follows.event_id],
    )
    assert verdicts == [(2,), (2,)]


def test_event_without_its_auth_events_is_left_out(alice: User, host: Host) -> None:
    first = host.room.first_join
    host.tell = leaving_out({first.event_id}, host.room)
    join(alice, host).ok()
    assert_joined(alice, host, without=[("m.room.member", host.room.erin)])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_events_that_authorise_each_other_are_left_out(
    hosts: Hosts, alice: User, length: int
) -> None:
    host = hosts.add(Host(HostedRoom("1")))
    room = host.room
    pdus = [
        room.compose(room.creator, "com.example.entry", {"n": n}, state_key=str(n))
        for n in range(length)
    ]
    events = []
    for n, pdu in enumerate(pdus):
        cause = pdus[(n + 1) % length]
        references = [*pdu.event["auth_events"], [cause.event_id, {"sha256": "A" * 43}]]
        events.append(resign(room, pdu.event, auth_events=references))
    host.tell = lambda told: {**told, "state": [*told["state"], *events]}
    join(alice, host).ok()
    assert_joined(alice, host)


def test_event_id_that_stands_for_two_events_stands_for_the_first(
    hosts: Hosts, alice: User
) -> None:
    host = hosts.add(Host(HostedRoom("2")))
    room = host.room
    entry = room.send_state(room.creator, "com.example.entry", {"n": 1}, "1")
    second = resign(room, entry.event, state_key="2", content={"n": 2})
    host.tell = lambda told: {**told, "state": [*told["state"], second]}
    join(alice, host).ok()
    assert_joined(alice, host)


def test_event_id_that_another_room_has_is_left_out(hosts: Hosts, alice: User) -> None:
    one, other = hosts.add(Host(HostedRoom("1"))), hosts.add(Host(HostedRoom("1")))
    stolen = one.room.send_state(one.room.creator, "com.example.entry", {}, "1")
    join(alice, one).ok()
    room = other.room
    entry = room.compose(room.creator, "com.example.entry", {}, state_key="1")
    fake = resign(room, entry.event, event_id=stolen.event_id)
    # Whoever gave the ID has signed, too.
    fake = add_event_signature(room.rules, fake, one.name, TEST_KEY)
    other.tell = lambda told: {**told, "state": [*told["state"], fake]}
    join(alice, other).ok()
    assert_joined(alice, other)
    assert_joined(alice, one)


def test_what_is_no_event_is_left_out(alice: User, host: Host) -> None:
    event = dict(next(iter(host.room.pdus.values())).event)
    rubbish: list[Any] = [
        None,
        7,
        "event",
        [],
        {},
        {**event, "type": 7},
        {**event, "depth": -1},
        {**event, "depth": 2**63},
        {**event, "content": {"x": 1.5}},
        {**event, "auth_events": event},
        {**event, "prev_events": [7]},
        {**event, "sender": "nobody"},
        {**event, "content": {"x": "y" * 70_000}},
        {**event, "state_key": "\0"},
    ]
    host.tell = lambda told: {
        **told,
        "state": [*rubbish, *told["state"], *rubbish],
        "auth_chain": [*rubbish, *told["auth_chain"]],
    }
    join(alice, host).ok()
    assert_joined(alice, host)


# ---- answers that are no such answers


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    yield start
    yield from itertools.repeat(piece)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [b"{}"],
        [b"[]"],
        [b"null"],
        [b'{"state":[],"auth_chain":[]}'],
        [b'{"state":['],
        [b'{"state":[{}'],
        [b'{"state":{},"auth_chain":7}'],
        [b'{"state":[{}]]'],
        [b'{"state":[{"a":1}{"b":2}]}'],
        [b'{"state" [1]}'],
        [b'{"state":["\xff\xfe"]}'],
        [b'{"state":[NaN,1e999,-]}'],
        [b'{"state":[' + b"[" * 100_000],
        [b'{"x":' + b'{"x":' * 100_000],
        [b"[200,[]]"],
        [b'[404,{"state":[]}]'],
        [b"<html>", b"<body>Hello</body>"],
    ],
)
def test_what_is_no_answer_is_refused(alice: User, host: Host, answer: Iterable[bytes]) -> None:
    host.tell = lambda told: answer
    refuse(alice, host)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b" " * 1000),
        (b"{", b" " * 1000),
        (b'{"state":[', b"1," * 500),
        (b'{"state":["', b"x" * 1000),
        (b'{"', b"x" * 1000),
        (b'{"x":', b"1" * 1000),
        (b'{"x":[', b"[" * 1000),
        (b'{"state":[', b'{"a":' * 200),
        (b"{", b'"x":1,' * 100),
    ],
)
def test_answer_without_end_is_refused(
    alice: User, host: Host, start: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_joining, "MAX_JOIN_ANSWER_BYTES", 3_000_000)
    host.tell = lambda told: endless(start, piece)
    refuse(alice, host)


def test_answer_that_comes_byte_by_byte_is_read(alice: User, host: Host) -> None:
    host.tell = lambda told: (bytes([byte]) for byte in orjson.dumps(told))
    join(alice, host).ok()
    assert_joined(alice, host)


def test_answer_that_breaks_off_is_refused(alice: User, host: Host) -> None:
    def broken(told: Json) -> Iterator[bytes]:
        yield orjson.dumps(told)[:-100]
        raise RemoteUnreachable(host.name, "The answer was cut off.")

    host.tell = broken
    refuse(alice, host)
    host.tell = unchanged
    join(alice, host).ok()


@pytest.mark.parametrize("bound", ["MAX_EVENTS", "MAX_REFERENCES", "MAX_SERVERS"])
def test_room_beyond_bounds_is_refused(
    alice: User, host: Host, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(30):
        host.room.join(f"@user{n}:s{n}.example")
    monkeypatch.setattr(told_room, bound, 20)
    refuse(alice, host)


def test_key_that_names_a_member_twice_makes_it_no_event(alice: User, host: Host) -> None:
    name = host.room.send_state(host.room.creator, "m.room.name", {"name": "Tea"})
    twice = orjson.dumps(name.event).replace(b'{"name":"Tea"}', b'{"name":"Tea","name":"Tea"}')

    def tell(told: Json) -> Iterable[bytes]:
        return [orjson.dumps(told).replace(orjson.dumps(name.event), twice)]

    host.tell = tell
    join(alice, host).ok()
    assert_joined(alice, host, without=[name.key])


# ---- templates


TEMPLATES: list[Mapping[str, Any]] = [
    {"type": "m.room.power_levels"},
    {"type": "m.room.message"},
    {"sender": "@erin:erin.example"},
    {"state_key": "@erin:erin.example"},
    {"state_key": None},
    {"room_id": "!other:host.example"},
    {"room_id": None},
    {"content": {"membership": "ban"}},
    {"content": {"membership": "leave"}},
    {"content": {}},
    {"content": None},
    {"depth": -1},
    {"depth": 1.5},
    {"depth": True},
    {"depth": "1"},
    {"prev_events": []},
    {"prev_events": None},
    {"prev_events": [7]},
    {"prev_events": ["nothing"]},
    {"prev_events": ["$" + "a" * 43] * 21},
    {"auth_events": None},
    {"auth_events": {"a": 1}},
    {"auth_events": ["$" + "a" * 43] * 11},
    {"content": {"membership": "join", "join_authorised_via_users_server": "@erin:erin.example"}},
    {"content": {"membership": "join", "join_authorised_via_users_server": 7}},
]


@pytest.mark.parametrize("lie", TEMPLATES, ids=str)
def test_template_of_anything_else_is_not_signed(
    hosts: Hosts, alice: User, host: Host, lie: Mapping[str, Any]
) -> None:
    host.make = lambda made: {**made, "event": {**made["event"], **lie}}
    refuse(alice, host)
    assert not host.received
    assert not hosts.requests("send_join")


@pytest.mark.parametrize("event", [None, 7, "event", [], {}], ids=str)
def test_template_that_is_none_is_not_signed(alice: User, host: Host, event: Any) -> None:
    host.make = lambda made: {**made, "event": event}
    refuse(alice, host)
    assert not host.received


def test_what_a_template_says_beside_is_not_signed(alice: User, host: Host) -> None:
    host.make = lambda made: {
        **made,
        "event": {
            **made["event"],
            "content": {"membership": "join", "displayname": "Mallory", "evil": True},
            "origin_server_ts": 1,
            "redacts": "$something",
            "evil": True,
        },
    }
    join(alice, host).ok()
    (event,) = host.received
    assert event["content"].get("displayname") != "Mallory"
    assert {"evil", "redacts"}.isdisjoint(event)
    assert "evil" not in event["content"]
    assert event["origin_server_ts"] > 1


@pytest.mark.parametrize("quoted", [7, "$a:b", ["$a:b"], ["$a:b", 7], ["$a:b", {"sha256": "!"}]])
def test_template_of_an_old_room_that_quotes_no_hashes_is_not_signed(
    hosts: Hosts, alice: User, quoted: Any
) -> None:
    host = hosts.add(Host(HostedRoom("1")))
    host.make = lambda made: {**made, "event": {**made["event"], "prev_events": [quoted]}}
    refuse(alice, host)
    assert not host.received


def test_room_version_that_we_do_not_have_is_refused(alice: User, host: Host) -> None:
    host.make = lambda made: {**made, "room_version": "org.example.9000"}
    told = join(alice, host).refused(400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert told["room_version"] == "org.example.9000"


def test_lie_about_the_room_version_is_refused(hosts: Hosts, alice: User) -> None:
    host = hosts.add(Host(HostedRoom("11")))
    host.make = lambda made: {**made, "room_version": "10"}
    refuse(alice, host)


def test_restricted_join_that_its_server_did_not_sign_is_refused(
    hosts: Hosts, alice: User
) -> None:
    host = hosts.add(Host(HostedRoom("11"), is_lax=True))
    owner = host.room.creator
    host.room.set_join_rule(owner, "restricted", allow=[])
    content = {"membership": "join", "join_authorised_via_users_server": owner}
    host.make = lambda made: {
        **made,
        "event": {
            **made["event"],
            "content": content,
            "auth_events": sorted(
                {*made["event"]["auth_events"], host.room.state["m.room.member", owner]}
            ),
        },
    }
    refuse(alice, host)

    def sign(told: Json) -> Json:
        event = add_event_signature(host.room.rules, told["event"], host.name, TEST_KEY)
        return {**told, "event": event}

    host.tell = sign
    join(alice.server.register(), host).ok()
    rows = query(
        alice.server,
        "SELECT state FROM stored_events WHERE topic = 'JoinImported' AND originator_id = %s",
        host.room.room_id,
    )
    signatures = orjson.loads(rows[0][0])["pdu"]["signatures"]
    assert set(signatures) == {SERVER_NAME, host.name}


# ---- refusals and failures


@pytest.mark.parametrize("kind", ["make_join", "send_join"])
@pytest.mark.parametrize(
    ("failure", "status", "errcode"),
    [
        ((403, "M_FORBIDDEN"), 403, "M_FORBIDDEN"),
        ((404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"),
        ((400, "M_UNABLE_TO_AUTHORISE_JOIN"), 400, "M_UNABLE_TO_AUTHORISE_JOIN"),
        ((400, "M_UNABLE_TO_GRANT_JOIN"), 400, "M_UNABLE_TO_GRANT_JOIN"),
        ((400, "ORG.EXAMPLE_NO_TEA"), 400, "ORG.EXAMPLE_NO_TEA"),
        ((403, "ORG.EXAMPLE_NO_TEA"), 403, "ORG.EXAMPLE_NO_TEA"),
        ((400, "<script>"), 502, "M_UNKNOWN"),
        ((400, "M_INVALID_PARAM"), 502, "M_UNKNOWN"),
        ((400, "M_MISSING_PARAM"), 502, "M_UNKNOWN"),
        ((429, "M_LIMIT_EXCEEDED"), 502, "M_UNKNOWN"),
        ((500, "M_UNKNOWN"), 502, "M_UNKNOWN"),
        ((403, None), 502, "M_UNKNOWN"),
    ],
)
def test_refusal_of_the_resident_is_passed_on(
    alice: User,
    host: Host,
    kind: str,
    failure: tuple[int, str | None],
    status: int,
    errcode: str,
) -> None:
    code, theirs = failure
    body = {} if theirs is None else {"errcode": theirs, "error": "Not you."}
    host.failures[kind] = RemoteRefused(host.name, code, body)
    join(alice, host).refused(status, errcode)
    assert_nothing_happened(alice, host)


def test_version_that_the_resident_needs_is_named(alice: User, host: Host) -> None:
    body = {"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "New.", "room_version": "99"}
    host.failures["make_join"] = RemoteRefused(host.name, 400, body)
    assert join(alice, host).refused(400, "M_INCOMPATIBLE_ROOM_VERSION")["room_version"] == "99"


@pytest.mark.parametrize(
    "failure",
    [
        RemoteTimedOut("other", "No answer in time."),
        RemoteRefused("other", 500),
        RemoteRefused("other", 404, {"errcode": "M_NOT_FOUND"}),
        RemoteRefused("other", 403, {"errcode": "M_FORBIDDEN", "error": "Not your server."}),
        RemoteRefused("other", 400, {"errcode": "M_UNABLE_TO_AUTHORISE_JOIN"}),
        RemoteRefused("other", 400, {"errcode": "M_UNABLE_TO_GRANT_JOIN"}),
        RemoteRefused("other", 429, {"errcode": "M_LIMIT_EXCEEDED"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["make_join", "send_join"])
def test_next_server_is_asked_when_one_cannot_help(
    hosts: Hosts, alice: User, host: Host, failure: Exception, kind: str
) -> None:
    helper = hosts.add(Host(host.room, helps="helper.example"))
    helper.failures[kind] = failure
    path = f"/join/{segment(host.room.room_id)}"
    params = {"via": [helper.name, host.name]}
    alice.server.request("POST", path, {}, token=alice.token, params=params).ok()
    assert_joined(alice, host)


def test_slow_server_is_asked_again_when_the_others_have_been(
    hosts: Hosts, alice: User, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def get(destination: str, path: str, *args: Any, timeout_s: float = 30, **more: Any) -> Json:
        if "/make_join/" in path:
            asked.append((destination, timeout_s))
            if destination == host.name and timeout_s < 15:
                raise RemoteTimedOut(destination, "It took too long.")
        return Hosts.get(hosts, destination, path, *args, **more)

    monkeypatch.setattr(hosts, "get", get)
    path = f"/join/{segment(host.room.room_id)}"
    params = {"via": [host.name, "gone.example"]}
    alice.server.request("POST", path, {}, token=alice.token, params=params).ok()
    assert_joined(alice, host)
    assert [server for server, _ in asked] == [host.name, "gone.example", host.name]


@pytest.mark.parametrize("other", [404, 400, 503])
def test_that_the_user_may_not_counts_for_more_than_what_others_say(
    hosts: Hosts, alice: User, host: Host, other: int
) -> None:
    helper = hosts.add(Host(host.room, helps="helper.example"))
    errcode = {404: "M_NOT_FOUND", 400: "M_UNABLE_TO_AUTHORISE_JOIN", 503: "M_UNKNOWN"}[other]
    helper.failures["make_join"] = RemoteRefused("helper", other, {"errcode": errcode})
    host.failures["make_join"] = RemoteRefused("host", 403, {"errcode": "M_FORBIDDEN"})
    path = f"/join/{segment(host.room.room_id)}"
    for via in ([helper.name, host.name], [host.name, helper.name]):
        answer = alice.server.request("POST", path, {}, token=alice.token, params={"via": via})
        answer.refused(403, "M_FORBIDDEN")
    assert_nothing_happened(alice, host)


def test_next_server_is_asked_when_one_lies(hosts: Hosts, alice: User, host: Host) -> None:
    liar = hosts.add(Host(host.room, helps="liar.example"))
    liar.tell = without(host.room, ("m.room.create", ""))
    path = f"/join/{segment(host.room.room_id)}"
    params = {"via": [liar.name, host.name]}
    alice.server.request("POST", path, {}, token=alice.token, params=params).ok()
    assert_joined(alice, host)


def test_crash_in_the_middle_leaves_nothing_and_the_next_try_completes(
    alice: User, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("power failure")

    with monkeypatch.context() as patched:
        patched.setattr(Importing, "record_join", crash)
        assert join(alice, host).status == 500
    assert_nothing_happened(alice, host)
    # The room goes on meanwhile.
    host.room.leave(host.room.erin)
    join(alice, host).ok()
    assert_joined(alice, host)


def test_two_users_at_once_make_one_import(server: Server, alice: User, host: Host) -> None:
    bob = server.register()
    may_go_on = threading.Event()

    def tell(told: Json) -> Iterator[bytes]:
        may_go_on.wait(10)
        yield orjson.dumps(told)

    host.tell = tell
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda user=user: answers.append(join(user, host)))
        for user in (alice, bob)
    ]
    for thread in threads:
        thread.start()
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200, 200]
    # The other's join is made here, and goes out with everything else.
    assert len(host.received) == 1
    members = current_state(server, host.room.room_id)
    assert {("m.room.member", user.user_id) for user in (alice, bob)} <= members.keys()


def test_guest_does_not_stay_in_a_room_of_others_that_wants_no_guests(
    server: Server, host: Host
) -> None:
    told = server.request("POST", "/register", {}, params={"kind": "guest"}).ok()
    guest = User(server, told["user_id"], told["access_token"], told["device_id"])
    join(guest, host).refused(403, "M_GUEST_ACCESS_FORBIDDEN")
    assert host.room.room_id not in guest.get("/joined_rooms").ok()["joined_rooms"]


# ---- leaving


def test_rejecting_an_invite_signs_nothing_else(hosts: Hosts, alice: User, host: Host) -> None:
    host.make = lambda made: {
        **made,
        "event": {**made["event"], "content": {"membership": "join"}},
    }
    invite = host.room.invite(host.room.creator, alice.user_id)
    remember_invite(alice.server, host, invite)
    alice.post(f"/rooms/{segment(host.room.room_id)}/leave").ok()
    assert not host.received
    assert host.room.room_id not in alice.get("/sync").ok().get("rooms", {}).get("invite", {})


def remember_invite(server: Server, host: Host, invite: Pdu) -> None:
    """What comes of an invite from the host."""
    rules = host.room.rules

    def decide(session: RoomSession) -> None:
        session.record(StateImported(invite.room_id, session.room.version + 1, invite, 0))

    server.core.commits.write_room(RoomCommand(invite.room_id, decide, creates=rules))


def test_invited_user_joins_through_the_server_of_who_invited(alice: User, host: Host) -> None:
    invite = host.room.invite(host.room.creator, alice.user_id)
    remember_invite(alice.server, host, invite)
    alice.post(f"/rooms/{segment(host.room.room_id)}/join").ok()
    assert_joined(alice, host)


def test_invited_user_joins_by_a_state_event(alice: User, host: Host) -> None:
    invite = host.room.invite(host.room.creator, alice.user_id)
    remember_invite(alice.server, host, invite)
    path = f"/rooms/{segment(host.room.room_id)}/state/m.room.member/{alice.path}"
    join = alice.put(path, {"membership": "join", "displayname": "Al"}).ok()["event_id"]
    assert host.room.state["m.room.member", alice.user_id] == join
    assert_joined(alice, host)


def test_invite_is_rejected_by_a_state_event(alice: User, host: Host) -> None:
    invite = host.room.invite(host.room.creator, alice.user_id)
    remember_invite(alice.server, host, invite)
    path = f"/rooms/{segment(host.room.room_id)}/state/m.room.member/{alice.path}"
    leave = alice.put(path, {"membership": "leave"}).ok()["event_id"]
    assert host.room.state["m.room.member", alice.user_id] == leave
    assert host.room.room_id not in alice.get("/sync").ok()["rooms"]["invite"]


def test_server_without_the_version_of_a_room_cannot_be_invited(alice: User, host: Host) -> None:
    body = {"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "New.", "room_version": "12"}
    host.failures["invite"] = RemoteRefused(host.name, 400, body)
    invited = {"user_id": f"@somebody:{host.name}"}
    answer = alice.post(f"/rooms/{segment(alice.create_room())}/invite", invited)
    answer.refused(400, "M_UNSUPPORTED_ROOM_VERSION")


@pytest.fixture(scope="module", autouse=True)
def _log_stays_whole(server: Server) -> Iterator[None]:
    """Whatever was told: `architex verify` finds nothing wrong in the end."""
    yield
    own_key = server.core.signing_key.verify_key

    def find_key(server_name: str, key_id: str) -> bytes | None:
        return own_key if server_name == SERVER_NAME else TEST_KEY.verify_key

    report = Verifying(server.core.database, all_projections, find_key).verify()
    assert [problem.what for problem in report.problems] == []


def test_canary_room_works_after_all_this(server: Server) -> None:
    user = server.register()
    room_id = user.create_room()
    path = f"/rooms/{segment(room_id)}/send/m.room.message/1"
    user.put(path, {"msgtype": "m.text", "body": "alive"}).ok()
    assert room_id in user.get("/sync").ok()["rooms"]["join"]
