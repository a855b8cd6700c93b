"""The connection pool keeps its three ways apart and outlives broken connections."""

from __future__ import annotations

import psycopg
import pytest

from architex.domain.errors import DatabaseUnavailable
from architex.storage.pool import Database


@pytest.fixture
def database(empty_database_url: str) -> Database:
    pool = Database(empty_database_url, min_size=2, max_size=4, wait_seconds=5)
    pool.execute("CREATE TABLE words (word text PRIMARY KEY)")
    return pool


def _kill_connections(admin: psycopg.Connection, database: Database) -> None:
    name = database.fetch_one("SELECT current_database()")
    assert name is not None
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name[0],)
    )


def test_transaction_is_committed_at_its_end(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO words VALUES ('kept')")
    assert database.fetch_all("SELECT word FROM words") == [("kept",)]


def test_transaction_is_rolled_back_by_an_exception(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO words VALUES ('lost')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert database.fetch_one("SELECT word FROM words") is None


def test_snapshot_sees_one_moment(database: Database) -> None:
    with database.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM words").fetchone() == (0,)
        database.execute("INSERT INTO words VALUES ('later')")
        assert connection.execute("SELECT count(*) FROM words").fetchone() == (0,)
    assert database.fetch_one("SELECT count(*) FROM words") == (1,)


def test_snapshot_cannot_write(database: Database) -> None:
    with (
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        database.snapshot() as connection,
    ):
        connection.execute("INSERT INTO words VALUES ('no')")


def test_read_is_asked_again_when_its_connection_was_dead(
    database: Database, admin: psycopg.Connection
) -> None:
    _kill_connections(admin, database)
    assert database.fetch_one("SELECT 1") == (1,)


def test_transaction_begins_on_a_living_connection(
    database: Database, admin: psycopg.Connection
) -> None:
    _kill_connections(admin, database)
    with database.transaction() as connection:
        connection.execute("INSERT INTO words VALUES ('alive')")
    assert database.fetch_one("SELECT word FROM words") == ("alive",)


def test_write_on_a_dead_connection_is_not_repeated(
    database: Database, admin: psycopg.Connection
) -> None:
    _kill_connections(admin, database)
    with pytest.raises(DatabaseUnavailable):
        database.execute("INSERT INTO words VALUES ('perhaps')")
    assert database.fetch_one("SELECT word FROM words") is None


def test_connection_lost_within_a_transaction_is_named(
    database: Database, admin: psycopg.Connection
) -> None:
    def write_twice() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO words VALUES ('lost')")
            _kill_connections(admin, database)
            connection.execute("INSERT INTO words VALUES ('too')")

    with pytest.raises(DatabaseUnavailable):
        write_twice()
    assert database.fetch_one("SELECT word FROM words") is None


def test_errors_of_a_statement_stay_themselves(database: Database) -> None:
    database.execute("INSERT INTO words VALUES ('once')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute("INSERT INTO words VALUES ('once')")


def test_unreachable_database_is_unavailable() -> None:
    pool = Database("host=/nonexistent dbname=none", wait_seconds=0.2)
    with pytest.raises(DatabaseUnavailable):
        pool.fetch_one("SELECT 1")
    pool.close()
