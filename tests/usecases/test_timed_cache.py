"""TimedCache: nothing is remembered for ever."""

from __future__ import annotations

from architex.usecases.timed_cache import TimedCache
from tests.fakes.clock import FakeClock


def test_what_is_too_old_is_forgotten() -> None:
    clock = FakeClock()
    cache: TimedCache[str, int] = TimedCache(clock, max_entries=10)
    cache.remember("a", 1, seconds=10)
    clock.pass_seconds(9.9)
    assert cache.find("a") == 1
    clock.pass_seconds(0.1)
    assert cache.find("a") is None


def test_what_nobody_asks_for_goes_first() -> None:
    cache: TimedCache[int, int] = TimedCache(FakeClock(), max_entries=3)
    for number in range(3):
        cache.remember(number, number, seconds=10)
    assert cache.find(0) == 0
    cache.remember(3, 3, seconds=10)
    assert [cache.find(number) for number in range(4)] == [0, None, 2, 3]
