"""Creating rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import User, settings_for, start_server, stop_server
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


@pytest.mark.parametrize(
    ("override", "level"),
    [
        ({}, 150),
        ({"users_default": 10}, 150),
        ({"events": {"m.room.name": 10}}, 150),
        ({"state_default": 200}, 201),
        ({"events": {"m.room.tombstone": 100}}, 100),
    ],
)
def test_tombstones_need_more_than_other_state_unless_the_creator_says_otherwise(
    alice: User, override: dict[str, Any], level: int
) -> None:
    room_id = alice.create_room(power_level_content_override=override)
    content = alice.get(f"/rooms/{room_id}/state/m.room.power_levels").ok()
    assert content["events"]["m.room.tombstone"] == level


def test_room_version_without_characters_is_none(alice: User) -> None:
    answer = alice.post("/createRoom", {"room_version": ""})
    answer.refused(400, "M_UNSUPPORTED_ROOM_VERSION")
