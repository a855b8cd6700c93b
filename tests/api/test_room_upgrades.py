"""Upgrading rooms: what the new room has, what becomes of the old one, what moves along."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import Server, User, segment
from tests.core import append, member_draft

Json = dict[str, Any]


def state(user: User, room_id: str, type_: str, key: str = "") -> Json:
    """The content of an entry of the room's state."""
    content: Json = user.get(f"/rooms/{room_id}/state/{type_}/{segment(key)}").ok()
    return content


def set_state(user: User, room_id: str, type_: str, content: Json, key: str = "") -> None:
    """Set an entry of the room's state."""
    user.put(f"/rooms/{room_id}/state/{type_}/{segment(key)}", content).ok()


def upgrade(user: User, room_id: str, version: str = "11", **more: Any) -> str:
    """Upgrade a room; the new room's ID."""
    body = {"new_version": version, **more}
    replacement: str = user.post(f"/rooms/{room_id}/upgrade", body).ok()["replacement_room"]
    return replacement


def change_levels(user: User, room_id: str, **changes: Any) -> Json:
    """Change some power levels; what they are then. Tables are extended."""
    content = state(user, room_id, "m.room.power_levels")
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    set_state(user, room_id, "m.room.power_levels", content)
    return content


def public_room(user: User, **options: Any) -> str:
    """A room anybody may join, of a version with power levels for its creator."""
    return user.create_room(**{"preset": "public_chat", "room_version": "10", **options})


def test_old_and_new_room_point_to_each_other(alice: User) -> None:
    old = public_room(alice, creation_content={"type": "m.space", "m.federate": False})
    new = upgrade(alice, old)
    tombstone = alice.get(f"/rooms/{old}/state/m.room.tombstone", format="event").ok()
    assert tombstone["content"]["replacement_room"] == new
    create = state(alice, new, "m.room.create")
    assert create == {
        "room_version": "11",
        "type": "m.space",
        "m.federate": False,
        "predecessor": {"room_id": old, "event_id": tombstone["event_id"]},
    }


def test_room_whose_id_is_a_hash_names_only_the_room_it_replaces(alice: User, bob: User) -> None:
    old = public_room(alice)
    new = upgrade(alice, old, "12", additional_creators=[bob.user_id])
    create = state(alice, new, "m.room.create")
    assert create["predecessor"] == {"room_id": old}
    assert create["additional_creators"] == [bob.user_id]
    assert state(alice, old, "m.room.tombstone")["replacement_room"] == new
    assert alice.user_id not in state(alice, new, "m.room.power_levels")["users"]


def test_additional_creators_are_neither_copied_nor_given_to_versions_without(
    alice: User, bob: User
) -> None:
    old = public_room(
        alice, room_version="12", creation_content={"additional_creators": [bob.user_id]}
    )
    newer = upgrade(alice, old, "12")
    assert "additional_creators" not in state(alice, newer, "m.room.create")
    older = upgrade(alice, newer, "11", additional_creators=["nonsense"])
    assert "additional_creators" not in state(alice, older, "m.room.create")
    assert state(alice, older, "m.room.power_levels")["users"][alice.user_id] >= 100


def test_room_that_never_spoke_of_guests_is_replaced_by_one_without(alice: User) -> None:
    old = public_room(alice)
    answer = alice.get(f"/rooms/{old}/state/m.room.guest_access")
    answer.refused(404, "M_NOT_FOUND")
    new = upgrade(alice, old)
    assert state(alice, new, "m.room.guest_access") == {"guest_access": "forbidden"}


def test_state_that_means_the_same_whoever_sent_it_is_copied(alice: User, bob: User) -> None:
    old = public_room(alice)
    contents: dict[tuple[str, str], Json] = {
        ("m.room.topic", ""): {"topic": "Talk"},
        ("m.room.name", ""): {"name": "Name"},
        ("m.room.avatar", ""): {"url": "mxc://test.example/a"},
        ("m.room.join_rules", ""): {"join_rule": "knock"},
        ("m.room.guest_access", ""): {"guest_access": "forbidden"},
        ("m.room.history_visibility", ""): {"history_visibility": "joined"},
        ("m.room.encryption", ""): {"algorithm": "m.megolm.v1.aes-sha2"},
        ("m.room.server_acl", ""): {"allow": ["*"], "deny": ["evil.example"]},
        ("m.space.child", "!child:test.example"): {"via": ["test.example"]},
        ("m.room.member", "@evil:evil.example"): {"membership": "ban", "reason": "spam"},
    }
    for (type_, key), content in contents.items():
        set_state(alice, old, type_, content, key)
    set_state(alice, old, "org.example.own", {"not": "copied"})
    alice.post(f"/rooms/{old}/invite", {"user_id": bob.user_id}).ok()
    new = upgrade(alice, old)
    events = alice.get(f"/rooms/{new}/state").ok()
    found = {(e["type"], e["state_key"]): e["content"] for e in events}
    assert {key: found.get(key) for key in contents} == contents
    assert ("org.example.own", "") not in found
    assert ("m.room.member", bob.user_id) not in found
    assert ("m.room.tombstone", "") not in found


def test_power_levels_are_copied_whatever_they_are(alice: User, bob: User) -> None:
    users = {alice.user_id: 500, bob.user_id: 40}
    old = public_room(alice, power_level_content_override={"users": users})
    levels = change_levels(alice, old, users_default=3, state_default=200)
    assert state(alice, upgrade(alice, old), "m.room.power_levels") == levels


def test_moderator_who_may_upgrade_has_the_same_power_afterwards(alice: User, bob: User) -> None:
    old = public_room(alice)
    bob.post(f"/rooms/{old}/join").ok()
    levels = change_levels(alice, old, users={bob.user_id: 50}, events={"m.room.tombstone": 50})
    new = upgrade(bob, old)
    assert state(bob, new, "m.room.power_levels") == levels
    assert state(bob, old, "m.room.power_levels") == levels


@pytest.mark.parametrize(("before", "after"), [(50, 150), (100, 100)])
def test_level_of_tombstones_is_above_other_state_since_version_12(
    alice: User, before: int, after: int
) -> None:
    old = public_room(alice)
    change_levels(alice, old, events={"m.room.tombstone": before})
    levels = state(alice, upgrade(alice, old, "12"), "m.room.power_levels")
    assert levels["events"]["m.room.tombstone"] == after


def test_all_bans_are_copied_however_many(alice: User) -> None:
    old = public_room(alice)
    banned = {f"@evil{number}:evil.example" for number in range(410)}
    bans = [member_draft(alice.user_id, user_id, "ban") for user_id in sorted(banned)]
    append(alice.server.core, old, *bans)
    new = upgrade(alice, old)
    members = alice.get(f"/rooms/{new}/members", membership="ban").ok()["chunk"]
    assert {event["state_key"] for event in members} == banned


def test_levels_written_as_strings_become_integers(alice: User) -> None:
    old = public_room(alice, room_version="9", power_level_content_override={"kick": "60"})
    assert state(alice, upgrade(alice, old), "m.room.power_levels")["kick"] == 60


def test_join_rule_that_the_version_does_not_know_becomes_invite(alice: User) -> None:
    old = public_room(alice)
    set_state(alice, old, "m.room.join_rules", {"join_rule": "knock"})
    assert state(alice, upgrade(alice, old, "6"), "m.room.join_rules")["join_rule"] == "invite"


@pytest.mark.parametrize(("users_default", "expected"), [(0, 50), (80, 81)])
def test_old_room_is_for_moderators_only(alice: User, users_default: int, expected: int) -> None:
    old = public_room(alice)
    change_levels(alice, old, users_default=users_default)
    upgrade(alice, old)
    levels = state(alice, old, "m.room.power_levels")
    assert (levels["events_default"], levels["invite"]) == (expected, expected)


def test_aliases_and_the_place_in_the_list_move(server: Server, alice: User) -> None:
    name = f"upgraded{next(server.numbers)}"
    old = public_room(alice, room_alias_name=name, visibility="public")
    alias = f"#{name}:test.example"
    new = upgrade(alice, old)
    assert alice.get(f"/directory/room/{segment(alias)}").ok()["room_id"] == new
    assert state(alice, old, "m.room.canonical_alias") == {}
    assert state(alice, new, "m.room.canonical_alias") == {"alias": alias}
    assert alice.get(f"/directory/list/room/{old}").ok()["visibility"] == "private"
    assert alice.get(f"/directory/list/room/{new}").ok()["visibility"] == "public"


def test_private_room_stays_out_of_the_list(alice: User) -> None:
    new = upgrade(alice, public_room(alice))
    assert alice.get(f"/directory/list/room/{new}").ok()["visibility"] == "private"


def test_who_follows_finds_their_tags_and_direct_chats(alice: User, bob: User) -> None:
    old = public_room(alice)
    bob.post(f"/rooms/{old}/join").ok()
    bob.put(f"/user/{bob.path}/rooms/{old}/tags/m.favourite", {"order": 0.5}).ok()
    direct = {alice.user_id: [old], "@else:test.example": ["!other:test.example"]}
    bob.put(f"/user/{bob.path}/account_data/m.direct", direct).ok()
    new = upgrade(alice, old)
    bob.post(f"/rooms/{new}/join").ok()
    tags = bob.get(f"/user/{bob.path}/rooms/{new}/tags").ok()["tags"]
    assert tags == {"m.favourite": {"order": 0.5}}
    direct[alice.user_id].append(new)
    assert bob.get(f"/user/{bob.path}/account_data/m.direct").ok() == direct


def test_room_that_only_claims_to_replace_another_inherits_nothing(
    server: Server, alice: User, bob: User
) -> None:
    name = f"claimed{next(server.numbers)}"
    old = public_room(alice, room_alias_name=name)
    alice.put(f"/user/{alice.path}/rooms/{old}/tags/m.favourite", {}).ok()
    claim = public_room(bob, creation_content={"predecessor": {"room_id": old}})
    alice.post(f"/rooms/{claim}/join").ok()
    assert alice.get(f"/user/{alice.path}/rooms/{claim}/tags").ok()["tags"] == {}
    alias = segment(f"#{name}:test.example")
    assert alice.get(f"/directory/room/{alias}").ok()["room_id"] == old


def test_upgrade_interrupted_after_the_tombstone_is_finished_by_asking_again(
    alice: User,
) -> None:
    old = public_room(alice)
    missing = "!never0made:test.example"
    set_state(alice, old, "m.room.tombstone", {"body": "", "replacement_room": missing})
    assert upgrade(alice, old) == missing
    assert state(alice, missing, "m.room.create")["predecessor"]["room_id"] == old
    assert upgrade(alice, old) != missing


def test_unknown_version_is_refused_and_nothing_happens(alice: User) -> None:
    old = public_room(alice)
    answer = alice.post(f"/rooms/{old}/upgrade", {"new_version": "my_bad_version"})
    answer.refused(400, "M_UNSUPPORTED_ROOM_VERSION")
    alice.get(f"/rooms/{old}/state/m.room.tombstone").refused(404, "M_NOT_FOUND")


def test_who_may_not_send_tombstones_may_not_upgrade(alice: User, bob: User) -> None:
    old = public_room(alice)
    path, body = f"/rooms/{old}/upgrade", {"new_version": "11"}
    bob.post(path, body).refused(403, "M_FORBIDDEN")
    bob.post(f"/rooms/{old}/join").ok()
    bob.post(path, body).refused(403, "M_FORBIDDEN")
    assert state(alice, old, "m.room.power_levels")["events_default"] == 0


def test_unknown_room_is_not_found(alice: User) -> None:
    body = {"new_version": "11"}
    alice.post("/rooms/!fail:unknown.example/upgrade", body).refused(404, "M_NOT_FOUND")


def test_version_is_required(alice: User) -> None:
    alice.post(f"/rooms/{public_room(alice)}/upgrade", {}).refused(400, "M_MISSING_PARAM")


def test_tombstone_that_points_to_its_own_room_is_refused(alice: User) -> None:
    room_id = public_room(alice)
    content = {"body": "", "replacement_room": room_id}
    alice.put(f"/rooms/{room_id}/state/m.room.tombstone", content).refused(400, "M_INVALID_PARAM")
    path = f"/rooms/{room_id}/send/m.room.tombstone/1"
    alice.put(path, content).refused(400, "M_INVALID_PARAM")
