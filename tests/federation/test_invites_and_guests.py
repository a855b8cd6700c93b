"""Invites by state events, guests, and finding people, between two servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import User, segment
from tests.conftest import DatabaseFactory
from tests.federation.simulation import SimulatedServer, Simulation, simulation
from tests.following import follow_to_the_end


@pytest.fixture
def two(make_database: DatabaseFactory, tmp_path: Path) -> Iterator[Simulation]:
    """Two servers and a network in which nothing fails."""
    with simulation("calm", make_database, tmp_path, count=2) as run:
        yield run


def invited_rooms(user: User) -> Any:
    return user.get("/sync").ok()["rooms"]["invite"]


def block_invites(user: User) -> None:
    path = f"/user/{user.path}/account_data/m.invite_permission_config"
    user.put(path, {"default_action": "block"}).ok()


def guest_of(server: SimulatedServer) -> User:
    http = server.users[0].server
    told = http.request("POST", "/register", {}, params={"kind": "guest"}).ok()
    return User(http, told["user_id"], told["access_token"], told["device_id"])


def test_state_event_invites_a_user_of_another_server(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room()
    path = f"/rooms/{segment(room_id)}/state/m.room.member/{bob.path}"
    event_id = alice.put(path, {"membership": "invite"}).ok()["event_id"]
    assert here.memberships(room_id)[bob.user_id] == "invite"
    assert room_id in invited_rooms(bob)
    assert alice.get(f"/rooms/{segment(room_id)}/event/{event_id}").ok()["event_id"] == event_id


def test_who_blocks_invites_elsewhere_is_not_invited(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    block_invites(bob)
    room_id = alice.create_room()
    body = {"user_id": bob.user_id}
    alice.post(f"/rooms/{segment(room_id)}/invite", body).refused(403, "M_INVITE_BLOCKED")
    path = f"/rooms/{segment(room_id)}/state/m.room.member/{bob.path}"
    alice.put(path, {"membership": "invite"}).refused(403, "M_INVITE_BLOCKED")
    assert here.memberships(room_id).get(bob.user_id) is None
    # One of the invited does not keep the room from being made.
    carol = here.users[1]
    made = alice.create_room(invite=[bob.user_id, carol.user_id])
    assert here.memberships(made).get(bob.user_id) is None
    assert here.memberships(made)[carol.user_id] == "invite"


def test_room_of_one_server_invites_nobody_of_another(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room(
        preset="public_chat", invite=[bob.user_id], creation_content={"m.federate": False}
    )
    body = {"user_id": bob.user_id}
    alice.post(f"/rooms/{segment(room_id)}/invite", body).refused(403, "M_FORBIDDEN")
    two.join(bob, room_id, via=[here.name]).refused(403, "M_FORBIDDEN")
    assert here.memberships(room_id).get(bob.user_id) is None


@pytest.mark.parametrize("access", ["can_join", "forbidden"])
def test_guest_stays_in_a_room_of_another_server_that_wants_guests(
    two: Simulation, access: str
) -> None:
    here, there = two.servers
    alice, guest = there.users[0], guest_of(here)
    room_id = alice.create_room(
        preset="private_chat",
        initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": access}}],
    )
    alice.post(f"/rooms/{segment(room_id)}/invite", {"user_id": guest.user_id}).ok()
    answer = guest.post(f"/join/{segment(room_id)}")
    if access == "can_join":
        answer.ok()
        assert here.memberships(room_id)[guest.user_id] == "join"
    else:
        answer.refused(403, "M_GUEST_ACCESS_FORBIDDEN")
        assert here.memberships(room_id)[guest.user_id] == "leave"
        assert guest.get("/joined_rooms").ok() == {"joined_rooms": []}


def test_nobody_is_found_in_a_room_that_the_server_has_left(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = there.users[0], here.users[0]
    alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Zora Quibble"}).ok()
    room_id = alice.create_room(preset="public_chat")
    bob.server.request(
        "POST", f"/join/{segment(room_id)}", {}, token=bob.token, params={"via": [there.name]}
    ).ok()

    def found(user: User) -> list[str]:
        follow_to_the_end(user.server.core.database)
        answer = user.post("/user_directory/search", {"search_term": "Zora"}).ok()
        return [result["user_id"] for result in answer["results"]]

    assert found(here.users[1]) == [alice.user_id]
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert found(here.users[1]) == []
    assert found(there.users[1]) == [alice.user_id]
