"""Joining and redacting through the client API: what the specification leaves to the server."""

from __future__ import annotations

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


def test_ban_that_is_none_cannot_be_lifted(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    unban = f"/rooms/{room_id}/unban"
    alice.post(unban, {"user_id": bob.user_id}).refused(403, "M_BAD_STATE")
    bob.post(f"/join/{room_id}").ok()
    alice.post(unban, {"user_id": bob.user_id}).refused(403, "M_BAD_STATE")
    alice.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id}).ok()
    alice.post(unban, {"user_id": bob.user_id}).ok()
    bob.post(f"/join/{room_id}").ok()
