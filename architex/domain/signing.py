"""Signing and verifying JSON and events with ed25519.

Spec: https://spec.matrix.org/v1.19/appendices/#signing-json
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from typing import Any, Final, TypeAlias

import nacl.bindings
import nacl.exceptions

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.errors import InvalidCanonicalJson, InvalidSignature
from architex.domain.identifiers import EventId, ServerName, is_user_id, server_name_of
from architex.domain.pdu import (
    Pdu,
    compute_content_hash,
    event_id_of_hash,
    signed_event_json,
)
from architex.domain.room_versions import RoomVersionRules
from architex.domain.unpadded_base64 import decode_base64, encode_base64

#: (server name, key ID) → the 32 bytes of the verify key; None when it is unknown, or expired
#: before the event was made.
FindVerifyKey: TypeAlias = Callable[[ServerName, str], bytes | None]

#: The same with the event's `origin_server_ts` as third argument: None also when the key counts,
#: but not for an event made then.
FindEventKey: TypeAlias = Callable[[ServerName, str, int], bytes | None]

#: Public keys whose private halves are known to everybody: whoever likes signs with them.
COMPROMISED_KEYS: Final = frozenset(
    {
        # CVE-2026-24044: one key, shipped with an installer, became many servers' key.
        decode_base64("l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"),
    }
)

_SEED_BYTES: Final = nacl.bindings.crypto_sign_SEEDBYTES
_VERIFY_KEY_BYTES: Final = nacl.bindings.crypto_sign_PUBLICKEYBYTES
_SIGNATURE_BYTES: Final = nacl.bindings.crypto_sign_BYTES


class SigningKey:
    """An ed25519 key that this server signs with.

    Attributes:
        key_id: the signing key identifier, such as `ed25519:abc`.
        verify_key: its public half, 32 bytes.
        verify_key_base64: the same in unpadded base64.

    Spec: https://spec.matrix.org/v1.19/appendices/#signing-details
    """

    __slots__ = ("_secret", "key_id", "verify_key", "verify_key_base64")

    def __init__(self, secret: bytes, verify_key: bytes, key_version: str) -> None:
        self._secret = secret
        self.verify_key = verify_key
        self.verify_key_base64 = encode_base64(verify_key)
        self.key_id = f"ed25519:{key_version}"

    @classmethod
    def from_seed(cls, seed: bytes, key_version: str) -> SigningKey:
        """Return the key that a seed of 32 bytes makes.

        Raises:
            ValueError: the seed has another length.
        """
        if len(seed) != _SEED_BYTES:
            raise ValueError(f"a signing key seed has {_SEED_BYTES} bytes")
        verify_key, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        return cls(secret, verify_key, key_version)

    def sign(self, message: bytes) -> str:
        """Return the signature of a message, in unpadded base64."""
        signed = nacl.bindings.crypto_sign(message, self._secret)
        return encode_base64(signed[:_SIGNATURE_BYTES])

    def __repr__(self) -> str:
        # Never the secret: keys end up in logs by way of their owners.
        return f"SigningKey({self.key_id})"


def sign_json(obj: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """Return a copy of a JSON object with our signature beside those it has.

    `signatures` and `unsigned` are not covered.

    Raises:
        InvalidCanonicalJson: the object is not canonical JSON.

    Spec: https://spec.matrix.org/v1.19/appendices/#signing-details
    """
    return _with_signature(obj, server_name, key, signed_json(obj))


def signed_json(obj: Mapping[str, Any]) -> bytes:
    """Return the bytes that signatures of a JSON object cover.

    Raises:
        InvalidCanonicalJson: the object is not canonical JSON.

    Spec: https://spec.matrix.org/v1.19/appendices/#signing-details
    """
    return encode_canonical_json(
        {key: obj[key] for key in obj if key != "signatures" and key != "unsigned"}
    )


def sign_event(
    rules: RoomVersionRules, event: Mapping[str, Any], server_name: ServerName, key: SigningKey
) -> tuple[dict[str, Any], EventId]:
    """Return a copy of an event with its content hash and our signature, and its event ID.

    Raises:
        InvalidCanonicalJson: the event cannot be written as its room version wants.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#adding-hashes-and-signatures-to-outgoing-events
    """
    hashed = {**event, "hashes": {"sha256": encode_base64(compute_content_hash(rules, event))}}
    # What is signed is also what the reference hash is made of: written once.
    essential = signed_event_json(rules, hashed)
    signed = _with_signature(hashed, server_name, key, essential)
    if rules.event_id_format == "domain":
        return signed, event["event_id"]
    return signed, event_id_of_hash(rules, sha256(essential).digest())


def add_event_signature(
    rules: RoomVersionRules, event: Mapping[str, Any], server_name: ServerName, key: SigningKey
) -> dict[str, Any]:
    """Return a copy of another server's event with our signature beside its own.

    For invites we accept and joins we authorise; the caller has checked what it signs.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms
    """
    return _with_signature(event, server_name, key, signed_event_json(rules, event))


def verify_signed_json(
    obj: Mapping[str, Any], server_name: str, key_id: str, verify_key: bytes
) -> None:
    """Check that an entity signed a JSON object with this key.

    Args:
        key_id: the signing key identifier, such as `ed25519:abc`.
        verify_key: the 32 bytes of its public half.

    Raises:
        InvalidSignature: the signature is missing, malformed or does not verify.

    Spec: https://spec.matrix.org/v1.19/appendices/#checking-for-a-signature
    """
    signature = signatures_of(obj, server_name).get(key_id)
    if signature is None:
        raise InvalidSignature(f"There is no signature by {server_name} with key {key_id}.")
    try:
        message = signed_json(obj)
    except InvalidCanonicalJson as error:
        raise InvalidSignature(f"What was signed is not canonical JSON. {error}") from error
    verify_signature(message, signature, key_id, verify_key)


def verify_signature(message: bytes, signature: str, key_id: str, verify_key: bytes) -> None:
    """Check one signature over bytes.

    Args:
        signature: in base64.
        key_id: must be of the algorithm ed25519.
        verify_key: 32 bytes.

    Raises:
        InvalidSignature: the signature or the key is malformed, or it does not verify.
    """
    if not key_id.startswith("ed25519:"):
        raise InvalidSignature(f"The algorithm of key {key_id} is not known.")
    try:
        raw = decode_base64(signature)
    except ValueError as error:
        raise InvalidSignature("The signature is not base64.") from error
    if len(raw) != _SIGNATURE_BYTES or len(verify_key) != _VERIFY_KEY_BYTES:
        raise InvalidSignature("The signature or the key is of the wrong length.")
    try:
        nacl.bindings.crypto_sign_open(raw + message, verify_key)
    except nacl.exceptions.BadSignatureError as error:
        raise InvalidSignature("The signature does not verify.") from error


def verify_event_signatures(
    rules: RoomVersionRules,
    event: Mapping[str, Any],
    servers: Collection[ServerName],
    find_verify_key: FindVerifyKey,
    *,
    message: bytes | None = None,
) -> None:
    """Check that each of the servers signed an event.

    A signature with a key that we do not know, or that had expired, is passed over. Each server
    needs one signature that counts, and all of its signatures that count must be good.

    Args:
        servers: who must sign; see `servers_that_must_sign`.
        find_verify_key: gives only keys that were valid when the event was made.
        message: its `signed_event_json`, where that is at hand.

    Raises:
        InvalidSignature: a signature is missing or bad.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events
    """
    if not servers:
        return
    if message is None:
        message = signed_event_json(rules, event)
    for server_name in sorted(servers):
        verified = False
        for key_id, signature in signatures_of(event, server_name).items():
            if not key_id.startswith("ed25519:"):
                continue
            verify_key = find_verify_key(server_name, key_id)
            if verify_key is not None:
                verify_signature(message, signature, key_id, verify_key)
                verified = True
        if not verified:
            raise InvalidSignature(f"The event has no signature by a valid key of {server_name}.")


def signatures_of(obj: Mapping[str, Any], server_name: str) -> Mapping[str, str]:
    """Return the signatures of one entity, key ID → base64; empty when it has none.

    Whatever is not a string is left out.
    """
    signatures = obj.get("signatures")
    of_server = signatures.get(server_name) if isinstance(signatures, dict) else None
    if not isinstance(of_server, dict):
        return {}
    return {
        key_id: signature for key_id, signature in of_server.items() if isinstance(signature, str)
    }


def servers_that_must_sign(rules: RoomVersionRules, pdu: Pdu) -> frozenset[ServerName]:
    """Return the servers whose signatures an event needs.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events
    """
    servers = set()
    # The sender's server, unless it is a third-party invite: that is sent by another server in the
    # name of the inviter, and its authorisation rule checks the identity server's signature.
    if not _is_third_party_invite(pdu):
        servers.add(server_name_of(pdu.sender))
    # v1, v2: the server that gave the event its ID.
    if rules.event_id_format == "domain":
        servers.add(server_name_of(pdu.event_id))
    # Since v8: the server that authorised a restricted join.
    if rules.restricted_joins and pdu.type == "m.room.member":
        authoriser = pdu.content.get("join_authorised_via_users_server")
        # Anything but a user ID is refused by the authorisation rules.
        if isinstance(authoriser, str) and is_user_id(authoriser):
            servers.add(server_name_of(authoriser))
    return frozenset(servers)


def _is_third_party_invite(pdu: Pdu) -> bool:
    return pdu.membership == "invite" and "third_party_invite" in pdu.content


def _with_signature(
    obj: Mapping[str, Any], server_name: str, key: SigningKey, message: bytes
) -> dict[str, Any]:
    signatures = obj.get("signatures")
    signatures = dict(signatures) if isinstance(signatures, dict) else {}
    of_server = signatures.get(server_name)
    of_server = dict(of_server) if isinstance(of_server, dict) else {}
    of_server[key.key_id] = key.sign(message)
    signatures[server_name] = of_server
    return {**obj, "signatures": signatures}
