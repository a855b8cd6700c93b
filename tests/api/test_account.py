"""Password and deactivation through the client API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architex.bootstrap import build_use_cases
from architex.domain.errors import DatabaseUnavailable
from architex.storage.pool import Database
from tests.api.client import PASSWORD, Server, User, settings_for

NEW = "my new password"


def log_in_body(user: User, password: str) -> dict[str, Any]:
    """A login with a password."""
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": password}


def change_password(user: User, **more: Any) -> None:
    """Change the password in one request."""
    body = {"auth": user.password_auth(), "new_password": NEW, **more}
    assert user.post("/account/password", body).ok() == {}


def test_new_password_replaces_the_old_one(server: Server, alice: User) -> None:
    change_password(alice)
    server.request("POST", "/login", log_in_body(alice, PASSWORD)).refused(403, "M_FORBIDDEN")
    server.request("POST", "/login", log_in_body(alice, NEW)).ok()


def test_other_devices_are_logged_out_with_the_old_password(alice: User) -> None:
    other = alice.log_in_again()
    change_password(alice)
    alice.get("/account/whoami").ok()
    other.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")


def test_other_devices_may_be_kept(alice: User) -> None:
    other = alice.log_in_again()
    change_password(alice, logout_devices=False)
    other.get("/account/whoami").ok()


def test_password_change_remembers_the_first_request(
    server: Server, alice: User, module_database: Database
) -> None:
    other = alice.log_in_again()
    answer = alice.post("/account/password", {"new_password": NEW, "logout_devices": False})
    assert answer.status == 401
    rows = module_database.fetch_all("SELECT s::text FROM interactive_auth_sessions s")
    assert not any(NEW in row[0] for row in rows)
    auth = alice.password_auth(session=answer.json["session"])
    alice.post("/account/password", {"auth": auth}).ok()
    other.get("/account/whoami").ok()
    server.request("POST", "/login", log_in_body(alice, NEW)).ok()


def test_session_authenticates_once(alice: User) -> None:
    session = alice.post("/account/password", {"new_password": NEW}).json["session"]
    auth = alice.password_auth(session=session)
    alice.post("/account/password", {"new_password": NEW, "auth": auth}).ok()
    again = {"new_password": "third", "auth": {"session": session}}
    assert alice.post("/account/password", again).status == 401


def test_session_is_good_for_its_own_operation_only(alice: User) -> None:
    session = alice.post("/account/password", {"new_password": NEW}).json["session"]
    auth = alice.password_auth(session=session)
    alice.post("/account/deactivate", {"auth": auth}).refused(403, "M_FORBIDDEN")
    alice.get("/account/whoami").ok()


def test_session_is_good_for_its_own_user_only(alice: User, bob: User) -> None:
    session = alice.post("/account/password", {"new_password": NEW}).json["session"]
    auth = bob.password_auth(session=session)
    bob.post("/account/password", {"new_password": NEW, "auth": auth}).refused(403, "M_FORBIDDEN")


def test_what_was_authenticated_cannot_be_exchanged(alice: User) -> None:
    session = alice.post("/account/deactivate", {"erase": False}).json["session"]
    auth = alice.password_auth(session=session)
    alice.post("/account/deactivate", {"erase": True, "auth": auth}).refused(403, "M_FORBIDDEN")


def test_password_change_without_token_needs_the_password(server: Server, alice: User) -> None:
    body = {"auth": alice.password_auth(), "new_password": NEW}
    server.request("POST", "/account/password", body).ok()
    server.request("POST", "/login", log_in_body(alice, NEW)).ok()
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"new_password": 5}, "M_BAD_JSON"),
        ({"new_password": ""}, "M_WEAK_PASSWORD"),
        ({"new_password": NEW, "logout_devices": 1}, "M_BAD_JSON"),
        ({"new_password": NEW, "auth": []}, "M_BAD_JSON"),
        ({"new_password": NEW, "auth": {"type": "m.login.password"}}, "M_BAD_JSON"),
    ],
)
def test_malformed_password_change_is_refused(alice: User, body: Any, errcode: str) -> None:
    alice.post("/account/password", body).refused(400, errcode)


def test_password_change_needs_a_password(alice: User) -> None:
    alice.post("/account/password", {"auth": alice.password_auth()}).refused(
        400, "M_MISSING_PARAM"
    )


# Deactivation


def test_wrong_password_does_not_deactivate(alice: User) -> None:
    answer = alice.post("/account/deactivate", {"auth": alice.password_auth("wrong")})
    body = answer.refused(401, "M_FORBIDDEN")
    assert set(body) == {"errcode", "error", "params", "completed", "flows", "session"}
    alice.get("/account/whoami").ok()


def test_deactivated_user_is_logged_out_and_cannot_log_in(server: Server, alice: User) -> None:
    body = {"auth": alice.password_auth()}
    assert alice.post("/account/deactivate", body).ok() == {"id_server_unbind_result": "success"}
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    server.request("POST", "/login", log_in_body(alice, PASSWORD)).refused(
        403, "M_USER_DEACTIVATED"
    )
    server.request("GET", f"/profile/{alice.path}").refused(404, "M_NOT_FOUND")


def test_user_id_of_a_deactivated_user_stays_taken(server: Server, alice: User) -> None:
    alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    username = alice.user_id[1:].partition(":")[0]
    body = {"auth": {"type": "m.login.dummy"}, "username": username, "password": PASSWORD}
    server.request("POST", "/register", body).refused(400, "M_USER_IN_USE")


def test_deactivated_user_leaves_all_rooms(
    alice: User, bob: User, module_database: Database
) -> None:
    room_id = bob.create_room(preset="public_chat")
    alice.post(f"/join/{room_id}").ok()
    alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    rows = module_database.fetch_all(
        "SELECT user_id, membership FROM memberships JOIN rooms USING (room_nid)"
        " WHERE room_id = %s",
        (room_id,),
    )
    assert dict(rows) == {alice.user_id: "leave", bob.user_id: "join"}


def test_account_that_could_not_leave_its_rooms_has_not_ended(
    server: Server, alice: User, bob: User, tmp_path: Path
) -> None:
    alice.post(f"/join/{bob.create_room(preset='public_chat')}").ok()
    accounts = build_use_cases(settings_for(tmp_path), server.core).accounts

    def lose_the_database(user_id: str) -> None:
        raise DatabaseUnavailable("It is gone.")

    with pytest.raises(DatabaseUnavailable):
        replace(accounts, leave_all_rooms=lose_the_database).deactivate_user(alice.user_id)
    # Whoever is logged out by then asks again by the password.
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    server.request("POST", "/account/deactivate", {"auth": alice.password_auth()}).ok()
    server.request("POST", "/login", log_in_body(alice, PASSWORD)).refused(
        403, "M_USER_DEACTIVATED"
    )


def test_erasure_is_noted_and_takes_account_data(alice: User, module_database: Database) -> None:
    alice.put(f"/user/{alice.path}/account_data/org.example.x", {"a": 1}).ok()
    body = {"auth": alice.password_auth(), "erase": True}
    alice.post("/account/deactivate", body).ok()
    row = module_database.fetch_one(
        "SELECT erased, (SELECT count(*) FROM account_data a WHERE a.user_id = u.user_id)"
        " FROM users u WHERE user_id = %s",
        (alice.user_id,),
    )
    assert row == (True, 0)


def test_account_has_no_third_party_identifiers(alice: User) -> None:
    assert alice.get("/account/3pid").ok() == {"threepids": []}
    alice.post("/account/3pid", {}).refused(400, "M_MISSING_PARAM")
