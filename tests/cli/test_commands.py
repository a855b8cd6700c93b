"""The commands that make a configuration and keys, and say what they did."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from architex.cli.main import COMMANDS, main
from architex.settings import load_settings


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARCHITEX_CONFIG", raising=False)
    return CliRunner()


def test_generated_configuration_can_be_loaded_and_is_private(
    run: CliRunner, tmp_path: Path
) -> None:
    result = run.invoke(main, ["generate-config", "--server-name", "example.org"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "architex.toml"
    settings = load_settings(path, environment={})
    assert settings.server_name == "example.org"
    assert settings.registration.shared_secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert settings.signing_key_path == tmp_path / "keys" / "id_ed25519"
    assert settings.signing_key_path.exists()


def test_configuration_is_not_written_over(run: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "architex.toml").write_text("mine")
    result = run.invoke(main, ["generate-config"])
    assert result.exit_code == 1
    assert (tmp_path / "architex.toml").read_text() == "mine"
    assert "--force" in result.output


def test_two_generated_configurations_have_different_secrets(run: CliRunner) -> None:
    secrets = set()
    for name in ("a.toml", "b.toml"):
        run.invoke(main, ["generate-config", name])
        secrets.add(load_settings(name, environment={}).registration.shared_secret)
    assert len(secrets) == 2


def test_printed_configuration_makes_no_files(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(main, ["generate-config", "-"])
    assert "[[listeners]]" in result.output
    assert list(tmp_path.iterdir()) == []


def test_key_is_made_once_and_shown(run: CliRunner) -> None:
    made = run.invoke(main, ["keys", "generate"]).output
    again = run.invoke(main, ["keys", "generate"]).output
    shown = run.invoke(main, ["keys", "show"]).output
    key_id = re.search(r"ed25519:\w+", made)
    assert key_id is not None
    assert "is there already" in again
    assert key_id[0] in again
    assert key_id[0] in shown


def test_every_command_explains_itself_and_takes_a_config(run: CliRunner) -> None:
    overview = run.invoke(main, ["--help"]).output
    for name in COMMANDS:
        assert name in overview
        # Importing `follow` patches sockets for gevent: not in the process of the tests.
        if name != "follow":
            result = run.invoke(main, [name, "--help"])
            assert result.exit_code == 0, result.output


def test_unknown_command_is_refused(run: CliRunner) -> None:
    assert run.invoke(main, ["sevre"]).exit_code == 2
