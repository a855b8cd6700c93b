"""What is left of users who wanted to be forgotten when their account ended."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import User


def send(user: User, room_id: str, body: str) -> str:
    """A message; its event ID."""
    path = f"/rooms/{room_id}/send/m.room.message/{body}"
    event_id: str = user.put(path, {"msgtype": "m.text", "body": body}).ok()["event_id"]
    return event_id


def seen(user: User, room_id: str, event_id: str) -> list[Any]:
    """The content of an event in every way the user can read it."""
    quoted = f"/rooms/{room_id}"
    page = user.get(f"{quoted}/messages", dir="b", limit=50).ok()["chunk"]
    timeline = user.get("/sync").ok()["rooms"]["join"][room_id]["timeline"]["events"]
    single = user.get(f"{quoted}/event/{event_id}").ok()
    context = user.get(f"{quoted}/context/{event_id}").ok()["event"]
    found = [e for e in [*page, *timeline] if e["event_id"] == event_id]
    assert len(found) == 2
    return [e["content"] for e in [*found, single, context]]


@pytest.mark.parametrize("erase", [True, False])
def test_only_who_was_there_sees_messages_of_users_who_wanted_to_be_forgotten(
    alice: User, bob: User, erase: bool
) -> None:
    server = alice.server
    room_id = alice.create_room(preset="public_chat", name="Name")
    bob.post(f"/rooms/{room_id}/join").ok()
    event_id = send(alice, room_id, "secret")
    content = {"msgtype": "m.text", "body": "secret"}
    early = server.register()
    early.post(f"/rooms/{room_id}/join").ok()
    assert seen(early, room_id, event_id) == [content] * 4
    alice.post("/account/deactivate", {"auth": alice.password_auth(), "erase": erase}).ok()
    late = server.register()
    late.post(f"/rooms/{room_id}/join").ok()
    assert seen(bob, room_id, event_id) == [content] * 4
    for newcomer in (early, late):
        assert seen(newcomer, room_id, event_id) == [{} if erase else content] * 4
    # The room keeps what it is.
    assert late.get(f"/rooms/{room_id}/state/m.room.name").ok() == {"name": "Name"}
