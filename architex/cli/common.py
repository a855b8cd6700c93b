"""What the commands share: --config and logging."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from architex.gateways.log_output import configure_logging
from architex.settings import Settings, load_settings
from architex.storage.embedded_postgres import EmbeddedPostgres

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
