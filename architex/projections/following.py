"""Following: keeps one FOLLOWED projection up to date, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from architex.domain.room.events import RecordedFact
from architex.projections.base import Projection, Timing
from architex.storage.fact_feed import read_facts
from architex.storage.pool import Database, Params, PgConnection, Row
from architex.storage.tracked_positions import move_position, start_position

log = logging.getLogger(__name__)

BATCH_SIZE: Final = 500
SAVE_INTERVAL_S: Final = 2.0
"""How often a position is saved that passed nothing of concern to the projection."""

# What a reader catches up with at most: many may read at once, and each looks for itself.
_CATCH_UP_SIZE: Final = 200
_CATCH_UP_STEPS: Final = 2
_CATCH_UP_PATIENCE_MS: Final = 500


class FollowerOvertaken(Exception):
    """Another process has moved the follower's position: look again where it is."""


class FollowedProjection:
    """A projection and its position in the log.

    Facts and position are written in one transaction, which only moves the position from where
    it was read: however many processes try, each fact is applied once.
    """

    def __init__(
        self,
        database: Database,
        projection: Projection,
        *,
        monotonic: Callable[[], float],
        batch_size: int = BATCH_SIZE,
        patience_ms: int = 0,
    ) -> None:
        """Remember the collaborators; the position is read with the first batch.

        Args:
            monotonic: a clock for durations, in seconds.
            batch_size: facts per transaction, at most.
            patience_ms: how long to wait for somebody else who is writing; 0: for ever.
        """
        if projection.timing is not Timing.FOLLOWED:
            raise ValueError(f"{projection.name} is written inline, not followed")
        self._database = database
        self._projection = projection
        self._monotonic = monotonic
        self._batch_size = batch_size
        self._patience_ms = patience_ms
        # The position in the database; None: not known. What was read may be beyond it.
        self._saved: int | None = None
        self._read_up_to = 0
        self._saved_at = monotonic()

    @property
    def name(self) -> str:
        """The projection's."""
        return self._projection.name

    def advance(self) -> bool:
        """Apply the next facts; True when there are more.

        Raises:
            FollowerOvertaken: another process was here; the next call looks where it came to.
            DatabaseUnavailable: the outcome is unknown; the next call looks.
        """
        try:
            return self._advance()
        except BaseException:
            self._saved = None
            raise

    def _advance(self) -> bool:
        with self._database.connection() as connection:
            if self._saved is None:
                self._saved = self._read_up_to = start_position(connection, self.name)
            batch = read_facts(
                connection,
                self._read_up_to,
                self._batch_size,
                marks=self._projection.marks,
            )
        is_stale = self._monotonic() - self._saved_at > SAVE_INTERVAL_S
        if batch.facts or (is_stale and batch.up_to > self._saved):
            self._write(self._saved, batch.facts, batch.up_to)
        self._read_up_to = batch.up_to
        return batch.more

    def _write(self, saved: int, facts: Sequence[RecordedFact], up_to: int) -> None:
        with self._database.transaction() as connection:
            if self._patience_ms:
                connection.execute(f"SET LOCAL lock_timeout = {self._patience_ms:d}")
            if not move_position(connection, self.name, saved, up_to):
                raise FollowerOvertaken(self.name)
            apply_facts(connection, self._projection, facts)
        self._saved = up_to
        self._saved_at = self._monotonic()


class CatchUp:
    """Brings followed projections to the end of the log, for somebody who is about to read them.

    Usually their followers were quicker, and it costs one look. A follower that is far behind is
    not waited for; and what cannot be applied is no reason not to read what is there.
    """

    def __init__(
        self,
        database: Database,
        projections: Sequence[Projection],
        *,
        monotonic: Callable[[], float],
    ) -> None:
        """Remember the collaborators.

        Args:
            monotonic: a clock for durations, in seconds.
        """
        self._database = database
        self._projections = projections
        self._monotonic = monotonic

    def __call__(self) -> None:
        """Apply what facts there are, up to two batches of them."""
        for projection in self._projections:
            followed = FollowedProjection(
                self._database,
                projection,
                monotonic=self._monotonic,
                batch_size=_CATCH_UP_SIZE,
                patience_ms=_CATCH_UP_PATIENCE_MS,
            )
            for _ in range(_CATCH_UP_STEPS):
                try:
                    if not followed.advance():
                        break
                except FollowerOvertaken:
                    continue
                except Exception as error:  # noqa: BLE001 - whatever keeps a follower from its work
                    log.info("%s is read as it is: %s", projection.name, error)
                    break


def apply_facts(
    connection: PgConnection, projection: Projection, facts: Sequence[RecordedFact]
) -> None:
    """Let a projection write what the facts change, in the connection's transaction."""
    if not facts:
        return
    question = projection.ask([recorded.fact for recorded in facts])
    answer: list[Row] = []
    if question is not None:
        answer = connection.execute(question[0].encode(), question[1]).fetchall()

    def execute(sql: str, params: Params) -> None:
        connection.execute(sql.encode(), params)

    with connection.pipeline():
        projection.apply(execute, facts, answer)
