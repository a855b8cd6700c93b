"""Looking into rooms without being in them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.api.client import User


def send(user: User, room_id: str, body: str) -> None:
    """A message."""
    path = f"/rooms/{room_id}/send/m.room.message/t{next(user.server.numbers)}"
    user.put(path, {"msgtype": "m.text", "body": body}).ok()


def open_room(user: User) -> str:
    """A world-readable room."""
    room_id = user.create_room(name="Den")
    content = {"history_visibility": "world_readable"}
    user.put(f"/rooms/{room_id}/state/m.room.history_visibility", content).ok()
    return room_id


def test_peeker_sees_state_and_newest_events(alice: User, bob: User) -> None:
    room_id = open_room(alice)
    send(alice, room_id, "one")
    send(alice, room_id, "two")
    room = bob.get(f"/rooms/{room_id}/initialSync", limit=1).ok()
    assert [e["content"]["body"] for e in room["messages"]["chunk"]] == ["two"]
    assert "m.room.name" in {e["type"] for e in room["state"]}
    assert "membership" not in room
    assert room["visibility"] == "private"
    params = {"from": room["messages"]["start"], "dir": "b", "limit": "1"}
    before = bob.get(f"/rooms/{room_id}/messages", **params).ok()["chunk"]
    assert [e["content"]["body"] for e in before] == ["one"]
    assert alice.get(f"/rooms/{room_id}/initialSync").ok()["membership"] == "join"


def test_peeker_follows_the_room(alice: User, bob: User) -> None:
    room_id = open_room(alice)
    token = bob.get(f"/rooms/{room_id}/initialSync").ok()["messages"]["end"]
    send(alice, room_id, "new")
    params = {"room_id": room_id, "from": token}
    page = bob.get("/events", **params).ok()
    assert [e["content"]["body"] for e in page["chunk"]] == ["new"]
    assert page["chunk"][0]["room_id"] == room_id
    assert bob.get("/events", **{**params, "from": page["end"]}).ok()["chunk"] == []


def test_waiting_peeker_is_woken(alice: User, bob: User) -> None:
    room_id = open_room(alice)
    token = bob.get(f"/rooms/{room_id}/initialSync").ok()["messages"]["end"]
    pages: list[Any] = []
    params = {"room_id": room_id, "from": token, "timeout": "20000"}
    waiting = threading.Thread(target=lambda: pages.append(bob.get("/events", **params).ok()))
    waiting.start()
    send(alice, room_id, "new")
    waiting.join(15)
    assert [e["content"]["body"] for e in pages[0]["chunk"]] == ["new"]


@pytest.mark.parametrize("visibility", ["shared", "invited", "joined"])
def test_closed_rooms_cannot_be_peeked_into(alice: User, bob: User, visibility: str) -> None:
    room_id = alice.create_room()
    content = {"history_visibility": visibility}
    alice.put(f"/rooms/{room_id}/state/m.room.history_visibility", content).ok()
    bob.get(f"/rooms/{room_id}/initialSync").refused(403, "M_FORBIDDEN")
    bob.get("/events", room_id=room_id).refused(403, "M_FORBIDDEN")


def test_bad_parameters_are_refused(alice: User) -> None:
    alice.get("/events", room_id="\0").refused(400, "M_INVALID_PARAM")
    params = {"room_id": open_room(alice), "from": "END"}
    alice.get("/events", **params).refused(400, "M_INVALID_PARAM")
