"""Loading events for readers: by position or event ID, pruned when redacted, remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from architex.domain.client_event import RecordedEvent, read_recorded_event
from architex.domain.identifiers import EventId
from architex.domain.room_versions import get_room_version
from architex.storage.pool import PgConnection

DEFAULT_CACHE_BYTES: Final = 32 * 1024 * 1024
# What an event costs in memory beside its bytes, roughly: Python's objects for its fields, and
# the parsed JSON, which is several times as large as its text.
_OVERHEAD_BYTES: Final = 2000
_PARSED_FACTOR: Final = 5

Reference: TypeAlias = tuple[int, int | None]
"""The position of an event and of the redaction of it (None: it is not redacted)."""


class Placed(Protocol):
    """Where an event stands: in the timeline of its room, and on which branch of it."""

    @property
    def position(self) -> int:
        """The event's integer ID."""

    @property
    def redacted_by(self) -> int | None:
        """The position of the redaction of it, if any."""

    @property
    def ordering(self) -> int | None:
        """Its place in the timeline; None for an event that has none there."""

    @property
    def state_at(self) -> int | None:
        """The position whose current state, changed by `overlay`, was before it.

        None where the timeline itself says what was before: for events that followed the end of
        the room as it was, and for backfilled ones.
        """

    @property
    def overlay(self) -> int | None:
        """What the state before it has otherwise than that at `state_at`; None for nothing."""


@dataclass(frozen=True, slots=True)
class EventPlace:
    """Where an event stands, and what became of it.

    Attributes:
        verdict: 0 accepted, 1 soft-failed, 2 rejected.
        redacted_by: the position of the redaction of it, if any.
        ordering: its place in the timeline; None for what another server told us only as part of
            a state.
        state_at, overlay: the state before it, if it stands on a branch.
    """

    position: int
    room_nid: int
    event_id: EventId
    verdict: int
    redacted_by: int | None
    ordering: int | None
    state_at: int | None
    overlay: int | None

    @property
    def reference(self) -> Reference:
        """By which it is loaded."""
        return (self.position, self.redacted_by)


_PLACE: Final = """
SELECT g.position, g.room_nid, g.event_id, g.verdict, g.redacted_by,
    CASE WHEN g.is_placed THEN coalesce(g.ordering, g.position) END, g.state_at, g.overlay
FROM event_graph g WHERE """
_PLACES: Final = f"{_PLACE} g.event_id = ANY(%s)"
_COMPANIONS: Final = f"{_PLACES} UNION ALL {_PLACE} g.position = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Companions:
    """What renderings of events refer to: events that they replaced, and redactions of them.

    Attributes:
        events: by event ID.
        places: where they stand, likewise.
        redactions: by position.
    """

    events: Mapping[EventId, RecordedEvent]
    places: Mapping[EventId, EventPlace]
    redactions: Mapping[int, RecordedEvent]


_NO_COMPANIONS: Final = Companions({}, {}, {})


class EventReads:
    """Loads events; remembers the most recently used ones up to a number of bytes."""

    def __init__(self, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, tuple[RecordedEvent, int]] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def load_events(
        self, connection: PgConnection, references: Iterable[Reference]
    ) -> dict[int, RecordedEvent]:
        """Events by their positions; one query for those that are not remembered."""
        found: dict[int, RecordedEvent] = {}
        missing: dict[int, int | None] = {}
        with self._lock:
            for position, redacted_by in references:
                cached = self._cached.get(position)
                if cached is not None and cached[0].redacted_by == redacted_by:
                    self._cached.move_to_end(position)
                    found[position] = cached[0]
                else:
                    missing[position] = redacted_by
        if not missing:
            return found
        rows = connection.execute(
            "SELECT s.notification_id, s.state, r.room_version FROM stored_events s"
            " JOIN rooms r ON r.room_id = s.originator_id WHERE s.notification_id = ANY(%s)",
            (list(missing),),
            binary=True,
        ).fetchall()
        for position, state, room_version in rows:
            found[position] = self.take((position, missing[position]), state, room_version)
        return found

    def take(self, reference: Reference, state: bytes, room_version: str) -> RecordedEvent:
        """The event of a stored fact, which is remembered.

        Args:
            state: the fact's bytes.
        """
        position, redacted_by = reference
        rules = get_room_version(room_version)
        event = read_recorded_event(position, state, redacted_by, rules)
        with self._lock:
            self._remember(event, len(state))
        return event

    def load_companions(
        self, connection: PgConnection, events: Collection[RecordedEvent]
    ) -> Companions:
        """What renderings of `events` refer to: state events they replaced, redactions of them."""
        replaced = [
            event.replaces
            for event in events
            if event.replaces is not None and event.redacted_by is None
        ]
        redactions = [event.redacted_by for event in events if event.redacted_by is not None]
        if not replaced and not redactions:
            return _NO_COMPANIONS
        rows = connection.execute(_COMPANIONS.encode(), (replaced, redactions)).fetchall()
        places = {row[2]: EventPlace(*row) for row in rows}
        loaded = self.load_events(connection, [place.reference for place in places.values()])
        return Companions({event.event_id: event for event in loaded.values()}, places, loaded)

    def find_places(
        self, connection: PgConnection, event_ids: Collection[EventId]
    ) -> dict[EventId, EventPlace]:
        """Where events stand; those that are not known are missing."""
        rows = connection.execute(
            _PLACES.encode(),
            # U+0000 is in no event ID, and PostgreSQL's text cannot hold it.
            ([event_id for event_id in event_ids if "\0" not in event_id],),
        ).fetchall()
        return {row[2]: EventPlace(*row) for row in rows}

    def _remember(self, event: RecordedEvent, size: int) -> None:
        cost = size * _PARSED_FACTOR + _OVERHEAD_BYTES
        replaced = self._cached.pop(event.position, None)
        if replaced is not None:
            self._cached_bytes -= replaced[1]
        self._cached[event.position] = (event, cost)
        self._cached_bytes += cost
        while self._cached_bytes > self._cache_bytes:
            _, (_, freed) = self._cached.popitem(last=False)
            self._cached_bytes -= freed
