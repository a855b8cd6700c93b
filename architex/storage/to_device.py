"""Messages to devices: until a device of ours, or another server, shows that it has them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from architex.domain.identifiers import ServerName, UserId
from architex.storage.commit_queue import Execute
from architex.storage.pool import Database, PgConnection
from architex.storage.transactions import TransactionKey

ALL_DEVICES: Final = "*"
"""In place of a device ID: all devices of the user."""


@dataclass(frozen=True, slots=True)
class ToDeviceMessage:
    """A message to a device of ours.

    Attributes:
        device_id: ALL_DEVICES for all of the user.
        content_json: the content, as JSON.
    """

    user_id: UserId
    device_id: str
    content_json: str


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """Messages to devices on another server.

    Attributes:
        message_id: by which the server recognises them when they are repeated.
        messages_json: user ID → device ID → content, as JSON.
    """

    destination: ServerName
    message_id: str
    messages_json: str


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message that waits for its device."""

    position: int
    sender: UserId
    type: str
    content: orjson.Fragment


# The transaction, the messages to our devices and those to other servers: all or nothing, once.
# A device that is being deleted at this moment is waited for; then it is not there.
_PUT: Final = """
WITH first AS (INSERT INTO transactions (user_id, device_id, path, txn_id, event_id, created_ts)
    VALUES (%(key_user)s, %(key_device)s, %(key_path)s, %(key_txn)s, '', %(now)s)
    ON CONFLICT DO NOTHING RETURNING 1),
inbox AS (INSERT INTO to_device_messages (user_id, device_id, position, sender, type, content)
    SELECT d.user_id, d.device_id, %(position)s, %(sender)s, %(type)s, w.content
    FROM first, unnest(%(users)s::text[], %(devices)s::text[], %(contents)s::text[])
        AS w (user_id, device_id, content)
    JOIN devices d ON d.user_id = w.user_id AND w.device_id IN ('*', d.device_id)
    FOR KEY SHARE OF d
    ON CONFLICT DO NOTHING)
INSERT INTO to_device_outbox (destination, position, message_id, sender, type, messages)
SELECT w.destination, %(position)s, w.message_id, %(sender)s, %(type)s, w.messages
FROM first, unnest(%(destinations)s::text[], %(message_ids)s::text[], %(messages)s::text[])
    AS w (destination, message_id, messages)"""


def put_messages(
    execute: Execute,
    position: int,
    transaction: TransactionKey,
    sender: UserId,
    type: str,
    local: Collection[ToDeviceMessage],
    remote: Collection[OutgoingMessage],
    now_ms: int,
) -> None:
    """Write the messages of a transaction, unless it was seen before; in a batch of the queue."""
    execute(
        _PUT,
        {
            "key_user": transaction.user_id,
            "key_device": transaction.device_id,
            "key_path": transaction.path,
            "key_txn": transaction.txn_id,
            "now": now_ms,
            "position": position,
            "sender": sender,
            "type": type,
            "users": [m.user_id for m in local],
            "devices": [m.device_id for m in local],
            "contents": [m.content_json for m in local],
            "destinations": [m.destination for m in remote],
            "message_ids": [m.message_id for m in remote],
            "messages": [m.messages_json for m in remote],
        },
    )


def list_waiting(
    connection: PgConnection, user_id: UserId, device_id: str, after: int, limit: int
) -> Sequence[WaitingMessage]:
    """The messages of a device after a position, in the order in which they came."""
    rows = connection.execute(
        "SELECT position, sender, type, content FROM to_device_messages"
        " WHERE user_id = %s AND device_id = %s AND position > %s ORDER BY position LIMIT %s",
        (user_id, device_id, after, limit),
    ).fetchall()
    return [
        WaitingMessage(position, sender, type_, orjson.Fragment(content))
        for position, sender, type_, content in rows
    ]


class ToDeviceStore:
    """The tables to_device_messages and to_device_outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def delete_received(self, user_id: UserId, device_id: str, up_to: int) -> int:
        """Delete what a device has shown to have received; returns how many."""
        return self._database.execute(
            "DELETE FROM to_device_messages"
            " WHERE user_id = %s AND device_id = %s AND position <= %s",
            (user_id, device_id, up_to),
        )

    def delete_surplus(self, keep: int) -> int:
        """Delete the oldest messages of devices where more than `keep` wait; returns how many."""
        return self._database.execute(
            "WITH full_devices AS (SELECT user_id, device_id FROM to_device_messages"
            "  GROUP BY user_id, device_id HAVING count(*) > %(keep)s)"
            " DELETE FROM to_device_messages m USING full_devices f"
            " WHERE m.user_id = f.user_id AND m.device_id = f.device_id AND m.position <="
            "  (SELECT position FROM to_device_messages n WHERE n.user_id = f.user_id"
            "   AND n.device_id = f.device_id ORDER BY position DESC OFFSET %(keep)s LIMIT 1)",
            {"keep": keep},
        )

    # ---- other servers

    def list_outgoing(
        self, destination: ServerName, after: int, up_to: int, limit: int
    ) -> Sequence[tuple[int, UserId, str, str, orjson.Fragment]]:
        """What a server is owed: (position, sender, type, message ID, messages), in order."""
        rows = self._database.fetch_all(
            "SELECT position, sender, type, message_id, messages FROM to_device_outbox"
            " WHERE destination = %s AND position > %s AND position <= %s"
            " ORDER BY position LIMIT %s",
            (destination, after, up_to, limit),
        )
        return [(*row[:4], orjson.Fragment(row[4])) for row in rows]

    def list_destinations(self, after: int, up_to: int) -> Sequence[ServerName]:
        """The servers that are owed something from between two positions."""
        rows = self._database.fetch_all(
            "SELECT DISTINCT destination FROM to_device_outbox"
            " WHERE position > %s AND position <= %s",
            (after, up_to),
        )
        return [destination for (destination,) in rows]

    def delete_delivered(self, destination: ServerName, up_to: int) -> int:
        """Delete what a server has received; returns how many."""
        return self._database.execute(
            "DELETE FROM to_device_outbox WHERE destination = %s AND position <= %s",
            (destination, up_to),
        )
