"""What the commands share that look into one room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from architex.cli.common import read_settings
from architex.cli.ready_database import database_ready
from architex.projections.room_graph import GraphEvent
from architex.projections.room_overview import RoomOverviews
from architex.storage.event_log import EventLog, RoomHead
from architex.storage.pool import Database

VERDICTS = ("accepted", "soft-failed", "rejected")


@contextmanager
def opened_room(config_file: str | None, room: str) -> Iterator[tuple[Database, RoomHead]]:
    """The database, and the room of an ID or of an alias of this server."""
    with database_ready(read_settings(config_file)) as conninfo:
        database = Database(conninfo, max_size=2, application_name="architex room")
        try:
            room_id = RoomOverviews(database).find_room_id(room)
            head = None if room_id is None else EventLog(database).find_head(room_id)
            if head is None:
                raise click.ClickException(f"This server knows no room {room}.")
            yield database, head
        finally:
            database.close()


def moment(ts: int) -> str:
    """Milliseconds since 1970 as a date and time; other servers may claim any number."""
    try:
        return datetime.fromtimestamp(ts / 1000, tz=UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return str(ts)


def described(event: GraphEvent) -> str:
    """An event in a few words: what it is, and whose."""
    what = event.type
    if event.state_key:
        what += f" {event.state_key!r}"
    if event.membership is not None:
        what += f" ({event.membership})"
    return f"{what} by {event.sender}, {moment(event.origin_server_ts)}"
