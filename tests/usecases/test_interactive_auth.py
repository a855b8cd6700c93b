"""User-interactive authentication: flows of several stages, sessions and their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from architex.domain.errors import Forbidden
from architex.gateways.clock import SystemRandomness
from architex.gateways.passwords import Argon2Passwords
from architex.storage.accounts import Account, AccountStore
from architex.storage.interactive_auth_sessions import InteractiveAuthSessionStore
from architex.storage.pool import Database
from architex.storage.registration_tokens import RegistrationTokenStore
from architex.usecases.interactive_auth import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    SESSION_LIFETIME_MS,
    AuthenticationRequired,
    InteractiveAuth,
    Operation,
)
from architex.usecases.password_check import PasswordCheck
from architex.usecases.rate_limits import RateLimits
from tests.fakes.clock import FakeClock

ALICE = "@alice:test.example"
TOKEN = {"type": REGISTRATION_TOKEN, "token": "welcome"}

OPERATION = Operation(
    name="POST /x",
    flows=((REGISTRATION_TOKEN, DUMMY), (PASSWORD,)),
    user_id=None,
    request={"a": 1},
    secrets={},
)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def auth(database: Database, clock: FakeClock) -> InteractiveAuth:
    """Authentication on a server with one user and one registration token."""
    accounts = AccountStore(database)
    tokens = RegistrationTokenStore(database)
    passwords = Argon2Passwords(weak=True)
    account = Account(ALICE, passwords.hash_password("secret"), created_ts=0)
    accounts.create_account(account, now_ms=0)
    tokens.create_token("welcome", uses_allowed=None, expires_ts=None, now_ms=0)
    limits = RateLimits(clock, {}, enabled=False)
    return InteractiveAuth(
        InteractiveAuthSessionStore(database),
        PasswordCheck("test.example", accounts, passwords, limits),
        tokens,
        limits,
        clock,
        SystemRandomness(),
    )


def required(auth: InteractiveAuth, operation: Operation, given: Any) -> Mapping[str, Any]:
    """What the client is told is still to be done."""
    with pytest.raises(AuthenticationRequired) as told:
        auth.authenticate(operation, given)
    return told.value.body


def test_stages_of_a_flow_are_completed_one_by_one(auth: InteractiveAuth) -> None:
    first = required(auth, OPERATION, None)
    assert first["flows"] == [
        {"stages": [REGISTRATION_TOKEN, DUMMY]},
        {"stages": [PASSWORD]},
    ]
    session = {"session": first["session"]}
    second = required(auth, OPERATION, {**TOKEN, **session})
    assert second["completed"] == [REGISTRATION_TOKEN]
    assert second["session"] == first["session"]
    done = auth.authenticate(OPERATION, {"type": DUMMY, **session})
    assert done.registration_token == "welcome"
    assert done.request == {"a": 1}


def test_stages_out_of_order_do_not_count(auth: InteractiveAuth) -> None:
    told = required(auth, OPERATION, {"type": DUMMY})
    assert told["errcode"] == "M_FORBIDDEN"
    assert told["completed"] == []
    told = required(auth, OPERATION, {**TOKEN, "session": told["session"]})
    password = {"type": PASSWORD, "user": "alice", "password": "secret"}
    told = required(auth, OPERATION, {**password, "session": told["session"]})
    assert told["completed"] == [REGISTRATION_TOKEN]


def test_completed_stage_is_not_tried_again(auth: InteractiveAuth, database: Database) -> None:
    session = {"session": required(auth, OPERATION, TOKEN)["session"]}
    database.execute("DELETE FROM registration_tokens")
    told = required(auth, OPERATION, {**TOKEN, **session})
    assert told["completed"] == [REGISTRATION_TOKEN]
    assert "errcode" not in told
    told = required(auth, OPERATION, session)
    assert told["completed"] == [REGISTRATION_TOKEN]


def test_failed_stage_may_be_tried_again(auth: InteractiveAuth) -> None:
    told = required(auth, OPERATION, {**TOKEN, "token": "wrong"})
    assert told["errcode"] == "M_UNAUTHORIZED"
    session = {"session": told["session"]}
    told = required(auth, OPERATION, {**TOKEN, "token": "nul\0", **session})
    assert told["errcode"] == "M_UNAUTHORIZED"
    told = required(auth, OPERATION, {**TOKEN, **session})
    assert told["completed"] == [REGISTRATION_TOKEN]


def test_flow_done_in_one_request_needs_no_session(
    auth: InteractiveAuth, database: Database
) -> None:
    password = {"type": PASSWORD, "user": "alice", "password": "secret"}
    assert auth.authenticate(OPERATION, password).user_id == ALICE
    assert database.fetch_one("SELECT count(*) FROM interactive_auth_sessions") == (0,)


def test_session_expires(auth: InteractiveAuth, clock: FakeClock, database: Database) -> None:
    session = required(auth, OPERATION, TOKEN)["session"]
    clock.pass_seconds(SESSION_LIFETIME_MS / 1000)
    told = required(auth, OPERATION, {"type": DUMMY, "session": session})
    assert told["session"] != session
    assert told["completed"] == []
    # The expired one is gone.
    assert database.fetch_one("SELECT count(*) FROM interactive_auth_sessions") == (1,)


@pytest.mark.parametrize(
    "other",
    [
        replace(OPERATION, name="POST /y"),
        replace(OPERATION, user_id=ALICE),
        replace(OPERATION, request={"a": 2}),
    ],
)
def test_session_is_bound_to_what_it_was_begun_for(
    auth: InteractiveAuth, other: Operation
) -> None:
    session = required(auth, OPERATION, TOKEN)["session"]
    with pytest.raises(Forbidden):
        auth.authenticate(other, {"type": DUMMY, "session": session})
    auth.authenticate(OPERATION, {"type": DUMMY, "session": session})


def test_session_is_used_up_once(auth: InteractiveAuth) -> None:
    session = required(auth, OPERATION, TOKEN)["session"]
    done = auth.authenticate(OPERATION, {"type": DUMMY, "session": session})
    same = auth.authenticate(OPERATION, {"type": DUMMY, "session": session})
    auth.end(done)
    with pytest.raises(Forbidden):
        auth.end(same)


def test_secrets_of_the_first_request_are_exchanged(auth: InteractiveAuth) -> None:
    operation = replace(
        OPERATION,
        request={"a": 1, "pin": "1234"},
        secrets={"pin": lambda value: ("pin_length", len(value))},
    )
    session = required(auth, operation, TOKEN)["session"]
    done = auth.authenticate(replace(operation, request={}), {"type": DUMMY, "session": session})
    assert done.request == {"a": 1, "pin_length": 4}
