"""One-time and fallback keys of our users' devices: a one-time key is claimed at most once.

Spec: https://spec.matrix.org/v1.19/client-server-api/#one-time-and-fallback-keys
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson
import psycopg

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.encryption_keys import OneTimeKey
from architex.domain.identifiers import UserId
from architex.storage.announcements import CHANNEL, MAX_ANNOUNCEMENT_BYTES
from architex.storage.pool import Database, Execute, Params, PgConnection, Row

# Oldest upload first. Whoever claims at the same moment takes the next one, and waits for nobody.
_CLAIM: Final = """
UPDATE one_time_keys k SET claimed_ts = %s, key = NULL
FROM unnest(%s::text[], %s::text[], %s::text[]) AS w (user_id, device_id, algorithm)
CROSS JOIN LATERAL (SELECT o.user_id, o.device_id, o.algorithm, o.key_id, o.key
    FROM one_time_keys o WHERE o.user_id = w.user_id AND o.device_id = w.device_id
    AND o.algorithm = w.algorithm AND o.claimed_ts IS NULL
    ORDER BY o.ordering, o.key_id LIMIT 1 FOR UPDATE SKIP LOCKED) c
WHERE k.user_id = c.user_id AND k.device_id = c.device_id AND k.algorithm = c.algorithm
    AND k.key_id = c.key_id
RETURNING c.user_id, c.device_id, c.algorithm, c.key_id, c.key"""

_USE_FALLBACK: Final = """
UPDATE fallback_keys k SET used = true
FROM unnest(%s::text[], %s::text[], %s::text[]) AS w (user_id, device_id, algorithm)
WHERE k.user_id = w.user_id AND k.device_id = w.device_id AND k.algorithm = w.algorithm
RETURNING k.user_id, k.device_id, k.algorithm, k.key_id, k.key"""

# Who remembers what a device has to claim hears that it is different now.
_ANNOUNCED: Final = """
WITH changed AS ({change}),
told AS (SELECT pg_notify(%s, CASE WHEN octet_length(news) > %s THEN %s ELSE news END)
    FROM (SELECT jsonb_build_object('k', jsonb_agg(DISTINCT user_id))::text AS news
        FROM changed HAVING count(*) > 0) n)
SELECT changed.* FROM changed LEFT JOIN told ON true"""

_CLAIM_AND_TELL: Final = _ANNOUNCED.format(change=_CLAIM)
_USE_FALLBACK_AND_TELL: Final = _ANNOUNCED.format(change=_USE_FALLBACK)
_TELL: Final = "SELECT pg_notify(%s, jsonb_build_object('k', ARRAY[%s::text])::text)"

_COUNT: Final = """
SELECT algorithm, count(*) FROM one_time_keys
WHERE user_id = %s AND device_id = %s AND claimed_ts IS NULL GROUP BY algorithm"""

_SUPPLY: Final = """
WITH d AS MATERIALIZED (SELECT * FROM unnest(%s::text[], %s::text[]) AS d (user_id, device_id))
SELECT d.user_id, d.device_id, k.algorithm, k.held FROM d CROSS JOIN LATERAL (
    SELECT algorithm, count(*) AS held FROM one_time_keys o WHERE o.user_id = d.user_id
        AND o.device_id = d.device_id AND claimed_ts IS NULL GROUP BY algorithm
    UNION ALL SELECT algorithm, NULL FROM fallback_keys f WHERE f.user_id = d.user_id
        AND f.device_id = d.device_id AND NOT used) k"""

_INSERT: Final = """
INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, key, ordering)
SELECT %s, %s, algorithm, key_id, key, %s
FROM unnest(%s::text[], %s::text[], %s::text[]) AS u (algorithm, key_id, key)
ON CONFLICT DO NOTHING"""

_INSERT_AT_ONCE: Final = """
WITH upload AS MATERIALIZED (SELECT nextval('one_time_key_uploads') AS ordering)
INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, key, ordering)
SELECT %(user)s, %(device)s, algorithm, key_id, key, ordering
FROM upload, unnest(%(algorithms)s::text[], %(key_ids)s::text[], %(keys)s::text[])
    AS u (algorithm, key_id, key)
LIMIT greatest(0, %(max_unclaimed)s - (SELECT count(*) FROM one_time_keys
    WHERE user_id = %(user)s AND device_id = %(device)s AND claimed_ts IS NULL))
ON CONFLICT DO NOTHING"""

_UPSERT_FALLBACK: Final = """
INSERT INTO fallback_keys AS held (user_id, device_id, algorithm, key_id, key)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET
    used = held.used AND held.key_id = excluded.key_id AND held.key = excluded.key,
    key_id = excluded.key_id, key = excluded.key"""


Device: TypeAlias = tuple[UserId, str]
"""A user and the ID of a device of theirs."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device and the algorithm of the key that is wanted of it."""

    user_id: UserId
    device_id: str
    algorithm: str


class KeyIdTaken(Exception):
    """Another key of that ID waits to be claimed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NoSuchDevice(Exception):
    """The device was deleted meanwhile."""


def put_keys(
    execute: Execute,
    user_id: UserId,
    device_id: str,
    one_time: Sequence[OneTimeKey],
    fallback: Sequence[OneTimeKey],
    *,
    max_unclaimed: int,
) -> None:
    """Add one-time keys, replace fallback keys, in a batch of the commit queue.

    Keys whose IDs were used before are passed over, and those that are too many.
    """
    execute(
        _INSERT_AT_ONCE,
        {
            "user": user_id,
            "device": device_id,
            "algorithms": [key.algorithm for key in one_time],
            "key_ids": [key.key_id for key in one_time],
            "keys": [_encode(key.key) for key in one_time],
            "max_unclaimed": max_unclaimed,
        },
    )
    for key in fallback:
        execute(
            _UPSERT_FALLBACK, (user_id, device_id, key.algorithm, key.key_id, _encode(key.key))
        )


class OneTimeKeyStore:
    """The tables one_time_keys and fallback_keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_keys(
        self,
        user_id: UserId,
        device_id: str,
        one_time: Sequence[OneTimeKey],
        fallback: Sequence[OneTimeKey],
        *,
        max_unclaimed: int,
    ) -> Mapping[str, int]:
        """Add one-time keys, replace fallback keys; gives the counts of unclaimed keys.

        Keys that were uploaded before, claimed or not, are passed over.

        Args:
            max_unclaimed: so many may wait to be claimed; further ones are passed over.

        Raises:
            KeyIdTaken: a key of that ID is there, and is another one. Nothing is added then.
            NoSuchDevice: the device does not exist (any more).
        """
        try:
            with self._database.transaction() as connection:
                # One upload of a device after the other: their order is the order of claims.
                found = connection.execute(
                    "SELECT nextval('one_time_key_uploads') FROM devices"
                    " WHERE user_id = %s AND device_id = %s FOR NO KEY UPDATE",
                    (user_id, device_id),
                ).fetchone()
                if found is None:
                    raise NoSuchDevice
                if one_time:
                    _insert_keys(connection, user_id, device_id, one_time, found[0], max_unclaimed)
                for key in fallback:
                    connection.execute(
                        _UPSERT_FALLBACK,
                        (user_id, device_id, key.algorithm, key.key_id, _encode(key.key)),
                    )
                connection.execute(_TELL, (CHANNEL, user_id))
                return count_keys(connection, user_id, device_id)
        except psycopg.errors.ForeignKeyViolation:
            raise NoSuchDevice from None

    def count_keys(self, user_id: UserId, device_id: str) -> Mapping[str, int]:
        """Algorithm → number of one-time keys that can be claimed."""
        return dict(self._database.fetch_all(_COUNT, (user_id, device_id)))

    def claim_keys(
        self, wanted: Collection[Wanted], now_ms: int
    ) -> Mapping[tuple[UserId, str], OneTimeKey]:
        """Claim a key for each device: (user ID, device ID) → key.

        Where no one-time key is left, the fallback key is given. A one-time key is given out once,
        whatever becomes of the answer.
        """
        claimed = self._run(_CLAIM_AND_TELL, wanted, now_ms)
        rest = [w for w in wanted if (w.user_id, w.device_id) not in claimed]
        if rest:
            claimed |= self._run(_USE_FALLBACK_AND_TELL, rest)
        return claimed

    def forget_claimed(self, claimed_before_ts: int, limit: int = 10_000) -> int:
        """Forget that keys were claimed, long after; returns how many."""
        return self._database.execute(
            "DELETE FROM one_time_keys WHERE ctid = ANY (ARRAY("
            " SELECT ctid FROM one_time_keys WHERE claimed_ts < %s LIMIT %s))",
            (claimed_before_ts, limit),
        )

    def _run(
        self, sql: str, wanted: Collection[Wanted], *first: Any
    ) -> dict[tuple[UserId, str], OneTimeKey]:
        rows = self._database.fetch_all(
            sql,
            (
                *first,
                [w.user_id for w in wanted],
                [w.device_id for w in wanted],
                [w.algorithm for w in wanted],
                CHANNEL,
                MAX_ANNOUNCEMENT_BYTES,
                '{"k":null}',
            ),
        )
        return {
            (user_id, device_id): OneTimeKey(algorithm, key_id, orjson.loads(key))
            for user_id, device_id, algorithm, key_id, key in rows
        }


def count_keys(connection: PgConnection, user_id: UserId, device_id: str) -> Mapping[str, int]:
    """Algorithm → number of one-time keys of a device that can be claimed."""
    return dict(connection.execute(_COUNT, (user_id, device_id)).fetchall())


@dataclass(frozen=True, slots=True)
class KeySupply:
    """What a device has for others to claim.

    Attributes:
        counts: algorithm → number of one-time keys.
        unused: the algorithms of fallback keys that nobody was given yet.
    """

    counts: Mapping[str, int]
    unused: Sequence[str]


def find_key_supplies(
    fetch_all: Callable[[str, Params], list[Row]], devices: Sequence[Device]
) -> dict[Device, KeySupply]:
    """What devices have for others to claim, in one statement; those with nothing are missing.

    Args:
        fetch_all: gives the rows of a statement.
    """
    rows = fetch_all(
        _SUPPLY, ([user_id for user_id, _ in devices], [device_id for _, device_id in devices])
    )
    counts: dict[Device, dict[str, int]] = {}
    unused: dict[Device, list[str]] = {}
    for user_id, device_id, algorithm, count in rows:
        device = (user_id, device_id)
        if count is None:
            insort(unused.setdefault(device, []), algorithm)
        else:
            counts.setdefault(device, {})[algorithm] = count
    return {
        device: KeySupply(counts.get(device, {}), unused.get(device, ()))
        for device in counts.keys() | unused.keys()
    }


def _insert_keys(
    connection: PgConnection,
    user_id: UserId,
    device_id: str,
    keys: Sequence[OneTimeKey],
    ordering: int,
    max_unclaimed: int,
) -> None:
    names = ([key.algorithm for key in keys], [key.key_id for key in keys])
    held = {
        (algorithm, key_id): key
        for algorithm, key_id, key in connection.execute(
            "SELECT algorithm, key_id, key FROM one_time_keys JOIN"
            " unnest(%s::text[], %s::text[]) AS u (algorithm, key_id) USING (algorithm, key_id)"
            " WHERE user_id = %s AND device_id = %s",
            (*names, user_id, device_id),
        ).fetchall()
    }
    for key in keys:
        before = held.get((key.algorithm, key.key_id))
        if before is not None and before != _encode(key.key):
            raise KeyIdTaken(key.name)
    room = max_unclaimed - sum(count_keys(connection, user_id, device_id).values())
    new = [key for key in keys if (key.algorithm, key.key_id) not in held][: max(room, 0)]
    connection.execute(
        _INSERT,
        (
            user_id,
            device_id,
            ordering,
            [key.algorithm for key in new],
            [key.key_id for key in new],
            [_encode(key.key) for key in new],
        ),
    )


def _encode(key: Any) -> str:
    return encode_canonical_json(key).decode()
