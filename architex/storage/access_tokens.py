"""Access and refresh tokens: only their hashes are kept, and they end with their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, LiteralString

from architex.domain.identifiers import UserId
from architex.storage.gathering import Gathering
from architex.storage.one_time_keys import KeySupply
from architex.storage.pool import Database, PgConnection

TokenHash = bytes
"""The SHA-256 of a token, 32 bytes."""

# The hot path of every request: one statement by primary keys.
_FIND: Final = """
SELECT t.token_hash, t.token_id, t.user_id, t.device_id, t.expires_ts, t.unused,
    u.is_admin, u.is_guest, u.locked, u.suspended, d.last_seen_ts, d.last_seen_ip,
    d.last_seen_user_agent IS NOT NULL, (SELECT position FROM log_position){more}
FROM access_tokens t JOIN users u ON u.user_id = t.user_id
JOIN devices d ON d.user_id = t.user_id AND d.device_id = t.device_id
WHERE t.token_hash = {which} AND u.deactivated_ts IS NULL"""

# And of every /sync.
_NEWS: Final = """,
    (SELECT jsonb_object_agg(algorithm, held) FROM (SELECT algorithm, count(*) AS held
        FROM one_time_keys o WHERE o.user_id = t.user_id AND o.device_id = t.device_id
        AND claimed_ts IS NULL GROUP BY algorithm) k),
    ARRAY(SELECT algorithm FROM fallback_keys f WHERE f.user_id = t.user_id
        AND f.device_id = t.device_id AND NOT used ORDER BY algorithm),
    EXISTS (SELECT FROM to_device_messages m WHERE m.user_id = t.user_id
        AND m.device_id = t.device_id)"""

# PostgreSQL makes a plan for each length of a list that it sees.
_SOME: Final = "ANY((SELECT %b)::bytea[])"


@dataclass(frozen=True, slots=True)
class _Question:
    """How to ask for the owner of a token, and of several."""

    one: str
    some: str


_PLAIN: Final = _Question(_FIND.format(which="%b", more=""), _FIND.format(which=_SOME, more=""))
_WITH_NEWS: Final = _Question(
    _FIND.format(which="%b", more=_NEWS), _FIND.format(which=_SOME, more=_NEWS)
)


@dataclass(frozen=True, slots=True)
class DeviceNews:
    """What /sync asks of a device besides who it is.

    Attributes:
        supply: what it has for others to claim.
        has_messages: whether messages to it wait, or wait to be deleted.
    """

    supply: KeySupply
    has_messages: bool


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Who an access token stands for.

    Attributes:
        expires_ts: milliseconds since 1970; None for a token that does not expire.
        unused: the token came from a refresh, and this may be its first use.
        last_seen_ts: when the device was last noted, in milliseconds since 1970.
        user_agent_known: the device has said which program it runs.
        log_position: how far the log had come at this look-up; spares /sync a question.
        device_news: spares it two more; None when nobody asked for it.
    """

    token_id: int
    user_id: UserId
    device_id: str
    expires_ts: int | None
    unused: bool
    is_admin: bool
    is_guest: bool
    locked: bool
    suspended: bool
    last_seen_ts: int | None
    last_seen_ip: str | None
    user_agent_known: bool
    log_position: int
    device_news: DeviceNews | None = None


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Tokens about to be given to a device.

    Attributes:
        expires_ts: of the access token; None for never.
        refresh_token: None for a client that takes none.
    """

    access_token: TokenHash
    created_ts: int
    expires_ts: int | None = None
    refresh_token: TokenHash | None = None


class OwnerLocked(Exception):
    """The account that a token belongs to is locked."""


class AccessTokenStore:
    """The tables access_tokens and refresh_tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owners = {
            question: Gathering(partial(self._find_owners, question))
            for question in (_PLAIN, _WITH_NEWS)
        }

    def find_owner(self, access_token: TokenHash, *, with_news: bool = False) -> TokenOwner | None:
        """Who the token stands for; None when it is unknown or its user is deactivated.

        Args:
            with_news: and what is new for the device.
        """
        return self._owners[_WITH_NEWS if with_news else _PLAIN].find(access_token)

    def _find_owners(
        self, question: _Question, access_tokens: Sequence[TokenHash]
    ) -> dict[TokenHash, TokenOwner]:
        # Usually it is one, and a list costs more.
        if len(access_tokens) == 1:
            rows = self._database.fetch_all(question.one, (access_tokens[0],))
        else:
            rows = self._database.fetch_all(question.some, (list(access_tokens),))
        return {bytes(row[0]): TokenOwner(*(*row[1:14], _device_news(*row[14:]))) for row in rows}

    def open_session(
        self,
        user_id: UserId,
        device_id: str,
        tokens: NewTokens,
        *,
        display_name: str | None,
        address: str | None,
        password_hash: str | None = None,
    ) -> bool | None:
        """Give tokens to a device, known or new. Those it had before are void.

        Returns whether the device is new; None when the user has another password by now, and
        nothing was done.

        Args:
            display_name: of a new device; a known one keeps its name.
            address: where the device was seen just now.
            password_hash: of the password that lets the device in; None where none does.
        """
        with self._database.transaction() as connection:
            if password_hash is not None and not _has_password(connection, user_id, password_hash):
                return None
            row = connection.execute(
                "INSERT INTO devices"
                " (user_id, device_id, display_name, created_ts, last_seen_ts, last_seen_ip)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (user_id, device_id) DO UPDATE SET"
                " last_seen_ts = excluded.last_seen_ts, last_seen_ip = excluded.last_seen_ip"
                " RETURNING xmax = 0",
                (
                    user_id,
                    device_id,
                    display_name,
                    tokens.created_ts,
                    tokens.created_ts,
                    address,
                ),
            ).fetchone()
            connection.execute(
                "DELETE FROM access_tokens WHERE user_id = %s AND device_id = %s",
                (user_id, device_id),
            )
            connection.execute(
                "DELETE FROM refresh_tokens WHERE user_id = %s AND device_id = %s",
                (user_id, device_id),
            )
            _insert_tokens(connection, user_id, device_id, tokens, supersedes=None)
        return row is not None and bool(row[0])

    def refresh(self, refresh_token: TokenHash, tokens: NewTokens) -> tuple[UserId, str] | None:
        """Give new tokens to the device of a refresh token.

        Whatever this refresh token itself came to replace is void from now on; and so are tokens
        given for it earlier, which their client evidently never got.

        Returns (user ID, device ID), or None when the token is unknown or its user deactivated.

        Raises:
            OwnerLocked: the user's account is locked. The token stays good.
        """
        with self._database.transaction() as connection:
            _lock_device(connection, "refresh_tokens", refresh_token)
            row = connection.execute(
                "SELECT r.user_id, r.device_id, u.locked FROM refresh_tokens r"
                " JOIN users u ON u.user_id = r.user_id"
                " WHERE r.token_hash = %s AND u.deactivated_ts IS NULL FOR UPDATE OF r",
                (refresh_token,),
            ).fetchone()
            if row is None:
                return None
            user_id, device_id, locked = row
            if locked:
                raise OwnerLocked
            _confirm(connection, refresh_token)
            connection.execute(
                "WITH unconfirmed AS"
                " (DELETE FROM refresh_tokens WHERE supersedes = %s RETURNING token_hash)"
                " DELETE FROM access_tokens WHERE refresh_token IN"
                " (SELECT token_hash FROM unconfirmed)",
                (refresh_token,),
            )
            _insert_tokens(connection, user_id, device_id, tokens, supersedes=refresh_token)
        return user_id, device_id

    def confirm_first_use(self, access_token: TokenHash) -> None:
        """The client has its new tokens: the refresh token they were given for is void.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens
        """
        with self._database.transaction() as connection:
            _lock_device(connection, "access_tokens", access_token)
            row = connection.execute(
                "SELECT refresh_token FROM access_tokens WHERE token_hash = %s", (access_token,)
            ).fetchone()
            if row is not None and row[0] is not None:
                _confirm(connection, row[0])


def _device_news(
    counts: Mapping[str, int] | None = None,
    unused: Sequence[str] = (),
    has_messages: bool | None = None,
) -> DeviceNews | None:
    """What is new for a device; None when nobody asked for it."""
    if has_messages is None:
        return None
    return DeviceNews(KeySupply(counts or {}, unused), has_messages)


def _has_password(connection: PgConnection, user_id: UserId, password_hash: str) -> bool:
    """Whether this is still the user's password; it stays so until the transaction ends."""
    return (
        connection.execute(
            "SELECT 1 FROM users WHERE user_id = %s AND password_hash = %s FOR SHARE",
            (user_id, password_hash),
        ).fetchone()
        is not None
    )


def _lock_device(connection: PgConnection, table: LiteralString, token: TokenHash) -> None:
    """Before a device's tokens its row is locked, everywhere: no two wait for each other."""
    connection.execute(
        f"SELECT 1 FROM {table} t JOIN devices d USING (user_id, device_id)"  # noqa: S608 - a constant
        " WHERE t.token_hash = %s FOR NO KEY UPDATE OF d",
        (token,),
    )


def _confirm(connection: PgConnection, refresh_token: TokenHash) -> None:
    """End the tokens that this refresh token, and the access token beside it, came to replace."""
    row = connection.execute(
        "SELECT supersedes FROM refresh_tokens WHERE token_hash = %s FOR UPDATE", (refresh_token,)
    ).fetchone()
    if row is None or row[0] is None:
        return
    connection.execute("DELETE FROM access_tokens WHERE refresh_token = %s", row)
    connection.execute("DELETE FROM refresh_tokens WHERE token_hash = %s", row)
    connection.execute(
        "UPDATE refresh_tokens SET supersedes = NULL WHERE token_hash = %s", (refresh_token,)
    )
    connection.execute(
        "UPDATE access_tokens SET unused = false WHERE refresh_token = %s", (refresh_token,)
    )


def _insert_tokens(
    connection: PgConnection,
    user_id: UserId,
    device_id: str,
    tokens: NewTokens,
    *,
    supersedes: TokenHash | None,
) -> None:
    if tokens.refresh_token is not None:
        connection.execute(
            "INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ts, supersedes)"
            " VALUES (%s, %s, %s, %s, %s)",
            (tokens.refresh_token, user_id, device_id, tokens.created_ts, supersedes),
        )
    connection.execute(
        "INSERT INTO access_tokens"
        " (token_hash, user_id, device_id, created_ts, expires_ts, refresh_token, unused)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            tokens.access_token,
            user_id,
            device_id,
            tokens.created_ts,
            tokens.expires_ts,
            tokens.refresh_token,
            supersedes is not None,
        ),
    )
