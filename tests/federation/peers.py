"""Other servers, as far as their signatures go."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from architex.domain.canonical_json import Json
from architex.domain.identifiers import ServerName
from architex.domain.signing import SigningKey, sign_json
from architex.gateways.federation_client import request_to_sign

_numbers = itertools.count(1)


def make_key(version: str = "k1") -> SigningKey:
    """A signing key that nobody had before in this process."""
    return SigningKey.from_seed(next(_numbers).to_bytes(32, "big"), version)


@dataclass
class Peer:
    """A server that signs."""

    server_name: ServerName
    key: SigningKey = field(default_factory=make_key)

    def tell_keys(self, valid_until_ts: int, **more: Any) -> Json:
        """What it answers to GET /_matrix/key/v2/server."""
        told = {
            "server_name": self.server_name,
            "verify_keys": {self.key.key_id: {"key": self.key.verify_key_base64}},
            "old_verify_keys": {},
            "valid_until_ts": valid_until_ts,
            **more,
        }
        return sign_json(told, self.server_name, self.key)

    def authorize(
        self,
        method: str,
        uri: str,
        destination: ServerName | None,
        content: Any = None,
    ) -> str:
        """The Authorization header of a request."""
        message = request_to_sign(method, uri, self.server_name, destination, content)
        to = "" if destination is None else f',destination="{destination}"'
        return (
            f'X-Matrix origin="{self.server_name}"{to},key="{self.key.key_id}",'
            f'sig="{self.key.sign(message)}"'
        )
