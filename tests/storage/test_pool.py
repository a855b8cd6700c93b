"""The connection pool keeps its three ways apart and outlives broken connections."""

from __future__ import annotations

import subprocess
import sys

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
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
        (name[0],),
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


def _backend(database: Database) -> object:
    return database.fetch_one("SELECT pg_backend_pid()")


def test_connection_used_last_is_used_next(empty_database_url: str) -> None:
    database = Database(empty_database_url, min_size=1, max_size=2, wait_seconds=5)
    with database.connection() as used_last:
        with database.connection() as other:
            assert other is not used_last
        expected = (used_last.info.backend_pid,)
    assert [_backend(database) for _ in range(3)] == [expected] * 3


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


def test_write_is_not_sent_on_a_connection_that_is_dead(
    database: Database, admin: psycopg.Connection
) -> None:
    with database.connection(), database.connection(), database.connection():
        pass  # so that several are open
    _kill_connections(admin, database)
    for number in range(4):
        assert database.execute("INSERT INTO words VALUES (%s)", (str(number),)) == 1


def test_write_whose_connection_dies_is_not_repeated(
    database: Database, admin: psycopg.Connection
) -> None:
    # The statement ends its own connection: whether it took effect cannot be known.
    with pytest.raises(DatabaseUnavailable):
        database.execute(
            "WITH added AS (INSERT INTO words VALUES ('perhaps') RETURNING word)"
            " SELECT pg_terminate_backend(pg_backend_pid()) FROM added"
        )
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


_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
import psycopg
from architex.storage.pool import Database

database = Database(sys.argv[1], min_size=1, max_size=10)

# Ten greenlets of one thread hold a lock together: only if none blocks the others.
def sleep_together(number):
    with database.connection() as connection:
        connection.execute("SELECT pg_advisory_lock_shared(1)")
        while connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone() != (10,):
            connection.execute("SELECT pg_sleep(0.01)")
        connection.execute("SELECT pg_sleep(0.2)")
        connection.execute("SELECT pg_advisory_unlock_shared(1)")
    return number

greenlets = [gevent.spawn(sleep_together, number) for number in range(10)]
gevent.joinall(greenlets, timeout=30, raise_error=True)
print([greenlet.value for greenlet in greenlets])

# A greenlet that is given up in the middle of a query leaves no connection behind that is stuck.
for _ in range(12):
    with gevent.Timeout(0.02, False):
        database.fetch_one("SELECT pg_sleep(60)")
print(database.fetch_one("SELECT 'fine'")[0])

# Large rows need several turns of reading.
print(len(database.fetch_one("SELECT repeat('x', 10000000)")[0]))
print(database.fetch_one("SELECT length(%s)", ("y" * 10_000_000,))[0])

# A connection that dies while a greenlet waits on it wakes the greenlet.
def wait_for_death():
    try:
        with database.connection() as connection:
            connection.execute("SELECT pg_sleep(61)")
    except Exception as error:
        return type(error).__name__

waiting = gevent.spawn(wait_for_death)
while not database.fetch_one(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query = 'SELECT pg_sleep(61)' AND state = 'active'"
)[0]:
    gevent.sleep(0.01)
print(waiting.get(timeout=20))
database.close()
"""


def test_greenlets_wait_together_and_leave_no_stuck_connections(empty_database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_GEVENT, empty_database_url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        str(list(range(10))),
        "fine",
        "10000000",
        "10000000",
        "DatabaseUnavailable",
    ], done.stderr
