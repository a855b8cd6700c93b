"""The server tells its users something.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-notices
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from architex.bootstrap import build_server_notices, build_use_cases
from architex.domain.errors import InvalidParam, NotFound
from architex.usecases.server_notices import ServerNotices
from tests.api.client import SERVER_NAME, Server, User, settings_for, start_server, stop_server

SENDER = f"@notices:{SERVER_NAME}"


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Server]:
    started = start_server(database_url, settings_for(tmp_path))
    yield started
    stop_server(started)


@pytest.fixture
def alice(server: Server) -> User:
    return server.register("alice")


@pytest.fixture
def notices(server: Server, tmp_path: Path) -> ServerNotices:
    settings = settings_for(tmp_path)
    return build_server_notices(settings, server.core, build_use_cases(settings, server.core))


def invites(user: User) -> dict[str, Any]:
    rooms: dict[str, Any] = user.get("/sync").ok()["rooms"]["invite"]
    return rooms


def join(user: User) -> str:
    """Join the only room that one is invited to."""
    [room_id] = invites(user)
    user.post(f"/join/{room_id}").ok()
    return room_id


def said(user: User, room_id: str) -> list[str]:
    page = user.get(f"/rooms/{room_id}/messages", dir="f", limit=50).ok()["chunk"]
    messages = [event for event in page if event["type"] == "m.room.message"]
    for event in messages:
        assert event["sender"] == SENDER
        assert event["content"]["msgtype"] == "m.server_notice"
        assert event["content"]["server_notice_type"]
    return [event["content"]["body"] for event in messages]


def test_user_is_invited_to_the_one_room_of_their_notices(
    notices: ServerNotices, alice: User
) -> None:
    notices.send(alice.user_id, "Hello")
    room_id = join(alice)
    notices.send(alice.user_id, "Maintenance at ten.")
    assert invites(alice) == {}
    assert said(alice, room_id) == ["Hello", "Maintenance at ten."]
    told = alice.get("/sync").ok()["rooms"]["join"][room_id]
    tags = [e for e in told["account_data"]["events"] if e["type"] == "m.tag"]
    assert tags[0]["content"]["tags"] == {"m.server_notice": {}}
    name = alice.get(f"/rooms/{room_id}/state/m.room.name").ok()
    assert name == {"name": "Server Notices"}
    profile = alice.get(f"/profile/{SENDER}").ok()
    assert profile["displayname"] == "Server Notices"


def test_everybody_has_a_room_of_their_own(
    notices: ServerNotices, server: Server, alice: User
) -> None:
    bob = server.register("bob")
    notices.send(alice.user_id, "For Alice")
    notices.send(bob.user_id, "For Bob")
    room_id, other = join(alice), join(bob)
    assert room_id != other
    assert (said(alice, room_id), said(bob, other)) == (["For Alice"], ["For Bob"])


def test_invite_to_notices_cannot_be_rejected_or_blocked(
    notices: ServerNotices, alice: User
) -> None:
    path = f"/user/{alice.path}/account_data/m.invite_permission_config"
    alice.put(path, {"default_action": "block"}).ok()
    notices.send(alice.user_id, "Hello")
    alice.put(path, {}).ok()
    [room_id] = invites(alice)
    leave = alice.post(f"/rooms/{room_id}/leave")
    leave.refused(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
    assert list(invites(alice)) == [room_id]


def test_whose_account_ends_is_not_invited_any_more(
    notices: ServerNotices, server: Server, alice: User
) -> None:
    notices.send(alice.user_id, "Hello")
    alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    rows = server.core.database.fetch_all(
        "SELECT membership FROM memberships WHERE user_id = %s", (alice.user_id,)
    )
    assert rows == [("leave",)]


def test_who_has_left_the_room_is_invited_again(notices: ServerNotices, alice: User) -> None:
    notices.send(alice.user_id, "Hello")
    room_id = join(alice)
    alice.post(f"/rooms/{room_id}/leave").ok()
    notices.send(alice.user_id, "Still here?")
    assert join(alice) == room_id
    assert said(alice, room_id) == ["Hello", "Still here?"]


def test_nobody_answers_a_notice(notices: ServerNotices, alice: User) -> None:
    notices.send(alice.user_id, "Hello")
    room_id = join(alice)
    path = f"/rooms/{room_id}/send/m.room.message/1"
    alice.put(path, {"msgtype": "m.text", "body": "Thanks"}).refused(403, "M_FORBIDDEN")


def test_nobody_logs_in_as_the_server(notices: ServerNotices, alice: User) -> None:
    notices.send(alice.user_id, "Hello")
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "notices"},
        "password": "",
    }
    alice.server.request("POST", "/login", body).refused(403, "M_FORBIDDEN")


def test_nobody_registers_as_the_server(server: Server) -> None:
    for more in ({}, {"auth": {"type": "m.login.dummy"}}):
        taken = {"username": "Notices", "password": "x", **more}
        server.request("POST", "/register", taken).refused(400, "M_USER_IN_USE")
    free = server.request("GET", "/register/available", params={"username": "notices"})
    free.refused(400, "M_USER_IN_USE")
    begun = server.request("POST", "/register", {"password": "x"}).json["session"]
    auth = {"type": "m.login.dummy", "session": begun}
    late = server.request("POST", "/register", {"username": "notices", "auth": auth})
    late.refused(400, "M_USER_IN_USE")


def test_notices_are_not_sent_in_the_name_of_a_person(
    notices: ServerNotices, server: Server, alice: User, tmp_path: Path
) -> None:
    use_cases = build_use_cases(settings_for(tmp_path), server.core)
    use_cases.registration.create_user("notices", "somebody's password")
    with pytest.raises(InvalidParam):
        notices.send(alice.user_id, "Hello")


@pytest.mark.parametrize("user_id", [f"@nobody:{SERVER_NAME}", "@a:b.example", SENDER])
def test_only_users_of_this_server_get_notices(notices: ServerNotices, user_id: str) -> None:
    with pytest.raises(NotFound):
        notices.send(user_id, "Hello")
