"""Dehydrated devices (MSC3814): they receive keys while their user is logged in nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from architex.storage.to_device import MAX_MESSAGES
from tests.api.client import Server, User
from tests.device_keys import TestDevice

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def body_of(user: User, device_id: str = "DEHYDRATED") -> dict[str, Any]:
    """The upload of a dehydrated device."""
    device = TestDevice(user.user_id, device_id)
    return {
        "device_id": device_id,
        "device_data": {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "secret"},
        "initial_device_display_name": "Left behind",
        "device_keys": device.device_keys,
        "one_time_keys": device.one_time_keys([f"{device_id}1", f"{device_id}2"]),
        "fallback_keys": device.one_time_keys([f"{device_id}F"], fallback=True),
    }


def leave(user: User, device_id: str = "DEHYDRATED") -> None:
    """Leave a device behind."""
    told = user.put(PATH, body_of(user, device_id)).ok()
    assert told == {"device_id": device_id}


def send(sender: User, to: str, device_id: str, *numbers: int) -> None:
    """Send messages to a device."""
    for number in numbers:
        body = {"messages": {to: {device_id: {"n": number}}}}
        sender.put(f"/sendToDevice/m.test/{device_id}{number}", body).ok()


def messages(user: User, device_id: str, next_batch: str | None = None) -> tuple[list[int], str]:
    """A piece of what the device has received, and the token for the next one."""
    body = {} if next_batch is None else {"next_batch": next_batch}
    told = user.post(f"{PATH}/{device_id}/events", body).ok()
    return [event["content"]["n"] for event in told["events"]], told["next_batch"]


def claim(user: User, of: User, device_id: str) -> list[str]:
    """The names of the key claimed from a device."""
    body = {"one_time_keys": {of.user_id: {device_id: "signed_curve25519"}}}
    told = user.post("/keys/claim", body).ok()["one_time_keys"]
    return list(told.get(of.user_id, {}).get(device_id, {}))


def test_there_is_none_at_first(alice: User) -> None:
    alice.get(PATH).refused(404, "M_NOT_FOUND")
    alice.delete(PATH).refused(404, "M_NOT_FOUND")
    alice.post(f"{PATH}/DEHYDRATED/events", {}).refused(403, "M_FORBIDDEN")


def test_next_device_finds_it_again(alice: User, bob: User) -> None:
    leave(alice)
    told = alice.log_in_again().get(PATH).ok()
    assert told == {"device_id": "DEHYDRATED", "device_data": body_of(alice)["device_data"]}
    bob.get(PATH).refused(404, "M_NOT_FOUND")
    bob.post(f"{PATH}/DEHYDRATED/events", {}).refused(403, "M_FORBIDDEN")


def test_others_see_it_as_a_device_with_keys(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{room_id}").ok()
    since = bob.get("/sync").ok()["next_batch"]
    leave(alice)
    assert bob.get("/sync", since=since).ok()["device_lists"]["changed"] == [alice.user_id]
    told = bob.post("/keys/query", {"device_keys": {alice.user_id: []}}).ok()["device_keys"]
    device = told[alice.user_id]["DEHYDRATED"]
    assert device["unsigned"] == {"device_display_name": "Left behind"}
    assert device["keys"] == body_of(alice)["device_keys"]["keys"]
    names = [claim(bob, alice, "DEHYDRATED")[0] for _ in range(3)]
    assert names == [f"signed_curve25519:DEHYDRATED{n}" for n in ("1", "2", "F")]


def test_another_one_takes_its_place(alice: User, bob: User) -> None:
    leave(alice, "FIRST")
    send(bob, alice.user_id, "FIRST", 1)
    leave(alice, "SECOND")
    devices = {device["device_id"] for device in alice.get("/devices").ok()["devices"]}
    assert devices == {alice.device_id, "SECOND"}
    alice.post(f"{PATH}/FIRST/events", {}).refused(403, "M_FORBIDDEN")
    assert messages(alice, "SECOND")[0] == []
    assert claim(bob, alice, "FIRST") == []


def test_repeated_upload_keeps_the_messages_and_brings_no_key_back(alice: User, bob: User) -> None:
    leave(alice)
    send(bob, alice.user_id, "DEHYDRATED", 1)
    assert claim(bob, alice, "DEHYDRATED") == ["signed_curve25519:DEHYDRATED1"]
    leave(alice)
    assert messages(alice, "DEHYDRATED")[0] == [1]
    assert claim(bob, alice, "DEHYDRATED") == ["signed_curve25519:DEHYDRATED2"]


def test_messages_come_in_pieces_and_stay(alice: User, bob: User) -> None:
    leave(alice)
    send(bob, alice.user_id, "DEHYDRATED", *range(MAX_MESSAGES + 3))
    for _ in range(2):
        first, token = messages(alice, "DEHYDRATED")
        rest, token = messages(alice, "DEHYDRATED", token)
        assert first + rest == list(range(MAX_MESSAGES + 3))
        assert messages(alice, "DEHYDRATED", token) == ([], token)
    send(bob, alice.user_id, "DEHYDRATED", 1000)
    assert messages(alice, "DEHYDRATED", token)[0] == [1000]


def test_deleting_it_deletes_the_device(alice: User) -> None:
    leave(alice)
    assert alice.delete(PATH).ok() == {"device_id": "DEHYDRATED"}
    alice.get(PATH).refused(404, "M_NOT_FOUND")
    alice.get("/devices/DEHYDRATED").refused(404, "M_NOT_FOUND")


def test_deleting_the_device_deletes_it(alice: User) -> None:
    leave(alice)
    alice.delete("/devices/DEHYDRATED", {"auth": alice.password_auth()}).ok()
    alice.get(PATH).refused(404, "M_NOT_FOUND")


def test_logging_out_leaves_it_behind(alice: User, bob: User) -> None:
    leave(alice)
    other = alice.log_in_again()
    alice.post("/logout").ok()
    other.post("/logout").ok()
    send(bob, alice.user_id, "DEHYDRATED", 1)
    new = alice.log_in_again()
    assert messages(new, "DEHYDRATED")[0] == [1]


def test_device_where_somebody_is_logged_in_cannot_be_dehydrated(alice: User) -> None:
    device = alice.log_in_again()
    alice.put(PATH, body_of(alice, device.device_id)).refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "changes",
    [
        {"device_id": None},
        {"device_id": ""},
        {"device_id": "OTHER"},
        {"device_id": "a\0"},
        {"device_data": None},
        {"device_data": "text"},
        {"device_data": {"device_pickle": "x" * 1024 * 1024}},
        {"device_keys": None},
        {"device_keys": {}},
        {"one_time_keys": {"no colon": "key"}},
        {"fallback_keys": {"a:1": "key", "a:2": "key"}},
        {"initial_device_display_name": "x" * 2000},
    ],
)
def test_malformed_ones_are_refused(alice: User, changes: dict[str, Any]) -> None:
    body = {
        name: value for name, value in {**body_of(alice), **changes}.items() if value is not None
    }
    assert alice.put(PATH, body).status == 400
    alice.get(PATH).refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize("token", ["1", "d", "d-1", "dx", "d" + "9" * 30, "s1"])
def test_tokens_that_it_never_gave_are_refused(alice: User, token: str) -> None:
    leave(alice)
    body = {"next_batch": token}
    alice.post(f"{PATH}/DEHYDRATED/events", body).refused(400, "M_INVALID_PARAM")


def test_guests_leave_none_behind(server: Server) -> None:
    told = server.request("POST", "/register", {}, params={"kind": "guest"}).ok()
    guest = User(server, told["user_id"], told["access_token"], told["device_id"])
    assert guest.put(PATH, body_of(guest)).status == 403
