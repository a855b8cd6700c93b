"""Files by their hash, whatever is interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from architex.gateways.clock import SystemRandomness
from architex.gateways.media_files import LocalMediaFiles
from architex.gateways.off_loop import OffLoop


@pytest.fixture
def files(tmp_path: Path) -> LocalMediaFiles:
    return LocalMediaFiles(tmp_path / "media", SystemRandomness(), OffLoop())


def keep(files: LocalMediaFiles, content: bytes) -> bytes:
    with files.incoming() as file:
        file.write(content)
        sha256 = file.finish()
        file.put()
    return sha256


def read(files: LocalMediaFiles, sha256: bytes) -> bytes | None:
    file = files.open(sha256)
    if file is None:
        return None
    try:
        return file.read(0, file.size)
    finally:
        file.close()


def all_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "media").rglob("*") if path.is_file()]


def test_content_is_found_by_its_hash(files: LocalMediaFiles, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    sha256 = keep(files, content)
    assert sha256 == hashlib.sha256(content).digest()
    assert read(files, sha256) == content
    assert [path.name for path in all_files(tmp_path)] == [sha256.hex()]
    assert read(files, b"\x00" * 32) is None


def test_what_is_not_put_leaves_nothing(files: LocalMediaFiles, tmp_path: Path) -> None:
    with files.incoming() as file:
        file.write(b"x" * 2_000_000)
    with files.incoming() as file:
        file.write(b"x")
        file.finish()
    assert all_files(tmp_path) == []


def test_nobody_else_may_read_the_files(files: LocalMediaFiles, tmp_path: Path) -> None:
    keep(files, b"secret")
    (path,) = all_files(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "media" / "incoming").stat().st_mode & 0o077 == 0


def test_removed_content_is_gone(files: LocalMediaFiles, tmp_path: Path) -> None:
    sha256 = keep(files, b"away")
    with files.removing(sha256) as removal:
        removal.take_away()
        assert read(files, sha256) is None
        removal.finish()
    assert all_files(tmp_path) == []
    with files.removing(sha256) as removal:  # there is nothing to remove
        removal.take_away()
        removal.finish()


def test_interrupted_removal_is_undone_or_finished(files: LocalMediaFiles, tmp_path: Path) -> None:
    sha256 = keep(files, b"away?")
    for is_wanted in (True, False):
        with files.removing(sha256) as removal:
            removal.take_away()
        (abandoned,) = files.list_abandoned()
        assert abandoned.sha256 == sha256
        abandoned.settle(is_wanted)
        assert (read(files, sha256) is not None) == is_wanted
    assert all_files(tmp_path) == []


def test_what_is_being_written_is_not_abandoned(files: LocalMediaFiles) -> None:
    with files.incoming() as file:
        file.write(b"x" * 2_000_000)
        assert files.list_abandoned() == []
        file.finish()
        assert files.list_abandoned() == []


_WRITER = """
import sys
from pathlib import Path
from architex.gateways.clock import SystemRandomness
from architex.gateways.media_files import LocalMediaFiles
from architex.gateways.off_loop import OffLoop
files = LocalMediaFiles(Path(sys.argv[1]), SystemRandomness(), OffLoop())
with files.incoming() as file:
    file.write(b"x" * 3_000_000)
    if sys.argv[2] != "write":
        file.finish()
    if sys.argv[2] == "put":
        file.put()
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["write", "finish", "put"])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_killed_writer_leaves_nothing_that_is_not_put_right(
    files: LocalMediaFiles, tmp_path: Path, moment: str, is_wanted: bool
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path / "media"), moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == b"there\n"
    assert files.list_abandoned() == []
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    writer.stdin.close()
    (abandoned,) = files.list_abandoned()
    assert (abandoned.sha256 is None) == (moment == "write")
    abandoned.settle(is_wanted and abandoned.sha256 is not None)
    kept = [path.name for path in all_files(tmp_path)]
    sha256 = hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert kept == ([sha256] if is_wanted and moment != "write" else [])
