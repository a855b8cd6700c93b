"""`architex federation`: whether other servers can be reached, and ours by them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click
from rich.text import Text

from architex.bootstrap import build_federation_check
from architex.cli.common import config_option, read_settings
from architex.cli.tables import console, json_option, print_json, shown
from architex.usecases.federation_check import Finding, Level

_MARKS: Final[dict[Level, tuple[str, str]]] = {
    "ok": ("ok  ", "green"),
    "warning": ("WARN", "yellow"),
    "failure": ("FAIL", "red bold"),
}


@click.group()
def federation() -> None:
    """See whether servers can be reached."""


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
