"""Messages to devices: until a device of ours, or another server, shows that it has them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from architex.domain.identifiers import ServerName, UserId
from architex.storage.pool import Database, Execute, PgConnection
from architex.storage.transactions import TransactionKey

ALL_DEVICES: Final = "*"
"""In place of a device ID: all devices of the user."""

MAX_MESSAGES: Final = 100
"""Messages to a device in one response."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of messages in one response, but for the first: each may be as large as a request."""


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


# What is beyond the bytes is not read. Sizes are known without reading what they are of.
_WAITING: Final = """
SELECT position, sender, type, CASE WHEN before < %(bytes)s THEN content END FROM (
    SELECT position, sender, type, content,
        sum(octet_length(content)) OVER (ORDER BY position) - octet_length(content) AS before
    FROM to_device_messages
    WHERE user_id = %(user)s AND device_id = %(device)s AND position > %(after)s
    ORDER BY position LIMIT %(limit)s) AS m
ORDER BY position"""

# Of a source, its newest messages stay as long as other sources have no older ones that would go:
# whoever floods a device loses what they sent themselves. A source is a user of ours, or a server.
_DELETE_SURPLUS: Final = """
WITH full_devices AS (SELECT user_id, device_id FROM to_device_messages
    GROUP BY user_id, device_id HAVING count(*) > %(keep)s),
counted AS (SELECT m.user_id, m.device_id, m.position, row_number() OVER (
        PARTITION BY m.user_id, m.device_id, CASE WHEN right(m.sender, length(%(own)s)) = %(own)s
            THEN m.sender ELSE substring(m.sender FROM position(':' IN m.sender)) END
        ORDER BY m.position DESC) AS of_source
    FROM to_device_messages m JOIN full_devices USING (user_id, device_id)),
ranked AS (SELECT user_id, device_id, position, row_number() OVER (
        PARTITION BY user_id, device_id ORDER BY of_source, position DESC) AS place FROM counted)
DELETE FROM to_device_messages m USING ranked r WHERE r.place > %(keep)s
    AND m.user_id = r.user_id AND m.device_id = r.device_id AND m.position = r.position"""


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
    connection: PgConnection, user_id: UserId, device_id: str, after: int
) -> tuple[Sequence[WaitingMessage], bool]:
    """Messages of a device after a position, in the order in which they came: a piece of them.

    Returns the messages, and whether that is all.
    """
    rows = connection.execute(
        _WAITING,
        {
            "user": user_id,
            "device": device_id,
            "after": after,
            "limit": MAX_MESSAGES + 1,  # one more, to see whether that is all
            "bytes": MAX_BYTES,
        },
    ).fetchall()
    messages = [
        WaitingMessage(position, sender, type_, orjson.Fragment(content))
        for position, sender, type_, content in rows[:MAX_MESSAGES]
        if content is not None
    ]
    return messages, len(messages) == len(rows)


class ToDeviceStore:
    """The table to_device_messages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def delete_received(self, user_id: UserId, device_id: str, up_to: int) -> int:
        """Delete what a device has shown to have received; returns how many."""
        return self._database.execute(
            "DELETE FROM to_device_messages"
            " WHERE user_id = %s AND device_id = %s AND position <= %s",
            (user_id, device_id, up_to),
        )

    def delete_surplus(self, keep: int, server_name: ServerName) -> int:
        """Where more messages wait for a device, delete those of whoever sent most of them.

        Of any one sender of ours, and of any one other server, the oldest go first.

        Args:
            keep: so many stay.
            server_name: ours.

        Returns how many were deleted.
        """
        return self._database.execute(_DELETE_SURPLUS, {"keep": keep, "own": f":{server_name}"})
