"""`architex verify`: looks at the whole event log and everything made of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from architex.bootstrap import all_projections
from architex.cli.common import config_option, read_settings
from architex.cli.ready_database import database_ready
from architex.cli.tables import json_option, print_json, shown
from architex.domain.errors import DatabaseUnavailable
from architex.domain.identifiers import RoomId
from architex.projections.room_overview import RoomOverviews
from architex.storage.key_files import load_signing_key
from architex.storage.pool import Database
from architex.storage.server_keys import ServerKeyStore
from architex.storage.start_refusal import StartRefused
from architex.usecases.verifying import Problem, RememberedKeys, Report, Verifying

log = logging.getLogger(__name__)

FOUND_SOMETHING = 1
COULD_NOT = 2


@click.command()
@config_option
@click.argument("room", required=False)
@click.option(
    "--max-load",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Work this part of the time, rest the other: the server goes on serving beside it.",
)
@click.option(
    "--max-problems", type=click.IntRange(1), default=100, show_default=True, help="List so many."
)
@json_option
@click.pass_context
def verify(
    context: click.Context,
    config_file: str | None,
    room: str | None,
    max_load: float,
    max_problems: int,
    as_json: bool,
) -> None:
    """Verify the event log and the projections: of all rooms, or of ROOM (an ID or an alias).

    Every event is hashed, its signatures and its authorisation are checked again, the state where
    it stands is computed anew, and every projection is compared with a replay of the log. Nothing
    is changed. The server may run meanwhile.

    Exit code: 0 when all is well, 1 when something is wrong, 2 when it could not be verified.
    """
    try:
        report = _verify(config_file, room, max_load, max_problems)
    except StartRefused as refusal:
        click.secho(f"architex: {refusal.code}: {refusal.message}", fg="red", err=True)
        click.echo(f"  To mend it: {refusal.mend}", err=True)
        context.exit(COULD_NOT)
    except (click.ClickException, DatabaseUnavailable, OSError) as error:
        click.secho(f"architex: {error}", fg="red", err=True)
        context.exit(COULD_NOT)
    except Exception:
        # Python's own exit code for this would say that something was found.
        log.exception("The verification broke off.")
        context.exit(COULD_NOT)
    if as_json:
        print_json({**asdict(report), "is_clean": report.is_clean})
    else:
        _print(report)
    context.exit(0 if report.is_clean else FOUND_SOMETHING)


def _verify(
    config_file: str | None, room: str | None, max_load: float, max_problems: int
) -> Report:
    settings = read_settings(config_file)
    with database_ready(settings) as conninfo:
        database = Database(conninfo, max_size=2, application_name="architex verify")
        try:
            own_key = load_signing_key(settings.signing_key_path)

            keys = RememberedKeys(
                settings.server_name,
                own_key.key_id,
                own_key.verify_key,
                ServerKeyStore(database),
            )
            room_id = None if room is None else _find_room(database, room)
            verifying = Verifying(database, all_projections, keys.find)
            with _progress() as progress:
                task = progress.add_task("verifying", total=None)

                def tell(done: int, total: int, what: str) -> None:
                    progress.update(
                        task, completed=done, total=total, description=str(shown(what))
                    )

                return verifying.verify(
                    room_id, max_load=max_load, max_problems=max_problems, on_progress=tell
                )
        finally:
            database.close()


def _find_room(database: Database, room: str) -> RoomId:
    room_id = RoomOverviews(database).find_room_id(room)
    if room_id is None:
        raise click.ClickException(f"This server knows no room {room}.")
    return room_id


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def _print(report: Report) -> None:
    for problem in report.problems:
        _print_problem(problem)
    if report.more_problems:
        click.echo(f"and {report.more_problems} more problems, not listed (--max-problems)")
    for reset in report.resets:
        stands = reset.event_id or "nothing"
        click.echo(
            shown(
                f"state reset in {reset.room_id}: at position {reset.position} {reset.type}"
                f" {reset.state_key!r} became {stands}; the event that came then,"
                f" {reset.came_with}, does not explain it"
            ).plain
        )
    if report.unknown_signatures:
        click.echo(
            f"{report.unknown_signatures} signatures by keys that this server does not have:"
            " not checked"
        )
    for left_out in report.not_looked_at:
        click.echo(f"not looked at: {left_out}")
    verdict = (
        "all is well"
        if report.is_clean
        else f"{len(report.problems) + report.more_problems} problems"
    )
    click.secho(
        f"{report.facts} facts of {report.rooms} rooms: {verdict}",
        fg="green" if report.is_clean else "red",
    )


def _print_problem(problem: Problem) -> None:
    places = [
        f"room {problem.room_id}" if problem.room_id else None,
        f"version {problem.version}" if problem.version is not None else None,
        f"position {problem.position}" if problem.position is not None else None,
        f"event {problem.event_id}" if problem.event_id else None,
    ]
    click.secho(shown(problem.what).plain, fg="red")
    where = ", ".join(place for place in places if place)
    if where:
        click.echo("  where:   " + shown(where).plain)
    click.echo("  to mend: " + shown(problem.mend).plain)
