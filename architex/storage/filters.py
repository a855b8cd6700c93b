"""Filters that clients keep here, by the hash of their canonical JSON."""

from __future__ import annotations

from architex.domain.identifiers import UserId
from architex.storage.pool import Database


class FilterStore:
    """The filters table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_filter(self, user_id: UserId, filter_id: str, filter_json: str, *, most: int) -> bool:
        """Keep a filter. The ID is made from the JSON, so keeping it again changes nothing.

        Args:
            most: how many filters the user may have.

        Returns whether the filter is kept.
        """
        if self.find_filter(user_id, filter_id) is not None:
            return True
        return bool(
            self._database.execute(
                "INSERT INTO filters (user_id, filter_id, filter)"
                " SELECT %(user)s, %(id)s, %(json)s WHERE %(most)s >"
                " (SELECT count(*) FROM filters WHERE user_id = %(user)s)"
                " ON CONFLICT (user_id, filter_id) DO UPDATE SET filter = excluded.filter",
                {"user": user_id, "id": filter_id, "json": filter_json, "most": most},
            )
        )

    def find_filter(self, user_id: UserId, filter_id: str) -> str | None:
        """The filter's JSON; None when the user has none of this ID."""
        row = self._database.fetch_one(
            "SELECT filter FROM filters WHERE user_id = %s AND filter_id = %s",
            (user_id, filter_id),
        )
        return None if row is None else str(row[0])
