"""Commands of the operator, over a test's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from architex.cli import ready_database
from architex.cli.main import main
from architex.settings import Settings

Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def settings_toml() -> str:
    """What the commands' file of settings says beside the directory."""
    return 'server_name = "test.example"\n'


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str, settings_toml: str
) -> Run:
    """Run a command over this test's database."""

    @contextmanager
    def running(settings: Settings) -> Iterator[str]:
        yield database_url

    # The test cluster is not durable, which the commands would refuse.
    monkeypatch.setattr(ready_database, "database_running", running)
    config = tmp_path / "architex.toml"
    config.write_text(f'data_dir = "{tmp_path}"\n{settings_toml}')

    def invoke(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, [*arguments, "--config", str(config)], input=input)

    return invoke
