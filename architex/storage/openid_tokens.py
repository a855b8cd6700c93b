"""OpenID tokens: only their hashes are kept."""

from __future__ import annotations

from architex.domain.identifiers import UserId
from architex.storage.pool import Database


class OpenIdTokenStore:
    """The openid_tokens table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_token(self, token_hash: bytes, user_id: UserId, expires_ts: int) -> None:
        """Keep a token.

        Args:
            token_hash: its SHA-256.
            expires_ts: milliseconds since 1970.
        """
        self._database.execute(
            "INSERT INTO openid_tokens (token_hash, user_id, expires_ts) VALUES (%s, %s, %s)",
            (token_hash, user_id, expires_ts),
        )

    def find_user(self, token_hash: bytes, now_ms: int) -> UserId | None:
        """The active user of a token; None when it is unknown or has expired."""
        row = self._database.fetch_one(
            "SELECT user_id FROM openid_tokens JOIN users USING (user_id)"
            " WHERE token_hash = %s AND expires_ts > %s AND deactivated_ts IS NULL",
            (token_hash, now_ms),
        )
        return None if row is None else str(row[0])
