"""One question for all who ask it at the same moment, each about something else.

When a hundred clients are woken at once, each asks the database the same questions about itself.
Who asks while such a question is under way waits for its end and is asked for together with all
others who have come meanwhile: alone nobody waits, and many cost what a few do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from architex.storage.latch import Latch

K = TypeVar("K")
V = TypeVar("V")

MAX_AT_ONCE: Final = 200
PATIENCE_S: Final = 5.0
"""Who is not served by then asks for themselves."""


@dataclass(slots=True, eq=False)
class _Asking(Generic[K, V]):
    """Somebody who waits for an answer, or for their turn to ask."""

    key: K
    woken: Latch | None = None
    found: Mapping[K, V] | None = None


class Gathering(Generic[K, V]):
    """Looks things up by their keys, many with one question."""

    def __init__(self, ask: Callable[[Sequence[K]], Mapping[K, V]]) -> None:
        """Remember how to ask.

        Args:
            ask: gives what there is for some keys; called by one at a time.
        """
        self._ask = ask
        self._lock = threading.Lock()
        self._waiting: list[_Asking[K, V]] = []
        self._is_busy = False

    def find(self, key: K) -> V | None:
        """What there is for a key, as of now or later; None for nothing.

        Raises what asking raises.
        """
        mine: _Asking[K, V] = _Asking(key)
        with self._lock:
            if not self._is_busy and not self._waiting:
                # Nobody to wait for: the usual case.
                self._is_busy = True
                group = [mine]
            else:
                mine.woken = Latch()
                self._waiting.append(mine)
                group = []
        if mine.woken is not None:
            mine.woken.wait(PATIENCE_S)
            group = self._take_turn(mine)
        if group:
            self._ask_for(group)
        found = mine.found
        if found is None:
            # Nobody came to ask, or asking for all failed: then everybody sees why by themselves.
            found = self._ask([key])
        return found.get(key)

    def _take_turn(self, mine: _Asking[K, V]) -> list[_Asking[K, V]]:
        """For whom to ask now, if it is one's turn."""
        with self._lock:
            if mine.found is not None or mine not in self._waiting:
                return []
            self._is_busy = True
            group, self._waiting = self._waiting[:MAX_AT_ONCE], self._waiting[MAX_AT_ONCE:]
            if mine not in group:
                self._waiting.remove(mine)
                group.append(mine)
            return group

    def _ask_for(self, group: Sequence[_Asking[K, V]]) -> None:
        found: Mapping[K, V] | None = None
        try:
            found = self._ask([asking.key for asking in group])
        finally:
            for asking in group:
                asking.found = found
            with self._lock:
                self._is_busy = False
                woken = [*group, *self._waiting[:1]]
            for asking in woken:
                if asking.woken is not None:
                    asking.woken.open()
