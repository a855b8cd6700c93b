"""What other servers may fetch of a room: who may ask, what they see, how much they get.

Spec: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.pdu_checks import Outcome
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.settings import ProcessSettings, RateLimit, RateLimitSettings
from architex.storage.room_session import RoomCommand
from architex.usecases.judging import Judging
from architex.usecases.serving_history import MAX_BACKFILL, MAX_MISSING
from tests.api.client import SERVER_NAME, Answer, User, segment, stop_server
from tests.federation.visitors import Visitor, World, event_id_of
from tests.statements import noted_statements

Json = dict[str, Any]

_names = (f"peer{number}.example" for number in itertools.count())
VERSION = "11"


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(next(_names))


def create_room(alice: User, visibility: str = "shared", **options: Any) -> RoomId:
    """A public room with a history visibility."""
    initial = [
        {
            "type": "m.room.history_visibility",
            "state_key": "",
            "content": {"history_visibility": visibility},
        }
    ]
    options = {"preset": "public_chat", "room_version": VERSION, **options}
    return alice.create_room(initial_state=initial, **options)


def say(user: User, room_id: RoomId, body: str = "hello") -> EventId:
    path = f"/rooms/{segment(room_id)}/send/m.room.message/{next(user.server.numbers)}"
    return str(user.put(path, {"msgtype": "m.text", "body": body}).ok()["event_id"])


def set_state(user: User, room_id: RoomId, type: str, content: Any, key: str = "") -> EventId:
    path = f"/rooms/{segment(room_id)}/state/{type}/{segment(key)}"
    return str(user.put(path, content).ok()["event_id"])


def send_pdu(
    visitor: Visitor, room_id: RoomId, user_id: UserId, type: str, content: Json, **more: Any
) -> tuple[EventId, Outcome]:
    """An event of the visitor's user, by the state at the end of the room, through the door."""
    version, event = visitor.template("leave", room_id, user_id)
    del event["state_key"]
    event |= {"type": type, "content": content, "origin_server_ts": 1, **more}
    signed, event_id = visitor.sign(version, event)
    core = visitor.server.core
    judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
    (verdict,) = judging.judge(room_id, [signed], lambda *_: visitor.peer.key.verify_key)
    return event_id, verdict.outcome


def get_event(visitor: Visitor, event_id: EventId) -> Json:
    told = visitor.request("GET", ["v1", "event", event_id]).ok()
    assert told["origin"] == SERVER_NAME
    assert isinstance(told["origin_server_ts"], int)
    (pdu,) = told["pdus"]
    assert event_id_of(VERSION, pdu) == event_id
    return dict(pdu)


def backfill(visitor: Visitor, room_id: RoomId, *v: EventId, limit: int = 100) -> list[Json]:
    answer = visitor.request("GET", ["v1", "backfill", room_id], v=list(v), limit=limit)
    return list(answer.ok()["pdus"])


def missing(
    visitor: Visitor,
    room_id: RoomId,
    latest: Sequence[EventId],
    earliest: Sequence[EventId] = (),
    **more: Any,
) -> list[Json]:
    content = {"latest_events": list(latest), "earliest_events": list(earliest), **more}
    answer = visitor.request("POST", ["v1", "get_missing_events", room_id], content)
    return list(answer.ok()["events"])


def state_ids(visitor: Visitor, room_id: RoomId, event_id: EventId) -> Json:
    answer = visitor.request("GET", ["v1", "state_ids", room_id], event_id=event_id)
    return dict(answer.ok())


def ids(pdus: Sequence[Json]) -> list[EventId]:
    return [event_id_of(VERSION, pdu) for pdu in pdus]


def every_question(visitor: Visitor, room_id: RoomId, event_id: EventId) -> dict[str, Answer]:
    """Every way in which a server can ask for a part of a room."""
    ask = visitor.request
    return {
        "event": ask("GET", ["v1", "event", event_id]),
        "state": ask("GET", ["v1", "state", room_id], event_id=event_id),
        "state_ids": ask("GET", ["v1", "state_ids", room_id], event_id=event_id),
        "event_auth": ask("GET", ["v1", "event_auth", room_id, event_id]),
        "backfill": ask("GET", ["v1", "backfill", room_id], v=event_id, limit=10),
        "get_missing_events": ask("POST", ["v1", "get_missing_events", room_id], {}),
    }


# ---- who may ask


def test_server_in_the_room_may_ask_everything(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    for what, answer in every_question(visitor, room_id, say(alice, room_id)).items():
        assert answer.status == 200, what


@pytest.mark.parametrize("visibility", ["world_readable", "shared", "invited", "joined"])
def test_server_that_is_not_in_the_room_learns_nothing(
    alice: User, visitor: Visitor, visibility: str
) -> None:
    room_id = create_room(alice, visibility)
    event_id = say(alice, room_id)
    for answer in every_question(visitor, room_id, event_id).values():
        answer.refused(403, "M_FORBIDDEN")


def test_unknown_room_looks_like_one_that_the_server_is_not_in(visitor: Visitor) -> None:
    for what, answer in every_question(visitor, "!nowhere:test.example", "$nothing").items():
        if what == "event":
            answer.refused(404, "M_NOT_FOUND")
        else:
            answer.refused(403, "M_FORBIDDEN")


def test_server_that_was_only_invited_is_not_in_the_room(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    invite(alice, visitor, room_id, visitor.user("carol"))
    event_id = say(alice, room_id)
    for answer in every_question(visitor, room_id, event_id).values():
        answer.refused(403, "M_FORBIDDEN")


def test_server_whose_last_user_was_kicked_is_out(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    for name in ("carol", "dave"):
        visitor.join(room_id, visitor.user(name))
    event_id = say(alice, room_id)
    alice.post(f"/rooms/{segment(room_id)}/kick", {"user_id": visitor.user("carol")}).ok()
    get_event(visitor, event_id)
    alice.post(f"/rooms/{segment(room_id)}/kick", {"user_id": visitor.user("dave")}).ok()
    for answer in every_question(visitor, room_id, event_id).values():
        answer.refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize("denied", ["{name}", "{upper}", "*.example", "*"])
def test_server_that_the_acl_denies_learns_nothing(
    alice: User, visitor: Visitor, denied: str
) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    denied = denied.format(name=visitor.name, upper=visitor.name.upper())
    event_id = set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"], "deny": [denied]})
    for answer in every_question(visitor, room_id, event_id).values():
        answer.refused(403, "M_FORBIDDEN")


def test_request_without_signature_is_refused(world: World, alice: User) -> None:
    room_id = segment(create_room(alice))
    for path in (
        "event/$a",
        f"state/{room_id}?event_id=$a",
        f"state_ids/{room_id}?event_id=$a",
        f"event_auth/{room_id}/$a",
        f"backfill/{room_id}?v=$a&limit=1",
        f"timestamp_to_event/{room_id}?ts=1&dir=f",
    ):
        answer = world.server.request("GET", f"/_matrix/federation/v1/{path}")
        answer.refused(401, "M_UNAUTHORIZED")


def test_events_of_other_rooms_are_not_told(alice: User, visitor: Visitor) -> None:
    room_id, secret = create_room(alice), create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    event_id = say(alice, secret)
    ask = visitor.request
    ask("GET", ["v1", "state", room_id], event_id=event_id).refused(404, "M_NOT_FOUND")
    ask("GET", ["v1", "state_ids", room_id], event_id=event_id).refused(404, "M_NOT_FOUND")
    ask("GET", ["v1", "event_auth", room_id, event_id]).refused(404, "M_NOT_FOUND")
    assert backfill(visitor, room_id, event_id) == []
    assert missing(visitor, room_id, [event_id]) == []


def test_server_that_asks_too_much_is_told_to_wait(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    limit = RateLimit(per_second=0.001, burst=2)
    world = World(
        module_database_url,
        tmp_path_factory.mktemp("busy"),
        rate_limits=RateLimitSettings(federation_reads=limit, federation_states=limit),
    )
    greedy, modest = world.meet(next(_names)), world.meet(next(_names))
    room_id = f"!nowhere:{SERVER_NAME}"
    for what in ("backfill", "state_ids"):
        query = {"v": "$a", "limit": 1, "event_id": "$a"}
        path = ["v1", what, room_id]
        for _ in range(2):
            greedy.request("GET", path, **query).refused(403, "M_FORBIDDEN")
        told = greedy.request("GET", path, **query).refused(429, "M_LIMIT_EXCEEDED")
        assert told["retry_after_ms"] > 0
        modest.request("GET", path, **query).refused(403, "M_FORBIDDEN")
    stop_server(world.server)


def test_question_takes_one_connection_at_a_time(
    world: World, alice: User, module_database_url: str, tmp_path: Path
) -> None:
    narrow = World(
        module_database_url,
        tmp_path,
        processes=ProcessSettings(database_connections=1),
        rate_limits=RateLimitSettings(enabled=False),
    )
    visitor = narrow.meet(next(_names))
    joining = Visitor(world.server, visitor.peer)
    told = narrow.federation.replies[visitor.name, "/_matrix/key/v2/server"]
    world.federation.replies[visitor.name, "/_matrix/key/v2/server"] = told
    room_id = create_room(alice, "joined")
    said = say(alice, room_id)
    joining.join(room_id, joining.user("carol"))
    for what, answer in every_question(visitor, room_id, said).items():
        assert answer.status == 200, what
    visitor.request("GET", ["v1", "hierarchy", room_id]).ok()
    visitor.request("GET", ["v1", "timestamp_to_event", room_id], ts=1, dir="f").ok()
    stop_server(narrow.server)


# ---- single events


def test_event_is_told_as_it_was_signed(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    event_id = say(alice, room_id, "as it was")
    pdu = get_event(visitor, event_id)
    assert pdu["content"]["body"] == "as it was"
    assert pdu["room_id"] == room_id
    assert set(pdu["signatures"]) == {SERVER_NAME}


def test_redacted_event_is_told_without_its_content(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    event_id = say(alice, room_id, "regretted")
    topic = set_state(alice, room_id, "m.room.topic", {"topic": "regretted"})
    for redacted in (event_id, topic):
        path = f"/rooms/{segment(room_id)}/redact/{segment(redacted)}/r{redacted[1:]}"
        alice.put(path, {}).ok()
    assert get_event(visitor, event_id)["content"] == {}
    newest = say(alice, room_id)
    told = visitor.request("GET", ["v1", "state", room_id], event_id=newest).ok()
    assert b"regretted" not in str(told).encode()
    assert "regretted" not in str(backfill(visitor, room_id, newest))


def test_rejected_event_is_told_to_nobody(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    carol = visitor.user("carol")
    visitor.join(room_id, carol)
    before = say(alice, room_id)
    event_id, outcome = send_pdu(
        visitor, room_id, carol, "m.room.topic", {"topic": "no"}, state_key=""
    )
    assert outcome is Outcome.REJECTED
    visitor.request("GET", ["v1", "event", event_id]).refused(404, "M_NOT_FOUND")
    path = ["v1", "state_ids", room_id]
    visitor.request("GET", path, event_id=event_id).refused(404, "M_NOT_FOUND")
    assert before in ids(backfill(visitor, room_id, event_id))
    assert event_id not in ids(backfill(visitor, room_id, event_id))


def test_rejected_events_change_nothing_and_hide_nothing(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    carol = visitor.user("carol")
    visitor.join(room_id, carol)
    before = say(alice, room_id, "before")
    for number in range(30):
        topic = {"topic": f"no {number}"}
        _, outcome = send_pdu(visitor, room_id, carol, "m.room.topic", topic, state_key="")
        assert outcome is Outcome.REJECTED
    after = say(alice, room_id, "after")
    path = f"/rooms/{segment(room_id)}"
    alice.get(f"{path}/state/m.room.topic").refused(404, "M_NOT_FOUND")
    page = alice.get(f"{path}/messages", dir="b", limit=2).ok()
    assert [event["event_id"] for event in page["chunk"]] == [after, before]
    # An event of the same server that follows them stands in the room's state, not in theirs.
    event_id, outcome = send_pdu(visitor, room_id, carol, "m.room.message", {"body": "yes"})
    assert outcome is Outcome.ACCEPTED
    told = state_ids(visitor, room_id, event_id)
    assert len(told["pdu_ids"]) == len(alice.get(f"{path}/state").ok())


def test_messages_of_erased_users_are_told_without_content(
    world: World, alice: User, visitor: Visitor
) -> None:
    room_id = create_room(alice)
    bob = world.server.register()
    bob.post(f"/rooms/{segment(room_id)}/join").ok()
    visitor.join(room_id, visitor.user("carol"))
    event_id = say(bob, room_id, "forget me")
    assert get_event(visitor, event_id)["content"]["body"] == "forget me"
    bob.post("/account/deactivate", {"auth": bob.password_auth(), "erase": True}).ok()
    assert get_event(visitor, event_id)["content"] == {}


@pytest.mark.parametrize("event_id", ["x", "$", "$" + "a" * 300, "$a%00"])
def test_odd_event_ids_are_refused(visitor: Visitor, event_id: str) -> None:
    answer = visitor.request("GET", ["v1", "event", event_id])
    assert answer.status in (400, 404)


# ---- states and auth chains


def test_state_is_the_one_before_the_event(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    first = set_state(alice, room_id, "m.room.topic", {"topic": "first"})
    second = set_state(alice, room_id, "m.room.topic", {"topic": "second"})
    message = say(alice, room_id)
    assert first in state_ids(visitor, room_id, second)["pdu_ids"]
    assert second not in state_ids(visitor, room_id, second)["pdu_ids"]
    assert second in state_ids(visitor, room_id, message)["pdu_ids"]
    assert first not in state_ids(visitor, room_id, message)["pdu_ids"]


def test_state_comes_with_all_that_authorises_it(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    event_id = say(alice, room_id)
    told = visitor.request("GET", ["v1", "state", room_id], event_id=event_id).ok()
    by_id = {event_id_of(VERSION, pdu): pdu for pdu in (*told["pdus"], *told["auth_chain"])}
    for pdu in by_id.values():
        assert set(pdu["auth_events"]) <= set(by_id)
    keys = [(pdu["type"], pdu["state_key"]) for pdu in told["pdus"]]
    assert len(keys) == len(set(keys))
    assert ("m.room.create", "") in keys
    by_ids = state_ids(visitor, room_id, event_id)
    assert by_ids["pdu_ids"] == ids(told["pdus"])
    assert by_ids["auth_chain_ids"] == ids(told["auth_chain"])
    chain = visitor.request("GET", ["v1", "event_auth", room_id, event_id]).ok()["auth_chain"]
    assert {pdu["type"] for pdu in chain} >= {"m.room.create", "m.room.power_levels"}
    assert event_id not in ids(chain)


def test_state_before_the_first_event_is_empty(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    joined = visitor.join(room_id, visitor.user("carol"))
    (create,) = [pdu for pdu in joined["state"] if pdu["type"] == "m.room.create"]
    told = state_ids(visitor, room_id, event_id_of(VERSION, create))
    assert told == {"pdu_ids": [], "auth_chain_ids": []}


def test_state_on_a_branch_is_that_of_the_branch(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    carol = visitor.user("carol")
    visitor.join(room_id, carol)
    levels = {"users": {alice.user_id: 100, carol: 50}, "state_default": 50}
    set_state(alice, room_id, "m.room.power_levels", levels)
    old = set_state(alice, room_id, "m.room.topic", {"topic": "old"})
    _, template = visitor.template("leave", room_id, carol)
    refers = {key: template[key] for key in ("prev_events", "auth_events", "depth")}
    new = set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    name, outcome = send_pdu(
        visitor, room_id, carol, "m.room.name", {"name": "on a branch"}, state_key="", **refers
    )
    assert outcome is Outcome.ACCEPTED
    refers["prev_events"] = [name]
    message, outcome = send_pdu(visitor, room_id, carol, "m.room.message", {"body": "a"}, **refers)
    assert outcome is Outcome.ACCEPTED
    at_name = state_ids(visitor, room_id, name)["pdu_ids"]
    at_message = state_ids(visitor, room_id, message)["pdu_ids"]
    assert old in at_name
    assert not {new, name} & set(at_name)
    assert {old, name} <= set(at_message)
    assert new not in at_message
    end = say(alice, room_id)
    assert {new, name} <= set(state_ids(visitor, room_id, end)["pdu_ids"])


def test_state_costs_as_many_questions_as_in_any_room(
    alice: User, visitor: Visitor, module_database_url: str
) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    core = visitor.server.core
    drafts = [EventDraft("org.example.entry", alice.user_id, {}, f"{n}") for n in range(300)]
    core.commits.write_room(
        RoomCommand(room_id, lambda session: [session.append(draft) for draft in drafts])
    )
    event_id = say(alice, room_id)
    with noted_statements(module_database_url) as statements:
        assert len(state_ids(visitor, room_id, event_id)["pdu_ids"]) > 300
    assert len(statements) < 15
    with noted_statements(module_database_url) as statements:
        told = visitor.request("GET", ["v1", "state", room_id], event_id=event_id).ok()
    assert len(told["pdus"]) > 300
    assert len(statements) < 20


@pytest.mark.parametrize("what", ["state", "state_ids"])
def test_state_needs_an_event(alice: User, visitor: Visitor, what: str) -> None:
    room_id = create_room(alice)
    visitor.request("GET", ["v1", what, room_id]).refused(400, "M_MISSING_PARAM")
    visitor.request("GET", ["v1", what, "notaroom"]).refused(400, "M_MISSING_PARAM")
    visitor.request("GET", ["v1", what, "notaroom"], event_id="$a").refused(400, "M_INVALID_PARAM")


# ---- history


def test_backfill_gives_events_nearest_first_up_to_the_limit(
    alice: User, visitor: Visitor
) -> None:
    room_id = create_room(alice)
    said = [say(alice, room_id) for _ in range(12)]
    visitor.join(room_id, visitor.user("carol"))
    assert ids(backfill(visitor, room_id, said[-1], limit=5)) == said[:-6:-1]
    everything = backfill(visitor, room_id, said[-1])
    assert ids(everything)[:12] == said[::-1]
    assert everything[-1]["type"] == "m.room.create"
    assert backfill(visitor, room_id, said[-1], limit=0) == []
    assert backfill(visitor, room_id, "$nobody-knows-it") == []
    both = ids(backfill(visitor, room_id, said[3], said[5], limit=6))
    assert both[:2] == [said[3], said[5]]
    assert set(both) == set(said[:6])


def test_backfill_is_bounded(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    said = [say(alice, room_id) for _ in range(MAX_BACKFILL + 10)]
    visitor.join(room_id, visitor.user("carol"))
    assert ids(backfill(visitor, room_id, said[-1], limit=10_000)) == said[::-1][:MAX_BACKFILL]


def test_backfill_of_a_hundred_events_asks_the_database_little(
    alice: User, visitor: Visitor, module_database_url: str
) -> None:
    room_id = create_room(alice)
    said = [say(alice, room_id) for _ in range(MAX_BACKFILL)]
    visitor.join(room_id, visitor.user("carol"))
    with noted_statements(module_database_url) as statements:
        assert len(backfill(visitor, room_id, said[-1])) == MAX_BACKFILL
    assert len(statements) < 20


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"v": "$a"},
        {"limit": 5},
        {"v": "$a", "limit": "many"},
        {"v": "$a", "limit": -1},
        {"v": "$a", "limit": ""},
    ],
)
def test_backfill_refuses_what_is_no_question(
    alice: User, visitor: Visitor, query: Mapping[str, Any]
) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    answer = visitor.request("GET", ["v1", "backfill", room_id], **query)
    if query.get("limit") == "":
        assert answer.ok()["pdus"] == []
    else:
        assert answer.status == 400


def test_missing_events_are_those_between(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    said = [say(alice, room_id) for _ in range(8)]
    assert ids(missing(visitor, room_id, [said[6]], [said[2]])) == said[3:6]
    assert ids(missing(visitor, room_id, [said[6]], [said[2]], limit=2)) == said[4:6]
    assert missing(visitor, room_id, [said[6]], [said[5]]) == []
    assert missing(visitor, room_id, [said[6]], [said[6]]) == missing(visitor, room_id, [said[6]])
    assert missing(visitor, room_id, [], []) == []
    # What nobody has heard of ends nothing, and hides nothing.
    assert ids(missing(visitor, room_id, [said[6], "$unknown"], [said[2], "$no"])) == said[3:6]


def test_missing_events_are_bounded(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    said = [say(alice, room_id) for _ in range(MAX_MISSING + 15)]
    assert ids(missing(visitor, room_id, [said[-1]])) == said[-11:-1]
    told = missing(visitor, room_id, [said[-1]], limit=10**6)
    assert ids(told) == said[-MAX_MISSING - 1 : -1]
    assert missing(visitor, room_id, [said[-1]], limit=-5) == []
    deep = min(pdu["depth"] for pdu in told[-3:])
    assert ids(missing(visitor, room_id, [said[-1]], limit=20, min_depth=deep)) == said[-4:-1]


@pytest.mark.parametrize(
    "content",
    [
        {"latest_events": "x"},
        {"latest_events": [1]},
        {"latest_events": [None], "earliest_events": []},
        {"earliest_events": {}},
        {"limit": "10"},
        {"limit": True},
        {"min_depth": []},
        {"earliest_events": ["$a"] * 10_001},
    ],
)
def test_missing_events_refuses_what_is_no_question(
    alice: User, visitor: Visitor, content: Json
) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    answer = visitor.request("POST", ["v1", "get_missing_events", room_id], content)
    answer.refused(400, "M_BAD_JSON")


def test_many_odd_names_are_harmless(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    odd = ["", "\0", "$\0", "x" * 5000, "\ud7ff", "$" + "é" * 300]
    assert missing(visitor, room_id, odd * 50, odd * 50) == []
    assert backfill(visitor, room_id, *odd[2:] * 50) == []


def test_soft_failed_event_is_told_to_who_names_what_follows_it(
    alice: User, visitor: Visitor
) -> None:
    room_id = create_room(alice)
    carol, dave = visitor.user("carol"), visitor.user("dave")
    visitor.join(room_id, carol)
    visitor.join(room_id, dave)
    _, template = visitor.template("leave", room_id, carol)
    refers = {key: template[key] for key in ("prev_events", "auth_events", "depth")}
    alice.post(f"/rooms/{segment(room_id)}/ban", {"user_id": carol}).ok()
    late, outcome = _send_late(visitor, room_id, carol, dave, refers)
    assert outcome is Outcome.SOFT_FAILED
    assert late in ids(backfill(visitor, room_id, late))
    assert late not in ids(backfill(visitor, room_id, say(alice, room_id)))


def _send_late(
    visitor: Visitor, room_id: RoomId, sender: UserId, member: UserId, refers: Json
) -> tuple[EventId, Outcome]:
    content = {"body": "after the ban"}
    return send_pdu(visitor, room_id, member, "m.room.message", content, sender=sender, **refers)


# ---- what a server sees of history


def visible(visitor: Visitor, room_id: RoomId, event_id: EventId, newest: EventId) -> bool:
    """Whether the visitor sees an event's content; by all ways alike."""
    by_id = "body" in get_event(visitor, event_id)["content"]
    filled = {event_id_of(VERSION, pdu): pdu for pdu in backfill(visitor, room_id, newest)}
    between = {
        event_id_of(VERSION, pdu): pdu for pdu in missing(visitor, room_id, [newest], limit=20)
    }
    for found in (filled, between):
        if event_id in found:
            assert ("body" in found[event_id]["content"]) is by_id
    assert event_id in filled
    return by_id


@pytest.mark.parametrize(
    ("visibility", "before", "invited", "joined", "away", "again"),
    [
        ("world_readable", True, True, True, True, True),
        ("shared", True, True, True, True, True),
        ("something_new", True, True, True, True, True),
        ("invited", False, True, True, False, True),
        ("joined", False, False, True, False, True),
    ],
)
def test_server_sees_what_one_of_its_users_could(
    alice: User,
    visitor: Visitor,
    visibility: str,
    before: bool,
    invited: bool,
    joined: bool,
    away: bool,
    again: bool,
) -> None:
    room_id = create_room(alice, visibility)
    carol = visitor.user("carol")
    said = {"before": say(alice, room_id)}
    invite(alice, visitor, room_id, carol)
    said["invited"] = say(alice, room_id)
    visitor.join(room_id, carol)
    said["joined"] = say(alice, room_id)
    alice.post(f"/rooms/{segment(room_id)}/kick", {"user_id": carol}).ok()
    said["away"] = say(alice, room_id)
    visitor.join(room_id, carol)
    said["again"] = newest = say(alice, room_id)
    seen = {name: visible(visitor, room_id, event_id, newest) for name, event_id in said.items()}
    assert seen == {
        "before": before,
        "invited": invited,
        "joined": joined,
        "away": away,
        "again": again,
    }


def invite(alice: User, visitor: Visitor, room_id: RoomId, user_id: UserId) -> None:
    """An invite in the room's state, whoever delivers it."""
    draft = EventDraft("m.room.member", alice.user_id, {"membership": "invite"}, user_id)
    command = RoomCommand(room_id, lambda session: session.append(draft))
    visitor.server.core.commits.write_room(command)


def test_visibility_counts_as_it_was_at_the_event(alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice, "joined")
    hidden = say(alice, room_id)
    set_visibility(alice, room_id, "shared")
    shown = say(alice, room_id)
    set_visibility(alice, room_id, "joined")
    hidden_again = say(alice, room_id)
    visitor.join(room_id, visitor.user("carol"))
    newest = say(alice, room_id)
    assert not visible(visitor, room_id, hidden, newest)
    assert visible(visitor, room_id, shown, newest)
    assert not visible(visitor, room_id, hidden_again, newest)


def test_change_of_visibility_is_seen_if_one_side_of_it_allows(
    alice: User, visitor: Visitor
) -> None:
    room_id = create_room(alice, "joined")
    opened = set_visibility(alice, room_id, "shared")
    closed = set_visibility(alice, room_id, "joined")
    # Nothing else of a visibility event can be hidden than what a redaction takes.
    visitor.join(room_id, visitor.user("carol"))
    for event_id in (opened, closed):
        pdu = get_event(visitor, event_id)
        assert pdu["content"]["note"] == "here"


def set_visibility(alice: User, room_id: RoomId, visibility: str) -> EventId:
    content = {"history_visibility": visibility, "note": "here"}
    return set_state(alice, room_id, "m.room.history_visibility", content)


def test_server_sees_its_own_events_always(world: World, alice: User) -> None:
    one, other = world.meet(next(_names)), world.meet(next(_names))
    room_id = create_room(alice, "joined")
    carol = one.user("carol")
    one.join(room_id, carol)
    event_id, _ = send_pdu(one, room_id, carol, "m.room.message", {"body": "mine"})
    other.join(room_id, other.user("dave"))
    newest = say(alice, room_id)
    assert visible(one, room_id, event_id, newest)
    assert not visible(other, room_id, event_id, newest)


def test_visibility_on_a_branch_is_that_of_the_branch(world: World, alice: User) -> None:
    one, other = world.meet(next(_names)), world.meet(next(_names))
    room_id = create_room(alice, "shared")
    carol = one.user("carol")
    one.join(room_id, carol)
    levels = {"users": {alice.user_id: 100, carol: 100}}
    set_state(alice, room_id, "m.room.power_levels", levels)
    _, template = one.template("leave", room_id, carol)
    refers = {key: template[key] for key in ("prev_events", "auth_events", "depth")}
    say(alice, room_id)
    kind = "m.room.history_visibility"
    closing, outcome = send_pdu(
        one, room_id, carol, kind, {"history_visibility": "joined"}, state_key="", **refers
    )
    assert outcome is Outcome.ACCEPTED
    refers["prev_events"] = [closing]
    closed, outcome = send_pdu(one, room_id, carol, "m.room.message", {"body": "a"}, **refers)
    assert outcome is Outcome.ACCEPTED
    set_visibility(alice, room_id, "shared")
    other.join(room_id, other.user("dave"))
    newest = say(alice, room_id)
    assert not visible(other, room_id, closed, newest)
    assert visible(one, room_id, closed, newest)
