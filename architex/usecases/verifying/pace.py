"""How a verification goes on: it tells how far it is, and rests now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Told how many facts were looked at, how many there are, and what is looked at now."""


def no_progress(done: int, total: int, what: str) -> None:
    return None


class Pace:
    """Works part of the time, rests the other part."""

    def __init__(self, max_load: float) -> None:
        self._rest = (1 - max_load) / max_load
        self._since = time.monotonic()

    def rest(self) -> None:
        """Between two pieces of work."""
        if self._rest > 0:
            time.sleep((time.monotonic() - self._since) * self._rest)
        self._since = time.monotonic()
