"""Before a client is told that something is written, the log is on disk beyond its COMMIT.

A proxy keeps the answer to each COMMIT back, asks PostgreSQL how far its log is flushed, and
only then lets it pass; where the COMMIT stands in the log, the log itself tells afterwards. So
nothing is inferred from our code: a 200 cannot leave before the answer passed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psutil
import pytest

from architex.settings import RateLimitSettings
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.migrations import migrate
from tests.api.client import User, segment, settings_for, start_server, stop_server
from tests.directories import make_directory
from tests.torture.postgres_proxy import CommitWatch, PostgresProxy

pytestmark = pytest.mark.slow

# make torture: ARCHITEX_FLUSHES=400
ROUNDS: Final = int(os.environ.get("ARCHITEX_FLUSHES", "8"))
WRITERS: Final = 8

_COMMIT: Final = re.compile(
    r"rmgr: Transaction len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+),"
    r" lsn: ([0-9A-F]+)/([0-9A-F]+),.* desc: COMMIT"
)

WRITES: Final[tuple[Callable[[User, str, str], object], ...]] = (
    lambda user, room, name: user.put(f"/rooms/{room}/send/m.room.message/{name}", {"body": name}),
    lambda user, room, name: user.put(f"/rooms/{room}/state/m.room.topic", {"topic": name}),
    lambda user, room, name: user.put(f"/user/{user.path}/account_data/x", {"x": name}),
    lambda user, room, name: user.put(f"/profile/{user.path}/displayname", {"displayname": name}),
    lambda user, room, name: user.put(
        f"/sendToDevice/x/{name}", {"messages": {user.user_id: {"*": {}}}}
    ),
    lambda user, room, name: user.post(
        "/keys/upload", {"one_time_keys": {f"curve25519:{name}": "key"}}
    ),
    lambda user, room, name: user.post(
        "/keys/claim", {"one_time_keys": {user.user_id: {user.device_id: "curve25519"}}}
    ),
)


@pytest.fixture(scope="module")
def durable() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that keeps its promises, unlike that of the other tests."""
    directory = make_directory()
    cluster = EmbeddedPostgres(directory / "postgres")
    try:
        cluster.ensure_running()
        migrate(cluster.conninfo())
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_log_is_on_disk_before_anybody_is_told(durable: EmbeddedPostgres, tmp_path: Path) -> None:
    watch = CommitWatch(durable.conninfo())
    began = watch.find_flushed()
    with PostgresProxy(durable.conninfo(), watch=watch) as proxy:
        server = start_server(
            proxy.conninfo, settings_for(tmp_path, rate_limits=RateLimitSettings(enabled=False))
        )
        users = [server.register() for _ in range(WRITERS)]
        room = segment(users[0].create_room(preset="public_chat"))
        for user in users[1:]:
            user.post(f"/join/{room}", {}).ok()

        def write(number: int) -> None:
            for round_number in range(ROUNDS):
                for kind, deed in enumerate(WRITES):
                    deed(users[number], room, f"{number}x{round_number}x{kind}")

        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(write, range(WRITERS)))
        # The control: of what may be lost, some is not on disk when it is told.
        for number in range(5):
            typing = {"typing": number % 2 == 0, "timeout": 30_000}
            users[0].put(f"/rooms/{room}/typing/{users[0].path}", typing).ok()
            time.sleep(0.01)
        stop_server(server)
    committed = _find_commits(durable, began, watch)
    watch.close()
    durably = [commit for commit in watch.commits if commit.is_durable]
    late = [commit for commit in durably if commit.flushed_lsn < committed[commit.xid]]
    assert late == []
    assert len(durably) > ROUNDS * len(WRITES)
    others = [commit for commit in watch.commits if not commit.is_durable]
    assert any(commit.flushed_lsn < committed[commit.xid] for commit in others)
    print(f"\n{len(durably)} commits were on disk when they were told")  # noqa: T201 - for long runs


def _find_commits(cluster: EmbeddedPostgres, began: int, watch: CommitWatch) -> dict[int, int]:
    """Transaction → where the record of its COMMIT ends in the log."""
    time.sleep(0.5)  # what was not to be durable reaches the disk by itself
    directory = cluster.directory / "cluster"
    postmaster = psutil.Process(int((directory / "postmaster.pid").read_text().split()[0]))
    listing = subprocess.run(
        [
            str(Path(postmaster.exe()).with_name("pg_waldump")),
            f"--path={directory / 'pg_wal'}",
            "--rmgr=Transaction",
            f"--start={began >> 32:X}/{began & 0xFFFFFFFF:X}",
            f"--end={watch.find_flushed() >> 32:X}/{watch.find_flushed() & 0xFFFFFFFF:X}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        int(xid): (int(high, 16) << 32) + int(low, 16) + int(length)
        for length, xid, high, low in _COMMIT.findall(listing.stdout)
    }
