"""Receipts: up to which event of a room somebody has read.

Spec: https://spec.matrix.org/v1.19/client-server-api/#receipts
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import EventId, UserId
from architex.storage.pool import Execute, PgConnection

UNTHREADED: Final = ""
"""In place of a thread ID: the receipt is for the room, regardless of threads."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far a user has read.

    Attributes:
        receipt_type: `m.read` or `m.read.private`.
        thread_id: UNTHREADED, `main` or the event ID of a thread's root.
        ts: when it was sent, milliseconds since 1970.
    """

    room_nid: int
    receipt_type: str
    user_id: UserId
    thread_id: str
    event_id: EventId
    ts: int


def put_receipt(execute: Execute, position: int, receipt: Receipt, event_ordering: int) -> None:
    """Move a receipt forward, within a batch of the commit queue; it never goes back.

    Args:
        event_ordering: of the receipt's event in the room's timeline.
    """
    execute(
        "INSERT INTO receipts AS held (room_nid, receipt_type, user_id, thread_id, event_id,"
        " event_ordering, ts, position) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (room_nid, receipt_type, user_id, thread_id) DO UPDATE SET"
        " event_id = excluded.event_id, event_ordering = excluded.event_ordering,"
        " ts = excluded.ts, position = excluded.position"
        " WHERE held.event_ordering < excluded.event_ordering",
        (
            receipt.room_nid,
            receipt.receipt_type,
            receipt.user_id,
            receipt.thread_id,
            receipt.event_id,
            event_ordering,
            receipt.ts,
            position,
        ),
    )


_COLUMNS: Final = "SELECT room_nid, receipt_type, user_id, thread_id, event_id, ts FROM receipts x"
_IN_JOINED_ROOMS: Final = (
    " AND EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = %(user)s"
    " AND m.room_nid = x.room_nid AND m.membership = 'join')"
)
_SHOWN: Final = " AND (x.receipt_type <> 'm.read.private' OR x.user_id = %(user)s)"


def list_receipts(
    connection: PgConnection, user_id: UserId, room_nids: Collection[int]
) -> list[Receipt]:
    """All receipts of rooms that a user may see: private ones are the user's own only."""
    if not room_nids:
        return []
    rows = connection.execute(
        _COLUMNS + " WHERE x.room_nid = ANY(%(rooms)s)" + _SHOWN,
        {"user": user_id, "rooms": list(room_nids)},
    ).fetchall()
    return [Receipt(*row) for row in rows]


def list_changed_receipts(connection: PgConnection, user_id: UserId, since: int) -> list[Receipt]:
    """The receipts after a position in the rooms a user is in, as far as the user may see them."""
    rows = connection.execute(
        _COLUMNS + " WHERE x.position > %(since)s" + _SHOWN + _IN_JOINED_ROOMS,
        {"user": user_id, "since": since},
    ).fetchall()
    return [Receipt(*row) for row in rows]


def find_own_receipt(
    connection: PgConnection, room_nid: int, receipt_type: str, user_id: UserId, thread_id: str
) -> int | None:
    """The timeline ordering up to which a user has read; None when there is no such receipt."""
    row = connection.execute(
        "SELECT event_ordering FROM receipts WHERE room_nid = %s AND receipt_type = %s"
        " AND user_id = %s AND thread_id = %s",
        (room_nid, receipt_type, user_id, thread_id),
    ).fetchone()
    return None if row is None else int(row[0])
