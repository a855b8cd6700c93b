"""Verifying: walks the log, judges every event once more, and compares what was made of it.

Room by room: each fact is hashed, its signatures and its authorisation are checked again, and the
state where it stands is computed anew, from a replay that nothing of the real read side enters.
Then the tables of every projection are compared with the replay. What it costs follows the
number of facts; what it holds in memory does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from architex.domain.identifiers import RoomId
from architex.domain.signing import FindVerifyKey
from architex.projections.base import Projection, Timing
from architex.projections.verification import replaying
from architex.storage.pool import Database
from architex.usecases.verifying.followed import verify_followed
from architex.usecases.verifying.pace import Pace, Progress, no_progress
from architex.usecases.verifying.remembered_keys import RememberedKeys
from architex.usecases.verifying.reports import Problem, Report, Reset
from architex.usecases.verifying.walk import Walk

__all__ = ["Problem", "RememberedKeys", "Report", "Reset", "Verifying"]


@dataclass(frozen=True)
class Verifying:
    """Verifies the log and the projections while the server serves.

    Attributes:
        projections: makes every projection, new instances at each call.
        find_verify_key: the keys that are known; signatures by others are counted, not checked.
    """

    database: Database
    projections: Callable[[], Iterable[Projection]]
    find_verify_key: FindVerifyKey

    def verify(
        self,
        room_id: RoomId | None = None,
        *,
        max_load: float = 1.0,
        max_problems: int = 100,
        on_progress: Progress = no_progress,
    ) -> Report:
        """Look at everything, or at one room.

        Args:
            max_load: the part of the time in which to work, from above 0 to 1.
            max_problems: how many to list; the others are counted.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        report, pace = Report(max_problems), Pace(max_load)
        inline = [p for p in self.projections() if p.timing is Timing.INLINE]
        with replaying(self.database, inline) as replay:
            walk = Walk(replay, self.find_verify_key, report, pace, on_progress)
            walk.run(room_id)
        if room_id is not None:
            report.not_looked_at.append("followed projections: they are compared for all rooms")
        elif walk.has_unreadable:
            report.not_looked_at.append("followed projections: not all of the log can be replayed")
        else:
            for projection in self.projections():
                if projection.timing is Timing.FOLLOWED:
                    with replaying(self.database, [projection]) as replay:
                        verify_followed(replay, projection, report, pace, on_progress)
        return report
