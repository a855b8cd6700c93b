"""Presence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import Answer, User


def test_presence_can_be_set_and_read(alice: User, bob: User) -> None:
    path = f"/presence/{alice.path}/status"
    alice.put(path, {"presence": "online", "status_msg": "here"}).ok()
    status = alice.get(path).ok()
    assert (status["presence"], status["status_msg"]) == ("online", "here")
    assert status["currently_active"] is True
    assert status["last_active_ago"] >= 0
    bob.get(path).refused(403, "M_FORBIDDEN")
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join").ok()
    assert bob.get(path).ok()["presence"] == "online"


def test_only_ones_own_presence_can_be_set(alice: User, bob: User) -> None:
    path = f"/presence/{alice.path}/status"
    bob.put(path, {"presence": "online"}).refused(403, "M_FORBIDDEN")


def test_whoever_does_something_is_online(alice: User) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{room_id}"
    message = {"msgtype": "m.text", "body": "hi"}
    event_id = alice.put(f"{path}/send/m.room.message/1", message).ok()["event_id"]
    acts: list[Callable[[], Answer]] = [
        lambda: alice.put(f"{path}/send/m.room.message/2", message),
        lambda: alice.put(f"{path}/state/m.room.topic", {"topic": "x"}),
        lambda: alice.put(f"{path}/redact/{event_id}/3"),
        lambda: alice.post(f"{path}/receipt/m.read/{event_id}"),
        lambda: alice.post(f"{path}/read_markers", {"m.fully_read": event_id}),
        lambda: alice.put(f"{path}/typing/{alice.path}", {"typing": True}),
    ]
    for act in acts:
        alice.put(f"/presence/{alice.path}/status", {"presence": "unavailable"}).ok()
        alice.get("/joined_rooms").ok()
        assert alice.get(f"/presence/{alice.path}/status").ok()["presence"] == "unavailable"
        act().ok()
        assert alice.get(f"/presence/{alice.path}/status").ok()["presence"] == "online"


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"presence": "busy"}, "M_BAD_JSON"),
        ({"presence": 1}, "M_BAD_JSON"),
        ({"presence": "online", "status_msg": 1}, "M_BAD_JSON"),
        ({"presence": "online", "status_msg": "a\0"}, "M_BAD_JSON"),
        ({"presence": "online", "status_msg": "x" * 5000}, "M_INVALID_PARAM"),
    ],
)
def test_bad_presence_is_refused(alice: User, body: dict[str, Any], errcode: str) -> None:
    alice.put(f"/presence/{alice.path}/status", body).refused(400, errcode)
