"""One destination: what waits for it, and when it is tried again.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from architex.domain.identifiers import ServerName
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.storage.destinations import Destination

FIRST_DELAY_S: Final = 2.0
MAX_DELAY_S: Final = 3600.0
MAX_DELAY_OF_THE_DEAD_S: Final = 24 * 3600.0
DEAD_AFTER_MS: Final = 3 * 24 * 3600 * 1000
"""Who was not heard of for so long is tried less often."""
DELAY_AFTER_SIGN_S: Final = 5.0
"""A sign of life brings the next try forward to so many seconds after the last one; as many more
for each failure, since who can send may still be unable to receive."""
MAX_DELAY_AFTER_SIGN_S: Final = 300.0


@dataclass(slots=True)
class DestinationQueue:
    """What waits for one server, and how sending to it goes.

    Attributes:
        cursors: stream → the position up to which everything has arrived; something after it
            waits. A stream of which nothing waits is missing.
        marked: stream → a position after which nothing is known to wait.
        arrived: durable source → up to where it has arrived, not noted yet.
        repeated: stream → the range of the transaction that failed: servers want to have it again
            before any other.
        last_try_ts: milliseconds since 1970.
        due_ts: under which moment it stands among those to be tried later; None: it does not.
        saved: as it is in the database.
    """

    server_name: ServerName
    cursors: dict[str, int] = field(default_factory=dict)
    marked: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: int = 0
    failing_since_ts: int | None = None
    next_try_ts: int = 0
    last_try_ts: int = 0
    last_error: str | None = None
    last_success_ts: int | None = None
    last_sign_ts: int = 0
    due_ts: int | None = None
    is_running: bool = False
    saved: Destination | None = None

    def mark(self, stream: str, first: int, up_to: int) -> None:
        """Something waits, the first of it at `first`."""
        self.cursors.setdefault(stream, first - 1)
        self.marked[stream] = up_to

    def drop(self, streams: Iterable[str]) -> None:
        """What waits in some streams is not worth sending any more."""
        for stream in streams:
            self.cursors.pop(stream, None)
            self.marked.pop(stream, None)

    def note_arrived(self, stream: str, up_to: int) -> None:
        """Everything up to a position has arrived."""
        if up_to >= self.marked.get(stream, 0):
            self.drop([stream])
        elif stream in self.cursors:
            self.cursors[stream] = max(self.cursors[stream], up_to)

    def note_success(self, now_ms: int) -> None:
        """The server has taken a transaction."""
        self.failures = 0
        self.failing_since_ts = self.last_error = None
        self.next_try_ts = 0
        self.last_success_ts = now_ms

    def note_failure(
        self, problem: Exception | None, now_ms: int, uniform: Callable[[float, float], float]
    ) -> None:
        """A try has failed: the next one is later than that was.

        Args:
            uniform: chance, so that not all come at once.
        """
        self.failures += 1
        if self.failing_since_ts is None:
            self.failing_since_ts = now_ms
        self.last_error = (
            str(problem) if isinstance(problem, RemoteError) else f"internal error: {problem}"
        )
        self.put_off(now_ms, self._delay_s(problem, now_ms, uniform))

    def put_off(self, now_ms: int, delay_s: float) -> None:
        """Leave the server alone for so many seconds."""
        self.next_try_ts = now_ms + int(delay_s * 1000)

    def note_sign_of_life(self, now_ms: int, *, retry_now: bool) -> bool:
        """The server can be reached, it seems; returns whether the next try is sooner now.

        Args:
            retry_now: somebody wants it to be tried at once.
        """
        self.last_sign_ts = now_ms
        earliest_ts = now_ms
        if not retry_now:
            delay_s = min(DELAY_AFTER_SIGN_S * self.failures, MAX_DELAY_AFTER_SIGN_S)
            earliest_ts = self.last_try_ts + int(delay_s * 1000)
        if earliest_ts >= self.next_try_ts:
            return False
        self.next_try_ts = earliest_ts
        return True

    def _delay_s(
        self, problem: Exception | None, now_ms: int, uniform: Callable[[float, float], float]
    ) -> float:
        heard_ts = max(self.last_success_ts or 0, self.last_sign_ts) or self.failing_since_ts
        is_dead = now_ms - (heard_ts or now_ms) > DEAD_AFTER_MS
        delay_s = delay_after(self.failures, is_dead=is_dead, uniform=uniform)
        if isinstance(problem, RemoteRefused) and problem.retry_after_ms is not None:
            delay_s = min(max(delay_s, problem.retry_after_ms / 1000), MAX_DELAY_S)
        return delay_s

    def differs_from_saved(self, row: Destination) -> bool:
        """Whether there is something to write; that it goes on well is not."""
        if self.saved is None:
            return row.delivered is not None or row.failures > 0
        return replace(row, last_success_ts=self.saved.last_success_ts) != self.saved

    def as_destination(self, durable: Sequence[str]) -> Destination:
        """For the database.

        Args:
            durable: the streams that a restart must not forget.
        """
        waiting = [self.cursors[stream] for stream in durable if stream in self.cursors]
        return Destination(
            server_name=self.server_name,
            delivered=min(waiting, default=None),
            failures=self.failures,
            failing_since_ts=self.failing_since_ts,
            next_try_ts=self.next_try_ts,
            last_error=self.last_error,
            last_success_ts=self.last_success_ts,
        )


def restore_queue(held: Destination) -> DestinationQueue:
    """What the database remembers of a queue."""
    return DestinationQueue(
        held.server_name,
        failures=held.failures,
        failing_since_ts=held.failing_since_ts,
        next_try_ts=held.next_try_ts,
        last_error=held.last_error,
        last_success_ts=held.last_success_ts,
        saved=held,
    )


def delay_after(
    failures: int, *, is_dead: bool, uniform: Callable[[float, float], float]
) -> float:
    """How long to leave a server alone, in seconds: twice as long each time, within a limit.

    Args:
        failures: how many tries have failed in a row.
        is_dead: whether it was not heard of for days.
        uniform: chance, so that not all come at once.
    """
    limit_s = MAX_DELAY_OF_THE_DEAD_S if is_dead else MAX_DELAY_S
    delay_s = min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 30), limit_s)
    return delay_s * uniform(0.6, 1.0)
