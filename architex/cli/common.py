"""What the commands share: --config, logging, and a database that is up and migrated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from architex.gateways.log_output import configure_logging
from architex.settings import Settings, load_settings
from architex.storage.database_checks import check_database
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.migrations import Migration, migrate

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """Give a command the option --config."""
    return click.option(
        "--config",
        "-c",
        "config_file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The configuration. Default: $ARCHITEX_CONFIG, else ./architex.toml if it is there.",
    )(command)


def program() -> str:
    """How to call `architex` from here: a virtualenv's need not be on PATH."""
    if sys.prefix == sys.base_prefix:
        return "architex"
    inside = Path(sys.prefix) / "bin" / "architex"
    is_here = Path(sys.prefix).parent == Path.cwd() != Path("/")
    return str(inside.relative_to(Path.cwd()) if is_here else inside)


def read_settings(config_file: str | None) -> Settings:
    """The settings, with this process's logging set up by them. Raises StartRefused."""
    settings = load_settings(config_file)
    configure_logging(settings.logging.level, settings.logging.format)
    return settings


def embedded_postgres(settings: Settings) -> EmbeddedPostgres | None:
    """The embedded PostgreSQL of these settings, or None when there is a database_url."""
    if settings.database_url is not None:
        return None
    return EmbeddedPostgres(
        settings.postgres_directory, max_connections=max(60, settings.connections_wanted)
    )


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
