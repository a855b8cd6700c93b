"""Accounts: the users of this server, with their password hashes and what is said about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from architex.domain.identifiers import UserId
from architex.storage.pool import Database, PgConnection
from architex.storage.user_addresses import UserAddress, insert_address

_COLUMNS = (
    "user_id, password_hash, created_ts, is_admin, is_guest, locked, suspended, deactivated_ts,"
    " erased, appservice_id, agreed_terms"
)

_TABLES_OF_TOKENS: Final = ("openid_tokens", "login_tokens", "interactive_auth_sessions")
_TABLES_TO_ERASE: Final = (
    *_TABLES_OF_TOKENS,
    "account_data",
    "filters",
    "push_rules",
    "key_backup_versions",
    "cross_signing_keys",
    "published_addresses",
    "receipts",
    "presence",
    "typing",
    "transactions",
    "forgotten_rooms",
    "stripped_states",
    "lazy_members",
)
"""Where something is kept by and about a user that is no event."""


@dataclass(frozen=True, slots=True)
class Account:
    """One user of this server.

    Attributes:
        password_hash: None when nobody can log in with a password.
        created_ts: milliseconds since 1970.
        deactivated_ts: milliseconds since 1970; None while the account is active.
        erased: deactivation asked for the user's content to be hidden from newcomers.
        appservice_id: of the application service that made the user.
        agreed_terms: the version of the terms that the user agreed to by registering; None when
            there were none.
    """

    user_id: UserId
    password_hash: str | None
    created_ts: int
    is_admin: bool = False
    is_guest: bool = False
    locked: bool = False
    suspended: bool = False
    deactivated_ts: int | None = None
    erased: bool = False
    appservice_id: str | None = None
    agreed_terms: str | None = None


class SessionSpent(Exception):
    """A session of interactive authentication has made an account already."""


class AccountStore:
    """The users table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_account(
        self,
        account: Account,
        *,
        registration_token: str | None = None,
        address: UserAddress | None = None,
        auth_session: str | None = None,
        now_ms: int,
    ) -> bool:
        """Add a user; False when the user ID is taken (by a constraint, so never twice).

        Args:
            registration_token: a token whose uses this counts; the account is not created
                when it is no longer valid.
            address: an e-mail address of the user's.
            auth_session: the session of interactive authentication whose outcome this is.

        Raises:
            LookupError: the registration token is not valid (any more).
            SessionSpent: the session has had an outcome.
            AddressTaken: the address is another user's.
        """
        try:
            with self._database.transaction() as connection:
                if registration_token is not None:
                    _spend_registration_token(connection, registration_token, now_ms)
                connection.execute(
                    "INSERT INTO users (user_id, password_hash, created_ts, is_admin, is_guest,"
                    " appservice_id, agreed_terms) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    (
                        account.user_id,
                        account.password_hash,
                        account.created_ts,
                        account.is_admin,
                        account.is_guest,
                        account.appservice_id,
                        account.agreed_terms,
                    ),
                )
                if address is not None:
                    insert_address(connection, account.user_id, address)
                if auth_session is not None:
                    _spend_auth_session(connection, auth_session, account.user_id)
        except psycopg.errors.UniqueViolation:
            return False
        return True

    def find_account(self, user_id: UserId) -> Account | None:
        """The account, active or not; None when there never was one."""
        row = self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM users WHERE user_id = %s",  # noqa: S608 - constant columns
            (user_id,),
        )
        return None if row is None else Account(*row)

    def list_accounts(
        self, *, after: UserId = "", limit: int = 100, guests: bool = True
    ) -> Sequence[Account]:
        """Accounts in the order of their IDs, from the first one behind `after`."""
        rows = self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM users"  # noqa: S608 - constant columns
            " WHERE user_id > %s AND (%s OR NOT is_guest) ORDER BY user_id LIMIT %s",
            (after, guests, limit),
        )
        return [Account(*row) for row in rows]

    def set_password_hash(self, user_id: UserId, password_hash: str | None) -> bool:
        """Replace the password of an active account; False when there is none.

        What the old one has proven, and lets in later, ends: login tokens and sessions of
        interactive authentication.
        """
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE users SET password_hash = %s"
                " WHERE user_id = %s AND deactivated_ts IS NULL",
                (password_hash, user_id),
            ).rowcount
            connection.execute("DELETE FROM login_tokens WHERE user_id = %s", (user_id,))
            connection.execute(
                "DELETE FROM interactive_auth_sessions WHERE %s IN (user_id, proven_user_id)",
                (user_id,),
            )
        return changed == 1

    def replace_password_hash(self, user_id: UserId, old: str, new: str) -> bool:
        """Write the same password down in another way; False when it was changed meanwhile."""
        changed = self._database.execute(
            "UPDATE users SET password_hash = %s WHERE user_id = %s AND password_hash = %s",
            (new, user_id, old),
        )
        return changed == 1

    def upgrade_guest(
        self,
        account: Account,
        *,
        registration_token: str | None = None,
        address: UserAddress | None = None,
        now_ms: int,
    ) -> bool:
        """Make a guest an ordinary user; False when the user is no guest (any more).

        Args:
            account: what becomes of the guest: the password and the agreed terms count.
            registration_token, address: as in `create_account`.

        Raises:
            LookupError: the registration token is not valid (any more).
            AddressTaken: the address is another user's.
        """
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE users SET is_guest = false, password_hash = %s, agreed_terms = %s"
                " WHERE user_id = %s AND is_guest AND deactivated_ts IS NULL",
                (account.password_hash, account.agreed_terms, account.user_id),
            ).rowcount
            if changed == 1 and registration_token is not None:
                _spend_registration_token(connection, registration_token, now_ms)
            if changed == 1 and address is not None:
                insert_address(connection, account.user_id, address)
        return changed == 1

    def set_admin(self, user_id: UserId, is_admin: bool) -> bool:
        """Make a user an administrator of the server, or no more; False when there is none."""
        changed = self._database.execute(
            "UPDATE users SET is_admin = %s WHERE user_id = %s", (is_admin, user_id)
        )
        return changed == 1

    def set_locked(self, user_id: UserId, locked: bool) -> bool:
        """Lock or unlock an account; False when there is none."""
        changed = self._database.execute(
            "UPDATE users SET locked = %s WHERE user_id = %s", (locked, user_id)
        )
        return changed == 1

    def set_suspended(self, user_id: UserId, suspended: bool) -> bool:
        """Suspend an account or lift that; False when there is none."""
        changed = self._database.execute(
            "UPDATE users SET suspended = %s WHERE user_id = %s", (suspended, user_id)
        )
        return changed == 1

    def deactivate(self, user_id: UserId, now_ms: int, *, erase: bool) -> bool:
        """End an account: password, devices, tokens, profile and e-mail addresses go, the user ID
        stays taken.

        With `erase` goes all else that is no event: account data, push rules, key backups,
        receipts and so on. False when there is no such user; again is allowed (a later request
        may ask for erasure).

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
        """
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE users SET password_hash = NULL, is_admin = false,"
                " deactivated_ts = coalesce(deactivated_ts, %s), erased = erased OR %s"
                " WHERE user_id = %s",
                (now_ms, erase, user_id),
            ).rowcount
            connection.execute("DELETE FROM devices WHERE user_id = %s", (user_id,))
            connection.execute("DELETE FROM profiles WHERE user_id = %s", (user_id,))
            connection.execute("DELETE FROM user_addresses WHERE user_id = %s", (user_id,))
            for table in _TABLES_TO_ERASE if erase else _TABLES_OF_TOKENS:
                connection.execute(
                    f"DELETE FROM {table} WHERE user_id = %s".encode(),  # noqa: S608 - constant names
                    (user_id,),
                )
        return changed == 1


def list_erased_users(connection: PgConnection, user_ids: Collection[UserId]) -> frozenset[UserId]:
    """Those of the users whose account ended with the wish to be forgotten."""
    rows = connection.execute(
        "SELECT user_id FROM users WHERE user_id = ANY(%s) AND erased", (list(user_ids),)
    )
    return frozenset(row[0] for row in rows.fetchall())


def _spend_auth_session(connection: PgConnection, session_id: str, user_id: UserId) -> None:
    spent = connection.execute(
        "UPDATE interactive_auth_sessions SET outcome = %s"
        " WHERE session_id = %s AND outcome IS NULL",
        (f"{user_id} ", session_id),
    ).rowcount
    if spent != 1:
        raise SessionSpent


def _spend_registration_token(connection: PgConnection, token: str, now_ms: int) -> None:
    spent = connection.execute(
        "UPDATE registration_tokens SET uses = uses + 1 WHERE token = %s"
        " AND (uses_allowed IS NULL OR uses < uses_allowed)"
        " AND (expires_ts IS NULL OR expires_ts > %s)",
        (token, now_ms),
    ).rowcount
    if spent != 1:
        raise LookupError("no valid registration token")
