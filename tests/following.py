"""Lets followed projections catch up in a test, without a follower process."""

from __future__ import annotations

import time

from architex.bootstrap import followed_projections
from architex.projections.following import FollowedProjection
from architex.storage.pool import Database


def follow_to_the_end(database: Database) -> None:
    """Apply all facts there are to the followed projections."""
    for projection in followed_projections():
        followed = FollowedProjection(database, projection, monotonic=time.monotonic)
        while followed.advance():
            pass
