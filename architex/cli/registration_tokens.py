"""`architex registration-token`: tokens that let people register."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from architex.bootstrap import build_core, build_use_cases
from architex.cli.common import config_option, read_settings
from architex.cli.ready_database import database_ready
from architex.domain.errors import MatrixError
from architex.storage.registration_tokens import RegistrationToken
from architex.usecases.registration import Registration


@contextmanager
def _registration(config_file: str | None) -> Iterator[Registration]:
    """The use case over the database; what it refuses is told without a traceback."""
    settings = read_settings(config_file)
    with database_ready(settings) as conninfo:
        core = build_core(settings, conninfo=conninfo, application_name="architex tokens")
        try:
            yield build_use_cases(settings, core).registration
        except MatrixError as error:
            raise click.ClickException(error.message) from None
        finally:
            core.close()


@click.group()
def registration_token() -> None:
    """Tokens for [registration] tokens_required: whoever has one can make an account."""


@registration_token.command()
@config_option
@click.argument("token", required=False)
@click.option("--uses", type=click.IntRange(min=1), help="Accounts it is good for. Default: any.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days it is good for.")
def create(
    config_file: str | None, token: str | None, uses: int | None, days: float | None
) -> None:
    """Make a token, with a name of your own or a random one, and print it."""
    lifetime_ms = None if days is None else int(days * 86_400_000)
    with _registration(config_file) as registration:
        click.echo(registration.create_token(token, uses_allowed=uses, lifetime_ms=lifetime_ms))


@registration_token.command("list")
@config_option
def list_tokens(config_file: str | None) -> None:
    """List the tokens, spent and expired ones included."""
    with _registration(config_file) as registration:
        for token in registration.list_tokens():
            click.echo(_line(token))


@registration_token.command()
@config_option
@click.argument("token")
def delete(config_file: str | None, token: str) -> None:
    """Make a token worthless."""
    with _registration(config_file) as registration:
        registration.delete_token(token)
        click.echo(f"{token} lets nobody in any more.")


def _line(token: RegistrationToken) -> str:
    allowed = "any number of" if token.uses_allowed is None else str(token.uses_allowed)
    until = ""
    if token.expires_ts is not None:
        until = f"  until {datetime.fromtimestamp(token.expires_ts / 1000, UTC).isoformat()}"
    return f"{token.token}  used {token.uses} of {allowed} times{until}"
