"""Work that would make the event loop stand still, done in a few threads of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent.monkey
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")


class OffLoop:
    """Runs functions that block (files, hashes) while other greenlets go on.

    Without gevent's monkey patching there is no loop to stop; then they run right here. What runs
    must not touch anything of gevent: no locks, no sockets, no database.
    """

    def __init__(self, threads: int = 8) -> None:
        """Prepare.

        Args:
            threads: how many run at once in this process; the others wait.
        """
        self._threads = threads
        self._pool: ThreadPool | None = None

    def __call__(self, work: Callable[[], Result]) -> Result:
        """The result of `work`; raises what it raises."""
        if not gevent.monkey.is_module_patched("threading"):
            return work()
        if self._pool is None:
            # Here and not in __init__: the pool belongs to the hub of the forked worker.
            self._pool = ThreadPool(self._threads)
        result: Result = self._pool.apply(work)
        return result
