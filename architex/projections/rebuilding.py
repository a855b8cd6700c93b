"""Rebuilding: makes a projection's tables anew from the log, while everything goes on.

New tables are filled beside the old ones, in a schema of their own that the rebuild's connection
looks into first, so the projection's own SQL writes them. When they have come to the end of the
log, the new tables take the place of the old in one transaction.

Two things could go wrong there, and are waited for:

- A fact could be recorded between the last one applied and the exchange. So whoever writes an
  INLINE projection is held off for that moment, and the exchange makes sure. A FOLLOWED one needs
  none of this: its position changes with its tables, and the follower goes on from there.
- A transaction that began before the last facts were committed to the new tables would not see
  them there, though it had seen them in the old. So the exchange waits until those have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from architex.projections.base import Projection, Timing
from architex.projections.following import apply_facts
from architex.storage.fact_feed import read_facts
from architex.storage.pool import Database, PgConnection
from architex.storage.tracked_positions import set_position

CHUNK_SIZE: Final = 500
HOLD_OFF_S: Final = 1.5
"""How long writers are held off at once; then they go on, and the exchange is tried again."""
PAUSE_S: Final = 0.5
MAX_TRIES: Final = 60

_ADVISORY_LOCK: Final = 0x41524352

# What LIKE leaves out, or would name otherwise: constraints, indexes, storage options, rights.
_EXTRAS: Final = """
WITH old AS (
    SELECT c.oid, c.relname AS name, c.reloptions, c.relacl, c.relowner, n.nspname AS home
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass(%(table)s::text)
)
SELECT format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s',
        %(schema)s::text, old.name, k.conname, pg_get_constraintdef(k.oid))
FROM old JOIN pg_constraint k ON k.conrelid = old.oid WHERE k.contype IN ('p', 'u', 'x', 'f')
UNION ALL
SELECT replace(pg_get_indexdef(i.indexrelid), format(' ON %%I.%%I ', old.home, old.name),
        format(' ON %%I.%%I ', %(schema)s::text, old.name))
FROM old JOIN pg_index i ON i.indrelid = old.oid
WHERE NOT EXISTS (SELECT 1 FROM pg_constraint k
    WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
UNION ALL
SELECT format('ALTER TABLE %%I.%%I SET (%%s)',
        %(schema)s::text, old.name, array_to_string(old.reloptions, ', '))
FROM old WHERE old.reloptions IS NOT NULL
UNION ALL
SELECT format('GRANT %%s ON %%I.%%I TO %%s', a.privilege_type, %(schema)s::text, old.name,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
FROM old, aclexplode(old.relacl) a WHERE a.grantee <> old.relowner"""

# Who may have begun before the last facts were committed; without those that wait for us, since
# each statement of theirs looks at the database anew.
_OLD_SNAPSHOTS: Final = """
SELECT pid, xact_start, application_name FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
    AND backend_xmin IS NOT NULL AND pid <> ALL (%(ours)s)
    AND NOT (pg_blocking_pids(pid) && %(ours)s::int[])"""

Progress = Callable[[int, int], None]
"""Told the position that the new tables have come to, and the end of the log."""


class RebuildFailed(Exception):
    """The tables were not exchanged; the old ones serve as before."""


class _InTheWay(Exception):
    """The exchange was not possible now; says why."""


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """What a rebuild did.

    Attributes:
        position: up to which the new tables were made.
        facts: how many facts were applied.
        tries: how often the exchange was tried.
        held_off_s: how long writers were held off in the last try.
    """

    position: int
    facts: int
    tries: int
    held_off_s: float


def rebuild_projection(
    database: Database,
    projection: Projection,
    *,
    on_progress: Progress = lambda position, end: None,
) -> RebuildResult:
    """Make a projection's tables anew from all facts, and let them replace the old ones.

    Args:
        projection: an instance for this rebuild alone, since it may remember what it wrote.
        on_progress: called after each chunk of facts.

    Raises:
        RebuildFailed: another rebuild of it is running, or somebody kept the tables in use.
    """
    with (
        _connect(database, f"architex rebuild {projection.name}") as work,
        _connect(database, f"architex rebuild gate {projection.name}") as gate,
    ):
        return _Rebuild(work, gate, projection, on_progress).run()


class _Rebuild:
    """One rebuild: `work` writes the new tables, `gate` holds writers off."""

    def __init__(
        self,
        work: PgConnection,
        gate: PgConnection,
        projection: Projection,
        on_progress: Progress,
    ) -> None:
        self._work = work
        self._gate = gate
        self._projection = projection
        self._on_progress = on_progress
        self._schema = f"rebuild_{projection.name}"
        self._home = str(_value(work, "SELECT current_schema()"))
        self._position = 0
        self._facts = 0

    def run(self) -> RebuildResult:
        if not _value(
            self._work,
            "SELECT pg_try_advisory_lock(%s, hashtext(%s))",
            (_ADVISORY_LOCK, self._schema),
        ):
            raise RebuildFailed(f"{self._projection.name} is being rebuilt already")
        try:
            self._create_tables()
            self._catch_up()
            for table in self._projection.tables:
                self._work.execute(sql.SQL("ANALYZE {}").format(self._new(table)))
            tries, held_off_s = self._exchange_patiently()
        finally:
            with suppress(psycopg.Error):  # then the next rebuild does it
                self._work.rollback()
                self._drop_schema()
        return RebuildResult(self._position, self._facts, tries, held_off_s)

    # The new tables

    def _new(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._schema, table)

    def _old(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._home, table)

    def _drop_schema(self) -> None:
        self._work.execute(
            sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self._schema))
        )

    def _create_tables(self) -> None:
        """Empty tables like the old ones, down to the names of their indexes."""
        with self._work.transaction():
            self._work.execute("SET LOCAL client_min_messages = warning")
            self._drop_schema()
            self._work.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
            for table in self._projection.tables:
                self._work.execute(
                    sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES)").format(
                        self._new(table), self._old(table)
                    )
                )
                extras = self._work.execute(
                    _EXTRAS, {"table": f"{self._home}.{table}", "schema": self._schema}
                )
                for (statement,) in extras.fetchall():
                    self._work.execute(statement)
        self._work.execute(
            sql.SQL("SET search_path = {}, {}").format(
                sql.Identifier(self._schema), sql.Identifier(self._home)
            )
        )

    def _catch_up(self) -> None:
        """Apply facts up to the end of the log, in chunks that are committed."""
        while True:
            batch = read_facts(
                self._work, self._position, CHUNK_SIZE, marks=self._projection.marks
            )
            if batch.facts:
                with self._work.transaction():
                    # The exchange's own COMMIT makes all of it durable.
                    self._work.execute("SET LOCAL synchronous_commit = off")
                    apply_facts(self._work, self._projection, batch.facts)
            self._position = batch.up_to
            self._facts += len(batch.facts)
            self._on_progress(self._position, self._end_of_log())
            if not batch.more:
                return

    def _end_of_log(self) -> int:
        return int(_value(self._work, "SELECT position FROM log_position"))

    # The exchange

    def _exchange_patiently(self) -> tuple[int, float]:
        """Exchange the tables as soon as nobody is in the way; gives the tries, and how long
        writers were held off."""
        problem = ""
        for attempt in range(1, MAX_TRIES + 1):
            self._catch_up()
            try:
                return attempt, self._exchange()
            except _InTheWay as error:
                problem = str(error)
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                problem = str(error).partition("\n")[0]
            time.sleep(PAUSE_S)
        raise RebuildFailed(f"the tables stayed in use: {problem}")

    def _exchange(self) -> float:
        began = time.monotonic()
        with self._writers_held_off():
            self._catch_up()
            self._wait_for_old_snapshots(deadline=began + HOLD_OFF_S)
            with self._work.transaction():
                self._work.execute("SET LOCAL lock_timeout = '1s'")
                if self._projection.timing is Timing.FOLLOWED:
                    # First, as the follower does it: or the two would wait for each other.
                    set_position(self._work, self._projection.name, self._position)
                for table in self._projection.tables:
                    self._work.execute(
                        sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self._old(table))
                    )
                if self._projection.timing is Timing.INLINE:
                    self._check_complete()
                for table in self._projection.tables:
                    self._work.execute(sql.SQL("DROP TABLE {}").format(self._old(table)))
                    self._work.execute(
                        sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                            self._new(table), sql.Identifier(self._home)
                        )
                    )
        return time.monotonic() - began

    @contextmanager
    def _writers_held_off(self) -> Iterator[None]:
        """Nobody records facts meanwhile. Reading goes on, and so does what needs no room."""
        if self._projection.timing is Timing.FOLLOWED:
            yield
            return
        with self._gate.transaction():
            self._gate.execute("SET LOCAL lock_timeout = '1s'")
            # Writers lock their rooms before anything else, so none of them holds anything yet.
            self._gate.execute("LOCK TABLE rooms IN EXCLUSIVE MODE")
            yield

    def _wait_for_old_snapshots(self, deadline: float) -> None:
        ours = [self._work.info.backend_pid, self._gate.info.backend_pid]
        old: dict[tuple[int, Any], str] | None = None
        while True:
            now = {
                (pid, xact_start): application
                for pid, xact_start, application in self._work.execute(
                    _OLD_SNAPSHOTS, {"ours": ours}
                ).fetchall()
            }
            old = now if old is None else {key: old[key] for key in old.keys() & now.keys()}
            if not old:
                return
            if time.monotonic() > deadline:
                (pid, since), application = next(iter(old.items()))
                raise _InTheWay(
                    f"a transaction of {application or 'somebody'} (process {pid}) is open "
                    f"since {since:%H:%M:%S}"
                )
            time.sleep(0.01)

    def _check_complete(self) -> None:
        """Should the gate have failed: no fact is in the old tables alone."""
        newer = _value(
            self._work,
            "SELECT EXISTS (SELECT 1 FROM stored_events WHERE notification_id > %s)",
            (self._position,),
        )
        if newer:
            raise _InTheWay("a fact was recorded meanwhile")


def _connect(database: Database, name: str) -> PgConnection:
    """A connection of its own: its search path and its locks are nobody else's."""
    connection: PgConnection = psycopg.connect(
        database.conninfo, autocommit=True, application_name=name, prepare_threshold=2
    )
    return connection


def _value(connection: PgConnection, query: str, params: tuple[Any, ...] = ()) -> Any:
    """The only value of a query's only row."""
    row = connection.execute(query.encode(), params).fetchone()
    return None if row is None else row[0]
