"""The house keeps its own rules: arrows point inwards, migrations have no gaps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]
MIGRATIONS: Final = CHECKOUT / "architex" / "storage" / "migrations"
MODULES: Final = sorted((CHECKOUT / "architex").rglob("*.py"))


@pytest.mark.slow
def test_imports_keep_the_contracts() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with `make check`")
    # In a process of its own: it reads pyproject.toml of the directory it runs in.
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def test_migrations_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    numbers = [int(name.partition("_")[0]) for name in names]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name) for name in names), names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_files_promise_nothing_for_later(path: Path) -> None:
    source = path.read_text()
    assert re.search(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError", source) is None
