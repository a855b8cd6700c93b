"""The one process-wide word that this worker is stopping: parked requests return on it."""

from __future__ import annotations

from collections.abc import Callable


class Stopping:
    """Set once, when the worker is asked to stop; never unset.

    Whatever keeps requests waiting (the notifier behind /sync) registers how to wake them all; a
    woken request asks `is_set()` and answers with what it has.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        """Whether the worker is stopping."""
        return self._is_set

    def call_on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the worker stops; at once if it is stopping already."""
        if self._is_set:
            callback()
        else:
            self._callbacks.append(callback)

    def set(self) -> None:
        """The worker stops. Calls back whoever registered, once, in order."""
        if self._is_set:
            return
        self._is_set = True
        for callback in self._callbacks:
            callback()


stopping = Stopping()
