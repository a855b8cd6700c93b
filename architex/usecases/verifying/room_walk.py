"""Walking through the facts of one room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from architex.storage.event_log import RoomHead
from architex.usecases.verifying.judging import FactJudging
from architex.usecases.verifying.pace import Pace
from architex.usecases.verifying.reading_facts import FactReading
from architex.usecases.verifying.reports import MEND_HEAD, MEND_POSITION, Problem
from architex.usecases.verifying.snapshots import SnapshotCheck
from architex.usecases.verifying.verified_room import VerifiedRoom

CHUNK_SIZE: Final = 250
"""Facts of a room that are read, replayed and judged at once."""


class RoomWalk:
    """The walk through one room's facts."""

    def __init__(
        self,
        head: RoomHead,
        at: VerifiedRoom,
        pace: Pace,
        on_facts: Callable[[int, str], None],
    ) -> None:
        """Stand before the first fact.

        Args:
            head: the room's row, as it was.
            on_facts: told how many facts more were looked at, and of which room.
        """
        self.head = head
        self._at = at
        self._reading = FactReading(at)
        self._snapshot = SnapshotCheck(at)
        self._judging = FactJudging(at, self._snapshot.note_room)
        self._pace = pace
        self._on_facts = on_facts

    @property
    def is_broken(self) -> bool:
        """Whether there is a fact after which nothing more can be said about the room."""
        return self._reading.is_broken

    def read_on(self, *, pause: bool) -> int:
        """Look at the facts there are by now; returns how many."""
        looked_at = 0
        while not self.is_broken:
            stored = self._at.replay.list_facts(
                self._at.room_id, self._reading.version, CHUNK_SIZE
            )
            self._snapshot.note_snapshot()
            if not stored:
                break
            facts = self._reading.read(stored)
            self._at.replay.apply(facts)
            self._judging.judge(facts)
            looked_at += len(facts)
            self._on_facts(len(stored), self._at.room_id)
            if pause:
                self._pace.rest()
            if len(stored) < CHUNK_SIZE:
                break
        return looked_at

    def verify_end(self, head: RoomHead | None, log_position: int) -> None:
        """The room's row and its snapshot, after all of its facts."""
        if self.is_broken or head is None:
            return
        version, position = self._reading.version, self._reading.position
        if (head.version, head.last_position) != (version, position):
            self._at.report.add(
                Problem(
                    f"The table rooms says version {head.version} at position"
                    f" {head.last_position}; the log ends with version {version} at"
                    f" position {position}",
                    MEND_HEAD,
                    room_id=head.room_id,
                    version=version,
                    position=position,
                )
            )
        if position > log_position:
            self._at.report.add(
                Problem(
                    f"The position lies beyond the end of the log, {log_position}",
                    MEND_POSITION,
                    room_id=head.room_id,
                    version=version,
                    position=position,
                )
            )
        self._snapshot.verify()
