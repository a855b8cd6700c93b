"""A clock that stands still until told otherwise."""

from __future__ import annotations


class FakeClock:
    """See architex.gateways.clock.Clock."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = float(now_ms)
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """See Clock."""
        return int(self._now_ms)

    def monotonic(self) -> float:
        """See Clock."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """See Clock: returns at once, later."""
        self.pass_seconds(seconds)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += seconds * 1000
        self._monotonic += seconds
