"""`architex media`: files, as the operator looks after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from architex.bootstrap import build_core, build_use_cases
from architex.cli.common import config_option, read_settings
from architex.cli.ready_database import database_ready
from architex.cli.tables import json_option, print_json, print_table
from architex.domain.errors import MatrixError
from architex.domain.media import MediaUri, parse_media_uri
from architex.storage.media import Media, Usage
from architex.usecases.media_care import DAY_MS, MediaCare

_PAGE = 500
_OPERATOR = "operator"


@contextmanager
def _care(config_file: str | None) -> Iterator[MediaCare]:
    """The use case over the database; what it refuses is told without a traceback."""
    settings = read_settings(config_file)
    with database_ready(settings) as conninfo:
        core = build_core(settings, conninfo=conninfo, application_name="architex media")
        try:
            yield build_use_cases(settings, core).media_care
        except MatrixError as error:
            raise click.ClickException(error.message) from None
        finally:
            core.close()


_server_option = click.option("--server", metavar="NAME", help="Only media of that server.")
_user_option = click.option("--user", metavar="ID", help="Only uploads of that user (@a:b).")
_uris_argument = click.argument("uris", metavar="MXC...", nargs=-1, required=True)
_end_option = click.option("--end", is_flag=True, help="Do so no longer.")


@click.group()
def media() -> None:
    """Files that users uploaded, and what is cached of other servers. MXC is mxc://server/id."""


@media.command("list")
@config_option
@_server_option
@_user_option
@click.option("--limit", default=100, show_default=True, help="At most so many; 0 for all.")
@json_option
def list_command(
    config_file: str | None, server: str | None, user: str | None, limit: int, as_json: bool
) -> None:
    """List media, by server and ID."""
    with _care(config_file) as care:
        found: list[Media] = []
        for one in _each(care, server, user):
            found.append(one)
            if len(found) == limit:
                break
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    print_table(
        ["media", "bytes", "type", "uploaded by", "since", "last read", "notes"],
        [
            (
                str(one.uri),
                one.size,
                one.content_type,
                one.uploader,
                _day(one.created_ts),
                _day(one.read_ts),
                ", ".join(_notes(one)),
            )
            for one in found
        ],
        numbers=["bytes"],
    )


@media.command()
@config_option
@click.argument("uri", metavar="MXC")
@json_option
def show(config_file: str | None, uri: str, as_json: bool) -> None:
    """Show what is known of one piece of media."""
    with _care(config_file) as care:
        told = _as_json(care.get(parse_media_uri(uri)))
    if as_json:
        print_json(told)
        return
    print_table(["", ""], list(told.items()))


@media.command()
@config_option
@click.argument("uris", metavar="[MXC]...", nargs=-1)
@_server_option
@_user_option
@click.option("--unread-days", type=click.IntRange(1), help="Only what nobody read for so long.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(
    config_file: str | None,
    uris: Sequence[str],
    server: str | None,
    user: str | None,
    unread_days: int | None,
    yes: bool,
) -> None:
    """Remove media for good: some, or all of a server or user. What is protected stays.

    Media of other servers comes back when somebody asks for it; use quarantine against that.
    """
    if bool(uris) == any((server, user, unread_days)):
        raise click.UsageError("Name media, or say which by --server, --user or --unread-days.")
    with _care(config_file) as care:
        if uris:
            wanted = [care.get(parse_media_uri(uri)) for uri in uris]
        else:
            before = care.clock.now_ms() - (unread_days or 0) * DAY_MS
            wanted = [
                one
                for one in _each(care, server, user)
                if not one.protected and (unread_days is None or one.read_ts < before)
            ]
        size = sum(one.size for one in wanted)
        if not yes:
            click.confirm(f"Remove {len(wanted)} files, {size} bytes?", abort=True)
        _remove(care, wanted)
        click.echo(f"Removed: {len(wanted)} files, {size} bytes.")


@media.command()
@config_option
@_uris_argument
@_end_option
def quarantine(config_file: str | None, uris: Sequence[str], end: bool) -> None:
    """Show content to nobody any more, also under other names, and if it is uploaded again."""
    with _care(config_file) as care:
        for uri in map(parse_media_uri, uris):
            if end:
                care.end_quarantine(uri)
                click.echo(f"{uri} is visible again.")
            else:
                count = care.quarantine(uri, _OPERATOR)
                click.echo(f"{uri} is in quarantine; so are {count} with this content in all.")


@media.command()
@config_option
@_uris_argument
@_end_option
def protect(config_file: str | None, uris: Sequence[str], end: bool) -> None:
    """Keep media from quarantine and from being removed by time."""
    with _care(config_file) as care:
        for uri in map(parse_media_uri, uris):
            care.protect(uri, not end)
            click.echo(f"{uri} is {'protected no longer' if end else 'protected'}.")


@media.command()
@config_option
@click.option("--repair", is_flag=True, help="Remove files that nothing refers to.")
def check(config_file: str | None, repair: bool) -> None:
    """Compare the files with what is known of them, as after a restore. Exit code 1: they differ.

    Files of other servers that are lost are no harm: with --repair they are fetched again when
    somebody asks for them. Lost uploads of our users come back only from a backup.
    """
    with _care(config_file) as care:
        found = care.check(repair=repair)
    for uri in found.lost:
        click.echo(f"{uri}: its file is lost")
    if found.unknown:
        what = "removed" if repair else "--repair removes them"
        click.echo(f"{found.unknown} files that nothing refers to ({what})")
    if found.lost or found.unknown:
        raise SystemExit(1)
    click.echo("All files are there, and no others.")


@media.command()
@config_option
@click.option("--users", default=20, show_default=True, help="So many users, those with most.")
@json_option
def usage(config_file: str | None, users: int, as_json: bool) -> None:
    """Show what media takes, by server and by user."""
    with _care(config_file) as care:
        by_server, by_user = care.usage(users)
    if as_json:
        print_json({"servers": _usage_json(by_server), "users": _usage_json(by_user)})
        return
    for heading, lines in (("server", by_server), ("user", by_user)):
        print_table(
            [heading, "files", "bytes"],
            [(line.owner, line.count, line.size) for line in lines],
            numbers=["files", "bytes"],
        )


def _each(care: MediaCare, server: str | None, user: str | None) -> Iterator[Media]:
    after: MediaUri | None = None
    while page := care.list_after(after, _PAGE, server_name=server, uploader=user):
        yield from page
        after = page[-1].uri


def _remove(care: MediaCare, wanted: Sequence[Media]) -> None:
    columns = (TextColumn("removing"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for one in progress.track(wanted):
            care.remove(one.uri)


def _notes(one: Media) -> list[str]:
    return [
        note
        for note, holds in (
            ("not uploaded yet", one.sha256 is None),
            ("protected", one.protected),
            ("quarantined", one.quarantined_by is not None),
            ("expires", one.sha256 is not None and one.expires_ts is not None),
            ("open without a token", not one.needs_token),
        )
        if holds
    ]


def _day(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).date().isoformat()


def _as_json(one: Media) -> dict[str, object]:
    return {
        "uri": str(one.uri),
        "sha256": None if one.sha256 is None else one.sha256.hex(),
        "size": one.size,
        "content_type": one.content_type,
        "file_name": one.file_name,
        "uploader": one.uploader,
        "is_local": one.is_local,
        "created_ts": one.created_ts,
        "read_ts": one.read_ts,
        "expires_ts": one.expires_ts,
        "needs_token": one.needs_token,
        "protected": one.protected,
        "quarantined_by": one.quarantined_by,
    }


def _usage_json(lines: Sequence[Usage]) -> list[dict[str, object]]:
    return [{"owner": line.owner, "files": line.count, "bytes": line.size} for line in lines]
