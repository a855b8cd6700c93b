"""Time and chance, as arguments: the only module that asks the machine for either."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Clock(Protocol):
    """What time it is, and waiting for later."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as in `origin_server_ts`. May jump."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. For durations and deadlines."""

    def sleep(self, seconds: float) -> None:
        """Wait. Under gevent, other greenlets run meanwhile."""


class Randomness(Protocol):
    """Chance. Tokens and bytes are fit for secrets; the others are for spreading load."""

    def token_urlsafe(self, n_bytes: int) -> str:
        """A secret of `n_bytes` random bytes, written in URL-safe base64 without padding."""

    def bytes(self, n_bytes: int) -> bytes:
        """Random bytes, fit for keys."""

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items, each equally likely and unpredictable. Raises IndexError on none."""

    def uniform(self, low: float, high: float) -> float:
        """A number between the two. Not for secrets."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """See Clock."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See Clock."""
        time.sleep(seconds)


class SystemRandomness:
    """The operating system's randomness."""

    def token_urlsafe(self, n_bytes: int) -> str:
        """See Randomness."""
        return secrets.token_urlsafe(n_bytes)

    def bytes(self, n_bytes: int) -> bytes:
        """See Randomness."""
        return secrets.token_bytes(n_bytes)

    def choice(self, items: Sequence[Item]) -> Item:
        """See Randomness."""
        return secrets.choice(items)

    def uniform(self, low: float, high: float) -> float:
        """See Randomness."""
        return random.uniform(low, high)  # noqa: S311 - spreads load; the Protocol says: no secrets
