"""Users who block invites are not invited, and are not shown what came before they did.

Spec: https://spec.matrix.org/v1.19/client-server-api/#invite-permission
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import User, segment

CONFIG = "m.invite_permission_config"


def set_config(user: User, content: Any) -> None:
    user.put(f"/user/{user.path}/account_data/{CONFIG}", content).ok()


@pytest.fixture
def blocker(bob: User) -> User:
    """A user who blocks invites."""
    set_config(bob, {"default_action": "block"})
    return bob


def membership(user: User, room_id: str, member: User) -> Any:
    answer = user.get(f"/rooms/{segment(room_id)}/state/m.room.member/{member.path}")
    return answer.json.get("membership")


def test_who_blocks_invites_is_not_invited(alice: User, blocker: User) -> None:
    room_id = alice.create_room()
    body = {"user_id": blocker.user_id}
    alice.post(f"/rooms/{segment(room_id)}/invite", body).refused(403, "M_INVITE_BLOCKED")
    assert membership(alice, room_id, blocker) is None


def test_state_event_does_not_invite_who_blocks_invites(alice: User, blocker: User) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{segment(room_id)}/state/m.room.member/{blocker.path}"
    alice.put(path, {"membership": "invite"}).refused(403, "M_INVITE_BLOCKED")
    assert membership(alice, room_id, blocker) is None
    alice.put(path, {"membership": "ban"}).ok()


def test_room_is_not_created_with_who_blocks_invites(alice: User, blocker: User) -> None:
    before = alice.get("/joined_rooms").ok()
    answer = alice.post("/createRoom", {"invite": [blocker.user_id]})
    answer.refused(403, "M_INVITE_BLOCKED")
    assert alice.get("/joined_rooms").ok() == before


def test_who_may_not_invite_does_not_learn_who_blocks_invites(alice: User, blocker: User) -> None:
    room_id, carol = alice.create_room(), alice.server.register()
    body = {"user_id": blocker.user_id}
    carol.post(f"/rooms/{segment(room_id)}/invite", body).refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "config", [{}, {"default_action": "allow"}, {"default_action": ["block"]}]
)
def test_anything_else_blocks_nothing(alice: User, bob: User, config: Any) -> None:
    set_config(bob, {"default_action": "block"})
    set_config(bob, config)
    room_id = alice.create_room()
    alice.post(f"/rooms/{segment(room_id)}/invite", {"user_id": bob.user_id}).ok()
    assert membership(alice, room_id, bob) == "invite"


def test_blocked_users_come_without_invite(alice: User, blocker: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    blocker.post(f"/join/{segment(room_id)}").ok()
    assert membership(alice, room_id, blocker) == "join"


def test_same_invite_again_is_no_new_event(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{segment(room_id)}/state/m.room.member/{bob.path}"
    first = alice.put(path, {"membership": "invite"}).ok()["event_id"]
    assert alice.put(path, {"membership": "invite"}).ok()["event_id"] == first
    again = alice.put(path, {"membership": "invite", "reason": "Please!"}).ok()["event_id"]
    assert again != first
