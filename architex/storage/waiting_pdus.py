"""Events of other servers that wait to be judged until what they refer to can be had."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_lenient_json, parse_json
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.storage.pool import Database

MAX_PER_ROOM: Final = 200
MAX_PER_ORIGIN: Final = 1_000

_INSERT: Final = """
INSERT INTO waiting_pdus AS w (room_id, event_id, origin, event, received_ts, next_try_ts)
SELECT %(room)s, %(id)s, %(origin)s, %(event)s, %(now)s, %(next)s
WHERE (SELECT count(*) FROM waiting_pdus WHERE room_id = %(room)s) < %(of_room)s
AND (SELECT count(*) FROM waiting_pdus WHERE origin = %(origin)s) < %(of_origin)s
ON CONFLICT (room_id, event_id) DO UPDATE SET event_id = w.event_id RETURNING 1"""


@dataclass(frozen=True, slots=True)
class WaitingPdu:
    """An event that waits.

    Attributes:
        origin: the server that sent it.
        event: as it came; nothing of it was checked but its form and, as a rule, its signatures.
        tries: how often it was tried in vain since it waits.
    """

    room_id: RoomId
    event_id: EventId
    origin: ServerName
    event: Mapping[str, Any]
    tries: int


class WaitingPdus:
    """The waiting_pdus table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pdus: Iterable[WaitingPdu], now_ms: int, next_try_ts: int) -> set[EventId]:
        """Let events wait; returns those that do: of a room and of a server not too many may.

        Args:
            now_ms, next_try_ts: milliseconds since 1970.
        """
        waiting = set()
        with self._database.connection() as connection:
            for pdu in pdus:
                row = connection.execute(
                    _INSERT,
                    {
                        "room": pdu.room_id,
                        "id": pdu.event_id,
                        "origin": pdu.origin,
                        "event": encode_lenient_json(pdu.event),
                        "now": now_ms,
                        "next": next_try_ts,
                        "of_room": MAX_PER_ROOM,
                        "of_origin": MAX_PER_ORIGIN,
                    },
                ).fetchone()
                if row is not None:
                    waiting.add(pdu.event_id)
        return waiting

    def list_due(self, now_ms: int, limit: int) -> list[WaitingPdu]:
        """Events whose next try is due, those of one room together; at most `limit`."""
        rows = self._database.fetch_all(
            "SELECT room_id, event_id, origin, event, tries FROM ("
            " SELECT * FROM waiting_pdus WHERE next_try_ts <= %s ORDER BY next_try_ts LIMIT %s) w"
            " ORDER BY room_id, received_ts, event_id",
            (now_ms, limit),
        )
        return [
            WaitingPdu(room_id, event_id, origin, parse_json(event), tries)
            for room_id, event_id, origin, event, tries in rows
        ]

    def postpone(self, room_id: RoomId, next_tries: Mapping[EventId, int]) -> None:
        """Note that events were tried in vain, and when to try next (milliseconds since 1970)."""
        self._database.execute(
            "UPDATE waiting_pdus w SET tries = w.tries + 1, next_try_ts = k.next_try_ts"
            " FROM unnest(%s::text[], %s::int8[]) AS k (event_id, next_try_ts)"
            " WHERE w.room_id = %s AND w.event_id = k.event_id",
            (list(next_tries), list(next_tries.values()), room_id),
        )

    def remove(self, room_id: RoomId, event_ids: Collection[EventId]) -> None:
        """Forget events: they were judged, or nothing can be made of them."""
        if event_ids:
            self._database.execute(
                "DELETE FROM waiting_pdus WHERE room_id = %s AND event_id = ANY(%s)",
                (room_id, list(event_ids)),
            )

    def count(self) -> int:
        """How many events wait."""
        row = self._database.fetch_one("SELECT count(*) FROM waiting_pdus")
        return 0 if row is None else int(row[0])
