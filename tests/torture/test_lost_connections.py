"""Connections to PostgreSQL break at every statement of a commit, in every way.

No success without a commit, no event twice, none lost after a success; and the pool is well again
within seconds.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from architex.bootstrap import Core
from architex.domain.errors import DatabaseUnavailable
from architex.storage.pool import Database
from tests.core import ALICE, create_room, make_core, send_message
from tests.torture.postgres_proxy import Kind, PostgresProxy

pytestmark = pytest.mark.slow

AT_ONCE: Final = 6
# make torture: ARCHITEX_STALL_S=7, longer than PostgreSQL lets a transaction take
STALL_S: Final = float(os.environ.get("ARCHITEX_STALL_S", "0.5"))
WELL_AGAIN_S: Final = 30.0
"""How long anything may take: far more than it does on an idle machine."""


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresProxy]:
    with PostgresProxy(database_url, stall_s=STALL_S) as running:
        yield running


@pytest.fixture
def core(proxy: PostgresProxy) -> Iterator[Core]:
    """A core whose every connection goes through the proxy."""
    database = Database(proxy.conninfo, max_size=8)
    yield make_core(database)
    database.close()


@pytest.fixture
def room_id(core: Core) -> str:
    room = create_room(core)
    # Statements are prepared by their second use; the torture is to see the usual case.
    for number in range(3):
        send_message(core, room, ALICE, f"warm up {number}", f"warm up {number}")
    return room


class Ledger:
    """What was sent, and what the log holds, read past the proxy."""

    def __init__(self, core: Core, database: Database, room_id: str) -> None:
        self._core = core
        self._truth = make_core(database)
        self._room_id = room_id
        self._names = (f"message {number}" for number in itertools.count())
        self._before = set(self._stored())
        self.told: dict[str, str] = {}

    def send_some(self) -> None:
        """Send a few at once; who is refused repeats the request, as clients do."""
        names = list(itertools.islice(self._names, AT_ONCE))
        threads = ThreadPoolExecutor(AT_ONCE)
        try:
            event_ids = threads.map(self._send, names, timeout=2 * WELL_AGAIN_S)
            self.told.update(zip(names, event_ids, strict=True))
        finally:
            # Who hangs goes on when the proxy ends.
            threads.shutdown(wait=False)

    def _send(self, name: str) -> str:
        deadline = time.monotonic() + WELL_AGAIN_S
        while True:
            try:
                return send_message(self._core, self._room_id, ALICE, name, name)
            except DatabaseUnavailable:
                assert time.monotonic() < deadline, "the pool does not get well again"

    def check(self) -> None:
        """Each message is there once, under the event ID its sender was told."""
        stored = [entry for entry in self._stored() if entry not in self._before]
        assert len({name for name, _ in stored}) == len(stored), "an event was doubled"
        assert dict(stored) == self.told

    def _stored(self) -> list[tuple[str, str]]:
        facts = self._truth.event_log.facts_after(0, 100_000)
        return [
            (fact.pdu.content["body"], fact.pdu.event_id)
            for fact in facts
            if fact.pdu.type == "m.room.message"
        ]


@pytest.fixture
def ledger(core: Core, database: Database, room_id: str) -> Ledger:
    return Ledger(core, database, room_id)


def is_commit(sql: str, _number: int) -> bool:
    return sql.strip().upper() == "COMMIT"


@pytest.mark.parametrize(
    "kind",
    [
        Kind.CUT_BEFORE,
        Kind.CUT_AFTER,
        Kind.CUT_WITHIN,
        Kind.LATE,
        Kind.SHUTDOWN,
        Kind.CONFLICT,
        Kind.DEADLOCK,
        Kind.STALL,
    ],
)
def test_lost_commit_doubles_nothing_and_loses_nothing(
    proxy: PostgresProxy, ledger: Ledger, kind: Kind
) -> None:
    for _ in range(3):
        fault = proxy.arm(kind, is_commit)
        ledger.send_some()
        assert fault.happened.is_set()
        ledger.check()


@pytest.mark.parametrize(
    "kind",
    [
        Kind.CUT_BEFORE,
        Kind.CUT_AFTER,
        Kind.CUT_WITHIN,
        Kind.SHUTDOWN,
        Kind.CONFLICT,
        Kind.DEADLOCK,
    ],
)
def test_every_statement_may_lose_its_connection(
    proxy: PostgresProxy, ledger: Ledger, kind: Kind
) -> None:
    for number in itertools.count(1):
        fault = proxy.arm(kind, _is_statement(number))
        ledger.send_some()
        proxy.disarm()
        ledger.check()
        if not fault.happened.is_set():
            break
    # Lock, find answers, take positions, facts, projections, heads, answers, notify, COMMIT.
    assert number > 9


def test_transaction_whose_client_vanished_blocks_the_others_for_seconds_only(
    proxy: PostgresProxy, ledger: Ledger
) -> None:
    """As when the machine of one process loses power: PostgreSQL waits for its next word."""
    fault = proxy.arm(Kind.ABANDONED, lambda sql, _: "INSERT INTO stored_events" in sql)
    ledger.send_some()
    assert fault.happened.is_set()
    ledger.check()


def test_restart_of_everything_between_requests_is_not_noticed(
    proxy: PostgresProxy, ledger: Ledger
) -> None:
    for _ in range(3):
        proxy.cut_all()
        ledger.send_some()
        ledger.check()


def test_refused_connections_are_asked_for_again(proxy: PostgresProxy, ledger: Ledger) -> None:
    proxy.refuse(3)
    proxy.cut_all()
    ledger.send_some()
    ledger.check()


def test_database_that_stays_away_is_said_to_be_unavailable(
    proxy: PostgresProxy, core: Core, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("architex.storage.commit_queue.GIVE_UP_AFTER_SECONDS", 1.0)
    core.database._pool.timeout = 0.5
    proxy.refuse(1_000_000)
    proxy.cut_all()
    with pytest.raises(DatabaseUnavailable):
        send_message(core, room_id, ALICE, "into the void", "void")
    proxy.disarm()


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "57014", "53100", "53200"])
@pytest.mark.parametrize("deferred", [False, True], ids=["at its statement", "at COMMIT"])
def test_errors_that_say_try_again_are_tried_again(
    database: Database, ledger: Ledger, sqlstate: str, deferred: bool
) -> None:
    _raise_in_database(database, sqlstate, times=2, deferred=deferred)
    ledger.send_some()
    ledger.check()


def test_error_that_stays_fails_the_writers_it_concerns_and_nobody_else(
    database: Database, core: Core, room_id: str, ledger: Ledger
) -> None:
    _raise_in_database(database, "23514", times=2, deferred=False)
    failed = 0
    names = [f"may fail {number}" for number in range(AT_ONCE)]

    def send(name: str) -> str | None:
        try:
            return send_message(core, room_id, ALICE, name, name)
        except Exception:  # noqa: BLE001 - psycopg's own
            return None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for name, event_id in zip(names, threads.map(send, names), strict=True):
            if event_id is None:
                failed += 1
            else:
                ledger.told[name] = event_id
    assert failed <= 2
    ledger.check()


def _is_statement(wanted: int) -> Callable[[str, int], bool]:
    """The statement of that number in a transaction that locks rooms: a commit of the queue."""
    return lambda sql, number: number == wanted


def _raise_in_database(database: Database, sqlstate: str, *, times: int, deferred: bool) -> None:
    """Let the next inserts of facts fail, as often as said, with this SQLSTATE."""
    # A sequence counts also what is rolled back.
    timing = "DEFERRABLE INITIALLY DEFERRED" if deferred else ""
    constraint = "CONSTRAINT" if deferred else ""
    for sql in (
        "CREATE SEQUENCE failures",
        f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('failures') <= {times} THEN
                RAISE EXCEPTION 'torture' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NULL;
        END $$""",
        f"CREATE {constraint} TRIGGER fail AFTER INSERT ON stored_events {timing}"
        " FOR EACH ROW EXECUTE FUNCTION fail()",
    ):
        database.execute(sql)
