"""Followed projections, compared with a replay."""

from __future__ import annotations

from architex.projections.base import Projection
from architex.projections.verification import Replay
from architex.usecases.verifying.pace import Pace, Progress
from architex.usecases.verifying.reports import Problem, Report
from architex.usecases.verifying.room_walk import CHUNK_SIZE


def verify_followed(
    replay: Replay,
    projection: Projection,
    report: Report,
    pace: Pace,
    on_progress: Progress,
) -> None:
    """Compare a followed projection with its replay up to where its follower has come."""
    position = 0

    def catch_up(*, pause: bool) -> None:
        nonlocal position
        end = min(replay.find_tracked_position(projection.name), replay.find_log_position())
        while position < end:
            batch = replay.read_facts(position, CHUNK_SIZE, marks=projection.marks)
            replay.apply([recorded for recorded in batch.facts if recorded.position <= end])
            position = min(batch.up_to, end)
            on_progress(position, end, projection.name)
            if pause:
                pace.rest()

    catch_up(pause=True)
    with replay.moment():
        end = replay.find_log_position()
        tracked = replay.find_tracked_position(projection.name)
        if tracked > end:
            report.add(
                Problem(
                    f"The follower of {projection.name} is at {tracked}, beyond the end of the"
                    f" log, {end}",
                    f"architex projections rebuild {projection.name}",
                    position=tracked,
                )
            )
            return
        catch_up(pause=False)
        differences = list(replay.compare_tables())
    for difference in differences:
        report.add(
            Problem(
                f"Projection {projection.name}: {difference}",
                f"architex projections rebuild {projection.name}",
                position=difference.position,
            )
        )
