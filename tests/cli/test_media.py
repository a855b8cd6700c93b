"""`architex media`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from architex.bootstrap import build_core, build_use_cases
from architex.domain.errors import NotFound
from architex.domain.media import MediaUri, parse_media_uri
from architex.gateways.media_files import LocalMediaFiles
from architex.usecases.catalogue import UseCases
from architex.usecases.media_reading import Reader
from architex.usecases.media_uploads import Upload
from architex.usecases.requester import Requester
from tests.api.client import settings_for
from tests.cli.conftest import Run

ALICE = "@alice:test.example"


@pytest.fixture
def run(run: Run) -> Run:
    """Run `architex media …`."""
    return partial(run, "media")


@pytest.fixture
def use_cases(database_url: str, tmp_path: Path) -> Iterator[UseCases]:
    settings = settings_for(tmp_path)
    core = build_core(settings, conninfo=database_url)
    yield build_use_cases(settings, core)
    core.close()


def upload(use_cases: UseCases, content: bytes, user: str = ALICE) -> str:
    body = iter([content])
    given = Upload(lambda: next(body, b""), len(content), "text/plain", "a\x1b[31m.txt")
    return str(use_cases.media_uploads.upload(Requester(user), given))


def is_there(use_cases: UseCases, uri: str) -> bool:
    try:
        use_cases.media_reading.open(parse_media_uri(uri), Reader(ALICE, True)).close()
    except NotFound:
        return False
    return True


def files_below(directory: Path) -> list[Path]:
    return [path for path in (directory / "media").rglob("*") if path.is_file()]


def test_media_is_listed_and_shown(run: Run, use_cases: UseCases) -> None:
    uri = upload(use_cases, b"hello")
    upload(use_cases, b"other", "@bob:test.example")
    listed = run("list", "--user", ALICE)
    assert uri in listed.output
    assert "@bob" not in listed.output
    (told,) = json.loads(run("list", "--limit", "1", "--user", ALICE, "--json").output)
    assert (told["uri"], told["size"], told["uploader"]) == (uri, 5, ALICE)
    shown = run("show", uri)
    assert "text/plain" in shown.output
    assert "\x1b" not in shown.output


def test_usage_is_told_by_server_and_user(run: Run, use_cases: UseCases) -> None:
    for content in (b"one", b"four"):
        upload(use_cases, content)
    told = json.loads(run("usage", "--json").output)
    assert told == {
        "servers": [{"owner": "test.example", "files": 2, "bytes": 7}],
        "users": [{"owner": ALICE, "files": 2, "bytes": 7}],
    }
    assert ALICE in run("usage").output


def test_removed_media_is_gone_and_so_is_its_file(
    run: Run, use_cases: UseCases, tmp_path: Path
) -> None:
    uri, twin, other = (upload(use_cases, c) for c in (b"same", b"same", b"other"))
    assert run("remove", uri, input="n\n").exit_code == 1
    assert is_there(use_cases, uri)
    assert run("remove", uri, "--yes").exit_code == 0
    assert not is_there(use_cases, uri)
    assert is_there(use_cases, twin)
    assert len(files_below(tmp_path)) == 2
    assert run("remove", twin, "--yes").exit_code == 0
    assert is_there(use_cases, other)
    assert len(files_below(tmp_path)) == 1


def test_everything_of_a_user_is_removed_but_what_is_protected(
    run: Run, use_cases: UseCases
) -> None:
    uris = [upload(use_cases, bytes([n])) for n in range(5)]
    others = upload(use_cases, b"other", "@bob:test.example")
    assert run("protect", uris[2]).exit_code == 0
    assert "4 files" in run("remove", "--user", ALICE, "--yes").output
    assert [is_there(use_cases, uri) for uri in uris] == [False, False, True, False, False]
    assert is_there(use_cases, others)


def test_quarantined_content_is_shown_to_nobody_even_uploaded_anew(
    run: Run, use_cases: UseCases
) -> None:
    uri = upload(use_cases, b"awful")
    assert run("quarantine", uri).exit_code == 0
    assert not is_there(use_cases, uri)
    again = upload(use_cases, b"awful", "@bob:test.example")
    assert not is_there(use_cases, again)
    assert run("protect", again).exit_code == 0
    assert is_there(use_cases, again)
    assert run("quarantine", uri, "--end").exit_code == 0
    assert is_there(use_cases, uri)


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "mxc://test.example/nothing"),
        ("remove", "mxc://test.example/nothing", "--yes"),
        ("quarantine", "mxc://test.example/nothing"),
        ("protect", "mxc://test.example/nothing"),
        ("show", "mxc://test.example/../x"),
        ("show", "nonsense"),
        ("remove",),
        ("remove", "mxc://a.b/c", "--user", ALICE),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert "Error" in result.output
    assert "Traceback" not in result.output


def test_time_removes_what_nobody_reads(use_cases: UseCases, tmp_path: Path) -> None:
    care, store = use_cases.media_care, use_cases.media_care.store
    old, protected = upload(use_cases, b"old"), upload(use_cases, b"old but good")
    care.protect(parse_media_uri(protected), True)
    store._database.execute("UPDATE media SET read_ts = 0")
    new = upload(use_cases, b"new")
    assert care.remove_unread() == 0  # by default uploads stay for ever
    object.__setattr__(care.retention, "local_days", 1)
    assert care.remove_unread() == 1
    assert [is_there(use_cases, uri) for uri in (old, protected, new)] == [False, True, True]
    assert len(files_below(tmp_path)) == 2


def test_what_was_created_and_never_uploaded_goes(use_cases: UseCases) -> None:
    care = use_cases.media_care
    uri, _ = use_cases.media_uploads.create(Requester(ALICE))
    assert care.remove_expired() == 0
    care.store._database.execute("UPDATE media SET expires_ts = 1")
    assert care.remove_expired() == 1
    assert care.store.find(MediaUri(uri.server_name, uri.media_id)) is None


def test_removal_that_was_interrupted_is_finished(use_cases: UseCases, tmp_path: Path) -> None:
    uri = parse_media_uri(upload(use_cases, b"half removed"))
    care = use_cases.media_care
    care.store.delete(uri)
    assert len(files_below(tmp_path)) == 1
    assert care.remove_unreferenced() == 1
    assert files_below(tmp_path) == []


def test_files_and_rows_are_compared(run: Run, use_cases: UseCases, tmp_path: Path) -> None:
    uri, other = upload(use_cases, b"one"), upload(use_cases, b"other")
    assert run("check").exit_code == 0
    files = use_cases.media_care.files
    assert isinstance(files, LocalMediaFiles)
    files.path_of(hashlib.sha256(b"one").digest()).unlink()
    stray = files.path_of(hashlib.sha256(b"stray").digest())
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"stray")
    result = run("check")
    assert result.exit_code == 1
    assert f"{uri}: its file is lost" in result.output
    assert "1 files that nothing refers to" in result.output
    assert run("check", "--repair").exit_code == 1
    assert not stray.exists()
    assert is_there(use_cases, other)
    assert "nothing refers to" not in run("check").output
