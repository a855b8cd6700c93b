"""`architex verify`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from architex.bootstrap import Core
from architex.storage.key_files import load_or_create_signing_key
from tests.cli.conftest import Run
from tests.core import ALICE, SERVER_NAME, create_room, send_message
from tests.following import follow_to_the_end


@pytest.fixture
def settings_toml(tmp_path: Path) -> str:
    key_file = tmp_path / "keys" / "id_ed25519"
    load_or_create_signing_key(key_file, lambda length: b"k" * length)
    return f'server_name = "{SERVER_NAME}"\nsigning_key_path = "{key_file}"\n'


@pytest.fixture
def run(run: Run) -> Run:
    """Run `architex verify …`."""
    return lambda *arguments: run("verify", *arguments, "--max-load", "1")


@pytest.fixture
def room_id(core: Core) -> str:
    """A room with a message."""
    room_id = create_room(core)
    send_message(core, room_id, ALICE, "hello")
    follow_to_the_end(core.database)
    return room_id


def test_clean_log_gives_exit_code_0(run: Run, room_id: str) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "5 facts of 1 rooms: all is well" in result.stdout
    # The test's core signs with another key than the one in the file.
    assert "5 signatures by keys that this server does not have" in result.stdout


def test_damage_gives_exit_code_1_and_is_told(run: Run, core: Core, room_id: str) -> None:
    core.database.execute("UPDATE room_counts SET joined = 7")
    result = run(room_id)
    assert result.exit_code == 1, result.output
    assert "joined is 7 and should be 1" in result.stdout
    assert f"room {room_id}" in result.stdout
    assert "architex projections rebuild memberships" in result.stdout
    told = json.loads(run("--json").stdout)
    assert told["is_clean"] is False
    assert told["problems"][0]["room_id"] == room_id


def test_what_cannot_be_verified_gives_exit_code_2(run: Run, room_id: str) -> None:
    result = run("!nowhere:example.org")
    assert result.exit_code == 2
    assert "no room !nowhere:example.org" in result.stderr
