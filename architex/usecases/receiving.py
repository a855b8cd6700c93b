"""Receiving: transactions of other servers, with events of rooms and what is told beside them.

Each event is judged alone, the events of each room in order, and rooms beside each other: a room
that is broken delays no other. What cannot be judged in time waits in the database.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from architex.domain.canonical_json import Json
from architex.domain.errors import (
    BadJson,
    DatabaseUnavailable,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    UnknownRoom,
)
from architex.domain.identifiers import EventId, RoomId, ServerName, is_event_id, is_room_id
from architex.domain.pdu import compute_event_id, parse_pdu
from architex.domain.room.pdu_checks import Outcome, Verdict
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.gateways.clock import Clock
from architex.projections.server_acls import ServerAcls
from architex.storage.event_log import EventLog
from architex.storage.received_transactions import ReceivedTransactions
from architex.storage.waiting_pdus import WaitingPdu, WaitingPdus
from architex.usecases.backfilling import Arrival, Backfilling
from architex.usecases.rate_limits import RateLimits
from architex.usecases.receiving_edus import ReceivingEdus
from architex.usecases.side_by_side import call_each

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_TXN_ID_BYTES: Final = 255

AT_ONCE: Final = 4
"""Transactions of one server that are worked on at once, in one process."""

TRANSACTION_S: Final = 15.0
"""What is not judged after so many seconds waits; the transaction is answered."""

_TURN_S: Final = 10.0
_ROOMS_AT_ONCE: Final = 8

RETRY_S: Final = (5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""When an event that waits is tried again: after so many seconds, and then no more."""

RETRIED_AT_ONCE: Final = 50
RETRY_TIME_S: Final = 30.0
"""How long a room may take when its waiting events are tried again."""

KIND: Final = "federation"
"""The kind of rate limit that transactions count to, per server."""

ElsewhereHandler: TypeAlias = Callable[[ServerName, Json], bool]
"""Is offered events of rooms that this server is not in; tells whether it took one."""


@dataclass(frozen=True, slots=True)
class _Incoming:
    """An event of a transaction, not judged yet.

    Attributes:
        event_id: None where it cannot even be computed.
    """

    event: Json
    room_id: RoomId
    event_id: EventId | None


class Receiving:
    """Takes transactions in."""

    def __init__(
        self,
        *,
        event_log: EventLog,
        acls: ServerAcls,
        backfilling: Backfilling,
        edus: ReceivingEdus,
        transactions: ReceivedTransactions,
        waiting: WaitingPdus,
        rate_limits: RateLimits,
        clock: Clock,
        server_name: ServerName,
        take_elsewhere: ElsewhereHandler | None = None,
        is_entering: Callable[[RoomId], bool] = lambda _: False,
    ) -> None:
        """Hold the collaborators.

        Args:
            server_name: ours.
            take_elsewhere: offered events of rooms that this server is not in.
            is_entering: whether a room is just being entered. Others hear of the join before
                this server has all that the join brings; what they send then waits.
        """
        self._is_entering = is_entering
        self._event_log = event_log
        self._acls = acls
        self._backfilling = backfilling
        self._edus = edus
        self._transactions = transactions
        self._waiting = waiting
        self._rate_limits = rate_limits
        self._clock = clock
        self._server_name = server_name
        self._take_elsewhere = take_elsewhere
        self._origins = _Origins()

    def check_budget(self, claimed_origin: ServerName) -> None:
        """Before its signature is looked at: may a server send a transaction now?

        Raises:
            LimitExceeded: not now.
        """
        self._rate_limits.check(KIND, claimed_origin)

    def receive_transaction(self, origin: ServerName, txn_id: str, content: Json) -> Json:
        """Take in what a server sent; the answer says what became of each event.

        Args:
            origin: proven.
            content: the body of the request.

        Raises:
            BadJson, InvalidParam: it is not of the form of a transaction, or too large.
            LimitExceeded: the server sends too many, or too many at once.
            DatabaseUnavailable: nothing is sure; it must come again.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid
        """
        self._rate_limits.spend(KIND, origin)
        if not txn_id or "\0" in txn_id or len(txn_id.encode()) > MAX_TXN_ID_BYTES:
            raise InvalidParam(f"A transaction ID has 1 to {MAX_TXN_ID_BYTES} bytes.")
        pdus = _read_list(content, "pdus", MAX_PDUS)
        edus = _read_list(content, "edus", MAX_EDUS)
        with self._origins.turn(origin, txn_id, _TURN_S):
            answer = self._transactions.find_answer(origin, txn_id)
            if answer is None:
                answer = {"pdus": self._receive_pdus(origin, pdus)}
                for edu in edus:
                    self._edus.receive(origin, edu)
                self._transactions.record_answer(origin, txn_id, answer, self._clock.now_ms())
        return answer

    def forget_answers(self, before_ts: int) -> int:
        """Forget answers older than a moment (milliseconds since 1970); returns how many."""
        return self._transactions.delete_before(before_ts)

    # ---- events

    def _receive_pdus(self, origin: ServerName, pdus: Sequence[object]) -> dict[EventId, Json]:
        """Event ID → what became of it."""
        rooms: dict[RoomId, list[_Incoming]] = {}
        for incoming in self._read_pdus(pdus):
            rooms.setdefault(incoming.room_id, []).append(incoming)
        ends = self._clock.monotonic() + TRANSACTION_S

        def receive(room_id: RoomId) -> dict[EventId, Json]:
            return self._receive_of_room(origin, room_id, rooms[room_id], ends)

        results: dict[EventId, Json] = {}
        if len(rooms) <= 1:
            for room_id in rooms:
                results |= receive(room_id)
            return results
        with ThreadPoolExecutor(min(len(rooms), _ROOMS_AT_ONCE)) as workers:
            for result in workers.map(receive, rooms):
                results |= result
        return results

    def _read_pdus(self, pdus: Sequence[object]) -> Iterator[_Incoming]:
        """What are events of some room at all, each once."""
        versions: dict[RoomId, RoomVersionRules | None] = {}
        seen: list[Json] = []
        for event in pdus:
            # By all of it: copies with an equal ID may have other signatures and contents.
            if not isinstance(event, dict) or event in seen:
                continue
            seen.append(event)
            room_id = event.get("room_id", _room_created_by(event))
            if not isinstance(room_id, str) or not is_room_id(room_id) or "\0" in room_id:
                continue
            if room_id not in versions:
                versions[room_id] = self._find_rules(room_id)
            event_id = _find_event_id(event, versions[room_id] or _likely_rules(room_id))
            yield _Incoming(event, room_id, event_id)

    def _find_rules(self, room_id: RoomId) -> RoomVersionRules | None:
        try:
            return self._event_log.rules_of(room_id)
        except UnknownRoom:
            return None

    def _receive_of_room(
        self, origin: ServerName, room_id: RoomId, incoming: Sequence[_Incoming], ends: float
    ) -> dict[EventId, Json]:
        try:
            admission = self._acls.look_up(room_id, self._server_name, origin)
            if not admission.is_here and self._is_entering(room_id):
                waiting = Arrival(Verdict(Outcome.MISSING, reason="Not entered yet."), True)
                return self._answer(origin, room_id, incoming, [waiting] * len(incoming))
            if not admission.is_here:
                return self._receive_elsewhere(origin, incoming)
            if not admission.is_allowed:
                return _all_failed(incoming, "The room's server ACL denies it.")
            events = [one.event for one in incoming]
            arrivals = self._backfilling.judge(origin, room_id, events, ends)
            return self._answer(origin, room_id, incoming, arrivals)
        except DatabaseUnavailable:
            raise
        except MatrixError as error:
            return _all_failed(incoming, error.message)
        except Exception:
            # A defect of ours: the other rooms shall not suffer from it.
            log.exception("Receiving events of %s from %s failed", room_id, origin)
            return _all_failed(incoming, "This server failed to judge it.")

    def _receive_elsewhere(
        self, origin: ServerName, incoming: Sequence[_Incoming]
    ) -> dict[EventId, Json]:
        """Events of a room that we are not in: perhaps an invite is taken back."""
        take = self._take_elsewhere or (lambda *_: False)
        problem = {"error": "This server is not in the room."}
        return {
            one.event_id: {} if take(origin, one.event) else problem
            for one in incoming
            if one.event_id is not None
        }

    def _answer(
        self,
        origin: ServerName,
        room_id: RoomId,
        incoming: Sequence[_Incoming],
        arrivals: Sequence[Arrival],
    ) -> dict[EventId, Json]:
        held = self._let_wait(origin, room_id, incoming, arrivals)
        results: dict[EventId, Json] = {}
        for one, arrival in zip(incoming, arrivals, strict=True):
            # Of several copies the good one counts.
            if one.event_id is not None and results.get(one.event_id) != {}:
                is_held = one.event_id in held
                results[one.event_id] = {} if is_held else _told(arrival.verdict)
        return results

    # ---- events that wait

    def _let_wait(
        self,
        origin: ServerName,
        room_id: RoomId,
        incoming: Sequence[_Incoming],
        arrivals: Sequence[Arrival],
    ) -> set[EventId]:
        """Keep what may be judged later; returns what is kept: not too much of it is."""
        waiting = [
            WaitingPdu(room_id, one.event_id, origin, one.event, 0)
            for one, arrival in zip(incoming, arrivals, strict=True)
            if arrival.may_come and one.event_id is not None
        ]
        if not waiting:
            return set()
        now_ms = self._clock.now_ms()
        return self._waiting.add(waiting, now_ms, now_ms + int(RETRY_S[0] * 1000))

    def retry_waiting(self) -> int:
        """Judge the events that wait and are due; returns how many were tried.

        For a follower; one process at a time.
        """
        due = self._waiting.list_due(self._clock.now_ms(), RETRIED_AT_ONCE)
        rooms: dict[tuple[RoomId, ServerName], list[WaitingPdu]] = {}
        for pdu in due:
            rooms.setdefault((pdu.room_id, pdu.origin), []).append(pdu)
        call_each(self._retry_of_room, rooms.values(), at_once=_ROOMS_AT_ONCE)
        return len(due)

    def _retry_of_room(self, pdus: Sequence[WaitingPdu]) -> None:
        room_id, origin = pdus[0].room_id, pdus[0].origin
        ends = self._clock.monotonic() + RETRY_TIME_S
        try:
            admission = self._acls.look_up(room_id, self._server_name, origin)
            if not admission.is_here and self._is_entering(room_id):
                arrivals = [Arrival(Verdict(Outcome.MISSING), may_come=True) for _ in pdus]
            elif not admission.is_here or not admission.is_allowed:
                arrivals = [Arrival(Verdict(Outcome.DROPPED)) for _ in pdus]
            else:
                events = [pdu.event for pdu in pdus]
                tries = 1 + min(pdu.tries for pdu in pdus)
                arrivals = self._backfilling.judge(origin, room_id, events, ends, tries=tries)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("Judging events of %s that wait failed", room_id)
            arrivals = [Arrival(Verdict(Outcome.MISSING), may_come=True) for _ in pdus]
        done = []
        later: dict[EventId, int] = {}
        for pdu, arrival in zip(pdus, arrivals, strict=True):
            if arrival.may_come and pdu.tries + 1 < len(RETRY_S):
                wait_ms = int(RETRY_S[pdu.tries + 1] * 1000)
                later[pdu.event_id] = self._clock.now_ms() + wait_ms
            else:
                done.append(pdu.event_id)
        self._waiting.remove(room_id, done)
        self._waiting.postpone(room_id, later)


class _Origins:
    """Who is being answered now: so many transactions at once per server, each only once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: dict[ServerName, set[str]] = {}

    @contextmanager
    def turn(self, origin: ServerName, txn_id: str, timeout_s: float) -> Iterator[None]:
        """Wait until a transaction may be worked on.

        Raises:
            LimitExceeded: the server has too much under way.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_free(origin, txn_id), timeout_s):
                raise LimitExceeded("Too many transactions at once.", retry_after_ms=1000)
            self._under_way.setdefault(origin, set()).add(txn_id)
        try:
            yield
        finally:
            with self._changed:
                under_way = self._under_way[origin]
                under_way.discard(txn_id)
                if not under_way:
                    del self._under_way[origin]
                self._changed.notify_all()

    def _is_free(self, origin: ServerName, txn_id: str) -> bool:
        under_way = self._under_way.get(origin, set())
        return txn_id not in under_way and len(under_way) < AT_ONCE


def _read_list(content: Mapping[str, Any], name: str, limit: int) -> list[Any]:
    value = content.get(name, [])
    if not isinstance(value, list):
        raise BadJson(f"{name} must be a list.")
    if len(value) > limit:
        raise BadJson(f"A transaction has at most {limit} {name}.")
    return value


def _told(verdict: Verdict) -> Json:
    """What the sender is told of a verdict: an event that we keep is no failure of theirs."""
    if verdict.outcome in (Outcome.DROPPED, Outcome.MISSING):
        return {"error": verdict.reason or "It is no event of this room."}
    return {}


def _all_failed(incoming: Iterable[_Incoming], problem: str) -> dict[EventId, Json]:
    return {one.event_id: {"error": problem} for one in incoming if one.event_id is not None}


def _find_event_id(event: Json, rules: RoomVersionRules) -> EventId | None:
    """The ID of an event, also of one that has not the format of its version."""
    event_id: EventId | None = None
    try:
        event_id = parse_pdu(rules, event).event_id
    except MatrixError:
        # It will be dropped; the sender is told so by an ID, where there is something like one.
        with suppress(MatrixError, KeyError, TypeError, ValueError, AttributeError):
            event_id = compute_event_id(rules, event)
    if not isinstance(event_id, str) or not is_event_id(event_id) or "\0" in event_id:
        return None
    return event_id


def _room_created_by(event: Json) -> RoomId | None:
    """The room of an event that names none: since version 12, m.room.create makes its name."""
    if event.get("type") != "m.room.create":
        return None
    event_id = _find_event_id(event, get_room_version("12"))
    return None if event_id is None else "!" + event_id[1:]


def _likely_rules(room_id: RoomId) -> RoomVersionRules:
    """Rules to compute event IDs with in rooms that we know nothing of."""
    return get_room_version("11" if ":" in room_id else "12")
