"""The history of rooms from before this server came, or from a time when it was away.

It is fetched when somebody reads that far: what is here is shown at once; what is missing is asked
of the servers in the room, for a short time.

Spec: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import UnknownRoom
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.domain.room.pdu_checks import Outcome
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError, RemoteRefused, RemoteUnreachable
from architex.projections.gaps import list_missing_events
from architex.projections.room_servers import RoomServers
from architex.storage.event_log import EventLog, RoomHead
from architex.storage.pool import Database
from architex.usecases.doors import Doors
from architex.usecases.fetching_events import MAX_BACKFILLED, Source
from architex.usecases.turns import Turns

log = logging.getLogger(__name__)

FILL_S: Final = 5.0
"""How long somebody who reads a room waits for its history."""

MAX_ROUNDS: Final = 5
MAX_ENDS: Final = 20
"""Missing events that are asked for at once, with what is before them."""

MAX_SERVERS: Final = 5
"""Who answers that they have nothing; those that cannot be reached do not count."""

LEAST_ASKED: Final = 20
"""Who needs one event gets some more: the next page is sure to be asked for."""

REST_S: Final = 60.0
"""A room whose missing history nobody has is let be for so long, in this process."""

SHORT_REST_S: Final = 5.0
"""As long as that, when somebody did not answer: they may be back soon."""

MAX_REMEMBERED: Final = 10_000

_TOO_MANY: Final = 429
_BROKEN: Final = 500


@dataclass(frozen=True, slots=True)
class _Rest:
    """A room whose missing history nobody gave.

    Attributes:
        until: until when it is let be.
        is_refused: whether all that were asked answered, and none had any of it.
    """

    until: float
    is_refused: bool


class BackfillingHistory:
    """Fills the gaps in the history of rooms that this server is in."""

    def __init__(
        self,
        *,
        database: Database,
        event_log: EventLog,
        servers: RoomServers,
        doors: Doors,
        clock: Clock,
        server_name: ServerName,
    ) -> None:
        """Hold the collaborators.

        Args:
            server_name: ours.
        """
        self._database = database
        self._event_log = event_log
        self._servers = servers
        self._doors = doors
        self._clock = clock
        self._server_name = server_name
        self._turns = Turns()
        self._fruitless: OrderedDict[RoomId, _Rest] = OrderedDict()
        self._lock = threading.Lock()

    def fill(self, room_id: RoomId, low: int, high: int, wanted: int) -> bool:
        """Fetch what is missing just before events of `low < ordering <= high`.

        Waits a few seconds at most, also for somebody else who is at it.

        Args:
            wanted: about how many events would be enough.

        Returns whether anything came.
        """
        head = self._event_log.find_head(room_id)
        if head is None or not self._list_missing(head, low, high):
            return False
        if not self._servers.is_in_room(head.room_nid, self._server_name):
            return False
        ends = self._clock.monotonic() + FILL_S
        if self._find_rest(room_id) is not None:
            return False
        with self._turns.take(room_id, FILL_S) as is_ours:
            # If it is not ours, somebody else has filled something meanwhile.
            return not is_ours or self._fill(head, low, high, wanted, ends)

    def is_incomplete(self, room_id: RoomId, low: int, high: int) -> bool:
        """Whether something is missing just before events of `low < ordering <= high`."""
        head = self._event_log.find_head(room_id)
        return head is not None and bool(self._list_missing(head, low, high))

    def may_come(self, room_id: RoomId, low: int, high: int) -> bool:
        """Whether something is missing there that somebody may still give.

        Not where this server is no longer in the room, or where it has just asked and all that
        answered had none of it.
        """
        head = self._event_log.find_head(room_id)
        if head is None or not self._list_missing(head, low, high):
            return False
        rest = self._find_rest(room_id)
        if rest is not None and rest.is_refused:
            return False
        return self._servers.is_in_room(head.room_nid, self._server_name)

    def _find_rest(self, room_id: RoomId) -> _Rest | None:
        rest = self._fruitless.get(room_id)
        return rest if rest is not None and rest.until > self._clock.monotonic() else None

    def _list_missing(self, head: RoomHead, low: int, high: int) -> list[EventId]:
        with self._database.connection() as connection:
            found = list_missing_events(connection, head.room_nid, low, high, MAX_ENDS)
        return [event.event_id for event in found]

    def _fill(self, head: RoomHead, low: int, high: int, wanted: int, ends: float) -> bool:
        came, is_refused = 0, True
        servers = [
            server_name
            for server_name in self._servers.list_servers(head.room_nid)
            if server_name != self._server_name
        ]
        answers = 0
        for _ in range(MAX_ROUNDS):
            missing = self._list_missing(head, low, high)
            if not missing or came >= wanted:
                break
            limit = min(max(wanted - came, LEAST_ASKED), MAX_BACKFILLED)
            new = 0
            while servers and not new and answers < MAX_SERVERS:
                if self._clock.monotonic() >= ends:
                    is_refused = False
                    break
                try:
                    new = self._ask(head, servers[0], missing, limit, ends)
                    answers += not new
                except RemoteError as error:
                    log.info("no history of %s: %s", head.room_id, error)
                    is_refused &= _is_final(error)
                    answers += not isinstance(error, RemoteUnreachable)
                if not new:  # nor will it give anything in the next round
                    servers.pop(0)
            if not new:
                break
            came += new
        if not came:
            self._let_be(head.room_id, is_refused=is_refused)
        return came > 0

    def _ask(
        self,
        head: RoomHead,
        server_name: ServerName,
        missing: list[EventId],
        limit: int,
        ends: float,
    ) -> int:
        """How many events a server gave that have found their place.

        Raises:
            RemoteError: it gave none.
        """
        try:
            rules = self._event_log.rules_of(head.room_id)
            source = Source(server_name, head.room_id, rules, ends)
            found = self._doors.fetching.fetch_backfill(source, missing, limit)
            verdicts = self._doors.import_history(source, found)
        except UnknownRoom as error:
            log.info("no history of %s: %s", head.room_id, error)
            return 0
        placed = (Outcome.ACCEPTED, Outcome.REJECTED)
        return sum(verdict.outcome in placed for verdict in verdicts.values())

    def _let_be(self, room_id: RoomId, *, is_refused: bool) -> None:
        with self._lock:
            seconds = REST_S if is_refused else SHORT_REST_S
            self._fruitless[room_id] = _Rest(self._clock.monotonic() + seconds, is_refused)
            self._fruitless.move_to_end(room_id)
            while len(self._fruitless) > MAX_REMEMBERED:
                self._fruitless.popitem(last=False)


def _is_final(error: RemoteError) -> bool:
    """Whether the same server will not give more in a moment."""
    if isinstance(error, RemoteRefused):
        return error.status != _TOO_MANY and error.status < _BROKEN
    return not isinstance(error, RemoteUnreachable)
