"""The `architex` command: a table of subcommands, each loaded when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from architex import __version__
from architex.storage.start_refusal import StartRefused

# name → (module, attribute, one line for --help). A command's module is imported when it runs.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "serve": ("architex.cli.serve", "serve", "Run the server: everything."),
    "follow": ("architex.cli.follow", "follow", "Run the followers alone, beside plain gunicorn."),
    "generate-config": (
        "architex.cli.generate_config",
        "generate_config",
        "Write a commented architex.toml, with secrets and keys made.",
    ),
    "user": ("architex.cli.users", "user", "Make, list, change and end accounts."),
    "registration-token": (
        "architex.cli.registration_tokens",
        "registration_token",
        "Make, list and delete tokens that let people register.",
    ),
    "email": ("architex.cli.email", "email", "See whether the server's mails arrive."),
    "reports": ("architex.cli.reports", "reports", "Read what users reported."),
    "media": ("architex.cli.media", "media", "Look after files: list, remove, quarantine."),
    "room": ("architex.cli.rooms", "room", "List rooms and look into them."),
    "projections": (
        "architex.cli.projections",
        "projections",
        "List and rebuild the read models.",
    ),
    "verify": (
        "architex.cli.verify",
        "verify",
        "Verify the event log and everything made of it.",
    ),
    "federation": (
        "architex.cli.federation",
        "federation",
        "See whether servers can be reached, and what waits for them.",
    ),
    "restore-check": (
        "architex.cli.restore_check",
        "restore_check",
        "Make a database that was put back to an earlier moment safe to go on with.",
    ),
    "database": ("architex.cli.database", "database", "Migrate, check or run the database."),
    "keys": ("architex.cli.keys", "keys", "Make and show the signing key."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click.Group."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click.Group."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a refusal to start is told without a traceback."""
        try:
            return super().invoke(ctx)
        except StartRefused as refusal:
            click.secho(f"architex: {refusal.code}: {refusal.message}", fg="red", err=True)
            click.echo(f"  To mend it: {refusal.mend}", err=True)
            ctx.exit(1)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="architex")
def main() -> None:
    """Architex, a Matrix homeserver.

    Every command takes --config FILE (default: $ARCHITEX_CONFIG, else ./architex.toml), works
    while the server runs, and starts the embedded PostgreSQL itself when nothing runs.
    """
