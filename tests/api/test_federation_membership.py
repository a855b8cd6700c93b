"""Users of other servers join, knock and leave through ours, and nothing else gets in that way.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from architex.domain.room_versions import ROOM_VERSIONS, get_room_version
from architex.domain.signing import verify_event_signatures
from architex.projections import state_exports
from architex.settings import RateLimit, RateLimitSettings
from tests.api.client import SERVER_NAME, User, stop_server
from tests.federation.visitors import Visitor, World, event_id_of

_numbers = itertools.count()


@pytest.fixture(scope="module")
def visitor(world: World) -> Visitor:
    return world.meet("visitor.example")


@pytest.fixture(scope="module")
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def bob(visitor: Visitor) -> str:
    return visitor.user(f"bob{next(_numbers)}")


def public_room(user: User, version: str = "11") -> str:
    return user.create_room(preset="public_chat", room_version=version)


def membership(user: User, room_id: str, member: str) -> Any:
    answer = user.get(f"/rooms/{room_id}/state/m.room.member/{member}")
    return answer.json.get("membership")


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_user_of_another_server_joins_a_public_room(
    alice: User, visitor: Visitor, bob: str, version: str
) -> None:
    room_id = public_room(alice, version)
    answer = visitor.join(room_id, bob)
    assert membership(alice, room_id, bob) == "join"
    assert answer["members_omitted"] is False
    assert answer["servers_in_room"] == [SERVER_NAME]
    types = {(event["type"], event["state_key"]) for event in answer["state"]}
    assert ("m.room.create", "") in types
    assert ("m.room.member", alice.user_id) in types
    assert ("m.room.member", bob) not in types
    ids = {event_id_of(version, e) for e in [*answer["auth_chain"], *answer["state"]]}
    for event in [*answer["state"], *answer["auth_chain"], answer["event"]]:
        auth_ids = [e if isinstance(e, str) else e[0] for e in event["auth_events"]]
        assert ids.issuperset(auth_ids)


def test_first_version_of_send_join_wraps_its_answer(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    status, told = visitor.send("join", room_id, event, event_id, version="v1").ok()
    assert status == 200
    assert told.keys() >= {"state", "auth_chain"}


def test_members_are_left_out_for_those_who_ask(
    alice: User, visitor: Visitor, bob: str, world: World
) -> None:
    room_id = public_room(alice)
    world.server.register().post(f"/join/{room_id}").ok()
    answer = visitor.join(room_id, bob, omit_members="true")
    assert answer["members_omitted"] is True
    types = [event["type"] for event in answer["state"]]
    assert "m.room.create" in types
    # Two members, and the room has no name: it is named after them.
    assert types.count("m.room.member") == 2
    alice.put(f"/rooms/{room_id}/state/m.room.name", {"name": "Tea"}).ok()
    carol = visitor.user("carol")
    answer = visitor.join(room_id, carol, omit_members="true")
    assert "m.room.member" not in [event["type"] for event in answer["state"]]
    own = {event_id_of("11", event) for event in answer["state"]}
    assert own.isdisjoint(event_id_of("11", event) for event in answer["auth_chain"])
    assert set(answer["servers_in_room"]) == {SERVER_NAME, visitor.name}


def test_answer_to_a_join_is_the_state_before_it(alice: User, visitor: Visitor, bob: str) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    alice.put(f"/rooms/{room_id}/state/m.room.topic", {"topic": "Since then"}).ok()
    answer = visitor.send("join", room_id, event, event_id).ok()
    assert "m.room.topic" not in [e["type"] for e in answer["state"]]
    assert membership(alice, room_id, bob) == "join"
    later = visitor.join(room_id, visitor.user("later"))
    assert "m.room.topic" in [e["type"] for e in later["state"]]


def test_state_of_a_room_is_told_in_pieces(
    alice: User, visitor: Visitor, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = public_room(alice)
    monkeypatch.setattr(state_exports, "PIECE", 2)
    answer = visitor.join(room_id, bob)
    types = [event["type"] for event in answer["state"]]
    assert len(types) > 4
    assert types.count("m.room.create") == types.count("m.room.power_levels") == 1


def test_redacted_state_is_told_pruned(alice: User, visitor: Visitor, bob: str) -> None:
    room_id = public_room(alice)
    topic = alice.put(f"/rooms/{room_id}/state/m.room.topic", {"topic": "Secret"}).ok()
    alice.put(f"/rooms/{room_id}/redact/{topic['event_id']}/1").ok()
    answer = visitor.join(room_id, bob)
    topics = [event["content"] for event in answer["state"] if event["type"] == "m.room.topic"]
    assert topics == [{}]


# ---- templates


def test_template_is_what_the_spec_says(alice: User, visitor: Visitor, bob: str) -> None:
    room_id = public_room(alice)
    made = visitor.make("join", room_id, bob).ok()
    event = made["event"]
    assert made["room_version"] == "11"
    assert (event["type"], event["room_id"]) == ("m.room.member", room_id)
    assert event["sender"] == event["state_key"] == bob
    assert event["content"] == {"membership": "join"}
    assert "signatures" not in event
    assert "hashes" not in event
    assert "event_id" not in event


@pytest.mark.parametrize("versions", [None, ["1"], ["1", "12"], ["org.example.other"]])
def test_server_without_the_rooms_version_is_told_which_it_is(
    alice: User, visitor: Visitor, bob: str, versions: list[str] | None
) -> None:
    answer = visitor.make("join", public_room(alice), bob, versions)
    assert answer.refused(400, "M_INCOMPATIBLE_ROOM_VERSION")["room_version"] == "11"


def test_server_that_names_no_version_has_version_1(
    alice: User, visitor: Visitor, bob: str
) -> None:
    assert visitor.make("join", public_room(alice, "1"), bob, None).ok()["room_version"] == "1"


@pytest.mark.parametrize("what", ["join", "knock", "leave"])
def test_templates_are_for_users_of_the_server_that_asks(
    alice: User, visitor: Visitor, what: str
) -> None:
    room_id = public_room(alice)
    for user_id in (alice.user_id, "@bob:elsewhere.example"):
        visitor.make(what, room_id, user_id).refused(403, "M_FORBIDDEN")
    visitor.make(what, room_id, "nobody").refused(400, "M_INVALID_PARAM")


@pytest.mark.parametrize("what", ["join", "knock", "leave"])
def test_unknown_rooms_and_those_we_left_are_not_found(
    alice: User, visitor: Visitor, bob: str, what: str
) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    alice.post(f"/rooms/{room_id}/leave").ok()
    visitor.make(what, room_id, bob).refused(404, "M_NOT_FOUND")
    visitor.make(what, "!unknown:test.example", bob).refused(404, "M_NOT_FOUND")
    visitor.send("join", room_id, event, event_id).refused(404, "M_NOT_FOUND")


def test_denied_server_gets_no_template_and_sends_nothing(
    alice: User, world: World, visitor: Visitor
) -> None:
    room_id = public_room(alice)
    denied = world.meet("denied.example")
    bob = denied.user("bob")
    event, event_id = denied.complete("join", room_id, bob)
    acl = {"allow": ["*"], "deny": ["denied.example"]}
    alice.put(f"/rooms/{room_id}/state/m.room.server_acl", acl).ok()
    for what in ("join", "knock", "leave"):
        denied.make(what, room_id, bob).refused(403, "M_FORBIDDEN")
        denied.send(what, room_id, event, event_id).refused(403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) is None
    visitor.join(room_id, visitor.user("welcome"))


def test_uninvited_user_cannot_join_a_private_room(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = alice.create_room(preset="private_chat")
    visitor.make("join", room_id, bob).refused(403, "M_FORBIDDEN")


def test_template_is_worth_nothing_after_a_ban(alice: User, visitor: Visitor, bob: str) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    alice.post(f"/rooms/{room_id}/ban", {"user_id": bob}).ok()
    visitor.make("join", room_id, bob).refused(403, "M_FORBIDDEN")
    visitor.send("join", room_id, event, event_id).refused(403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "ban"


def test_the_same_join_twice_is_one_join(alice: User, visitor: Visitor, bob: str) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    first = visitor.send("join", room_id, event, event_id).ok()
    again = visitor.send("join", room_id, event, event_id).ok()
    assert (again["event"], again["state"]) == (first["event"], first["state"])
    timeline = alice.get(f"/rooms/{room_id}/messages", dir="b").ok()["chunk"]
    assert [e["event_id"] for e in timeline].count(event_id) == 1


def test_old_join_does_not_bring_back_who_left(alice: User, visitor: Visitor, bob: str) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    visitor.send("join", room_id, event, event_id).ok()
    leave, leave_id = visitor.complete("leave", room_id, bob)
    assert visitor.send("leave", room_id, leave, leave_id).ok() == {}
    visitor.send("join", room_id, event, event_id).refused(403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "leave"


# ---- hostile joins: valid events, mutated and signed again

OTHER_ROOM = "!other:test.example"
UNKNOWN = "$" + "a" * 43

MUTATIONS: dict[str, dict[str, Any]] = {
    "another type": {"type": "m.room.message"},
    "power levels": {"type": "m.room.power_levels", "state_key": "", "content": {"users": {}}},
    "no type": {"type": None},
    "an invite": {"content": {"membership": "invite"}},
    "a ban": {"content": {"membership": "ban"}},
    "a leave": {"content": {"membership": "leave"}},
    "an unknown membership": {"content": {"membership": "lurk"}},
    "no membership": {"content": {}},
    "membership of another type": {"content": {"membership": ["join"]}},
    "content of another type": {"content": ["membership", "join"]},
    "somebody else": {"state_key": "@other:visitor.example"},
    "somebody of ours": {"state_key": "@alice:test.example"},
    "no state key": {"state_key": None},
    "a state key of another type": {"state_key": 5},
    "sent by one of ours": {"sender": "@alice:test.example", "state_key": "@alice:test.example"},
    "sent by somebody else": {"sender": "@other:visitor.example"},
    "sent by nobody": {"sender": "nobody"},
    "sent by a third server": {"sender": "@x:third.example", "state_key": "@x:third.example"},
    "another room": {"room_id": OTHER_ROOM},
    "no room": {"room_id": None},
    "a room of another type": {"room_id": {}},
    "no auth events": {"auth_events": []},
    "unknown auth events": {"auth_events": [UNKNOWN]},
    "auth events of another type": {"auth_events": [5]},
    "too many auth events": {"auth_events": [UNKNOWN] * 11},
    "no previous events": {"prev_events": []},
    "unknown previous events": {"prev_events": [UNKNOWN]},
    "previous events of another type": {"prev_events": {"a": 1}},
    "too many previous events": {"prev_events": [UNKNOWN] * 21},
    "a negative depth": {"depth": -1},
    "a depth too great": {"depth": 2**63},
    "a depth of another type": {"depth": "1"},
    "a fractional depth": {"depth": 1.5},
    "a time of another type": {"origin_server_ts": "now"},
    "a fraction": {"content": {"membership": "join", "bad": 1.5}},
    "a huge integer": {"content": {"membership": "join", "bad": 2**53}},
    "an authoriser who is nobody": {
        "content": {"membership": "join", "join_authorised_via_users_server": "alice"}
    },
    "an authoriser of another type": {
        "content": {"membership": "join", "join_authorised_via_users_server": {"a": 1}}
    },
    "an authoriser of a third server": {
        "content": {"membership": "join", "join_authorised_via_users_server": "@x:third.example"}
    },
    "a huge event": {"content": {"membership": "join", "x": "x" * 66_000}},
    "a long field": {"sender": f"@{'x' * 300}:visitor.example"},
}


@pytest.mark.parametrize("what", ["join", "leave", "knock"])
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_event_changes_nothing_and_gets_no_signature(
    alice: User, visitor: Visitor, bob: str, name: str, what: str, mutation_room: str
) -> None:
    version, event = visitor.template("join", mutation_room, bob)
    mutated = {**event, "content": {"membership": what}, **MUTATIONS[name]}
    if name == "a leave" and what == "leave":
        mutated["content"] = {"membership": "join"}
    mutated = {key: value for key, value in mutated.items() if value is not None}
    signed, event_id = visitor.sign_anyhow(version, mutated)
    before = alice.get(f"/rooms/{mutation_room}/state").ok()
    answer = visitor.send(what, mutation_room, signed, event_id)
    assert 400 <= answer.status < 500, answer.json
    assert "signatures" not in str(answer.json)
    after = alice.get(f"/rooms/{mutation_room}/state").ok()
    assert {e["event_id"] for e in after} == {e["event_id"] for e in before}


@pytest.fixture(scope="module")
def mutation_room(alice: User) -> str:
    return public_room(alice)


@pytest.mark.parametrize("what", ["join", "leave", "knock"])
@pytest.mark.parametrize("signatures", ["none", "garbage", "of another key", "of another server"])
def test_event_that_its_sender_did_not_sign_is_refused(
    alice: User, visitor: Visitor, bob: str, what: str, signatures: str, mutation_room: str
) -> None:
    event, event_id = visitor.complete("join", mutation_room, bob, content={"membership": what})
    key_id = visitor.peer.key.key_id
    given: dict[str, Any] = {
        "none": {},
        "garbage": {visitor.name: {key_id: "A" * 86}},
        "of another key": {
            visitor.name: {"ed25519:other": event["signatures"][visitor.name][key_id]}
        },
        "of another server": {"third.example": event["signatures"][visitor.name]},
    }[signatures]
    changed = {**event, "signatures": given}
    visitor.send(what, mutation_room, changed, event_id).refused(403, "M_FORBIDDEN")
    del changed["hashes"]
    visitor.send(what, mutation_room, changed, event_id).refused(403, "M_FORBIDDEN")
    assert membership(alice, mutation_room, bob) is None


def test_event_must_be_what_the_path_says(
    alice: User, visitor: Visitor, bob: str, mutation_room: str
) -> None:
    event, event_id = visitor.complete("join", mutation_room, bob)
    other_room = public_room(alice)
    visitor.send("join", other_room, event, event_id).refused(400, "M_INVALID_PARAM")
    visitor.send("join", mutation_room, event, UNKNOWN).refused(400, "M_INVALID_PARAM")
    visitor.send("join", mutation_room, event, "nonsense").refused(400, "M_INVALID_PARAM")
    changed = {**event, "content": {**event["content"], "displayname": "Bob"}}
    visitor.send("join", mutation_room, changed, event_id).refused(400, "M_INVALID_PARAM")
    assert membership(alice, mutation_room, bob) is None


def test_join_is_sent_by_its_own_server(
    alice: User, world: World, visitor: Visitor, bob: str, mutation_room: str
) -> None:
    event, event_id = visitor.complete("join", mutation_room, bob)
    third = world.meet("third-party.example")
    third.send("join", mutation_room, event, event_id).refused(403, "M_FORBIDDEN")
    assert membership(alice, mutation_room, bob) is None


def test_what_came_unsigned_with_a_join_is_not_kept(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = public_room(alice)
    event, event_id = visitor.complete("join", room_id, bob)
    sent = {**event, "unsigned": {"prev_content": {"membership": "ban"}, "age": -5}}
    answer = visitor.send("join", room_id, sent, event_id).ok()
    assert "unsigned" not in answer["event"]


# ---- leaving


def test_invited_user_of_another_server_rejects_the_invite(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = public_room(alice)
    visitor.join(room_id, bob)
    event, event_id = visitor.complete("leave", room_id, bob)
    assert visitor.send("leave", room_id, event, event_id, version="v1").ok() == [200, {}]
    assert membership(alice, room_id, bob) == "leave"


def test_who_never_was_in_the_room_does_not_leave_it(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = public_room(alice)
    visitor.make("leave", room_id, bob).refused(403, "M_FORBIDDEN")
    event, event_id = visitor.complete("join", room_id, bob, content={"membership": "leave"})
    visitor.send("leave", room_id, event, event_id).refused(403, "M_FORBIDDEN")


# ---- knocking


def test_knock_is_answered_with_what_may_be_known_of_the_room(
    alice: User, visitor: Visitor, bob: str
) -> None:
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = alice.create_room(preset="private_chat", name="Tea", initial_state=[rules])
    event, event_id = visitor.complete("knock", room_id, bob)
    told = visitor.send("knock", room_id, event, event_id).ok()["knock_room_state"]
    contents = {entry["type"]: entry["content"] for entry in told}
    assert contents["m.room.name"] == {"name": "Tea"}
    assert contents["m.room.create"]["room_version"]
    assert all(SERVER_NAME in entry["signatures"] for entry in told)
    assert "m.room.power_levels" not in contents
    assert membership(alice, room_id, bob) == "knock"


def test_who_knocks_names_room_versions(alice: User, visitor: Visitor, bob: str) -> None:
    made = visitor.make("knock", public_room(alice), bob, versions=None)
    made.refused(400, "M_MISSING_PARAM")


@pytest.mark.parametrize("version", ["6", "11"])
def test_room_that_does_not_let_people_knock_gives_no_template(
    alice: User, visitor: Visitor, bob: str, version: str
) -> None:
    visitor.make("knock", public_room(alice, version), bob).refused(403, "M_FORBIDDEN")


# ---- restricted rooms


def restricted_room(user: User, *allowed: str, version: str = "11") -> str:
    allow = [{"type": "m.room_membership", "room_id": room_id} for room_id in allowed]
    content = {"join_rule": "restricted", "allow": [5, {"type": "m.other"}, *allow]}
    rules = {"type": "m.room.join_rules", "state_key": "", "content": content}
    return user.create_room(preset="private_chat", room_version=version, initial_state=[rules])


@pytest.mark.parametrize("version", ["8", "9", "10", "11", "12"])
def test_member_of_an_allowed_room_is_vouched_for(
    alice: User, world: World, visitor: Visitor, bob: str, version: str
) -> None:
    space = public_room(alice)
    visitor.join(space, bob)
    room_id = restricted_room(alice, space, version=version)
    made_version, event = visitor.template("join", room_id, bob)
    assert made_version == version
    assert event["content"]["join_authorised_via_users_server"] == alice.user_id
    signed = visitor.join(room_id, bob)["event"]
    assert set(signed["signatures"]) == {visitor.name, SERVER_NAME}
    verify_event_signatures(
        get_room_version(version),
        signed,
        [SERVER_NAME],
        lambda *_: world.server.core.signing_key.verify_key,
    )
    assert membership(alice, room_id, bob) == "join"


def test_who_is_in_no_allowed_room_is_not_vouched_for(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = restricted_room(alice, public_room(alice))
    visitor.make("join", room_id, bob).refused(403, "M_FORBIDDEN")
    visitor.make("join", restricted_room(alice), bob).refused(403, "M_FORBIDDEN")


def test_other_servers_are_tried_where_we_cannot_tell(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = restricted_room(alice, "!elsewhere:elsewhere.example")
    visitor.make("join", room_id, bob).refused(400, "M_UNABLE_TO_AUTHORISE_JOIN")


def test_other_servers_are_tried_where_nobody_of_ours_may_invite(
    alice: User, visitor: Visitor, bob: str
) -> None:
    space = public_room(alice)
    visitor.join(space, bob)
    room_id = restricted_room(alice, space)
    levels = {"users": {}, "users_default": 0, "invite": 50}
    alice.put(f"/rooms/{room_id}/state/m.room.power_levels", levels).ok()
    visitor.make("join", room_id, bob).refused(400, "M_UNABLE_TO_GRANT_JOIN")


def test_invited_user_needs_nobody_to_vouch(alice: User, visitor: Visitor, bob: str) -> None:
    space = public_room(alice)
    visitor.join(space, bob)
    room_id = restricted_room(alice, space)
    visitor.join(room_id, bob)
    _, event = visitor.template("join", room_id, bob)
    assert "join_authorised_via_users_server" not in event["content"]


@pytest.mark.parametrize(
    "authoriser", ["alice", "powerless", "outside", "nobody"], ids=lambda name: name
)
def test_nobody_is_vouched_for_by_their_own_word(
    alice: User, world: World, visitor: Visitor, bob: str, authoriser: str
) -> None:
    powerless, outside = world.server.register(), world.server.register()
    space = public_room(alice)
    room_id = restricted_room(alice, space)
    alice.post(f"/rooms/{room_id}/invite", {"user_id": powerless.user_id}).ok()
    powerless.post(f"/join/{room_id}").ok()
    if authoriser != "alice":  # else all is right but that bob is not in the space
        visitor.join(space, bob)
    named = {
        "alice": alice.user_id,
        "powerless": powerless.user_id,
        "outside": outside.user_id,
        "nobody": f"@nobody:{SERVER_NAME}",
    }[authoriser]
    levels = {"users": {alice.user_id: 100}, "invite": 50}
    alice.put(f"/rooms/{room_id}/state/m.room.power_levels", levels).ok()
    carol = visitor.user(f"carol{next(_numbers)}")
    visitor.join(space, carol)
    content = {"membership": "join", "join_authorised_via_users_server": named}
    version, event = visitor.template("join", room_id, carol)
    event |= {"sender": bob, "state_key": bob, "content": content}
    signed, event_id = visitor.sign(version, event)
    answer = visitor.send("join", room_id, signed, event_id).refused(403, "M_FORBIDDEN")
    assert "signatures" not in answer
    assert membership(alice, room_id, bob) is None


def test_we_do_not_sign_joins_of_rooms_that_need_nobody_to_vouch(
    alice: User, visitor: Visitor, bob: str
) -> None:
    room_id = public_room(alice)
    content = {"membership": "join", "join_authorised_via_users_server": alice.user_id}
    event, event_id = visitor.complete("join", room_id, bob, content=content)
    visitor.send("join", room_id, event, event_id).refused(403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) is None


def test_joins_are_handed_on_to_the_other_servers_in_the_room(
    alice: User, world: World, visitor: Visitor, bob: str
) -> None:
    room_id = public_room(alice)
    visitor.join(room_id, bob)
    other = world.meet("other-member.example")
    event, event_id = other.complete("join", room_id, other.user("dave"))
    other.send("join", room_id, event, event_id).ok()
    rows = world.server.core.database.fetch_all(
        "SELECT forwarded_for FROM outgoing_events o JOIN event_graph g"
        " ON g.position = o.event_position WHERE g.event_id = %s",
        (event_id,),
    )
    assert rows == [("other-member.example",)]


def test_server_that_asks_too_often_is_told_to_wait(database_url: str, tmp_path: Path) -> None:
    limits = RateLimitSettings(
        federation=RateLimit(per_second=0.001, burst=4), joins=RateLimit(per_second=0.001, burst=2)
    )
    world = World(database_url, tmp_path, rate_limits=limits)
    alice = world.server.register()
    room_id = public_room(alice)
    visitor, other = world.meet("eager.example"), world.meet("patient.example")
    bob = visitor.user("bob")
    version, event = visitor.template("join", room_id, bob)
    signed, event_id = visitor.sign(version, event)
    for _ in range(2):
        visitor.send("join", room_id, signed, event_id).ok()
    visitor.send("join", room_id, signed, event_id).refused(429, "M_LIMIT_EXCEEDED")
    visitor.make("join", room_id, bob).refused(429, "M_LIMIT_EXCEEDED")
    other.make("join", room_id, other.user("bob")).ok()
    stop_server(world.server)
