"""`architex email`: whether the server's mails arrive."""

from __future__ import annotations

import click

from architex.bootstrap import build_mailer
from architex.cli.common import config_option, read_settings
from architex.domain.errors import MatrixError
from architex.domain.third_party import parse_email
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.gateways.errors import RemoteError
from architex.usecases.email_texts import try_out


@click.group()
def email() -> None:
    """The mails that this server sends; see [email] in the configuration."""


@email.command()
@config_option
@click.argument("address")
def test(config_file: str | None, address: str) -> None:
    """Send a mail to ADDRESS, and say what the mail server said if it does not take it."""
    settings = read_settings(config_file)
    mailer = build_mailer(settings, SystemClock(), SystemRandomness())
    if mailer is None:
        raise click.ClickException("There is no [email] section in the configuration.")
    try:
        to = parse_email(address).address
        mailer.send(try_out(to, settings.server_name, settings.public_base_url + "/"))
    except (MatrixError, RemoteError) as error:
        raise click.ClickException(error.message) from None
    click.echo(f"The mail server has taken a mail to {to}.")
