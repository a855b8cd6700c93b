"""Leases: who may run what, until when; one holder per name, whatever process dies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from architex.storage.pool import Database

LEASE_SECONDS: Final = 5.0
"""How long a lease lasts without renewal: what the death of its holder costs at most."""

# The database's clock decides alone, so those of the hosts may differ. clock_timestamp(), not
# now(): the statement may have waited for the row.
_ACQUIRE: Final = """
INSERT INTO leases (name, holder, expires_at)
VALUES (%(name)s, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder,
    expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
    WHERE leases.holder = excluded.holder OR leases.expires_at < clock_timestamp()"""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a name.

    Attributes:
        expires_in_s: seconds until another may take it; negative: since when.
    """

    name: str
    holder: str
    expires_in_s: float


class LeaseStore:
    """The leases table.

    A lease keeps processes from doing the same work; it is no lock. What must not happen twice
    is guarded where it is written (a follower's position moves only from where it was read).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, *, seconds: float = LEASE_SECONDS) -> bool:
        """Take a lease, or renew one's own; False when another holds it.

        Args:
            holder: names this process, uniquely among all hosts and times.
        """
        taken = self._database.execute(
            _ACQUIRE, {"name": name, "holder": holder, "seconds": seconds}
        )
        return taken == 1

    def release(self, name: str, holder: str) -> None:
        """Give a lease back, if it is one's own, so that another need not wait for its end."""
        self._database.execute(
            "DELETE FROM leases WHERE name = %s AND holder = %s", (name, holder)
        )

    def find_lease(self, name: str) -> Lease | None:
        """Who holds the name now; None when nobody does."""
        row = self._database.fetch_one(
            "SELECT name, holder, extract(epoch FROM expires_at - clock_timestamp())::float8"
            " FROM leases WHERE name = %s AND expires_at >= clock_timestamp()",
            (name,),
        )
        return None if row is None else Lease(*row)
