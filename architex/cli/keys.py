"""`architex keys`: make and show the server's signing key."""

from __future__ import annotations

import click

from architex.cli.common import config_option, read_settings
from architex.gateways.clock import SystemRandomness
from architex.storage.key_files import load_or_create_signing_key


@click.group()
def keys() -> None:
    """Make and show the signing key."""


@keys.command()
@config_option
def generate(config_file: str | None) -> None:
    """Make the signing key if there is none; an existing one is never replaced."""
    path = read_settings(config_file).signing_key_path
    existed = path.exists()
    key = load_or_create_signing_key(path, SystemRandomness().bytes)
    click.echo(f"{path} {'is there already' if existed else 'made'}: {key.key_id}")


@keys.command()
@config_option
def show(config_file: str | None) -> None:
    """Print the public half, as other servers see it."""
    settings = read_settings(config_file)
    if not settings.signing_key_path.exists():
        raise click.ClickException(
            f"There is no key at {settings.signing_key_path}. Make one: architex keys generate"
        )
    key = load_or_create_signing_key(settings.signing_key_path, SystemRandomness().bytes)
    click.echo(f"file:       {settings.signing_key_path}")
    click.echo(f"server:     {settings.server_name}")
    click.echo(f"key ID:     {key.key_id}")
    click.echo(f"public key: {key.verify_key_base64}")
