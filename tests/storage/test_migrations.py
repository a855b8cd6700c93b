"""Migrations are applied in order, once, and never over a database they do not fit."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from architex.storage.migrations import Migration, migrate, read_migrations
from architex.storage.start_refusal import StartRefused

FIRST = Migration(1, "0001_first", b"CREATE TABLE first (n int); INSERT INTO first VALUES (1)")
SECOND = Migration(2, "0002_second", b"ALTER TABLE first ADD COLUMN m int")


def _fetch_one(url: str, sql: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchone()


def test_each_is_applied_once_in_order(empty_database_url: str) -> None:
    assert migrate(empty_database_url, migrations=[FIRST]) == [FIRST]
    assert migrate(empty_database_url, migrations=[FIRST, SECOND]) == [SECOND]
    assert migrate(empty_database_url, migrations=[FIRST, SECOND]) == []
    assert _fetch_one(empty_database_url, "SELECT n, m FROM first") == (1, None)


def test_servers_starting_together_migrate_once(empty_database_url: str) -> None:
    applied: list[Migration] = []
    starters = [
        threading.Thread(
            target=lambda: applied.extend(migrate(empty_database_url, migrations=[FIRST, SECOND]))
        )
        for _ in range(4)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert applied == [FIRST, SECOND]


def test_failing_migration_leaves_nothing(empty_database_url: str) -> None:
    broken = Migration(2, "0002_broken", b"CREATE TABLE half (n int); SELECT 1 / 0")
    with pytest.raises(StartRefused) as refused:
        migrate(empty_database_url, migrations=[FIRST, broken])
    assert refused.value.code == "A028"
    assert "division by zero" in refused.value.message
    assert _fetch_one(empty_database_url, "SELECT to_regclass('half')") == (None,)
    assert migrate(empty_database_url, migrations=[FIRST, SECOND]) == [SECOND]


def test_older_program_refuses_a_newer_database(empty_database_url: str) -> None:
    migrate(empty_database_url, migrations=[FIRST, SECOND])
    with pytest.raises(StartRefused) as refused:
        migrate(empty_database_url, migrations=[FIRST])
    assert refused.value.code == "A027"


def test_migration_edited_after_it_was_applied_is_refused(empty_database_url: str) -> None:
    migrate(empty_database_url, migrations=[FIRST])
    edited = Migration(1, "0001_first", b"CREATE TABLE other (n int)")
    with pytest.raises(StartRefused) as refused:
        migrate(empty_database_url, migrations=[edited])
    assert refused.value.code == "A028"


def test_ours_are_numbered_without_a_gap() -> None:
    numbers = [migration.number for migration in read_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_two_with_one_number_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").touch()
    (tmp_path / "0001_b.sql").touch()
    with pytest.raises(ValueError, match="same number"):
        read_migrations(tmp_path)


def test_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "first.sql").touch()
    with pytest.raises(ValueError, match="NNNN_words"):
        read_migrations(tmp_path)
