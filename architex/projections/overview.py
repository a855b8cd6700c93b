"""How the projections are doing: their timing, position, and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.projections.base import Projection, Timing
from architex.storage.fact_feed import count_facts
from architex.storage.pool import Database
from architex.storage.tracked_positions import find_position

COUNTED_UP_TO: Final = 1_000_000
"""Larger tables are not counted; PostgreSQL's own estimate is told."""


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """A projection and how far it is.

    Attributes:
        position: every fact up to here is in its tables.
        end: of the log.
        facts_behind: how many facts of concern to it are still to come.
        rows: in each of its tables.
        is_estimate: whether one of these numbers is PostgreSQL's estimate.
    """

    name: str
    timing: Timing
    position: int
    end: int
    facts_behind: int
    rows: dict[str, int]
    is_estimate: bool


def describe_projections(
    database: Database, projections: Sequence[Projection]
) -> list[ProjectionStatus]:
    """The status of projections, all as of one moment."""
    statuses = []
    with database.snapshot() as connection:
        row = connection.execute("SELECT position FROM log_position").fetchone()
        end = 0 if row is None else int(row[0])
        for projection in projections:
            position, behind = end, 0
            if projection.timing is Timing.FOLLOWED:
                position = find_position(connection, projection.name) or 0
                behind = count_facts(connection, position, marks=projection.marks)
            rows: dict[str, int] = {}
            is_estimate = False
            for table in projection.tables:
                estimate = connection.execute(
                    "SELECT greatest(reltuples, 0)::int8 FROM pg_class"
                    " WHERE oid = to_regclass(%s)",
                    (table,),
                ).fetchone()
                rows[table] = 0 if estimate is None else int(estimate[0])
                if rows[table] > COUNTED_UP_TO:
                    is_estimate = True
                    continue
                # The names of our own tables: no input.
                count = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608 - a projection's own table
                rows[table] = 0 if count is None else int(count[0])
            statuses.append(
                ProjectionStatus(
                    projection.name, projection.timing, position, end, behind, rows, is_estimate
                )
            )
    return statuses
