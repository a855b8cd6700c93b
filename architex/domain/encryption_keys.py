"""The shapes of the keys of end-to-end encryption, and the signatures on them.

Whatever a client uploads here is told to other servers and clients, so it is checked closely:
what we hand on is canonical JSON of the form that the specification gives, and a signature by a
key that we know is good.

Spec: https://spec.matrix.org/v1.19/client-server-api/#key-distribution
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.errors import (
    BadJson,
    InvalidCanonicalJson,
    InvalidKeySignature,
    InvalidSignature,
)
from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, UserId
from architex.domain.signing import signatures_of, signed_json, verify_signature
from architex.domain.unpadded_base64 import decode_base64

MASTER: Final = "master"
SELF_SIGNING: Final = "self_signing"
USER_SIGNING: Final = "user_signing"

MAX_KEY_BYTES: Final = 65_536
"""Of one key object with its signatures."""
MAX_ONE_TIME_KEYS: Final = 1000
"""In one upload."""
MAX_SIGNATURES: Final = 50
"""On one key."""

_ED25519: Final = "ed25519:"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class OneTimeKey:
    """A one-time or fallback key.

    Attributes:
        key: a string, or an object with `key` and `signatures`.
    """

    algorithm: str
    key_id: str
    key: Any

    @property
    def name(self) -> str:
        """`algorithm:key_id`, as in JSON."""
        return f"{self.algorithm}:{self.key_id}"


@dataclass(frozen=True, slots=True)
class CrossSigningKey:
    """A master, self-signing or user-signing key.

    Attributes:
        public_key: in unpadded base64; its name among keys.
        content: the JSON object.
    """

    user_id: UserId
    usage: str
    public_key: str
    content: Mapping[str, Any]

    @property
    def key_id(self) -> str:
        """The name of the key on signatures."""
        return _ED25519 + self.public_key

    @property
    def verify_key(self) -> bytes:
        """The 32 bytes of the public key."""
        return decode_base64(self.public_key)

    def is_same_key(self, other: CrossSigningKey | None) -> bool:
        """Whether both say the same, apart from signatures and unsigned data."""
        return other is not None and signed_json(self.content) == signed_json(other.content)


# ---- device keys


def check_device_keys(keys: Any, user_id: UserId, device_id: str) -> dict[str, Any]:
    """Check the identity keys that a device uploads; gives what is to be kept of them.

    Whether the device's own signature is good is for other devices to judge: one that is not makes
    them distrust the device, and hurts nobody else.

    Raises:
        BadJson: they are not of the form that the specification gives.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#device-keys
    """
    if not isinstance(keys, dict):
        raise BadJson("device_keys must be an object.")
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        raise BadJson("device_keys must name the user and the device that upload them.")
    algorithms = keys.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(a, str) for a in algorithms):
        raise BadJson("algorithms must be a list of strings.")
    public_keys = keys.get("keys")
    if not isinstance(public_keys, dict):
        raise BadJson("keys must be an object.")
    for name, public_key in public_keys.items():
        _split_name(name)
        if not isinstance(public_key, str):
            raise BadJson("Public keys are strings.")
    kept = {name: value for name, value in keys.items() if name != "unsigned"}
    check_signatures_shape(kept.get("signatures"))
    _check_size(kept)
    return kept


def is_relayable(keys: Any, user_id: UserId, device_id: str) -> bool:
    """Whether keys that another server tells of its user's device can be given to our clients.

    Clients judge them; we refuse only what names another user or device, or is no canonical JSON.
    """
    if not isinstance(keys, dict):
        return False
    try:
        _check_size(keys)
    except BadJson:
        return False
    told = (keys.get("user_id", user_id), keys.get("device_id", device_id))
    return bool(told == (user_id, device_id))


def find_device_verify_key(keys: Mapping[str, Any] | None, device_id: str) -> bytes | None:
    """The 32 bytes of a device's ed25519 key; None when it has none that is well-formed."""
    public_keys = None if keys is None else keys.get("keys")
    text = public_keys.get(_ED25519 + device_id) if isinstance(public_keys, dict) else None
    return _decode_key(text)


# ---- one-time and fallback keys


def check_one_time_keys(
    keys: Any, user_id: UserId, device_id: str, device_keys: Mapping[str, Any] | None
) -> list[OneTimeKey]:
    """Check the one-time keys (or fallback keys) of an upload.

    Args:
        device_keys: the identity keys of the device, by which their signatures are verified; None
            when it has uploaded none yet.

    Raises:
        BadJson: they are not of the form that the specification gives, or too many.
        InvalidKeySignature: a signature by the device does not verify.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#one-time-and-fallback-keys
    """
    if not isinstance(keys, dict):
        raise BadJson("Keys must be an object.")
    if len(keys) > MAX_ONE_TIME_KEYS:
        raise BadJson(f"One upload has at most {MAX_ONE_TIME_KEYS} keys.")
    checked = []
    for name, key in keys.items():
        algorithm, key_id = _split_name(name)
        if isinstance(key, dict):
            if not isinstance(key.get("key"), str):
                raise BadJson("The key of a signed key is a string.")
            if not isinstance(key.get("fallback", False), bool):
                raise BadJson("fallback is true or false.")
            check_signatures_shape(key.get("signatures"))
            key = {field: value for field, value in key.items() if field != "unsigned"}
            _check_own_signature(key, user_id, device_id, device_keys)
        elif not isinstance(key, str):
            raise BadJson("A key is a string or an object.")
        _check_size(key)
        checked.append(OneTimeKey(algorithm, key_id, key))
    return checked


def check_fallback_keys(
    keys: Any, user_id: UserId, device_id: str, device_keys: Mapping[str, Any] | None
) -> list[OneTimeKey]:
    """Check the fallback keys of an upload, as one-time keys; there is one per algorithm.

    Raises:
        BadJson, InvalidKeySignature: as check_one_time_keys; or there are several of an algorithm.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#one-time-and-fallback-keys
    """
    checked = check_one_time_keys(keys, user_id, device_id, device_keys)
    if len({key.algorithm for key in checked}) < len(checked):
        raise BadJson("There can be one fallback key per algorithm.")
    return checked


# ---- cross-signing keys


def parse_cross_signing_key(content: Any, user_id: UserId, usage: str) -> CrossSigningKey:
    """Read a cross-signing key.

    Raises:
        BadJson: it is not of the form that the specification gives, or another user's.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#cross-signing
    """
    if not isinstance(content, dict):
        raise BadJson(f"The {usage} key must be an object.")
    if content.get("user_id") != user_id:
        raise BadJson(f"The {usage} key belongs to another user.")
    usages = content.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise BadJson(f"The {usage} key is not meant for that.")
    if not all(isinstance(one, str) for one in usages):
        raise BadJson("usage is a list of strings.")
    keys = content.get("keys")
    if not isinstance(keys, dict) or len(keys) != 1:
        raise BadJson(f"The {usage} key must be exactly one.")
    ((name, public_key),) = keys.items()
    if not isinstance(public_key, str) or name != _ED25519 + public_key:
        raise BadJson("A cross-signing key is named ed25519: and itself.")
    if _decode_key(public_key) is None:
        raise BadJson(f"The {usage} key is no ed25519 key.")
    kept = {field: value for field, value in content.items() if field != "unsigned"}
    if "signatures" in kept:
        check_signatures_shape(kept["signatures"])
    _check_size(kept)
    return CrossSigningKey(user_id, usage, public_key, kept)


def check_signed_by(content: Mapping[str, Any], signer: CrossSigningKey) -> None:
    """Check that a cross-signing key signed a key.

    Raises:
        InvalidKeySignature: it did not, or the signature does not verify.
    """
    check_key_signature(content, signer.user_id, signer.key_id, signer.verify_key)


def check_key_signature(
    content: Mapping[str, Any], signer: UserId, key_id: str, verify_key: bytes
) -> None:
    """Check one signature on a key.

    Raises:
        InvalidKeySignature: there is none of that name, or it does not verify.
    """
    signature = signatures_of(content, signer).get(key_id)
    if signature is None:
        raise InvalidKeySignature(f"There is no signature by {key_id} of {signer}.")
    try:
        verify_signature(signed_json(content), signature, key_id, verify_key)
    except (InvalidSignature, InvalidCanonicalJson):
        raise InvalidKeySignature(f"The signature by {key_id} does not verify.") from None


# ---- within


def check_signatures_shape(signatures: Any) -> None:
    """Check that signatures are a map user ID → key ID → string, of a sensible size.

    Raises:
        BadJson: they are not.
    """
    if not isinstance(signatures, dict):
        raise BadJson("signatures must be an object.")
    count = 0
    for of_user in signatures.values():
        if not isinstance(of_user, dict):
            raise BadJson("signatures must be a map of maps.")
        count += len(of_user)
        for signature in of_user.values():
            if not isinstance(signature, str):
                raise BadJson("A signature is a string.")
    if count > MAX_SIGNATURES:
        raise BadJson("There are too many signatures.")


def _check_own_signature(
    content: Mapping[str, Any],
    user_id: UserId,
    device_id: str,
    device_keys: Mapping[str, Any] | None,
) -> None:
    """Verify the device's signature on one of its keys, when there is one and its key is known."""
    verify_key = find_device_verify_key(device_keys, device_id)
    key_id = _ED25519 + device_id
    if verify_key is not None and key_id in signatures_of(content, user_id):
        check_key_signature(content, user_id, key_id, verify_key)


def _split_name(name: str) -> tuple[str, str]:
    """`algorithm:key_id` → both."""
    algorithm, colon, key_id = name.partition(":")
    if not algorithm or not colon or not key_id or "\0" in name:
        raise BadJson("Keys are named algorithm:key_id.")
    if len(name.encode()) > MAX_IDENTIFIER_BYTES * 2:
        raise BadJson("The name of a key is too long.")
    return algorithm, key_id


def _check_size(content: Any) -> None:
    if len(encode_canonical_json(content)) > MAX_KEY_BYTES:
        raise BadJson(f"A key has at most {MAX_KEY_BYTES} bytes.")


def _decode_key(text: Any) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        key = decode_base64(text)
    except ValueError:
        return None
    return key if len(key) == _KEY_BYTES else None
