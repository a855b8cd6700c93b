"""Verification: the log as it lies there, and the tables of projections compared with a replay.

A replay writes temporary tables of the same names: only its own connection sees them, there they
hide the real ones, so the projections' own SQL writes them and everything that reads states reads
them; and they are gone with the connection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import psycopg
from eventsourcing.persistence import StoredEvent
from psycopg import sql

from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import StateKey
from architex.domain.room.events import RecordedFact
from architex.projections.base import Projection
from architex.projections.following import apply_facts
from architex.storage.event_log import RoomHead
from architex.storage.fact_feed import FactBatch, read_facts
from architex.storage.pool import Database, PgConnection
from architex.storage.tracked_positions import find_position
from architex.storage.transactions import TransactionKey

MAX_DIFFERENCES: Final = 50
"""Per table and comparison; where one row is wrong, often many are."""

ANALYSE_FROM: Final = 250
"""Facts after which the planner is told of the temporary tables, and again when they double."""

POSITIONS_AT_ONCE: Final = 50_000

# What every connection of the pool has, too: our tables are read by index at any size.
_PLANNING: Final = (
    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;"
    " SET temp_buffers = '32MB'; SET client_min_messages = warning"
)

_COLUMNS: Final = """
SELECT a.attname, coalesce(a.attnum = ANY (p.indkey), false),
    EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum)
FROM pg_attribute a LEFT JOIN pg_index p ON p.indrelid = a.attrelid AND p.indisprimary
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

_HEADS: Final = """
SELECT room_id, room_nid, room_version, version, last_position FROM rooms
WHERE (%(room)s::text IS NULL OR room_id = %(room)s) AND room_nid > %(after)s
ORDER BY room_nid LIMIT %(limit)s"""

# Entries of one state key do not overlap: only the last that began can be the one that stood.
_ENTRIES: Final = """
SELECT k.at, k.type, k.state_key, g.event_id
FROM unnest(%s::int8[], %s::text[], %s::text[]) AS k (at, type, state_key)
CROSS JOIN LATERAL (
    SELECT c.position, c.valid_to FROM current_state c
    WHERE c.room_nid = %s AND c.type = k.type AND c.state_key = k.state_key
        AND c.valid_from <= k.at
    ORDER BY c.valid_from DESC LIMIT 1) c
JOIN event_graph g ON g.position = c.position
WHERE c.valid_to > k.at"""

# Every room that has facts, by jumping from one to the next in the index.
_ROOMS_WITHOUT_HEAD: Final = """
WITH RECURSIVE found (room_id) AS (
    SELECT min(originator_id) FROM stored_events
    UNION ALL SELECT (SELECT min(originator_id) FROM stored_events WHERE originator_id > room_id)
    FROM found WHERE room_id IS NOT NULL)
SELECT room_id FROM found f WHERE room_id IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM rooms r WHERE r.room_id = f.room_id) LIMIT %s"""

_ROWS_WITHOUT_ROOM: Final = """
WITH RECURSIVE found (room_nid) AS (
    SELECT min(room_nid) FROM {table}
    UNION ALL SELECT (SELECT min(t.room_nid) FROM {table} t WHERE t.room_nid > found.room_nid)
    FROM found WHERE room_nid IS NOT NULL)
SELECT room_nid FROM found f WHERE room_nid IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM rooms r WHERE r.room_nid = f.room_nid) LIMIT %s"""

_ROWS_WITHOUT_FACT: Final = """
SELECT t.{column} FROM {table} t WHERE t.{column} > %s AND t.{column} <= %s
    AND NOT EXISTS (SELECT 1 FROM stored_events s WHERE s.notification_id = t.{column}) LIMIT %s"""

# Messages to devices are recognised by a row without an event.
_ANSWERS: Final = """
SELECT t.user_id, t.device_id, t.path, t.txn_id, t.event_id, s.notification_id, s.state
FROM transactions t LEFT JOIN {graph} g ON g.event_id = t.event_id
    LEFT JOIN stored_events s ON s.notification_id = g.position
WHERE (t.user_id, t.device_id, t.path, t.txn_id) > (%(user)s, %(device)s, %(path)s, %(txn)s)
    AND t.event_id <> ''
    AND (%(room)s::text IS NULL OR position('/' || %(room)s || '/' IN t.path) > 0)
ORDER BY t.user_id, t.device_id, t.path, t.txn_id LIMIT %(limit)s"""


class Scope(Enum):
    """How the rows of a table that belong to a room are found."""

    ROOM = "by room_nid"
    POSITION = "by the position of a fact"
    WHOLE = "not at all: only the whole table can be compared"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a projection.

    Attributes:
        column: by which the rows of a room are found.
        key: the names of the primary key's columns.
    """

    name: str
    projection: str
    scope: Scope
    column: str
    columns: Sequence[str]
    key: Sequence[str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that a table has and should not have, lacks, or has otherwise than the replay.

    Attributes:
        live: the row in the table; None when it is missing.
        wanted: the row that the replay made; None when there should be none.
    """

    table: Table
    live: Mapping[str, Any] | None
    wanted: Mapping[str, Any] | None

    @property
    def room_nid(self) -> int | None:
        """The room, where the row names one."""
        nid = (self.live or self.wanted or {}).get("room_nid")
        return nid if isinstance(nid, int) else None

    @property
    def position(self) -> int | None:
        """The position of the fact that the row is about, where it names one."""
        row = self.wanted or self.live or {}
        column = "overlay" if "overlay" in self.table.key else "position"
        position = row.get(column)
        return position if isinstance(position, int) else None

    def __str__(self) -> str:
        row = self.live or self.wanted or {}
        key = ", ".join(f"{name} {row[name]!r}" for name in self.table.key)
        if self.live is None:
            return f"{self.table.name} lacks the row of {key}"
        if self.wanted is None:
            return f"{self.table.name} has a row too many, of {key}"
        wrong = ", ".join(
            f"{name} is {self.live[name]!r} and should be {self.wanted[name]!r}"
            for name in self.table.columns
            if self.live[name] != self.wanted[name]
        )
        return f"in {self.table.name}, of {key}: {wrong}"


@dataclass(frozen=True, slots=True)
class StoredFact:
    """A fact as it lies in the log, read by nobody yet."""

    stored: StoredEvent
    position: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client's request was answered with.

    Attributes:
        position: of the event; None when there is no such event.
        fact: its bytes.
    """

    transaction: TransactionKey
    event_id: EventId
    position: int | None
    fact: bytes | None


@dataclass
class Replay:
    """One connection with temporary tables for some projections.

    Attributes:
        connection: what is asked here about states, is asked of the replay.
        applied, analysed: facts in the temporary tables, now and when the planner was last told.
    """

    connection: PgConnection
    home: str
    projections: Sequence[Projection]
    tables: list[Table] = field(default_factory=list)
    applied: int = 0
    analysed: int = 0

    # The replay

    def begin(self) -> None:
        """Make the temporary tables, empty and indexed like the real ones."""
        for projection in self.projections:
            for name in projection.tables:
                self.tables.append(self._describe(name, projection))
                self.connection.execute(
                    sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING ALL)").format(
                        sql.Identifier(name), sql.Identifier(self.home, name)
                    )
                )

    def apply(self, facts: Sequence[RecordedFact]) -> None:
        """Let the projections write what facts change."""
        with self.connection.transaction():
            for projection in self.projections:
                apply_facts(self.connection, projection, facts)
        self.applied += len(facts)
        if self.applied >= max(ANALYSE_FROM, 2 * self.analysed):
            # Nobody else does: without it, the planner takes large tables for empty ones.
            self.connection.execute(sql.SQL("ANALYZE {}").format(self._names()))
            self.analysed = self.applied

    def clear(self) -> None:
        """Empty the temporary tables."""
        names = sql.SQL(", ").join(sql.Identifier("pg_temp", table.name) for table in self.tables)
        self.connection.execute(sql.SQL("TRUNCATE {}").format(names))

    @contextmanager
    def moment(self) -> Iterator[None]:
        """One transaction that sees the real tables as of one moment, and the replay besides."""
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if not self.connection.closed:
                self.connection.rollback()
            raise

    # The comparison

    def compare_rooms(self, heads: Collection[RoomHead]) -> Iterator[Difference]:
        """How the tables' rows of some rooms differ from the replay."""
        scopes = {
            Scope.ROOM: ("t.{column} = ANY (%s)", [head.room_nid for head in heads]),
            Scope.POSITION: (
                "t.{column} IN (SELECT notification_id FROM stored_events"
                " WHERE originator_id = ANY (%s))",
                [head.room_id for head in heads],
            ),
        }
        for table in self.tables:
            if table.scope in scopes:
                condition, wanted = scopes[table.scope]
                yield from self._compare(table, condition, (wanted,))

    def compare_tables(self) -> Iterator[Difference]:
        """How whole tables differ from the replay."""
        for table in self.tables:
            yield from self._compare(table, "true", ())

    def _compare(
        self, table: Table, condition: str, params: tuple[Any, ...]
    ) -> Iterator[Difference]:
        names = {
            "live": sql.Identifier(self.home, table.name),
            "replayed": sql.Identifier("pg_temp", table.name),
            "condition": sql.SQL(condition).format(column=sql.Identifier(table.column)),
            "columns": sql.SQL(", ").join(sql.Identifier(name) for name in table.columns),
            "key": sql.SQL(", ").join(sql.Identifier(name) for name in table.key),
        }
        statement = sql.SQL(
            "SELECT true AS is_live, {columns} FROM (SELECT t.* FROM {live} t WHERE {condition}"
            " EXCEPT ALL SELECT * FROM {replayed}) a UNION ALL"
            " SELECT false, {columns} FROM (SELECT * FROM {replayed}"
            " EXCEPT ALL SELECT t.* FROM {live} t WHERE {condition}) b"
            " ORDER BY {key}, is_live LIMIT %s"
        ).format(**names)
        rows = self.connection.execute(statement, (*params, *params, 2 * MAX_DIFFERENCES))
        pairs: dict[tuple[Any, ...], dict[bool, dict[str, Any]]] = {}
        for is_live, *values in rows.fetchall():
            row = dict(zip(table.columns, values, strict=True))
            pairs.setdefault(tuple(row[name] for name in table.key), {})[is_live] = row
        for pair in list(pairs.values())[:MAX_DIFFERENCES]:
            yield Difference(table, pair.get(True), pair.get(False))

    def list_strays(self, limit: int) -> Iterator[tuple[Table, str]]:
        """Rows of the tables that belong to no room, or to no fact; what is wrong with each."""
        end = self.find_log_position()
        for table in self.tables:
            names = {
                "table": sql.Identifier(self.home, table.name),
                "column": sql.Identifier(table.column),
            }
            if table.scope is Scope.ROOM:
                statement = sql.SQL(_ROWS_WITHOUT_ROOM).format(**names)
                for (room_nid,) in self.connection.execute(statement, (limit,)).fetchall():
                    yield table, f"{table.name} has rows of a room {room_nid} that is not there"
            elif table.scope is Scope.POSITION:
                statement = sql.SQL(_ROWS_WITHOUT_FACT).format(**names)
                for low in range(-1, end + 1, POSITIONS_AT_ONCE):
                    params = (low, low + POSITIONS_AT_ONCE, limit)
                    for (position,) in self.connection.execute(statement, params).fetchall():
                        yield table, f"{table.name} has a row of position {position}: no fact's"

    # The log

    def list_heads(self, room_id: RoomId | None, after: int, limit: int) -> list[RoomHead]:
        """Rooms in order of their numbers: all, or the one asked for."""
        rows = self.connection.execute(
            _HEADS, {"room": room_id, "after": after, "limit": limit}
        ).fetchall()
        return [RoomHead(*row) for row in rows]

    def find_heads(self, room_nids: Collection[int]) -> dict[int, RoomHead]:
        """The rows of rooms as they are now."""
        rows = self.connection.execute(
            "SELECT room_id, room_nid, room_version, version, last_position FROM rooms"
            " WHERE room_nid = ANY (%s)",
            (list(room_nids),),
        ).fetchall()
        return {row[1]: RoomHead(*row) for row in rows}

    def count_facts(self, room_id: RoomId | None) -> int:
        """How many facts the rooms say they have."""
        row = self.connection.execute(
            "SELECT coalesce(sum(version), 0)::int8 FROM rooms"
            " WHERE %(room)s::text IS NULL OR room_id = %(room)s",
            {"room": room_id},
        ).fetchone()
        return 0 if row is None else int(row[0])

    def list_facts(self, room_id: RoomId, after_version: int, limit: int) -> list[StoredFact]:
        """The next facts of a room in order of version, unread."""
        rows = self.connection.execute(
            "SELECT originator_id, originator_version, topic, state, notification_id"
            " FROM stored_events WHERE originator_id = %s AND originator_version > %s"
            " ORDER BY originator_version LIMIT %s",
            (room_id, after_version, limit),
        ).fetchall()
        return [StoredFact(StoredEvent(*row[:4]), row[4]) for row in rows]

    def find_fact_at(self, position: int) -> StoredFact | None:
        """The fact at a position; None when there is none."""
        row = self.connection.execute(
            "SELECT originator_id, originator_version, topic, state FROM stored_events"
            " WHERE notification_id = %s",
            (position,),
        ).fetchone()
        return None if row is None else StoredFact(StoredEvent(*row), position)

    def find_snapshot(self, room_id: RoomId) -> StoredEvent | None:
        """The room's snapshot; None when it has none."""
        row = self.connection.execute(
            "SELECT originator_id, originator_version, topic, state FROM snapshots"
            " WHERE originator_id = %s",
            (room_id,),
        ).fetchone()
        return None if row is None else StoredEvent(*row)

    def find_log_position(self) -> int:
        """The last position that any committed write has taken."""
        row = self.connection.execute("SELECT position FROM log_position").fetchone()
        return 0 if row is None else int(row[0])

    def find_newest_position(self) -> int:
        """The position of the newest fact."""
        row = self.connection.execute("SELECT max(notification_id) FROM stored_events").fetchone()
        return 0 if row is None or row[0] is None else int(row[0])

    def find_tracked_position(self, name: str) -> int:
        """How far the follower of a projection has come."""
        return find_position(self.connection, name) or 0

    def read_facts(self, after: int, limit: int, *, marks: Sequence[str]) -> FactBatch:
        """The next facts of all rooms in order of position."""
        return read_facts(self.connection, after, limit, marks=marks)

    def list_rooms_without_head(self, limit: int) -> list[RoomId]:
        """Rooms that have facts, but no row in `rooms`."""
        rows = self.connection.execute(_ROOMS_WITHOUT_HEAD, (limit,)).fetchall()
        return [room_id for (room_id,) in rows]

    def list_answers(
        self, room_id: RoomId | None, after: TransactionKey | None, limit: int
    ) -> list[Answer]:
        """Answers given to clients, in an order of their own: of all rooms, or of one."""
        last = after or TransactionKey("", "", "", "")
        statement = sql.SQL(_ANSWERS).format(graph=sql.Identifier(self.home, "event_graph"))
        rows = self.connection.execute(
            statement,
            {
                "user": last.user_id,
                "device": last.device_id,
                "path": last.path,
                "txn": last.txn_id,
                "room": room_id,
                "limit": limit,
            },
        ).fetchall()
        return [Answer(TransactionKey(*row[:4]), *row[4:]) for row in rows]

    # States of the replay

    def find_entries(
        self, room_nid: int, wanted: Sequence[tuple[int, StateKey]]
    ) -> dict[tuple[int, StateKey], EventId]:
        """What the current state had at positions: (position, state key) → event; one query."""
        rows = self.connection.execute(
            _ENTRIES,
            (
                [at for at, _ in wanted],
                [type_ for _, (type_, _) in wanted],
                [state_key for _, (_, state_key) in wanted],
                room_nid,
            ),
        ).fetchall()
        return {(at, (type_, key)): event_id for at, type_, key, event_id in rows}

    # Within

    def _names(self) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier("pg_temp", table.name) for table in self.tables)

    def _describe(self, name: str, projection: Projection) -> Table:
        rows = self.connection.execute(_COLUMNS, (f"{self.home}.{name}",)).fetchall()
        leading = [column for column, _, leads in rows if leads]
        by_position = [column for column in leading if column in ("position", "overlay")]
        if "room_nid" in leading:
            scope, column = Scope.ROOM, "room_nid"
        elif by_position:
            scope, column = Scope.POSITION, by_position[0]
        else:
            scope, column = Scope.WHOLE, rows[0][0]
        return Table(
            name=name,
            projection=projection.name,
            scope=scope,
            column=column,
            columns=[column for column, _, _ in rows],
            key=[column for column, is_key, _ in rows if is_key],
        )


@contextmanager
def replaying(database: Database, projections: Sequence[Projection]) -> Iterator[Replay]:
    """A replay on a connection of its own, its tables still empty."""
    with psycopg.connect(
        database.conninfo,
        autocommit=True,
        application_name="architex verify",
        prepare_threshold=2,
    ) as connection:
        connection.execute(_PLANNING)
        row = connection.execute("SELECT current_schema()").fetchone()
        replay = Replay(connection, str(row[0]) if row else "public", projections)
        replay.begin()
        yield replay
