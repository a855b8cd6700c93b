"""Registration through the client API."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from architex.bootstrap import build_use_cases
from architex.settings import RateLimit, RateLimitSettings, RegistrationSettings
from architex.storage.pool import Database
from tests.api.client import (
    PASSWORD,
    Answer,
    Server,
    settings_for,
    start_server,
    stop_server,
)

DUMMY = {"type": "m.login.dummy"}


def begin(server: Server, body: dict[str, Any]) -> str:
    """The session of a registration's first request, which has no auth."""
    answer = server.request("POST", "/register", body)
    assert answer.status == 401, answer.json
    return str(answer.json["session"])


def test_dummy_stage_registers_in_the_first_request(server: Server) -> None:
    user = server.register("somebody")
    assert user.user_id == "@somebody:test.example"
    assert user.get("/account/whoami").ok() == {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "is_guest": False,
    }


def test_request_without_auth_is_told_the_flows(server: Server) -> None:
    answer = server.request("POST", "/register", {})
    assert answer.status == 401
    assert answer.json["flows"] == [{"stages": ["m.login.dummy"]}]
    assert answer.json["completed"] == []
    assert isinstance(answer.json["session"], str)
    assert "errcode" not in answer.json
    assert answer.headers["content-type"].startswith("application/json")


def test_capitals_are_downcased(server: Server) -> None:
    assert server.register("CAPITALS").user_id == "@capitals:test.example"


def test_user_name_is_given_when_none_is_wished(server: Server) -> None:
    body = {"auth": DUMMY, "password": PASSWORD}
    first = server.request("POST", "/register", body).ok()
    second = server.request("POST", "/register", body).ok()
    assert first["user_id"] != second["user_id"]


@pytest.mark.parametrize("name", ["q3", "1234", "a.b", "a_b", "a=b", "a-b", "a/b", "a+b"])
def test_every_character_of_the_grammar_is_taken(server: Server, name: str) -> None:
    assert server.register("ok" + name).user_id == f"@ok{name}:test.example"


@pytest.mark.parametrize("char", list("!\":?\\@[]{|}£é\n' ,#\u212a\0"))
def test_characters_outside_the_grammar_are_refused(server: Server, char: str) -> None:
    body = {"auth": DUMMY, "password": PASSWORD, "username": "bad" + char}
    server.request("POST", "/register", body).refused(400, "M_INVALID_USERNAME")


def test_user_id_over_255_bytes_is_refused(server: Server) -> None:
    body = {"auth": DUMMY, "password": PASSWORD, "username": "a" * 255}
    server.request("POST", "/register", body).refused(400, "M_INVALID_USERNAME")


def test_taken_user_name_is_refused_before_and_after_authentication(server: Server) -> None:
    session = begin(server, {"username": "wanted", "password": PASSWORD})
    server.register("wanted")
    server.request("POST", "/register", {"username": "wanted", "password": PASSWORD}).refused(
        400, "M_USER_IN_USE"
    )
    server.request("POST", "/register", {"auth": {**DUMMY, "session": session}}).refused(
        400, "M_USER_IN_USE"
    )


def test_session_remembers_the_first_request_and_no_plain_password(
    server: Server, module_database: Database
) -> None:
    secret = "hunter2 with some length"
    session = begin(
        server,
        {
            "username": "remembered",
            "password": secret,
            "device_id": "xyzzy",
            "initial_device_display_name": "Jungle Phone",
        },
    )
    rows = module_database.fetch_all("SELECT s::text FROM interactive_auth_sessions s")
    assert not any(secret in row[0] for row in rows)
    told = server.request("POST", "/register", {"auth": {**DUMMY, "session": session}}).ok()
    assert told["user_id"] == "@remembered:test.example"
    device = server.request("GET", "/devices/xyzzy", token=told["access_token"]).ok()
    assert device["display_name"] == "Jungle Phone"
    login = {"type": "m.login.password", "user": "remembered", "password": secret}
    server.request("POST", "/login", login).ok()


def test_repeating_a_finished_registration_gives_the_same_user(server: Server) -> None:
    session = begin(server, {"password": PASSWORD})
    body = {"password": PASSWORD, "auth": {**DUMMY, "session": session}}
    first = server.request("POST", "/register", body).ok()
    second = server.request("POST", "/register", body).ok()
    assert second["user_id"] == first["user_id"]
    assert second["device_id"] == first["device_id"]


def test_inhibited_login_gives_no_token(server: Server) -> None:
    body = {
        "auth": DUMMY,
        "username": "quiet",
        "password": PASSWORD,
        "inhibit_login": True,
    }
    told = server.request("POST", "/register", body).ok()
    assert told == {"user_id": "@quiet:test.example", "home_server": "test.example"}


def test_stage_of_no_flow_completes_nothing(server: Server) -> None:
    body = {"password": PASSWORD, "auth": {"type": "m.login.recaptcha", "response": "x"}}
    answer = server.request("POST", "/register", body)
    assert answer.status == 401
    assert answer.json["errcode"] == "M_FORBIDDEN"
    assert answer.json["completed"] == []
    again = {"password": PASSWORD, "auth": {"session": answer.json["session"]}}
    assert server.request("POST", "/register", again).status == 401


def test_unknown_session_starts_a_new_one(server: Server) -> None:
    body = {"password": PASSWORD, "auth": {**DUMMY, "session": "never-was"}}
    answer = server.request("POST", "/register", body)
    assert answer.status == 401
    assert answer.json["session"] != "never-was"


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"auth": DUMMY, "password": 5}, "M_BAD_JSON"),
        ({"auth": "dummy", "password": PASSWORD}, "M_BAD_JSON"),
        ({"auth": {"type": 1}, "password": PASSWORD}, "M_BAD_JSON"),
        ({"auth": {"type": "m.login.dummy", "session": []}, "password": "x"}, "M_BAD_JSON"),
        ({"auth": DUMMY, "password": PASSWORD, "username": ["x"]}, "M_BAD_JSON"),
        ({"auth": DUMMY, "password": PASSWORD, "inhibit_login": "yes"}, "M_BAD_JSON"),
        ({"auth": DUMMY}, "M_MISSING_PARAM"),
        ({"auth": DUMMY, "password": ""}, "M_WEAK_PASSWORD"),
        ({"auth": DUMMY, "password": PASSWORD, "device_id": "x" * 300}, "M_INVALID_PARAM"),
        ({"auth": DUMMY, "password": PASSWORD, "device_id": "a\0b"}, "M_INVALID_PARAM"),
        (
            {"auth": DUMMY, "password": PASSWORD, "initial_device_display_name": "a\0"},
            "M_INVALID_PARAM",
        ),
        ([], "M_BAD_JSON"),
    ],
)
def test_malformed_registration_is_refused(server: Server, body: Any, errcode: str) -> None:
    server.request("POST", "/register", body).refused(400, errcode)


def test_body_that_is_no_utf8_is_refused(server: Server) -> None:
    answer = server.request("POST", "/register", raw=b'{ "username": "a\x81" }')
    answer.refused(400, "M_NOT_JSON")


def test_unknown_kind_of_account_is_refused(server: Server) -> None:
    answer = server.request("POST", "/register", {}, params={"kind": "emperor"})
    answer.refused(400, "M_INVALID_PARAM")


# Availability


def test_free_user_name_is_available(server: Server) -> None:
    answer = server.request("GET", "/register/available", params={"username": "nobodyyet"})
    assert answer.ok() == {"available": True}


def test_taken_user_name_is_not_available(server: Server) -> None:
    server.register("occupied")
    answer = server.request("GET", "/register/available", params={"username": "Occupied"})
    answer.refused(400, "M_USER_IN_USE")


def test_impossible_user_name_is_not_available(server: Server) -> None:
    answer = server.request("GET", "/register/available", params={"username": "a b"})
    answer.refused(400, "M_INVALID_USERNAME")
    server.request("GET", "/register/available").refused(400, "M_MISSING_PARAM")


# Guests


def register_guest(server: Server) -> Any:
    """What a new guest is told."""
    return server.request("POST", "/register", {"device_id": "X"}, params={"kind": "guest"}).ok()


def test_guest_gets_an_account_with_a_device_of_the_servers_choice(server: Server) -> None:
    guest = register_guest(server)
    assert guest["device_id"] != "X"
    whoami = server.request("GET", "/account/whoami", token=guest["access_token"]).ok()
    assert whoami["is_guest"] is True


def test_guest_may_not_do_what_the_spec_does_not_list(server: Server) -> None:
    guest = register_guest(server)
    answer = server.request("GET", "/capabilities", token=guest["access_token"])
    answer.refused(403, "M_GUEST_ACCESS_FORBIDDEN")


def upgrade(server: Server, username: str, token: str) -> Answer:
    """Turn a guest into a user."""
    body = {
        "auth": DUMMY,
        "username": username,
        "password": PASSWORD,
        "guest_access_token": token,
    }
    return server.request("POST", "/register", body)


def test_guest_can_become_a_user(server: Server) -> None:
    guest = register_guest(server)
    username = guest["user_id"][1:].partition(":")[0]
    user = upgrade(server, username, guest["access_token"]).ok()
    assert user["user_id"] == guest["user_id"]
    whoami = server.request("GET", "/account/whoami", token=user["access_token"]).ok()
    assert whoami["is_guest"] is False
    server.request("GET", "/account/whoami", token=guest["access_token"]).refused(
        401, "M_UNKNOWN_TOKEN"
    )


def test_guest_cannot_become_another_guest(server: Server) -> None:
    one, other = register_guest(server), register_guest(server)
    username = one["user_id"][1:].partition(":")[0]
    upgrade(server, username, other["access_token"]).refused(403, "M_FORBIDDEN")


def test_user_cannot_pass_for_a_guest(server: Server) -> None:
    user = server.register()
    upgrade(server, user.user_id[1:].partition(":")[0], user.token).refused(403, "M_FORBIDDEN")


# Shared secret


def shared_secret(server: Server, username: str, **changes: Any) -> Answer:
    """Register with the shared secret; `changes` spoil the request."""
    nonce = server.request("GET", "/_synapse/admin/v1/register").ok()["nonce"]
    is_admin = changes.get("admin", False)
    parts = [nonce, username, PASSWORD, "admin" if is_admin else "notadmin"]
    key = changes.pop("secret", "shared").encode()
    body = {
        "nonce": nonce,
        "username": username,
        "password": PASSWORD,
        "admin": is_admin,
        "mac": hmac.new(key, "\0".join(parts).encode(), hashlib.sha1).hexdigest(),
        **changes,
    }
    return server.request("POST", "/_synapse/admin/v1/register", body)


def test_shared_secret_makes_users_and_administrators(
    server: Server, module_database: Database
) -> None:
    told = shared_secret(server, "Byscript", displayname="By Script").ok()
    assert told["user_id"] == "@byscript:test.example"
    assert told["home_server"] == "test.example"
    server.request("GET", "/account/whoami", token=told["access_token"]).ok()
    assert server.request("GET", "/profile/@byscript:test.example").ok() == {
        "displayname": "By Script"
    }
    shared_secret(server, "boss", admin=True).ok()
    rows = module_database.fetch_all(
        "SELECT is_admin FROM users WHERE user_id IN (%s, %s) ORDER BY user_id",
        ("@boss:test.example", "@byscript:test.example"),
    )
    assert rows == [(True,), (False,)]


def test_wrong_secret_is_refused(server: Server) -> None:
    shared_secret(server, "thief", secret="guessed").refused(403, "M_FORBIDDEN")


def test_administrator_needs_a_mac_that_says_so(server: Server) -> None:
    nonce = server.request("GET", "/_synapse/admin/v1/register").ok()["nonce"]
    mac = hmac.new(
        b"shared", "\0".join([nonce, "sly", PASSWORD, "notadmin"]).encode(), hashlib.sha1
    )
    body = {
        "nonce": nonce,
        "username": "sly",
        "password": PASSWORD,
        "admin": True,
        "mac": mac.hexdigest(),
    }
    server.request("POST", "/_synapse/admin/v1/register", body).refused(403, "M_FORBIDDEN")


def test_nonce_is_good_once(server: Server) -> None:
    shared_secret(server, "twice", nonce="made-up").refused(400, "M_INVALID_PARAM")
    nonce = server.request("GET", "/_synapse/admin/v1/register").ok()["nonce"]
    body = {"nonce": nonce, "username": "once", "password": "x", "mac": "é"}
    server.request("POST", "/_synapse/admin/v1/register", body).refused(403, "M_FORBIDDEN")
    server.request("POST", "/_synapse/admin/v1/register", body).refused(400, "M_INVALID_PARAM")


def test_shared_secret_keeps_to_the_user_name_grammar(server: Server) -> None:
    shared_secret(server, "us,er").refused(400, "M_INVALID_USERNAME")


# Servers with other policies


def test_closed_server_registers_nobody(database_url: str, tmp_path: Any) -> None:
    settings = settings_for(tmp_path, registration=RegistrationSettings())
    server = start_server(database_url, settings)
    body = {"auth": DUMMY, "username": "eve", "password": PASSWORD}
    server.request("POST", "/register", body).refused(403, "M_FORBIDDEN")
    server.request("POST", "/register", {}, params={"kind": "guest"}).refused(403, "M_FORBIDDEN")
    server.request("GET", "/register/available", params={"username": "eve"}).refused(
        403, "M_FORBIDDEN"
    )
    validity = "/_matrix/client/v1/register/m.login.registration_token/validity"
    server.request("GET", validity, params={"token": "x"}).refused(403, "M_FORBIDDEN")
    server.request("GET", "/_synapse/admin/v1/register").refused(404, "M_UNRECOGNIZED")
    stop_server(server)


def test_registration_token_lets_in_as_many_as_it_says(
    database_url: str, database: Database, tmp_path: Any
) -> None:
    database.execute(
        "INSERT INTO registration_tokens (token, uses_allowed, created_ts) VALUES ('two', 2, 0)"
    )
    registration = RegistrationSettings(
        enabled=True, tokens_required=True, weak_password_hashing=True
    )
    server = start_server(
        database_url,
        settings_for(
            tmp_path,
            registration=registration,
            rate_limits=RateLimitSettings(enabled=False),
        ),
    )
    validity = "/_matrix/client/v1/register/m.login.registration_token/validity"
    auth = {"type": "m.login.registration_token", "token": "two"}
    body = {"auth": {"type": "m.login.dummy"}, "password": PASSWORD}
    assert server.request("POST", "/register", body).status == 401
    answer = server.request("POST", "/register", {"auth": {**auth, "token": "one"}})
    answer.refused(401, "M_UNAUTHORIZED")
    # A token good when its stage was completed may be spent when the account is made.
    late = {"type": "m.login.registration_token", "token": "two"}
    assert server.request("GET", validity, params={"token": "two"}).ok() == {"valid": True}
    for _ in range(2):
        server.request("POST", "/register", {"auth": late, "password": PASSWORD}).ok()
    assert server.request("GET", validity, params={"token": "two"}).ok() == {"valid": False}
    server.request("POST", "/register", {"auth": auth, "password": PASSWORD}).refused(
        401, "M_UNAUTHORIZED"
    )
    server.request("GET", validity).refused(400, "M_MISSING_PARAM")
    stop_server(server)


def test_user_names_are_not_tried_without_end(database_url: str, tmp_path: Any) -> None:
    limits = RateLimitSettings(lookups=RateLimit(per_second=0.001, burst=2))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))

    def ask(name: str, address: str = "192.0.2.1") -> Answer:
        params = {"username": name}
        return server.request("GET", "/register/available", params=params, address=address)

    for name in ("a", "b"):
        ask(name).ok()
    ask("c").refused(429, "M_LIMIT_EXCEEDED")
    ask("c", "192.0.2.2").ok()
    stop_server(server)


def test_guest_spends_a_registration_token_to_become_a_user(
    database_url: str, tmp_path: Any
) -> None:
    registration = RegistrationSettings(
        enabled=True, guests=True, tokens_required=True, weak_password_hashing=True
    )
    settings = settings_for(
        tmp_path, registration=registration, rate_limits=RateLimitSettings(enabled=False)
    )
    server = start_server(database_url, settings)
    tokens = build_use_cases(settings, server.core).registration
    tokens.create_token("once", uses_allowed=1, lifetime_ms=None)
    answers = []
    for guest in [register_guest(server) for _ in range(2)]:
        body = {
            "auth": {"type": "m.login.registration_token", "token": "once"},
            "username": guest["user_id"][1:].partition(":")[0],
            "password": PASSWORD,
            "guest_access_token": guest["access_token"],
        }
        answers.append(server.request("POST", "/register", body))
    assert [answer.status for answer in answers] == [200, 401]
    stop_server(server)


def test_registrations_from_one_address_are_limited(database_url: str, tmp_path: Any) -> None:
    limits = RateLimitSettings(registrations=RateLimit(per_second=0.001, burst=2))
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    server.register("first")
    server.register("second")
    body = {"auth": DUMMY, "username": "third", "password": PASSWORD}
    answer = server.request("POST", "/register", body)
    assert answer.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"] > 0
    assert int(answer.headers["retry-after"]) > 0
    stop_server(server)
