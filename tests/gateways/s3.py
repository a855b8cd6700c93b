"""A real S3-compatible server for tests, if one is installed.

`versitygw` (Apache-2.0) keeps its objects in a directory:
`go install github.com/versity/versitygw/cmd/versitygw@latest`, or say where it is by $VERSITYGW.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minio import Minio

from tests.ports import free_port

BUCKET = "media"
ACCESS_KEY, SECRET_KEY = "tester", "tester-secret"


def find_s3_server() -> str | None:
    """The program; None when it is not installed."""
    return os.environ.get("VERSITYGW") or shutil.which("versitygw")


@contextmanager
def s3_server(directory: Path) -> Iterator[tuple[str, Minio]]:
    """A server with an empty bucket: its host and port, and a client."""
    program = find_s3_server()
    assert program is not None
    objects = directory / "objects"
    objects.mkdir()
    endpoint = f"127.0.0.1:{free_port()}"
    command = [program, "--port", endpoint, "--access", ACCESS_KEY, "--secret", SECRET_KEY]
    with (directory / "s3.log").open("wb") as log:
        process = subprocess.Popen([*command, "posix", str(objects)], stdout=log, stderr=log)
    client = Minio(endpoint, ACCESS_KEY, SECRET_KEY, secure=False)
    try:
        for _ in range(200):
            try:
                client.make_bucket(BUCKET)
                break
            except Exception:  # noqa: BLE001 - whatever it says before it serves
                time.sleep(0.1)
        yield endpoint, client
    finally:
        process.terminate()
        process.wait(20)
