"""Keeps the FOLLOWED projections up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.followers.runner import UNHURRIED_INTERVAL_S
from architex.gateways.clock import Clock
from architex.projections.base import Projection, Timing
from architex.projections.following import FollowedProjection, FollowerOvertaken
from architex.storage.pool import Database


@dataclass(frozen=True)
class Projector:
    """The follower of one projection."""

    projection: FollowedProjection
    interval_s: float = UNHURRIED_INTERVAL_S

    @property
    def name(self) -> str:
        """The projection's."""
        return self.projection.name

    def advance(self) -> bool:
        """Apply the next facts. Overtaken (a rebuild, or a lease that ended), look again."""
        try:
            return self.projection.advance()
        except FollowerOvertaken:
            return True


def projectors(
    database: Database, projections: Sequence[Projection], clock: Clock
) -> list[Projector]:
    """A follower for each of the projections that is followed."""
    return [
        Projector(FollowedProjection(database, projection, monotonic=clock.monotonic))
        for projection in projections
        if projection.timing is Timing.FOLLOWED
    ]
