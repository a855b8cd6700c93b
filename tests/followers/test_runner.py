"""Followers: one process at a time, woken by commits, retried, taken over from the dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from architex.bootstrap import Core
from architex.domain.errors import DatabaseUnavailable
from architex.domain.room.aggregate import EventDraft
from architex.followers import runner
from architex.followers.projector import projectors
from architex.followers.runner import Follower, run_all
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.projections.room_directory import RoomDirectory
from architex.storage.leases import LeaseStore
from architex.storage.notifier import Notifier
from architex.storage.pool import Database
from tests.core import ALICE, append, create_room
from tests.waiting import eventually

WAIT_S = 20.0


class Steps:
    """A follower that does what the test says."""

    interval_s = runner.ROUND_INTERVAL_S

    def __init__(self, step: Callable[[int], bool] = lambda number: False) -> None:
        self.name = "steps"
        self.step = step
        self.times = 0
        self.advanced = threading.Event()

    def advance(self) -> bool:
        self.times += 1
        try:
            return self.step(self.times)
        finally:
            self.advanced.set()


@contextmanager
def following(database: Database, *followers: Follower) -> Iterator[None]:
    """A process that follows, as long as the block lasts."""
    stop = threading.Event()
    process = threading.Thread(
        target=run_all,
        args=(followers,),
        kwargs={
            "leases": LeaseStore(database),
            "notifier": Notifier(database.conninfo),
            "clock": SystemClock(),
            "randomness": SystemRandomness(),
            "host": "test",
            "stop": stop,
        },
    )
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(WAIT_S)
        assert not process.is_alive()


def test_follower_is_woken_by_a_commit(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "POLL_INTERVAL_S", 1000.0)
    monkeypatch.setattr(runner, "RENEW_INTERVAL_S", 1000.0)
    room_id = create_room(core)
    names: list[str] = []

    def shown() -> str | None:
        row = core.database.fetch_one("SELECT name FROM room_directory")
        return None if row is None else row[0]

    with following(core.database, *projectors(core.database, [RoomDirectory()], core.clock)):
        for name in ("Garden", "Kitchen"):
            append(core, room_id, EventDraft("m.room.name", ALICE, {"name": name}, ""))
            eventually(lambda: shown() == name)  # noqa: B023 - called at once
            names.append(name)
    assert names == ["Garden", "Kitchen"]


def test_follower_for_which_nobody_waits_lets_commits_gather(core: Core) -> None:
    prompt, unhurried = Steps(), Steps()
    unhurried.interval_s = 1000.0
    with following(core.database, prompt, unhurried):
        eventually(lambda: prompt.times == unhurried.times == 1)
        for times in (2, 3):
            create_room(core)
            eventually(lambda: prompt.times >= times)  # noqa: B023 - called at once
        assert unhurried.times == 1


def test_follower_works_in_one_process_at_a_time(database: Database) -> None:
    first, second = Steps(), Steps()
    with following(database, first):
        assert first.advanced.wait(WAIT_S)
        with following(database, second):
            eventually(lambda: first.times > 2)
            assert second.times == 0


def test_another_process_takes_over_from_one_that_stops(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TAKE_OVER_INTERVAL_S", 0.05)
    first, second = Steps(), Steps()
    with following(database, first):
        assert first.advanced.wait(WAIT_S)
    with following(database, second):
        assert second.advanced.wait(WAIT_S)


def test_another_process_takes_over_from_one_that_died(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TAKE_OVER_INTERVAL_S", 0.05)
    # The lease of a process that is no more, and so renews nothing.
    assert LeaseStore(database).acquire("follower steps", "the dead", seconds=0.5)
    follower = Steps()
    with following(database, follower):
        assert follower.advanced.wait(WAIT_S)


def test_failing_follower_is_tried_again_with_growing_delay(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "FIRST_DELAY_S", 0.1)

    def fail_thrice(number: int) -> bool:
        if number <= 3:
            raise ValueError("broken")
        return False

    follower = Steps(fail_thrice)
    with following(database, follower):
        eventually(lambda: follower.times > 3)
    messages = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert messages == [
        "steps failed; again in 0.1 s",
        "steps failed; again in 0.2 s",
        "steps failed; again in 0.4 s",
    ]
    assert all(r.exc_info for r in caplog.records if "failed" in r.getMessage())


def test_failing_follower_does_not_hinder_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> bool:
        raise ValueError("broken")

    broken, well = Steps(fail), Steps()
    broken.name = "broken"
    with following(database, broken, well):
        eventually(lambda: well.times > 1)


def test_follower_waits_for_a_database_that_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "FIRST_DELAY_S", 0.01)

    def away_at_first(number: int) -> bool:
        if number <= 2:
            raise DatabaseUnavailable("away")
        return False

    follower = Steps(away_at_first)
    with following(database, follower):
        eventually(lambda: follower.times > 2)
    assert not [r for r in caplog.records if r.exc_info]


def test_lease_is_one_holders_until_it_ends(database: Database) -> None:
    leases = LeaseStore(database)
    assert leases.acquire("something", "a", seconds=0.2)
    assert not leases.acquire("something", "b")
    assert leases.acquire("something", "a", seconds=0.2)
    held = leases.find_lease("something")
    assert held is not None
    assert held.holder == "a"
    eventually(lambda: leases.acquire("something", "b"))
    assert not leases.acquire("something", "a")
    leases.release("something", "a")
    assert not leases.acquire("something", "a")
    leases.release("something", "b")
    assert leases.find_lease("something") is None
