"""Devices that can sign: keys for tests of end-to-end encryption."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from architex.domain.signing import SigningKey, sign_json
from architex.domain.unpadded_base64 import encode_base64


def signing_key(seed: str, name: str | None = None) -> SigningKey:
    """A key made of words; named by itself as cross-signing keys are, unless a name is given."""
    key = SigningKey.from_seed(hashlib.sha256(seed.encode()).digest(), name or "-")
    return (
        key
        if name
        else SigningKey.from_seed(hashlib.sha256(seed.encode()).digest(), key.verify_key_base64)
    )


@dataclass(frozen=True)
class TestDevice:
    """A device of a user, with keys of its own."""

    __test__ = False

    user_id: str
    device_id: str

    @property
    def key(self) -> SigningKey:
        """Its fingerprint key."""
        return signing_key(f"{self.user_id} {self.device_id}", self.device_id)

    @property
    def device_keys(self) -> dict[str, Any]:
        """What it uploads as its identity keys."""
        return sign_json(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "keys": {
                    f"ed25519:{self.device_id}": self.key.verify_key_base64,
                    f"curve25519:{self.device_id}": encode_base64(b"c" * 32),
                },
            },
            self.user_id,
            self.key,
        )

    def one_time_keys(self, names: Iterable[str], **more: Any) -> dict[str, Any]:
        """Signed one-time keys."""
        return {
            f"signed_curve25519:{name}": sign_json(
                {"key": encode_base64(hashlib.sha256(name.encode()).digest()), **more},
                self.user_id,
                self.key,
            )
            for name in names
        }


@dataclass(frozen=True)
class TestCrossSigning:
    """The cross-signing keys of a user.

    Attributes:
        edition: other keys for the same user.
    """

    __test__ = False

    user_id: str
    edition: str = "1"

    def secret(self, usage: str) -> SigningKey:
        """One of the keys."""
        return signing_key(f"{self.user_id} {usage} {self.edition}")

    def public(self, usage: str) -> dict[str, Any]:
        """One of the keys as it is uploaded."""
        key = self.secret(usage)
        content = {
            "user_id": self.user_id,
            "usage": [usage],
            "keys": {key.key_id: key.verify_key_base64},
        }
        if usage == "master":
            return content
        return sign_json(content, self.user_id, self.secret("master"))

    @property
    def upload(self) -> dict[str, Any]:
        """The body of their upload."""
        return {
            "master_key": self.public("master"),
            "self_signing_key": self.public("self_signing"),
            "user_signing_key": self.public("user_signing"),
        }
