"""Sends other servers what they are owed: a queue for each, a bounded number of them at work.

`advance` reads once for all servers what is new in the log and whom it concerns; notes, with its
own position, for whom something waits; and lets workers send. A worker reads what its server is
owed, sends it in transactions, in order, and goes on until nothing is left or a try fails.

What was sent is noted a moment later, so a crash has some transactions sent again: with the same
IDs, and events that the other server knows already.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import DatabaseUnavailable, InvalidCanonicalJson
from architex.domain.identifiers import RoomId, ServerName
from architex.followers.workers import ThreadWorkers, Workers
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.gateways.federation_client import FederationClient, federation_path
from architex.projections.federation_outbox import (
    OutgoingPdu,
    OwedEvent,
    count_owed_events,
    list_newest_owed_events,
    list_owed_events,
    list_owed_servers,
    load_outgoing_pdus,
)
from architex.projections.following import FollowerOvertaken
from architex.projections.outgoing_edus import EduBatch, EduSource
from architex.storage.destinations import (
    RETRY_NOW,
    SENDER,
    Destination,
    Destinations,
    Refused,
    clear_nudges,
    list_nudges,
    list_waiting_destinations,
    save_destinations,
)
from architex.storage.pool import Database, PgConnection
from architex.storage.tracked_positions import move_position, start_position

log = logging.getLogger(__name__)

Json: TypeAlias = Mapping[str, Any]

EVENTS: Final = "events"
"""The stream of events; the other streams are sources of EDUs."""

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_BEHIND: Final = 500
"""A server that misses more events is told of the newest in each room, and asks for the rest."""

TRANSACTIONS_PER_TURN: Final = 10
"""After so many a worker lets other servers have their turn."""
TIMEOUT_S: Final = 60.0
SAVE_INTERVAL_S: Final = 2.0
"""How often the position is saved when nothing that must arrive was found."""

DEFERRED_S: Final = 1.0
"""So long a source on a budget waits: for more to come, and for a server that has just come into a
room to know that it has."""

FIRST_DELAY_S: Final = 2.0
MAX_DELAY_S: Final = 3600.0
MAX_DELAY_OF_THE_DEAD_S: Final = 24 * 3600.0
DEAD_AFTER_MS: Final = 3 * 24 * 3600 * 1000
"""Who was not heard of for so long is tried less often."""
DELAY_AFTER_SIGN_S: Final = 5.0
"""A sign of life brings the next try forward to so many seconds after the last one; as many more
for each failure, since who can send may still be unable to receive."""
MAX_DELAY_AFTER_SIGN_S: Final = 300.0
DATABASE_DELAY_S: Final = 2.0

# What says something about the server or the way to it, not about what was sent.
_ABOUT_THE_SERVER: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 426, 429})
_SUSPICIOUS_FAILURES: Final = 3
"""After so many failures a server's own error (500) may be due to what is sent."""

_MAX_QUEUES: Final = 20_000
_MAX_CACHED_PDUS: Final = 500


@dataclass(slots=True)
class _Queue:
    """What waits for one server, and how sending to it goes.

    Attributes:
        cursors: stream → the position up to which everything has arrived; something after it
            waits. A stream of which nothing waits is missing.
        marked: stream → a position after which nothing is known to wait.
        arrived: durable source → up to where it has arrived, not noted yet.
        repeated: stream → the range of the transaction that failed: servers want to have it again
            before any other.
        last_try_ts: milliseconds since 1970.
        due_ts: under which moment it stands among those to be tried later; None: it does not.
        saved: as it is in the database.
    """

    server_name: ServerName
    cursors: dict[str, int] = field(default_factory=dict)
    marked: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: int = 0
    failing_since_ts: int | None = None
    next_try_ts: int = 0
    last_try_ts: int = 0
    last_error: str | None = None
    last_success_ts: int | None = None
    last_sign_ts: int = 0
    due_ts: int | None = None
    is_running: bool = False
    saved: Destination | None = None

    def mark(self, stream: str, first: int, up_to: int) -> None:
        """Something waits, the first of it at `first`."""
        self.cursors.setdefault(stream, first - 1)
        self.marked[stream] = up_to

    def note_arrived(self, stream: str, up_to: int) -> None:
        """Everything up to a position has arrived."""
        if up_to >= self.marked.get(stream, 0):
            self.cursors.pop(stream, None)
            self.marked.pop(stream, None)
        elif stream in self.cursors:
            self.cursors[stream] = max(self.cursors[stream], up_to)

    def differs_from_saved(self, row: Destination) -> bool:
        """Whether there is something to write; that it goes on well is not."""
        if self.saved is None:
            return row.delivered is not None or row.failures > 0
        return replace(row, last_success_ts=self.saved.last_success_ts) != self.saved

    def as_destination(self, durable: Sequence[str]) -> Destination:
        """For the database.

        Args:
            durable: the streams that a restart must not forget.
        """
        waiting = [self.cursors[stream] for stream in durable if stream in self.cursors]
        return Destination(
            server_name=self.server_name,
            delivered=min(waiting, default=None),
            failures=self.failures,
            failing_since_ts=self.failing_since_ts,
            next_try_ts=self.next_try_ts,
            last_error=self.last_error,
            last_success_ts=self.last_success_ts,
        )


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


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is to be sent next.

    Attributes:
        ranges: stream → the range of positions that is in it.
        events: more than fit one transaction, when a server is told of the newest events alone.
        lasting_edus: those of durable sources.
    """

    ranges: Mapping[str, tuple[int, int]]
    events: Sequence[OwedEvent]
    edus: Sequence[Json]
    lasting_edus: Sequence[Json]


class FederationSender:
    """The follower that sends to other servers."""

    name = SENDER

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
        self._destinations = Destinations(database)
        self._client = client
        self._clock = clock
        self._randomness = randomness
        self._server_name = server_name
        self._sources = {source.name: source for source in sources}
        self._durable = [EVENTS, *(one.name for one in sources if one.is_durable)]
        self._lasting = [EVENTS, *(one.name for one in sources if not one.is_perishable)]
        self._workers = workers or ThreadWorkers(at_once, "federation sender")
        self._patient_workers = workers or ThreadWorkers(
            max(1, at_once // 4), "federation sender (retries)"
        )
        # Guards everything below that workers touch.
        self._lock = threading.Lock()
        self._queues: dict[ServerName, _Queue] = {}
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
        self._pdus: OrderedDict[int, OutgoingPdu] = OrderedDict()

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
            row = connection.execute("SELECT position FROM log_position").fetchone()
            end = 0 if row is None else int(row[0])
            nudges = list_nudges(connection)
            if end > self._known:
                marks = self._find_marks(connection, end)
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
                queue = self._queues[held.server_name] = known or _queue_of(held)
                if held.delivered is not None:
                    for stream in self._lasting:
                        queue.mark(stream, held.delivered + 1, saved)
                    self._schedule(queue)

    def _find_marks(
        self, connection: PgConnection, end: int
    ) -> dict[str, Mapping[ServerName, int]]:
        """Stream → server → the position of the first thing that is new for it."""
        known = self._known
        found: dict[str, Mapping[ServerName, int]] = {
            EVENTS: list_owed_servers(connection, self._server_name, known, end)
        }
        for name, source in self._sources.items():
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
            queue = self._queues[server_name] = _Queue(server_name)
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
            queue.last_sign_ts = now_ms
            earliest_ts = now_ms
            if nudge < RETRY_NOW:
                delay_s = min(DELAY_AFTER_SIGN_S * queue.failures, MAX_DELAY_AFTER_SIGN_S)
                earliest_ts = queue.last_try_ts + int(delay_s * 1000)
            if earliest_ts < queue.next_try_ts:
                queue.next_try_ts = earliest_ts
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

    def _submit(self, queue: _Queue) -> None:
        workers = self._patient_workers if queue.failures else self._workers
        workers.submit(partial(self._deliver, queue))

    def _deliver(self, queue: _Queue) -> None:
        """Send what waits for a server, for the length of a turn."""
        for _ in range(TRANSACTIONS_PER_TURN):
            problem: Exception | None = None
            reading = None
            is_sent = False
            queue.last_try_ts = self._clock.now_ms()
            try:
                reading = self._read(queue)
                is_sent = self._send(queue, reading)
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

    def _read(self, queue: _Queue) -> _Reading:
        """What is to be sent next: what failed before, or else what waits."""
        with self._lock:
            wanted = queue.repeated or {
                stream: (after, self._known) for stream, after in queue.cursors.items()
            }
        ranges: dict[str, tuple[int, int]] = {}
        events: Sequence[OwedEvent] = ()
        edus: list[Json] = []
        lasting: list[Json] = []
        reached = None
        with self._database.connection() as connection:
            if EVENTS in wanted:
                after, up_to = wanted[EVENTS]
                events, reached = self._read_events(connection, queue.server_name, after, up_to)
                ranges[EVENTS] = (after, reached)
            for name, (after, up_to) in wanted.items():
                if name == EVENTS or len(edus) >= MAX_EDUS:
                    continue
                source = self._sources[name]
                if reached is not None and not source.is_durable and not queue.repeated:
                    up_to = min(up_to, reached)  # no receipts of events that come later
                if up_to <= after:
                    continue
                try:
                    batch = source.list_edus(
                        connection, queue.server_name, after, up_to, MAX_EDUS - len(edus)
                    )
                except Exception as error:
                    if source.is_durable or isinstance(error, DatabaseUnavailable):
                        raise
                    log.exception("%s is not told of %s", queue.server_name, name)
                    batch = EduBatch((), up_to)
                edus += batch.edus
                if source.is_durable:
                    lasting += batch.edus
                ranges[name] = (after, batch.up_to)
        return _Reading(ranges, events, edus, lasting)

    def _read_events(
        self, connection: PgConnection, server_name: ServerName, after: int, up_to: int
    ) -> tuple[Sequence[OwedEvent], int]:
        """The next events a server is owed, and up to where that is all."""
        own = self._server_name
        events = list_owed_events(connection, own, server_name, after, up_to, MAX_PDUS + 1)
        if len(events) <= MAX_PDUS:
            return events, up_to
        missed = count_owed_events(connection, own, server_name, after, up_to, MAX_BEHIND + 1)
        if missed > MAX_BEHIND:
            log.info("%s missed many events: it is told of the newest", server_name)
            newest = list_newest_owed_events(connection, own, server_name, after, up_to)
            return newest, up_to
        reached = events[MAX_PDUS].position - 1
        return [event for event in events if event.position <= reached], reached

    def _send(self, queue: _Queue, reading: _Reading) -> bool:
        """Send everything of a reading; False when there is nothing in it. Raises RemoteError."""
        events, edus = reading.events, reading.edus
        txn_id = None
        part = 0
        while events or edus:
            pdus = self._load_pdus([event.event_position for event in events[:MAX_PDUS]])
            txn_id = txn_id or _txn_id(reading, pdus)
            if pdus or edus:
                self._transmit(
                    queue, f"{txn_id}.{part}" if part else txn_id, pdus, edus[:MAX_EDUS]
                )
            events, edus = events[MAX_PDUS:], edus[MAX_EDUS:]
            part += 1
        return part > 0

    def _load_pdus(self, event_positions: Sequence[int]) -> list[OutgoingPdu]:
        with self._lock:
            missing = [one for one in event_positions if one not in self._pdus]
        loaded: Mapping[int, OutgoingPdu] = {}
        if missing:
            with self._database.connection() as connection:
                loaded = load_outgoing_pdus(connection, missing)
        with self._lock:
            self._pdus.update(loaded)
            found = [
                loaded.get(one) or self._pdus[one]
                for one in event_positions
                if one in loaded or one in self._pdus
            ]
            while len(self._pdus) > _MAX_CACHED_PDUS:
                self._pdus.popitem(last=False)
        return found

    def _transmit(
        self,
        queue: _Queue,
        txn_id: str,
        pdus: Sequence[OutgoingPdu],
        edus: Sequence[Json],
        *,
        is_part: bool = False,
    ) -> None:
        """Send one transaction; what the server will never take is found and set aside.

        Raises:
            RemoteError: it could not be sent now.
        """
        server_name = queue.server_name
        try:
            answer = self._put(server_name, txn_id, [pdu.event for pdu in pdus], edus)
        except InvalidCanonicalJson as error:
            if len(pdus) + len(edus) == 1:
                self._set_aside(server_name, pdus, edus, f"cannot be sent: {error}")
                return
        except RemoteRefused as refusal:
            is_single = len(pdus) + len(edus) == 1
            if not _may_blame_content(refusal, queue.failures):
                raise
            if not is_part or is_single:
                # If it takes no transaction at all, the reason is not in what is sent.
                self._put(server_name, f"{txn_id}.{self._randomness.token_urlsafe(6)}", [], [])
            if is_single:
                self._set_aside(server_name, pdus, edus, str(refusal))
                return
        else:
            self._look_for_errors(server_name, pdus, answer)
            return
        for half, part in enumerate(_halves(pdus, edus)):
            self._transmit(queue, f"{txn_id}-{half}", *part, is_part=True)

    def _put(
        self, server_name: ServerName, txn_id: str, pdus: Sequence[Json], edus: Sequence[Json]
    ) -> Json:
        content: dict[str, Any] = {
            "origin": self._server_name,
            "origin_server_ts": self._clock.now_ms(),
            "pdus": list(pdus),
        }
        if edus:
            content["edus"] = list(edus)
        return self._client.put(
            server_name,
            federation_path("v1", "send", txn_id),
            content,
            timeout_s=TIMEOUT_S,
            despite_failures=True,
        )

    def _look_for_errors(
        self, server_name: ServerName, pdus: Sequence[OutgoingPdu], answer: Json
    ) -> None:
        """Name the events that a server would not take."""
        results = answer.get("pdus")
        if not isinstance(results, dict):
            return
        for pdu in pdus:
            result = results.get(pdu.event_id)
            if isinstance(result, dict) and "error" in result:
                self._note_refused(
                    server_name, pdu.event_id, pdu.room_id, str(result["error"])[:500]
                )

    def _set_aside(
        self,
        server_name: ServerName,
        pdus: Sequence[OutgoingPdu],
        edus: Sequence[Json],
        error: str,
    ) -> None:
        for pdu in pdus:
            self._note_refused(server_name, pdu.event_id, pdu.room_id, error)
        for edu in edus:
            self._note_refused(server_name, str(edu.get("edu_type")), None, error)

    def _note_refused(
        self, server_name: ServerName, what: str, room_id: RoomId | None, error: str
    ) -> None:
        log.warning("%s would not take %s; it is set aside: %s", server_name, what, error)
        self._destinations.set_aside(
            Refused(server_name, what, room_id, error, self._clock.now_ms())
        )

    # ---- how it went

    def _note_arrived(self, queue: _Queue, reading: _Reading) -> None:
        for stream, (_, up_to) in reading.ranges.items():
            queue.note_arrived(stream, up_to)
            if stream != EVENTS and stream in self._durable:
                queue.arrived[stream] = up_to
        queue.repeated = {}

    def _note_success(self, queue: _Queue) -> None:
        if queue.failures:
            log.info("%s can be reached again", queue.server_name)
        queue.failures = 0
        queue.failing_since_ts = queue.last_error = None
        queue.next_try_ts = 0
        queue.last_success_ts = self._clock.now_ms()

    def _note_failure(
        self, queue: _Queue, reading: _Reading | None, problem: Exception | None
    ) -> None:
        now_ms = self._clock.now_ms()
        if isinstance(problem, DatabaseUnavailable):
            # No fault of the server's.
            queue.next_try_ts = now_ms + int(DATABASE_DELAY_S * 1000)
        else:
            if reading is not None:
                queue.repeated = {
                    stream: range_
                    for stream, range_ in reading.ranges.items()
                    if stream in self._lasting
                }
            for stream in self._sources.keys() - set(self._lasting):
                queue.cursors.pop(stream, None)
                queue.marked.pop(stream, None)
            queue.failures += 1
            if queue.failing_since_ts is None:
                queue.failing_since_ts = now_ms
            queue.last_error = (
                str(problem) if isinstance(problem, RemoteError) else f"internal error: {problem}"
            )
            queue.next_try_ts = now_ms + int(self._delay_s(queue, problem, now_ms) * 1000)
            log.info("%s; %d failures", queue.last_error, queue.failures)
        if queue.cursors:
            self._schedule(queue)

    def _schedule(self, queue: _Queue) -> None:
        """Have it tried when its time has come."""
        if queue.due_ts is None or queue.next_try_ts < queue.due_ts:
            queue.due_ts = queue.next_try_ts
            heapq.heappush(self._due, (queue.next_try_ts, queue.server_name))

    def _delay_s(self, queue: _Queue, problem: Exception | None, now_ms: int) -> float:
        """How long to wait for the next try, in seconds."""
        heard_ts = max(queue.last_success_ts or 0, queue.last_sign_ts) or queue.failing_since_ts
        is_dead = now_ms - (heard_ts or now_ms) > DEAD_AFTER_MS
        delay_s = delay_after(queue.failures, is_dead=is_dead, uniform=self._randomness.uniform)
        if isinstance(problem, RemoteRefused) and problem.retry_after_ms is not None:
            delay_s = min(max(delay_s, problem.retry_after_ms / 1000), MAX_DELAY_S)
        return delay_s


def _queue_of(held: Destination) -> _Queue:
    """What the database remembers of a queue."""
    return _Queue(
        held.server_name,
        failures=held.failures,
        failing_since_ts=held.failing_since_ts,
        next_try_ts=held.next_try_ts,
        last_error=held.last_error,
        last_success_ts=held.last_success_ts,
        saved=held,
    )


def delay_after(
    failures: int, *, is_dead: bool, uniform: Callable[[float, float], float]
) -> float:
    """How long to leave a server alone, in seconds: twice as long each time, within a limit.

    Args:
        failures: how many tries have failed in a row.
        is_dead: whether it was not heard of for days.
        uniform: chance, so that not all come at once.
    """
    limit_s = MAX_DELAY_OF_THE_DEAD_S if is_dead else MAX_DELAY_S
    delay_s = min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 30), limit_s)
    return delay_s * uniform(0.6, 1.0)


def _may_blame_content(refusal: RemoteRefused, failures: int) -> bool:
    """Whether a refusal may be about what was sent."""
    if 400 <= refusal.status < 500:
        return refusal.status not in _ABOUT_THE_SERVER
    return refusal.status == 500 and failures >= _SUSPICIOUS_FAILURES


def _halves(
    pdus: Sequence[OutgoingPdu], edus: Sequence[Json]
) -> list[tuple[Sequence[OutgoingPdu], Sequence[Json]]]:
    """Two smaller transactions, in order, neither empty."""
    if pdus and edus:
        return [(pdus, ()), ((), edus)]
    middle = max(len(pdus), len(edus)) // 2
    return [(pdus[:middle], edus[:middle]), (pdus[middle:], edus[middle:])]


def _txn_id(reading: _Reading, first_pdus: Sequence[OutgoingPdu]) -> str:
    """A transaction's ID, made of the positions and events in it: sent again, it has the same.

    EDUs that need not arrive are no part of it. What of them has changed meanwhile is left out of
    the repetition, and comes later.
    """
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr(sorted(reading.ranges.items())).encode())
    digest.update(repr([pdu.event_id for pdu in first_pdus]).encode("utf-8", "replace"))
    for edu in reading.lasting_edus:
        digest.update(_bytes_of(edu))
    return digest.hexdigest()


def _bytes_of(edu: Json) -> bytes:
    try:
        return encode_lenient_json(edu)
    except InvalidCanonicalJson:
        return repr(edu).encode("utf-8", "surrogatepass")
