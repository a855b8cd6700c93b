"""After a restore: nothing is given out twice, and nobody goes on from what never was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.api.client import Server, User, segment, settings_for, start_server, stop_server
from tests.api.test_encryption_keys import claim, device_of, upload_device_keys
from tests.api.test_to_device import received, send
from tests.cli.conftest import Run


@pytest.fixture
def start(tmp_path: Path, database_url: str) -> Iterator[Callable[[], Server]]:
    """Start a server on this test's database (again)."""
    started: list[Server] = []
    settings = settings_for(tmp_path / "data")
    (tmp_path / "data").mkdir()

    def start_one() -> Server:
        started.append(start_server(database_url, settings))
        return started[-1]

    yield start_one
    for server in started:
        stop_server(server)


@pytest.fixture
def run(run: Run) -> Run:
    """Run `architex restore-check …`."""
    return partial(run, "restore-check")


def on(server: Server, user: User) -> User:
    """The same device, talking to another process."""
    return User(server, user.user_id, user.token, user.device_id)


def test_one_time_keys_from_before_are_not_given_out(
    start: Callable[[], Server], run: Run
) -> None:
    server = start()
    alice, bob = server.register(), server.register()
    device = upload_device_keys(alice)
    body = {
        "one_time_keys": device.one_time_keys(["k1", "k2"]),
        "fallback_keys": device.one_time_keys(["fb"], fallback=True),
    }
    alice.post("/keys/upload", body).ok()
    result = run()
    assert result.exit_code == 0, result.output
    assert "withdrawn: 2" in result.output
    assert claim(bob, alice) == {}
    told = alice.get("/sync").ok()
    assert told["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert told["device_unused_fallback_key_types"] == []
    # Also when the device repeats what it uploaded.
    again = {"one_time_keys": device_of(alice).one_time_keys(["k1", "k3"])}
    alice.post("/keys/upload", again).ok()
    assert set(claim(bob, alice)) == {"signed_curve25519:k3"}


def test_token_from_after_the_backup_begins_afresh_for_ever(
    start: Callable[[], Server], run: Run
) -> None:
    server = start()
    alice, bob = server.register(), server.register()
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{segment(room_id)}").ok()
    upload_device_keys(bob)
    kept = alice.get("/sync").ok()["next_batch"]
    lost = f"s{int(kept[1:]) + 50}"
    assert run().exit_code == 0
    server = start()
    alice, bob = on(server, alice), on(server, bob)
    # What comes after the restore, also when there is much of it, has other positions.
    send(bob, alice.user_id, alice.device_id, 1)
    for _ in range(2):
        told = alice.get("/sync", since=lost).ok()
        assert told["rooms"]["join"][room_id]["timeline"]["events"]
        assert bob.user_id in told["device_lists"]["changed"]
        assert received(told) == [1]
    told = alice.get("/sync", since=kept).ok()
    assert bob.user_id in told["device_lists"]["changed"]
    assert told["rooms"]["join"] == {}
    told = alice.get("/sync", since=told["next_batch"]).ok()
    assert "device_lists" not in told


def test_again_does_no_harm(start: Callable[[], Server], run: Run) -> None:
    alice = start().register()
    assert run().exit_code == 0
    assert run().exit_code == 0
    room_id = alice.create_room()
    assert room_id in alice.get("/sync").ok()["rooms"]["join"]
