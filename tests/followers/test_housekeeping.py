"""Housekeeping: what has had its time goes, what has not stays."""

from __future__ import annotations

import pytest

from architex.followers.housekeeping import Chore, Housekeeping, chores_of_time
from architex.storage.expiries import Expiries
from architex.storage.leases import LeaseStore
from architex.storage.pool import Database
from architex.storage.transactions import Transactions

DAY_MS = 24 * 60 * 60 * 1000
NOW_MS = 1_800_000_000_000


class StandingClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return NOW_MS + int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_chores_are_done_when_they_are_due() -> None:
    done: list[str] = []

    def do(name: str) -> int:
        done.append(name)
        return 1

    clock = StandingClock()
    housekeeping = Housekeeping(
        [Chore("often", 1, lambda: do("often")), Chore("seldom", 10, lambda: do("seldom"))], clock
    )
    for _ in range(11):
        assert housekeeping.advance() is False
        clock.sleep(1)
    assert done.count("often") == 11
    assert done.count("seldom") == 2


def test_failing_chore_is_told_and_keeps_no_other_from_being_done() -> None:
    done: list[str] = []

    def fail() -> int:
        raise ValueError("broken")

    def do() -> int:
        done.append("done")
        return 0

    housekeeping = Housekeeping([Chore("bad", 1, fail), Chore("good", 1, do)], StandingClock())
    with pytest.raises(ValueError, match="broken"):
        housekeeping.advance()
    assert done == ["done"]


def test_old_transactions_and_expired_sessions_go(database: Database) -> None:
    for txn_id, age_ms in (("old", DAY_MS + 1), ("young", DAY_MS - 1)):
        database.execute(
            "INSERT INTO transactions (user_id, device_id, path, txn_id, event_id, created_ts)"
            " VALUES ('@a:b', 'D', '/p', %s, '$e', %s)",
            (txn_id, NOW_MS - age_ms),
        )
    for nonce, left_ms in (("over", -1), ("open", 1)):
        database.execute(
            "INSERT INTO registration_nonces (nonce, expires_ts) VALUES (%s, %s)",
            (nonce, NOW_MS + left_ms),
        )
        database.execute(
            "INSERT INTO interactive_auth_sessions"
            " (session_id, operation, flows, request, expires_ts)"
            " VALUES (%s, 'POST /x', '[]', '{}', %s)",
            (nonce, NOW_MS + left_ms),
        )
    LeaseStore(database).acquire("held", "me")
    announced: list[int] = []

    def announce_typing() -> int:
        announced.append(1)
        return 0

    clock = StandingClock()
    chores = chores_of_time(Transactions(database), Expiries(database), announce_typing, clock)
    Housekeeping(chores, clock).advance()
    assert database.fetch_all("SELECT txn_id FROM transactions") == [("young",)]
    assert database.fetch_all("SELECT nonce FROM registration_nonces") == [("open",)]
    assert database.fetch_all("SELECT session_id FROM interactive_auth_sessions") == [("open",)]
    assert LeaseStore(database).find_lease("held") is not None
    assert announced
