"""`architex database`: migrate, check, or run the embedded PostgreSQL by itself."""

from __future__ import annotations

import signal
import time
from types import FrameType

import click

from architex.cli.common import config_option, embedded_postgres, read_settings
from architex.cli.ready_database import database_ready, database_running
from architex.storage.database_checks import check_database

_LOOK_INTERVAL_S = 0.25


@click.group()
def database() -> None:
    """Migrate, check or run the database."""


@database.command("migrate")
@config_option
def migrate_command(config_file: str | None) -> None:
    """Bring the database to the schema of this version. `architex serve` does so by itself."""
    with database_ready(read_settings(config_file)):
        click.echo("The database has the schema of this version.")


@database.command()
@config_option
def check(config_file: str | None) -> None:
    """Say whether the database can keep what the server promises."""
    settings = read_settings(config_file)
    with database_running(settings) as conninfo:
        check_database(conninfo, connections_wanted=settings.connections_wanted)
        click.echo("The database is fit: durable, UTF-8, sorted by C.")


@database.command()
@config_option
def url(config_file: str | None) -> None:
    """Print how to connect, for psql and pg_dump: psql "$(architex database url)"."""
    click.echo(read_settings(config_file).conninfo)


@database.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the embedded PostgreSQL alone until SIGTERM or Ctrl-C; restart it when it dies."""
    embedded = embedded_postgres(read_settings(config_file))
    if embedded is None:
        raise click.UsageError("database_url is set: there is no embedded PostgreSQL to run.")
    stopped = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        embedded.ensure_running()
        click.echo(f"ready: {embedded.conninfo()}")
        while not stopped:
            time.sleep(_LOOK_INTERVAL_S)
            embedded.ensure_running()
    finally:
        embedded.stop()
