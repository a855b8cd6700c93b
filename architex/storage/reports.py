"""Reports: what users complain about to the administrators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.domain.identifiers import EventId, RoomId, UserId
from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class Report:
    """A complaint about an event, a room, or a user.

    Attributes:
        room_id: None when a user was reported.
        event_id: of the event, if it is about one.
        user_id: the user, or the event's sender; None when a room was reported.
        ts: when, in milliseconds since 1970.
    """

    reported_by: UserId
    ts: int
    room_id: RoomId | None
    event_id: EventId | None
    user_id: UserId | None
    reason: str
    report_id: int = 0


class ReportStore:
    """The table reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, report: Report) -> None:
        """Keep a report."""
        self._database.execute(
            "INSERT INTO reports (reported_by, reported_ts, room_id, event_id, user_id, reason)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (
                report.reported_by,
                report.ts,
                report.room_id,
                report.event_id,
                report.user_id,
                report.reason,
            ),
        )

    def list_reports(self, *, after: int = 0, limit: int = 100) -> Sequence[Report]:
        """Reports in the order in which they came, those of higher number than `after`."""
        rows = self._database.fetch_all(
            "SELECT reported_by, reported_ts, room_id, event_id, user_id, reason, report_id"
            " FROM reports WHERE report_id > %s ORDER BY report_id LIMIT %s",
            (after, limit),
        )
        return [Report(*row) for row in rows]

    def delete(self, report_id: int) -> bool:
        """Forget a report; False when there is none of this number."""
        row = self._database.fetch_one(
            "DELETE FROM reports WHERE report_id = %s RETURNING report_id", (report_id,)
        )
        return row is not None
