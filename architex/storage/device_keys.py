"""Identity keys of our users' devices, cross-signing keys, and the signatures on both.

Spec: https://spec.matrix.org/v1.19/client-server-api/#key-distribution
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from architex.domain.identifiers import UserId
from architex.storage.pool import Database, Execute


@dataclass(frozen=True, slots=True)
class KeySignature:
    """A signature on a key, uploaded separately from the key.

    Attributes:
        target_id: a device ID, or the public key of a master key.
    """

    target_user_id: UserId
    target_id: str
    signer_user_id: UserId
    signer_key_id: str
    signature: str


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """What is known of one device for others to see.

    Attributes:
        keys: the JSON object as its device uploaded it.
    """

    user_id: UserId
    device_id: str
    keys: dict[str, Any]
    display_name: str | None


# ---- writing, within a batch of the commit queue


def put_device_keys(execute: Execute, user_id: UserId, device_id: str, keys_json: str) -> None:
    """Replace the identity keys of a device, if it still exists.

    Signatures by others were made on what it was before: they go.
    """
    execute(
        "WITH device AS (SELECT user_id, device_id FROM devices"
        "  WHERE user_id = %(user)s AND device_id = %(device)s FOR KEY SHARE),"
        " forgotten AS (DELETE FROM key_signatures"
        "  WHERE target_user_id = %(user)s AND target_id = %(device)s)"
        " INSERT INTO device_keys (user_id, device_id, keys)"
        " SELECT user_id, device_id, %(keys)s FROM device"
        " ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys",
        {"user": user_id, "device": device_id, "keys": keys_json},
    )


def put_cross_signing_key(
    execute: Execute, user_id: UserId, usage: str, public_key: str, key_json: str
) -> None:
    """Replace a cross-signing key of a user; what the old one signed, and its signatures, go."""
    execute(
        "WITH old AS (SELECT public_key FROM cross_signing_keys"
        "  WHERE user_id = %(user)s AND usage = %(usage)s AND public_key <> %(public)s),"
        " forgotten AS (DELETE FROM key_signatures s USING old"
        "  WHERE s.signer_user_id = %(user)s AND s.signer_key_id = 'ed25519:' || old.public_key),"
        " unsigned AS (DELETE FROM key_signatures s USING old"
        "  WHERE s.target_user_id = %(user)s AND s.target_id = old.public_key"
        "  AND s.signer_key_id <> 'ed25519:' || old.public_key)"
        " INSERT INTO cross_signing_keys (user_id, usage, public_key, key)"
        " VALUES (%(user)s, %(usage)s, %(public)s, %(key)s)"
        " ON CONFLICT (user_id, usage) DO UPDATE SET public_key = excluded.public_key,"
        " key = excluded.key",
        {"user": user_id, "usage": usage, "public": public_key, "key": key_json},
    )


def delete_cross_signing_keys(execute: Execute, user_id: UserId, usages: Collection[str]) -> None:
    """Forget cross-signing keys that another server no longer tells."""
    execute(
        "DELETE FROM cross_signing_keys WHERE user_id = %s AND usage = ANY(%s)",
        (user_id, list(usages)),
    )


def put_signatures(execute: Execute, position: int, signatures: Collection[KeySignature]) -> None:
    """Add signatures to keys."""
    rows = [
        (s.target_user_id, s.target_id, s.signer_user_id, s.signer_key_id, s.signature)
        for s in signatures
    ]
    execute(
        "INSERT INTO key_signatures (target_user_id, target_id, signer_user_id, signer_key_id,"
        " signature, position) SELECT *, %s FROM"
        " unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])"
        " ON CONFLICT (target_user_id, target_id, signer_user_id, signer_key_id)"
        " DO UPDATE SET signature = excluded.signature, position = excluded.position",
        (position, *(list(column) for column in zip(*rows, strict=True))),
    )


# ---- reading


class DeviceKeyStore:
    """Questions to the tables device_keys, cross_signing_keys and key_signatures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_device_keys(self, user_id: UserId, device_id: str) -> dict[str, Any] | None:
        """The identity keys of a device of ours, as uploaded; None when there are none."""
        row = self._database.fetch_one(
            "SELECT keys FROM device_keys WHERE user_id = %s AND device_id = %s",
            (user_id, device_id),
        )
        return None if row is None else orjson.loads(row[0])

    def list_device_keys(self, user_ids: Collection[UserId]) -> Sequence[DeviceKeys]:
        """The devices of users of ours that have identity keys."""
        rows = self._database.fetch_all(
            "SELECT k.user_id, k.device_id, k.keys, d.display_name FROM device_keys k"
            " JOIN devices d USING (user_id, device_id) WHERE k.user_id = ANY(%s)"
            " ORDER BY k.user_id, k.device_id",
            (list(user_ids),),
        )
        return [
            DeviceKeys(user_id, device_id, orjson.loads(keys), display_name)
            for user_id, device_id, keys, display_name in rows
        ]

    def list_cross_signing_keys(
        self, user_ids: Collection[UserId]
    ) -> Mapping[tuple[UserId, str], dict[str, Any]]:
        """(user ID, usage) → key, as uploaded or told by the user's server."""
        rows = self._database.fetch_all(
            "SELECT user_id, usage, key FROM cross_signing_keys WHERE user_id = ANY(%s)",
            (list(user_ids),),
        )
        return {(user_id, usage): orjson.loads(key) for user_id, usage, key in rows}

    def list_signatures(
        self, target_user_ids: Collection[UserId], viewer: UserId | None
    ) -> Sequence[KeySignature]:
        """The signatures on keys of users that a viewer may see.

        Those a user made on own keys, and those the viewer made.

        Args:
            viewer: None for another server.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#key-and-signature-security
        """
        rows = self._database.fetch_all(
            "SELECT target_user_id, target_id, signer_user_id, signer_key_id, signature"
            " FROM key_signatures WHERE target_user_id = ANY(%s)"
            " AND (signer_user_id = target_user_id OR signer_user_id = %s)",
            (list(target_user_ids), viewer),
        )
        return [KeySignature(*row) for row in rows]

    def is_cross_signing_key(self, user_id: UserId, name: str) -> bool:
        """Whether a cross-signing key of the user has that name."""
        row = self._database.fetch_one(
            "SELECT 1 FROM cross_signing_keys WHERE user_id = %s AND public_key = %s",
            (user_id, name),
        )
        return row is not None

    def is_device_id(self, user_id: UserId, names: Collection[str]) -> bool:
        """Whether a device of the user has one of the names as its ID."""
        row = self._database.fetch_one(
            "SELECT 1 FROM devices WHERE user_id = %s AND device_id = ANY(%s)",
            (user_id, list(names)),
        )
        return row is not None
