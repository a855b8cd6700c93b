"""Destinations: how sending to each other server goes, what waits, and what it would not take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import DatabaseUnavailable
from architex.domain.identifiers import RoomId, ServerName
from architex.storage.pool import Database, PgConnection

SENDER: Final = "federation_sender"
"""The name of the sender's position in the table of followers."""

SIGN_OF_LIFE: Final = 1
RETRY_NOW: Final = 2

NOTED_TOGETHER_S: Final = 1.0
"""Signs of life within so many seconds are written together."""
NOTED_AGAIN_S: Final = 10.0
"""A server's signs of life are written at most so often."""
MAX_NOTED: Final = 10_000
MAX_REFUSED: Final = 100
"""So much of what a server would not take is remembered."""
MAX_ERROR_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class Destination:
    """A server that we send to.

    Attributes:
        delivered: the position up to which everything has arrived; something after it waits.
            None: nothing waits.
        failures: how many tries failed since the last that did not.
        failing_since_ts: when the first of them was, milliseconds since 1970.
        next_try_ts: when it is tried again; in the past: at once.
        last_error: what went wrong the last time, in words.
        last_success_ts: when it last took a transaction; None: never, as far as we know.
    """

    server_name: ServerName
    delivered: int | None = None
    failures: int = 0
    failing_since_ts: int | None = None
    next_try_ts: int = 0
    last_error: str | None = None
    last_success_ts: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that a server would not take, and that is not sent to it again.

    Attributes:
        what: an event ID, or the type of an EDU.
        room_id: of an event.
        refused_ts: milliseconds since 1970.
    """

    server_name: ServerName
    what: str
    room_id: RoomId | None
    error: str
    refused_ts: int


_COLUMNS: Final = (
    "SELECT server_name, delivered, failures, failing_since_ts, next_try_ts, last_error,"
    " last_success_ts FROM destinations"
)

_SAVE: Final = """
INSERT INTO destinations AS held (server_name, delivered, failures, failing_since_ts, next_try_ts,
    last_error, last_success_ts)
SELECT * FROM unnest(%s::text[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::text[],
    %s::int8[])
ON CONFLICT (server_name) DO UPDATE SET delivered = excluded.delivered,
    failures = excluded.failures, failing_since_ts = excluded.failing_since_ts,
    next_try_ts = excluded.next_try_ts, last_error = excluded.last_error,
    last_success_ts = coalesce(excluded.last_success_ts, held.last_success_ts)"""

_NOTE_ALIVE: Final = (
    "UPDATE destinations SET nudge = %s WHERE server_name = ANY(%s) AND nudge = 0 AND failures > 0"
)
_RETRY: Final = (
    "UPDATE destinations SET nudge = %s"
    " WHERE server_name = %s AND (failures > 0 OR delivered IS NOT NULL)"
)


class Destinations:
    """The table of destinations, as requests and the operator see it.

    The sender alone writes how it goes; others nudge it.
    """

    def __init__(
        self,
        database: Database,
        call_later: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        """Remember the collaborators.

        Args:
            call_later: calls a function in a number of seconds, from another thread; None: signs
                of life are written at once.
        """
        self._database = database
        self._call_later = call_later
        self._lock = threading.Lock()
        self._noted: dict[ServerName, float] = {}
        self._waiting: set[ServerName] = set()

    def note_alive(self, server_name: ServerName) -> None:
        """A server gave a sign of life: if sending to it failed, it is tried again now.

        Costs next to nothing: many calls become one statement, in another thread.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._noted.get(server_name, float("-inf")) < NOTED_AGAIN_S:
                return
            if len(self._noted) >= MAX_NOTED:
                self._noted.clear()
            self._noted[server_name] = now
            is_first = not self._waiting
            self._waiting.add(server_name)
        if self._call_later is None:
            self._write_signs_of_life()
        elif is_first:
            self._call_later(NOTED_TOGETHER_S, self._write_signs_of_life)

    def _write_signs_of_life(self) -> None:
        with self._lock:
            servers, self._waiting = self._waiting, set()
        try:
            self._database.execute(_NOTE_ALIVE, (SIGN_OF_LIFE, sorted(servers)))
        except DatabaseUnavailable:
            return  # it will give another sign, or be tried in its time

    def retry(self, server_name: ServerName) -> bool:
        """Have a server tried now; False when nothing waits for it and nothing failed."""
        return self._database.execute(_RETRY, (RETRY_NOW, server_name)) > 0

    def find(self, server_name: ServerName) -> Destination | None:
        """How sending to a server goes; None when nothing was ever sent there."""
        row = self._database.fetch_one(_COLUMNS + " WHERE server_name = %s", (server_name,))
        return None if row is None else Destination(*row)

    def list_all(self) -> Sequence[Destination]:
        """All destinations: those that fail first, longest first; then by name."""
        rows = self._database.fetch_all(
            _COLUMNS + " ORDER BY failures = 0, failing_since_ts, delivered IS NULL, server_name"
        )
        return [Destination(*row) for row in rows]

    def list_refused(self, server_name: ServerName, limit: int = 100) -> Sequence[Refused]:
        """What a server would not take, the newest first."""
        rows = self._database.fetch_all(
            "SELECT server_name, what, room_id, error, refused_ts FROM refused_by_destinations"
            " WHERE server_name = %s ORDER BY refused_ts DESC, what LIMIT %s",
            (server_name, limit),
        )
        return [Refused(*row) for row in rows]

    def count_refused(self) -> dict[ServerName, int]:
        """Server → how many things it would not take; those that took all are missing."""
        rows = self._database.fetch_all(
            "SELECT server_name, count(*) FROM refused_by_destinations GROUP BY server_name"
        )
        return dict(rows)

    def set_aside(self, refused: Refused) -> None:
        """Remember something that a server would not take, for the operator to see."""
        self._database.execute(
            "INSERT INTO refused_by_destinations (server_name, what, room_id, error, refused_ts)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (server_name, what)"
            " DO UPDATE SET error = excluded.error, refused_ts = excluded.refused_ts",
            (
                refused.server_name,
                _clean(refused.what),
                refused.room_id,
                _clean(refused.error),
                refused.refused_ts,
            ),
        )

    def forget_old(self, before_ts: int) -> int:
        """Forget what was refused before a moment, and all but the newest of each server; and
        servers of whom there is nothing to say since. Gives the number.

        For whoever does the housekeeping.
        """
        forgotten = self._database.execute(
            "DELETE FROM refused_by_destinations r USING (SELECT server_name, what, row_number()"
            "  OVER (PARTITION BY server_name ORDER BY refused_ts DESC, what) AS place"
            "  FROM refused_by_destinations) o WHERE r.server_name = o.server_name"
            " AND r.what = o.what AND (o.place > %s OR r.refused_ts < %s)",
            (MAX_REFUSED, before_ts),
        )
        forgotten += self._database.execute(
            "DELETE FROM destinations WHERE delivered IS NULL AND next_try_ts < %(before)s"
            " AND coalesce(last_success_ts, 0) < %(before)s"
            " AND coalesce(failing_since_ts, 0) < %(before)s",
            {"before": before_ts},
        )
        return forgotten


# ---- for the sender


def list_waiting_destinations(connection: PgConnection) -> list[Destination]:
    """The servers for whom something waits, or to whom sending failed lately."""
    rows = connection.execute(
        _COLUMNS.encode() + b" WHERE delivered IS NOT NULL OR failures > 0"
    ).fetchall()
    return [Destination(*row) for row in rows]


def list_nudges(connection: PgConnection) -> dict[ServerName, int]:
    """Who is to be tried earlier than planned; server → SIGN_OF_LIFE or RETRY_NOW."""
    return dict(
        connection.execute(
            "SELECT server_name, nudge FROM destinations WHERE nudge > 0"
        ).fetchall()
    )


def clear_nudges(connection: PgConnection, servers: Collection[ServerName]) -> None:
    """The sender has seen them."""
    connection.execute(
        "UPDATE destinations SET nudge = 0 WHERE server_name = ANY(%s)", (list(servers),)
    )


def save_destinations(connection: PgConnection, destinations: Sequence[Destination]) -> None:
    """Write how sending goes; one statement for any number of servers."""
    if not destinations:
        return
    rows = [
        (
            one.server_name,
            one.delivered,
            one.failures,
            one.failing_since_ts,
            one.next_try_ts,
            None if one.last_error is None else _clean(one.last_error),
            one.last_success_ts,
        )
        for one in sorted(destinations, key=lambda one: one.server_name)
    ]
    connection.execute(_SAVE.encode(), [list(column) for column in zip(*rows, strict=True)])


def _clean(text: str) -> str:
    """What others have said, as PostgreSQL can hold it."""
    text = text[:MAX_ERROR_LENGTH].encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
