"""After the database was put back to an earlier moment: what others know that we no longer know.

One-time keys that were given out since must not be given out again; servers and clients have
numbers of ours that must not come to mean something else.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from architex.storage.announcements import CHANNEL, build_announcement_to_all
from architex.storage.pool import Database

LOST_AT_MOST: Final = 2**32
"""So many positions are left out: more than were given out since any backup."""

_WITHDRAW_KEYS: Final = """
UPDATE one_time_keys SET claimed_ts = %s, key = NULL WHERE claimed_ts IS NULL"""

# The stream ID before the first one was never told: whoever hears of it asks for the whole list.
_ANNOUNCE_DEVICES: Final = """
INSERT INTO device_list_updates (user_id, stream_id, device_id, previous, position, created_ts)
SELECT user_id, %(position)s * 1024 + n, device_id, %(position)s * 1024 + n - 1,
    %(position)s, %(now)s
FROM (SELECT user_id, device_id, row_number() OVER (PARTITION BY user_id ORDER BY device_id) AS n
    FROM device_keys) AS d WHERE n < 1024"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done after a restore.

    Attributes:
        position: where the log goes on.
        withdrawn: one-time keys that nobody will be given.
        announced: devices that other servers are told of anew.
        changed: users whose devices clients look at again.
        stale: users of other servers whose devices are asked for anew.
    """

    position: int
    withdrawn: int
    announced: int
    changed: int
    stale: int


class Restores:
    """What is to be done after a restore, and what it means later."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._lost: list[tuple[int, int]] | None = None

    def recover(self, now_ms: int) -> Restored:
        """Do what is to be done; again does no harm."""
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE log_position SET position = position + %s RETURNING position",
                (LOST_AT_MOST,),
            ).fetchone()
            if row is None:
                raise LookupError("log_position has no row")
            position: int = row[0]
            connection.execute(
                "INSERT INTO lost_positions (after, until) VALUES (%s, %s)",
                (position - LOST_AT_MOST, position),
            )
            withdrawn = connection.execute(_WITHDRAW_KEYS, (now_ms,)).rowcount
            # Their devices may have replaced them since, and forgotten the old ones.
            connection.execute("DELETE FROM fallback_keys")
            announced = connection.execute(
                _ANNOUNCE_DEVICES, {"position": position, "now": now_ms}
            ).rowcount
            changed = connection.execute(
                "UPDATE device_list_changes SET position = %s", (position,)
            ).rowcount
            stale = connection.execute(
                "UPDATE remote_device_lists SET stale_at = %s", (position,)
            ).rowcount
            connection.execute(
                "SELECT pg_notify(%s, %s)", (CHANNEL, build_announcement_to_all(position))
            )
        return Restored(position, withdrawn, announced, changed, stale)

    def is_lost(self, position: int) -> bool:
        """Whether a position was given out before a restore, and means nothing now.

        A process that runs while the restore is made up for learns of it when it starts anew.
        """
        with self._lock:
            if self._lost is None:
                rows = self._database.fetch_all("SELECT after, until FROM lost_positions")
                self._lost = [(after, until) for after, until in rows]
            return any(after < position < until for after, until in self._lost)
