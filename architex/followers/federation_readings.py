"""What a server is to be sent next: some events that it is owed, and some EDUs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.canonical_json import Json
from architex.domain.errors import DatabaseUnavailable
from architex.domain.identifiers import ServerName
from architex.projections.federation_outbox import (
    OwedEvent,
    count_owed_events,
    list_newest_owed_events,
    list_owed_events,
)
from architex.projections.outgoing_edus import EVENTS, EduBatch, EduSource
from architex.storage.pool import Database, PgConnection

log = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_BEHIND: Final = 500
"""A server that misses more events is told of the newest in each room, and asks for the rest."""


@dataclass(frozen=True, slots=True)
class Reading:
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


class Readings:
    """Reads what servers are to be sent."""

    def __init__(
        self, database: Database, server_name: ServerName, sources: Sequence[EduSource]
    ) -> None:
        """Remember the collaborators.

        Args:
            server_name: ours.
            sources: the kinds of EDUs to send.
        """
        self._database = database
        self._server_name = server_name
        self._sources = {source.name: source for source in sources}

    def read(
        self,
        destination: ServerName,
        wanted: Mapping[str, tuple[int, int]],
        *,
        is_repetition: bool,
    ) -> Reading:
        """What of some ranges of positions goes first.

        Args:
            wanted: stream → the range in which something waits.
            is_repetition: all of it was in one reading before, and is to be again.
        """
        ranges: dict[str, tuple[int, int]] = {}
        events: Sequence[OwedEvent] = ()
        edus: list[Json] = []
        lasting: list[Json] = []
        reached = None
        with self._database.connection() as connection:
            if EVENTS in wanted:
                after, up_to = wanted[EVENTS]
                events, reached = self._read_events(connection, destination, after, up_to)
                ranges[EVENTS] = (after, reached)
            for name, (after, up_to) in wanted.items():
                if name == EVENTS or len(edus) >= MAX_EDUS:
                    continue
                source = self._sources[name]
                if reached is not None and not source.is_durable and not is_repetition:
                    up_to = min(up_to, reached)  # no receipts of events that come later
                if up_to <= after:
                    continue
                try:
                    batch = source.list_edus(
                        connection, destination, after, up_to, MAX_EDUS - len(edus)
                    )
                except Exception as error:
                    if source.is_durable or isinstance(error, DatabaseUnavailable):
                        raise
                    log.exception("%s is not told of %s", destination, name)
                    batch = EduBatch((), up_to)
                edus += batch.edus
                if source.is_durable:
                    lasting += batch.edus
                ranges[name] = (after, batch.up_to)
        return Reading(ranges, events, edus, lasting)

    def _read_events(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int
    ) -> tuple[Sequence[OwedEvent], int]:
        """The next events a server is owed, and up to where that is all."""
        own = self._server_name
        events = list_owed_events(connection, own, destination, after, up_to, MAX_PDUS + 1)
        if len(events) <= MAX_PDUS:
            return events, up_to
        missed = count_owed_events(connection, own, destination, after, up_to, MAX_BEHIND + 1)
        if missed > MAX_BEHIND:
            log.info("%s missed many events: it is told of the newest", destination)
            newest = list_newest_owed_events(connection, own, destination, after, up_to)
            return newest, up_to
        reached = events[MAX_PDUS].position - 1
        return [event for event in events if event.position <= reached], reached
