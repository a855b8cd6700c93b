"""Setting a room's state: what membership events set off beside themselves, and what is malformed.

Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from architex.settings import RateLimit, RateLimitSettings
from tests.api.client import Answer, Server, User, segment, settings_for, start_server, stop_server


def put_membership(user: User, room_id: str, membership: str, **content: Any) -> Answer:
    """What the server says when a user sets their own membership as state."""
    path = f"/rooms/{room_id}/state/m.room.member/{user.path}"
    return user.put(path, {"membership": membership, **content})


def restricted_room(owner: User, room_id: str) -> str:
    """A room for the members of another."""
    allow = [{"type": "m.room_membership", "room_id": room_id}]
    rule = {"join_rule": "restricted", "allow": allow}
    return owner.create_room(initial_state=[{"type": "m.room.join_rules", "content": rule}])


def test_guests_do_not_join_by_a_state_event_where_guests_may_not(
    server: Server, alice: User
) -> None:
    told = server.request("POST", "/register?kind=guest", {}).ok()
    guest = User(server, told["user_id"], told["access_token"], told["device_id"])
    room_id = alice.create_room(preset="public_chat")
    put_membership(guest, room_id, "join").refused(403, "M_GUEST_ACCESS_FORBIDDEN")
    alice.put(f"/rooms/{room_id}/state/m.room.guest_access", {"guest_access": "can_join"}).ok()
    put_membership(guest, room_id, "join").ok()


def test_nobody_enters_a_restricted_room_by_naming_who_lets_them_in(
    alice: User, bob: User
) -> None:
    room_id = restricted_room(alice, alice.create_room())
    authoriser = {"join_authorised_via_users_server": alice.user_id}
    put_membership(bob, room_id, "join", **authoriser).refused(403, "M_FORBIDDEN")


def test_who_may_join_a_restricted_room_may_do_so_by_a_state_event(alice: User, bob: User) -> None:
    space = alice.create_room(invite=[bob.user_id])
    room_id = restricted_room(alice, space)
    bob.post(f"/join/{space}").ok()
    event_id = put_membership(bob, room_id, "join", displayname="Bobby").ok()["event_id"]
    content = alice.get(f"/rooms/{room_id}/event/{event_id}").ok()["content"]
    assert content == {
        "membership": "join",
        "displayname": "Bobby",
        "join_authorised_via_users_server": alice.user_id,
    }
    # Copied from there, as clients do: nobody else would sign the event.
    put_membership(bob, room_id, "join", join_authorised_via_users_server="@x:else.where").ok()
    content = bob.get(f"/rooms/{room_id}/state/m.room.member/{bob.path}").ok()
    assert content == {"membership": "join"}


def test_who_leaves_and_joins_by_state_events_does_so_as_by_any_other_way(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    put_membership(bob, room_id, "join").ok()
    left = put_membership(bob, room_id, "leave", reason="bored").ok()["event_id"]
    assert put_membership(bob, room_id, "leave").ok()["event_id"] == left
    put_membership(bob, room_id, "join").refused(403, "M_FORBIDDEN")
    put_membership(bob, "!nowhere:test.example", "join").refused(403, "M_FORBIDDEN")
    put_membership(bob, "!nowhere:test.example", "leave").refused(403, "M_FORBIDDEN")


def test_joins_by_state_events_count_as_joins(database_url: str, tmp_path: Path) -> None:
    limits = RateLimitSettings(joins=RateLimit(per_second=0.001, burst=2))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, bob = server.register(), server.register()
    first, second = (alice.create_room(preset="public_chat") for _ in range(2))
    bob.post(f"/join/{first}").ok()
    put_membership(bob, second, "join").ok()
    for name in "BCD":  # who is in a room changes their name there
        put_membership(bob, second, "join", displayname=name).ok()
    put_membership(bob, second, "leave").ok()
    put_membership(bob, second, "join").refused(429, "M_LIMIT_EXCEEDED")
    stop_server(server)


def set_state(user: User, room_id: str, type_: str, content: dict[str, Any], key: str = "") -> str:
    """A state event of a user's; its event ID."""
    event_id: str = user.put(f"/rooms/{room_id}/state/{type_}/{key}", content).ok()["event_id"]
    return event_id


def redact(user: User, room_id: str, event_id: str) -> None:
    """Strip an event of its content."""
    user.put(f"/rooms/{room_id}/redact/{event_id}/{next(user.server.numbers)}").ok()


def test_state_that_was_redacted_can_be_set_again(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    topic = {"topic": "Tea"}
    first = set_state(alice, room_id, "m.room.topic", topic)
    assert set_state(alice, room_id, "m.room.topic", topic) == first
    redact(alice, room_id, first)
    assert set_state(alice, room_id, "m.room.topic", topic) != first
    assert alice.get(f"/rooms/{room_id}/state/m.room.topic").ok() == topic
    invite = {"membership": "invite", "reason": "tea"}
    first = set_state(alice, room_id, "m.room.member", invite, bob.path)
    redact(alice, room_id, first)
    assert set_state(alice, room_id, "m.room.member", invite, bob.path) != first


def test_name_that_was_redacted_in_a_room_can_be_taken_again(alice: User) -> None:
    room_id = alice.create_room()
    member = f"/rooms/{room_id}/state/m.room.member/{alice.path}"
    own = {"membership": "join", "displayname": "Alice", "org.example.mood": "sad"}
    redact(alice, room_id, set_state(alice, room_id, "m.room.member", own, alice.path))
    assert alice.get(member).ok() == {"membership": "join"}
    alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Alice"}).ok()
    assert alice.get(member).ok() == {"membership": "join", "displayname": "Alice"}


def test_deleted_alias_brings_no_redacted_one_back(server: Server, alice: User) -> None:
    room_id = alice.create_room()
    number = next(server.numbers)
    aliases = [f"#{name}{number}:test.example" for name in ("one", "two")]
    for alias in aliases:
        alice.put(f"/directory/room/{segment(alias)}", {"room_id": room_id}).ok()
    content = {"alias": aliases[0], "alt_aliases": aliases}
    redact(alice, room_id, set_state(alice, room_id, "m.room.canonical_alias", content))
    alice.delete(f"/directory/room/{segment(aliases[1])}").ok()
    assert alice.get(f"/rooms/{room_id}/state/m.room.canonical_alias").ok() == {}


def test_guests_do_not_join_when_what_let_them_in_was_redacted(
    server: Server, alice: User
) -> None:
    told = server.request("POST", "/register?kind=guest", {}).ok()
    guest = User(server, told["user_id"], told["access_token"], told["device_id"])
    room_id = alice.create_room(preset="public_chat")
    access = set_state(alice, room_id, "m.room.guest_access", {"guest_access": "can_join"})
    redact(alice, room_id, access)
    guest.post(f"/join/{room_id}").refused(403, "M_GUEST_ACCESS_FORBIDDEN")


MALFORMED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("m.room.member", {}),
    ("m.room.member", {"membership": "dance"}),
    ("m.room.member", {"membership": 5}),
    ("m.room.power_levels", {"users_default": "50"}),
    ("m.room.power_levels", {"events": {"m.room.name": 1.5}}),
    ("m.room.power_levels", {"events": []}),
    ("m.room.power_levels", {"users": {"bob": 50}}),
    ("m.room.power_levels", {"users": []}),
)


@pytest.mark.parametrize("version", ["10", "12"])
def test_malformed_state_is_a_bad_request_and_not_a_matter_of_power(
    alice: User, bob: User, version: str
) -> None:
    room_id = alice.create_room(room_version=version, invite=[bob.user_id])
    bob.post(f"/join/{room_id}").ok()
    for type_, content in MALFORMED:
        key = alice.path if type_ == "m.room.member" else ""
        alice.put(f"/rooms/{room_id}/state/{type_}/{key}", content).refused(400, "M_BAD_JSON")
    path = f"/rooms/{room_id}/state/m.room.power_levels"
    bob.put(path, {"users_default": "50"}).refused(403, "M_FORBIDDEN")


def test_creators_have_no_power_level_to_set(alice: User) -> None:
    path = f"/rooms/{alice.create_room()}/state/m.room.power_levels"
    alice.put(path, {"users": {alice.user_id: 100}}).refused(400, "M_BAD_JSON")


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_nobody_redacts_by_a_state_event_what_they_may_not_redact_otherwise(
    alice: User, bob: User, version: str
) -> None:
    room_id = alice.create_room(
        preset="public_chat",
        room_version=version,
        power_level_content_override={"state_default": 0},
    )
    bob.post(f"/join/{room_id}").ok()
    message = f"/rooms/{room_id}/send/m.room.message/1"
    event_id = alice.put(message, {"body": "kept"}).ok()["event_id"]
    path = f"/rooms/{room_id}/state/m.room.redaction"
    bob.put(path, {"redacts": event_id}).refused(403, "M_FORBIDDEN")
    bob.put(path, {}).refused(400, "M_INVALID_PARAM")
    assert bob.get(f"/rooms/{room_id}/event/{event_id}").ok()["content"] == {"body": "kept"}
    alice.put(path, {"redacts": event_id}).ok()
