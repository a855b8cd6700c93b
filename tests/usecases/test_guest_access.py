"""Rooms that stop letting guests in lose those they have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architex.projections.guest_reads import GuestReads
from architex.settings import RateLimitSettings
from architex.storage.pool import Database
from architex.usecases.guest_access import GuestAccess
from tests.api.client import Server, User, settings_for, start_server, stop_server


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Server]:
    """A server of this test's own."""
    limits = RateLimitSettings(enabled=False)
    started = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    yield started
    stop_server(started)


def join_as_guest(server: Server, room_id: str) -> User:
    """A new guest in the room."""
    told = server.request("POST", "/register", {}, params={"kind": "guest"}).ok()
    guest = User(server, told["user_id"], told["access_token"], told["device_id"])
    guest.post(f"/rooms/{room_id}/join").ok()
    return guest


def note_in_directory(database: Database, guest_can_join: bool) -> None:
    """What the followed directory says about every room."""
    database.execute("DELETE FROM room_directory")
    database.execute(
        "INSERT INTO room_directory (room_nid, guest_can_join) SELECT room_nid, %s FROM rooms",
        (guest_can_join,),
    )


def test_guests_leave_a_room_that_is_closed_to_them(server: Server, database: Database) -> None:
    alice, bob = server.register(), server.register()
    room_id = alice.create_room(preset="public_chat")
    path = f"/rooms/{room_id}/state/m.room.guest_access"
    alice.put(path, {"guest_access": "can_join"}).ok()
    bob.post(f"/rooms/{room_id}/join").ok()
    guest = join_as_guest(server, room_id)
    access = GuestAccess(GuestReads(database), server.core.commits)

    note_in_directory(database, guest_can_join=True)
    assert access.send_guests_away() == 0
    # A directory that lags sends nobody away.
    note_in_directory(database, guest_can_join=False)
    assert access.send_guests_away() == 0
    assert guest.get("/joined_rooms").ok() == {"joined_rooms": [room_id]}

    alice.put(path, {"guest_access": "forbidden"}).ok()
    assert access.send_guests_away() == 1
    assert access.send_guests_away() == 0
    assert guest.get("/joined_rooms").ok() == {"joined_rooms": []}
    assert bob.get("/joined_rooms").ok() == {"joined_rooms": [room_id]}
