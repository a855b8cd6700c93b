"""OpenID tokens, and who may see from where devices connect."""

from __future__ import annotations

from pathlib import Path

import pytest

from architex.usecases.openid import LIFETIME_SECONDS
from tests.api.client import Answer, Server, User, settings_for, start_server, stop_server
from tests.fakes.clock import FakeClock

USERINFO = "/_matrix/federation/v1/openid/userinfo"


def ask(server: Server, token: str) -> Answer:
    """What a third party learns with a token."""
    return server.request("GET", USERINFO, params={"access_token": token})


def test_openid_token_proves_who_its_user_is_and_opens_nothing_else(
    server: Server, alice: User
) -> None:
    given = alice.post(f"/user/{alice.path}/openid/request_token").ok()
    assert given["token_type"] == "Bearer"
    assert given["matrix_server_name"] == "test.example"
    assert given["expires_in"] == LIFETIME_SECONDS
    token = given["access_token"]
    assert ask(server, token).ok() == {"sub": alice.user_id}
    server.request("GET", "/sync", token=token).refused(401, "M_UNKNOWN_TOKEN")


def test_access_token_is_no_openid_token(server: Server, alice: User) -> None:
    ask(server, alice.token).refused(401, "M_UNKNOWN_TOKEN")


def test_userinfo_without_a_known_token_is_refused(server: Server) -> None:
    ask(server, "an/invalid/token").refused(401, "M_UNKNOWN_TOKEN")
    server.request("GET", USERINFO).refused(401, "M_MISSING_TOKEN")


def test_openid_tokens_are_for_oneself_only(alice: User, bob: User) -> None:
    bob.post(f"/user/{alice.path}/openid/request_token").refused(403, "M_FORBIDDEN")


def test_openid_token_ends_with_its_time_and_its_user(database_url: str, tmp_path: Path) -> None:
    clock = FakeClock()
    server = start_server(database_url, settings_for(tmp_path), clock=clock)
    try:
        alice = server.register()
        path = f"/user/{alice.path}/openid/request_token"
        token = alice.post(path).ok()["access_token"]
        clock.pass_seconds(LIFETIME_SECONDS - 1)
        ask(server, token).ok()
        clock.pass_seconds(1)
        ask(server, token).refused(401, "M_UNKNOWN_TOKEN")
        token = alice.post(path).ok()["access_token"]
        alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
        ask(server, token).refused(401, "M_UNKNOWN_TOKEN")
    finally:
        stop_server(server)


def test_users_see_from_where_their_devices_connect(server: Server, alice: User) -> None:
    headers = {"User-Agent": "Walkman/1.0"}
    path = f"/admin/whois/{alice.path}"
    server.request("GET", path, token=alice.token, headers=headers).ok()
    told = alice.get(path).ok()
    assert told["user_id"] == alice.user_id
    (connection,) = told["devices"][alice.device_id]["sessions"][0]["connections"]
    assert connection["ip"] == "127.0.0.1"
    assert connection["user_agent"] == "Walkman/1.0"
    assert connection["last_seen"] > 1_600_000_000_000


@pytest.mark.parametrize("name", ["somebody", "nobody"])
def test_whois_of_others_is_for_administrators(server: Server, alice: User, name: str) -> None:
    number = next(server.numbers)
    user_id = f"@{name}{number}:test.example"
    if name == "somebody":
        server.register(f"{name}{number}")
    alice.get(f"/admin/whois/{user_id}").refused(403, "M_FORBIDDEN")


def test_administrator_may_look_up_users_who_exist(server: Server, alice: User) -> None:
    admin = server.register()
    server.core.database.execute(
        "UPDATE users SET is_admin = true WHERE user_id = %s", (admin.user_id,)
    )
    assert alice.device_id in admin.get(f"/admin/whois/{alice.path}").ok()["devices"]
    admin.get("/admin/whois/@nobody:test.example").refused(404, "M_NOT_FOUND")
