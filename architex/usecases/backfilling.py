"""Backfilling: what is needed to judge an event and is not here, is fetched from other servers.

Everything is bounded: rounds, events, bytes and time. A server that lies about a room wastes its
own transactions, and nobody else's.

Spec: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from architex.domain.identifiers import EventId, RoomId, ServerName, server_name_of
from architex.domain.pdu import Pdu
from architex.domain.room.pdu_checks import Outcome, Verdict
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError, RemoteRefused, RemoteUnreachable
from architex.storage.event_log import EventLog
from architex.usecases.doors import Doors
from architex.usecases.fetching_events import (
    Fetched,
    Source,
    ToldState,
    is_passing,
    parents_first,
)
from architex.usecases.turns import Turns

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 5
"""So often in a row a server is asked for what lies between what we have and an event."""

MAX_STATES: Final = 10
"""So many states are asked for in order to judge one event and what was missing before it."""

REST_S: Final = 60.0
"""A server that does not answer about a room delays nobody again for so long."""

KEY_TRIES: Final = 2
"""So often an event waits because a key that signed the state before it cannot be had.

Then it is judged without what was signed by it: who is away for ever shall not hold the room up.
"""

MAX_RESTING: Final = 10_000

_FORBIDDEN: Final = 403
"""What servers answer when they think that we are not in the room."""

_ONE_BY_ONE: Final = 30
"""State events that are not here are fetched one by one if there are no more of them."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What became of an event that came.

    Attributes:
        may_come: it could not be judged now, but perhaps later: something could not be had.
    """

    verdict: Verdict
    may_come: bool = False


class _Refused(Exception):
    """What an event needs was asked for and not told. The text says what."""


class _NoSuchEvent(_Refused):
    """The event that was asked for is none that counts."""


class _NoKeyYet(_Refused):
    """An event of a state was told, but the key that signed it cannot be had now."""


class Backfilling:
    """Judges events, and fetches what is lacking for that."""

    def __init__(
        self,
        event_log: EventLog,
        doors: Doors,
        clock: Clock,
    ) -> None:
        """Hold the collaborators."""
        self._event_log = event_log
        self._doors = doors
        self._clock = clock
        self._turns = Turns()
        # (Room, server) → until when it is not asked while somebody waits for the answer.
        self._resting: OrderedDict[tuple[RoomId, ServerName], float] = OrderedDict()
        self._lock = threading.Lock()

    def judge(
        self,
        origin: ServerName,
        room_id: RoomId,
        events: Sequence[Mapping[str, Any]],
        ends: float,
        *,
        tries: int = 0,
    ) -> list[Arrival]:
        """Judge events of a room, each alone, in the order given.

        Args:
            origin: who sent them, and is asked for what is lacking.
            ends: until when, by the monotonic clock. What is not judged then may come.
            tries: so often they were judged in vain. From the first on, also a server is asked
                that did not answer about this room a moment ago.

        Raises:
            UnknownRoom: this server does not know the room.
        """
        source = Source(origin, room_id, self._event_log.rules_of(room_id), ends)
        find_key = self._doors.find_keys(source, events)
        verdicts = self._doors.judging.judge(room_id, events, find_key)
        arrivals = [Arrival(verdict, verdict.lacks_key) for verdict in verdicts]
        if any(verdict.outcome is Outcome.MISSING for verdict in verdicts):
            if tries > 0 or not self._is_resting(source):
                self._complete_all(source, arrivals, tries)
            else:
                arrivals = [
                    replace(arrival, may_come=True)
                    if arrival.verdict.outcome is Outcome.MISSING
                    else arrival
                    for arrival in arrivals
                ]
        return arrivals

    def _is_resting(self, source: Source) -> bool:
        until = self._resting.get((source.room_id, source.server_name), 0.0)
        return until > self._clock.monotonic()

    def _let_rest(self, source: Source) -> None:
        with self._lock:
            key = (source.room_id, source.server_name)
            self._resting[key] = self._clock.monotonic() + REST_S
            self._resting.move_to_end(key)
            while len(self._resting) > MAX_RESTING:
                self._resting.popitem(last=False)

    def _complete_all(self, source: Source, arrivals: list[Arrival], tries: int) -> None:
        """Fetch what is lacking for the events that could not be judged."""
        wait_s = max(0.0, source.ends - self._clock.monotonic())
        with self._turns.take(source.room_id, wait_s) as is_ours:
            does_answer = is_ours
            for place, arrival in enumerate(arrivals):
                pdu = arrival.verdict.pdu
                if arrival.verdict.outcome is not Outcome.MISSING or pdu is None:
                    continue
                if not does_answer:
                    arrivals[place] = Arrival(arrival.verdict, may_come=True)
                    continue
                try:
                    arrivals[place] = self._complete(source, pdu, tries)
                except RemoteUnreachable as error:
                    log.info("cannot judge %s yet: %s", pdu.event_id, error)
                    arrivals[place] = Arrival(arrival.verdict, may_come=True)
                    # Nor will it answer about the others now.
                    self._let_rest(source)
                    does_answer = False

    def _complete(self, source: Source, pdu: Pdu, tries: int) -> Arrival:
        """Fetch what is lacking for one event, and judge it.

        Raises:
            RemoteUnreachable: its sender does not answer.
        """
        # What lacked may have come with another event meanwhile.
        verdict = self._doors.judge(source, [pdu])[pdu.event_id]
        if verdict.outcome is not Outcome.MISSING:
            return Arrival(verdict)
        room = self._event_log.get_room(source.room_id)
        filling = _Filling(
            self._doors, source, list(room.extremities), pdu, needs_keys=tries < KEY_TRIES
        )
        try:
            return Arrival(filling.run(verdict))
        except RemoteUnreachable:
            raise
        except RemoteRefused as error:
            log.info("cannot get what %s follows: %s", pdu.event_id, error)
            if error.status == _FORBIDDEN and self._removes_user_of_ours(pdu):
                return self._judge_by_current_state(source, pdu)
            return Arrival(verdict, may_come=True)
        except RemoteError as error:
            log.info("cannot judge %s yet: %s", pdu.event_id, error)
            return Arrival(verdict, may_come=True)
        except _Refused as refused:
            log.info("cannot judge %s: %s", pdu.event_id, refused)
            return Arrival(replace(verdict, reason=str(refused)), isinstance(refused, _NoKeyYet))

    def _removes_user_of_ours(self, pdu: Pdu) -> bool:
        user_id = pdu.state_key
        if user_id is None or pdu.membership not in ("leave", "ban"):
            return False
        return server_name_of(user_id) == self._doors.judging.commits.signer.server_name

    def _judge_by_current_state(self, source: Source, pdu: Pdu) -> Arrival:
        """Judge what removes our user, and with them our server: nobody tells us more any more.

        We know nothing that happened between. If the removal was allowed by what we know and by
        the events it names itself, our user has gone.
        """
        state = self._doors.known.list_current_state(source.room_id)
        return Arrival(self._doors.judge(source, [pdu], {pdu.event_id: state})[pdu.event_id])


class _Filling:
    """Fetches what is lacking for one event, and judges it then."""

    def __init__(
        self,
        doors: Doors,
        source: Source,
        earliest: Sequence[EventId],
        pdu: Pdu,
        *,
        needs_keys: bool,
    ) -> None:
        """Prepare to ask.

        Args:
            earliest: the ends of the room as we know it.
            needs_keys: what is told of a state counts only if all that signed it can be verified.
        """
        self._doors = doors
        self._known = doors.known
        self._fetching = doors.fetching
        self._source = source
        self._earliest = earliest
        self._pdu = pdu
        self._needs_keys = needs_keys
        self._states_left = MAX_STATES
        self._told: dict[EventId, frozenset[EventId]] = {}
        # Fetched, and no events that count.
        self._dropped: set[EventId] = set()

    def run(self, verdict: Verdict) -> Verdict:
        """The verdict on the event: MISSING if something still lacks.

        Raises:
            RemoteError: something could not be had.
            _Refused: something was not told.
        """
        lacking = verdict.missing.intersection(self._pdu.prev_events)
        pdus = parents_first(self._pull(lacking)) if lacking else [self._pdu]
        verdicts = self._doors.judge(self._source, pdus)
        self._dropped = {e for e, one in verdicts.items() if one.outcome is Outcome.DROPPED}
        for pdu in pdus:
            if verdicts[pdu.event_id].outcome is Outcome.MISSING:
                verdicts[pdu.event_id] = self._supply(pdu)
        return verdicts[self._pdu.event_id]

    # ---- what lies between

    def _pull(self, lacking: Collection[EventId]) -> Fetched:
        """The event and those before it that are not here, as far as the server tells them."""
        pulled: Fetched = {self._pdu.event_id: self._pdu}
        for _ in range(MAX_ROUNDS):
            latest = [
                e for e, pdu in pulled.items() if not set(pdu.prev_events).isdisjoint(lacking)
            ]
            try:
                found = self._fetching.fetch_missing(self._source, self._earliest, latest)
            except RemoteError:
                if len(pulled) == 1:
                    raise
                break
            unplaced = self._known.list_unplaced(self._source.room_id, found.keys())
            found = {event_id: found[event_id] for event_id in found if event_id in unplaced}
            if not _add_reachable(pulled, found, lacking):
                break
            parents = {prev for pdu in pulled.values() for prev in pdu.prev_events}
            lacking = self._known.list_unplaced(self._source.room_id, parents - pulled.keys())
            if not lacking:
                break
        if len(pulled) == 1:
            raise _Refused("Its server does not tell the events that it follows.")
        return pulled

    # ---- what a single event needs

    def _supply(self, pdu: Pdu) -> Verdict:
        """Get auth events and states that an event needs, and judge it."""
        verdict = self._judge_one(pdu)
        lacking = verdict.missing.intersection(pdu.auth_events)
        if verdict.outcome is Outcome.MISSING and lacking:
            self._doors.fetch_auth_events(self._source, lacking, [pdu.event_id])
            verdict = self._judge_one(pdu)
        if verdict.outcome is not Outcome.MISSING:
            return verdict
        parents = set(pdu.prev_events)
        try:
            for event_id in sorted((verdict.missing & parents) | verdict.missing_states):
                if event_id not in self._told:
                    self._told[event_id] = self._fetch_state(event_id)
        except (_NoSuchEvent, RemoteRefused) as error:
            if isinstance(error, RemoteRefused) and is_passing(error):
                raise
            # One whose server has no key, perhaps, or whose form we do not take. The room shall
            # not end there: the state before what follows it can be told, too.
            self._told[pdu.event_id] = self._fetch_state_before(pdu)
            return self._judge_one(pdu)
        still = self._known.list_unknown(self._source.room_id, parents)
        if still and len(parents) == 1:
            # It is an event that cannot be authorised, as one of another room names: it changes
            # nothing.
            self._told[pdu.event_id] = self._told[pdu.prev_events[0]]
        return self._judge_one(pdu)

    def _judge_one(self, pdu: Pdu) -> Verdict:
        return self._doors.judge(self._source, [pdu], self._told)[pdu.event_id]

    def _fetch_state(self, event_id: EventId) -> frozenset[EventId]:
        """The state before an event, every event of it recorded, and the event itself.

        Raises:
            RemoteError: it could not be had.
            _Refused: the event itself is not to be had, or too many states were asked for.
        """
        if event_id in self._dropped:
            raise _NoSuchEvent(f"{event_id}, which it follows, is dropped.")
        told = self._fetch_state_ids(event_id)
        wanted = told.state | told.auth_chain | {event_id}
        unknown = self._known.list_unknown(self._source.room_id, wanted)
        found: Fetched = {}
        if event_id in unknown:
            found |= self._fetching.fetch_events(self._source, [event_id])
            if event_id not in found:
                raise _NoSuchEvent(f"{event_id}, which it follows, is no event of this room.")
            unknown.discard(event_id)
        verdict = self._import_state(event_id, told, unknown, found).get(event_id)
        if verdict is not None and verdict.outcome is Outcome.DROPPED:
            raise _NoSuchEvent(f"{event_id}, which it follows, is dropped: {verdict.reason}")
        return told.state

    def _fetch_state_before(self, pdu: Pdu) -> frozenset[EventId]:
        """The state before an event that we have, every event of it recorded.

        Raises:
            RemoteError: it could not be had.
            _Refused: too many states were asked for.
        """
        told = self._fetch_state_ids(pdu.event_id)
        wanted = (told.state | told.auth_chain) - {pdu.event_id}
        unknown = self._known.list_unknown(self._source.room_id, wanted)
        self._import_state(pdu.event_id, told, unknown, {})
        return told.state

    def _fetch_state_ids(self, event_id: EventId) -> ToldState:
        if self._states_left == 0:
            raise _Refused("It would need too many states of other servers.")
        self._states_left -= 1
        return self._fetching.fetch_state_ids(self._source, event_id)

    def _import_state(
        self, event_id: EventId, told: ToldState, unknown: Collection[EventId], found: Fetched
    ) -> dict[EventId, Verdict]:
        """Record events of the state before an event.

        Args:
            unknown: those that are to be fetched.
            found: those that were.

        Raises:
            _NoKeyYet: some could not be verified for want of a key.
        """
        if len(unknown) > _ONE_BY_ONE:
            found |= self._fetching.fetch_state(self._source, event_id, unknown)
        elif unknown:
            found |= self._fetching.fetch_events(self._source, unknown)
        verdicts = self._doors.import_state(self._source, found)
        if self._needs_keys:
            for one, verdict in verdicts.items():
                if verdict.lacks_key and (one in told.state or one == event_id):
                    raise _NoKeyYet(f"{one}, of the state before it: {verdict.reason}")
        return verdicts


def _add_reachable(pulled: Fetched, found: Fetched, lacking: Collection[EventId]) -> bool:
    """Add those of the found events that what we pulled follows; tells whether there were any."""
    waiting = [event_id for event_id in lacking if event_id in found]
    before = len(pulled)
    while waiting:
        event_id = waiting.pop()
        if event_id not in pulled:
            pulled[event_id] = found[event_id]
            waiting += [prev for prev in found[event_id].prev_events if prev in found]
    return len(pulled) > before
