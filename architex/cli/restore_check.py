"""`architex restore-check`: once after the database was put back to an earlier moment."""

from __future__ import annotations

import click

from architex.cli.common import config_option, read_settings
from architex.cli.ready_database import database_ready
from architex.gateways.clock import SystemClock
from architex.storage.pool import Database
from architex.storage.restores import Restores


@click.command()
@config_option
def restore_check(config_file: str | None) -> None:
    """Make a restored database safe to go on with. Run it once, before the server starts.

    One-time keys are withdrawn, since some may have been given out after the backup was made:
    devices upload new ones by themselves. Device lists are announced and asked for anew. Sync
    tokens from after the backup make their clients begin afresh.
    """
    with database_ready(read_settings(config_file)) as conninfo:
        database = Database(conninfo, application_name="architex restore-check")
        try:
            done = Restores(database).recover(SystemClock().now_ms())
        finally:
            database.close()
    click.echo(f"The log goes on at position {done.position}.")
    click.echo(f"One-time keys withdrawn: {done.withdrawn}. Devices upload new ones.")
    click.echo(
        f"Devices announced to other servers: {done.announced}; users whose devices clients look"
        f" at again: {done.changed}; users elsewhere whose devices we ask for: {done.stale}."
    )
