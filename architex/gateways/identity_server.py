"""IdentityServerClient: what a homeserver asks of identity servers, which anybody may run.

Spec: https://spec.matrix.org/v1.19/identity-service-api/
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson

from architex.domain.canonical_json import encode_canonical_json, parse_json
from architex.domain.errors import InvalidParam, NotJson
from architex.domain.identifiers import ServerName, UserId, is_user_id
from architex.domain.signing import SigningKey
from architex.domain.third_party import ThirdPartyAddress, check_opaque, parse_address
from architex.domain.unpadded_base64 import decode_base64, encode_base64url
from architex.gateways.errors import RemoteRefused, RemoteUnintelligible
from architex.gateways.http import OutboundHttp

TIMEOUT_S: Final = 10.0
"""For each request."""

MAX_BYTES: Final = 65_536
"""Of each answer."""

MAX_PUBLIC_KEYS: Final = 10
_MAX_TEXT: Final = 500
_MAX_URL: Final = 1000
_VERIFY_KEY_BYTES: Final = 32
_PREFIX: Final = "/_matrix/identity/v2"


@dataclass(frozen=True, slots=True)
class StoredInvite:
    """An invite that an identity server keeps until the address is somebody's.

    Attributes:
        token: names it in the room.
        display_name: of the invited address, without giving it away.
        public_keys: `public_key` and `key_validity_url` each; at least one.
    """

    token: str
    display_name: str
    public_keys: Sequence[Mapping[str, str]]


class IdentityServerClient(Protocol):
    """Asks identity servers.

    `server` is a host name, perhaps with a port; `access_token` the user's for that server. All
    of them raise:

        RemoteUnreachable: (RemoteTimedOut, RemoteBlocked) no answer.
        RemoteRefused: an answer that is no 200; it has the status and the error code.
        RemoteUnintelligible: (RemoteTooLarge) an answer that is not of its form.
    """

    def look_up(
        self, server: ServerName, access_token: str, address: ThirdPartyAddress
    ) -> UserId | None:
        """Whose an address is; None when the server knows nobody."""

    def store_invite(
        self, server: ServerName, access_token: str, invite: Mapping[str, str]
    ) -> StoredInvite:
        """Have an invite kept until the address is somebody's, who is told by mail."""

    def bind(
        self,
        server: ServerName,
        access_token: str,
        session_id: str,
        client_secret: str,
        user_id: UserId,
    ) -> ThirdPartyAddress:
        """Publish whose the address of a session with that server is; returns the address."""

    def unbind(self, server: ServerName, user_id: UserId, address: ThirdPartyAddress) -> None:
        """Have a user's address forgotten. Signed by us, so it needs no access token."""

    def is_key_valid(self, validity_url: str, public_key: str) -> bool:
        """Whether an identity server still vouches for a key, at the place that it named."""


class HttpIdentityServerClient:
    """See IdentityServerClient: over HTTPS."""

    def __init__(self, http: OutboundHttp, server_name: ServerName, key: SigningKey) -> None:
        """Prepare; opens nothing.

        Args:
            server_name: ours.
            key: what requests in our own name are signed with.
        """
        self._http = http
        self._server_name = server_name
        self._key = key

    def look_up(
        self, server: ServerName, access_token: str, address: ThirdPartyAddress
    ) -> UserId | None:
        """See IdentityServerClient: by a hash of the address, where the server knows that.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#association-lookup
        """
        try:
            return self._look_up(server, access_token, address)
        except RemoteRefused as error:
            if error.errcode != "M_INVALID_PEPPER":
                raise
            # It has changed in between.
            return self._look_up(server, access_token, address)

    def _look_up(
        self, server: ServerName, access_token: str, address: ThirdPartyAddress
    ) -> UserId | None:
        details = self._ask("GET", server, "/hash_details", access_token)
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise RemoteUnintelligible(server, "It does not say how addresses are hashed.")
        plain = f"{address.address} {address.medium}"
        if "sha256" in algorithms:
            algorithm = "sha256"
            digest = hashlib.sha256(f"{plain} {pepper}".encode("utf-8", "replace")).digest()
            wanted = encode_base64url(digest)
        elif "none" in algorithms:
            algorithm, wanted = "none", plain
        else:
            raise RemoteUnintelligible(server, "It hashes addresses in an unknown way.")
        question = {"algorithm": algorithm, "pepper": pepper, "addresses": [wanted]}
        told = self._ask("POST", server, "/lookup", access_token, question)
        mappings = told.get("mappings", {})
        user_id = mappings.get(wanted) if isinstance(mappings, dict) else None
        if user_id is None:
            return None
        if not isinstance(user_id, str) or not is_user_id(user_id):
            raise RemoteUnintelligible(server, "It knows the address by what is no user ID.")
        return user_id

    def store_invite(
        self, server: ServerName, access_token: str, invite: Mapping[str, str]
    ) -> StoredInvite:
        """See IdentityServerClient.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#invitation-storage
        """
        told = self._ask("POST", server, "/store-invite", access_token, invite)
        token, name, keys = told.get("token"), told.get("display_name"), told.get("public_keys")
        if (
            not isinstance(token, str)
            or not isinstance(name, str)
            or not isinstance(keys, list)
            or not 0 < len(keys) <= MAX_PUBLIC_KEYS
        ):
            raise RemoteUnintelligible(server, "It does not say how the invite is kept.")
        try:
            check_opaque(token, "The token")
        except InvalidParam as error:
            raise RemoteUnintelligible(server, error.message) from error
        return StoredInvite(token, name[:_MAX_TEXT], [_read_key(server, key) for key in keys])

    def bind(
        self,
        server: ServerName,
        access_token: str,
        session_id: str,
        client_secret: str,
        user_id: UserId,
    ) -> ThirdPartyAddress:
        """See IdentityServerClient.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#establishing-associations
        """
        wish = {"sid": session_id, "client_secret": client_secret, "mxid": user_id}
        told = self._ask("POST", server, "/3pid/bind", access_token, wish)
        medium, address = told.get("medium"), told.get("address")
        try:
            if isinstance(medium, str) and isinstance(address, str):
                return parse_address(medium, address)
        except InvalidParam as error:
            raise RemoteUnintelligible(server, error.message) from error
        raise RemoteUnintelligible(server, "It does not say what it has bound.")

    def unbind(self, server: ServerName, user_id: UserId, address: ThirdPartyAddress) -> None:
        """See IdentityServerClient.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#establishing-associations
        """
        path = f"{_PREFIX}/3pid/unbind"
        content = {
            "mxid": user_id,
            "threepid": {"medium": address.medium, "address": address.address},
        }
        # As requests between homeservers, but for whom they are: `destination` would be one.
        signed = {
            "method": "POST",
            "uri": path,
            "origin": self._server_name,
            "destination_is": server,
            "content": content,
        }
        signature = self._key.sign(encode_canonical_json(signed))
        authorization = (
            f'X-Matrix origin="{self._server_name}",key="{self._key.key_id}",sig="{signature}"'
        )
        self._fetch("POST", server, f"https://{server}{path}", authorization, content)

    def is_key_valid(self, validity_url: str, public_key: str) -> bool:
        """See IdentityServerClient.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#key-management
        """
        if not validity_url.startswith("https://"):
            return False
        separator = "&" if "?" in validity_url else "?"
        url = f"{validity_url}{separator}public_key={quote(public_key, safe='')}"
        return self._fetch("GET", url[:100], url, None).get("valid") is True

    # Within

    def _ask(
        self,
        method: str,
        server: ServerName,
        path: str,
        access_token: str,
        content: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        url = f"https://{server}{_PREFIX}{path}"
        return self._fetch(method, server, url, f"Bearer {access_token}", content)

    def _fetch(
        self,
        method: str,
        remote: str,
        url: str,
        authorization: str | None,
        content: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        headers = {}
        if authorization is not None:
            headers["Authorization"] = authorization
        if content is not None:
            headers["Content-Type"] = "application/json"
        answer = self._http.fetch_url(
            method,
            url,
            headers=headers,
            body=None if content is None else orjson.dumps(content),
            timeout_s=TIMEOUT_S,
            max_bytes=MAX_BYTES,
            # A token for one server is no other server's business.
            max_redirects=0,
        )
        try:
            told = parse_json(answer.body)
        except NotJson as error:
            if answer.status != 200:
                raise RemoteRefused(remote, answer.status) from error
            raise RemoteUnintelligible(remote, "The answer is not JSON.") from error
        body = told if isinstance(told, dict) else {}
        if answer.status != 200:
            raise RemoteRefused(remote, answer.status, body)
        if not isinstance(told, dict):
            raise RemoteUnintelligible(remote, "The answer is no JSON object.")
        return body


def _read_key(server: ServerName, key: Any) -> dict[str, str]:
    public_key = key.get("public_key") if isinstance(key, dict) else None
    url = key.get("key_validity_url") if isinstance(key, dict) else None
    if not isinstance(public_key, str) or not isinstance(url, str):
        raise RemoteUnintelligible(server, "It has a key without what is needed to check it.")
    try:
        is_key = (
            len(public_key) < _MAX_TEXT and len(decode_base64(public_key)) == _VERIFY_KEY_BYTES
        )
    except ValueError:
        is_key = False
    if not is_key or not url.startswith("https://") or len(url) > _MAX_URL:
        raise RemoteUnintelligible(server, "It has a key that is none.")
    return {"public_key": public_key, "key_validity_url": url}
