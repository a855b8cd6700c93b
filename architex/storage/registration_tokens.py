"""Registration: the tokens that let people in, and the nonces of the shared-secret door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """A token with which people may register.

    Attributes:
        uses_allowed: None for any number.
        uses: accounts registered with it so far.
        expires_ts: milliseconds since 1970; None for never.
    """

    token: str
    uses_allowed: int | None
    uses: int
    expires_ts: int | None


class RegistrationTokenStore:
    """The tables registration_tokens and registration_nonces."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_token(
        self, token: str, *, uses_allowed: int | None, expires_ts: int | None, now_ms: int
    ) -> bool:
        """Add a token; False when there is one of this name."""
        created = self._database.execute(
            "INSERT INTO registration_tokens (token, uses_allowed, expires_ts, created_ts)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (token, uses_allowed, expires_ts, now_ms),
        )
        return created == 1

    def delete_token(self, token: str) -> bool:
        """Remove a token; False when there is none of this name."""
        return (
            self._database.execute("DELETE FROM registration_tokens WHERE token = %s", (token,))
            == 1
        )

    def list_tokens(self) -> Sequence[RegistrationToken]:
        """All tokens, the spent and expired ones included, oldest first."""
        rows = self._database.fetch_all(
            "SELECT token, uses_allowed, uses, expires_ts FROM registration_tokens"
            " ORDER BY created_ts, token"
        )
        return [RegistrationToken(*row) for row in rows]

    def check_token(self, token: str, now_ms: int) -> bool:
        """Whether somebody could register with the token now."""
        row = self._database.fetch_one(
            "SELECT 1 FROM registration_tokens WHERE token = %s"
            " AND (uses_allowed IS NULL OR uses < uses_allowed)"
            " AND (expires_ts IS NULL OR expires_ts > %s)",
            (token, now_ms),
        )
        return row is not None

    def create_nonce(self, nonce: str, *, expires_ts: int, now_ms: int) -> None:
        """Remember a nonce until it is spent or expires; forgets the expired ones."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM registration_nonces WHERE expires_ts <= %s", (now_ms,))
            connection.execute(
                "INSERT INTO registration_nonces (nonce, expires_ts) VALUES (%s, %s)",
                (nonce, expires_ts),
            )

    def spend_nonce(self, nonce: str, now_ms: int) -> bool:
        """Use a nonce up; False when it is unknown, expired or spent already."""
        spent = self._database.execute(
            "DELETE FROM registration_nonces WHERE nonce = %s AND expires_ts > %s",
            (nonce, now_ms),
        )
        return spent == 1
