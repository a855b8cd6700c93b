"""Files in a bucket, against a real S3-compatible server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from architex.gateways.clock import SystemRandomness
from architex.gateways.media_files import LocalMediaFiles
from architex.gateways.off_loop import OffLoop
from architex.gateways.s3_media_files import BLOCK_BYTES, S3MediaFiles
from architex.settings import RateLimitSettings, S3Settings
from tests import server as running
from tests.api.client import settings_for, start_server, stop_server
from tests.clients import test_media as over_http
from tests.gateways.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, find_s3_server, s3_server
from tests.media_files import download, open_picture, picture, thumbnail, upload

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_s3_server() is None, reason="versitygw is not installed"),
    # The client library keeps its connections.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Minio]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def files(s3: tuple[str, Minio], tmp_path: Path) -> S3MediaFiles:
    scratch = LocalMediaFiles(tmp_path / "media", SystemRandomness(), OffLoop())
    return S3MediaFiles(s3[1], BUCKET, f"{tmp_path.name}/", scratch)


def keep(files: S3MediaFiles, content: bytes) -> bytes:
    with files.incoming() as file:
        file.write(content)
        sha256 = file.finish()
        file.put()
    return sha256


def local_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "media").rglob("*") if path.is_file()]


def test_content_goes_through_the_disk_into_the_bucket(
    files: S3MediaFiles, tmp_path: Path
) -> None:
    content = os.urandom(20_000_000)
    sha256 = keep(files, content)
    assert sha256 == hashlib.sha256(content).digest()
    assert local_files(tmp_path) == []
    file = files.open(sha256)
    assert file is not None
    assert file.size == len(content)
    assert file.read(0, 100) == content[:100]
    assert file.read(BLOCK_BYTES - 50, 50) == content[BLOCK_BYTES - 50 : BLOCK_BYTES]
    assert file.read(len(content) - 10, 100) == content[-10:]
    assert file.read(len(content), 100) == b""
    assert os.pread(file.fileno(), len(content), 0) == content
    file.close()
    assert list(files.list_stored()) == [sha256]
    assert files.open(b"\x00" * 32) is None


def test_removed_content_is_gone(files: S3MediaFiles) -> None:
    sha256 = keep(files, b"away")
    with files.removing(sha256) as removal:
        removal.take_away()
        removal.finish()
    assert files.open(sha256) is None


def test_object_that_was_deleted_meanwhile_is_put_again(files: S3MediaFiles) -> None:
    with files.incoming() as file:
        file.write(b"once more")
        sha256 = file.finish()
        files.delete(sha256)
        file.put()
    assert files.open(sha256) is not None


@pytest.mark.parametrize("is_wanted", [True, False])
def test_what_a_crash_left_is_put_right(
    files: S3MediaFiles, tmp_path: Path, is_wanted: bool
) -> None:
    sha256 = keep(files, b"sent, and then")
    # What the scratch directory of a process that was killed holds.
    left = tmp_path / "media" / "incoming" / f"{sha256.hex()}-abc"
    left.write_bytes(b"sent, and then")
    (abandoned,) = files.list_abandoned()
    if is_wanted:
        files.delete(sha256)
    abandoned.settle(is_wanted)
    assert (files.open(sha256) is not None) == is_wanted
    assert local_files(tmp_path) == []


def test_server_keeps_its_media_in_a_bucket(
    s3: tuple[str, Minio], database_url: str, tmp_path: Path
) -> None:
    bucket = S3Settings(
        endpoint=s3[0],
        bucket=BUCKET,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        prefix="whole/",
        tls=False,
    )
    settings = settings_for(
        tmp_path, rate_limits=RateLimitSettings(enabled=False), media_s3=bucket
    )
    server = start_server(database_url, settings)
    try:
        alice = server.register()
        content = picture(1000, 500)
        media = upload(alice, content, "application/octet-stream")
        assert download(alice, media).content == content
        part = download(alice, media, headers={"Range": "bytes=10-19"})
        assert part.content == content[10:20]
        small = thumbnail(alice, media, width=320, height=240)
        assert open_picture(small.content).size == (320, 160)
        assert local_files(tmp_path) == []
    finally:
        stop_server(server)


def test_running_server_keeps_its_media_in_a_bucket(s3: tuple[str, Minio], tmp_path: Path) -> None:
    bucket = {
        "endpoint": s3[0],
        "bucket": BUCKET,
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "prefix": "running/",
        "tls": False,
    }
    content = os.urandom(30_000_000)
    with running.start_server(tmp_path, media_s3=bucket) as server:
        token = over_http.register(server, "alice")
        media = over_http.upload(server, token, content, "video/mp4")
        path = f"/_matrix/client/v1/media/download/{media}"
        assert over_http.get(server, token, path) == (200, content)
        assert over_http.files_of(server) == []
