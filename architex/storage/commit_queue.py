"""The one way to write what others will read: decisions and rows, committed in groups.

Each lane of the queue is one thread (under gevent: one greenlet) that takes whatever is waiting
and commits it in one transaction: lock the rooms, decide, take positions, write facts, INLINE
projections, rows and answers, notify, COMMIT. Three round trips and a flush serve many requests.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import immutables
import orjson
import psycopg
from psycopg import errors

from architex.domain.auth_rules import FindState
from architex.domain.errors import (
    DatabaseUnavailable,
    IncompatibleRoomVersion,
    MatrixError,
    RemoteFailed,
    UnknownRoom,
)
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.policy_servers import POLICY_TYPE, PolicyServer, needs_recommendation
from architex.domain.room.aggregate import EventDraft, Room, Signer
from architex.domain.room.events import ACCEPTED, Fact, RecordedFact
from architex.domain.room.resets import find_unresolved
from architex.domain.room_versions import RoomVersionRules
from architex.storage.event_log import EventLog, RoomHead
from architex.storage.pool import Database, PgConnection
from architex.storage.recorders import (
    INSERT_FACTS,
    TAKE_POSITIONS,
    UPSERT_SNAPSHOT,
    fact_columns,
    snapshot_row,
)
from architex.storage.room_facts import FactMapper
from architex.storage.room_snapshots import INTERVAL, encode_snapshot
from architex.storage.transactions import (
    FIND_ANSWERS,
    INSERT_ANSWERS,
    TransactionKey,
    answer_columns,
    key_columns,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Params: TypeAlias = Sequence[Any] | Mapping[str, Any]
Execute: TypeAlias = Callable[[str, Params], None]
"""Runs a statement in the batch's transaction; gives no result."""
WriteRows: TypeAlias = Callable[[Execute, int], None]
"""Writes rows with `execute`, given their position. May be called again on a retry."""

MAX_BATCH: Final = 128
MAX_RECOMMENDATIONS: Final = 300
"""How often a policy server is asked for the events of one decision; upgrades have many."""

_MADE_ANEW: Final = frozenset({"origin_server_ts", "hashes", "signatures", "event_id", "unsigned"})
"""What differs when the same event is composed again."""

GAP: Final = 2**20
"""Positions left free where events are missing."""
MAX_NOTIFICATION_BYTES: Final = 7800
GIVE_UP_AFTER_SECONDS: Final = 15.0
CHANNEL: Final = "architex_log"
"""Where commits are announced: {"p": position, "r": room numbers, "u": user IDs}, or {"p": …,
"all": true}; and changed supplies of keys: {"k": user IDs, or null for everybody's}."""

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


class PolicyServers(Protocol):
    """Knows the policy servers of rooms, and asks them.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#policy-servers
    """

    def find(self, session: RoomSession) -> PolicyServer | None:
        """The policy server that a room uses; None for none."""

    def sign(self, rules: RoomVersionRules, policy_server: PolicyServer, pdu: Pdu) -> Pdu:
        """The event, signed by a policy server; raises MatrixError when it does not."""

    def sign_each(
        self, rules: RoomVersionRules, policy_server: PolicyServer, pdus: Sequence[Pdu]
    ) -> list[Pdu | MatrixError]:
        """For each event: it, signed, or why it is not."""


class RecommendationNeeded(MatrixError):
    """An event of ours needs the signature of the room's policy server; nothing is written yet."""

    def __init__(self, rules: RoomVersionRules, policy_server: PolicyServer, pdu: Pdu) -> None:
        super().__init__(f"{policy_server.server_name} has not recommended the event.")
        self.rules = rules
        self.policy_server = policy_server
        self.pdu = pdu


class StateFinder(Protocol):
    """Looks up entries of current states."""

    def find_states(
        self, connection: PgConnection, keys: Sequence[tuple[RoomHead, StateKey]]
    ) -> Mapping[tuple[RoomId, StateKey], Pdu]:
        """The current events of those entries that exist."""


@dataclass(frozen=True, slots=True)
class RoomCommand(Generic[T]):
    """Something to decide about one room, under its lock.

    Attributes:
        decide: looks at the session's room and appends to it; raises MatrixError to refuse, and
            then nothing of it is written. May be called again on a retry.
        prefetch: entries of the state that it will look at.
        transaction: the client's transaction; then `decide` returns the event ID, and a second
            command of the same transaction returns the first one's, and decides nothing.
        creates: for a room that does not exist yet, its version's rules; they also count where a
            room is known by invites only, and nobody knows better.
        recommended: events that `decide` composed before, which the room's policy server signed.
    """

    room_id: RoomId
    decide: Callable[[RoomSession], T]
    prefetch: frozenset[StateKey] = frozenset()
    transaction: TransactionKey | None = None
    creates: RoomVersionRules | None = None
    recommended: tuple[Pdu, ...] = ()


class RoomSession:
    """A room under its lock, for the time of one decision."""

    def __init__(
        self,
        room: Room,
        head: RoomHead,
        now_ms: int,
        batch: _Batch,
        recommended: Sequence[Pdu] = (),
    ) -> None:
        self._recommended = recommended
        self.room = room
        self.head = head
        self.now_ms = now_ms
        self.facts: list[Fact] = []
        self.rows: list[WriteRows] = []
        self.after_gaps: set[EventId] = set()
        self._batch = batch

    def find_state(self, type: str, state_key: str = "") -> Pdu | None:
        """The event of the current state, or None."""
        self._require([(type, state_key)])
        return self.room.find_state(type, state_key)

    def append(self, draft: EventDraft) -> Pdu:
        """Add an event of ours at the end of the room.

        Raises:
            Forbidden: the authorization rules do not allow it.
            BadJson, TooLarge: the event would break the format or a size limit.
            RecommendationNeeded: by the room's policy server; the queue sees to it.
        """
        needed = self.room.auth_types(draft)
        if draft.state_key is not None:
            needed |= {(draft.type, draft.state_key)}
        self._require([("m.room.create", ""), *needed])
        pdu = self.recommend(self.compose(draft))
        self.record(self.room.accepted(pdu, self.now_ms, draft.device))
        return pdu

    def recommend(self, pdu: Pdu) -> Pdu:
        """An event of ours as the room's policy server signed it; as it is, where there is none.

        Raises:
            RecommendationNeeded: it has not signed it yet. The queue asks it, and decides again.
        """
        policy_server = self.policy_server
        if policy_server is None or not needs_recommendation(pdu):
            return pdu
        for recommended in self._recommended:
            if _is_same_decision(recommended, pdu):
                return recommended
        raise RecommendationNeeded(self.room.rules, policy_server, pdu)

    @property
    def policy_server(self) -> PolicyServer | None:
        """The server whose signature the events of the room need now; None for none."""
        policy_servers = self._batch.policy_servers
        return None if policy_servers is None else policy_servers.find(self)

    def compose(self, draft: EventDraft, find_before: FindState | None = None) -> Pdu:
        """The event that `draft` would become, not added; see `Room.compose`."""
        return self.room.compose(
            draft,
            self._batch.signer,
            self.now_ms,
            opaque_id=self._batch.new_opaque_id(),
            find_before=find_before,
        )

    def append_composed(self, pdu: Pdu) -> None:
        """Add an event that was composed before the room existed: its m.room.create."""
        self.record(self.room.accepted(pdu, self.now_ms))

    def record(self, fact: Fact, *, after_gap: bool = False) -> None:
        """Add a fact whose verdict is known.

        Args:
            after_gap: events before it are missing; positions are left free, so that they find
                their places in the timeline if they come.
        """
        for type_, state_key in find_unresolved(fact):
            log.warning(
                "State reset in %s: %s %r changes with %s, but no branches met. Run"
                " `architex verify`.",
                fact.originator_id,
                type_,
                state_key,
                fact.pdu.event_id,
            )
        self.room = self.room.evolve(fact)
        self.facts.append(fact)
        if after_gap:
            self.after_gaps.add(fact.pdu.event_id)

    @property
    def connection(self) -> PgConnection:
        """The connection of the transaction, for projections' questions."""
        return self._batch.connection

    def learn(self, entries: Mapping[StateKey, Pdu | None]) -> None:
        """Tell the room what its current state has in some entries."""
        self.room = self.room.learn(entries)

    def is_uncommitted(self, event_id: EventId) -> bool:
        """Whether an event is only being recorded in this group: it has no position yet."""
        return any(fact.pdu.event_id == event_id for fact in (*self._batch.facts, *self.facts))

    def also(self, write: WriteRows) -> None:
        """Write further rows in the same transaction; their position is the last fact's."""
        self.rows.append(write)

    def _require(self, keys: Iterable[StateKey]) -> None:
        unknown = self.room.unknown(keys)
        if unknown:
            self.room = self._batch.learn(self.room, unknown)


def _is_same_decision(earlier: Pdu, pdu: Pdu) -> bool:
    """Whether an event was composed of the same draft at the same place in the room."""
    return all(
        earlier.event.get(key) == pdu.event.get(key)
        for key in {*earlier.event, *pdu.event} - _MADE_ANEW
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    write: WriteRows
    users: Collection[UserId]
    rooms: Collection[int]
    durable: bool


@dataclass(slots=True)
class _Pending:
    """A waiting request: its command, and a latch that opens when it is settled."""

    command: RoomCommand[Any] | _Rows
    latch: threading.Lock = field(default_factory=threading.Lock)
    result: Any = None
    error: BaseException | None = None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error
        self.latch.release()


class _OutcomeUnknown(Exception):
    """The connection was lost after COMMIT was sent."""


class CommitQueue:
    """Commits decisions and rows of this process in groups."""

    def __init__(
        self,
        database: Database,
        event_log: EventLog,
        *,
        inline: Sequence[InlineProjection],
        states: StateFinder,
        signer: Signer,
        now_ms: Callable[[], int],
        new_opaque_id: Callable[[], str],
        lanes: int = 2,
    ) -> None:
        """Remember the collaborators; lanes start with their first command.

        Args:
            inline: projections written in the same transaction as the facts.
            states: finds entries of current states.
            signer: the name and the key that our events carry.
            now_ms: the clock, milliseconds since 1970.
            new_opaque_id: names for the events of rooms where they are not hashes.
            lanes: how many groups may be under way at once; a room is always in the same one.
        """
        self.database = database
        self.event_log = event_log
        self.inline = tuple(inline)
        self.states = states
        self.signer = signer
        self.now_ms = now_ms
        self.new_opaque_id = new_opaque_id
        self.mapper = FactMapper(event_log.rules_of)
        # Set by bootstrap: asking them goes over the network.
        self.policy_servers: PolicyServers | None = None
        self._lanes = [_Lane(self, number) for number in range(lanes)]

    def write_room(self, command: RoomCommand[T]) -> T:
        """Decide about a room and record the facts; returns after COMMIT.

        Returns what `decide` returned.

        Raises:
            MatrixError: what `decide` raised; UnknownRoom when the room is unknown.
            RefusedElsewhere, RemoteFailed: the room's policy server does not let an event pass.
            DatabaseUnavailable: the database did not come back in time.
        """
        lane = self._lanes[hash(command.room_id) % len(self._lanes)]
        for _ in range(MAX_RECOMMENDATIONS):
            try:
                result: T = lane.submit(_Pending(command))
            except RecommendationNeeded as needed:
                if self.policy_servers is None:
                    raise
                pdu = self.policy_servers.sign(needed.rules, needed.policy_server, needed.pdu)
                command = replace(command, recommended=(*command.recommended, pdu))
            else:
                return result
        raise RemoteFailed("The room moves on faster than its policy server answers.")

    def write_rows(
        self,
        write: WriteRows,
        *,
        wake_users: Iterable[UserId] = (),
        wake_rooms: Iterable[int] = (),
        durable: bool = True,
    ) -> int:
        """Write rows that carry a position; returns the position after COMMIT.

        Args:
            write: is given `execute` and the position; has no other effects.
            wake_users: whose waiting /sync looks again.
            wake_rooms: numbers of rooms whose members' waiting /sync looks again.
            durable: False for what may be lost in a crash of the database.
        """
        rows = _Rows(write, tuple(wake_users), tuple(wake_rooms), durable)
        lane = self._lanes[hash(rows.users) % len(self._lanes)]
        position: int = lane.submit(_Pending(rows))
        return position

    def close(self) -> None:
        """Let the threads end once they have done what waits; nothing may come afterwards."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One thread that commits group after group."""

    def __init__(self, commits: CommitQueue, number: int) -> None:
        self._commits = commits
        self._number = number
        self._waiting: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()  # None: end
        self._starting = threading.Lock()
        self._started = False

    def submit(self, pending: _Pending) -> Any:
        pending.latch.acquire()
        if not self._started:
            self._start()
        self._waiting.put(pending)
        pending.latch.acquire()
        if pending.error is not None:
            raise pending.error
        return pending.result

    def close(self) -> None:
        self._waiting.put(None)

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                name = f"commit lane {self._number}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
                self._started = True

    def _run(self) -> None:
        while (pending := self._waiting.get()) is not None:
            group = [pending]
            while len(group) < MAX_BATCH:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self.close()
                    break
                group.append(more)
            self._commit(group)

    def _commit(self, group: Sequence[_Pending]) -> None:
        """Commit a group; whatever happens, everyone in it is settled."""
        deadline = time.monotonic() + GIVE_UP_AFTER_SECONDS
        pause = 0.05
        while True:
            try:
                batch = self._attempt(group)
            except (DatabaseUnavailable, psycopg.OperationalError) as error:
                if time.monotonic() > deadline:
                    log.error("The database stays away; %s writes refused.", len(group))
                    _settle_all(group, DatabaseUnavailable("The database cannot be reached."))
                    log.debug("last error", exc_info=error)
                    return
                time.sleep(pause)
                pause = min(pause * 2, 1.0)
            except BaseException as error:  # noqa: BLE001 - somebody waits for the outcome
                self._isolate(group, error)
                return
            else:
                batch.settle()
                return

    def _isolate(self, group: Sequence[_Pending], error: BaseException) -> None:
        """A group failed for a reason within it: find whose, let the others pass."""
        if len(group) == 1:
            group[0].settle(error=error)
            if not isinstance(error, Exception):
                raise error
            return
        for pending in group:
            self._commit([pending])

    def _attempt(self, group: Sequence[_Pending]) -> _Batch:
        """One try. Raises what the database raised, having written nothing."""
        batch = _Batch(self._commits, group)
        try:
            batch.run()
        except _OutcomeUnknown as unknown:
            if not self._was_committed(batch.first_stored):
                self._commits.event_log.forget(batch.room_ids)
                raise DatabaseUnavailable("The connection was lost before COMMIT.") from unknown
        except BaseException:
            self._commits.event_log.forget(batch.room_ids)
            raise
        return batch

    def _was_committed(self, first_stored: tuple[Any, ...] | None) -> bool:
        """What became of a transaction whose COMMIT was not answered.

        Rows alone may be written twice without harm; facts are looked for.
        """
        if first_stored is None:
            return False
        deadline = time.monotonic() + GIVE_UP_AFTER_SECONDS
        while True:
            try:
                with self._commits.database.transaction() as connection:
                    # Whoever still writes holds this row: wait for the lost transaction's end.
                    connection.execute("SELECT position FROM log_position FOR UPDATE")
                    found = connection.execute(
                        "SELECT 1 FROM stored_events WHERE originator_id = %s"
                        " AND originator_version = %s AND state = %b AND notification_id = %s",
                        first_stored,
                    ).fetchone()
                return found is not None
            except DatabaseUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


class _Batch:
    """One transaction for a group of commands."""

    def __init__(self, commits: CommitQueue, group: Sequence[_Pending]) -> None:
        self._commits = commits
        self._group = group
        self.signer = commits.signer
        self.new_opaque_id = commits.new_opaque_id
        self.policy_servers = commits.policy_servers
        self.room_ids = sorted(
            {p.command.room_id for p in group if isinstance(p.command, RoomCommand)}
        )
        self._heads: dict[RoomId, RoomHead] = {}
        self._created: dict[RoomId, RoomHead] = {}
        self._rooms: dict[RoomId, Room] = {}
        self.connection: PgConnection
        # Outcomes by place in the group, delivered after COMMIT.
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}
        self.facts: list[Fact] = []
        self._after_gaps: set[EventId] = set()
        # (command's place or None for a session's rows, index of the last fact, write)
        self._row_writes: list[tuple[_Rows | None, int, WriteRows]] = []
        self._rows_places: dict[int, int] = {}
        self._answers: list[tuple[TransactionKey, EventId]] = []
        # Room, version, bytes and position of the first fact: by them a lost COMMIT is found.
        self.first_stored: tuple[Any, ...] | None = None

    # What one attempt does, in order

    def run(self) -> None:
        with self._commits.database.connection() as connection:
            self.connection = connection
            try:
                answered = self._begin()
                self._load_rooms()
                self._decide(answered)
                if not self.facts and not self._row_writes:
                    connection.execute("ROLLBACK")
                    return
                self._write()
            except (psycopg.Error, _OutcomeUnknown):
                # After a pipeline that failed half way psycopg takes statements for prepared that
                # never were.
                connection.close()
                raise
            except BaseException:
                _roll_back(connection)
                raise
        for room in self._rooms.values():
            self._commits.event_log.remember(room)

    def settle(self) -> None:
        """Wake everyone in the group with the outcome."""
        for place, pending in enumerate(self._group):
            pending.settle(self._results.get(place), self._errors.get(place))

    def _begin(self) -> dict[TransactionKey, EventId]:
        """Lock the rooms; find transactions answered before."""
        commands = [p.command for p in self._group if isinstance(p.command, RoomCommand)]
        keys = [c.transaction for c in commands if c.transaction is not None]
        creations = [c for c in commands if c.creates is not None]
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
        for head in self._heads.values():
            self._rooms[head.room_id] = self._commits.event_log.load_room(self.connection, head)
        wanted: dict[RoomId, set[StateKey]] = {}
        for pending in self._group:
            command = pending.command
            if isinstance(command, RoomCommand) and command.room_id in self._rooms:
                wanted.setdefault(command.room_id, {(POLICY_TYPE, "")}).update(command.prefetch)
        unknown = [
            (self._heads[room_id], key)
            for room_id, keys in wanted.items()
            for key in self._rooms[room_id].unknown(keys)
        ]
        if unknown:
            found = self._commits.states.find_states(self.connection, unknown)
            for room_id, keys in wanted.items():
                room = self._rooms[room_id]
                learned = {key: found.get((room_id, key)) for key in room.unknown(keys)}
                self._rooms[room_id] = room.learn(learned)

    def learn(self, room: Room, keys: Sequence[StateKey]) -> Room:
        """The room, told what the database has under `keys`."""
        head = self._heads.get(room.room_id)
        if head is None:  # being created: what it does not know does not exist
            return room.learn(dict.fromkeys(keys))
        found = self._commits.states.find_states(self.connection, [(head, key) for key in keys])
        return room.learn({key: found.get((room.room_id, key)) for key in keys})

    def _decide(self, answered: dict[TransactionKey, EventId]) -> None:
        for place, pending in enumerate(self._group):
            command = pending.command
            if isinstance(command, _Rows):
                self._row_writes.append((command, -1, command.write))
                self._rows_places[id(command)] = place
                continue
            if command.transaction is not None and command.transaction in answered:
                self._results[place] = answered[command.transaction]
                continue
            try:
                session = self._session(command)
                result = command.decide(session)
            except MatrixError as error:
                self._errors[place] = error
                continue
            self._results[place] = result
            self._rooms[command.room_id] = session.room
            self.facts.extend(session.facts)
            self._after_gaps |= session.after_gaps
            last = len(self.facts) - 1
            self._row_writes.extend((None, last, write) for write in session.rows)
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
        return RoomSession(room, head, self._commits.now_ms(), self, command.recommended)

    # Writing

    def _write(self) -> None:
        connection = self.connection
        # Places of the facts, counted from the position before this transaction's.
        places = []
        taken = 0
        for fact in self.facts:
            taken += GAP if fact.pdu.event_id in self._after_gaps else 1
            places.append(taken)
        taken += sum(1 for rows, _, _ in self._row_writes if rows is not None)
        questions = [projection.ask(self.facts) for projection in self._commits.inline]
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
                raise _OutcomeUnknown from error
            raise

    def _write_all(
        self, base: int, recorded: Sequence[RecordedFact], answers: Sequence[Sequence[Row]]
    ) -> None:
        connection = self.connection

        def execute(sql: str, params: Params) -> None:
            connection.execute(sql.encode(), params)

        if all(rows is not None and not rows.durable for rows, _, _ in self._row_writes) and (
            not recorded
        ):
            execute("SET LOCAL synchronous_commit = off", ())
        if recorded:
            stored = [self._commits.mapper.to_stored_event(r.fact) for r in recorded]
            connection.execute(INSERT_FACTS, fact_columns(stored, [r.position for r in recorded]))
            first = stored[0]
            self.first_stored = (
                first.originator_id,
                first.originator_version,
                first.state,
                recorded[0].position,
            )
            for projection, answer in zip(self._commits.inline, answers, strict=True):
                projection.apply(execute, recorded, answer)
            self._write_heads(execute, recorded)
        next_position = recorded[-1].position if recorded else base
        for rows, last_fact, write in self._row_writes:
            if rows is not None:
                next_position += 1
                write(execute, next_position)
                self._results[self._rows_places[id(rows)]] = next_position
            else:
                write(execute, recorded[last_fact].position if last_fact >= 0 else base)
        if self._answers:
            execute(INSERT_ANSWERS, answer_columns(self._answers, self._commits.now_ms()))
        last = next_position
        execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._notification(last, recorded)))

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

    def _notification(self, position: int, recorded: Sequence[RecordedFact]) -> str:
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
        for rows, _, _ in self._row_writes:
            if rows is not None:
                rooms.update(rows.rooms)
                users.update(rows.users)
        payload = orjson.dumps({"p": position, "r": sorted(rooms), "u": sorted(users)})
        if len(payload) > MAX_NOTIFICATION_BYTES:
            payload = orjson.dumps({"p": position, "all": True})
        return payload.decode()

    def _head_of(self, fact: Fact) -> RoomHead:
        return self._head_of_room(fact.originator_id)

    def _head_of_room(self, room_id: RoomId) -> RoomHead:
        return self._heads.get(room_id) or self._created[room_id]


def _settle_all(group: Sequence[_Pending], error: BaseException) -> None:
    for pending in group:
        pending.settle(error=error)


def _roll_back(connection: PgConnection) -> None:
    """End the transaction, if the connection still lives."""
    try:
        if not connection.closed:
            connection.rollback()
    except psycopg.Error:
        connection.close()
