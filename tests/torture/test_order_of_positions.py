"""Sixteen writers in two processes, aborts of every kind, and readers at the tail of the log.

Each committed event is seen exactly once, in the order of positions, and none is skipped by a
reader that only ever asks for what is greater than the position it has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from architex.storage.pool import Database
from tests.core import create_room, make_core
from tests.torture.writer import CREATE_ROWS

pytestmark = pytest.mark.slow

CHECKOUT: Final = Path(__file__).parents[2]
PROCESSES: Final = 2
WRITERS_EACH: Final = 8
# make torture: ARCHITEX_WRITES=1000
COMMANDS_EACH: Final = int(os.environ.get("ARCHITEX_WRITES", "60"))
ROOMS: Final = 3

NEWS: Final = """
SELECT notification_id, originator_id, originator_version FROM stored_events
WHERE notification_id > %(after)s
UNION ALL SELECT position, 'row', 0 FROM torture_rows
WHERE position > %(after)s AND name NOT IN (SELECT name FROM of_sessions)
ORDER BY 1"""

OF_SESSIONS: Final = """
CREATE VIEW of_sessions AS SELECT name FROM torture_rows t
WHERE EXISTS (SELECT FROM stored_events WHERE notification_id = position)"""

Entry = tuple[int, str, int]


@dataclass
class TailingReader:
    """Follows the log by position from the beginning, as a follower or a /sync does.

    Attributes:
        by_now: go on from the position that the snapshot calls now, as /sync does; else from the
            greatest position seen, as followers do.
    """

    conninfo: str
    by_now: bool
    seen: list[Entry] = field(default_factory=list)
    error: BaseException | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Read until told to stop, and then once more."""
        try:
            with psycopg.connect(self.conninfo, autocommit=True) as connection:
                after = 0
                while True:
                    is_last = self.stop.is_set()
                    after = self._read(connection, after)
                    if is_last:
                        return
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def _read(self, connection: psycopg.Connection[Any], after: int) -> int:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            now = connection.execute("SELECT position FROM log_position").fetchone()
            assert now is not None
            news = connection.execute(NEWS, {"after": after}).fetchall()
        self.seen += news
        if self.by_now:
            assert all(position <= now[0] for position, _, _ in news)
            return int(now[0])
        return news[-1][0] if news else after


@contextmanager
def _readers(conninfo: str) -> Iterator[list[TailingReader]]:
    readers = [TailingReader(conninfo, by_now) for by_now in (True, False)]
    threads = [threading.Thread(target=reader.run) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        for reader in readers:
            reader.stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("greenlets", [False, True], ids=["threads", "greenlets"])
def test_tailing_readers_skip_nothing(
    database: Database, database_url: str, greenlets: bool, pytestconfig: pytest.Config
) -> None:
    core = make_core(database)
    rooms = [create_room(core) for _ in range(ROOMS)]
    database.execute(CREATE_ROWS)
    # Rows written along with a fact share its position: they are counted apart.
    database.execute(OF_SESSIONS)
    with _readers(database_url) as readers:
        told = _run_writers(database_url, rooms, ["--gevent"] if greenlets else [])
    for reader in readers:
        assert reader.error is None, reader.error

    events = {line["event_id"] for line in told if line["kind"] == "event"}
    kinds = {line["kind"] for line in told}
    assert kinds == {"event", "row"}, [t for t in told if t["kind"] not in ("event", "row")]
    stored = database.fetch_all(NEWS, {"after": 0})
    facts = core.event_log.facts_after(0, 1_000_000)
    messages = {fact.pdu.event_id for fact in facts if fact.pdu.type == "m.room.message"}
    assert messages == events, "what was answered is what was stored"
    bodies = [fact.pdu.content["body"] for fact in facts if fact.pdu.type == "m.room.message"]
    assert len(set(bodies)) == len(bodies)
    assert not any(body.startswith("never") for body in bodies)
    assert database.fetch_all("SELECT name FROM torture_rows WHERE name LIKE 'never%'") == []
    positions: dict[str, int] = dict(database.fetch_all("SELECT name, position FROM torture_rows"))
    assert {line["name"]: positions[line["name"]] for line in told if line["kind"] == "row"} == {
        line["name"]: line["position"] for line in told if line["kind"] == "row"
    }

    for reader in readers:
        assert reader.seen == stored, "a reader missed something, or met it twice"
    _assert_ordered(stored)


def _assert_ordered(entries: list[Entry]) -> None:
    positions = [position for position, _, _ in entries]
    assert positions == sorted(set(positions)), "a position was given twice"
    versions: dict[str, int] = {}
    for _, room_id, version in entries:
        if room_id != "row":
            assert version == versions.get(room_id, 0) + 1, "a room's versions have a gap"
            versions[room_id] = version


def _run_writers(conninfo: str, rooms: list[str], options: list[str]) -> list[dict[str, Any]]:
    """What the writers of all processes were told."""
    command = [sys.executable, "-m", "tests.torture.writer"]
    processes = [
        subprocess.Popen(
            [*command, conninfo, f"p{n}", str(WRITERS_EACH), str(COMMANDS_EACH), *rooms, *options],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    lines: list[str] = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=180 + COMMANDS_EACH)
            assert process.returncode == 0, err[-3000:]
            lines += out.splitlines()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads(line) for line in lines]
