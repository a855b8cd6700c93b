"""An identity server on the loopback address, with TLS; as wicked as a test wants."""

from __future__ import annotations

import hashlib
import itertools
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from architex.domain.signing import SigningKey, sign_json
from architex.domain.unpadded_base64 import encode_base64url
from tests.federation.authority import Authority
from tests.federation.peers import make_key
from tests.gateways.loopback import Loopback, Request, serving

Json = dict[str, Any]
Reply = tuple[int, Any]
PREFIX = "/_matrix/identity/v2"
TOKEN = "swordfish"


@dataclass
class IdentityServer:
    """What it knows.

    Attributes:
        users: address → user ID.
        invites: what it was asked to keep.
        proven: session ID → address.
        key: what it signs with; `ephemeral` the other that it tells of.
        vouches: whether its keys are valid.
        wicked: path → what it answers instead: a reply, or something that answers itself.
        asked: every request: method, path and body.
        authorizations: the Authorization headers of those.
    """

    port: int = 0
    users: dict[str, str] = field(default_factory=dict)
    invites: list[Json] = field(default_factory=list)
    proven: dict[str, str] = field(default_factory=dict)
    key: SigningKey = field(default_factory=lambda: make_key("0"))
    ephemeral: SigningKey = field(default_factory=lambda: make_key("ephemeral"))
    vouches: bool = True
    algorithms: list[str] = field(default_factory=lambda: ["none", "sha256"])
    pepper: str = "matrixrocks"
    wicked: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def name(self) -> str:
        """As users name it."""
        return f"127.0.0.1:{self.port}"

    def sign(self, user_id: str, token: str, **more: Any) -> Json:
        """What it says when the address of an invite has become a user's."""
        return sign_json({"mxid": user_id, "token": token, **more}, self.name, self.key)

    def paths(self) -> list[str]:
        """The paths of what it was asked, below its prefix."""
        return [path.removeprefix(PREFIX) for _, path, _ in self.asked]

    def respond(self, request: Request, connection: socket.socket) -> None:
        """Answer a request."""
        parts = urlsplit(request.target)
        body = orjson.loads(request.body) if request.body else None
        self.asked.append((request.method, parts.path, body))
        self.authorizations.append(request.headers.get("authorization"))
        path = parts.path.removeprefix(PREFIX)
        if path in self.wicked:
            status, answer = self.wicked[path]
        elif path in ("/3pid/unbind", "/pubkey/isvalid"):
            status, answer = self._open(path, parts.query, body)
        elif self.authorizations[-1] != f"Bearer {TOKEN}":
            status, answer = 401, {"errcode": "M_UNAUTHORIZED", "error": "Who are you?"}
        else:
            status, answer = self._authenticated(path, body)
        raw = answer if isinstance(answer, bytes) else orjson.dumps(answer)
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(raw)}\r\n"
        if 300 <= status < 400:
            head += "Location: https://elsewhere.example/\r\n"
        connection.sendall(head.encode() + b"\r\n" + raw)

    def _open(self, path: str, query: str, body: Any) -> Reply:
        if path == "/pubkey/isvalid":
            keys = {self.key.verify_key_base64, self.ephemeral.verify_key_base64}
            asked = parse_qs(query).get("public_key", [""])[0]
            return 200, {"valid": self.vouches and asked in keys}
        address = body["threepid"]["address"]
        if self.users.get(address) != body["mxid"]:
            return 404, b""
        del self.users[address]
        return 200, {}

    def _authenticated(self, path: str, body: Any) -> Reply:
        handlers: Mapping[str, Callable[[Any], Reply]] = {
            "/hash_details": self._hash_details,
            "/lookup": self._look_up,
            "/store-invite": self._store_invite,
            "/3pid/bind": self._bind,
        }
        handler = handlers.get(path)
        return (404, b"") if handler is None else handler(body)

    def _hash_details(self, body: Any) -> Reply:
        return 200, {"lookup_pepper": self.pepper, "algorithms": self.algorithms}

    def _look_up(self, body: Any) -> Reply:
        if body["pepper"] != self.pepper:
            return 400, {"errcode": "M_INVALID_PEPPER", "error": "Not any more."}
        names = {self._name(body["algorithm"], address): address for address in self.users}
        found = [name for name in body["addresses"] if name in names]
        return 200, {"mappings": {name: self.users[names[name]] for name in found}}

    def _name(self, algorithm: str, address: str) -> str:
        plain = f"{address} email"
        if algorithm == "none":
            return plain
        return encode_base64url(hashlib.sha256(f"{plain} {self.pepper}".encode()).digest())

    def _store_invite(self, body: Any) -> Reply:
        token = f"token{self.port}.{next(self.numbers)}"
        self.invites.append({**body, "token": token})
        url = f"https://{self.name}{PREFIX}/pubkey/isvalid"
        keys = [key.verify_key_base64 for key in (self.key, self.ephemeral)]
        public_keys = [{"public_key": key, "key_validity_url": url} for key in keys]
        return 200, {"token": token, "display_name": "b...@e...", "public_keys": public_keys}

    def _bind(self, body: Any) -> Reply:
        address = self.proven.get(body["sid"])
        if address is None:
            return 404, {"errcode": "M_NO_VALID_SESSION", "error": "No such session."}
        self.users[address] = body["mxid"]
        told = {"medium": "email", "address": address, "mxid": body["mxid"], "ts": 0}
        return 200, sign_json({**told, "not_before": 0, "not_after": 2**50}, self.name, self.key)


@contextmanager
def serving_identities(authority: Authority) -> Iterator[IdentityServer]:
    """An identity server, as long as the block lasts."""
    identity = IdentityServer()
    started: Loopback
    with serving(identity.respond, authority.issue("127.0.0.1")) as started:
        identity.port = started.port
        yield identity
