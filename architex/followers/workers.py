"""Workers: a bounded number of jobs at once, in threads (under gevent: greenlets)."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

log = logging.getLogger(__name__)

Job: TypeAlias = Callable[[], None]


class Workers(Protocol):
    """Does jobs, some time."""

    def submit(self, job: Job) -> None:
        """Have a job done, after those submitted before."""


class ThreadWorkers:
    """See Workers: threads that are started when they are first needed, and then stay."""

    def __init__(self, count: int, name: str) -> None:
        """Start nothing yet.

        Args:
            count: how many jobs at once, at most.
            name: of the threads.
        """
        self._count = count
        self._name = name
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def submit(self, job: Job) -> None:
        """See Workers."""
        with self._lock:
            self._jobs.put(job)
            is_new = self._idle < self._jobs.qsize() and self._threads < self._count
            if is_new:
                self._threads += 1
                number = self._threads
        if is_new:
            threading.Thread(target=self._run, name=f"{self._name} {number}", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            try:
                job()
            except Exception:
                log.exception("A job of %s failed", self._name)


class InlineWorkers:
    """See Workers: does each job at once, in the thread that submits it. For simulations."""

    def submit(self, job: Job) -> None:
        """See Workers."""
        job()
