"""Logging in and out through the client API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from architex.gateways.passwords import Argon2Passwords
from architex.settings import RateLimit, RateLimitSettings
from architex.storage.pool import Database
from tests.api.client import (
    PASSWORD,
    Answer,
    Server,
    User,
    settings_for,
    start_server,
    stop_server,
)


def log_in(server: Server, user: str, password: str = PASSWORD, **more: Any) -> Answer:
    """Log in with a password."""
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
    return server.request("POST", "/login", body)


def test_password_is_a_login_flow(server: Server) -> None:
    flows = server.request("GET", "/login").ok()["flows"]
    assert {"type": "m.login.password"} in flows


def test_user_logs_in_with_user_id_or_localpart(server: Server, alice: User) -> None:
    localpart = alice.user_id[1:].partition(":")[0]
    for name in (alice.user_id, localpart, localpart.upper()):
        told = log_in(server, name).ok()
        assert told["user_id"] == alice.user_id
        assert set(told) == {"user_id", "access_token", "device_id", "home_server"}
        assert told["home_server"] == alice.user_id.partition(":")[2]
        server.request("GET", "/account/whoami", token=told["access_token"]).ok()


def test_old_form_of_naming_the_user_is_understood(server: Server, alice: User) -> None:
    body = {"type": "m.login.password", "user": alice.user_id, "password": PASSWORD}
    assert server.request("POST", "/login", body).ok()["user_id"] == alice.user_id


def test_wrong_password_and_unknown_users_are_refused_alike(server: Server, alice: User) -> None:
    wrong = log_in(server, alice.user_id, PASSWORD + "x").refused(403, "M_FORBIDDEN")
    unknown = log_in(server, "i-ought-not-to-exist").refused(403, "M_FORBIDDEN")
    assert wrong == unknown
    for user in ("@alice:elsewhere.example", "@", "", "a\0b", "@x", "é", "@:test.example"):
        log_in(server, user).refused(403, "M_FORBIDDEN")


def test_users_of_unknown_addresses_are_refused(server: Server) -> None:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@b.example"},
        "password": PASSWORD,
    }
    server.request("POST", "/login", body).refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"type": "m.login.cas", "password": "x"}, "M_UNKNOWN"),
        ({"password": "x", "user": "x"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "user": "x"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x", "user": 1}, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": 1, "user": "x"}, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "identifier": "x"}, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "x", "identifier": {}}, "M_BAD_JSON"),
        (
            {"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.user"}},
            "M_MISSING_PARAM",
        ),
        (
            {"type": "m.login.password", "password": "x", "identifier": {"type": ["m.id.user"]}},
            "M_BAD_JSON",
        ),
    ],
)
def test_malformed_login_is_refused(server: Server, body: Any, errcode: str) -> None:
    server.request("POST", "/login", body).refused(400, errcode)


def test_logging_in_on_a_known_device_voids_its_old_token(alice: User) -> None:
    first = alice.log_in_again(device_id="PHONE", initial_device_display_name="Phone")
    second = alice.log_in_again(device_id="PHONE", initial_device_display_name="Other")
    first.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    assert second.get("/account/whoami").ok()["device_id"] == "PHONE"
    # A known device keeps its name.
    assert second.get("/devices/PHONE").ok()["display_name"] == "Phone"
    alice.get("/account/whoami").ok()


def test_tokens_are_not_kept_as_they_are(alice: User, module_database: Database) -> None:
    rows = module_database.fetch_all("SELECT t::text FROM access_tokens t")
    assert rows
    assert not any(alice.token in row[0] for row in rows)
    rows = module_database.fetch_all("SELECT u::text FROM users u")
    assert not any(PASSWORD in row[0] for row in rows)


# Access tokens


def test_token_may_come_in_the_query(server: Server, alice: User) -> None:
    answer = server.request("GET", "/account/whoami", params={"access_token": alice.token})
    assert answer.ok()["user_id"] == alice.user_id


def test_request_without_token_is_told_so(server: Server) -> None:
    server.request("GET", "/account/whoami").refused(401, "M_MISSING_TOKEN")
    for header in ("Basic YTpi", "Bearer", "Bearer  "):
        answer = server.request("GET", "/account/whoami", headers={"Authorization": header})
        answer.refused(401, "M_MISSING_TOKEN")


def test_unknown_token_is_a_hard_logout(server: Server) -> None:
    for token in ("an/invalid/token", "arx_", "é", "\x7f"):
        body = server.request("GET", "/account/whoami", params={"access_token": token}).refused(
            401, "M_UNKNOWN_TOKEN"
        )
        assert body["soft_logout"] is False


# Logging out


def test_logout_ends_the_token_and_the_device(alice: User) -> None:
    other = alice.log_in_again()
    assert alice.post("/logout").ok() == {}
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    devices = other.get("/devices").ok()["devices"]
    assert [device["device_id"] for device in devices] == [other.device_id]


def test_logout_everywhere_ends_all_tokens(alice: User) -> None:
    other = alice.log_in_again()
    alice.post("/logout/all").ok()
    for user in (alice, other):
        user.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    assert len(alice.log_in_again().get("/devices").ok()["devices"]) == 1


def test_logout_needs_a_token(server: Server) -> None:
    server.request("POST", "/logout", {}).refused(401, "M_MISSING_TOKEN")
    server.request("POST", "/logout", {}, token="no").refused(401, "M_UNKNOWN_TOKEN")


def test_locked_user_can_only_log_out(alice: User, module_database: Database) -> None:
    other = alice.log_in_again()
    module_database.execute("UPDATE users SET locked = true WHERE user_id = %s", (alice.user_id,))
    body = alice.get("/account/whoami").refused(401, "M_USER_LOCKED")
    assert body["soft_logout"] is True
    log_in(alice.server, alice.user_id).refused(401, "M_USER_LOCKED")
    alice.post("/logout").ok()
    other.post("/logout/all").ok()


def test_locked_user_is_let_in_nowhere_by_the_password(
    server: Server, alice: User, module_database: Database
) -> None:
    module_database.execute("UPDATE users SET locked = true WHERE user_id = %s", (alice.user_id,))
    for path, body in (
        ("/account/deactivate", {}),
        ("/account/password", {"new_password": "another"}),
    ):
        answer = server.request("POST", path, {**body, "auth": alice.password_auth()})
        assert answer.refused(401, "M_USER_LOCKED")["soft_logout"] is True
        wrong = server.request("POST", path, {**body, "auth": alice.password_auth("wrong")})
        wrong.refused(401, "M_FORBIDDEN")


# Refreshing


def refresh(server: Server, token: str) -> Answer:
    """Ask for new tokens."""
    return server.request("POST", "/refresh", {"refresh_token": token})


def test_client_that_can_refresh_gets_a_token_that_expires(server: Server, alice: User) -> None:
    told = log_in(server, alice.user_id, refresh_token=True).ok()
    assert told["expires_in_ms"] > 0
    fresh = refresh(server, told["refresh_token"]).ok()
    assert set(fresh) == {"access_token", "refresh_token", "expires_in_ms"}
    whoami = server.request("GET", "/account/whoami", token=fresh["access_token"]).ok()
    assert whoami["device_id"] == told["device_id"]


def test_old_tokens_live_until_the_new_ones_are_used(server: Server, alice: User) -> None:
    told = log_in(server, alice.user_id, refresh_token=True).ok()
    lost = refresh(server, told["refresh_token"]).ok()
    # The answer got lost: the client asks again, with what it has.
    server.request("GET", "/account/whoami", token=told["access_token"]).ok()
    fresh = refresh(server, told["refresh_token"]).ok()
    server.request("GET", "/account/whoami", token=lost["access_token"]).refused(
        401, "M_UNKNOWN_TOKEN"
    )
    refresh(server, lost["refresh_token"]).refused(401, "M_UNKNOWN_TOKEN")
    server.request("GET", "/account/whoami", token=fresh["access_token"]).ok()
    refresh(server, told["refresh_token"]).refused(401, "M_UNKNOWN_TOKEN")
    server.request("GET", "/account/whoami", token=told["access_token"]).refused(
        401, "M_UNKNOWN_TOKEN"
    )
    # Using the new refresh token confirms as well.
    newest = refresh(server, fresh["refresh_token"]).ok()
    refresh(server, newest["refresh_token"]).ok()
    refresh(server, fresh["refresh_token"]).refused(401, "M_UNKNOWN_TOKEN")


def test_refresh_token_ends_with_its_device(server: Server, alice: User) -> None:
    told = log_in(server, alice.user_id, refresh_token=True).ok()
    server.request("POST", "/logout", {}, token=told["access_token"]).ok()
    refresh(server, told["refresh_token"]).refused(401, "M_UNKNOWN_TOKEN")


def test_locked_user_gets_no_new_tokens_until_unlocked(
    server: Server, alice: User, module_database: Database
) -> None:
    told = log_in(server, alice.user_id, refresh_token=True).ok()
    lock = "UPDATE users SET locked = %s WHERE user_id = %s"
    module_database.execute(lock, (True, alice.user_id))
    body = refresh(server, told["refresh_token"]).refused(401, "M_USER_LOCKED")
    assert body["soft_logout"] is True
    module_database.execute(lock, (False, alice.user_id))
    refresh(server, told["refresh_token"]).ok()


def test_malformed_refresh_is_refused(server: Server) -> None:
    server.request("POST", "/refresh", {}).refused(400, "M_MISSING_PARAM")
    server.request("POST", "/refresh", {"refresh_token": 1}).refused(400, "M_BAD_JSON")


def test_expired_token_is_a_soft_logout(
    server: Server, alice: User, module_database: Database
) -> None:
    told = log_in(server, alice.user_id, refresh_token=True).ok()
    module_database.execute(
        "UPDATE access_tokens SET expires_ts = 1 WHERE device_id = %s", (told["device_id"],)
    )
    body = server.request("GET", "/account/whoami", token=told["access_token"]).refused(
        401, "M_UNKNOWN_TOKEN"
    )
    assert body["soft_logout"] is True
    refresh(server, told["refresh_token"]).ok()


# Limits


def test_guessing_passwords_is_limited_per_account(database_url: str, tmp_path: Any) -> None:
    limits = RateLimitSettings(
        registrations=RateLimit(per_second=10, burst=100),
        logins=RateLimit(per_second=0.001, burst=3),
    )
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    user = server.register("target")
    auth = user.password_auth("wrong")
    for _ in range(3):
        assert user.post("/account/password", {"new_password": "x", "auth": auth}).status == 401
    answer = user.post("/account/password", {"new_password": "x", "auth": auth})
    answer.refused(429, "M_LIMIT_EXCEEDED")
    # The right password is refused as well, or guessing would go on.
    answer = user.post("/account/password", {"new_password": "x", "auth": user.password_auth()})
    answer.refused(429, "M_LIMIT_EXCEEDED")
    stop_server(server)


def test_logins_from_one_address_are_limited(database_url: str, tmp_path: Any) -> None:
    limits = RateLimitSettings(logins=RateLimit(per_second=0.001, burst=2))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    server.register("target")
    log_in(server, "target").ok()
    log_in(server, "nobody").refused(403, "M_FORBIDDEN")
    log_in(server, "target").refused(429, "M_LIMIT_EXCEEDED")
    stop_server(server)


def test_ipv6_addresses_of_one_network_are_limited_together(
    database_url: str, tmp_path: Any
) -> None:
    limits = RateLimitSettings(logins=RateLimit(per_second=0.001, burst=2))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))

    def tried_from(address: str) -> int:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": address.replace(":", ".")},
            "password": "guess",
        }
        return server.request("POST", "/login", body, address=address).status

    assert [tried_from(f"2001:db8:1:2::{n}") for n in range(1, 4)] == [403, 403, 429]
    assert tried_from("2001:db8:1:2:ffff::1") == 429
    assert tried_from("2001:db8:1:3::1") == 403
    assert tried_from("192.0.2.1") == 403
    stop_server(server)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/register", {"password": "new", "auth": {"type": "m.login.email.identity"}}),
        ("/register", {"password": "new", "auth": {"type": "org.example.none"}}),
        ("/register", {"password": "new"}),
        ("/account/password", {"new_password": "new"}),
        ("/account/password", {"new_password": "new", "auth": {"session": "unknown"}}),
        ("/account/password", {"auth": {"type": "m.login.password", "password": "x"}}),
        ("/account/deactivate", {"auth": {"type": "m.login.password", "password": "x"}}),
    ],
)
def test_nobody_has_passwords_hashed_without_end(
    path: str, body: dict[str, Any], database_url: str, tmp_path: Any, monkeypatch: Any
) -> None:
    hashed = []

    def count(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            hashed.append(work)
            return work(*given)

        return counted

    for name in ("hash_password", "verify_password"):
        monkeypatch.setattr(Argon2Passwords, name, count(getattr(Argon2Passwords, name)))
    scarce = RateLimit(per_second=0.001, burst=3)
    limits = RateLimitSettings(logins=scarce, registrations=scarce, authentications=scarce)
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    statuses = []
    for number in range(8):
        auth = dict(body.get("auth", {}))
        if auth.get("type") == "m.login.password":
            auth["identifier"] = {"type": "m.id.user", "user": f"user{number}"}
        sent = {**body, "auth": auth} if auth else body
        statuses.append(server.request("POST", path, sent).status)
    assert statuses[0] == 401
    assert statuses[-4:] == [429] * 4
    assert len(hashed) <= 3
    stop_server(server)


def test_who_is_logged_in_has_no_passwords_hashed_without_end(
    database_url: str, tmp_path: Any
) -> None:
    limits = RateLimitSettings(authentications=RateLimit(per_second=0.001, burst=5))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, bob = server.register(), server.register()
    body = {"devices": [], "auth": alice.password_auth()}
    statuses = [alice.post("/delete_devices", body).status for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    # Another user at the same address is not concerned.
    bob.post("/delete_devices", {"devices": [], "auth": bob.password_auth()}).ok()
    stop_server(server)


def test_request_to_be_remembered_is_bounded(alice: User) -> None:
    assert alice.post("/delete_devices", {"devices": ["x" * 60_000]}).status == 401
    alice.post("/delete_devices", {"devices": ["x" * 250] * 300}).refused(413, "M_TOO_LARGE")


def login_token(user: User) -> str:
    """A token for another client, asked for with the password."""
    session = user.post("/login/get_token", {}).json["session"]
    body = {"auth": user.password_auth(session=session)}
    answer = user.post("/login/get_token", body).ok()
    assert answer["expires_in_ms"] > 0
    token: str = answer["login_token"]
    return token


def test_login_token_lets_one_client_in(server: Server, alice: User) -> None:
    body = {"type": "m.login.token", "token": login_token(alice)}
    answer = server.request("POST", "/login", body).ok()
    assert answer["user_id"] == alice.user_id
    assert answer["device_id"] != alice.device_id
    server.request("POST", "/login", body).refused(403, "M_FORBIDDEN")


def test_login_token_is_given_for_a_password_only(alice: User) -> None:
    assert alice.post("/login/get_token", {}).status == 401
    alice.post("/login/get_token", {"auth": alice.password_auth(password="wrong")}).refused(
        401, "M_FORBIDDEN"
    )


def test_unknown_login_token_lets_nobody_in(server: Server) -> None:
    body = {"type": "m.login.token", "token": "arl_nonsense"}
    server.request("POST", "/login", body).refused(403, "M_FORBIDDEN")
    body = {"type": "m.login.token"}
    server.request("POST", "/login", body).refused(400, "M_MISSING_PARAM")


def test_locked_user_gets_in_with_no_token(server: Server, alice: User) -> None:
    token = login_token(alice)
    server.core.database.execute(
        "UPDATE users SET locked = true WHERE user_id = %s", (alice.user_id,)
    )
    body = {"type": "m.login.token", "token": token}
    server.request("POST", "/login", body).refused(401, "M_USER_LOCKED")
