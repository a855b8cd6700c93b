"""`architex generate-config`: a configuration that explains itself."""

from __future__ import annotations

import os
from pathlib import Path

import click

from architex.cli.common import program
from architex.gateways.clock import SystemRandomness
from architex.settings import DEFAULT_CONFIG_FILE, render_config
from architex.storage.key_files import load_or_create_signing_key


@click.command("generate-config")
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--config", "-c", "config_file", metavar="FILE", help="The same as FILE.")
@click.option("--server-name", default="localhost", show_default=True, help="Your domain.")
@click.option("--public-base-url", help="Where clients reach the server, as https://….")
@click.option("--force", is_flag=True, help="Write over an existing file.")
def generate_config(
    file: str | None,
    config_file: str | None,
    server_name: str,
    public_base_url: str | None,
    force: bool,
) -> None:
    """Write a commented architex.toml, with a secret made, and the signing key beside it.

    FILE is ./architex.toml by default; "-" prints to standard output and makes nothing.
    """
    given: dict[str, object] = {"server_name": server_name}
    if public_base_url:
        given["public_base_url"] = public_base_url
    target = file or config_file or os.environ.get("ARCHITEX_CONFIG") or str(DEFAULT_CONFIG_FILE)
    if target == "-":
        click.echo(render_config(given), nl=False)
        return
    path = Path(target).absolute()
    given["signing_key_path"] = "keys/id_ed25519"
    randomness = SystemRandomness()
    given["registration.shared_secret"] = randomness.token_urlsafe(32)
    _write(path, render_config(given), force=force)
    key_path = path.parent / "keys" / "id_ed25519"
    key = load_or_create_signing_key(key_path, randomness.bytes)
    click.echo(f"{path}\n{key_path} ({key.key_id})")
    click.echo(
        f"\nNext: read it through, then start the server:\n  {program()} serve --config {path}"
    )


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file that only we can read: it holds secrets."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise click.ClickException(f"{path} is there already; --force writes over it.") from error
    except OSError as error:
        raise click.ClickException(f"Cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        os.fchmod(opened.fileno(), 0o600)
        opened.write(text)
