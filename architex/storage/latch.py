"""A latch: one waits until it is opened."""

from __future__ import annotations

import threading
from contextlib import suppress


class Latch:
    """Closed until somebody opens it, however often.

    For one who waits; a threading.Event, made for any number, costs three times as much.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout_s: float) -> bool:
        """Wait for so many seconds, at most once; gives whether it was opened."""
        return self._lock.acquire(timeout=timeout_s)

    def open(self) -> None:
        """Let whoever waits, or is about to, go on."""
        # It may be open already.
        with suppress(RuntimeError):
            self._lock.release()
