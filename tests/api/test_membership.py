"""Joining and redacting through the client API: what the specification leaves to the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.client import User


def test_join_keeps_what_the_client_adds_but_not_what_the_server_vouches_for(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    body = {
        "reason": "because",
        "org.example.mood": "happy",
        "membership": "ban",
        "join_authorised_via_users_server": alice.user_id,
    }
    bob.post(f"/join/{room_id}", body).ok()
    content = bob.get(f"/rooms/{room_id}/state/m.room.member/{bob.path}").ok()
    expected = {"membership": "join", "reason": "because", "org.example.mood": "happy"}
    assert {key: content.get(key) for key in expected} == expected
    assert "join_authorised_via_users_server" not in content


def test_event_of_another_room_cannot_be_redacted(alice: User) -> None:
    here, there = alice.create_room(), alice.create_room()
    sent = alice.put(f"/rooms/{there}/send/m.room.message/1", {"body": "x", "msgtype": "m.text"})
    event_id = sent.ok()["event_id"]
    alice.put(f"/rooms/{here}/redact/{event_id}/2").refused(400, "M_INVALID_PARAM")
    alice.put(f"/rooms/{there}/redact/{event_id}/3").ok()


@pytest.mark.parametrize("allow", [["!unknown:else.where"], [], None])
def test_restricted_room_is_closed_when_nobody_can_tell_who_may_come(
    alice: User, bob: User, allow: list[str] | None
) -> None:
    rule: dict[str, Any] = {"join_rule": "restricted"}
    if allow is not None:
        rule["allow"] = [{"type": "m.room_membership", "room_id": room_id} for room_id in allow]
    state = [{"type": "m.room.join_rules", "content": rule}]
    room_id = alice.create_room(initial_state=state)
    bob.post(f"/join/{room_id}").refused(403, "M_FORBIDDEN")
    alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id}).ok()
    bob.post(f"/join/{room_id}").ok()


@pytest.mark.parametrize(("version", "is_in_content"), [("1", False), ("10", False), ("11", True)])
def test_redaction_names_its_event_where_the_version_keeps_that(
    alice: User, version: str, is_in_content: bool
) -> None:
    room_id = alice.create_room(room_version=version)
    send = f"/rooms/{room_id}/send"
    first, second = (
        alice.put(f"{send}/m.room.message/{number}", {"body": "x"}).ok()["event_id"]
        for number in range(2)
    )
    body = {"redacts": first, "reason": "why"}
    alice.put(f"{send}/m.room.redaction/3", body).ok()
    alice.put(f"/rooms/{room_id}/redact/{second}/4", body).ok()
    wanted = {"event_format": "federation", "room": {"timeline": {"types": ["m.room.redaction"]}}}
    told = alice.get("/sync", filter=json.dumps(wanted)).ok()["rooms"]["join"][room_id]
    redactions = told["timeline"]["events"]
    assert [event["content"].get("redacts") for event in redactions] == (
        [first, second] if is_in_content else [None, None]
    )
    assert [event.get("redacts") for event in redactions] == (
        [None, None] if is_in_content else [first, second]
    )
    for event_id in (first, second):
        assert alice.get(f"/rooms/{room_id}/event/{event_id}").ok()["content"] == {}


def test_ban_that_is_none_cannot_be_lifted(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    unban = f"/rooms/{room_id}/unban"
    alice.post(unban, {"user_id": bob.user_id}).refused(403, "M_BAD_STATE")
    bob.post(f"/join/{room_id}").ok()
    alice.post(unban, {"user_id": bob.user_id}).refused(403, "M_BAD_STATE")
    alice.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id}).ok()
    alice.post(unban, {"user_id": bob.user_id}).ok()
    bob.post(f"/join/{room_id}").ok()
