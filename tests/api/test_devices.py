"""Devices through the client API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import Server, User


def test_every_login_is_a_device(alice: User) -> None:
    for name in ("one", "two"):
        alice.log_in_again(device_id=name, initial_device_display_name=f"display {name}")
    devices = {d["device_id"]: d for d in alice.get("/devices").ok()["devices"]}
    assert set(devices) == {alice.device_id, "one", "two"}
    assert devices["two"]["display_name"] == "display two"
    assert devices["two"]["last_seen_ip"] == "127.0.0.1"
    assert devices["two"]["last_seen_ts"] > 1_600_000_000_000


def test_unknown_device_is_not_found(alice: User) -> None:
    alice.get("/devices/nope").refused(404, "M_NOT_FOUND")
    alice.put("/devices/nope", {"display_name": "x"}).refused(404, "M_NOT_FOUND")
    alice.put("/devices/nope", {}).refused(404, "M_NOT_FOUND")


def test_devices_of_others_are_not_found(alice: User, bob: User) -> None:
    bob.get(f"/devices/{alice.device_id}").refused(404, "M_NOT_FOUND")


def test_device_can_be_renamed(alice: User) -> None:
    path = f"/devices/{alice.device_id}"
    alice.put(path, {"display_name": "new name"}).ok()
    assert alice.get(path).ok()["display_name"] == "new name"
    alice.put(path, {}).ok()
    assert alice.get(path).ok()["display_name"] == "new name"


@pytest.mark.parametrize(("name", "errcode"), [(5, "M_BAD_JSON"), ("x" * 2000, "M_INVALID_PARAM")])
def test_impossible_name_is_refused(alice: User, name: Any, errcode: str) -> None:
    answer = alice.put(f"/devices/{alice.device_id}", {"display_name": name})
    answer.refused(400, errcode)


def test_deleting_a_device_needs_the_users_password(alice: User) -> None:
    other = alice.log_in_again(device_id="gone")
    assert alice.delete("/devices/gone").status == 401
    first = alice.delete("/devices/gone", {})
    assert first.status == 401
    assert {"session", "params", "flows"} <= set(first.json)
    wrong = alice.delete("/devices/gone", {"auth": alice.password_auth("cashewnuts")})
    assert {"session", "params", "flows"} <= set(wrong.refused(401, "M_FORBIDDEN"))
    other.get("/account/whoami").ok()
    alice.delete("/devices/gone", {"auth": alice.password_auth()}).ok()
    alice.get("/devices/gone").refused(404, "M_NOT_FOUND")
    other.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")


def test_password_of_somebody_else_deletes_nothing(alice: User, bob: User) -> None:
    alice.log_in_again(device_id="kept")
    alice.delete("/devices/kept", {"auth": bob.password_auth()}).refused(403, "M_FORBIDDEN")
    alice.get("/devices/kept").ok()


def test_session_for_one_device_does_not_delete_another(alice: User) -> None:
    alice.log_in_again(device_id="d1")
    alice.log_in_again(device_id="d2")
    session = alice.delete("/devices/d1", {}).json["session"]
    auth = alice.password_auth(session=session)
    alice.delete("/devices/d2", {"auth": auth}).refused(403, "M_FORBIDDEN")
    alice.get("/devices/d2").ok()


def test_several_devices_are_deleted_at_once(alice: User) -> None:
    names = ["a", "b", "c"]
    for name in names:
        alice.log_in_again(device_id=name)
    session = alice.post("/delete_devices", {"devices": ["a", "b"]}).json["session"]
    auth = alice.password_auth(session=session)
    alice.post("/delete_devices", {"devices": ["a", "b", "c"], "auth": auth}).refused(
        403, "M_FORBIDDEN"
    )
    alice.post("/delete_devices", {"devices": ["a", "b"], "auth": auth}).ok()
    left = {device["device_id"] for device in alice.get("/devices").ok()["devices"]}
    assert left == {"c", alice.device_id}


def test_deleting_what_is_gone_succeeds(alice: User) -> None:
    body = {"devices": ["never-was", "nul\0"], "auth": alice.password_auth()}
    alice.post("/delete_devices", body).ok()


def test_device_that_gets_the_id_of_a_deleted_one_repeats_nothing(alice: User) -> None:
    path = f"/rooms/{alice.create_room()}/send/m.room.message/same"
    message = {"msgtype": "m.text", "body": "hi"}
    first = alice.put(path, message).ok()
    again = alice.log_in_again(device_id=alice.device_id)
    assert again.put(path, message).ok() == first
    again.post("/logout").ok()
    another = alice.log_in_again(device_id=alice.device_id)
    assert another.put(path, message).ok() != first


def test_malformed_deletion_is_refused(server: Server, alice: User) -> None:
    alice.post("/delete_devices", {}).refused(400, "M_MISSING_PARAM")
    alice.post("/delete_devices", {"devices": "a"}).refused(400, "M_BAD_JSON")
    alice.post("/delete_devices", {"devices": [1]}).refused(400, "M_BAD_JSON")
    server.request("POST", "/delete_devices", {"devices": []}).refused(401, "M_MISSING_TOKEN")
