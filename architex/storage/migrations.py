"""Applies storage/migrations/NNNN_*.sql in order, each once, whoever comes first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from architex.storage.start_refusal import StartRefused

MIGRATIONS_DIRECTORY = Path(__file__).parent / "migrations"

# The same in every version, or two servers might migrate one database at once.
_ADVISORY_LOCK = 0x41524348

_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        sha256 text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


@dataclass(frozen=True)
class Migration:
    """One numbered step of the schema."""

    number: int
    name: str
    sql: bytes

    @property
    def sha256(self) -> str:
        """Of its bytes: a migration is never edited after release."""
        return hashlib.sha256(self.sql).hexdigest()


def read_migrations(directory: Path = MIGRATIONS_DIRECTORY) -> Sequence[Migration]:
    """The migrations this program brings, in order.

    Raises ValueError when two have the same number or a name is not NNNN_words.sql.
    """
    migrations = []
    for path in sorted(directory.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_\w+", path.stem)
        if match is None:
            raise ValueError(f"a migration is named NNNN_words.sql, not {path.name}")
        migrations.append(Migration(int(match[1]), path.stem, path.read_bytes()))
    numbers = [migration.number for migration in migrations]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"two migrations have the same number: {numbers}")
    return migrations


def migrate(
    conninfo: str,
    *,
    migrations: Sequence[Migration] | None = None,
    on_applied: Callable[[Migration], None] = lambda migration: None,
) -> list[Migration]:
    """Bring the database to this program's schema; returns what was applied, in order.

    Each migration is one transaction. Several callers at once take turns.

    Raises StartRefused when the database is newer than the program, or was migrated by a
    different text, or a migration fails (and then it is rolled back).
    """
    wanted = read_migrations() if migrations is None else migrations
    applied_now = []
    with psycopg.connect(conninfo, autocommit=True, application_name="architex migrate") as db:
        db.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
        # Ask before CREATE … IF NOT EXISTS: that needs rights even when there is nothing to do.
        if db.execute("SELECT to_regclass('schema_migrations')").fetchone() == (None,):
            db.execute(_TABLE)
        done: dict[int, tuple[str, str]] = {
            number: (name, sha256)
            for number, name, sha256 in db.execute(
                "SELECT number, name, sha256 FROM schema_migrations"
            )
        }
        _check_history(done, wanted)
        for migration in wanted:
            if migration.number in done:
                continue
            _apply(db, migration)
            on_applied(migration)
            applied_now.append(migration)
    return applied_now


def _check_history(done: dict[int, tuple[str, str]], wanted: Sequence[Migration]) -> None:
    known = {migration.number: migration for migration in wanted}
    for number, (name, sha256) in sorted(done.items()):
        if number not in known:
            raise StartRefused(
                "A027",
                f"the database is newer than this program: it has had migration {name}",
                mend="pip install --upgrade architex   (or restore the backup made before it)",
            )
        if known[number].sha256 != sha256:
            raise StartRefused(
                "A028",
                f"migration {name} was applied with a different text",
                mend="run the Architex that made this database, or start with a new one",
            )


def _apply(db: psycopg.Connection, migration: Migration) -> None:
    try:
        with db.transaction():
            db.execute(migration.sql)
            db.execute(
                "INSERT INTO schema_migrations (number, name, sha256) VALUES (%s, %s, %s)",
                (migration.number, migration.name, migration.sha256),
            )
    except psycopg.Error as error:
        raise StartRefused(
            "A028",
            f"migration {migration.name} failed and was rolled back: {error}",
            mend="architex database migrate   (again, after mending what the database says)",
        ) from error
