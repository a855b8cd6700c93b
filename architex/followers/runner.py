"""Runs followers: under a lease, woken by the log, retried with growing delay, until told to stop.

Every process that may follow runs all followers; the leases in the database decide which of them
works. When a process dies, its leases end within seconds, and another one takes over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from architex.domain.errors import DatabaseUnavailable
from architex.gateways.clock import Clock, Randomness
from architex.storage.leases import LEASE_SECONDS, LeaseStore

log = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 3.0
"""How often a follower looks for more when nothing wakes it."""
ROUND_INTERVAL_S: Final = 0.05
"""How long a follower waits at least that has come to the end, so that a busy log comes to it in
batches; if others wait for what it does."""
UNHURRIED_INTERVAL_S: Final = 1.0
"""The same of a follower for which nobody waits: who reads what it writes catches up first."""
RENEW_INTERVAL_S: Final = LEASE_SECONDS / 3
TAKE_OVER_INTERVAL_S: Final = 1.5
"""How often a process looks whether a lease has become free."""
FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 60.0
MAX_DATABASE_DELAY_S: Final = 5.0
STOP_TIMEOUT_S: Final = 4.0


class Follower(Protocol):
    """Does something with what the log (or a queue) holds, a bounded piece at a time."""

    @property
    def name(self) -> str:
        """Unique; for the lease, the position and the operator."""

    @property
    def interval_s(self) -> float:
        """How long it waits at least when it has come to the end."""

    def advance(self) -> bool:
        """Do the next piece; True when there is more to do at once.

        May be called by another process after this one, and again for what was done but not
        noted: what it does must bear being done twice, or be written with the position.
        """


class WakeUp(Protocol):
    """Calls back when something was committed."""

    def on_position(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the position of every commit."""

    def start(self) -> None:
        """Begin to listen."""

    def stop(self) -> None:
        """Listen no more."""


@dataclass(frozen=True)
class FollowerRunner:
    """Runs one follower in the current thread.

    Attributes:
        holder: names this process in the leases.
        woken: set when there may be news, and to stop.
    """

    follower: Follower
    leases: LeaseStore
    clock: Clock
    holder: str
    woken: threading.Event
    stop: threading.Event

    @property
    def lease_name(self) -> str:
        """The follower's lease."""
        return f"follower {self.follower.name}"

    def run(self) -> None:
        """Follow until `stop` is set; then give the lease back."""
        delay_s = 0.0
        while not self._pause(delay_s):
            try:
                self._follow_while_leased()
                delay_s = 0.0
            except DatabaseUnavailable:
                delay_s = min(max(delay_s * 2, FIRST_DELAY_S), MAX_DATABASE_DELAY_S)
                log.warning(
                    "%s: the database is away; again in %.1f s", self.follower.name, delay_s
                )
            except Exception:
                delay_s = min(max(delay_s * 2, FIRST_DELAY_S), MAX_DELAY_S)
                log.exception("%s failed; again in %.1f s", self.follower.name, delay_s)
        self._release()

    def _follow_while_leased(self) -> None:
        """Wait for the lease, then do piece after piece as long as it is held."""
        if not self._renew():
            self._pause(TAKE_OVER_INTERVAL_S)
            return
        renewed = self.clock.monotonic()
        log.info("%s: followed here now", self.follower.name)
        while not self.stop.is_set():
            self.woken.clear()
            if not self.follower.advance():
                self._pause(self.follower.interval_s)
                self.woken.wait(self._until_renewal(renewed))
            if self.clock.monotonic() - renewed >= RENEW_INTERVAL_S:
                if not self._renew():
                    log.warning("%s: another process follows now", self.follower.name)
                    return
                renewed = self.clock.monotonic()

    def _until_renewal(self, renewed: float) -> float:
        waited = self.clock.monotonic() - renewed
        return max(0.0, min(POLL_INTERVAL_S, RENEW_INTERVAL_S - waited))

    def _renew(self) -> bool:
        return self.leases.acquire(self.lease_name, self.holder)

    def _release(self) -> None:
        try:
            self.leases.release(self.lease_name, self.holder)
        except DatabaseUnavailable:
            log.warning("%s: the lease could not be given back; it ends", self.follower.name)

    def _pause(self, seconds: float) -> bool:
        """Wait; True at once when told to stop."""
        return self.stop.wait(seconds) if seconds else self.stop.is_set()


def run_all(
    followers: Sequence[Follower],
    *,
    leases: LeaseStore,
    notifier: WakeUp,
    clock: Clock,
    randomness: Randomness,
    host: str,
    stop: threading.Event,
) -> None:
    """Run followers, each in a thread (under gevent: a greenlet), until `stop` is set.

    Args:
        notifier: wakes them when something was committed; without its call they look every
            few seconds.
        host: names this machine and process, for the operator; chance makes it unique.
    """
    holder = f"{host} {randomness.token_urlsafe(9)}"
    runners = [
        FollowerRunner(follower, leases, clock, holder, threading.Event(), stop)
        for follower in followers
    ]

    def wake(position: int = 0) -> None:
        for runner in runners:
            runner.woken.set()

    notifier.on_position(wake)
    notifier.start()
    threads = [
        threading.Thread(target=runner.run, name=runner.follower.name, daemon=True)
        for runner in runners
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    wake()
    notifier.stop()
    deadline = clock.monotonic() + STOP_TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, deadline - clock.monotonic()))
        if thread.is_alive():
            log.warning("%s did not stop in time", thread.name)
