"""Rate limits."""

from __future__ import annotations

import pytest

from architex.domain.errors import LimitExceeded
from architex.usecases import rate_limits
from architex.usecases.rate_limits import RateLimit, RateLimits
from tests.fakes.clock import FakeClock


def limits(clock: FakeClock, *, enabled: bool = True) -> RateLimits:
    """One kind, "x": three at once, one more every two seconds."""
    return RateLimits(clock, {"x": RateLimit(per_second=0.5, burst=3)}, enabled=enabled)


def test_burst_passes_and_then_the_wait_is_told() -> None:
    clock = FakeClock()
    buckets = limits(clock)
    for _ in range(3):
        buckets.spend("x", "alice")
    with pytest.raises(LimitExceeded) as refused:
        buckets.spend("x", "alice")
    assert refused.value.fields == {"retry_after_ms": 2000}


def test_waiting_as_told_is_enough() -> None:
    clock = FakeClock()
    buckets = limits(clock)
    for _ in range(3):
        buckets.spend("x", "alice")
    clock.pass_seconds(1.9)
    with pytest.raises(LimitExceeded):
        buckets.spend("x", "alice")
    clock.pass_seconds(0.1)
    buckets.spend("x", "alice")


def test_everybody_has_a_bucket_of_their_own() -> None:
    buckets = limits(FakeClock())
    for _ in range(3):
        buckets.spend("x", "alice")
    buckets.spend("x", "bob")


def test_full_bucket_does_not_run_over() -> None:
    clock = FakeClock()
    buckets = limits(clock)
    buckets.spend("x", "alice")
    clock.pass_seconds(1000)
    for _ in range(3):
        buckets.spend("x", "alice")
    with pytest.raises(LimitExceeded):
        buckets.spend("x", "alice")


def test_looking_takes_nothing() -> None:
    buckets = limits(FakeClock())
    for _ in range(10):
        buckets.check("x", "alice")
    for _ in range(3):
        buckets.spend("x", "alice")
    with pytest.raises(LimitExceeded):
        buckets.check("x", "alice")


@pytest.mark.parametrize("kind", ["x", "y"])
def test_what_has_no_limit_is_free(kind: str) -> None:
    buckets = limits(FakeClock(), enabled=kind != "x")
    for _ in range(10):
        buckets.spend(kind, "alice")
        buckets.check(kind, "alice")


def test_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_BUCKETS", 2)
    buckets = limits(FakeClock())
    for _ in range(3):
        buckets.spend("x", "alice")
    for other in ("bob", "carol"):
        buckets.spend("x", other)
    # Alice's was untouched for longest: forgotten.
    buckets.spend("x", "alice")
