"""X-Matrix header → verified origin.

Spec: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import falcon

from architex.api.authentication import Authenticator
from architex.api.requests import read_body
from architex.domain.canonical_json import parse_json
from architex.domain.errors import (
    BadJson,
    InvalidParam,
    InvalidSignature,
    MatrixError,
    NotJson,
    Unauthorized,
)
from architex.domain.identifiers import ServerName, is_server_name
from architex.domain.signing import verify_signature
from architex.gateways.federation_client import request_to_sign
from architex.usecases.server_keys import KeyRing

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Of a request by another server: a transaction carries 50 PDUs of 64 KiB and 100 EDUs."""

_MAX_HEADER_BYTES: Final = 16_384
# A server sends one per key that it has.
_MAX_CREDENTIALS: Final = 5

_SCHEME: Final = re.compile(r"[\s,]*X-Matrix[ \t]+", re.IGNORECASE)
_PARAMETER: Final = re.compile(
    r"[ \t,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    # Quoted, with escapes; or bare, where old servers leave colons (and base64) unquoted.
    r"(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*))[ \t]*(?=,|$)"
)
_ESCAPED: Final = re.compile(r"\\(.)")

_ORIGIN: Final = "architex.origin"
_CONTENT: Final = "architex.content"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The parameters of one X-Matrix authorization.

    Attributes:
        destination: None when it names none: an old server.
    """

    origin: ServerName
    destination: ServerName | None
    key_id: str
    signature: str


def parse_credentials(header: str) -> list[Credentials]:
    """What the Authorization headers of a request say, in the time of reading them once.

    Raises:
        Unauthorized: they are not of the scheme X-Matrix, or lack a parameter.
        InvalidParam: the origin is no server name.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
    """
    if len(header) > _MAX_HEADER_BYTES:
        raise Unauthorized("The Authorization header is too long.")
    found: list[Credentials] = []
    at = 0
    while at < len(header) and len(found) < _MAX_CREDENTIALS:
        scheme = _SCHEME.match(header, at)
        if scheme is None:
            break
        at = scheme.end()
        parameters: dict[str, str] = {}
        while _SCHEME.match(header, at) is None and (match := _PARAMETER.match(header, at)):
            name, quoted, bare = match.groups()
            value = bare if quoted is None else _ESCAPED.sub(r"\1", quoted)
            if name.lower() in parameters:
                raise Unauthorized(f"The Authorization header has {name} twice.")
            parameters[name.lower()] = value
            at = match.end()
        found.append(_credentials_of(parameters))
    if not found or (header[at:].strip(" \t,") and len(found) < _MAX_CREDENTIALS):
        raise Unauthorized("The Authorization header is not of the form X-Matrix name=value,…")
    return found


def _credentials_of(parameters: Mapping[str, str]) -> Credentials:
    missing = [name for name in ("origin", "key", "sig") if not parameters.get(name)]
    if missing:
        raise Unauthorized(f"The Authorization header lacks {', '.join(missing)}.")
    origin = parameters["origin"]
    if not is_server_name(origin):
        raise InvalidParam("The origin is not a valid server name.")
    return Credentials(origin, parameters.get("destination"), parameters["key"], parameters["sig"])


@dataclass(frozen=True)
class ServerAuthenticator:
    """Finds out which server sent a request, at most once per request.

    Attributes:
        server_name: ours.
        note_alive: told the name of every server that proved to be itself.
    """

    server_name: ServerName
    key_ring: KeyRing
    note_alive: Callable[[ServerName], None]

    def origin(self, req: falcon.Request, max_bytes: int = MAX_BODY_BYTES) -> ServerName:
        """The server that signed a request. Reads the body.

        Raises:
            Unauthorized: there is no signature, for us, by a key of the server that counts now.
            NotJson, BadJson, TooLarge: the body is no JSON object, or too large.
        """
        known: ServerName | None = req.env.get(_ORIGIN)
        if known is not None:
            return known
        header: str | None = req.env.get("HTTP_AUTHORIZATION")
        if header is None:
            raise Unauthorized("This is for servers: sign the request (X-Matrix).")
        credentials = parse_credentials(header)
        origin = credentials[0].origin
        for one in credentials:
            if one.origin != origin:
                raise Unauthorized("The request claims to come from several servers.")
            if one.destination is not None and one.destination != self.server_name:
                raise Unauthorized("The request is for another server.")
        content = _read_content(req, max_bytes)
        self._verify(req, credentials, content)
        req.env[_ORIGIN] = origin
        req.env[_CONTENT] = content
        self.note_alive(origin)
        return origin

    def _verify(self, req: falcon.Request, credentials: list[Credentials], content: Any) -> None:
        """Raises Unauthorized unless one of the signatures holds."""
        problem: MatrixError = Unauthorized("The request is not signed with a known key.")
        for one in credentials:
            verify_key = self.key_ring.find_request_key(one.origin, one.key_id)
            if verify_key is None:
                problem = Unauthorized(f"There is no key {one.key_id} of {one.origin} now.")
                continue
            try:
                message = request_to_sign(
                    req.method, raw_uri(req), one.origin, one.destination, content
                )
                verify_signature(message, one.signature, one.key_id, verify_key)
                return
            except InvalidSignature as error:
                problem = error
        raise problem


def claimed_origin(req: falcon.Request) -> ServerName | None:
    """The server that a request claims to come from, unproven; None when it claims nothing well.

    For budgets that are looked at before any work is done.
    """
    header: str | None = req.env.get("HTTP_AUTHORIZATION")
    try:
        return None if header is None else parse_credentials(header)[0].origin
    except MatrixError:
        return None


def require_server(req: falcon.Request, *, max_bytes: int = MAX_BODY_BYTES) -> ServerName:
    """The server that is asking, proven by its signature; then `signed_content` has the body.

    Raises:
        Unauthorized: it is not proven.
        NotJson, BadJson, TooLarge: the body is no JSON object, or too large.
    """
    authenticator: Authenticator = req.env["architex.authenticator"]
    if authenticator.servers is None:
        raise Unauthorized("This server does not federate.")
    return authenticator.servers.origin(req, max_bytes)


def signed_content(req: falcon.Request) -> dict[str, Any]:
    """The JSON object in the body of a request that `require_server` let in.

    Raises:
        NotJson: it has no body.
    """
    content: dict[str, Any] | None = req.env[_CONTENT]
    if content is None:
        raise NotJson("The request needs a body: a JSON object.")
    return content


def raw_uri(req: falcon.Request) -> str:
    """The request target as it was sent: path and query, not decoded."""
    uri: str = req.env.get("RAW_URI") or req.env.get("REQUEST_URI") or req.path
    if not uri.startswith("/"):  # the absolute form: scheme://host/path
        uri = "/" + uri.partition("://")[2].partition("/")[2]
    query: str = req.env.get("QUERY_STRING") or ""
    return f"{uri}?{query}" if query and "?" not in uri else uri


def _read_content(req: falcon.Request, max_bytes: int) -> dict[str, Any] | None:
    raw = read_body(req, max_bytes)
    if not raw:
        return None
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise BadJson("The body must be a JSON object.")
    return value
