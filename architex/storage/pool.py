"""The connections of one process to PostgreSQL, and the three ways to use one."""

from __future__ import annotations

import logging
import select
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, TypeAlias, TypeVar

import psycopg
from gevent import get_hub, monkey
from gevent.hub import Hub
from psycopg import Connection
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from architex.domain.errors import DatabaseUnavailable
from architex.storage.arrays import pack_lists

log = logging.getLogger(__name__)

Params: TypeAlias = Sequence[Any] | Mapping[str, Any] | None
Row: TypeAlias = tuple[Any, ...]
PgConnection: TypeAlias = Connection[Row]
Result = TypeVar("Result")
Execute: TypeAlias = Callable[[str, Params], None]
"""Runs a statement in the transaction of whoever gives it; gives no result."""
WriteRows: TypeAlias = Callable[[Execute, int], None]
"""Writes rows with `execute`, given their position. May be called again on a retry."""

# A statement is prepared when a connection meets it again: what runs once (migrations, commands)
# is not worth the extra round trip, what runs in a request is soon prepared everywhere.
_PREPARE_AFTER = 1
_PREPARED_MAX = 500

_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TRANSACTION = "BEGIN"

# SQLSTATE classes that say "not now" and nothing about the statement: connection lost, out of
# resources, operator intervention (shutdown, crash, still starting), a transaction of ours that
# PostgreSQL ended because it was idle, or took too long, or stood in the way of another (deadlock,
# serialization failure).
_UNAVAILABLE_CLASSES = ("08", "40", "53", "57P", "25P03", "25P04")

# When the machine of one process loses power, PostgreSQL hears nothing. What that process had
# locked (all writers need the position row) must be free again after seconds, not after hours.
_SILENCE = (
    "SET idle_in_transaction_session_timeout = 5000;"
    " SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)

# And when the machine of PostgreSQL vanishes, we must notice. Only TCP needs it.
_TCP_DEFAULTS = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class Database:
    """A pool of connections to one PostgreSQL database.

    Opened on first use, so an instance can be made before a fork and used after it. Under gevent's
    monkey patching a waiting query lets other greenlets run. Every connection is in autocommit
    mode outside `snapshot` and `transaction`; statements are prepared on their second use.

    Whatever fails because the database cannot be reached raises DatabaseUnavailable; errors of a
    statement itself stay psycopg's own (`psycopg.errors.UniqueViolation`, …).
    """

    def __init__(
        self,
        conninfo: str,
        *,
        min_size: int = 1,
        max_size: int = 8,
        application_name: str = "architex",
        wait_seconds: float = 10.0,
    ) -> None:
        """Remember how to connect; connects on first use.

        Args:
            conninfo: a PostgreSQL URL or connection string.
            min_size: connections kept open when idle.
            max_size: connections at most; whoever finds none waits.
            application_name: shown in `pg_stat_activity`.
            wait_seconds: how long to wait for a connection, also while PostgreSQL restarts,
                before DatabaseUnavailable.
        """
        given = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
        self.conninfo = conninfo = make_conninfo(**{**_TCP_DEFAULTS, **given})
        self._opening = threading.Lock()
        self._opened = False
        self._pool: ConnectionPool[PgConnection] = _WarmPool(
            conninfo,
            min_size=min_size,
            max_size=max_size,
            timeout=wait_seconds,
            # A client may wait; a pile of them is refused at once rather than all too late.
            max_waiting=0,
            reconnect_timeout=30.0,
            kwargs={"autocommit": True, "application_name": application_name},
            configure=_configure_connection,
            connection_class=_connection_class(),
            open=False,
            name=application_name,
        )

    # ---- the three ways

    @contextmanager
    def connection(self) -> Iterator[PgConnection]:
        """A connection in autocommit mode: each statement is its own transaction.

        Raises DatabaseUnavailable, also for statements inside that lose the connection.
        """
        connection = self._get()
        try:
            with _unavailable_named():
                yield connection
        finally:
            self._put(connection)

    @contextmanager
    def snapshot(self) -> Iterator[PgConnection]:
        """One read-only transaction that sees the database as of one moment."""
        with self._begun(_SNAPSHOT) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[PgConnection]:
        """One transaction: committed at the end, rolled back when an exception leaves it.

        Raises DatabaseUnavailable when the connection is lost; when that happens during COMMIT,
        the outcome is unknown and must be looked up (see storage.transactions).
        """
        with self._begun(_TRANSACTION) as connection:
            yield connection

    # ---- one statement at a time

    def fetch_all(self, sql: str, params: Params = None) -> list[Row]:
        """All rows of one statement, in a transaction of its own.

        A SELECT that meets a dead connection before its first row is asked once more.
        """
        return self._retried_read(sql, lambda c: c.execute(sql, params).fetchall())

    def fetch_one(self, sql: str, params: Params = None) -> Row | None:
        """The first row of one statement, or None; otherwise like `fetch_all`."""
        return self._retried_read(sql, lambda c: c.execute(sql, params).fetchone())

    def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement in a transaction of its own; returns the number of rows it touched."""
        with self.connection() as connection:
            return connection.execute(sql, params).rowcount

    def close(self) -> None:
        """Close all connections. The instance cannot be used afterwards."""
        self._opened = False
        self._pool.close(timeout=2.0)

    # ---- within

    def _retried_read(self, sql: str, read: Callable[[PgConnection], Result]) -> Result:
        """Run a statement; a SELECT once more on a fresh connection when the first was dead."""
        connection = self._get()
        try:
            with _unavailable_named():
                return read(connection)
        except DatabaseUnavailable:
            if not (sql.lstrip()[:6].upper() == "SELECT" and connection.broken):
                raise
        finally:
            self._put(connection)
        self._discard_dead()
        with self.connection() as fresh:
            return read(fresh)

    @contextmanager
    def _begun(self, begin: LiteralString) -> Iterator[PgConnection]:
        """A connection inside a transaction, committed at the end."""
        connection = self._get_begun(begin)
        try:
            with _unavailable_named():
                yield connection
                connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        finally:
            self._put(connection)

    def _get_begun(self, begin: LiteralString) -> PgConnection:
        """A connection after BEGIN. A dead one shows here, before anything was done: take another.

        After a restart of PostgreSQL every idle connection is dead, so all are looked at once.
        """
        connection = self._get()
        try:
            with _unavailable_named():
                connection.execute(begin)
                return connection
        except DatabaseUnavailable:
            self._put(connection)
            if not connection.broken:
                raise
        except BaseException:
            self._put(connection)
            raise
        self._discard_dead()
        connection = self._get()
        try:
            with _unavailable_named():
                connection.execute(begin)
                return connection
        except BaseException:
            self._put(connection)
            raise

    def _roll_back(self, connection: PgConnection) -> None:
        """Leave the transaction if the connection still lives; a dead one has left it."""
        if connection.pgconn.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
        ):
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error as error:
                log.warning("rolling back failed: %s", error)

    def _get(self) -> PgConnection:
        """A connection whose server has not hung up; dead ones met on the way are replaced.

        So after a restart of PostgreSQL no write is sent on a connection that was dead before,
        where nobody could tell whether it took effect.
        """
        if not self._opened:
            self._open()
        while True:
            try:
                connection = self._pool.getconn()
            except (PoolTimeout, PoolClosed, TooManyRequests) as error:
                raise DatabaseUnavailable("The database cannot be reached now") from error
            if _is_silent(connection):
                return connection
            connection.close()
            self._put(connection)

    def _put(self, connection: PgConnection) -> None:
        try:
            self._pool.putconn(connection)
        except PoolClosed:
            connection.close()

    def _open(self) -> None:
        with self._opening:
            if not self._opened:
                self._pool.open(wait=False)
                # Its threads end before the interpreter does, or they complain at its end.
                weakref.finalize(self, self._pool.close, timeout=2.0)
                self._opened = True

    def _discard_dead(self) -> None:
        """Replace every idle connection that does not answer."""
        log.warning("lost a database connection; looking at the others")
        self._pool.check()


class _Stack(deque[PgConnection]):
    """What is put back last is taken first."""

    def append(self, connection: PgConnection) -> None:
        """Put a connection back."""
        self.appendleft(connection)


class _WarmPool(ConnectionPool[PgConnection]):
    """A pool that gives the connection that was used last, where psycopg's takes turns.

    Each connection prepares and plans every statement for itself, and each process of PostgreSQL
    reads its catalogue into memory of its own. So few do most of the work, and the others wait
    for the moments when many are wanted, or are closed.
    """

    def __init__(self, conninfo: str, **options: Any) -> None:
        super().__init__(conninfo, **options)
        self._pool = _Stack()

    def _shrink_pool(self) -> None:
        """Close a connection if there were too many for long: the one used longest ago."""
        self._pool.rotate(1)
        super()._shrink_pool()


class _GreenConnection(PgConnection):
    """A connection whose waiting costs a greenlet less than psycopg's own way through poll().

    Measured: 25 µs of CPU for a one-row query instead of 34.
    """

    _watched: tuple[Hub, int, int, Any] | None = None

    def wait(
        self, gen: PQGen[Result], interval: float = 0.0, timeout: float | None = None
    ) -> Result:
        """Run one of psycopg's exchanges with the server to its end."""
        if timeout is not None:
            return super().wait(gen, timeout=timeout)
        try:
            state = next(gen)
            while True:
                hub = get_hub()
                hub.wait(self._watcher(hub, int(state)))
                # Wait and Ready have the same bits: reading is 1, writing is 2.
                state = gen.send(Ready(int(state)))
        except StopIteration as finished:
            result: Result = finished.value
            return result

    def _watcher(self, hub: Hub, events: int) -> Any:
        """The event loop's watcher of our socket, made anew only when something changed."""
        wanted = (hub, self.pgconn.socket, events)
        if self._watched is None or self._watched[:3] != wanted:
            self._watched = (*wanted, hub.loop.io(wanted[1], events))
        return self._watched[3]


def _connection_class() -> type[PgConnection]:
    """Under gevent's monkey patching the connection that knows greenlets, else psycopg's own."""
    return _GreenConnection if monkey.is_module_patched("select") else Connection


# gevent's poll() would switch greenlets; this one only looks.
_poll = monkey.get_original("select", "poll")


def _is_silent(connection: PgConnection) -> bool:
    """Whether nothing came on an idle connection. Costs 1 µs and sends nothing.

    What comes though nothing was asked is nearly always the server's farewell.
    """
    look = _poll()
    look.register(connection.pgconn.socket, select.POLLIN)
    return not look.poll(0)


# A prepared statement keeps its plan while the tables grow: one made when they were nearly empty
# reads them whole, until the next ANALYZE. Every question of ours has its index, so plans that
# follow indexes are right at any size.
_PLANNING = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"


def _configure_connection(connection: PgConnection) -> None:
    """Set what every connection of the pool has."""
    connection.execute(_PLANNING)
    connection.execute(_SILENCE)
    pack_lists(connection)
    connection.prepare_threshold = _PREPARE_AFTER
    connection.prepared_max = _PREPARED_MAX


@contextmanager
def _unavailable_named() -> Iterator[None]:
    """Turn psycopg's errors that mean "no database now" into DatabaseUnavailable."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError) as error:
        if not _means_unavailable(error):
            raise
        raise DatabaseUnavailable("The database cannot be reached now") from error


def _means_unavailable(error: psycopg.Error) -> bool:
    # Without an SQLSTATE the error is libpq's own: the connection is gone.
    return error.sqlstate is None or error.sqlstate.startswith(_UNAVAILABLE_CLASSES)
