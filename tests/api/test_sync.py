"""GET /sync."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import Answer, Server, User, segment

Json = dict[str, Any]


def sync(user: User, since: str | None = None, **params: Any) -> Json:
    """A sync of a user; `filter` may be an object."""
    if since is not None:
        params["since"] = since
    if isinstance(params.get("filter"), dict):
        params["filter"] = json.dumps(params["filter"])
    params.setdefault("set_presence", "offline")
    response: Json = user.get("/sync", **params).ok()
    return response


def send(user: User, room_id: str, body: str = "hello", txn_id: str | None = None) -> str:
    """A message; its event ID."""
    txn_id = txn_id or f"t{next(user.server.numbers)}"
    path = f"/rooms/{room_id}/send/m.room.message/{txn_id}"
    event_id: str = user.put(path, {"msgtype": "m.text", "body": body}).ok()["event_id"]
    return event_id


def set_state(user: User, room_id: str, type_: str, content: Json, key: str = "") -> str:
    """A state event; its event ID."""
    path = f"/rooms/{room_id}/state/{type_}/{segment(key)}"
    event_id: str = user.put(path, content).ok()["event_id"]
    return event_id


def join(user: User, room_id: str) -> None:
    """Join a room."""
    user.post(f"/rooms/{room_id}/join").ok()


def public_room(user: User, **options: Any) -> str:
    """A room anybody may join."""
    return user.create_room(preset="public_chat", **options)


def bodies(room: Json) -> list[str]:
    """What the messages of a timeline say."""
    return [
        e["content"]["body"] for e in room["timeline"]["events"] if e["type"] == "m.room.message"
    ]


def members(events: list[Json]) -> dict[str, str]:
    """State key → membership of the member events among events."""
    return {
        e["state_key"]: e["content"]["membership"] for e in events if e["type"] == "m.room.member"
    }


# ---- joined rooms


def test_initial_sync_has_the_room_from_its_beginning(alice: User) -> None:
    room_id = alice.create_room(name="Den")
    room = sync(alice, filter={"room": {"timeline": {"limit": 50}}})["rooms"]["join"][room_id]
    assert room["timeline"]["events"][0]["type"] == "m.room.create"
    assert room["timeline"]["limited"] is False
    assert room["state"]["events"] == []
    assert room["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}
    assert "room_id" not in room["timeline"]["events"][0]


def test_limited_timeline_comes_with_the_state_at_its_start(alice: User) -> None:
    room_id = alice.create_room(name="Den", topic="old")
    send(alice, room_id, "one")
    topic = set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    send(alice, room_id, "two")
    room = sync(alice, filter={"room": {"timeline": {"limit": 2}}})["rooms"]["join"][room_id]
    assert room["timeline"]["limited"] is True
    assert room["timeline"]["events"][0]["event_id"] == topic
    state = room["state"]["events"]
    assert [e["content"]["topic"] for e in state if e["type"] == "m.room.topic"] == ["old"]


def test_state_after_is_the_state_at_the_end_of_the_timeline(alice: User) -> None:
    room_id = alice.create_room(topic="old")
    since = sync(alice)["next_batch"]
    set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    room = sync(alice, since, use_state_after="true")["rooms"]["join"][room_id]
    assert "state" not in room
    assert [e["content"] for e in room["state_after"]["events"]] == [{"topic": "new"}]
    assert len(room["timeline"]["events"]) == 1


def test_incremental_sync_tells_each_event_once(alice: User) -> None:
    room_id = alice.create_room()
    since = sync(alice)["next_batch"]
    send(alice, room_id, "one")
    send(alice, room_id, "two")
    response = sync(alice, since)
    room = response["rooms"]["join"][room_id]
    assert bodies(room) == ["one", "two"]
    assert room["timeline"]["limited"] is False
    assert room["state"]["events"] == []
    assert sync(alice, response["next_batch"])["rooms"]["join"] == {}


def test_unchanged_rooms_are_not_in_an_incremental_sync(alice: User) -> None:
    busy, quiet = alice.create_room(), alice.create_room()
    since = sync(alice)["next_batch"]
    send(alice, busy)
    rooms = sync(alice, since)["rooms"]["join"]
    assert busy in rooms
    assert quiet not in rooms


def test_gapped_sync_tells_the_state_that_changed_in_the_gap(alice: User) -> None:
    room_id = alice.create_room(topic="old", name="Den")
    since = sync(alice)["next_batch"]
    set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    for number in range(5):
        send(alice, room_id, str(number))
    room = sync(alice, since, filter={"room": {"timeline": {"limit": 2}}})
    room = room["rooms"]["join"][room_id]
    assert bodies(room) == ["3", "4"]
    assert room["timeline"]["limited"] is True
    assert [(e["type"], e["content"]) for e in room["state"]["events"]] == [
        ("m.room.topic", {"topic": "new"})
    ]


def test_full_state_tells_everything_also_of_unchanged_rooms(alice: User) -> None:
    room_id = alice.create_room(name="Den")
    since = sync(alice)["next_batch"]
    room = sync(alice, since, full_state="true")["rooms"]["join"][room_id]
    assert room["timeline"]["events"] == []
    types = {e["type"] for e in room["state"]["events"]}
    assert {"m.room.create", "m.room.member", "m.room.power_levels", "m.room.name"} <= types


def test_full_state_tells_invites_and_knocks_again_and_rooms_left_when_asked_for(
    alice: User, bob: User
) -> None:
    left = public_room(alice, name="Den")
    join(bob, left)
    bob.post(f"/rooms/{left}/leave").ok()
    set_state(alice, left, "m.room.name", {"name": "secret"})
    invited = alice.create_room(invite=[bob.user_id])
    knocked = public_room(alice)
    set_state(alice, knocked, "m.room.join_rules", {"join_rule": "knock"})
    bob.post(f"/knock/{knocked}").ok()
    since = sync(bob)["next_batch"]
    rooms = sync(bob, since, full_state="true")["rooms"]
    assert (rooms["invite"].keys(), rooms["knock"].keys()) == ({invited}, {knocked})
    assert rooms["leave"] == {}
    wanted = {"room": {"include_leave": True}}
    room = sync(bob, since, full_state="true", filter=wanted)["rooms"]["leave"][left]
    assert room["timeline"]["events"] == []
    names = [e["content"]["name"] for e in room["state"]["events"] if e["type"] == "m.room.name"]
    assert names == ["Den"]
    assert sync(bob, since, filter=wanted)["rooms"]["leave"] == {}


def test_newly_joined_room_comes_with_its_state_and_history(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    for number in range(4):
        send(alice, room_id, str(number))
    since = sync(bob)["next_batch"]
    join(bob, room_id)
    filter_ = {"room": {"timeline": {"limit": 3}}}
    response = sync(bob, since, filter=filter_)
    room = response["rooms"]["join"][room_id]
    assert bodies(room) == ["2", "3"]
    assert room["timeline"]["limited"] is True
    assert "m.room.create" in {e["type"] for e in room["state"]["events"]}
    assert sync(bob, response["next_batch"], filter=filter_)["rooms"]["join"] == {}


def test_rejoining_user_is_not_told_the_same_events_again(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    send(alice, room_id, "seen")
    since = sync(bob)["next_batch"]
    bob.post(f"/rooms/{room_id}/leave").ok()
    send(alice, room_id, "missed")
    join(bob, room_id)
    room = sync(bob, since)["rooms"]["join"][room_id]
    assert bodies(room) == ["missed"]
    assert room["timeline"]["limited"] is True


def test_state_set_behind_hidden_history_is_shown_to_who_comes_back(
    alice: User, bob: User, server: Server
) -> None:
    carol = server.register()
    room_id = public_room(alice)
    join(bob, room_id)
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    since = sync(bob)["next_batch"]
    bob.post(f"/rooms/{room_id}/leave").ok()
    join(carol, room_id)
    send(alice, room_id, "hidden")
    join(bob, room_id)
    room = sync(bob, since)["rooms"]["join"][room_id]
    assert bodies(room) == []
    assert members(room["timeline"]["events"])[carol.user_id] == "join"


def test_hidden_history_is_not_in_the_timeline(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    send(alice, room_id, "before")
    join(bob, room_id)
    send(alice, room_id, "after")
    room = sync(bob)["rooms"]["join"][room_id]
    assert bodies(room) == ["after"]


def test_transaction_id_is_shown_to_the_sending_device_only(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    other_device = alice.log_in_again()
    send(alice, room_id, txn_id="my_txn")
    for user, expected in ((alice, "my_txn"), (other_device, None), (bob, None)):
        event = sync(user)["rooms"]["join"][room_id]["timeline"]["events"][-1]
        assert event["unsigned"].get("transaction_id") == expected


def test_state_events_tell_what_they_replaced(alice: User) -> None:
    room_id = alice.create_room(topic="old")
    since = sync(alice)["next_batch"]
    set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    event = sync(alice, since)["rooms"]["join"][room_id]["timeline"]["events"][0]
    assert event["unsigned"]["prev_content"]["topic"] == "old"
    assert event["unsigned"]["replaces_state"].startswith("$")
    assert event["unsigned"]["membership"] == "join"


def test_prev_content_behind_hidden_history_is_not_told(alice: User, bob: User) -> None:
    room_id = public_room(alice, topic="secret")
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    set_state(alice, room_id, "m.room.topic", {"topic": "hidden"})
    join(bob, room_id)
    since = sync(bob)["next_batch"]
    set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    event = sync(bob, since)["rooms"]["join"][room_id]["timeline"]["events"][0]
    assert "prev_content" not in event["unsigned"]
    assert event["unsigned"]["replaces_state"].startswith("$")


def test_users_are_told_what_their_own_membership_was(alice: User, bob: User) -> None:
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = alice.create_room(preset="private_chat", initial_state=[hidden])
    for deed, section in (("join", "join"), ("leave", "leave")):
        alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id}).ok()
        since = sync(bob)["next_batch"]
        bob.post(f"/rooms/{room_id}/{deed}").ok()
        told = sync(bob, since)["rooms"][section][room_id]["timeline"]["events"][-1]
        assert told["unsigned"]["prev_content"]["membership"] == "invite"
        bob.post(f"/rooms/{room_id}/leave")


def test_redacted_event_comes_without_its_content(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id, "oops")
    assert bodies(sync(alice)["rooms"]["join"][room_id]) == ["oops"]
    alice.put(f"/rooms/{room_id}/redact/{segment(event_id)}/r1", {"reason": "typo"}).ok()
    events = sync(alice)["rooms"]["join"][room_id]["timeline"]["events"]
    redacted = next(e for e in events if e["event_id"] == event_id)
    assert redacted["content"] == {}
    assert redacted["unsigned"]["redacted_because"]["content"]["reason"] == "typo"


def test_redacted_state_still_tells_which_event_it_replaced(alice: User) -> None:
    room_id = alice.create_room()
    first = set_state(alice, room_id, "m.room.topic", {"topic": "one"})
    second = set_state(alice, room_id, "m.room.topic", {"topic": "two"})
    alice.put(f"/rooms/{room_id}/redact/{second}/1").ok()
    unsigned = alice.get(f"/rooms/{room_id}/event/{second}").ok()["unsigned"]
    assert unsigned["replaces_state"] == first
    assert "prev_content" not in unsigned


def test_redacted_prev_content_is_not_told(alice: User) -> None:
    room_id = alice.create_room()
    old = set_state(alice, room_id, "m.room.topic", {"topic": "oops"})
    set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    sync(alice)
    alice.put(f"/rooms/{room_id}/redact/{segment(old)}/r1").ok()
    text = json.dumps(sync(alice))
    assert "oops" not in text


def test_messages_of_ignored_users_are_hidden_but_not_their_state(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    path = f"/user/{alice.path}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}).ok()
    since = sync(alice)["next_batch"]
    send(bob, room_id, "noise")
    set_state(
        bob, room_id, "m.room.member", {"membership": "join", "displayname": "B"}, bob.user_id
    )
    send(alice, room_id, "mine")
    room = sync(alice, since)["rooms"]["join"][room_id]
    assert bodies(room) == ["mine"]
    assert bob.user_id in members(room["timeline"]["events"])


def test_invites_of_ignored_users_are_not_told(alice: User, bob: User) -> None:
    path = f"/user/{alice.path}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}).ok()
    room_id = bob.create_room(invite=[alice.user_id])
    assert room_id not in sync(alice)["rooms"]["invite"]


# ---- filters


def test_timeline_filter_reaches_back_beyond_what_it_hides(alice: User) -> None:
    room_id = alice.create_room()
    send(alice, room_id, "first")
    for _ in range(12):
        alice.put(f"/rooms/{room_id}/send/org.filler/f{next(alice.server.numbers)}", {}).ok()
    filter_ = {"room": {"timeline": {"types": ["m.room.mess*"], "limit": 1}}}
    room = sync(alice, filter=filter_)["rooms"]["join"][room_id]
    assert bodies(room) == ["first"]
    assert room["timeline"]["limited"] is False


def test_stored_filter_is_used_by_its_id(alice: User) -> None:
    room_id = alice.create_room()
    filter_ = {"room": {"timeline": {"limit": 1}, "state": {"types": []}}}
    filter_id = alice.post(f"/user/{alice.path}/filter", filter_).ok()["filter_id"]
    room = sync(alice, filter=filter_id)["rooms"]["join"][room_id]
    assert len(room["timeline"]["events"]) == 1
    assert room["state"]["events"] == []


def test_rooms_can_be_filtered_out(alice: User) -> None:
    wanted, unwanted = alice.create_room(), alice.create_room()
    rooms = sync(alice, filter={"room": {"not_rooms": [unwanted]}})["rooms"]["join"]
    assert wanted in rooms
    assert unwanted not in rooms


def test_limit_of_zero_gives_state_only(alice: User) -> None:
    room_id = alice.create_room()
    filter_ = {"room": {"timeline": {"limit": 0}, "state": {"types": ["m.room.member"]}}}
    room = sync(alice, filter=filter_)["rooms"]["join"][room_id]
    assert room["timeline"]["events"] == []
    assert members(room["state"]["events"]) == {alice.user_id: "join"}


def test_filtered_profile_change_tells_nothing(alice: User) -> None:
    room_id = alice.create_room()
    filter_ = {
        "room": {
            "timeline": {"types": []},
            "state": {"types": ["org.x"]},
            "ephemeral": {"types": []},
        }
    }
    since = sync(alice, filter=filter_)["next_batch"]
    content = {"membership": "join", "displayname": "boris"}
    set_state(alice, room_id, "m.room.member", content, alice.user_id)
    assert sync(alice, since, filter=filter_)["rooms"]["join"] == {}


def test_federation_format_and_event_fields(alice: User) -> None:
    room_id = alice.create_room()
    send(alice, room_id)
    limit = {"timeline": {"limit": 1}}
    room = sync(alice, filter={"event_format": "federation", "room": limit})
    event = room["rooms"]["join"][room_id]["timeline"]["events"][0]
    assert {"event_id", "room_id", "prev_events", "auth_events", "depth", "hashes"} <= set(event)
    room = sync(alice, filter={"event_fields": ["content.body"], "room": limit})
    event = room["rooms"]["join"][room_id]["timeline"]["events"][0]
    assert event == {"content": {"body": "hello"}}


# ---- lazily loaded members

LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 3}}}


def test_lazy_loading_tells_only_the_senders_and_oneself(
    alice: User, bob: User, server: Server
) -> None:
    carol = server.register()
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    join(carol, room_id)
    for _ in range(3):
        send(bob, room_id)
    response = sync(alice, filter=LAZY)
    state = response["rooms"]["join"][room_id]["state"]["events"]
    assert set(members(state)) == {alice.user_id, bob.user_id}
    assert "m.room.create" in {e["type"] for e in state}
    # A new sender is told once, a known one is not told again.
    send(carol, room_id)
    send(bob, room_id)
    response = sync(alice, response["next_batch"], filter=LAZY)
    state = response["rooms"]["join"][room_id]["state"]["events"]
    assert set(members(state)) == {carol.user_id}
    send(carol, room_id)
    room = sync(alice, response["next_batch"], filter=LAZY)["rooms"]["join"][room_id]
    assert room["state"]["events"] == []


def test_lost_response_tells_the_members_again(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    since = sync(alice, filter=LAZY)["next_batch"]
    send(bob, room_id)
    first = sync(alice, since, filter=LAZY)["rooms"]["join"][room_id]["state"]["events"]
    again = sync(alice, since, filter=LAZY)["rooms"]["join"][room_id]["state"]["events"]
    assert members(first) == members(again)


def test_redundant_members_are_told_when_asked_for(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    filter_ = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
    since = sync(alice, filter=filter_)["next_batch"]
    for _ in range(2):
        send(bob, room_id)
        response = sync(alice, since, filter=filter_)
        since = response["next_batch"]
        state = response["rooms"]["join"][room_id]["state"]["events"]
        assert set(members(state)) == {bob.user_id}


def test_membership_changes_in_a_gap_are_told_to_lazy_clients(
    alice: User, bob: User, server: Server
) -> None:
    carol = server.register()
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    join(carol, room_id)
    for _ in range(4):
        send(bob, room_id)
    since = sync(alice, filter=LAZY)["next_batch"]
    carol.post(f"/rooms/{room_id}/leave").ok()
    for _ in range(5):
        send(bob, room_id)
    room = sync(alice, since, filter=LAZY)["rooms"]["join"][room_id]
    assert members(room["state"]["events"]) == {carol.user_id: "leave"}


# ---- summaries


def test_unnamed_room_has_heroes_and_counts(alice: User, bob: User, server: Server) -> None:
    carol = server.register()
    room_id = public_room(alice)
    join(bob, room_id)
    alice.post(f"/rooms/{room_id}/invite", {"user_id": carol.user_id}).ok()
    room = sync(alice, filter=LAZY)["rooms"]["join"][room_id]
    assert room["summary"] == {
        "m.joined_member_count": 2,
        "m.invited_member_count": 1,
        "m.heroes": [bob.user_id, carol.user_id],
    }
    told = room["state"]["events"] + room["timeline"]["events"]
    assert {bob.user_id, carol.user_id} <= set(members(told))


def test_named_room_has_no_heroes(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    room = sync(alice)["rooms"]["join"][room_id]
    assert room["summary"] == {"m.joined_member_count": 2, "m.invited_member_count": 0}


@pytest.mark.parametrize("is_long_ago", [False, True])
def test_room_whose_name_is_redacted_has_heroes(alice: User, bob: User, is_long_ago: bool) -> None:
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    since = sync(alice)["next_batch"]
    name = alice.get(f"/rooms/{room_id}/state/m.room.name", format="event").ok()["event_id"]
    alice.put(f"/rooms/{room_id}/redact/{segment(name)}/r", {}).ok()
    for _ in range(12 if is_long_ago else 0):
        send(bob, room_id)
    room = sync(alice, since)["rooms"]["join"][room_id]
    assert room["summary"]["m.heroes"] == [bob.user_id]
    # What leaves the name as it is says nothing of it.
    alice.put(f"/rooms/{room_id}/state/m.room.name", {"name": "Den"}).ok()
    since = sync(alice)["next_batch"]
    alice.put(f"/rooms/{room_id}/redact/{segment(send(bob, room_id))}/s", {}).ok()
    assert "m.heroes" not in sync(alice, since)["rooms"]["join"][room_id].get("summary", {})


def test_summary_comes_again_only_when_the_members_change(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    since = sync(alice)["next_batch"]
    send(alice, room_id)
    response = sync(alice, since)
    assert response["rooms"]["join"][room_id]["summary"] == {}
    join(bob, room_id)
    room = sync(alice, response["next_batch"])["rooms"]["join"][room_id]
    assert room["summary"]["m.joined_member_count"] == 2


# ---- invites, leaving


def test_invite_comes_with_stripped_state(alice: User, bob: User) -> None:
    since = sync(bob)["next_batch"]
    room_id = alice.create_room(name="Den", topic="private", invite=[bob.user_id])
    for response in (sync(bob), sync(bob, since)):
        events = response["rooms"]["invite"][room_id]["invite_state"]["events"]
        assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= {e["type"] for e in events}
        assert members(events) == {alice.user_id: "join", bob.user_id: "invite"}
        assert all(set(e) == {"type", "state_key", "sender", "content"} for e in events)
        assert response["rooms"]["join"] == {}


def test_left_room_ends_with_the_leaving(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    since = sync(bob)["next_batch"]
    send(alice, room_id, "before")
    bob.post(f"/rooms/{room_id}/leave").ok()
    send(alice, room_id, "after")
    set_state(alice, room_id, "m.room.topic", {"topic": "after"})
    response = sync(bob, since)
    room = response["rooms"]["leave"][room_id]
    assert bodies(room) == ["before"]
    assert members(room["timeline"]["events"]) == {bob.user_id: "leave"}
    assert "after" not in json.dumps(response)
    assert sync(bob, response["next_batch"])["rooms"]["leave"] == {}


def test_left_rooms_are_in_an_initial_sync_only_when_asked_for(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    bob.post(f"/rooms/{room_id}/leave").ok()
    set_state(alice, room_id, "m.room.name", {"name": "secret"})
    assert sync(bob)["rooms"]["leave"] == {}
    response = sync(bob, filter={"room": {"include_leave": True, "timeline": {"limit": 1}}})
    room = response["rooms"]["leave"][room_id]
    names = [e["content"]["name"] for e in room["state"]["events"] if e["type"] == "m.room.name"]
    assert names == ["Den"]
    bob.post(f"/rooms/{room_id}/forget").ok()
    assert sync(bob, filter={"room": {"include_leave": True}})["rooms"]["leave"] == {}


def test_room_joined_and_left_between_two_syncs_comes_whole(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    since = sync(bob)["next_batch"]
    join(bob, room_id)
    bob.post(f"/rooms/{room_id}/leave").ok()
    room = sync(bob, since, filter={"room": {"timeline": {"limit": 1}}})["rooms"]["leave"][room_id]
    assert "m.room.name" in {e["type"] for e in room["state"]["events"]}


def test_rejected_invite_tells_nothing_of_the_room(alice: User, bob: User) -> None:
    room_id = alice.create_room(name="Den", topic="private", invite=[bob.user_id])
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    since = sync(bob)["next_batch"]
    bob.post(f"/rooms/{room_id}/leave").ok()
    room = sync(bob, since)["rooms"]["leave"][room_id]
    assert room["state"]["events"] == []
    assert members(room["timeline"]["events"]) == {bob.user_id: "leave"}
    assert len(room["timeline"]["events"]) == 1


@pytest.mark.parametrize("timeline", [{"limit": 0}, {"types": ["m.room.message"]}])
@pytest.mark.parametrize("deed", ["reject", "kick"])
def test_invite_ends_whatever_events_are_filtered(
    alice: User, bob: User, timeline: Json, deed: str
) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    filter_ = json.dumps({"room": {"timeline": timeline}})
    since = bob.get("/sync", filter=filter_).ok()["next_batch"]
    if deed == "reject":
        bob.post(f"/rooms/{room_id}/leave").ok()
    else:
        alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id}).ok()
    told = bob.get("/sync", filter=filter_, since=since).ok()
    assert told["rooms"]["leave"][room_id]["timeline"]["events"] == []
    again = bob.get("/sync", filter=filter_, since=told["next_batch"]).ok()
    assert room_id not in again["rooms"]["leave"]


def test_banned_user_is_told_so(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    since = sync(bob)["next_batch"]
    alice.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id}).ok()
    send(alice, room_id, "after")
    room = sync(bob, since)["rooms"]["leave"][room_id]
    assert members(room["timeline"]["events"]) == {bob.user_id: "ban"}


# ---- account data, ephemeral, presence


def test_account_data_is_told_when_it_changes(alice: User) -> None:
    room_id = alice.create_room()
    since = sync(alice)["next_batch"]
    alice.put(f"/user/{alice.path}/account_data/org.x", {"a": 1}).ok()
    alice.put(f"/user/{alice.path}/rooms/{room_id}/tags/u.work", {"order": 0.5}).ok()
    response = sync(alice, since)
    assert response["account_data"]["events"] == [{"type": "org.x", "content": {"a": 1}}]
    room = response["rooms"]["join"][room_id]
    assert room["account_data"]["events"] == [
        {"type": "m.tag", "content": {"tags": {"u.work": {"order": 0.5}}}}
    ]
    assert room["timeline"]["events"] == []
    following = sync(alice, response["next_batch"])
    assert following["account_data"]["events"] == []
    assert following["rooms"]["join"] == {}


def test_initial_sync_has_the_push_rules(alice: User) -> None:
    types = [e["type"] for e in sync(alice)["account_data"]["events"]]
    assert types.count("m.push_rules") == 1


def test_receipts_are_told_and_never_go_back(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    first, second = send(alice, room_id), send(alice, room_id)
    since = sync(alice)["next_batch"]
    bob.post(f"/rooms/{room_id}/receipt/m.read/{segment(second)}").ok()
    response = sync(alice, since)
    (event,) = response["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert event["type"] == "m.receipt"
    assert set(event["content"]) == {second}
    assert set(event["content"][second]["m.read"][bob.user_id]) == {"ts"}
    bob.post(f"/rooms/{room_id}/receipt/m.read/{segment(first)}").ok()
    assert sync(alice, response["next_batch"])["rooms"]["join"] == {}


def test_private_receipts_are_told_to_oneself_only(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    event_id = send(alice, room_id)
    since = sync(alice)["next_batch"]
    bob.post(f"/rooms/{room_id}/receipt/m.read.private/{segment(event_id)}").ok()
    assert sync(alice, since)["rooms"]["join"] == {}
    (event,) = sync(bob, since)["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert bob.user_id in event["content"][event_id]["m.read.private"]
    everything = sync(alice)["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert everything == []


def test_threaded_receipts_come_apart_from_unthreaded_ones(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id)
    path = f"/rooms/{room_id}/receipt/m.read/{segment(event_id)}"
    alice.post(path).ok()
    alice.post(path, {"thread_id": "main"}).ok()
    events = sync(alice)["rooms"]["join"][room_id]["ephemeral"]["events"]
    threads = {
        e["content"][event_id]["m.read"][alice.user_id].get("thread_id")
        for e in events
        if e["type"] == "m.receipt"
    }
    assert threads == {None, "main"}


def test_read_marker_is_account_data_of_the_room(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id)
    since = sync(alice)["next_batch"]
    alice.post(f"/rooms/{room_id}/read_markers", {"m.fully_read": event_id}).ok()
    room = sync(alice, since)["rooms"]["join"][room_id]
    assert room["account_data"]["events"] == [
        {"type": "m.fully_read", "content": {"event_id": event_id}}
    ]


def test_typing_is_told_when_it_begins_and_ends(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    since = sync(alice)["next_batch"]
    path = f"/rooms/{room_id}/typing/{bob.path}"
    bob.put(path, {"typing": True, "timeout": 30000}).ok()
    response = sync(alice, since)
    assert response["rooms"]["join"][room_id]["ephemeral"]["events"] == [
        {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}
    ]
    # Going on is no news.
    bob.put(path, {"typing": True, "timeout": 30000}).ok()
    assert sync(alice, response["next_batch"])["rooms"]["join"] == {}
    bob.put(path, {"typing": False}).ok()
    response = sync(alice, response["next_batch"])
    assert response["rooms"]["join"][room_id]["ephemeral"]["events"] == [
        {"type": "m.typing", "content": {"user_ids": []}}
    ]


def test_who_leaves_or_is_kicked_types_no_more(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    path = f"/rooms/{room_id}/typing/{bob.path}"
    ends: tuple[Callable[[], Answer], ...] = (
        lambda: bob.post(f"/rooms/{room_id}/leave"),
        lambda: alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id}),
        lambda: alice.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id}),
    )
    for end in ends:
        join(bob, room_id)
        bob.put(path, {"typing": True, "timeout": 30000}).ok()
        since = sync(alice)["next_batch"]
        end().ok()
        room = sync(alice, since)["rooms"]["join"][room_id]
        nobody = [{"type": "m.typing", "content": {"user_ids": []}}]
        assert room["ephemeral"]["events"] == nobody


def test_presence_of_others_in_the_room_is_told(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    since = sync(alice, set_presence="online")["next_batch"]
    sync(bob, set_presence="online")
    # They share no room yet.
    assert [e["sender"] for e in sync(alice, since)["presence"]["events"]] == []
    join(bob, room_id)
    response = sync(alice, since)
    (event,) = response["presence"]["events"]
    assert (event["type"], event["sender"]) == ("m.presence", bob.user_id)
    assert event["content"]["presence"] == "online"
    bob.put(f"/presence/{bob.path}/status", {"presence": "unavailable", "status_msg": "tea"}).ok()
    (event,) = sync(alice, response["next_batch"])["presence"]["events"]
    assert event["content"]["presence"] == "unavailable"
    assert event["content"]["status_msg"] == "tea"


def test_initial_sync_shows_ones_own_presence(alice: User) -> None:
    events = sync(alice, set_presence="online")["presence"]["events"]
    assert [(e["sender"], e["content"]["presence"]) for e in events] == [(alice.user_id, "online")]


# ---- waiting, tokens


def test_waiting_sync_returns_when_something_happens(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    since = sync(alice)["next_batch"]
    answers: list[Json] = []
    waiting = threading.Thread(target=lambda: answers.append(sync(alice, since, timeout=20000)))
    waiting.start()
    send(bob, room_id, "wake up")
    waiting.join(15)
    assert bodies(answers[0]["rooms"]["join"][room_id]) == ["wake up"]


def test_invite_wakes_a_waiting_sync(alice: User, bob: User) -> None:
    since = sync(bob)["next_batch"]
    answers: list[Json] = []
    waiting = threading.Thread(target=lambda: answers.append(sync(bob, since, timeout=20000)))
    waiting.start()
    room_id = alice.create_room(invite=[bob.user_id])
    waiting.join(15)
    assert room_id in answers[0]["rooms"]["invite"]


def test_sync_without_news_answers_with_a_token_after_the_timeout(alice: User) -> None:
    since = sync(alice)["next_batch"]
    response = sync(alice, since, timeout=10)
    assert response["rooms"] == {"join": {}, "invite": {}, "knock": {}, "leave": {}}
    assert response["next_batch"]


def test_token_of_the_future_begins_afresh(alice: User) -> None:
    room_id = alice.create_room()
    response = sync(alice, "s999999999")
    assert room_id in response["rooms"]["join"]
    assert int(response["next_batch"][1:]) < 999999999


@pytest.mark.parametrize(
    ("params", "errcode"),
    [
        ({"since": "nonsense"}, "M_INVALID_PARAM"),
        ({"timeout": "soon"}, "M_INVALID_PARAM"),
        ({"full_state": "maybe"}, "M_INVALID_PARAM"),
        ({"set_presence": "busy"}, "M_INVALID_PARAM"),
        ({"filter": "no-such-filter"}, "M_INVALID_PARAM"),
        ({"filter": "{"}, "M_NOT_JSON"),
        ({"filter": '{"room": 1}'}, "M_BAD_JSON"),
    ],
)
def test_bad_parameters_are_refused(alice: User, params: dict[str, str], errcode: str) -> None:
    alice.get("/sync", **params).refused(400, errcode)


def test_sync_needs_a_token(server: Server) -> None:
    server.request("GET", "/sync").refused(401, "M_MISSING_TOKEN")
