"""Groups what this process wants to write, and commits each group as one batch.

Each lane of the queue is one thread (under gevent: one greenlet) that takes whatever is waiting
and commits it in one transaction; whoever waits is told the outcome after COMMIT.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import psycopg

from architex.domain.errors import DatabaseUnavailable, RemoteFailed
from architex.domain.identifiers import UserId
from architex.domain.room.aggregate import Signer
from architex.storage.commit_batch import (
    Batch,
    Command,
    InlineProjection,
    OutcomeUnknown,
    RowsCommand,
    StateFinder,
)
from architex.storage.event_log import EventLog
from architex.storage.pool import Database, WriteRows
from architex.storage.room_facts import FactMapper
from architex.storage.room_session import PolicyServers, RecommendationNeeded, RoomCommand

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH: Final = 128
MAX_RECOMMENDATIONS: Final = 300
"""How often a policy server is asked for the events of one decision; upgrades have many."""
GIVE_UP_AFTER_SECONDS: Final = 15.0


@dataclass(slots=True)
class _Pending:
    """A waiting request: its command, and a latch that opens when it is settled."""

    command: Command
    latch: threading.Lock = field(default_factory=threading.Lock)
    result: Any = None
    error: BaseException | None = None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error
        self.latch.release()


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
        self.inline: Sequence[InlineProjection] = tuple(inline)
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
        rows = RowsCommand(write, tuple(wake_users), tuple(wake_rooms), durable)
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
                for pending, outcome in zip(group, batch.outcomes, strict=True):
                    pending.settle(outcome.result, outcome.error)
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

    def _attempt(self, group: Sequence[_Pending]) -> Batch:
        """One try. Raises what the database raised, having written nothing."""
        batch = Batch(self._commits, [pending.command for pending in group])
        try:
            batch.run()
        except OutcomeUnknown as unknown:
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


def _settle_all(group: Sequence[_Pending], error: BaseException) -> None:
    for pending in group:
        pending.settle(error=error)
