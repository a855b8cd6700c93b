"""Signing keys of other servers, as they told them; nothing is ever forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from architex.domain.identifiers import ServerName
from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A signing key of another server.

    Attributes:
        verify_key: 32 bytes.
        valid_until_ts: milliseconds since 1970: up to when it counts. For an old key this is when
            it expired.
        expired_ts: since when it is an old key, good for events only; None when it is none.
        fetched_ts: when we were told, in milliseconds since 1970.
        told: the JSON object it was told in, with its server's signatures.
    """

    server_name: ServerName
    key_id: str
    verify_key: bytes
    valid_until_ts: int
    expired_ts: int | None
    fetched_ts: int
    told: bytes


_COLUMNS = "server_name, key_id, verify_key, valid_until_ts, expired_ts, fetched_ts, told"


class ServerKeyStore:
    """The server_keys table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_keys(self, server_names: Iterable[ServerName]) -> Sequence[ServerKey]:
        """All keys of some servers; of those with the same ID, the one told last comes last."""
        rows = self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM server_keys WHERE server_name = ANY(%s)"  # noqa: S608 - a constant
            " ORDER BY server_name, key_id, fetched_ts",
            (list(server_names),),
        )
        return [ServerKey(*row) for row in rows]

    def record_keys(self, keys: Sequence[ServerKey]) -> None:
        """Remember keys. One known already keeps its longest validity, until it is an old one."""
        with self._database.transaction() as connection:
            for key in sorted(keys, key=lambda key: (key.server_name, key.key_id)):
                connection.execute(
                    f"INSERT INTO server_keys AS known ({_COLUMNS})"  # noqa: S608 - a constant
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
                    " ON CONFLICT (server_name, key_id, verify_key) DO UPDATE SET"
                    " valid_until_ts = CASE WHEN excluded.expired_ts IS NULL"
                    "  THEN greatest(known.valid_until_ts, excluded.valid_until_ts)"
                    "  ELSE excluded.valid_until_ts END,"
                    " expired_ts = excluded.expired_ts,"
                    " fetched_ts = excluded.fetched_ts,"
                    " told = excluded.told"
                    # An old key does not become young again by what was told before.
                    " WHERE excluded.fetched_ts >= known.fetched_ts"
                    "  AND (known.expired_ts IS NULL OR excluded.expired_ts IS NOT NULL)",
                    (
                        key.server_name,
                        key.key_id,
                        key.verify_key,
                        key.valid_until_ts,
                        key.expired_ts,
                        key.fetched_ts,
                        key.told,
                    ),
                )
