"""Stripped states: what others told of rooms this server is not in, with an invite or a knock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from architex.domain.identifiers import ServerName, UserId
from architex.storage.pool import Execute, PgConnection, WriteRows

StrippedEvent: TypeAlias = Mapping[str, Any]
"""`type`, `state_key`, `sender` and `content` of a state event."""


@dataclass(frozen=True, slots=True)
class StrippedState:
    """What was told of a room.

    Attributes:
        position: of the invite or the knock that it came with.
        told_by: the server that told it.
    """

    position: int
    told_by: ServerName
    events: Sequence[StrippedEvent]


def keep_stripped_state(
    user_id: UserId, room_nid: int, told_by: ServerName, events: Sequence[StrippedEvent]
) -> WriteRows:
    """What writes down what was told with an invite or a knock, beside the fact of it."""
    told = orjson.dumps(events)

    def write(execute: Execute, position: int) -> None:
        execute(
            "INSERT INTO stripped_states (user_id, room_nid, position, told_by, events)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (user_id, room_nid) DO UPDATE"
            " SET position = excluded.position, told_by = excluded.told_by,"
            " events = excluded.events",
            (user_id, room_nid, position, told_by, told),
        )

    return write


def drop_stripped_state(user_id: UserId, room_nid: int) -> WriteRows:
    """What forgets what was told, beside the fact that ends the invite or the knock."""

    def write(execute: Execute, position: int) -> None:
        execute(
            "DELETE FROM stripped_states WHERE user_id = %s AND room_nid = %s",
            (user_id, room_nid),
        )

    return write


def list_stripped_states(
    connection: PgConnection, user_id: UserId, room_nids: Collection[int]
) -> dict[int, StrippedState]:
    """Room number → what a user was told of it; rooms of which nothing was told are missing."""
    rows = connection.execute(
        "SELECT room_nid, position, told_by, events FROM stripped_states"
        " WHERE user_id = %s AND room_nid = ANY(%s)",
        (user_id, list(room_nids)),
    ).fetchall()
    return {
        room_nid: StrippedState(position, told_by, orjson.loads(events))
        for room_nid, position, told_by, events in rows
    }
