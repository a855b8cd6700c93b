"""Rows that say themselves until when they hold: deletes those whose time is over."""

from __future__ import annotations

from typing import Final

from architex.storage.pool import Database

_DELETE_BY_TS: Final = (
    "DELETE FROM interactive_auth_sessions WHERE expires_ts <= %s",
    "DELETE FROM registration_nonces WHERE expires_ts <= %s",
    "DELETE FROM openid_tokens WHERE expires_ts <= %s",
    "DELETE FROM login_tokens WHERE expires_ts <= %s",
    "DELETE FROM email_validations WHERE expires_ts <= %s",
    "DELETE FROM early_receipts WHERE expires_ts <= %s",
)
_DELETE_LEASES: Final = (
    "DELETE FROM leases WHERE expires_at < clock_timestamp() - interval '1 day'"
)


class Expiries:
    """What is under way (authentication, proofs of addresses…), tokens, leases nobody renews."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def delete_expired(self, now_ms: int) -> int:
        """Delete what has expired; returns how many rows.

        Args:
            now_ms: milliseconds since 1970.
        """
        deleted = [self._database.execute(sql, (now_ms,)) for sql in _DELETE_BY_TS]
        return sum(deleted) + self._database.execute(_DELETE_LEASES)
