"""`architex verify`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from architex.bootstrap import Core
from architex.cli import verify as verify_module
from architex.cli.main import main
from architex.settings import Settings
from architex.storage.key_files import load_or_create_signing_key
from tests.core import ALICE, SERVER_NAME, create_room, send_message
from tests.following import follow_to_the_end

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Run:
    """Run a command over this test's database."""

    @contextmanager
    def ready(settings: Settings) -> Iterator[str]:
        yield database_url

    # The test cluster is not durable, which the commands would refuse.
    monkeypatch.setattr(verify_module, "database_ready", ready)
    key_file = tmp_path / "keys" / "id_ed25519"
    load_or_create_signing_key(key_file, lambda length: b"k" * length)
    config = tmp_path / "architex.toml"
    config.write_text(
        f'server_name = "{SERVER_NAME}"\ndata_dir = "{tmp_path}"\n'
        f'signing_key_path = "{key_file}"\n'
    )

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(
            main, ["verify", *arguments, "--max-load", "1", "--config", str(config)]
        )

    return invoke


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
