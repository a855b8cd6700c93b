"""The commands about accounts and registration tokens."""

from __future__ import annotations

import pytest

from architex.storage.pool import Database
from tests.cli.conftest import Run


@pytest.fixture
def settings_toml() -> str:
    return 'server_name = "test.example"\n[registration]\nweak_password_hashing = true\n'


def test_user_is_made_with_a_typed_password(run: Run, database: Database) -> None:
    result = run("user", "create", "Alice", "--admin", input="secret\nsecret\n")
    assert result.exit_code == 0, result.output
    assert "@alice:test.example can log in now" in result.output
    rows = database.fetch_all("SELECT user_id, is_admin, password_hash FROM users")
    assert [row[:2] for row in rows] == [("@alice:test.example", True)]
    assert rows[0][2].startswith("$argon2id$")


def test_user_is_made_once(run: Run) -> None:
    assert run("user", "create", "alice", "--generate").exit_code == 0
    again = run("user", "create", "@alice:test.example", "--password-stdin", input="x\n")
    assert again.exit_code == 1
    assert "already taken" in again.output


@pytest.mark.parametrize("name", ["a b", "@alice:elsewhere.example", "@"])
def test_impossible_user_is_refused(run: Run, name: str) -> None:
    result = run("user", "create", name, "--generate")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def test_empty_password_is_refused(run: Run) -> None:
    assert run("user", "create", "alice", "--password-stdin", input="\n").exit_code == 1


def test_password_is_replaced(run: Run, database: Database) -> None:
    run("user", "create", "alice", "--generate")
    before = database.fetch_one("SELECT password_hash FROM users")
    assert run("user", "password", "alice", "--generate").exit_code == 0
    assert database.fetch_one("SELECT password_hash FROM users") != before
    assert run("user", "password", "bob", "--generate").exit_code == 1


def test_users_are_listed_with_what_is_said_of_them(run: Run) -> None:
    for name in ("alice", "bob", "carol"):
        run("user", "create", name, "--generate")
    assert run("user", "admin", "alice").exit_code == 0
    assert run("user", "lock", "bob").exit_code == 0
    assert run("user", "deactivate", "carol", input="n\n").exit_code == 1
    assert run("user", "deactivate", "carol", "--yes").exit_code == 0
    lines = [line.split("  ")[1:] for line in run("user", "list").output.splitlines()]
    assert lines == [
        ["@alice:test.example", "admin"],
        ["@bob:test.example", "locked"],
        ["@carol:test.example", "deactivated"],
    ]
    run("user", "admin", "alice", "--revoke")
    run("user", "lock", "bob", "--unlock")
    lines = [line.split("  ")[1:] for line in run("user", "list").output.splitlines()]
    assert lines[:2] == [["@alice:test.example"], ["@bob:test.example"]]


def test_suspended_user_is_listed_as_such_until_that_ends(run: Run) -> None:
    run("user", "create", "alice", "--generate")
    for options, notes in (([], ["suspended"]), (["--lift"], [])):
        assert run("user", "suspend", "alice", *options).exit_code == 0
        [line] = run("user", "list").output.splitlines()
        assert line.split()[1:] == ["@alice:test.example", *notes]
    assert run("user", "suspend", "bob").exit_code == 1


def test_registration_tokens_are_made_listed_and_deleted(run: Run) -> None:
    assert run("registration-token", "create", "welcome", "--uses", "3").output == "welcome\n"
    assert run("registration-token", "create", "welcome").exit_code == 1
    assert run("registration-token", "create", "no spaces").exit_code == 1
    made_up = run("registration-token", "create", "--days", "1").output.strip()
    listed = run("registration-token", "list").output.splitlines()
    assert listed[0] == "welcome  used 0 of 3 times"
    assert listed[1].startswith(f"{made_up}  used 0 of any number of times  until ")
    assert run("registration-token", "delete", "welcome").exit_code == 0
    assert run("registration-token", "delete", "welcome").exit_code == 1


def test_notice_is_sent(run: Run, database: Database) -> None:
    assert run("user", "create", "alice", "--generate").exit_code == 0
    result = run("user", "notice", "alice", "Maintenance tonight at ten.")
    assert result.exit_code == 0, result.output
    assert "@alice:test.example has a notice of @notices:test.example." in result.output
    assert run("user", "notice", "bob", "Hello").exit_code == 1
    members = database.fetch_all("SELECT user_id, membership FROM memberships ORDER BY user_id")
    assert members == [("@alice:test.example", "invite"), ("@notices:test.example", "join")]


def test_list_shows_addresses_and_agreed_terms(run: Run, database: Database) -> None:
    for name in ("alice", "bob"):
        assert run("user", "create", name, "--generate").exit_code == 0
    database.execute(
        "INSERT INTO user_addresses (medium, address, user_id, validated_ts, added_ts)"
        " VALUES ('email', 'alice@mail.example', '@alice:test.example', 1, 1)"
    )
    database.execute("UPDATE users SET agreed_terms = '1.2' WHERE user_id = '@alice:test.example'")
    lines = run("user", "list").output.splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["@alice:test.example", "terms:1.2", "alice@mail.example"],
        ["@bob:test.example"],
    ]
