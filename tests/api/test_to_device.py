"""Messages to devices: delivered in order, kept until the device shows that it has them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from architex.storage.to_device import MAX_BYTES, MAX_MESSAGES, ToDeviceStore
from tests.api.client import SERVER_NAME, Server, User


def send(
    sender: User, to: str, device_id: str, number: int = 0, txn_id: str | None = None
) -> None:
    """Send a message to a device (or `*`)."""
    txn_id = txn_id or f"{device_id}{number}"
    body = {"messages": {to: {device_id: {"n": number}}}}
    sender.put(f"/sendToDevice/m.test/{txn_id}", body).ok()


def received(told: Any) -> list[int]:
    """The numbers of the messages in a response."""
    return [event["content"]["n"] for event in told["to_device"]["events"]]


def test_message_reaches_one_device(alice: User, bob: User) -> None:
    other = bob.log_in_again()
    send(alice, bob.user_id, bob.device_id, 7)
    told = bob.get("/sync").ok()
    assert told["to_device"]["events"] == [
        {"sender": alice.user_id, "type": "m.test", "content": {"n": 7}}
    ]
    assert received(other.get("/sync").ok()) == []


def test_wildcard_reaches_all_devices_of_the_user(alice: User, bob: User) -> None:
    other = bob.log_in_again()
    send(alice, bob.user_id, "*", 1)
    for device in (bob, other):
        assert received(device.get("/sync").ok()) == [1]


def test_message_meant_for_a_device_is_not_doubled_by_a_wildcard(alice: User, bob: User) -> None:
    messages = {bob.user_id: {"*": {"n": 1}, bob.device_id: {"n": 2}}}
    alice.put("/sendToDevice/m.test/t", {"messages": messages}).ok()
    assert received(bob.get("/sync").ok()) == [2]


def test_same_transaction_sends_once(alice: User, bob: User) -> None:
    for number in (1, 2):
        send(alice, bob.user_id, bob.device_id, number, "same")
    assert received(bob.get("/sync").ok()) == [1]


def test_messages_come_again_until_they_are_acknowledged(alice: User, bob: User) -> None:
    since = bob.get("/sync").ok()["next_batch"]
    send(alice, bob.user_id, bob.device_id, 1)
    first = bob.get("/sync", since=since).ok()
    assert received(first) == [1]
    # The answer was lost: the client asks again, and meanwhile there is more.
    send(alice, bob.user_id, bob.device_id, 2)
    second = bob.get("/sync", since=since).ok()
    assert received(second) == [1, 2]
    # It got the first one after all.
    third = bob.get("/sync", since=first["next_batch"]).ok()
    assert received(third) == [2]
    assert received(bob.get("/sync", since=third["next_batch"]).ok()) == []
    # Nothing is left, also for a client that begins anew.
    assert received(bob.get("/sync").ok()) == []


def test_many_messages_come_in_pieces_and_in_order(alice: User, bob: User) -> None:
    since = bob.get("/sync").ok()["next_batch"]
    count = 2 * MAX_MESSAGES + 5
    for number in range(count):
        send(alice, bob.user_id, bob.device_id, number)
    seen: list[int] = []
    for expected in (MAX_MESSAGES, MAX_MESSAGES, 5):
        told = bob.get("/sync", since=since, timeout=60_000).ok()
        assert len(received(told)) == expected
        seen += received(told)
        since = told["next_batch"]
    assert seen == list(range(count))
    assert received(bob.get("/sync", since=since).ok()) == []
    assert received(bob.get("/sync").ok()) == []


def test_token_of_a_piece_can_be_used_wherever_tokens_go(alice: User, bob: User) -> None:
    room_id = bob.create_room()
    for number in range(MAX_MESSAGES + 1):
        send(alice, bob.user_id, bob.device_id, number)
    token = bob.get("/sync").ok()["next_batch"]
    assert "_" in token
    bob.get(f"/rooms/{room_id}/messages", **{"from": token, "dir": "b"}).ok()
    bob.get("/keys/changes", **{"from": token, "to": token}).ok()


def test_message_wakes_a_waiting_sync(alice: User, bob: User) -> None:
    since = bob.get("/sync").ok()["next_batch"]
    told: list[Any] = []
    waiting = threading.Thread(
        target=lambda: told.append(bob.get("/sync", since=since, timeout=30_000).ok())
    )
    waiting.start()
    send(alice, bob.user_id, bob.device_id, 5)
    waiting.join(20)
    assert received(told[0]) == [5]


def test_messages_end_with_their_device(server: Server, alice: User, bob: User) -> None:
    other = bob.log_in_again()
    send(alice, bob.user_id, other.device_id)
    other.post("/logout").ok()
    count = server.core.database.fetch_one(
        "SELECT count(*) FROM to_device_messages WHERE device_id = %s", (other.device_id,)
    )
    assert count == (0,)


def test_nobody_gets_what_is_sent_to_unknown_devices(alice: User, bob: User) -> None:
    send(alice, bob.user_id, "NOPE")
    send(alice, "@nobody:test.example", "*")
    assert received(bob.get("/sync").ok()) == []


def test_oldest_messages_of_a_full_device_go(server: Server, alice: User, bob: User) -> None:
    for number in range(5):
        send(alice, bob.user_id, bob.device_id, number)
    assert ToDeviceStore(server.core.database).delete_surplus(3, SERVER_NAME) >= 2
    assert received(bob.get("/sync").ok()) == [2, 3, 4]


def test_who_floods_a_device_loses_only_their_own(server: Server, alice: User, bob: User) -> None:
    send(alice, bob.user_id, bob.device_id, 1)
    carol, store = server.register(), ToDeviceStore(server.core.database)
    for number in range(10, 15):
        send(carol, bob.user_id, bob.device_id, number)
    assert store.delete_surplus(3, SERVER_NAME) >= 3
    assert received(bob.get("/sync").ok()) == [1, 13, 14]
    # Of another server the users count together: it can make as many as it likes.
    assert store.delete_surplus(2, "another.example") >= 1
    assert received(bob.get("/sync").ok()) == [13, 14]


def test_large_messages_come_in_pieces(alice: User, bob: User) -> None:
    since = bob.get("/sync").ok()["next_batch"]
    numbers = list(range(MAX_BYTES // 60_000 + 5))
    for number in numbers:
        content = {"n": number, "large": "x" * 60_000}
        messages = {"messages": {bob.user_id: {bob.device_id: content}}}
        alice.put(f"/sendToDevice/m.test/{number}", messages).ok()
    pieces = []
    for _ in range(3):
        told = bob.get("/sync", since=since).ok()
        since = told["next_batch"]
        pieces.append(received(told))
    assert pieces[0] + pieces[1] == numbers
    assert len(numbers) < MAX_MESSAGES
    assert [bool(piece) for piece in pieces] == [True, True, False]


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"messages": []}, "M_BAD_JSON"),
        ({"messages": {"@a:b": []}}, "M_BAD_JSON"),
        ({"messages": {"@a:b": {"D": "x"}}}, "M_BAD_JSON"),
        ({"messages": {"nobody": {"D": {}}}}, "M_INVALID_PARAM"),
        ({"messages": {"@a:b": {"D\0": {}}}}, "M_INVALID_PARAM"),
    ],
)
def test_malformed_messages_are_refused(alice: User, body: Any, errcode: str) -> None:
    alice.put("/sendToDevice/m.test/t", body).refused(400, errcode)


def test_contents_survive_whatever_they_are(alice: User, bob: User) -> None:
    content = {"nul": "\0", "float": 1.5, "big": 2**70, "text": "ä𝄞"}
    messages = {bob.user_id: {bob.device_id: content}}
    alice.put("/sendToDevice/m.test/t", {"messages": messages}).ok()
    told = bob.get("/sync").ok()
    assert told["to_device"]["events"][0]["content"] == content
