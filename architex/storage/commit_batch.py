"""One transaction for a group of commands: lock the rooms, decide, write, announce, COMMIT.

Three round trips and a flush serve all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import immutables
import psycopg
from psycopg import errors

from architex.domain.errors import IncompatibleRoomVersion, MatrixError, UnknownRoom
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.policy_servers import POLICY_TYPE
from architex.domain.room.aggregate import Room, Signer
from architex.domain.room.events import ACCEPTED, Fact, RecordedFact
from architex.storage.announcements import CHANNEL, build_announcement
from architex.storage.event_log import EventLog, RoomHead
from architex.storage.pool import Database, Execute, Params, PgConnection, Row, WriteRows
from architex.storage.recorders import (
    INSERT_FACTS,
    TAKE_POSITIONS,
    UPSERT_SNAPSHOT,
    fact_columns,
    snapshot_row,
)
from architex.storage.room_facts import FactMapper
from architex.storage.room_session import PolicyServers, RoomCommand, RoomSession
from architex.storage.room_snapshots import INTERVAL, encode_snapshot
from architex.storage.transactions import (
    FIND_ANSWERS,
    INSERT_ANSWERS,
    TransactionKey,
    answer_columns,
    key_columns,
)

GAP: Final = 2**20
"""Positions left free where events are missing."""

# Everybody waits for whoever holds the position row. If that process stands still (stopped,
# swapped out, its machine paused), PostgreSQL ends its transaction, and the others go on; the
# process finds its connection lost and decides again. The timeout for idle transactions does not
# reach so far: it forgets a session that sent a Flush after its Sync, as psycopg's pipelines do.
#
# And its statements are planned once for all numbers of rows, or PostgreSQL makes a plan for each
# length of each list: that was a third of its work.
_SETTINGS: Final = "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"
_BOUND_SETTINGS: Final = _SETTINGS + ", set_config('transaction_timeout', '5000', true)"
_HAS_TRANSACTION_TIMEOUT: Final = 170_000


class InlineProjection(Protocol):
    """A read model written in the transaction that records the facts."""

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """A question to the database that `apply` needs answered; None for none."""

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Write what the facts change."""


class StateFinder(Protocol):
    """Looks up entries of current states."""

    def find_states(
        self, connection: PgConnection, keys: Sequence[tuple[RoomHead, StateKey]]
    ) -> Mapping[tuple[RoomId, StateKey], Pdu]:
        """The current events of those entries that exist."""


@dataclass(frozen=True, slots=True)
class RowsCommand:
    """Rows to write that belong to no room; the outcome is their position.

    Attributes:
        users, rooms: whose waiting /sync looks again.
        durable: False for what may be lost in a crash of the database.
    """

    write: WriteRows
    users: Collection[UserId] = ()
    rooms: Collection[int] = ()
    durable: bool = True


Command: TypeAlias = RoomCommand[Any] | RowsCommand


@dataclass(slots=True)
class Outcome:
    """What became of a command, once its batch is committed."""

    result: Any = None
    error: BaseException | None = None


class Surroundings(Protocol):
    """What batches need of their process; the commit queue has it."""

    database: Database
    event_log: EventLog
    inline: Sequence[InlineProjection]
    states: StateFinder
    signer: Signer
    mapper: FactMapper
    now_ms: Callable[[], int]
    new_opaque_id: Callable[[], str]
    policy_servers: PolicyServers | None


@dataclass(frozen=True, slots=True)
class _RowWrite:
    """Rows that go with the facts of a session, or those of a command of their own.

    Attributes:
        last_fact: index of the session's last fact in the batch; -1 for none.
        command: whose rows they are, if no session's.
        outcome: that command's.
    """

    write: WriteRows
    last_fact: int = -1
    command: RowsCommand | None = None
    outcome: Outcome | None = None

    @property
    def is_durable(self) -> bool:
        """Whether they must outlive a crash of the database."""
        return self.command is None or self.command.durable


class OutcomeUnknown(Exception):
    """The connection was lost after COMMIT was sent."""


class Batch:
    """One attempt to commit a group of commands.

    Attributes:
        outcomes: what became of each command, in their order; they count when it is committed.
        room_ids: of the rooms that it decides about.
        facts: what has been decided so far.
        first_stored: room, version, bytes and position of the first fact, by which a lost COMMIT
            is found.
    """

    def __init__(self, surroundings: Surroundings, commands: Sequence[Command]) -> None:
        self._surroundings = surroundings
        self._commands = commands
        self._room_commands = [one for one in commands if isinstance(one, RoomCommand)]
        self.signer = surroundings.signer
        self.new_opaque_id = surroundings.new_opaque_id
        self.policy_servers = surroundings.policy_servers
        self.room_ids = sorted({command.room_id for command in self._room_commands})
        self._heads: dict[RoomId, RoomHead] = {}
        self._created: dict[RoomId, RoomHead] = {}
        self._rooms: dict[RoomId, Room] = {}
        self.connection: PgConnection
        self.outcomes = [Outcome() for _ in commands]
        self.facts: list[Fact] = []
        self._after_gaps: set[EventId] = set()
        self._row_writes: list[_RowWrite] = []
        self._answers: list[tuple[TransactionKey, EventId]] = []
        self.first_stored: tuple[Any, ...] | None = None

    # What one attempt does, in order

    def run(self) -> None:
        """Decide and commit.

        Raises:
            OutcomeUnknown: the connection was lost after COMMIT was sent.
            psycopg.Error, DatabaseUnavailable: the database would not; nothing is written.
        """
        with self._surroundings.database.connection() as connection:
            self.connection = connection
            try:
                answered = self._begin()
                self._load_rooms()
                self._decide(answered)
                if not self.facts and not self._row_writes:
                    connection.execute("ROLLBACK")
                    return
                self._write()
            except (psycopg.Error, OutcomeUnknown):
                # After a pipeline that failed half way psycopg takes statements for prepared that
                # never were.
                connection.close()
                raise
            except BaseException:
                _roll_back(connection)
                raise
        for room in self._rooms.values():
            self._surroundings.event_log.remember(room)

    def _begin(self) -> dict[TransactionKey, EventId]:
        """Lock the rooms; find transactions answered before."""
        keys = [c.transaction for c in self._room_commands if c.transaction is not None]
        creations = [c for c in self._room_commands if c.creates is not None]
        connection = self.connection
        with connection.pipeline():
            connection.execute("BEGIN")
            is_bound = connection.info.server_version >= _HAS_TRANSACTION_TIMEOUT
            connection.execute(_BOUND_SETTINGS if is_bound else _SETTINGS)
            heads = (
                connection.execute(
                    "SELECT room_id, room_nid, room_version, version, last_position,"
                    " is_version_settled FROM rooms"
                    " WHERE room_id = ANY(%s) ORDER BY room_id FOR NO KEY UPDATE",
                    (self.room_ids,),
                )
                if self.room_ids
                else None
            )
            answers = connection.execute(FIND_ANSWERS, key_columns(keys)) if keys else None
            numbers = (
                connection.execute(
                    "SELECT nextval(pg_get_serial_sequence('rooms', 'room_nid'))"
                    " FROM generate_series(1, %s)",
                    (len(creations),),
                )
                if creations
                else None
            )
        if heads is not None:
            self._heads = {row[0]: RoomHead(*row) for row in heads.fetchall()}
        for command in creations:
            head = self._heads.get(command.room_id)
            if head is not None and not head.is_version_settled and command.creates is not None:
                told = command.creates.version
                self._heads[command.room_id] = replace(head, room_version=told)
        if numbers is not None:
            for command, (room_nid,) in zip(creations, numbers.fetchall(), strict=True):
                if command.room_id not in self._heads and command.creates is not None:
                    self._created[command.room_id] = RoomHead(
                        command.room_id, room_nid, command.creates.version, 0, 0
                    )
        if answers is None:
            return {}
        return {TransactionKey(*row[:4]): row[4] for row in answers.fetchall()}

    def _load_rooms(self) -> None:
        load_room = self._surroundings.event_log.load_room
        for head in self._heads.values():
            self._rooms[head.room_id] = load_room(self.connection, head)
        wanted: dict[RoomId, set[StateKey]] = {}
        for command in self._room_commands:
            if command.room_id in self._rooms:
                wanted.setdefault(command.room_id, {(POLICY_TYPE, "")}).update(command.prefetch)
        unknown = [
            (self._heads[room_id], key)
            for room_id, keys in wanted.items()
            for key in self._rooms[room_id].unknown(keys)
        ]
        if unknown:
            found = self._surroundings.states.find_states(self.connection, unknown)
            for room_id, keys in wanted.items():
                room = self._rooms[room_id]
                learned = {key: found.get((room_id, key)) for key in room.unknown(keys)}
                self._rooms[room_id] = room.learn(learned)

    def learn(self, room: Room, keys: Sequence[StateKey]) -> Room:
        """The room, told what the database has under `keys`."""
        head = self._heads.get(room.room_id)
        if head is None:  # being created: what it does not know does not exist
            return room.learn(dict.fromkeys(keys))
        wanted = [(head, key) for key in keys]
        found = self._surroundings.states.find_states(self.connection, wanted)
        return room.learn({key: found.get((room.room_id, key)) for key in keys})

    def _decide(self, answered: dict[TransactionKey, EventId]) -> None:
        for outcome, command in zip(self.outcomes, self._commands, strict=True):
            if isinstance(command, RowsCommand):
                self._row_writes.append(_RowWrite(command.write, command=command, outcome=outcome))
                continue
            if command.transaction is not None and command.transaction in answered:
                outcome.result = answered[command.transaction]
                continue
            try:
                session = self._session(command)
                result = command.decide(session)
            except MatrixError as error:
                outcome.error = error
                continue
            outcome.result = result
            self._rooms[command.room_id] = session.room
            self.facts.extend(session.facts)
            self._after_gaps |= session.after_gaps
            last = len(self.facts) - 1
            self._row_writes.extend(_RowWrite(write, last) for write in session.rows)
            if command.transaction is not None:
                answered[command.transaction] = result
                self._answers.append((command.transaction, result))

    def _session(self, command: RoomCommand[Any]) -> RoomSession:
        room = self._rooms.get(command.room_id)
        if room is None:
            if command.creates is None:
                raise UnknownRoom(f"{command.room_id} is not a room this server knows.")
            room = Room(room_id=command.room_id, rules=command.creates, state=immutables.Map())
        elif command.creates is not None and command.creates is not room.rules:
            raise IncompatibleRoomVersion(
                f"{command.room_id} has version {room.rules.version}.",
                room_version=room.rules.version,
            )
        head = self._head_of_room(command.room_id)
        return RoomSession(room, head, self._surroundings.now_ms(), self, command.recommended)

    # Writing

    def _write(self) -> None:
        connection = self.connection
        # Places of the facts, counted from the position before this transaction's.
        places = []
        taken = 0
        for fact in self.facts:
            taken += GAP if fact.pdu.event_id in self._after_gaps else 1
            places.append(taken)
        taken += sum(1 for rows in self._row_writes if rows.command is not None)
        questions = [projection.ask(self.facts) for projection in self._surroundings.inline]
        with connection.pipeline():
            base_cursor = connection.execute(TAKE_POSITIONS, (taken, taken))
            asked = [
                None if question is None else connection.execute(question[0].encode(), question[1])
                for question in questions
            ]
        answers = [[] if cursor is None else cursor.fetchall() for cursor in asked]
        base_row = base_cursor.fetchone()
        if base_row is None:
            raise psycopg.DataError("log_position has no row")
        base: int = base_row[0]
        recorded = [
            RecordedFact(base + place, self._head_of(fact).room_nid, fact)
            for place, fact in zip(places, self.facts, strict=True)
        ]
        sent = False
        try:
            with connection.pipeline():
                self._write_all(base, recorded, answers)
                sent = True
                connection.execute("COMMIT")
        except psycopg.OperationalError as error:
            if sent and not isinstance(error, errors.QueryCanceled):
                raise OutcomeUnknown from error
            raise

    def _write_all(
        self, base: int, recorded: Sequence[RecordedFact], answers: Sequence[Sequence[Row]]
    ) -> None:
        connection = self.connection

        def execute(sql: str, params: Params) -> None:
            connection.execute(sql.encode(), params)

        if not recorded and not any(rows.is_durable for rows in self._row_writes):
            execute("SET LOCAL synchronous_commit = off", ())
        if recorded:
            stored = [self._surroundings.mapper.to_stored_event(r.fact) for r in recorded]
            connection.execute(INSERT_FACTS, fact_columns(stored, [r.position for r in recorded]))
            first = stored[0]
            self.first_stored = (
                first.originator_id,
                first.originator_version,
                first.state,
                recorded[0].position,
            )
            for projection, answer in zip(self._surroundings.inline, answers, strict=True):
                projection.apply(execute, recorded, answer)
            self._write_heads(execute, recorded)
        next_position = recorded[-1].position if recorded else base
        for rows in self._row_writes:
            if rows.outcome is not None:
                next_position += 1
                rows.write(execute, next_position)
                rows.outcome.result = next_position
            else:
                last = recorded[rows.last_fact].position if rows.last_fact >= 0 else base
                rows.write(execute, last)
        if self._answers:
            execute(INSERT_ANSWERS, answer_columns(self._answers, self._surroundings.now_ms()))
        execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._announcement(next_position, recorded)))

    def _write_heads(self, execute: Execute, recorded: Sequence[RecordedFact]) -> None:
        """Move the heads of the rooms on; take snapshots where it is time."""
        last_positions = {r.fact.originator_id: r.position for r in recorded}
        created = {
            r.fact.originator_id
            for r in recorded
            if r.pdu.type == "m.room.create" and r.fact.verdict == ACCEPTED
        }
        for room_id, position in last_positions.items():
            room = self._rooms[room_id]
            head = self._head_of_room(room_id)
            if head.version == 0:
                execute(
                    "INSERT INTO rooms (room_nid, room_id, room_version, version, last_position,"
                    " is_version_settled) VALUES (%s, %s, %s, %s, %s, %s)",
                    (
                        head.room_nid,
                        room_id,
                        head.room_version,
                        room.version,
                        position,
                        room_id in created,
                    ),
                )
            else:
                execute(
                    "UPDATE rooms SET version = %s, last_position = %s, room_version = %s,"
                    " is_version_settled = %s WHERE room_nid = %s",
                    (
                        room.version,
                        position,
                        head.room_version,
                        head.is_version_settled or room_id in created,
                        head.room_nid,
                    ),
                )
            if room.version // INTERVAL > head.version // INTERVAL:
                execute(UPSERT_SNAPSHOT, snapshot_row(encode_snapshot(room)))

    def _announcement(self, position: int, recorded: Sequence[RecordedFact]) -> str:
        """Who should look again, up to which position."""
        rooms = {r.room_nid for r in recorded}
        # Nobody waits here for users of other servers, of whom there may be a great many.
        here = f":{self.signer.server_name}"
        users = {
            r.pdu.state_key
            for r in recorded
            if r.pdu.type == "m.room.member"
            and r.pdu.state_key is not None
            and r.pdu.state_key.endswith(here)
        }
        for command in self._commands:
            if isinstance(command, RowsCommand):
                rooms.update(command.rooms)
                users.update(command.users)
        return build_announcement(position, rooms, users)

    def _head_of(self, fact: Fact) -> RoomHead:
        return self._head_of_room(fact.originator_id)

    def _head_of_room(self, room_id: RoomId) -> RoomHead:
        return self._heads.get(room_id) or self._created[room_id]


def _roll_back(connection: PgConnection) -> None:
    """End the transaction, if the connection still lives."""
    try:
        if not connection.closed:
            connection.rollback()
    except psycopg.Error:
        connection.close()
