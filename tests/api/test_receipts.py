"""Receipts, read markers and typing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import User, segment


def send(user: User, room_id: str, **content: Any) -> str:
    """A message; its event ID."""
    path = f"/rooms/{room_id}/send/m.room.message/t{next(user.server.numbers)}"
    body = {"msgtype": "m.text", "body": "hello", **content}
    event_id: str = user.put(path, body).ok()["event_id"]
    return event_id


def related(rel_type: str, event_id: str) -> dict[str, Any]:
    """Content of an event that relates to another."""
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id}}


def receipt_path(room_id: str, event_id: str, kind: str = "m.read") -> str:
    """Where a receipt is sent to."""
    return f"/rooms/{room_id}/receipt/{kind}/{segment(event_id)}"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("not.m.read", {}),
        ("m.read", {"thread_id": 1}),
        ("m.read", {"thread_id": ""}),
        ("m.read", {"thread_id": "$elsewhere"}),
        ("m.fully_read", {"thread_id": "main"}),
    ],
)
def test_bad_receipts_are_refused(alice: User, kind: str, body: dict[str, Any]) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id)
    alice.post(receipt_path(room_id, event_id, kind), body).refused(400, "M_INVALID_PARAM")


def test_receipt_is_for_an_event_of_a_room_one_is_in(alice: User, bob: User) -> None:
    here, there = alice.create_room(), alice.create_room()
    event_id = send(alice, there)
    alice.post(receipt_path(here, event_id)).refused(404, "M_NOT_FOUND")
    alice.post(receipt_path(here, "$nothing")).refused(404, "M_NOT_FOUND")
    bob.post(receipt_path(there, event_id)).refused(403, "M_FORBIDDEN")
    bob.post(f"/rooms/{there}/read_markers", {}).refused(403, "M_FORBIDDEN")


def test_thread_of_a_receipt_must_be_that_of_the_event(alice: User) -> None:
    room_id = alice.create_room()
    root = send(alice, room_id)
    reply = send(alice, room_id, **related("m.thread", root))
    edit = send(alice, room_id, **related("m.replace", reply))
    reaction = send(alice, room_id, **related("m.annotation", root))
    for event_id, thread, wrong in (
        (root, "main", reply),
        (reply, root, "main"),
        (edit, root, "main"),
        (edit, root, reply),
        (reaction, "main", reply),
        # Where a thread begins is in both; and what belongs to that.
        (root, root, reaction),
        (reaction, root, edit),
    ):
        path = receipt_path(room_id, event_id)
        alice.post(path, {"thread_id": wrong}).refused(400, "M_INVALID_PARAM")
        alice.post(path, {"thread_id": thread}).ok()


def test_receipts_of_a_room_are_told_in_one_event_as_far_as_it_holds_them(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{room_id}", {}).ok()
    root = send(alice, room_id)
    reply = send(alice, room_id, **related("m.thread", root))
    alice.post(receipt_path(room_id, reply), {"thread_id": root}).ok()
    bob.post(receipt_path(room_id, root), {"thread_id": "main"}).ok()
    bob.post(receipt_path(room_id, root), {}).ok()
    first, second = alice.get("/sync").ok()["rooms"]["join"][room_id]["ephemeral"]["events"]
    # What is regardless of threads comes first.
    assert "thread_id" not in first["content"][root]["m.read"][bob.user_id]
    assert first["content"][reply]["m.read"][alice.user_id]["thread_id"] == root
    assert second["content"].keys() == {root}
    assert second["content"][root]["m.read"][bob.user_id]["thread_id"] == "main"


def test_redacted_reply_may_be_read_in_its_thread_or_in_the_room(alice: User) -> None:
    room_id = alice.create_room()
    root = send(alice, room_id)
    reply = send(alice, room_id, **related("m.thread", root))
    alice.put(f"/rooms/{room_id}/redact/{reply}/1", {}).ok()
    path = receipt_path(room_id, reply)
    for thread in (root, "main"):
        alice.post(path, {"thread_id": thread}).ok()
    other = send(alice, room_id)
    alice.post(path, {"thread_id": other}).refused(400, "M_INVALID_PARAM")


def test_read_markers_set_several_kinds_at_once(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id)
    kinds = ["m.fully_read", "m.read", "m.read.private"]
    alice.post(f"/rooms/{room_id}/read_markers", dict.fromkeys(kinds, event_id)).ok()
    room = alice.get("/sync").ok()["rooms"]["join"][room_id]
    (receipts,) = room["ephemeral"]["events"]
    assert set(receipts["content"][event_id]) == {"m.read", "m.read.private"}
    (marker,) = room["account_data"]["events"]
    assert marker["content"] == {"event_id": event_id}


def test_read_markers_for_unknown_events_set_nothing(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id)
    body = {"m.fully_read": event_id, "m.read": "$nothing"}
    alice.post(f"/rooms/{room_id}/read_markers", body).refused(404, "M_NOT_FOUND")
    alice.post(f"/rooms/{room_id}/read_markers", {"m.read": 7}).refused(400, "M_BAD_JSON")
    assert alice.get("/sync").ok()["rooms"]["join"][room_id]["account_data"]["events"] == []


def test_typing_is_for_oneself_in_a_room_one_is_in(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{room_id}/typing/"
    bob.put(path + alice.path, {"typing": True}).refused(403, "M_FORBIDDEN")
    bob.put(path + bob.path, {"typing": True}).refused(403, "M_FORBIDDEN")
    alice.put(path + alice.path, {"typing": True}).ok()


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"typing": "yes"}, "M_BAD_JSON"),
        ({"typing": 1}, "M_BAD_JSON"),
        ({"typing": True, "timeout": "long"}, "M_BAD_JSON"),
        ({"typing": True, "timeout": 1.5}, "M_BAD_JSON"),
    ],
)
def test_bad_typing_is_refused(alice: User, body: dict[str, Any], errcode: str) -> None:
    room_id = alice.create_room()
    alice.put(f"/rooms/{room_id}/typing/{alice.path}", body).refused(400, errcode)
