"""device_lists in /sync and /keys/changes: whose devices to look at again, and whose no longer."""

from __future__ import annotations

import threading
from typing import Any

from architex.domain.signing import sign_json
from tests.api.client import User, segment
from tests.api.test_encryption_keys import sign_in, upload_device_keys
from tests.device_keys import TestCrossSigning


def share_room(owner: User, *others: User, **options: Any) -> str:
    """A room with several people in it."""
    room_id = owner.create_room(preset="public_chat", **options)
    for other in others:
        other.post(f"/join/{segment(room_id)}").ok()
    return room_id


def token(user: User) -> str:
    """Where the user is now."""
    since: str = user.get("/sync").ok()["next_batch"]
    return since


def news(user: User, since: str) -> tuple[list[str], list[str]]:
    """(changed, left) since a token; the same by /sync and by /keys/changes."""
    told = user.get("/sync", since=since).ok()
    # It is there only where it says something: who waits for news takes it for some.
    assert all(told.get("device_lists", {"-": True}).values())
    lists = {"changed": [], "left": []} | told.get("device_lists", {})
    changes = user.get("/keys/changes", **{"from": since, "to": told["next_batch"]}).ok()
    assert changes == lists
    return lists["changed"], lists["left"]


def test_nothing_is_said_when_nothing_changed(alice: User, bob: User) -> None:
    share_room(alice, bob)
    assert news(alice, token(alice)) == ([], [])


def test_initial_sync_names_nobody(alice: User, bob: User) -> None:
    share_room(alice, bob)
    upload_device_keys(bob)
    assert "device_lists" not in alice.get("/sync").ok()


def test_new_keys_are_told_to_whoever_shares_a_room(alice: User, bob: User) -> None:
    share_room(alice, bob)
    since = token(alice)
    upload_device_keys(bob)
    assert news(alice, since) == ([bob.user_id], [])


def test_same_name_again_is_no_change(alice: User, bob: User) -> None:
    share_room(alice, bob)
    path = f"/devices/{bob.device_id}"
    bob.put(path, {"display_name": "Telephone"}).ok()
    since = token(alice)
    bob.put(path, {"display_name": "Telephone"}).ok()
    assert news(alice, since) == ([], [])
    bob.put("/devices/NOPE", {"display_name": "Telephone"}).refused(404, "M_NOT_FOUND")


def test_same_keys_again_are_no_change(alice: User, bob: User) -> None:
    share_room(alice, bob)
    upload_device_keys(bob)
    since = token(alice)
    upload_device_keys(bob)
    assert news(alice, since) == ([], [])


def test_strangers_are_not_told(alice: User, bob: User) -> None:
    since = token(alice)
    upload_device_keys(bob)
    assert news(alice, since) == ([], [])


def test_own_other_devices_are_told(alice: User) -> None:
    since = token(alice)
    other = alice.log_in_again()
    assert news(alice, since) == ([alice.user_id], [])
    since = token(alice)
    upload_device_keys(other)
    assert news(alice, since) == ([alice.user_id], [])


def test_login_rename_and_logout_are_changes(alice: User, bob: User) -> None:
    share_room(alice, bob)
    since = token(alice)
    other = bob.log_in_again()
    assert news(alice, since) == ([bob.user_id], [])
    since = token(alice)
    other.put(f"/devices/{other.device_id}", {"display_name": "x"}).ok()
    assert news(alice, since) == ([bob.user_id], [])
    since = token(alice)
    other.post("/logout").ok()
    assert news(alice, since) == ([bob.user_id], [])


def test_deleting_logging_out_everywhere_and_deactivating_are_changes(
    alice: User, bob: User
) -> None:
    share_room(alice, bob)
    bob.log_in_again(device_id="GONE")
    since = token(alice)
    bob.delete("/devices/GONE", {"auth": bob.password_auth()}).ok()
    assert news(alice, since) == ([bob.user_id], [])
    since = token(alice)
    body = {"auth": bob.password_auth(), "new_password": "another good one 77"}
    bob.log_in_again()
    since = token(alice)
    bob.post("/account/password", body).ok()
    assert news(alice, since) == ([bob.user_id], [])
    since = token(alice)
    auth = bob.password_auth("another good one 77")
    bob.post("/account/deactivate", {"auth": auth}).ok()
    # Who is deactivated leaves all rooms.
    assert news(alice, since) == ([], [bob.user_id])


def test_deleting_no_device_is_no_change(alice: User, bob: User) -> None:
    share_room(alice, bob)
    since = token(alice)
    bob.post("/delete_devices", {"devices": ["NOPE"], "auth": bob.password_auth()}).ok()
    assert news(alice, since) == ([], [])


def test_cross_signing_keys_are_a_change(alice: User, bob: User) -> None:
    share_room(alice, bob)
    since = token(alice)
    sign_in(bob)
    assert news(alice, since) == ([bob.user_id], [])


def test_newcomers_to_a_room_are_told(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    since = token(alice)
    bob.post(f"/join/{segment(room_id)}").ok()
    assert news(alice, since) == ([bob.user_id], [])


def test_whoever_joins_is_told_of_the_members(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    since = token(bob)
    bob.post(f"/join/{segment(room_id)}").ok()
    assert news(bob, since) == ([alice.user_id], [])


def test_another_shared_room_is_no_change(alice: User, bob: User) -> None:
    share_room(alice, bob)
    room_id = alice.create_room(preset="public_chat")
    since = token(alice)
    bob.post(f"/join/{segment(room_id)}").ok()
    assert news(alice, since) == ([], [])


def test_whoever_leaves_the_last_shared_room_is_left(alice: User, bob: User) -> None:
    rooms = [share_room(alice, bob) for _ in range(2)]
    since = token(alice)
    bob.post(f"/rooms/{segment(rooms[0])}/leave").ok()
    assert news(alice, since) == ([], [])
    bob.post(f"/rooms/{segment(rooms[1])}/leave").ok()
    assert news(alice, since) == ([], [bob.user_id])
    # Nobody hears of those who are gone.
    since = token(alice)
    upload_device_keys(bob)
    assert news(alice, since) == ([], [])


def test_leaving_oneself_leaves_the_others(alice: User, bob: User) -> None:
    room_id = share_room(alice, bob)
    since = token(bob)
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert news(bob, since) == ([], [alice.user_id])


def test_change_while_away_is_told_on_coming_back(alice: User, bob: User) -> None:
    room_id = share_room(alice, bob)
    since = token(alice)
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    upload_device_keys(bob)
    bob.post(f"/join/{segment(room_id)}").ok()
    assert news(alice, since) == ([bob.user_id], [])


def test_change_wakes_a_waiting_sync(alice: User, bob: User) -> None:
    share_room(alice, bob)
    since = token(alice)
    told: list[Any] = []
    waiting = threading.Thread(
        target=lambda: told.append(alice.get("/sync", since=since, timeout=30_000).ok())
    )
    waiting.start()
    upload_device_keys(bob)
    waiting.join(20)
    assert told[0]["device_lists"]["changed"] == [bob.user_id]


def test_changes_need_a_token(alice: User) -> None:
    alice.get("/keys/changes").refused(400, "M_MISSING_PARAM")
    alice.get("/keys/changes", **{"from": "x"}).refused(400, "M_INVALID_PARAM")


def test_user_signing_keys_are_a_change_for_their_user_only(alice: User, bob: User) -> None:
    share_room(alice, bob)
    keys = sign_in(bob)
    new = TestCrossSigning(bob.user_id, "2")
    key = sign_json(
        {
            "user_id": bob.user_id,
            "usage": ["user_signing"],
            "keys": new.public("user_signing")["keys"],
        },
        bob.user_id,
        keys.secret("master"),
    )
    since, own = token(alice), token(bob)
    body = {"user_signing_key": key, "auth": bob.password_auth()}
    bob.post("/keys/device_signing/upload", body).ok()
    assert news(bob, own) == ([bob.user_id], [])
    assert news(alice, since) == ([], [])


def test_invited_people_are_told(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    since = token(alice)
    alice.post(f"/rooms/{segment(room_id)}/invite", {"user_id": bob.user_id}).ok()
    assert news(alice, since) == ([bob.user_id], [])
    since = token(alice)
    bob.post(f"/join/{segment(room_id)}").ok()
    assert news(alice, since) == ([bob.user_id], [])
