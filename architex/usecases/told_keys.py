"""What a server tells of its signing keys, and which of it is believed.

Spec: https://spec.matrix.org/v1.19/server-server-api/#publishing-keys
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from architex.domain.canonical_json import Json, encode_canonical_json
from architex.domain.errors import BadJson, InvalidCanonicalJson, InvalidSignature
from architex.domain.identifiers import ServerName
from architex.domain.signing import COMPROMISED_KEYS, signatures_of, verify_signed_json
from architex.domain.unpadded_base64 import decode_base64
from architex.storage.server_keys import ServerKey

# "Servers MUST use the lesser of this field and 7 days into the future."
_LONGEST_VALIDITY_MS: Final = 7 * 24 * 3600 * 1000
_MAX_KEYS_OF_SERVER: Final = 50

KEY_ID: Final = re.compile(r"ed25519:[A-Za-z0-9_.+/=-]{1,200}", re.ASCII)


def read_told_keys(server_name: ServerName, told: Json, now_ms: int) -> list[ServerKey]:
    """The keys in what a server tells of itself.

    Args:
        told: the answer to GET /_matrix/key/v2/server.
        now_ms: when it was told.

    Raises:
        BadJson: it is of another form, or about another server.
        InvalidSignature: it is not signed with one of the keys in it, or wrongly with one.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server
    """
    if told.get("server_name") != server_name:
        raise BadJson("These are keys of another server.")
    valid_until_ts = told.get("valid_until_ts")
    if not isinstance(valid_until_ts, int) or isinstance(valid_until_ts, bool):
        raise BadJson("valid_until_ts is no integer.")
    try:
        raw = encode_canonical_json(told)
    except InvalidCanonicalJson as error:
        raise BadJson(f"The keys are not canonical JSON. {error}") from error
    valid_until_ts = min(valid_until_ts, now_ms + _LONGEST_VALIDITY_MS)
    current = dict(_read_keys(told.get("verify_keys")))
    is_signed = False
    for key_id in signatures_of(told, server_name):
        if key_id in current:
            verify_signed_json(told, server_name, key_id, current[key_id][0])
            is_signed = True
    if not is_signed:
        raise InvalidSignature("The keys are not signed with any of them.")
    keys = [
        ServerKey(server_name, key_id, verify_key, valid_until_ts, None, now_ms, raw)
        for key_id, (verify_key, _) in current.items()
    ]
    for key_id, (verify_key, entry) in _read_keys(told.get("old_verify_keys")):
        expired_ts = entry.get("expired_ts")
        if key_id in current or not isinstance(expired_ts, int) or isinstance(expired_ts, bool):
            continue
        expired_ts = min(expired_ts, now_ms)
        keys.append(
            ServerKey(server_name, key_id, verify_key, expired_ts, expired_ts, now_ms, raw)
        )
    return keys


def _read_keys(entries: object) -> Iterator[tuple[str, tuple[bytes, Json]]]:
    """The well-formed ed25519 keys of an object key ID → entry, without the compromised ones."""
    if not isinstance(entries, dict):
        return
    for key_id, entry in list(entries.items())[:_MAX_KEYS_OF_SERVER]:
        text = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(text, str) or KEY_ID.fullmatch(key_id) is None:
            continue
        try:
            verify_key = decode_base64(text)
        except ValueError:
            continue
        if len(verify_key) == 32 and verify_key not in COMPROMISED_KEYS:
            yield key_id, (verify_key, entry)
