"""`architex projections`: how the read models are doing, and making them anew."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
from architex.cli.tables import json_option, print_json, print_table
from architex.projections.base import Projection
from architex.projections.overview import ProjectionStatus, describe_projections
from architex.projections.rebuilding import RebuildFailed, rebuild_projection
from architex.storage.pool import Database


@contextmanager
def _database(config_file: str | None) -> Iterator[Database]:
    with database_ready(read_settings(config_file)) as conninfo:
        database = Database(conninfo, max_size=2, application_name="architex projections")
        try:
            yield database
        finally:
            database.close()


@click.group()
def projections() -> None:
    """List and rebuild the read models that the server makes from its event log.

    An inline projection is written together with the events; a followed one soon after. Any of
    them can be made anew from the log at any time, while the server serves.
    """


@projections.command("list")
@config_option
@json_option
def list_command(config_file: str | None, as_json: bool) -> None:
    """Say how far each projection is, and how large."""
    with _database(config_file) as database:
        statuses = describe_projections(database, all_projections())
    if as_json:
        print_json([_as_json(status) for status in statuses])
        return
    print_table(
        ["projection", "timing", "position", "of", "facts behind", "rows"],
        [
            (
                status.name,
                status.timing.value,
                status.position,
                status.end,
                status.facts_behind,
                _rows(status),
            )
            for status in statuses
        ],
        numbers=["position", "of", "facts behind"],
    )


@projections.command()
@config_option
@click.argument("names", metavar="[NAME]...", nargs=-1)
def rebuild(config_file: str | None, names: Sequence[str]) -> None:
    """Make projections anew from the event log: all of them, or those named.

    The server goes on serving: new tables are filled beside the old ones, and take their place
    when they are complete.
    """
    wanted = _select(names)
    with _database(config_file) as database:
        for projection in wanted:
            _rebuild(database, projection)


def _rebuild(database: Database, projection: Projection) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(projection.name, total=None)
        try:
            result = rebuild_projection(
                database,
                projection,
                on_progress=lambda position, end: progress.update(
                    task, completed=position, total=end
                ),
            )
        except RebuildFailed as error:
            raise click.ClickException(
                f"{projection.name} is as it was: {error}. Try again later."
            ) from None
    click.echo(
        f"{projection.name}: made anew from {result.facts} facts up to position {result.position}"
    )


def _select(names: Sequence[str]) -> list[Projection]:
    known = {projection.name: projection for projection in all_projections()}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(
                f"There is no projection {name}; there are {', '.join(known)}.{hint}"
            )
    return [known[name] for name in dict.fromkeys(names or known)]


def _rows(status: ProjectionStatus) -> str:
    about = "about " if status.is_estimate else ""
    if len(status.rows) == 1:
        return f"{about}{sum(status.rows.values())}"
    return about + ", ".join(f"{count} {table}" for table, count in status.rows.items())


def _as_json(status: ProjectionStatus) -> dict[str, object]:
    return {
        "name": status.name,
        "timing": status.timing.value,
        "position": status.position,
        "end": status.end,
        "facts_behind": status.facts_behind,
        "rows": status.rows,
        "rows_are_estimates": status.is_estimate,
    }
