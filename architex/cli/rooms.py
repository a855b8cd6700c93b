"""`architex room`: rooms, as the operator looks at them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import click
import orjson

from architex.cli.common import config_option, read_settings
from architex.cli.dag import dag
from architex.cli.explain import explain
from architex.cli.ready_database import database_ready
from architex.cli.tables import json_option, print_json, print_table
from architex.projections.room_overview import RoomOverview, RoomOverviews, StateEntry
from architex.storage.event_log import EventLog, RoomHead
from architex.storage.pool import Database

_AT = re.compile(r"(?P<position>position:)?(?P<number>[0-9]{1,18})")

# What `room show` tells of the state: label, event type, key of the content.
_SHOWN_STATE = (
    ("name", "m.room.name", "name"),
    ("topic", "m.room.topic", "topic"),
    ("canonical alias", "m.room.canonical_alias", "alias"),
    ("type", "m.room.create", "type"),
    ("join rule", "m.room.join_rules", "join_rule"),
    ("history visibility", "m.room.history_visibility", "history_visibility"),
    ("guest access", "m.room.guest_access", "guest_access"),
    ("encryption", "m.room.encryption", "algorithm"),
    ("replaced by", "m.room.tombstone", "replacement_room"),
)


@contextmanager
def _rooms(config_file: str | None) -> Iterator[tuple[RoomOverviews, EventLog]]:
    with database_ready(read_settings(config_file)) as conninfo:
        database = Database(conninfo, max_size=2, application_name="architex room")
        try:
            yield RoomOverviews(database), EventLog(database)
        finally:
            database.close()


def _find_head(rooms: RoomOverviews, event_log: EventLog, room: str) -> RoomHead:
    room_id = rooms.find_room_id(room)
    head = None if room_id is None else event_log.find_head(room_id)
    if head is None:
        raise click.ClickException(f"This server knows no room {room}.")
    return head


@click.group()
def room() -> None:
    """List rooms and look into them. ROOM is a room ID or an alias of this server."""


room.add_command(dag)
room.add_command(explain)


@room.command("list")
@config_option
@click.option(
    "--limit", default=100, show_default=True, help="At most so many rooms; 0 for all of them."
)
@json_option
def list_command(config_file: str | None, limit: int, as_json: bool) -> None:
    """List the rooms this server knows, those with most members first."""
    with _rooms(config_file) as (rooms, _):
        lines = rooms.list_rooms(limit if limit > 0 else None)
        total = rooms.count_rooms()
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    print_table(
        ["room", "name", "members", "events", "version", "published"],
        [
            (
                line.room_id,
                line.name,
                line.joined_members,
                line.facts,
                line.room_version,
                line.is_published,
            )
            for line in lines
        ],
        numbers=["members", "events"],
    )
    if len(lines) < total:
        click.echo(f"{len(lines)} of {total} rooms; --limit 0 shows all.", err=True)


@room.command()
@config_option
@click.argument("room")
@json_option
def show(config_file: str | None, room: str, as_json: bool) -> None:
    """Show what a room is like."""
    with _rooms(config_file) as (rooms, event_log):
        overview = rooms.describe_room(_find_head(rooms, event_log, room))
    if as_json:
        print_json(_overview_json(overview))
        return
    told = _overview_json(overview)
    state = told.pop("state")
    assert isinstance(state, dict)  # noqa: S101 - built below
    members = ", ".join(f"{count} {membership}" for membership, count in overview.members.items())
    told["members"] = members
    told["aliases"] = ", ".join(overview.aliases)
    rows = [(label.replace("_", " "), value) for label, value in told.items()]
    print_table(["", ""], [*rows[:1], *state.items(), *rows[1:]])


@room.command()
@config_option
@click.argument("room")
@click.option(
    "--at",
    metavar="VERSION",
    help="The state as it was: after the room's event number VERSION (1 is its m.room.create), "
    "or with position:N after position N of the server's whole event log.",
)
@click.option("--content/--no-content", default=True, help="Show what the events say.")
@json_option
def state(
    config_file: str | None, room: str, at: str | None, content: bool, as_json: bool
) -> None:
    """Show the state of a room, now or at an earlier time.

    Each entry comes with the room version (VERSION for --at) and the log position at which it
    was set.
    """
    with _rooms(config_file) as (rooms, event_log):
        head = _find_head(rooms, event_log, room)
        entries = rooms.list_state(head, _position(rooms, head, at))
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    columns = ["type", "state key", "sender", "version", "position", "event"]
    print_table(
        [*columns, "content"] if content else columns,
        [_state_row(entry, content) for entry in entries],
        numbers=["version", "position"],
    )


def _position(rooms: RoomOverviews, head: RoomHead, at: str | None) -> int:
    """The position that --at names."""
    if at is None:
        return head.last_position
    match = _AT.fullmatch(at)
    if match is None:
        raise click.UsageError(f"--at is a number, or position:NUMBER, and not {at}.")
    number = int(match["number"])
    if match["position"]:
        return number
    position = rooms.find_position(head.room_id, number)
    if position is None:
        raise click.ClickException(f"The room has the versions 1 to {head.version}.")
    return position


def _state_row(entry: StateEntry, content: bool) -> tuple[object, ...]:
    row = (
        entry.type,
        entry.state_key,
        entry.sender,
        entry.version,
        entry.position,
        entry.event_id,
    )
    if not content:
        return row
    redacted = "(redacted) " if entry.is_redacted else ""
    return (*row, redacted + orjson.dumps(entry.content).decode())


def _overview_json(overview: RoomOverview) -> dict[str, object]:
    head, create = overview.head, overview.state.get("m.room.create")
    state = {
        label: entry.content.get(key)
        for label, type_, key in _SHOWN_STATE
        if (entry := overview.state.get(type_)) is not None and entry.content.get(key) is not None
    }
    return {
        "room_id": head.room_id,
        "room_version": head.room_version,
        "creator": None if create is None else create.sender,
        "created": None if create is None else _moment(create.origin_server_ts),
        "events": head.version,
        "last_position": head.last_position,
        "state_events": overview.state_events,
        "members": dict(overview.members),
        "aliases": list(overview.aliases),
        "published": overview.is_published,
        "state": state,
    }


def _moment(ts: int) -> str:
    """Milliseconds since 1970 as a date and time; other servers may claim any number."""
    try:
        return datetime.fromtimestamp(ts / 1000, tz=UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return str(ts)
