"""`architex reports`: what users reported to the administrators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from architex.bootstrap import build_core, build_use_cases
from architex.cli.common import config_option, read_settings
from architex.cli.ready_database import database_ready
from architex.domain.errors import MatrixError
from architex.storage.reports import Report
from architex.usecases.reporting import Reporting

_PAGE = 100


@contextmanager
def _reporting(config_file: str | None) -> Iterator[Reporting]:
    """The use case over the database; what it refuses is told without a traceback."""
    settings = read_settings(config_file)
    with database_ready(settings) as conninfo:
        core = build_core(settings, conninfo=conninfo, application_name="architex reports")
        try:
            yield build_use_cases(settings, core).reporting
        except MatrixError as error:
            raise click.ClickException(error.message) from None
        finally:
            core.close()


@click.group()
def reports() -> None:
    """Events, rooms and users that people reported with their clients."""


@reports.command("list")
@config_option
def list_reports(config_file: str | None) -> None:
    """List the reports, the oldest first."""
    with _reporting(config_file) as reporting:
        after = 0
        while page := reporting.list_reports(after=after, limit=_PAGE):
            for report in page:
                click.echo(_line(report))
            after = page[-1].report_id


@reports.command()
@config_option
@click.argument("number", type=int)
def delete(config_file: str | None, number: int) -> None:
    """Forget a report that was dealt with."""
    with _reporting(config_file) as reporting:
        reporting.delete_report(number)
        click.echo(f"Report {number} is gone.")


def _line(report: Report) -> str:
    when = datetime.fromtimestamp(report.ts / 1000, UTC).isoformat(timespec="seconds")
    about = [part for part in (report.user_id, report.event_id, report.room_id) if part]
    # One line, whatever somebody wrote.
    reason = "".join(c if c.isprintable() else " " for c in report.reason)
    return f"{report.report_id:6}  {when}  {report.reported_by}: {' '.join(about)}  {reason!r}"
