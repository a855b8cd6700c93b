"""Other servers invite our users into rooms that we are not in; nothing else gets our signature.

Spec: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from architex.domain.canonical_json import Json
from architex.domain.room_versions import ROOM_VERSIONS, get_room_version
from architex.domain.signing import verify_event_signatures
from architex.gateways.errors import RemoteTimedOut
from architex.settings import RateLimit, RateLimitSettings
from tests.api.client import SERVER_NAME, User, segment, stop_server
from tests.builders import TEST_KEY, RoomBuilder
from tests.federation.visitors import Visitor, World

_numbers = itertools.count()


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(f"visitor{next(_numbers)}.example", TEST_KEY)


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


class TheirRoom(RoomBuilder):
    """A room of another server's, as far as it goes."""

    def __init__(self, visitor: Visitor, version: str = "11", **options: Any) -> None:
        super().__init__(version, creator=visitor.user("carol"), **options)
        self.set_name("Over there")

    def set_name(self, name: str) -> None:
        self.send_state(self.creator, "m.room.name", {"name": name})

    def told(self) -> list[Json]:
        """What the inviting server tells: whole events."""
        keys = ["m.room.create", "m.room.join_rules", "m.room.name"]
        found = [self.find_state(key) for key in keys]
        return [dict(pdu.event) for pdu in found if pdu is not None]

    def invitation(self, user_id: str, **fields: Any) -> Json:
        """An invite of a user, not in the room yet."""
        content = {"membership": "invite"}
        pdu = self.compose(
            self.creator, "m.room.member", content, **{"state_key": user_id, **fields}
        )
        return dict(pdu.event)


def invited_rooms(user: User) -> Mapping[str, Any]:
    rooms: Mapping[str, Any] = user.get("/sync").ok()["rooms"].get("invite", {})
    return rooms


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_invite_gets_our_signature_and_is_shown(
    visitor: Visitor, alice: User, world: World, version: str
) -> None:
    room = TheirRoom(visitor, version)
    event = room.invitation(alice.user_id)
    signed = visitor.invite(version, event, room.told()).ok()["event"]
    assert {**signed, "signatures": None} == {**event, "signatures": None}
    key = world.server.core.signing_key
    verify_event_signatures(
        get_room_version(version), signed, [SERVER_NAME], lambda *_: key.verify_key
    )
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    contents = {entry["type"]: entry["content"] for entry in shown}
    assert contents["m.room.name"] == {"name": "Over there"}
    assert contents["m.room.member"] == {"membership": "invite"}


def test_first_version_of_invite_wraps_its_answer(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor, "2")
    event = room.invitation(alice.user_id)
    sent = {**event, "unsigned": {"invite_room_state": room.told()}}
    segments = ["v1", "invite", room.room_id, event["event_id"]]
    status, signed = visitor.request("PUT", segments, sent).ok()
    assert status == 200
    assert SERVER_NAME in signed["event"]["signatures"]
    assert room.room_id in invited_rooms(alice)


def test_same_invite_twice_is_one_invite(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    event = room.invitation(alice.user_id)
    first = visitor.invite("11", event).ok()
    since = alice.get("/sync").ok()["next_batch"]
    assert visitor.invite("11", event).ok() == first
    assert alice.get("/sync", since=since, timeout=0).ok()["rooms"]["invite"] == {}


def test_later_invite_replaces_the_earlier_one(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    visitor.invite("11", room.invitation(alice.user_id), room.told()).ok()
    room.set_name("Renamed")
    visitor.invite("11", room.invitation(alice.user_id), room.told()).ok()
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    assert {"name": "Renamed"} in [entry["content"] for entry in shown]


def test_two_users_are_invited_to_the_same_room(
    visitor: Visitor, alice: User, world: World
) -> None:
    room, bob = TheirRoom(visitor), world.server.register()
    for user in (alice, bob):
        visitor.invite("11", room.invitation(user.user_id), room.told()).ok()
    assert room.room_id in invited_rooms(alice)
    assert room.room_id in invited_rooms(bob)


# ---- whom, and by whom


def test_there_must_be_such_a_user(visitor: Visitor) -> None:
    room = TheirRoom(visitor)
    nobody = room.invitation(f"@nobody{next(_numbers)}:{SERVER_NAME}")
    visitor.invite("11", nobody).refused(404, "M_NOT_FOUND")


def test_user_who_blocks_invites_gets_none(visitor: Visitor, alice: User) -> None:
    config = f"/user/{alice.path}/account_data/m.invite_permission_config"
    earlier = TheirRoom(visitor, create_content={"n": "earlier"})
    earlier.room_id = f"!earlier:{visitor.name}"
    visitor.invite("11", earlier.invitation(alice.user_id)).ok()
    alice.put(config, {"default_action": "block"}).ok()
    assert invited_rooms(alice) == {}
    room = TheirRoom(visitor)
    visitor.invite("11", room.invitation(alice.user_id)).refused(403, "M_INVITE_BLOCKED")
    alice.put(config, {}).ok()
    visitor.invite("11", room.invitation(alice.user_id)).ok()


def test_invites_of_ignored_users_are_not_shown(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    ignored: Json = {"ignored_users": {room.creator: {}}}
    alice.put(f"/user/{alice.path}/account_data/m.ignored_user_list", ignored).ok()
    visitor.invite("11", room.invitation(alice.user_id)).ok()
    assert room.room_id not in invited_rooms(alice)


def test_room_version_that_we_do_not_have_is_refused(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    answer = visitor.invite("11", room.invitation(alice.user_id), room_version="org.example.x")
    told = answer.refused(400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert told["room_version"] == "org.example.x"


def test_invite_is_sent_by_the_inviters_server(
    world: World, visitor: Visitor, alice: User
) -> None:
    room = TheirRoom(visitor)
    third = world.meet(f"third{next(_numbers)}.example", TEST_KEY)
    event = room.invitation(alice.user_id)
    third.invite("11", event).refused(403, "M_FORBIDDEN")
    # Nor does it help that the other one signs it, too.
    resigned, _ = third.sign("11", event)
    both = {**event, "signatures": {**event["signatures"], **resigned["signatures"]}}
    third.invite("11", both).refused(403, "M_FORBIDDEN")
    assert room.room_id not in invited_rooms(alice)


# ---- hostile invites: valid events, mutated and signed again

UNKNOWN = "$" + "a" * 43

MUTATIONS: dict[str, dict[str, Any]] = {
    "another type": {"type": "m.room.message"},
    "power levels": {"type": "m.room.power_levels"},
    "no type": {"type": None},
    "a join": {"content": {"membership": "join"}},
    "a leave": {"content": {"membership": "leave"}},
    "a ban": {"content": {"membership": "ban"}},
    "a knock": {"content": {"membership": "knock"}},
    "no membership": {"content": {}},
    "membership of another type": {"content": {"membership": {"invite": "invite"}}},
    "content of another type": {"content": "invite"},
    "nobody": {"state_key": None},
    "no user": {"state_key": "alice"},
    "a user of theirs": {"state_key": "@carol:visitor.example"},
    "a user of a third server": {"state_key": "@x:third.example"},
    "a state key of another type": {"state_key": ["@alice:test.example"]},
    "sent by one of ours": {"sender": "@alice:test.example"},
    "sent by a third server": {"sender": "@x:third.example"},
    "sent by nobody": {"sender": ""},
    "no room": {"room_id": None},
    "no room ID": {"room_id": "room"},
    "a room of another type": {"room_id": 5},
    "no depth": {"depth": None},
    "a depth too great": {"depth": 2**63},
    "no previous events": {"prev_events": None},
    "too many previous events": {"prev_events": [UNKNOWN] * 21},
    "auth events of another type": {"auth_events": UNKNOWN},
    "a fraction": {"content": {"membership": "invite", "bad": 0.5}},
    "a huge integer": {"content": {"membership": "invite", "bad": -(2**53)}},
    "a huge event": {"content": {"membership": "invite", "x": "x" * 66_000}},
    "a type with NUL": {"type": "m.room.member\0"},
    "an event of another room's creation": {"type": "m.room.create", "state_key": ""},
}


@pytest.mark.parametrize("version", ["2", "11", "12"])
@pytest.mark.parametrize("name", MUTATIONS)
def test_we_sign_nothing_but_invites_of_our_users(
    visitor: Visitor, alice: User, name: str, version: str
) -> None:
    if version == "2" and name in ("a fraction", "a huge integer"):
        pytest.skip("Before version 6 events may hold any number.")
    room = TheirRoom(visitor, version)
    event = {**room.invitation(alice.user_id), **MUTATIONS[name]}
    event = {key: value for key, value in event.items() if value is not None}
    signed, event_id = visitor.sign_anyhow(version, event)
    answer = visitor.invite(version, signed, room.told(), room_id=room.room_id, event_id=event_id)
    assert 400 <= answer.status < 500, answer.json
    assert "signatures" not in str(answer.json)
    assert room.room_id not in invited_rooms(alice)


@pytest.mark.parametrize(
    "changes",
    [
        {"room_id": "!other:visitor.example"},
        {"event_id": UNKNOWN},
        {"room_version": "1"},
        {"room_version": 11},
        {"room_version": None},
    ],
    ids=str,
)
def test_invite_must_be_what_the_request_says(
    visitor: Visitor, alice: User, changes: dict[str, Any]
) -> None:
    room = TheirRoom(visitor)
    answer = visitor.invite("11", room.invitation(alice.user_id), **changes)
    assert answer.status == 400, answer.json
    assert room.room_id not in invited_rooms(alice)


@pytest.mark.parametrize("content", [{}, {"room_version": "11"}, {"event": []}, {"event": {}}])
def test_request_without_an_event_is_refused(visitor: Visitor, content: dict[str, Any]) -> None:
    segments = ["v2", "invite", "!room:visitor.example", UNKNOWN]
    assert visitor.request("PUT", segments, content).status == 400
    segments[0] = "v1"
    assert visitor.request("PUT", segments, content).status == 400


@pytest.mark.parametrize("version", ["1", "11"])
@pytest.mark.parametrize("signatures", ["none", "garbage", "of another server"])
def test_invite_that_its_sender_did_not_sign_is_refused(
    visitor: Visitor, alice: User, version: str, signatures: str
) -> None:
    room = TheirRoom(visitor, version)
    event = room.invitation(alice.user_id)
    given = {
        "none": {},
        "garbage": {visitor.name: {TEST_KEY.key_id: "A" * 86}},
        "of another server": {"third.example": event["signatures"][visitor.name]},
    }[signatures]
    visitor.invite(version, {**event, "signatures": given}).refused(403, "M_FORBIDDEN")
    visitor.invite(version, event, room.told()).ok()


def test_content_that_was_not_hashed_is_refused(visitor: Visitor, alice: User) -> None:
    event = TheirRoom(visitor).invitation(alice.user_id)
    event["content"] = {"membership": "invite", "reason": "changed on the way"}
    visitor.invite("11", event).refused(400, "M_INVALID_PARAM")


# ---- what is told of the room

NOT_STRIPPED: list[Any] = [
    None,
    5,
    "m.room.name",
    [],
    {},
    {"type": "m.room.name"},
    {"type": "m.room.name", "state_key": "", "sender": "@carol:visitor.example", "content": 5},
    {"type": "m.room.name", "state_key": 5, "sender": "@carol:visitor.example", "content": {}},
    {"type": 5, "state_key": "", "sender": "@carol:visitor.example", "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": "nobody", "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": ["@a:b.example"], "content": {}},
    {"type": "x" * 300, "state_key": "", "sender": "@carol:visitor.example", "content": {}},
    {"type": "m.x", "state_key": "", "sender": "@a:b.example", "content": {"x": "x" * 140_000}},
]


@pytest.mark.parametrize("told", [*([entry] for entry in NOT_STRIPPED), None, {}, "x", 5])
def test_sync_survives_whatever_is_told_of_a_room(
    visitor: Visitor, alice: User, told: Any
) -> None:
    room = TheirRoom(visitor)
    good = {"type": "m.room.topic", "state_key": "", "sender": room.creator, "content": {}}
    given = [*told, good] if isinstance(told, list) else told
    visitor.invite("11", room.invitation(alice.user_id), told=given).ok()
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    kinds = {entry["type"] for entry in shown}
    assert kinds == {"m.room.member", *(["m.room.topic"] if isinstance(told, list) else [])}


def test_what_is_told_of_a_room_is_bounded(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    told = [
        {"type": f"m.{n}", "state_key": "", "sender": room.creator, "content": {"x": "x" * 900}}
        for n in range(1000)
    ]
    visitor.invite("11", room.invitation(alice.user_id), told).ok()
    assert len(invited_rooms(alice)[room.room_id]["invite_state"]["events"]) <= 65


def test_unsigned_data_of_what_is_told_is_not_shown(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    told = [{**event, "unsigned": {"prev_content": {}}} for event in room.told()]
    visitor.invite("11", room.invitation(alice.user_id), told).ok()
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    assert all(e.keys() == {"type", "state_key", "sender", "content"} for e in shown)


def test_version_12_wants_whole_events_of_the_room(visitor: Visitor, alice: User) -> None:
    room, other = TheirRoom(visitor, "12"), TheirRoom(visitor, "12", create_content={"a": 1})
    event, told = room.invitation(alice.user_id), room.told()
    create, rules, name = told
    stripped = [{k: e[k] for k in ("type", "state_key", "sender", "content")} for e in told]
    forged = {**name, "content": {"name": "Bank"}}
    for wrong in (
        [],
        None,
        [name],
        stripped,
        other.told(),
        [create, other.told()[2]],
        [create, {**name, "signatures": {visitor.name: {TEST_KEY.key_id: "A" * 86}}}],
        [create, {**name, "signatures": {}}],
        [create, visitor.sign("12", {**forged, "sender": "@x:third.example"})[0]],
        [create] * 65,
        [create, 5],
    ):
        visitor.invite("12", event, wrong if wrong is not None else {}).refused(
            400, "M_INVALID_PARAM"
        )
    assert room.room_id not in invited_rooms(alice)
    visitor.invite("12", event, [create, rules]).ok()


def test_event_of_a_server_without_a_key_is_left_out(visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor, "12")
    dave = f"@dave:unreachable{next(_numbers)}.example"
    room.set_power_levels(room.creator, users={dave: 100})
    room.join(dave)
    topic = room.send_state(dave, "m.room.topic", {"topic": "Who knows"})
    told = [*room.told(), dict(topic.event)]
    visitor.invite("12", room.invitation(alice.user_id), told).ok()
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    kinds = {entry["type"] for entry in shown}
    assert "m.room.topic" not in kinds
    assert "m.room.name" in kinds


# ---- rooms that we are in


def test_invite_into_a_room_that_we_are_in_is_an_event_of_the_room(
    visitor: Visitor, alice: User, world: World
) -> None:
    bob, carol = world.server.register(), visitor.user("carol")
    room_id = alice.create_room(preset="public_chat", room_version="11")
    visitor.join(room_id, carol)
    version, event = visitor.template("join", room_id, carol)
    invite = {**event, "state_key": bob.user_id, "content": {"membership": "invite"}}
    signed, event_id = visitor.sign(version, invite)
    answer = visitor.invite(version, signed, []).ok()
    assert SERVER_NAME in answer["event"]["signatures"]
    assert room_id in invited_rooms(bob)
    # It comes with the other events of the room, too.
    told = {"origin": visitor.name, "origin_server_ts": 1, "pdus": [answer["event"]]}
    sent = visitor.request("PUT", ["v1", "send", f"t{next(_numbers)}"], told).ok()
    assert sent == {"pdus": {event_id: {}}}
    chunk = alice.get(f"/rooms/{segment(room_id)}/messages", dir="b").ok()["chunk"]
    assert [e["event_id"] for e in chunk].count(event_id) == 1
    visitor.sign(version, {**event, "state_key": alice.user_id})
    joined = {**event, "state_key": alice.user_id, "content": {"membership": "invite"}}
    visitor.invite(version, visitor.sign(version, joined)[0]).refused(403, "M_FORBIDDEN")
    acl = {"allow": ["*"], "deny": [visitor.name]}
    alice.put(f"/rooms/{room_id}/state/m.room.server_acl", acl).ok()
    visitor.invite(version, signed, []).refused(403, "M_FORBIDDEN")


def test_invite_that_the_room_does_not_allow_is_not_signed(
    visitor: Visitor, alice: User, world: World
) -> None:
    bob, carol = world.server.register(), visitor.user("carol")
    levels = {"invite": 50}
    room_id = alice.create_room(
        preset="public_chat", room_version="11", power_level_content_override=levels
    )
    visitor.join(room_id, carol)
    version, event = visitor.template("join", room_id, carol)
    invite = {**event, "state_key": bob.user_id, "content": {"membership": "invite"}}
    visitor.invite(version, visitor.sign(version, invite)[0], []).refused(403, "M_FORBIDDEN")
    # Perhaps it is allowed by what we have not heard of yet.
    unheard = {**invite, "prev_events": ["$" + "A" * 43]}
    visitor.invite(version, visitor.sign(version, unheard)[0], []).ok()
    assert room_id not in invited_rooms(bob)


@pytest.mark.parametrize("version", ["1", "2"])
def test_event_id_of_another_room_cannot_be_used_again(
    visitor: Visitor, alice: User, version: str
) -> None:
    first, second = TheirRoom(visitor, version), TheirRoom(visitor, version)
    second.room_id = f"!other{next(_numbers)}:{visitor.name}"
    event = first.invitation(alice.user_id)
    visitor.invite(version, event).ok()
    copy, _ = visitor.sign(version, {**event, "room_id": second.room_id})
    visitor.invite(version, copy).refused(403, "M_FORBIDDEN")
    assert second.room_id not in invited_rooms(alice)


# ---- taken back


def send(visitor: Visitor, *events: Mapping[str, Any]) -> Mapping[str, Any]:
    """A transaction; what became of its events."""
    content = {"origin": visitor.name, "origin_server_ts": 1, "pdus": events, "edus": []}
    segments = ["v1", "send", f"txn{next(_numbers)}"]
    results: Mapping[str, Any] = visitor.request("PUT", segments, content).ok()["pdus"]
    return results


def test_account_ends_before_invites_of_other_servers_are_rejected(
    world: World, visitor: Visitor, alice: User
) -> None:
    room = TheirRoom(visitor)
    ended = []

    def answer(content: Any) -> Json:
        alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
        row = world.server.core.database.fetch_one(
            "SELECT deactivated_ts FROM users WHERE user_id = %s", (alice.user_id,)
        )
        ended.append(row is not None and row[0] is not None)
        raise RemoteTimedOut(visitor.name, "late")

    visitor.invite("11", room.invitation(alice.user_id), room.told()).ok()
    path = f"/_matrix/federation/v1/make_leave/{segment(room.room_id)}/{alice.path}"
    world.federation.replies[visitor.name, path] = answer
    alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    assert ended == [True]
    memberships = world.server.core.database.fetch_all(
        "SELECT membership FROM memberships WHERE user_id = %s", (alice.user_id,)
    )
    assert memberships == [("leave",)]


@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_invite_is_taken_back_by_the_inviters_server(
    visitor: Visitor, alice: User, version: str, membership: str
) -> None:
    room = TheirRoom(visitor, version)
    invite = room.invitation(alice.user_id)
    visitor.invite(version, invite, room.told()).ok()
    since = alice.get("/sync").ok()["next_batch"]
    content = {"membership": membership}
    end = room.compose(room.creator, "m.room.member", content, state_key=alice.user_id)
    assert list(send(visitor, end.event).values()) == [{}]
    rooms = alice.get("/sync", since=since, timeout=0).ok()["rooms"]
    assert room.room_id in rooms["leave"]
    assert room.room_id not in invited_rooms(alice)
    # Nor does the old invite come back.
    visitor.invite(version, invite, room.told()).refused(403, "M_FORBIDDEN")
    assert room.room_id not in invited_rooms(alice)


def test_invite_is_not_taken_back_by_others(world: World, visitor: Visitor, alice: User) -> None:
    room = TheirRoom(visitor)
    visitor.invite("11", room.invitation(alice.user_id), room.told()).ok()
    third = world.meet(f"third{next(_numbers)}.example", TEST_KEY)
    leave = {"membership": "leave"}
    mallory = third.user("mallory")
    theirs = room.compose(mallory, "m.room.member", leave, state_key=alice.user_id)
    unsigned = {
        **room.compose(room.creator, "m.room.member", leave, state_key=alice.user_id).event
    }
    unsigned["signatures"] = {}
    own = room.compose(alice.user_id, "m.room.member", leave, state_key=alice.user_id)
    for event in (theirs.event, unsigned, own.event):
        assert all("error" in result for result in send(third, event).values())
    assert room.room_id in invited_rooms(alice)


def test_joins_cannot_be_made_up_for_rooms_that_we_are_not_in(
    visitor: Visitor, alice: User
) -> None:
    room = TheirRoom(visitor)
    visitor.invite("11", room.invitation(alice.user_id), room.told()).ok()
    for membership in ("join", "knock"):
        content = {"membership": membership}
        event = room.compose(room.creator, "m.room.member", content, state_key=alice.user_id)
        assert all("error" in result for result in send(visitor, event.event).values())
    assert room.room_id in invited_rooms(alice)


def test_denied_server_does_not_take_back_invites_to_rooms_that_we_are_in(
    visitor: Visitor, alice: User, world: World
) -> None:
    bob = world.server.register()
    room_id = alice.create_room(preset="public_chat", room_version="11")
    carol = visitor.user("carol")
    visitor.join(room_id, carol)
    alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id}).ok()
    version, event = visitor.template("join", room_id, carol)
    acl = {"allow": ["*"], "deny": [visitor.name]}
    alice.put(f"/rooms/{room_id}/state/m.room.server_acl", acl).ok()
    leave = {**event, "state_key": bob.user_id, "content": {"membership": "leave"}}
    signed, event_id = visitor.sign(version, leave)
    assert "error" in send(visitor, signed)[event_id]
    assert room_id in invited_rooms(bob)


# ---- lies about the version of a room


@pytest.mark.parametrize(("lie", "truth"), [("1", "11"), ("11", "1"), ("6", "10")])
def test_nobody_spoils_a_room_for_us_by_a_lie_about_its_version(
    world: World, visitor: Visitor, alice: User, lie: str, truth: str
) -> None:
    bob = world.server.register()
    room = TheirRoom(visitor, truth)
    room.room_id = f"!room{next(_numbers)}:{visitor.name}"
    mallory = world.meet(f"mallory{next(_numbers)}.example", TEST_KEY)
    lying = TheirRoom(mallory, lie)
    lying.room_id = room.room_id
    for user in (alice, bob):
        mallory.invite(lie, lying.invitation(user.user_id)).ok()
    visitor.invite(truth, room.invitation(alice.user_id), room.told()).ok()
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    assert {"name": "Over there"} in [entry["content"] for entry in shown]
    leave = {"membership": "leave"}
    end = room.compose(room.creator, "m.room.member", leave, state_key=alice.user_id)
    assert list(send(visitor, end.event).values()) == [{}]
    assert room.room_id not in invited_rooms(alice)
    assert room.room_id in invited_rooms(bob)


def test_version_of_a_room_that_we_were_in_is_settled(visitor: Visitor, alice: User) -> None:
    room_id = alice.create_room(preset="public_chat", room_version="11")
    alice.post(f"/rooms/{room_id}/leave").ok()
    room = TheirRoom(visitor, "1")
    room.room_id = room_id
    answer = visitor.invite("1", room.invitation(alice.user_id))
    answer.refused(400, "M_INCOMPATIBLE_ROOM_VERSION")


def test_flood_of_invites_is_stopped(database_url: str, tmp_path: Path) -> None:
    limits = RateLimitSettings(invites=RateLimit(per_second=0.001, burst=2))
    world = World(database_url, tmp_path, rate_limits=limits)
    alice, bob = world.server.register(), world.server.register()
    flooding, other = world.meet("flood.example", TEST_KEY), world.meet("other.example", TEST_KEY)
    rooms = [TheirRoom(flooding, create_content={"n": number}) for number in range(3)]
    for number, room in enumerate(rooms):
        room.room_id = f"!room{number}:{flooding.name}"
    for room in rooms[:2]:
        flooding.invite("11", room.invitation(alice.user_id)).ok()
    event = rooms[2].invitation(alice.user_id)
    flooding.invite("11", event).refused(429, "M_LIMIT_EXCEEDED")
    flooding.invite("11", rooms[2].invitation(bob.user_id)).ok()
    other.invite("11", TheirRoom(other).invitation(alice.user_id)).ok()
    stop_server(world.server)
