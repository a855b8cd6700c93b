"""Other servers that have rooms, made of plain events, and may lie about them in any way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import orjson

from architex.domain.canonical_json import Json
from architex.domain.errors import Forbidden
from architex.domain.identifiers import ServerName, UserId, server_name_of
from architex.domain.pdu import Pdu, parse_pdu
from architex.domain.signing import sign_event
from architex.gateways.errors import RemoteRefused, RemoteTooLarge, RemoteUnreachable
from architex.gateways.http import AnswerStream
from tests.builders import TEST_KEY, RoomBuilder
from tests.federation.peers import Peer

DAY_MS = 24 * 3_600_000
_numbers = itertools.count()


def unchanged(answer: Json) -> Json:
    """What an honest server does to its answers."""
    return answer


class HostedRoom(RoomBuilder):
    """A room on a server of its own.

    Attributes:
        erin: a member from a third server, who has changed her name.
    """

    def __init__(self, version: str = "11", **options: Any) -> None:
        number = next(_numbers)
        super().__init__(version, creator=f"@owner:host{number}.example", **options)
        self.erin = f"@erin:erin{number}.example"
        self.join(self.erin)
        self.join(self.erin, displayname="Erin")

    @property
    def first_join(self) -> Pdu:
        """Of Erin."""
        return next(pdu for pdu in self.pdus.values() if pdu.state_key == self.erin)


@dataclass
class Host:
    """A server with one room.

    Attributes:
        make: changes what it answers to make_join, make_knock and make_leave.
        tell: changes what it answers to send_join, or gives the bytes of another answer.
        received: the events that it was sent.
        helps: its name, if the room is not its own.
        is_lax: it lets in whom the rules of the room do not.
        failures: kind of request (`make_join`) → the exception to raise instead of an answer.
    """

    room: HostedRoom
    make: Callable[[Json], Json] = unchanged
    tell: Callable[[Json], Json | Iterable[bytes]] = unchanged
    received: list[Json] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)
    helps: str | None = None
    is_lax: bool = False

    @property
    def name(self) -> ServerName:
        """Its name: that of the room's creator's server, unless it is another one's helper."""
        return self.helps or server_name_of(self.room.creator)

    def template(self, membership: str, user_id: UserId) -> Json:
        """What it answers to make_join and the like."""
        content = {"membership": membership}
        pdu = self.room.compose(user_id, "m.room.member", content, state_key=user_id)
        try:
            if not self.is_lax:
                self.room.check(pdu)
        except Forbidden as error:
            raise RemoteRefused(
                self.name, 403, {"errcode": "M_FORBIDDEN", "error": error.message}
            ) from error
        left_out = ("signatures", "hashes", "event_id")
        event = {key: value for key, value in pdu.event.items() if key not in left_out}
        return self.make({"room_version": self.room.rules.version, "event": event})

    def take(self, event: Json) -> Json:
        """Let an event into the room; what it answers to send_join."""
        self.received.append(event)
        answer = self.told()
        pdu = parse_pdu(self.room.rules, event)
        self.room.add(pdu)
        return {**answer, "event": event}

    def told(self) -> Json:
        """The state and its auth chain."""
        state = self.room.state.values()
        chain = self.room.auth_chain(state)
        return {
            "origin": self.name,
            "state": [dict(self.room.pdus[event_id].event) for event_id in state],
            "auth_chain": [dict(self.room.pdus[event_id].event) for event_id in chain],
        }


@dataclass
class Hosts:
    """A FederationClient of servers that have rooms. Every server's key is TEST_KEY.

    Attributes:
        asked: server and path of every request.
        mute: servers that tell nobody their keys.
    """

    hosts: dict[ServerName, Host] = field(default_factory=dict)
    asked: list[tuple[ServerName, str]] = field(default_factory=list)
    mute: set[ServerName] = field(default_factory=set)
    now_ms: Callable[[], int] = lambda: 1_800_000_000_000

    def add(self, host: Host) -> Host:
        """Let a server be reachable."""
        self.hosts[host.name] = host
        return host

    def requests(self, kind: str) -> list[str]:
        """The paths of requests of a kind: `send_join`."""
        return [path for _, path in self.asked if f"/{kind}/" in path]

    def get(self, destination: ServerName, path: str, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        self.asked.append((destination, path))
        if path == "/_matrix/key/v2/server":
            if destination in self.mute:
                raise RemoteUnreachable(destination, "It does not answer.")
            return Peer(destination, TEST_KEY).tell_keys(self.now_ms() + DAY_MS)
        host, kind, segments = self._find(destination, path)
        return host.template(kind.removeprefix("make_"), segments[1])

    def put(
        self, destination: ServerName, path: str, content: Mapping[str, Any], *_: Any, **__: Any
    ) -> Json:
        """See FederationClient."""
        self.asked.append((destination, path))
        host, kind = self._find(destination, path)[:2]
        host.take(dict(content))
        return {"knock_room_state": host.told()["state"]} if kind == "send_knock" else {}

    def post(self, destination: ServerName, path: str, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        raise RemoteUnreachable(destination, "Nobody asks anything by POST here.")

    @contextmanager
    def stream(
        self,
        method: str,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any] | None = None,
        *_: Any,
        max_bytes: int = 2**40,
        **__: Any,
    ) -> Iterator[AnswerStream]:
        """See FederationClient."""
        self.asked.append((destination, path))
        host = self._find(destination, path)[0]
        told = host.tell(host.take(dict(content or {})))
        pieces = iter([orjson.dumps(told)]) if isinstance(told, dict) else iter(told)
        yield cast(AnswerStream, _Pieces(destination, pieces, max_bytes))

    def note_alive(self, server_name: ServerName) -> None:
        """See FederationClient."""

    def _find(self, destination: ServerName, path: str) -> tuple[Host, str, Sequence[str]]:
        host = self.hosts.get(destination)
        if host is None:
            raise RemoteUnreachable(destination, "There is no such server.")
        version, kind, *segments = path.removeprefix("/_matrix/federation/").split("/")
        failure = host.failures.get(kind) or host.failures.get(f"{version}/{kind}")
        if failure is not None:
            raise failure
        if unquote(segments[0]) != host.room.room_id:
            raise RemoteRefused(destination, 404, {"errcode": "M_NOT_FOUND", "error": "No room."})
        return host, kind, [unquote(segment) for segment in segments]


class _Pieces:
    """An answer that comes piece by piece."""

    status = 200

    def __init__(self, remote: ServerName, pieces: Iterator[bytes], max_bytes: int) -> None:
        self._remote = remote
        self._pieces = pieces
        self._left = max_bytes

    def read(self, at_most: int = 65_536) -> bytes:
        """The next piece."""
        piece = next(self._pieces, b"")
        self._left -= len(piece)
        if self._left < 0:
            raise RemoteTooLarge(self._remote, "The answer is larger than we take.")
        return piece


def resign(room: RoomBuilder, event: Mapping[str, Any], **changes: Any) -> Json:
    """An event changed and signed anew, as the server of its sender may."""
    bare = {key: value for key, value in event.items() if key not in ("signatures", "hashes")}
    signed, _ = sign_event(
        room.rules, {**bare, **changes}, server_name_of(event["sender"]), TEST_KEY
    )
    return signed
