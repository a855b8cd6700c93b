"""FederationClient: requests to other servers, signed as ours.

Spec: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, TypedDict, Unpack
from urllib.parse import quote, urlencode

from architex.domain.canonical_json import Json, encode_lenient_json, parse_json
from architex.domain.errors import NotJson
from architex.domain.identifiers import ServerName
from architex.domain.signing import SigningKey
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import (
    RemoteAvoided,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnintelligible,
    RemoteUnreachable,
)
from architex.gateways.http import AnswerStream, OutboundHttp
from architex.gateways.server_discovery import ServerDiscovery

Query: TypeAlias = Mapping[str, str | Sequence[str]]
DEFAULT_TIMEOUT_S: Final = 30.0
DEFAULT_MAX_BYTES: Final = 16 * 1024 * 1024

# Of requests to one server at once, in one process; whoever finds none free waits.
_AT_ONCE: Final = 12
_REMEMBERED_SERVERS: Final = 10_000
_MAX_ERROR_BYTES: Final = 65_536
# After two failures in a row a server is left alone: for a second, then two, then four…
_FIRST_REST_S: Final = 1.0
_MAX_REST_S: Final = 60.0


class Bounds(TypedDict, total=False):
    """How long and how much a server may answer.

    Attributes:
        timeout_s: for everything together, discovery included; 30 by default.
        max_bytes: of the answer; 16 MiB by default.
        despite_failures: also ask a server that was unreachable a moment ago.
    """

    timeout_s: float
    max_bytes: int
    despite_failures: bool


class FederationClient(Protocol):
    """Asks other servers.

    `path` begins with /_matrix and is percent-encoded: see `federation_path`. `query` is encoded
    here. All of them raise:

        RemoteUnreachable: (RemoteTimedOut, RemoteBlocked, RemoteAvoided) no answer.
        RemoteRefused: an answer that is no 200; it has the status and the error code.
        RemoteUnintelligible: (RemoteTooLarge) an answer that is no JSON object within bounds.
    """

    def get(
        self,
        destination: ServerName,
        path: str,
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        """The JSON object a server answers to GET."""

    def put(
        self,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any],
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        """The JSON object a server answers to PUT; may be sent twice when a connection fails."""

    def post(
        self,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any],
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        """The JSON object a server answers to POST."""

    def stream(
        self,
        method: str,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any] | None = None,
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> AbstractContextManager[AnswerStream]:
        """The body of an answer with status 200, to be read piece by piece inside the block."""

    def note_alive(self, server_name: ServerName) -> None:
        """Forget failures: the server gave a sign of life."""


def federation_path(*segments: str) -> str:
    """`/_matrix/federation/` and the segments, each percent-encoded.

    >>> federation_path("v1", "make_join", "!a:b.c", "@d:e.f")
    '/_matrix/federation/v1/make_join/%21a%3Ab.c/%40d%3Ae.f'
    """
    return "/_matrix/federation/" + "/".join(quote(segment, safe="") for segment in segments)


def request_to_sign(
    method: str,
    uri: str,
    origin: ServerName,
    destination: ServerName | None,
    content: Any = None,
) -> bytes:
    """The bytes that the signature of a request covers.

    Args:
        uri: the path with the query, exactly as it is sent.
        destination: None when the request names none, as those of old servers do.
        content: the parsed JSON of the body; None when there is no body.

    Raises:
        InvalidCanonicalJson: the content cannot be written as JSON.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
    """
    request: dict[str, Any] = {"method": method, "uri": uri, "origin": origin}
    if destination is not None:
        request["destination"] = destination
    if content is not None:
        request["content"] = content
    # Events of rooms before version 6 may hold any numbers.
    return encode_lenient_json(request)


@dataclass
class _Remembered:
    """What we know about reaching a server."""

    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_AT_ONCE))
    failures: int = 0
    avoided_until: float = 0.0


class SignedFederationClient:
    """See FederationClient: over HTTPS, each request signed with our key."""

    def __init__(
        self,
        http: OutboundHttp,
        discovery: ServerDiscovery,
        server_name: ServerName,
        key: SigningKey,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        """Prepare; opens nothing.

        Args:
            server_name: ours.
            key: what we sign with.
        """
        self._http = http
        self._discovery = discovery
        self._server_name = server_name
        self._key = key
        self._clock = clock
        self._randomness = randomness
        self._servers: OrderedDict[ServerName, _Remembered] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        destination: ServerName,
        path: str,
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        """See FederationClient."""
        return self._ask("GET", destination, path, None, query, **bounds)

    def put(
        self,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any],
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        """See FederationClient."""
        return self._ask("PUT", destination, path, content, query, **bounds)

    def post(
        self,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any],
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        """See FederationClient."""
        return self._ask("POST", destination, path, content, query, **bounds)

    def note_alive(self, server_name: ServerName) -> None:
        """See FederationClient."""
        with self._lock:
            known = self._servers.get(server_name)
        if known is not None:
            known.failures, known.avoided_until = 0, 0.0

    @contextmanager
    def stream(
        self,
        method: str,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any] | None = None,
        query: Query | None = None,
        **bounds: Unpack[Bounds],
    ) -> Iterator[AnswerStream]:
        """See FederationClient."""
        if destination == self._server_name:
            raise RemoteUnreachable(destination, "That is this server itself.")
        timeout_s = bounds.get("timeout_s", DEFAULT_TIMEOUT_S)
        max_bytes = bounds.get("max_bytes", DEFAULT_MAX_BYTES)
        ends = self._clock.monotonic() + timeout_s
        known = self._admit(destination, bounds.get("despite_failures", False))
        # Not behind requests that may be waiting for us to know the server's keys.
        is_counted = not path.startswith("/_matrix/key/")
        if is_counted and not known.slots.acquire(timeout=timeout_s):
            raise RemoteUnreachable(destination, "Too many requests to it are under way.")
        try:
            uri = path + (f"?{urlencode(query, doseq=True)}" if query else "")
            with self._sent(method, destination, uri, content, ends, max_bytes, known) as answer:
                if answer.status != 200:
                    raise _refusal(destination, answer)
                yield answer
        finally:
            if is_counted:
                known.slots.release()

    def _ask(
        self,
        method: str,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any] | None,
        query: Query | None,
        **bounds: Unpack[Bounds],
    ) -> Json:
        with self.stream(method, destination, path, content, query, **bounds) as answer:
            body = answer.read_all()
        return _read_json(destination, body)

    @contextmanager
    def _sent(
        self,
        method: str,
        destination: ServerName,
        uri: str,
        content: Mapping[str, Any] | None,
        ends: float,
        max_bytes: int,
        known: _Remembered,
    ) -> Iterator[AnswerStream]:
        """The answer of the first place where the server is that can be reached."""
        headers = {"Authorization": self._authorization(method, destination, uri, content)}
        body = None
        if content is not None:
            headers["Content-Type"] = "application/json"
            body = encode_lenient_json(content)
        is_answered = False
        try:
            targets = list(self._discovery.find(destination))
            while True:
                target = targets.pop(0)
                request = self._http.stream(
                    method,
                    target,
                    uri,
                    headers=headers,
                    body=body,
                    timeout_s=ends - self._clock.monotonic(),
                    max_bytes=max_bytes,
                )
                try:
                    with request as answer:
                        is_answered = True
                        known.failures, known.avoided_until = 0, 0.0
                        yield answer
                        return
                except RemoteUnreachable:
                    if is_answered or not targets:
                        raise
        except RemoteUnreachable:
            if not is_answered:
                self._note_failure(known)
            raise

    def _authorization(
        self,
        method: str,
        destination: ServerName,
        uri: str,
        content: Mapping[str, Any] | None,
    ) -> str:
        origin = self._server_name
        message = request_to_sign(method, uri, origin, destination, content)
        return (
            f'X-Matrix origin="{origin}",destination="{destination}",'
            f'key="{self._key.key_id}",sig="{self._key.sign(message)}"'
        )

    # ---- what we know about servers

    def _admit(self, destination: ServerName, despite_failures: bool) -> _Remembered:
        with self._lock:
            known = self._servers.get(destination)
            if known is None:
                known = self._servers[destination] = _Remembered()
                if len(self._servers) > _REMEMBERED_SERVERS:
                    self._servers.popitem(last=False)
            self._servers.move_to_end(destination)
        rest_s = known.avoided_until - self._clock.monotonic()
        if rest_s > 0 and not despite_failures:
            raise RemoteAvoided(
                destination, "It was unreachable a moment ago.", retry_after_s=rest_s
            )
        return known

    def _note_failure(self, known: _Remembered) -> None:
        known.failures += 1
        if known.failures >= 2:
            rest_s = min(_FIRST_REST_S * 2 ** min(known.failures - 2, 10), _MAX_REST_S)
            rest_s *= self._randomness.uniform(0.8, 1.0)
            known.avoided_until = self._clock.monotonic() + rest_s


class NoFederation:
    """See FederationClient: reaches nobody; for servers whose federation is switched off."""

    def get(self, destination: ServerName, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        raise _switched_off(destination)

    def put(self, destination: ServerName, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        raise _switched_off(destination)

    def post(self, destination: ServerName, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        raise _switched_off(destination)

    def stream(
        self, method: str, destination: ServerName, *_: Any, **__: Any
    ) -> AbstractContextManager[AnswerStream]:
        """See FederationClient."""
        raise _switched_off(destination)

    def note_alive(self, server_name: ServerName) -> None:
        """See FederationClient."""


def _switched_off(destination: ServerName) -> RemoteUnreachable:
    return RemoteUnreachable(destination, "This server does not federate.")


def _read_json(remote: str, body: bytes) -> Json:
    try:
        value = parse_json(body)
    except NotJson as error:
        raise RemoteUnintelligible(remote, "The answer is not JSON.") from error
    # Version 1 of some endpoints: [200, {…}].
    if isinstance(value, list) and len(value) == 2 and value[0] == 200:
        value = value[1]
    if not isinstance(value, dict):
        raise RemoteUnintelligible(remote, "The answer is not a JSON object.")
    return value


def _refusal(remote: str, answer: AnswerStream) -> RemoteRefused:
    """What an answer that is no 200 says."""
    body: Any = None
    try:
        piece = answer.read(_MAX_ERROR_BYTES)
        body = parse_json(piece)
    except (NotJson, RemoteTooLarge):
        body = None
    told: Json = body if isinstance(body, dict) else {}
    after_ms = told.get("retry_after_ms")
    header = answer.headers.get("Retry-After", "")
    if header.isascii() and header.isdigit() and len(header) < 10:
        after_ms = int(header) * 1000
    is_number = isinstance(after_ms, int) and not isinstance(after_ms, bool)
    return RemoteRefused(
        remote, answer.status, told, retry_after_ms=after_ms if is_number else None
    )
