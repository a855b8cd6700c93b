"""TimedCache: what was learned a moment ago, for a bounded time and in a bounded number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from architex.gateways.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TimedCache(Generic[K, V]):
    """Forgets what is too old, and what nobody asked for when there is too much."""

    def __init__(self, clock: Clock, *, max_entries: int) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: K) -> V | None:
        """What is remembered under a key; None for nothing."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            until, value = entry
            if until <= self._clock.monotonic():
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return value

    def remember(self, key: K, value: V, *, seconds: float) -> None:
        """Keep a value for a time."""
        with self._lock:
            self._entries[key] = (self._clock.monotonic() + seconds, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
