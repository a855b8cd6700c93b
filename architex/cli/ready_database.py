"""The database as the commands want it: up, and with this program's schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from architex.cli.common import embedded_postgres
from architex.settings import Settings
from architex.storage.database_checks import check_database
from architex.storage.migrations import Migration, migrate


@contextmanager
def database_running(settings: Settings) -> Iterator[str]:
    """The database, checked and reachable as long as the block lasts; gives the conninfo.

    Uses the embedded PostgreSQL of a running server, or starts it and stops it after.
    Raises StartRefused.
    """
    embedded = embedded_postgres(settings)
    if embedded is None:
        check_database(settings.conninfo)
        yield settings.conninfo
        return
    with embedded.running() as conninfo:
        yield conninfo


@contextmanager
def database_ready(settings: Settings) -> Iterator[str]:
    """As `database_running`, and with this program's schema: what most commands want."""
    with database_running(settings) as conninfo:
        migrate_aloud(conninfo)
        yield conninfo


def migrate_aloud(conninfo: str) -> None:
    """Bring the database to this program's schema and say what was done."""

    def say(migration: Migration) -> None:
        click.echo(f"applied migration {migration.name}", err=True)

    migrate(conninfo, on_applied=say)
