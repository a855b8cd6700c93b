"""Creating rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.api.client import settings_for, start_server, stop_server
from tests.fakes.clock import FakeClock


def test_rooms_made_in_one_moment_are_as_many_rooms(
    make_database: Callable[[], str], tmp_path: Path
) -> None:
    # Since room version 12 the room ID is the hash of an event that holds the time.
    server = start_server(make_database(), settings_for(tmp_path), clock=FakeClock())
    try:
        alice = server.register()
        rooms = [alice.create_room(room_version=version) for version in ["12"] * 5 + ["11"] * 2]
        assert len(set(rooms)) == len(rooms)
        joined = alice.get("/joined_rooms").ok()["joined_rooms"]
        assert sorted(joined) == sorted(rooms)
    finally:
        stop_server(server)
