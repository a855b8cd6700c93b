"""Proofs under way that somebody reads the mail of an address; secrets only as hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.storage.pool import Database

_COLUMNS: Final = (
    "session_id, purpose, address, client_secret, token_hashes, send_attempt, next_link,"
    " validated_ts, expires_ts"
)


@dataclass(frozen=True, slots=True)
class EmailValidation:
    """One proof.

    Attributes:
        purpose: register, password or add: it is good for no other.
        address: canonical.
        client_secret: made up by the client; with it, the session ID is the client's claim.
        token_hashes: SHA-256 of what each mail tells; empty when no mail proves anything.
        send_attempt: the last one that a mail was sent for.
        next_link: where the browser goes afterwards.
        validated_ts: milliseconds since 1970; None until somebody followed the mail's link.
        expires_ts: milliseconds since 1970.
    """

    session_id: str
    purpose: str
    address: str
    client_secret: str
    token_hashes: Sequence[bytes]
    send_attempt: int
    next_link: str | None
    validated_ts: int | None
    expires_ts: int


class EmailValidationStore:
    """The email_validations table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, validation: EmailValidation, now_ms: int) -> EmailValidation | None:
        """Begin a proof, or another attempt at the same one (purpose, address, client secret).

        Returns the proof as it is now, for a mail to be sent; None when this attempt (or a later
        one) was made before. An expired proof begins anew.
        """
        row = self._database.fetch_one(
            f"INSERT INTO email_validations ({_COLUMNS})"  # noqa: S608 - constant columns
            " VALUES (%(session_id)s, %(purpose)s, %(address)s, %(client_secret)s,"
            " %(token_hashes)s, %(send_attempt)s, %(next_link)s, NULL, %(expires_ts)s)"
            " ON CONFLICT (purpose, address, client_secret) DO UPDATE SET"
            " session_id = CASE WHEN email_validations.expires_ts <= %(now_ms)s"
            "   THEN excluded.session_id ELSE email_validations.session_id END,"
            " validated_ts = CASE WHEN email_validations.expires_ts <= %(now_ms)s"
            "   THEN NULL ELSE email_validations.validated_ts END,"
            # Mails overtake each other: the links of the last ones hold.
            " token_hashes = CASE WHEN email_validations.expires_ts <= %(now_ms)s"
            "   THEN excluded.token_hashes"
            "   ELSE (excluded.token_hashes || email_validations.token_hashes)[1:5] END,"
            " send_attempt = excluded.send_attempt,"
            " next_link = excluded.next_link, expires_ts = excluded.expires_ts"
            " WHERE email_validations.send_attempt < excluded.send_attempt"
            "   OR email_validations.expires_ts <= %(now_ms)s"
            f" RETURNING {_COLUMNS}",
            {
                "session_id": validation.session_id,
                "purpose": validation.purpose,
                "address": validation.address,
                "client_secret": validation.client_secret,
                "token_hashes": list(validation.token_hashes),
                "send_attempt": validation.send_attempt,
                "next_link": validation.next_link,
                "expires_ts": validation.expires_ts,
                "now_ms": now_ms,
            },
        )
        return None if row is None else EmailValidation(*row)

    def find_session_id(self, purpose: str, address: str, client_secret: str) -> str | None:
        """The session ID of a proof that has begun."""
        row = self._database.fetch_one(
            "SELECT session_id FROM email_validations"
            " WHERE purpose = %s AND address = %s AND client_secret = %s",
            (purpose, address, client_secret),
        )
        return None if row is None else str(row[0])

    def forget_attempt(self, session_id: str, send_attempt: int) -> None:
        """Let an attempt be made again whose mail could not be sent."""
        self._database.execute(
            "UPDATE email_validations SET send_attempt = send_attempt - 1"
            " WHERE session_id = %s AND send_attempt = %s",
            (session_id, send_attempt),
        )

    def find_open(self, session_id: str, token_hash: bytes, now_ms: int) -> EmailValidation | None:
        """The proof that a mail's link belongs to; None when it is unknown or expired."""
        row = self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM email_validations"  # noqa: S608 - constant columns
            " WHERE session_id = %s AND %s = ANY(token_hashes) AND expires_ts > %s",
            (session_id, token_hash, now_ms),
        )
        return None if row is None else EmailValidation(*row)

    def set_validated(self, session_id: str, now_ms: int, expires_ts: int) -> None:
        """Note that somebody followed the mail's link; the proof holds until `expires_ts`."""
        self._database.execute(
            "UPDATE email_validations SET validated_ts = coalesce(validated_ts, %s),"
            " expires_ts = CASE WHEN validated_ts IS NULL THEN %s ELSE expires_ts END"
            " WHERE session_id = %s",
            (now_ms, expires_ts, session_id),
        )

    def find_validated(
        self, session_id: str, purpose: str, client_secret: str, now_ms: int
    ) -> EmailValidation | None:
        """A complete proof of a client's; None when it is unknown, expired or not complete."""
        row = self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM email_validations"  # noqa: S608 - constant columns
            " WHERE session_id = %s AND purpose = %s AND client_secret = %s"
            " AND expires_ts > %s AND validated_ts IS NOT NULL",
            (session_id, purpose, client_secret, now_ms),
        )
        return None if row is None else EmailValidation(*row)

    def spend(self, session_id: str) -> bool:
        """Use a proof up; False when that has happened already."""
        return (
            self._database.execute(
                "DELETE FROM email_validations WHERE session_id = %s", (session_id,)
            )
            == 1
        )
