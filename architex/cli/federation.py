"""`architex federation`: whether servers can be reached, and what waits to be sent to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import click
from rich.text import Text

from architex.bootstrap import build_federation_check
from architex.cli.common import config_option, read_settings
from architex.cli.inspecting import moment
from architex.cli.ready_database import database_ready
from architex.cli.tables import console, json_option, print_json, print_table, shown
from architex.projections.federation_outbox import Waiting, count_waiting
from architex.settings import Settings
from architex.storage.destinations import Destination, Destinations
from architex.storage.pool import Database
from architex.usecases.federation_check import Finding, Level

_MARKS: Final[dict[Level, tuple[str, str]]] = {
    "ok": ("ok  ", "green"),
    "warning": ("WARN", "yellow"),
    "failure": ("FAIL", "red bold"),
}


@click.group()
def federation() -> None:
    """See whether servers can be reached, and what waits to be sent to them."""


@federation.command()
@config_option
@click.argument("server", required=False)
@json_option
def check(config_file: str | None, server: str | None, as_json: bool) -> None:
    """Look at a server as others see it: DNS, well-known file, TLS, keys, clock.

    SERVER is a server name; without one it is ours. The status is 1 when something is broken.
    """
    settings = read_settings(config_file)
    server_name = server or settings.server_name
    doctor = build_federation_check(settings, server_name)
    findings = []
    if not as_json:
        click.echo(f"{server_name}, seen from this machine:\n")
    if not settings.federation.enabled:
        switched_off = Finding(
            "failure",
            "settings",
            "Federation is switched off here.",
            "Set enabled = true under [federation] in architex.toml.",
        )
        findings.append(switched_off)
        if not as_json:
            _print(switched_off)
    for finding in doctor.check(server_name):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failures = sum(finding.level == "failure" for finding in findings)
    if as_json:
        print_json({"server": server_name, "findings": [asdict(one) for one in findings]})
    elif failures:
        click.echo(f"\n{failures} of {len(findings)} things are broken.")
    else:
        click.echo("\nIt federates, as far as can be seen from here.")
    raise SystemExit(1 if failures else 0)


def _print(finding: Finding) -> None:
    mark, style = _MARKS[finding.level]
    terminal = console()
    terminal.print(Text(mark, style=style), shown(f"{finding.topic}: {finding.message}"))
    if finding.advice:
        terminal.print(shown("     "), shown(finding.advice))


@contextmanager
def _opened(config_file: str | None) -> Iterator[tuple[Settings, Database]]:
    settings = read_settings(config_file)
    with database_ready(settings) as conninfo:
        database = Database(conninfo, max_size=2, application_name="architex federation")
        try:
            yield settings, database
        finally:
            database.close()


@federation.command("list")
@config_option
@click.option("--failing", is_flag=True, help="Only servers to which sending fails.")
@json_option
def list_(config_file: str | None, failing: bool, as_json: bool) -> None:
    """List the servers we send to: what waits for them, what went wrong, when it is tried again.

    Those that have been failing longest come first.
    """
    with _opened(config_file) as (settings, database):
        destinations = Destinations(database)
        waiting = count_waiting(database, settings.server_name)
        refused = destinations.count_refused()
        held = [one for one in destinations.list_all() if one.failures or not failing]
    if as_json:
        print_json(
            [
                _told(one, waiting.get(one.server_name), refused.get(one.server_name, 0))
                for one in held
            ]
        )
        return
    print_table(
        ("server", "state", "events", "rooms", "refused", "failures", "next try", "last error"),
        (
            (
                one.server_name,
                _state_of(one),
                waits.events,
                waits.rooms,
                refused.get(one.server_name, 0),
                one.failures,
                moment(one.next_try_ts) if one.failures else None,
                one.last_error,
            )
            for one in held
            for waits in [waiting.get(one.server_name, _NOTHING)]
        ),
        numbers=("events", "rooms", "refused", "failures"),
    )


@federation.command()
@config_option
@click.argument("server")
@json_option
def show(config_file: str | None, server: str, as_json: bool) -> None:
    """Show how sending to SERVER goes: what waits, what went wrong, what it refused."""
    with _opened(config_file) as (settings, database):
        destinations = Destinations(database)
        held = destinations.find(server)
        if held is None:
            raise click.ClickException(
                f"Nothing was sent to {server} lately, and nothing waits for it."
            )
        waits = count_waiting(database, settings.server_name).get(server)
        refused = destinations.list_refused(server)
    if as_json:
        told = _told(held, waits, len(refused))
        print_json({**told, "refused": [asdict(one) for one in refused]})
        return
    events = waits or _NOTHING
    rows: list[tuple[str, object]] = [("state", _state_of(held))]
    if events.events:
        oldest = "" if events.since_ts is None else f", the oldest of {moment(events.since_ts)}"
        rows.append(("waiting", f"{events.events} events in {events.rooms} room(s){oldest}"))
    elif held.delivered is not None:
        rows.append(("waiting", "something that is no event"))
    if held.failures and held.failing_since_ts is not None:
        rows.append(("failing", f"{held.failures} times, since {moment(held.failing_since_ts)}"))
        rows.append(("last error", held.last_error))
        rows.append(("next try", moment(held.next_try_ts)))
    if held.last_success_ts is not None:
        rows.append(("last success", moment(held.last_success_ts)))
    print_table((server, ""), rows)
    if refused:
        click.echo("\nWhat it would not take, and is not sent again:\n")
        print_table(
            ("what", "room", "when", "why"),
            ((one.what, one.room_id, moment(one.refused_ts), one.error) for one in refused),
        )
    if held.failures:
        click.echo(f"\n`architex federation check {server}` looks for the reason.")


@federation.command()
@config_option
@click.argument("server")
def retry(config_file: str | None, server: str) -> None:
    """Have SERVER tried now, and not when its time has come.

    The running server does it, within a few seconds.
    """
    with _opened(config_file) as (_, database):
        if not Destinations(database).retry(server):
            raise click.ClickException(f"Nothing waits for {server}, and nothing failed.")
    click.echo(f"{server} is tried within a few seconds by the server that runs.")


_NOTHING: Final = Waiting(0, 0, None)


def _state_of(held: Destination) -> str:
    if held.failures:
        return "failing"
    return "all sent" if held.delivered is None else "sending"


def _told(held: Destination, waits: Waiting | None, refused: int) -> dict[str, object]:
    """A server, for programs."""
    told = {key: value for key, value in asdict(held).items() if key != "delivered"}
    return {
        **told,
        "state": _state_of(held),
        "waiting": asdict(waits or _NOTHING),
        "refused": refused,
    }
