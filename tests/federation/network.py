"""A network of servers inside one process that loses, repeats, delays and misdelivers by a seed.

Requests are signed and parsed by the real federation client; only sockets are missing: a request
becomes a call of the other server's WSGI application. What happens to a request is decided by the
seed and the request alone, so a run is repeated by its seed, whatever threads do.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPMessage
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from architex.api.middleware import WsgiApp
from architex.domain.identifiers import ServerName
from architex.domain.signing import SigningKey
from architex.gateways.clock import Randomness
from architex.gateways.errors import RemoteTimedOut, RemoteTooLarge, RemoteUnreachable
from architex.gateways.federation_client import SignedFederationClient
from architex.gateways.http import AnswerStream, OutboundHttp, Target
from architex.gateways.server_discovery import ServerDiscovery
from tests.fakes.clock import FakeClock
from tests.fakes.names import FakeNames

_TIMEOUT_S = 10.0
_ROUND_TRIP_S = 0.02


@dataclass(frozen=True)
class Weather:
    """How likely a request meets which fate, each between 0 and 1.

    Attributes:
        lost: it never arrives.
        answer_lost: it arrives, and its answer does not.
        late: its sender gives up, and it arrives at some later step.
        twice: it arrives twice.
        refused: answered with 404, 429, 500 or 502 by something in between.
    """

    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    refused: float = 0.0


CALM = Weather()


@dataclass(frozen=True)
class Request:
    """A request on its way."""

    origin: ServerName
    destination: ServerName
    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Without the query."""
        return self.uri.partition("?")[0]


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Watcher(Protocol):
    """Stands on the way."""

    def request(self, request: Request) -> Request:
        """What arrives of a request."""

    def reply(self, request: Request, reply: Reply) -> Reply:
        """What arrives of an answer."""


@dataclass
class Network:
    """Brings requests from server to server.

    Attributes:
        weather: of all connections.
        separated: pairs of servers that do not reach each other; each pair in both directions.
        down: servers that nobody reaches.
        failures: answers that no server may give: 500 and the like, with the request.
        asked: how often which server asked which, by kind of path.
        trace: when set, is told each request and its fate.
        watchers: see (and may change) what goes from server to server.
    """

    seed: str
    clock: FakeClock
    weather: Weather = CALM
    apps: dict[ServerName, WsgiApp] = field(default_factory=dict)
    separated: set[tuple[ServerName, ServerName]] = field(default_factory=set)
    down: set[ServerName] = field(default_factory=set)
    failures: list[tuple[Request, Reply]] = field(default_factory=list)
    asked: Counter[tuple[ServerName, ServerName, str]] = field(default_factory=Counter)
    trace: Callable[[str], None] | None = None
    watchers: list[Watcher] = field(default_factory=list)
    _late: list[Request] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(
        self, server_name: ServerName, key: SigningKey, randomness: Randomness
    ) -> SignedFederationClient:
        """How a server asks others."""
        return SignedFederationClient(
            _NetworkHttp(self, server_name),
            _NetworkDiscovery(),
            server_name,
            key,
            self.clock,
            randomness,
        )

    def separate(self, group: Sequence[ServerName]) -> None:
        """Cut a group of servers off from the others."""
        self.separated = {
            pair
            for one in group
            for other in self.apps
            if other not in group
            for pair in ((one, other), (other, one))
        }

    def heal(self) -> None:
        """From now on every request arrives, in time and once."""
        self.weather = CALM
        self.separated = set()
        self.down = set()

    @property
    def late_requests(self) -> int:
        """How many requests are still under way whose senders gave up."""
        return len(self._late)

    def deliver_late(self, chance: Random, at_most: int = 1000) -> None:
        """Let requests arrive whose senders gave up on them, in any order."""
        for _ in range(min(at_most, len(self._late))):
            with self._lock:
                request = self._late.pop(chance.randrange(len(self._late)))
            if self._is_reachable(request):
                self._tell(request, "arrives late")
                self.call(request)

    def ask(self, request: Request) -> Reply:
        """Bring a request to its destination and the answer back, if the weather lets it.

        Raises:
            RemoteUnreachable, RemoteTimedOut: it does not.
        """
        chance = self._chance(request)
        with self._lock:
            self.asked[request.origin, request.destination, kind_of(request.path)] += 1
            self.clock.pass_seconds(_ROUND_TRIP_S)
        if not self._is_reachable(request):
            raise self._failed(request, RemoteUnreachable, "not connected")
        fate = chance.random()
        weather = self.weather
        if fate < weather.lost:
            raise self._failed(request, RemoteUnreachable, "lost")
        fate -= weather.lost
        if fate < weather.late:
            with self._lock:
                self._late.append(request)
            raise self._failed(request, RemoteTimedOut, "late")
        fate -= weather.late
        if fate < weather.refused:
            status = chance.choice((404, 429, 500, 502))
            self._tell(request, f"refused with {status}")
            return Reply(status, {"Content-Type": "text/html"}, b"<h1>A proxy speaks</h1>")
        fate -= weather.refused
        reply = self.call(request)
        if fate < weather.answer_lost:
            raise self._failed(request, RemoteTimedOut, "answer lost")
        fate -= weather.answer_lost
        if fate < weather.twice:
            self._tell(request, "arrives again")
            reply = self.call(request)
        return reply

    def call(self, request: Request) -> Reply:
        """What the destination answers. An answer that no server may give is noted."""
        for watcher in self.watchers:
            request = watcher.request(request)
        reply = call_wsgi(self.apps[request.destination], request)
        self._tell(request, str(reply.status))
        if reply.status >= 500 and not _is_permitted(reply):
            self.failures.append((request, reply))
        for watcher in self.watchers:
            reply = watcher.reply(request, reply)
        return reply

    def _is_reachable(self, request: Request) -> bool:
        return (
            request.destination in self.apps
            and request.destination not in self.down
            and request.origin not in self.down
            and (request.origin, request.destination) not in self.separated
        )

    def _chance(self, request: Request) -> Random:
        """Chance that knows this request, and how often it was made before."""
        name = f"{request.origin} {request.destination} {request.method} {request.uri}"
        with self._lock:
            self._seen[name] += 1
            number = self._seen[name]
        return Random(f"{self.seed} {name} {number}")  # noqa: S311 - as above

    def _failed(
        self, request: Request, kind: type[RemoteUnreachable], what: str
    ) -> RemoteUnreachable:
        if kind is RemoteTimedOut:
            with self._lock:
                self.clock.pass_seconds(_TIMEOUT_S)
        self._tell(request, what)
        return kind(request.destination, f"Simulated: {what}.")

    def _tell(self, request: Request, fate: str) -> None:
        if self.trace is not None:
            self.trace(
                f"{request.origin} -> {request.destination} {request.method} {request.uri}"
                f" ({len(request.body)} bytes): {fate}"
            )


def call_wsgi(app: WsgiApp, request: Request) -> Reply:
    """Make a request of a WSGI application."""
    path, _, query = request.uri.partition("?")
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        started[:] = [int(status[:3]), dict(headers)]

    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": request.uri,
        "QUERY_STRING": query,
        "SERVER_NAME": request.destination,
        "SERVER_PORT": "8448",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(request.body)),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    pieces = app(environ, start_response)
    try:
        body = b"".join(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    return Reply(started[0], started[1], body)


def kind_of(path: str) -> str:
    """What a path asks for: `v1/send` of /_matrix/federation/v1/send/123."""
    return "/".join(path.split("/")[3:5])


def _is_permitted(reply: Reply) -> bool:
    """Whether a status of 500 and more only passes on that a third server failed."""
    try:
        errcode = json.loads(reply.body).get("errcode")
    except ValueError:
        return False
    return reply.status in (502, 504) and errcode != "M_UNKNOWN"


class _NetworkHttp(OutboundHttp):
    """The HTTP client of one server of the network."""

    def __init__(self, network: Network, origin: ServerName) -> None:
        super().__init__(FakeNames(), network.clock, blocked_networks=())
        self._network = network
        self._origin = origin

    @contextmanager
    def stream(
        self,
        method: str,
        target: Target,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
    ) -> Iterator[AnswerStream]:
        """See OutboundHttp."""
        request = Request(self._origin, target.host, method, path, headers or {}, body or b"")
        yield _WholeAnswer(self._network.ask(request), target.host, max_bytes)


class _WholeAnswer(AnswerStream):
    """An answer that is there already."""

    def __init__(self, reply: Reply, remote: ServerName, max_bytes: int) -> None:
        self.status = reply.status
        self.headers = _header_message(reply.headers)
        self.address = "192.0.2.1"
        self.certificate_until_s = None
        self._remote = remote
        self._body = io.BytesIO(reply.body)
        self._left = max_bytes

    def read(self, at_most: int = 65_536) -> bytes:
        """See AnswerStream."""
        piece = self._body.read(min(at_most, self._left + 1))
        if len(piece) > self._left:
            raise RemoteTooLarge(self._remote, "The answer is larger than we take.")
        self._left -= len(piece)
        return piece


def _header_message(headers: Mapping[str, str]) -> HTTPMessage:
    message: Message = HTTPMessage()
    for name, value in headers.items():
        message[name] = value
    assert isinstance(message, HTTPMessage)
    return message


class _NetworkDiscovery(ServerDiscovery):
    """Every server is where its name says."""

    def __init__(self) -> None:
        pass

    def find(self, server_name: ServerName) -> Sequence[Target]:
        """See ServerDiscovery."""
        return (Target(server_name, 8448, server_name, server_name),)
