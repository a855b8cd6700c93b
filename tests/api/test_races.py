"""Requests that come at once do together no more than one after the other could."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from architex.settings import MediaSettings, RateLimitSettings, RegistrationSettings
from tests.api.client import (
    PASSWORD,
    Answer,
    Server,
    User,
    segment,
    settings_for,
    start_server,
    stop_server,
)

DUMMY = {"type": "m.login.dummy"}
ROUNDS = 8
AT_ONCE = 6


def at_once(*requests: Callable[[], Answer]) -> list[int]:
    """The statuses of the answers to requests that begin together."""
    gate = threading.Barrier(len(requests))

    def send(request: Callable[[], Answer]) -> int:
        gate.wait(20)
        return request().status

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


@pytest.fixture(scope="module")
def guarded(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A process over the same database, for registering with tokens."""
    registration = RegistrationSettings(
        enabled=True, tokens_required=True, weak_password_hashing=True
    )
    settings = settings_for(
        tmp_path_factory.mktemp("guarded"),
        rate_limits=RateLimitSettings(enabled=False),
        registration=registration,
    )
    started = start_server(module_database_url, settings)
    yield started
    stop_server(started)


@pytest.fixture(scope="module")
def quota(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second process over the same database, where a user's uploads have a bound."""
    directory: Path = tmp_path_factory.mktemp("quota")
    settings = settings_for(
        directory,
        rate_limits=RateLimitSettings(enabled=False),
        media=MediaSettings(max_bytes_per_user=2_500),
    )
    started = start_server(module_database_url, settings)
    yield started
    stop_server(started)


def log_in_with_password(user: User, tokens: list[str]) -> Answer:
    """Log in on a new device, and note its access token if there is one."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.user_id},
        "password": PASSWORD,
    }
    answer = user.server.request("POST", "/login", body)
    if answer.status == 200:
        tokens.append(answer.json["access_token"])
    return answer


def test_user_id_is_given_once(server: Server, quota: Server) -> None:
    for number in range(ROUNDS):
        body = {"auth": DUMMY, "username": f"Racer{number}", "password": PASSWORD}
        servers = [server, quota] * (AT_ONCE // 2)
        statuses = at_once(*(partial(of.request, "POST", "/register", body) for of in servers))
        assert sorted(statuses) == [200] + [400] * (AT_ONCE - 1)


def test_one_session_makes_one_account(server: Server) -> None:
    # Else whoever has solved one captcha makes as many accounts as they like.
    for _ in range(ROUNDS):
        begun = server.request("POST", "/register", {"password": PASSWORD})
        auth = {**DUMMY, "session": begun.json["session"]}
        told: list[str] = []

        def register(auth: dict[str, str] = auth, told: list[str] = told) -> Answer:
            answer = server.request("POST", "/register", {"auth": auth})
            if answer.status == 200:
                told.append(answer.json["user_id"])
            return answer

        statuses = at_once(*[register] * AT_ONCE)
        assert len(set(told)) == 1, told
        assert set(statuses) <= {200, 403}


def test_token_for_two_accounts_makes_two(guarded: Server) -> None:
    for number in range(ROUNDS):
        token = f"twice{number}"
        guarded.core.database.execute(
            "INSERT INTO registration_tokens (token, uses_allowed, created_ts) VALUES (%s, 2, 0)",
            (token,),
        )
        auth = {"type": "m.login.registration_token", "token": token}
        body = {"auth": auth, "password": PASSWORD}
        register = partial(guarded.request, "POST", "/register", body)
        statuses = at_once(*[register] * AT_ONCE)
        assert sorted(statuses) == [200] * 2 + [401] * (AT_ONCE - 2)


def test_alias_is_given_once(alice: User, bob: User) -> None:
    rooms = {user.user_id: user.create_room() for user in (alice, bob)}
    for number in range(ROUNDS):
        path = f"/directory/room/{segment(f'#race{number}{alice.user_id[1:6]}:test.example')}"
        users = [alice, bob] * (AT_ONCE // 2)
        statuses = at_once(
            *(partial(user.put, path, {"room_id": rooms[user.user_id]}) for user in users)
        )
        assert sorted(statuses) == [200] + [409] * (AT_ONCE - 1)


def test_nobody_slips_in_while_being_banned(alice: User, bob: User) -> None:
    for _ in range(ROUNDS):
        path = f"/rooms/{segment(alice.create_room(preset='public_chat'))}"
        join = partial(bob.post, f"{path}/join")
        at_once(join, partial(alice.post, f"{path}/ban", {"user_id": bob.user_id}), join)
        member = alice.get(f"{path}/state/m.room.member/{bob.path}").ok()
        assert member["membership"] == "ban"
        bob.post(f"{path}/join").refused(403, "M_FORBIDDEN")


def test_uploads_at_once_keep_to_the_quota(quota: Server) -> None:
    for number in range(ROUNDS // 2):
        user = quota.register(f"uploader{number}")
        upload = partial(
            quota.request, "POST", "/_matrix/media/v3/upload", token=user.token, raw=b"x" * 1_000
        )
        statuses = at_once(*[upload] * AT_ONCE)
        assert sorted(statuses) == [200, 200] + [403] * (AT_ONCE - 2)


def test_refresh_token_used_twice_at_once_leaves_one_session(server: Server, alice: User) -> None:
    for _ in range(ROUNDS):
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": alice.user_id},
            "password": PASSWORD,
            "refresh_token": True,
        }
        told = server.request("POST", "/login", body).ok()
        refreshed: list[dict[str, str]] = []

        def refresh(
            token: str = told["refresh_token"], refreshed: list[dict[str, str]] = refreshed
        ) -> Answer:
            answer = server.request("POST", "/refresh", {"refresh_token": token})
            if answer.status == 200:
                refreshed.append(answer.json)
                server.request("GET", "/account/whoami", token=answer.json["access_token"])
            return answer

        statuses = at_once(*[refresh] * AT_ONCE)
        assert set(statuses) <= {200, 401}
        alive = [
            one
            for one in refreshed
            if server.request("GET", "/account/whoami", token=one["access_token"]).status == 200
        ]
        assert len(alive) == 1
        # The old one is void, whoever uses it.
        assert refresh().status == 401


def test_login_token_lets_one_client_in_however_many_try(server: Server, alice: User) -> None:
    for _ in range(ROUNDS):
        session = alice.post("/login/get_token", {}).json["session"]
        auth = alice.password_auth(session=session)
        token = alice.post("/login/get_token", {"auth": auth}).ok()["login_token"]
        body = {"type": "m.login.token", "token": token}
        statuses = at_once(*[partial(server.request, "POST", "/login", body)] * AT_ONCE)
        assert sorted(statuses) == [200] + [403] * (AT_ONCE - 1)


def test_login_during_deactivation_lets_nobody_stay(server: Server) -> None:
    for _ in range(ROUNDS):
        user = server.register()
        tokens: list[str] = []
        log_in = partial(log_in_with_password, user, tokens)

        def deactivate(user: User = user) -> Answer:
            return user.post("/account/deactivate", {"auth": user.password_auth()})

        at_once(log_in, deactivate, log_in, log_in)
        for token in tokens:
            assert server.request("GET", "/account/whoami", token=token).status == 401


def test_old_password_opens_no_session_while_it_is_replaced(server: Server) -> None:
    for _ in range(ROUNDS):
        user = server.register()
        tokens: list[str] = []
        log_in = partial(log_in_with_password, user, tokens)

        def replace(user: User = user) -> Answer:
            return user.post(
                "/account/password", {"new_password": "another", "auth": user.password_auth()}
            )

        at_once(log_in, replace, log_in, log_in, log_in)
        for token in tokens:
            assert server.request("GET", "/account/whoami", token=token).status == 401


def test_new_password_ends_what_the_old_one_began(server: Server, alice: User) -> None:
    # Whoever knows the old one prepares to come back: by a login token, and a session that has
    # shown the password for a change that is yet to come.
    session = alice.post("/login/get_token", {}).json["session"]
    auth = alice.password_auth(session=session)
    token = alice.post("/login/get_token", {"auth": auth}).ok()["login_token"]
    begun = server.request("POST", "/account/password", {}).json["session"]
    prepared = {"session": begun}
    server.request(
        "POST", "/account/password", {"auth": {**alice.password_auth(), **prepared}}
    ).refused(400, "M_MISSING_PARAM")
    alice.post(
        "/account/password", {"new_password": "another", "auth": alice.password_auth()}
    ).ok()
    body = {"type": "m.login.token", "token": token}
    server.request("POST", "/login", body).refused(403, "M_FORBIDDEN")
    answer = server.request(
        "POST", "/account/password", {"new_password": "mine again", "auth": prepared}
    )
    assert answer.status == 401
