"""Backups of room keys through the client API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from architex.settings import EncryptionSettings, RateLimitSettings
from tests.api.client import User, segment, settings_for, start_server, stop_server

ROOM = "!room:test.example"


def key(index: int = 1, forwarded: int = 0, verified: bool = False) -> dict[str, Any]:
    """A key that can be told apart from others."""
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": f"{index}/{forwarded}/{verified}"},
    }


def create(user: User, **auth_data: Any) -> str:
    """A new backup; its version."""
    body = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": auth_data}
    version: str = user.post("/room_keys/version", body).ok()["version"]
    return version


def path(session_id: str | None = None, room_id: str = ROOM) -> str:
    """Of a room or a session."""
    base = f"/room_keys/keys/{segment(room_id)}"
    return base if session_id is None else f"{base}/{session_id}"


def test_newest_version_is_the_current_one(alice: User) -> None:
    alice.get("/room_keys/version").refused(404, "M_NOT_FOUND")
    first, second = create(alice, n=1), create(alice, n=2)
    assert alice.get("/room_keys/version").ok() == {
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": {"n": 2},
        "version": second,
        "etag": "0",
        "count": 0,
    }
    assert alice.get(f"/room_keys/version/{first}").ok()["auth_data"] == {"n": 1}


def test_versions_of_others_are_not_found(alice: User, bob: User) -> None:
    for _ in range(3):
        version = create(alice)
    bob.get(f"/room_keys/version/{version}").refused(404, "M_NOT_FOUND")


def test_auth_data_can_be_replaced_and_nothing_else(alice: User) -> None:
    version = create(alice, n=1)
    where = f"/room_keys/version/{version}"
    body = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"n": 2}}
    alice.put(where, body).ok()
    alice.put(where, {**body, "version": version}).ok()
    assert alice.get(where).ok()["auth_data"] == {"n": 2}
    alice.put(where, {**body, "version": "77"}).refused(400, "M_INVALID_PARAM")
    alice.put(where, {**body, "algorithm": "other"}).refused(400, "M_INVALID_PARAM")
    alice.put("/room_keys/version/99", body).refused(404, "M_NOT_FOUND")
    alice.put("/room_keys/version/x", body).refused(404, "M_NOT_FOUND")


def test_deleted_version_is_gone_with_its_keys_and_its_number(alice: User) -> None:
    first, second = create(alice), create(alice)
    alice.put(path("s"), key(), version=second).ok()
    alice.delete(f"/room_keys/version/{second}").ok()
    alice.delete(f"/room_keys/version/{second}").ok()
    alice.delete("/room_keys/version/99").refused(404, "M_NOT_FOUND")
    assert alice.get("/room_keys/version").ok()["version"] == first
    alice.get("/room_keys/keys", version=second).refused(404, "M_NOT_FOUND")
    third = create(alice)
    assert third not in (first, second)
    assert alice.get("/room_keys/keys", version=third).ok() == {"rooms": {}}


def test_keys_are_stored_and_told_in_three_ways(alice: User) -> None:
    version = create(alice)
    assert alice.put(path("one"), key(1), version=version).ok() == {"etag": "1", "count": 1}
    sessions = {"sessions": {"two": key(2), "three": key(3)}}
    assert alice.put(path(), sessions, version=version).ok() == {"etag": "2", "count": 3}
    rooms = {"rooms": {"!other:x": {"sessions": {"four": key(4)}}}}
    assert alice.put("/room_keys/keys", rooms, version=version).ok()["count"] == 4
    assert alice.get(path("two"), version=version).ok() == key(2)
    in_room = alice.get(path(), version=version).ok()
    assert in_room == {"sessions": {"one": key(1), "two": key(2), "three": key(3)}}
    everything = alice.get("/room_keys/keys", version=version).ok()
    assert everything["rooms"] == {ROOM: in_room, "!other:x": {"sessions": {"four": key(4)}}}


def test_empty_backup_is_empty_and_not_an_error(alice: User) -> None:
    version = create(alice)
    assert alice.get("/room_keys/keys", version=version).ok() == {"rooms": {}}
    assert alice.get(path(), version=version).ok() == {"sessions": {}}
    alice.get(path("s"), version=version).refused(404, "M_NOT_FOUND")
    alice.get("/room_keys/keys", version="99").refused(404, "M_NOT_FOUND")
    alice.get("/room_keys/keys").refused(400, "M_MISSING_PARAM")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (key(5, 5, verified=True), key(0, 0)),
        (key(1, 5), key(2, 0)),
        (key(1, 1), key(1, 2)),
    ],
)
def test_better_key_stays(alice: User, better: dict[str, Any], worse: dict[str, Any]) -> None:
    version = create(alice)
    alice.put(path("a"), worse, version=version).ok()
    etag = alice.put(path("a"), better, version=version).ok()["etag"]
    told = alice.put(path("a"), worse, version=version).ok()
    assert told == {"etag": etag, "count": 1}
    assert alice.get(path("a"), version=version).ok() == better


def test_keys_go_to_the_current_version_only(alice: User) -> None:
    old, new = create(alice), create(alice)
    answer = alice.put(path("s"), key(), version=old)
    assert answer.refused(403, "M_WRONG_ROOM_KEYS_VERSION")["current_version"] == new
    for none in ("99", "none"):
        alice.put(path("s"), key(), version=none).refused(404, "M_NOT_FOUND")
    alice.delete(f"/room_keys/version/{old}").ok()
    alice.put(path("s"), key(), version=old).refused(404, "M_NOT_FOUND")


def test_keys_without_a_backup_are_refused(alice: User) -> None:
    alice.put(path("s"), key(), version="1").refused(404, "M_NOT_FOUND")


def test_keys_are_deleted_in_three_ways(alice: User) -> None:
    version = create(alice)
    rooms = {
        ROOM: {"sessions": {"a": key(), "b": key(), "c": key()}},
        "!other:x": {"sessions": {"d": key()}},
    }
    alice.put("/room_keys/keys", {"rooms": rooms}, version=version).ok()
    request = alice.server.request
    told = request("DELETE", path("a"), token=alice.token, params={"version": version}).ok()
    assert told == {"etag": "2", "count": 3}
    told = request("DELETE", path(), token=alice.token, params={"version": version}).ok()
    assert told == {"etag": "3", "count": 1}
    # Deleting nothing changes nothing.
    told = request("DELETE", path(), token=alice.token, params={"version": version}).ok()
    assert told == {"etag": "3", "count": 1}
    everything = request(
        "DELETE", "/room_keys/keys", token=alice.token, params={"version": version}
    ).ok()
    assert everything["count"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"first_message_index": "1"},
        {"first_message_index": -1},
        {"first_message_index": True},
        {"forwarded_count": 1.5},
        {"is_verified": 1},
        {"session_data": "x" * 70_000},
    ],
)
def test_malformed_keys_are_refused(alice: User, changes: dict[str, Any]) -> None:
    version = create(alice)
    alice.put(path("s"), {**key(), **changes}, version=version).refused(400, "M_BAD_JSON")
    for name in key():
        rest = {n: value for n, value in key().items() if n != name}
        alice.put(path("s"), rest, version=version).refused(400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "rooms", [[], {"!r:x": []}, {"!r:x": {"sessions": []}}, {"!r:x": {"sessions": {"s": 5}}}]
)
def test_malformed_maps_of_keys_are_refused(alice: User, rooms: Any) -> None:
    version = create(alice)
    answer = alice.put("/room_keys/keys", {"rooms": rooms}, version=version)
    answer.refused(400, "M_BAD_JSON")


# ---- how much may be kept


@pytest.fixture
def tight(database_url: str, tmp_path: Path) -> Iterator[User]:
    """Somebody on a server where the backups of a user may take 1,000 bytes."""
    settings = settings_for(
        tmp_path,
        rate_limits=RateLimitSettings(enabled=False),
        encryption=EncryptionSettings(max_backup_bytes_per_user=1000),
    )
    server = start_server(database_url, settings)
    yield server.register()
    stop_server(server)


def sized(size: int, index: int = 5) -> dict[str, Any]:
    """A key whose data take so many bytes; the lower the index, the better."""
    return {**key(index), "session_data": "x" * (size - 2)}


def put(user: User, version: str, **sessions: Any) -> Any:
    """Store keys of some sessions."""
    return user.put(path(), {"sessions": sessions}, version=version)


def test_backups_beyond_the_bound_are_refused_and_nothing_is_stored(tight: User) -> None:
    version = create(tight)
    put(tight, version, a=sized(400), b=sized(400)).ok()
    told = put(tight, version, c=sized(100), d=sized(100)).refused(403, "M_USER_LIMIT_EXCEEDED")
    assert told["info_uri"].startswith("https://")
    assert tight.get("/room_keys/version").ok()["count"] == 2
    put(tight, version, c=sized(100)).ok()


def test_better_key_in_the_place_of_another_counts_by_what_it_takes_more(tight: User) -> None:
    version = create(tight)
    put(tight, version, a=sized(800)).ok()
    put(tight, version, a=sized(900, index=4)).ok()
    put(tight, version, a=sized(1200, index=3)).refused(403, "M_USER_LIMIT_EXCEEDED")
    put(tight, version, a=sized(100, index=2)).ok()
    put(tight, version, b=sized(800)).ok()


def test_deleted_keys_and_backups_make_room(tight: User) -> None:
    first = create(tight)
    put(tight, first, a=sized(900)).ok()
    second = create(tight)
    put(tight, second, a=sized(900)).refused(403, "M_USER_LIMIT_EXCEEDED")
    tight.delete(f"/room_keys/version/{first}").ok()
    put(tight, second, a=sized(900)).ok()
    tight.delete(f"{path('a')}?version={second}").ok()
    put(tight, second, b=sized(900)).ok()


def test_what_a_backup_says_of_itself_counts_too(tight: User) -> None:
    for _ in range(3):
        version = create(tight, note="x" * 300)
    algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"
    body = {"algorithm": algorithm, "auth_data": {"note": "x" * 500}}
    tight.post("/room_keys/version", body).refused(403, "M_USER_LIMIT_EXCEEDED")
    tight.put(f"/room_keys/version/{version}", body).refused(403, "M_USER_LIMIT_EXCEEDED")


def test_auth_data_may_be_a_string(alice: User) -> None:
    body = {"algorithm": "com.example.opaque", "auth_data": "opaque"}
    version = alice.post("/room_keys/version", body).ok()["version"]
    alice.put(f"/room_keys/version/{version}", {**body, "auth_data": "other"}).ok()
    assert alice.get("/room_keys/version").ok()["auth_data"] == "other"


@pytest.mark.parametrize("auth_data", [1, [], True, None])
def test_auth_data_is_an_object_otherwise(alice: User, auth_data: Any) -> None:
    body = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": auth_data}
    alice.post("/room_keys/version", body).refused(400, "M_BAD_JSON")
    version = create(alice)
    body["version"] = version
    alice.put(f"/room_keys/version/{version}", body).refused(400, "M_BAD_JSON")
