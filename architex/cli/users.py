"""`architex user`: accounts, as the operator makes and ends them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from architex.bootstrap import build_core, build_server_notices, build_use_cases
from architex.cli.common import config_option, read_settings
from architex.cli.ready_database import database_ready
from architex.domain.errors import MatrixError, NotFound
from architex.domain.identifiers import UserId, parse_user_id, server_name_of
from architex.domain.third_party import ThirdPartyAddress
from architex.gateways.clock import Randomness
from architex.storage.accounts import Account
from architex.usecases.catalogue import UseCases
from architex.usecases.server_notices import ServerNotices

_PAGE = 500


@dataclass(frozen=True)
class _Office:
    """What a command works with."""

    use_cases: UseCases
    notices: ServerNotices
    server_name: str
    randomness: Randomness

    def user_id(self, name: str) -> UserId:
        """The user ID of a name given as `alice` or as `@alice:server`."""
        if not name.startswith("@"):
            return self.use_cases.registration.user_id_for(name)
        if server_name_of(parse_user_id(name)) != self.server_name:
            raise NotFound(f"{name} is no user of {self.server_name}.")
        return name


@contextmanager
def _office(config_file: str | None) -> Iterator[_Office]:
    """The use cases over the database; what they refuse is told without a traceback."""
    settings = read_settings(config_file)
    with database_ready(settings) as conninfo:
        core = build_core(settings, conninfo=conninfo, application_name="architex user")
        try:
            use_cases = build_use_cases(settings, core)
            notices = build_server_notices(settings, core, use_cases)
            yield _Office(use_cases, notices, settings.server_name, core.randomness)
        except MatrixError as error:
            raise click.ClickException(error.message) from None
        finally:
            core.close()


_stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of the input."
)
_generate_option = click.option(
    "--generate", is_flag=True, help="Make up a password and print it."
)


@click.group()
def user() -> None:
    """Make, list, change and end accounts. NAME is `alice` or `@alice:your.server`."""


@user.command()
@config_option
@click.argument("name")
@click.option("--admin", is_flag=True, help="The user may administer the server.")
@_stdin_option
@_generate_option
def create(
    config_file: str | None, name: str, admin: bool, password_stdin: bool, generate: bool
) -> None:
    """Make an account."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        password = _password(office, user_id, password_stdin, generate)
        localpart = user_id[1:].partition(":")[0]
        office.use_cases.registration.create_user(localpart, password, is_admin=admin)
        click.echo(f"{user_id} can log in now{' and administer the server' if admin else ''}.")


@user.command()
@config_option
@click.argument("name")
@click.option("--keep-devices", is_flag=True, help="Do not log the user out everywhere.")
@_stdin_option
@_generate_option
def password(
    config_file: str | None, name: str, keep_devices: bool, password_stdin: bool, generate: bool
) -> None:
    """Give a user a new password."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        new_password = _password(office, user_id, password_stdin, generate)
        office.use_cases.accounts.set_password(user_id, new_password, log_out=not keep_devices)
        click.echo(f"{user_id} has a new password.")


@user.command()
@config_option
@click.argument("name")
@click.option("--revoke", is_flag=True, help="Take the right away.")
def admin(config_file: str | None, name: str, revoke: bool) -> None:
    """Let a user administer the server."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        office.use_cases.accounts.set_admin(user_id, not revoke)
        click.echo(
            f"{user_id} {'is no administrator any more' if revoke else 'is administrator'}."
        )


@user.command()
@config_option
@click.argument("name")
@click.option("--unlock", is_flag=True, help="Lift the lock.")
def lock(config_file: str | None, name: str, unlock: bool) -> None:
    """Keep a user out without ending the account."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        office.use_cases.accounts.set_locked(user_id, not unlock)
        click.echo(f"{user_id} is {'free' if unlock else 'locked'}.")


@user.command()
@config_option
@click.argument("name")
@click.option("--lift", is_flag=True, help="Let the user write again.")
def suspend(config_file: str | None, name: str, lift: bool) -> None:
    """Let a user read and leave rooms, but hardly write."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        office.use_cases.accounts.set_suspended(user_id, not lift)
        click.echo(f"{user_id} is {'free' if lift else 'suspended'}.")


@user.command()
@config_option
@click.argument("name")
@click.option("--erase", is_flag=True, help="Hide the user's messages from newcomers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def deactivate(config_file: str | None, name: str, erase: bool, yes: bool) -> None:
    """End an account for good: logged out, out of all rooms, never to be made again."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        if not yes:
            click.confirm(f"End the account of {user_id}? This cannot be undone.", abort=True)
        office.use_cases.accounts.deactivate_user(user_id, erase=erase)
        click.echo(f"{user_id} is deactivated.")


@user.command()
@config_option
@click.argument("name")
@click.argument("text")
def notice(config_file: str | None, name: str, text: str) -> None:
    """Tell a user something, in their room of server notices."""
    with _office(config_file) as office:
        user_id = office.user_id(name)
        office.notices.send(user_id, text)
        click.echo(f"{user_id} has a notice of {office.notices.sender}.")


@user.command("list")
@config_option
@click.option("--guests", is_flag=True, help="Show guests too.")
def list_users(config_file: str | None, guests: bool) -> None:
    """List the accounts of this server, with their e-mail addresses."""
    with _office(config_file) as office:
        after = ""
        while page := office.use_cases.accounts.list_accounts(
            after=after, limit=_PAGE, guests=guests
        ):
            addresses = office.use_cases.third_party_identifiers.list_addresses_of(
                [account.user_id for account in page]
            )
            for account in page:
                click.echo(_line(account, addresses.get(account.user_id, ())))
            after = page[-1].user_id


def _line(account: Account, addresses: Sequence[ThirdPartyAddress]) -> str:
    created = datetime.fromtimestamp(account.created_ts / 1000, UTC).date().isoformat()
    notes = [
        note
        for note, holds in (
            ("admin", account.is_admin),
            ("guest", account.is_guest),
            ("locked", account.locked),
            ("suspended", account.suspended),
            ("deactivated", account.deactivated_ts is not None),
        )
        if holds
    ]
    if account.agreed_terms is not None:
        notes.append(f"terms:{account.agreed_terms}")
    emails = [one.address for one in addresses]
    return "  ".join([created, account.user_id, *notes, *emails])


def _password(office: _Office, user_id: UserId, from_stdin: bool, generate: bool) -> str:
    if from_stdin and generate:
        raise click.UsageError("--password-stdin and --generate exclude each other.")
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if generate:
        made_up = office.randomness.token_urlsafe(12)
        click.echo(f"password of {user_id}: {made_up}")
        return made_up
    typed: str = click.prompt(
        f"New password for {user_id}",
        hide_input=sys.stdin.isatty(),  # a pipe shows nothing, and cannot be told to hide it
        confirmation_prompt=True,
    )
    return typed
