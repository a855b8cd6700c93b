"""What otherwise happens in other threads and at other times, in this thread and on demand."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from architex.gateways.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """In the place of ThreadPoolExecutor: does each job as it is submitted."""

    def __init__(self, max_workers: int | None = None) -> None:
        """Take the arguments of ThreadPoolExecutor."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)
        return future


@dataclass
class Timers:
    """In the place of `architex.gateways.timers`: by a clock that is not the machine's."""

    clock: Clock
    _waiting: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """See `architex.gateways.timers.call_later`."""
        due = self.clock.monotonic() + delay_s
        heapq.heappush(self._waiting, (due, next(self._numbers), callback))

    def run_due(self) -> None:
        """Call what is due."""
        while self._waiting and self._waiting[0][0] <= self.clock.monotonic():
            heapq.heappop(self._waiting)[2]()
