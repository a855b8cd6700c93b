"""Login tokens: each logs one client in; only their hashes are kept."""

from __future__ import annotations

from architex.domain.identifiers import UserId
from architex.storage.pool import Database


class LoginTokenStore:
    """The login_tokens table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_token(self, token_hash: bytes, user_id: UserId, expires_ts: int) -> None:
        """Keep a token.

        Args:
            token_hash: its SHA-256.
            expires_ts: milliseconds since 1970.
        """
        self._database.execute(
            "INSERT INTO login_tokens (token_hash, user_id, expires_ts) VALUES (%s, %s, %s)",
            (token_hash, user_id, expires_ts),
        )

    def spend_token(self, token_hash: bytes, now_ms: int) -> UserId | None:
        """Whose token it was; None when it is unknown, spent or expired. It is spent now."""
        row = self._database.fetch_one(
            "DELETE FROM login_tokens WHERE token_hash = %s RETURNING user_id, expires_ts",
            (token_hash,),
        )
        return None if row is None or row[1] <= now_ms else str(row[0])
