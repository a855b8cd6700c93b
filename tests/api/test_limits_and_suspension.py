"""What users may not do too often, and what suspended users may not do at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from architex.settings import RateLimit, RateLimitSettings
from architex.storage.pool import Database
from tests.api.client import Answer, User, settings_for, start_server, stop_server

MESSAGE = {"msgtype": "m.text", "body": "hi"}


def test_each_kind_of_action_is_limited_per_user(database_url: str, tmp_path: Path) -> None:
    once = RateLimit(per_second=0.001, burst=1)
    limits = RateLimitSettings(messages=once, joins=once, invites=once)
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, bob = server.register("alice"), server.register("bob")
    room_id = alice.create_room(preset="public_chat")
    send = f"/rooms/{room_id}/send/m.room.message"
    actions: list[tuple[User, Callable[[User], Answer]]] = [
        (alice, lambda user: user.put(f"{send}/1", MESSAGE)),
        (alice, lambda user: user.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id})),
        (bob, lambda user: user.post(f"/join/{room_id}")),
    ]
    for user, act in actions:
        act(user).ok()
        answer = act(user)
        assert answer.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"] > 0
        assert int(answer.headers["retry-after"]) > 0
    bob.put(f"{send}/1", MESSAGE).ok()
    stop_server(server)


def test_what_happens_in_a_room_is_limited_for_all_together(
    database_url: str, tmp_path: Path
) -> None:
    twice = RateLimit(per_second=0.001, burst=2)
    limits = RateLimitSettings(room_messages=twice, room_joins=twice)
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, *others = [server.register() for _ in range(4)]
    room_id, elsewhere = (alice.create_room(preset="public_chat") for _ in range(2))
    send = f"/rooms/{room_id}/send/m.room.message"
    for number in range(5):  # who is not in the room cannot use up what it has
        others[2].put(f"{send}/{number}", MESSAGE).refused(403, "M_FORBIDDEN")
    for user in others[:2]:
        user.post(f"/join/{room_id}").ok()
        user.put(f"{send}/1", MESSAGE).ok()
    others[2].post(f"/rooms/{room_id}/join").refused(429, "M_LIMIT_EXCEEDED")
    alice.put(f"{send}/1", MESSAGE).refused(429, "M_LIMIT_EXCEEDED")
    path = f"/rooms/{room_id}/state/m.room.topic"
    alice.put(path, {"topic": "x"}).refused(429, "M_LIMIT_EXCEEDED")
    alice.put(f"/rooms/{elsewhere}/send/m.room.message/1", MESSAGE).ok()
    stop_server(server)


def test_invites_to_new_rooms_count_as_invites(database_url: str, tmp_path: Path) -> None:
    limits = RateLimitSettings(invites=RateLimit(per_second=0.001, burst=3))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, *others = [server.register() for _ in range(5)]
    everybody = [user.user_id for user in others]
    room_id = alice.create_room(invite=everybody)  # one may, with as many as one likes
    alice.post("/createRoom", {"invite": everybody[:1]}).refused(429, "M_LIMIT_EXCEEDED")
    answer = alice.post(f"/rooms/{room_id}/invite", {"user_id": everybody[0]})
    answer.refused(429, "M_LIMIT_EXCEEDED")
    alice.create_room()
    stop_server(server)


def test_invites_by_state_events_count_as_invites(database_url: str, tmp_path: Path) -> None:
    limits = RateLimitSettings(invites=RateLimit(per_second=0.001, burst=1))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, bob, carol = (server.register() for _ in range(3))
    path = f"/rooms/{alice.create_room()}/state/m.room.member"
    alice.put(f"{path}/{bob.path}", {"membership": "invite"}).ok()
    answer = alice.put(f"{path}/{carol.path}", {"membership": "invite"})
    answer.refused(429, "M_LIMIT_EXCEEDED")
    alice.put(f"{path}/{carol.path}", {"membership": "ban"}).ok()
    stop_server(server)


@pytest.fixture
def suspended(alice: User, bob: User, module_database: Database) -> tuple[User, str]:
    """A suspended user, and a room they are in."""
    room_id = bob.create_room(preset="public_chat")
    alice.post(f"/join/{room_id}").ok()
    module_database.execute(
        "UPDATE users SET suspended = true WHERE user_id = %s", (alice.user_id,)
    )
    return alice, room_id


def test_suspended_user_may_not_write(suspended: tuple[User, str], bob: User) -> None:
    user, room_id = suspended
    other = bob.create_room(preset="public_chat")
    for answer in (
        user.put(f"/rooms/{room_id}/send/m.room.message/1", MESSAGE),
        user.put(f"/rooms/{room_id}/state/m.room.topic", {"topic": "x"}),
        user.post(f"/rooms/{room_id}/invite", {"user_id": "@x:test.example"}),
        user.post(f"/join/{other}"),
        user.post(f"/rooms/{other}/join"),
        user.post(f"/knock/{other}"),
        user.post("/createRoom"),
        user.post("/account/3pid/delete", {"medium": "email", "address": "a@b.example"}),
    ):
        answer.refused(403, "M_USER_SUSPENDED")


def test_suspended_user_may_read_and_leave(suspended: tuple[User, str]) -> None:
    user, room_id = suspended
    assert user.get("/joined_rooms").ok() == {"joined_rooms": [room_id]}
    user.log_in_again().get("/account/whoami").ok()
    user.post(f"/rooms/{room_id}/leave").ok()
    user.post("/logout").ok()


def test_suspended_user_redacts_own_events_only_by_either_way(
    alice: User, bob: User, module_database: Database
) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{room_id}").ok()
    send = f"/rooms/{room_id}/send"
    *own, others = [
        user.put(f"{send}/m.room.message/{number}", MESSAGE).ok()["event_id"]
        for number, user in enumerate((alice, alice, bob))
    ]
    module_database.execute(
        "UPDATE users SET suspended = true WHERE user_id = %s", (alice.user_id,)
    )
    alice.put(f"{send}/m.room.redaction/1", {"redacts": own[0]}).ok()
    alice.put(f"/rooms/{room_id}/redact/{own[1]}/2").ok()
    answer = alice.put(f"{send}/m.room.redaction/3", {"redacts": others})
    answer.refused(403, "M_USER_SUSPENDED")
