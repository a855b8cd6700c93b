"""Rooms that users have left and forgotten, by themselves or because the server wants it so.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mforget_forced_upon_leave-capability
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from architex.settings import RateLimitSettings, RoomSettings
from tests.api.client import Server, User, settings_for, start_server, stop_server

_numbers = count()

WITH_LEFT_ROOMS = '{"room": {"include_leave": true}}'


@pytest.fixture(scope="module")
def forgetful(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose users forget the rooms that they leave."""
    settings = settings_for(
        tmp_path_factory.mktemp("forgetful"),
        rate_limits=RateLimitSettings(enabled=False),
        rooms=RoomSettings(forget_on_leave=True),
    )
    started = start_server(module_database_url, settings)
    yield started
    stop_server(started)


def left_rooms(user: User, **query: Any) -> Any:
    return user.get("/sync", filter=WITH_LEFT_ROOMS, **query).ok()["rooms"]["leave"]


def two_users(server: Server) -> tuple[User, User]:
    """New ones; the two servers share a database."""
    return server.register(f"alice{next(_numbers)}"), server.register(f"bob{next(_numbers)}")


def together(server: Server, **options: Any) -> tuple[User, User, str]:
    """Two users in a room that one of them has made."""
    alice, bob = two_users(server)
    room_id = alice.create_room(preset="public_chat", **options)
    bob.post(f"/join/{room_id}").ok()
    return alice, bob, room_id


def capability(user: User) -> Any:
    told = user.get("/capabilities").ok()["capabilities"]
    return told["m.forget_forced_upon_leave"]["enabled"]


def test_leaving_does_not_forget_unless_the_server_wants_so(server: Server) -> None:
    _, bob, room_id = together(server)
    assert capability(bob) is False
    bob.post(f"/rooms/{room_id}/leave").ok()
    assert room_id in left_rooms(bob)


@pytest.mark.parametrize("how", ["leave", "kick", "ban"])
def test_who_leaves_forgets_where_the_server_wants_so(forgetful: Server, how: str) -> None:
    alice, bob, room_id = together(forgetful)
    assert capability(bob) is True
    since = bob.get("/sync").ok()["next_batch"]
    if how == "leave":
        bob.post(f"/rooms/{room_id}/leave").ok()
    else:
        alice.post(f"/rooms/{room_id}/{how}", {"user_id": bob.user_id}).ok()
    assert room_id not in left_rooms(bob)
    bob.get(f"/rooms/{room_id}/messages", dir="b").refused(403, "M_FORBIDDEN")
    # A client that knows the room is told that it is over.
    told = left_rooms(bob, since=since)[room_id]["timeline"]["events"]
    assert told[-1]["content"]["membership"] == ("ban" if how == "ban" else "leave")
    assert room_id in alice.get("/sync").ok()["rooms"]["join"]


def test_who_comes_back_sees_the_room_again(forgetful: Server) -> None:
    _, bob, room_id = together(forgetful)
    bob.post(f"/rooms/{room_id}/leave").ok()
    bob.post(f"/join/{room_id}").ok()
    assert room_id in bob.get("/sync").ok()["rooms"]["join"]
    assert bob.get(f"/rooms/{room_id}/messages", dir="b").ok()["chunk"]


def test_rejected_invite_is_forgotten(forgetful: Server) -> None:
    alice, bob = two_users(forgetful)
    room_id = alice.create_room(invite=[bob.user_id])
    bob.post(f"/rooms/{room_id}/leave").ok()
    assert left_rooms(bob) == {}


def test_other_devices_are_told_of_leaving_a_room_that_was_forgotten_at_once(
    server: Server,
) -> None:
    _, bob, room_id = together(server)
    since = bob.get("/sync").ok()["next_batch"]
    bob.post(f"/rooms/{room_id}/leave").ok()
    bob.post(f"/rooms/{room_id}/forget").ok()
    told = left_rooms(bob.log_in_again(), since=since)
    assert told[room_id]["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert left_rooms(bob) == {}
    later = bob.get("/sync", since=since).ok()["next_batch"]
    assert left_rooms(bob, since=later) == {}


def test_heroes_are_told_when_a_room_loses_its_name(server: Server) -> None:
    alice, bob, room_id = together(server, name="Tea")
    told = alice.get("/sync").ok()
    assert "m.heroes" not in told["rooms"]["join"][room_id]["summary"]
    alice.put(f"/rooms/{room_id}/state/m.room.name", {}).ok()
    told = alice.get("/sync", since=told["next_batch"]).ok()
    assert told["rooms"]["join"][room_id]["summary"]["m.heroes"] == [bob.user_id]
