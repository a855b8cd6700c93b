"""Sends other servers what they are owed: a queue for each, a bounded number of them at work.

`advance` reads once for all servers what is new in the log and whom it concerns; notes, with its
own position, for whom something waits; and lets workers send. A worker reads what its server is
owed, sends it in transactions, in order, and goes on until nothing is left or a try fails.

What was sent is noted a moment later, so a crash has some transactions sent again: with the same
IDs, and events that the other server knows already.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from architex.domain.errors import DatabaseUnavailable
from architex.domain.identifiers import ServerName
from architex.followers.destination_queue import DestinationQueue, restore_queue
from architex.followers.federation_readings import Reading, Readings
from architex.followers.federation_transactions import FederationTransactions
from architex.followers.runner import ROUND_INTERVAL_S
from architex.followers.workers import ThreadWorkers, Workers
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteError
from architex.gateways.federation_client import FederationClient
from architex.projections.federation_outbox import list_owed_servers
from architex.projections.following import FollowerOvertaken
from architex.projections.outgoing_edus import EVENTS, EduSource, Listening
from architex.storage.destinations import (
    RETRY_NOW,
    SENDER,
    clear_nudges,
    list_nudges,
    list_waiting_destinations,
    save_destinations,
)
from architex.storage.pool import Database, PgConnection
from architex.storage.tracked_positions import move_position, start_position

log = logging.getLogger(__name__)

TRANSACTIONS_PER_TURN: Final = 10
"""After so many a worker lets other servers have their turn."""
SAVE_INTERVAL_S: Final = 2.0
"""How often the position is saved when nothing that must arrive was found."""

DEFERRED_S: Final = 1.0
"""So long a source on a budget waits: for more to come, and for a server that has just come into a
room to know that it has."""

DATABASE_DELAY_S: Final = 2.0

_MAX_QUEUES: Final = 20_000


@dataclass(slots=True)
class _Deferred:
    """Servers that a source on a budget is to occasion transactions to, in their turn.

    Attributes:
        waiting: server → the position of the first thing for it, and when it may go.
    """

    per_second: float
    waiting: OrderedDict[ServerName, tuple[int, float]] = field(default_factory=OrderedDict)
    allowance: float = field(init=False)
    counted_at: float = 0.0

    def __post_init__(self) -> None:
        self.allowance = self.per_second

    def add(self, marks: Mapping[ServerName, int], now_s: float) -> None:
        for server_name, first in marks.items():
            self.waiting.setdefault(server_name, (first, now_s + DEFERRED_S))

    def take(self, server_name: ServerName, now_s: float) -> int | None:
        """The first thing for a server to which something goes anyway."""
        first, from_s = self.waiting.get(server_name, (0, float("inf")))
        if from_s > now_s:
            return None
        del self.waiting[server_name]
        return first

    def release(self, now_s: float) -> dict[ServerName, int]:
        """Those whose turn has come."""
        if not self.waiting:
            return {}
        self.allowance += (now_s - self.counted_at) * self.per_second
        self.allowance = min(self.allowance, self.per_second)
        self.counted_at = now_s
        released = {}
        while self.waiting and self.allowance >= 1.0:
            server_name, (first, from_s) = next(iter(self.waiting.items()))
            if from_s > now_s:
                break
            del self.waiting[server_name]
            released[server_name] = first
            self.allowance -= 1.0
        return released


class FederationSender:
    """The follower that sends to other servers."""

    name = SENDER
    interval_s = ROUND_INTERVAL_S

    def __init__(
        self,
        database: Database,
        client: FederationClient,
        clock: Clock,
        randomness: Randomness,
        *,
        server_name: ServerName,
        sources: Sequence[EduSource] = (),
        at_once: int = 100,
        workers: Workers | None = None,
    ) -> None:
        """Prepare; nothing is read or sent before the first `advance`.

        Args:
            server_name: ours.
            sources: the kinds of EDUs to send.
            at_once: to how many servers at once; those that failed the last time have a quarter
                of it to themselves, and keep none of the others waiting.
            workers: who does the sending, instead of threads.
        """
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._server_name = server_name
        self._readings = Readings(database, server_name, sources)
        self._transactions = FederationTransactions(
            database, client, clock, randomness, server_name
        )
        self._sources = {source.name: source for source in sources}
        self._listening = Listening(sources)
        self._durable = [EVENTS, *(one.name for one in sources if one.is_durable)]
        self._lasting = [EVENTS, *(one.name for one in sources if not one.is_perishable)]
        self._workers = workers or ThreadWorkers(at_once, "federation sender")
        self._patient_workers = workers or ThreadWorkers(
            max(1, at_once // 4), "federation sender (retries)"
        )
        # Guards everything below that workers touch.
        self._lock = threading.Lock()
        self._queues: dict[ServerName, DestinationQueue] = {}
        self._due: list[tuple[int, ServerName]] = []
        self._changed: set[ServerName] = set()
        self._running = 0
        # Up to where it is known for whom something waits; and as the database has it.
        self._known = 0
        self._saved: int | None = None
        self._written = self._attempted = -1
        self._saved_at = float("-inf")
        self._deferred = {
            one.name: _Deferred(one.servers_per_second)
            for one in sources
            if one.servers_per_second is not None
        }

    # ---- what is new, and for whom

    def advance(self) -> bool:
        """Look what is new, note for whom, and let it be sent; True when there is more to do.

        Raises:
            FollowerOvertaken: another process sends; the next call looks where it came to.
            DatabaseUnavailable: the next call looks what became of it.
        """
        try:
            return self._advance()
        except BaseException:
            self._saved = None
            raise

    def _advance(self) -> bool:
        if self._saved is None:
            self._load()
        marks: dict[str, Mapping[ServerName, int]] = {}
        # What has a position up to log_position's is committed.
        with self._database.connection() as connection:
            heard = self._listening.listen(connection, self._known)
            end = heard.position
            nudges = list_nudges(connection) if heard.has_nudges else {}
            if heard.sources:
                marks = self._find_marks(connection, end, heard.sources)
        with self._lock:
            concerned = self._mark(marks, end)
            concerned += self._apply_nudges(nudges)
        self._save(end, list(nudges))
        self._start(concerned)
        with self._lock:
            return bool(self._changed) and self._running == 0

    def _load(self) -> None:
        """Begin where the database says that sending has come to."""
        with self._database.connection() as connection:
            saved = start_position(connection, SENDER)
            waiting = list_waiting_destinations(connection)
        with self._lock:
            # Otherwise another process has been sending, and knows better.
            is_as_left = saved in (self._written, self._attempted)
            if not is_as_left:
                for server_name, queue in list(self._queues.items()):
                    if not queue.is_running:
                        del self._queues[server_name]
                self._changed &= self._queues.keys()
                self._known = saved
            self._saved = saved
            for held in waiting:
                known = self._queues.get(held.server_name)
                if known is not None and is_as_left:
                    continue
                queue = self._queues[held.server_name] = known or restore_queue(held)
                if held.delivered is not None:
                    for stream in self._lasting:
                        queue.mark(stream, held.delivered + 1, saved)
                    self._schedule(queue)

    def _find_marks(
        self, connection: PgConnection, end: int, streams: Collection[str]
    ) -> dict[str, Mapping[ServerName, int]]:
        """Stream → server → the position of the first thing that is new for it."""
        known = self._known
        found: dict[str, Mapping[ServerName, int]] = {}
        if EVENTS in streams:
            found[EVENTS] = list_owed_servers(connection, self._server_name, known, end)
        for name, source in self._sources.items():
            if name not in streams:
                continue
            try:
                found[name] = source.list_destinations(connection, known, end)
            except Exception as error:
                if source.is_durable or isinstance(error, DatabaseUnavailable):
                    raise
                log.exception("Nobody is told of %s between %s and %s", name, known, end)
        return found

    def _mark(self, marks: Mapping[str, Mapping[ServerName, int]], end: int) -> list[ServerName]:
        """Note for whom something is new; gives them."""
        now_s = self._clock.monotonic()
        concerned: dict[ServerName, None] = {}
        for stream, servers in marks.items():
            deferred = self._deferred.get(stream)
            if deferred is not None:
                deferred.add(servers, now_s)
                continue
            for server_name, first in servers.items():
                if self._mark_one(server_name, stream, first, end):
                    concerned[server_name] = None
        for stream, deferred in self._deferred.items():
            for server_name in concerned:
                taken = deferred.take(server_name, now_s)
                if taken is not None:
                    self._mark_one(server_name, stream, taken, end)
            for server_name, first in deferred.release(now_s).items():
                if self._mark_one(server_name, stream, first, end):
                    concerned[server_name] = None
        self._known = max(self._known, end)
        return list(concerned)

    def _mark_one(self, server_name: ServerName, stream: str, first: int, end: int) -> bool:
        queue = self._queues.get(server_name)
        if queue is None:
            self._forget_idle_queues()
            queue = self._queues[server_name] = DestinationQueue(server_name)
        if queue.failures and stream not in self._lasting:
            return False
        queue.mark(stream, first, end)
        self._changed.add(server_name)
        return True

    def _forget_idle_queues(self) -> None:
        if len(self._queues) < _MAX_QUEUES:
            return
        for server_name, queue in list(self._queues.items()):
            is_busy = queue.cursors or queue.is_running or queue.failures
            if not is_busy and server_name not in self._changed:
                del self._queues[server_name]

    def _apply_nudges(self, nudges: Mapping[ServerName, int]) -> list[ServerName]:
        """Bring forward the next try of servers that gave a sign of life; gives them."""
        now_ms = self._clock.now_ms()
        for server_name, nudge in nudges.items():
            queue = self._queues.get(server_name)
            if queue is None:
                continue
            if queue.note_sign_of_life(now_ms, retry_now=nudge >= RETRY_NOW):
                self._changed.add(server_name)
                if queue.cursors:
                    self._schedule(queue)
        return list(nudges)

    def _save(self, end: int, nudged: Sequence[ServerName]) -> None:
        """Write, with our position, what has changed since the last time."""
        with self._lock:
            changed, self._changed = self._changed, set()
            queues = [self._queues[server_name] for server_name in changed]
            rows = [(queue, queue.as_destination(self._durable)) for queue in queues]
            rows = [(queue, row) for queue, row in rows if queue.differs_from_saved(row)]
            arrived = [(queue, queue.arrived) for queue in queues if queue.arrived]
            for queue, _ in arrived:
                queue.arrived = {}
        saved = self._saved or 0
        is_stale = self._clock.monotonic() - self._saved_at > SAVE_INTERVAL_S
        if not (rows or arrived or nudged or (is_stale and end > saved)):
            return
        self._attempted = end
        try:
            with self._database.transaction() as connection:
                if not move_position(connection, SENDER, saved, end):
                    raise FollowerOvertaken(SENDER)
                save_destinations(connection, [row for _, row in rows])
                if nudged:
                    clear_nudges(connection, nudged)
                for queue, streams in arrived:
                    for stream, up_to in streams.items():
                        self._sources[stream].note_delivered(connection, queue.server_name, up_to)
        except BaseException:
            with self._lock:
                self._changed |= changed
                for queue, streams in arrived:
                    queue.arrived = {**streams, **queue.arrived}
            raise
        for queue, row in rows:
            queue.saved = row
        self._saved = self._written = end
        self._saved_at = self._clock.monotonic()

    # ---- sending

    def _start(self, concerned: Sequence[ServerName]) -> None:
        """Let workers send to those for whom something waits, if their time has come."""
        now_ms = self._clock.now_ms()
        started = []
        with self._lock:
            names = dict.fromkeys(concerned)
            while self._due and self._due[0][0] <= now_ms:
                due_ts, server_name = heapq.heappop(self._due)
                names[server_name] = None
                queue = self._queues.get(server_name)
                if queue is not None and queue.due_ts == due_ts:
                    queue.due_ts = None
            for server_name in names:
                queue = self._queues.get(server_name)
                if queue is None or queue.is_running or not queue.cursors:
                    continue
                if queue.next_try_ts <= now_ms:
                    queue.is_running = True
                    self._running += 1
                    started.append(queue)
                else:
                    self._schedule(queue)
        for queue in started:
            self._submit(queue)

    def _submit(self, queue: DestinationQueue) -> None:
        workers = self._patient_workers if queue.failures else self._workers
        workers.submit(partial(self._deliver, queue))

    def _deliver(self, queue: DestinationQueue) -> None:
        """Send what waits for a server, for the length of a turn."""
        for _ in range(TRANSACTIONS_PER_TURN):
            problem: Exception | None = None
            reading = None
            is_sent = False
            queue.last_try_ts = self._clock.now_ms()
            try:
                reading = self._readings.read(
                    queue.server_name, self._wanted(queue), is_repetition=bool(queue.repeated)
                )
                is_sent = self._transactions.send(
                    queue.server_name, reading, failures=queue.failures
                )
            except (RemoteError, DatabaseUnavailable) as error:
                problem = error
            except Exception as error:
                log.exception("Sending to %s failed for a reason of ours", queue.server_name)
                problem = error
            with self._lock:
                if problem is None and reading is not None:
                    self._note_arrived(queue, reading)
                    if is_sent:
                        self._note_success(queue)
                else:
                    self._note_failure(queue, reading, problem)
                self._changed.add(queue.server_name)
                if problem is not None or not queue.cursors:
                    queue.is_running = False
                    self._running -= 1
                    return
        self._submit(queue)

    def _wanted(self, queue: DestinationQueue) -> Mapping[str, tuple[int, int]]:
        """What failed before, or else what waits."""
        with self._lock:
            return queue.repeated or {
                stream: (after, self._known) for stream, after in queue.cursors.items()
            }

    # ---- how it went

    def _note_arrived(self, queue: DestinationQueue, reading: Reading) -> None:
        for stream, (_, up_to) in reading.ranges.items():
            queue.note_arrived(stream, up_to)
            if stream != EVENTS and stream in self._durable:
                queue.arrived[stream] = up_to
        queue.repeated = {}

    def _note_success(self, queue: DestinationQueue) -> None:
        if queue.failures:
            log.info("%s can be reached again", queue.server_name)
        queue.note_success(self._clock.now_ms())

    def _note_failure(
        self, queue: DestinationQueue, reading: Reading | None, problem: Exception | None
    ) -> None:
        now_ms = self._clock.now_ms()
        if isinstance(problem, DatabaseUnavailable):
            queue.put_off(now_ms, DATABASE_DELAY_S)  # no fault of the server's
        else:
            if reading is not None:
                queue.repeated = {
                    stream: range_
                    for stream, range_ in reading.ranges.items()
                    if stream in self._lasting
                }
            queue.drop(self._sources.keys() - set(self._lasting))
            queue.note_failure(problem, now_ms, self._randomness.uniform)
            log.info("%s; %d failures", queue.last_error, queue.failures)
        if queue.cursors:
            self._schedule(queue)

    def _schedule(self, queue: DestinationQueue) -> None:
        """Have it tried when its time has come."""
        if queue.due_ts is None or queue.next_try_ts < queue.due_ts:
            queue.due_ts = queue.next_try_ts
            heapq.heappush(self._due, (queue.next_try_ts, queue.server_name))
