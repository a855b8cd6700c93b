"""Receipts of other servers' users for events that are not here yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import EventId, RoomId, UserId, server_name_of
from architex.storage.pool import Database

MAX_PER_ORIGIN: Final = 200
MAX_IN_ALL: Final = 10_000

_INSERT: Final = """
INSERT INTO early_receipts (room_id, user_id, thread_id, origin, event_ids, ts, expires_ts)
SELECT %(room)s, %(user)s, %(thread)s, %(origin)s, %(events)s, %(ts)s, %(expires)s
WHERE (SELECT count(*) FROM early_receipts WHERE origin = %(origin)s) < %(of_origin)s
AND (SELECT count(*) FROM early_receipts) < %(in_all)s
ON CONFLICT (room_id, user_id, thread_id) DO UPDATE
SET event_ids = excluded.event_ids, ts = excluded.ts, expires_ts = excluded.expires_ts"""

_TAKE: Final = """
DELETE FROM early_receipts e USING (
    SELECT room_id, user_id, thread_id FROM early_receipts w
    WHERE EXISTS (SELECT 1 FROM event_graph g WHERE g.event_id = ANY (w.event_ids)) LIMIT %s
    FOR UPDATE SKIP LOCKED) come
WHERE (e.room_id, e.user_id, e.thread_id) = (come.room_id, come.user_id, come.thread_id)
RETURNING e.room_id, e.user_id, e.thread_id, e.event_ids, e.ts"""


@dataclass(frozen=True, slots=True)
class EarlyReceipt:
    """A receipt that came before its event.

    Attributes:
        thread_id: empty when it is for the room, regardless of threads.
        ts: when it was sent, milliseconds since 1970.
    """

    room_id: RoomId
    user_id: UserId
    thread_id: str
    event_ids: Sequence[EventId]
    ts: int


class EarlyReceipts:
    """The early_receipts table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, receipts: Sequence[EarlyReceipt], expires_ts: int) -> None:
        """Let receipts wait, the newest of each user; of a server, and in all, not too many may.

        Args:
            expires_ts: until when, milliseconds since 1970.
        """
        with self._database.transaction() as connection:
            # In one order, so that transactions wait for each other, and never in a circle.
            for receipt in sorted(receipts, key=lambda one: (one.user_id, one.thread_id)):
                connection.execute(
                    _INSERT,
                    {
                        "room": receipt.room_id,
                        "user": receipt.user_id,
                        "thread": receipt.thread_id,
                        "origin": server_name_of(receipt.user_id),
                        "events": list(receipt.event_ids),
                        "ts": receipt.ts,
                        "expires": expires_ts,
                        "of_origin": MAX_PER_ORIGIN,
                        "in_all": MAX_IN_ALL,
                    },
                )

    def take_come(self, limit: int) -> list[EarlyReceipt]:
        """Receipts whose events are here by now; they wait no more."""
        with self._database.connection() as connection:
            rows = connection.execute(_TAKE, (limit,)).fetchall()
        return [EarlyReceipt(*row) for row in rows]
