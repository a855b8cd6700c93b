"""A server whose every word may be twisted: valid signed traffic, changed and signed again.

What it sends and what it answers is made by a real server, so it comes at the right moments and
through every door; on its way each message may be mutated, and is then signed with the server's
own key, so that no signature gives it away.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated
from typing import Any

from architex.domain.errors import MatrixError
from architex.domain.identifiers import ServerName, server_name_of
from architex.domain.pdu import signed_event_json
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import SigningKey, sign_event, signatures_of, verify_signature
from tests.federation.network import Reply, Request
from tests.federation.peers import Peer

_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**53,
    2**63 - 1,
    -(2**63),
    1.5,
    "",
    "\x00",
    "\ud800",
    "x" * 300,
    "y" * 70_000,
    [],
    {},
    [[]],
    "@nobody:evil.test",
    "!elsewhere:evil.test",
    "$nothing",
    "m.room.create",
    "m.room.member",
    "join",
    "ban",
)
_EVENT_FIELDS = (
    "room_id",
    "sender",
    "state_key",
    "type",
    "prev_events",
    "auth_events",
    "depth",
    "origin_server_ts",
    "content",
    "hashes",
    "signatures",
    "unsigned",
    "redacts",
    "event_id",
)


@dataclass
class Tamperer:
    """Twists what one server says.

    Attributes:
        rules: of the rooms it is in, to sign their events.
        rate: how likely a message is changed.
        foreign: identifiers that it knows from elsewhere: other rooms, events, users.
        changes: how many messages it changed.
    """

    server_name: ServerName
    key: SigningKey
    rules: RoomVersionRules
    chance: Random
    rate: float = 0.0
    foreign: list[str] = field(default_factory=list)
    changes: int = 0

    def request(self, request: Request) -> Request:
        """What arrives of a request."""
        if request.origin != self.server_name or self.chance.random() >= self.rate:
            return request
        uri, content = request.uri, _parse(request.body)
        if content is not None:
            content = self.twist(content)
        elif self.chance.random() < 0.3:
            uri = self._twisted_uri(uri)
        else:
            return request
        self.changes += 1
        peer = Peer(self.server_name, self.key)
        try:
            signature = peer.authorize(request.method, uri, request.destination, content)
        except MatrixError:
            return request
        headers = {**request.headers, "Authorization": signature}
        body = b"" if content is None else json.dumps(content).encode()
        return replace(request, uri=uri, headers=headers, body=body)

    def reply(self, request: Request, reply: Reply) -> Reply:
        """What arrives of an answer."""
        if request.destination != self.server_name or self.chance.random() >= self.rate:
            return reply
        content = _parse(reply.body)
        # Its keys stay known: else nobody would read the rest.
        if content is None or "/_matrix/key/" in request.uri:
            return reply
        self.changes += 1
        if self.chance.random() < 0.05:
            body = self.chance.choice((b"", b"[", b"null", b"[[[[" * 5000, reply.body[:-20]))
            return Reply(reply.status, reply.headers, body)
        return Reply(reply.status, reply.headers, json.dumps(self.twist(content)).encode())

    def twist(self, content: Any) -> Any:
        """A changed copy of a message."""
        content = copy.deepcopy(content)
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            events = [place for place in _places(content) if _is_event(place.value)]
            if events and self.chance.random() < 0.85:
                place = self.chance.choice(events)
                place.put(self._twisted_event(place.value))
            else:
                self._change_something(content)
        return content

    def _twisted_event(self, event: dict[str, Any]) -> dict[str, Any]:
        """Another event, with our hash and signature."""
        kind = self.chance.random()
        if kind < 0.5:
            name = self.chance.choice(_EVENT_FIELDS)
            event[name] = self._odd_value(event.get(name))
        elif kind < 0.6:
            event.pop(self.chance.choice(_EVENT_FIELDS), None)
        elif kind < 0.7:
            self._change_references(event)
        else:
            self._change_something(event.setdefault("content", {}) or event)
        return self.sign(event)

    def sign(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with our hash and signature, as far as it can be signed."""
        if self.chance.random() < 0.05:
            return event
        signatures = event.get("signatures")
        others = (
            {k: v for k, v in signatures.items() if k != self.server_name}
            if isinstance(signatures, dict)
            else {}
        )
        try:
            signed, _ = sign_event(
                self.rules, {**event, "signatures": others}, self.server_name, self.key
            )
        except (MatrixError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return event  # no longer anything that can be signed
        return signed

    def _change_references(self, event: dict[str, Any]) -> None:
        name = self.chance.choice(("prev_events", "auth_events"))
        old = event.get(name)
        known: list[Any] = old if isinstance(old, list) else []
        foreign = [i for i in self.foreign if i.startswith("$")] or ["$nothing"]
        event[name] = self.chance.choice(
            (
                [],
                known * 2,
                known[::-1],
                known[:1],
                [*known, self.chance.choice(foreign)],
                [f"${number:043d}" for number in range(25)],
                [self.chance.choice(foreign)],
            )
        )

    def _change_something(self, content: Any) -> None:
        places = list(_places(content))
        if not places:
            return
        place = self.chance.choice(places)
        kind = self.chance.random()
        if kind < 0.6:
            place.put(self._odd_value(place.value))
        elif kind < 0.8 and isinstance(place.holder, dict):
            del place.holder[place.key]
        elif isinstance(place.holder, list):
            place.holder.extend([copy.deepcopy(place.value)] * self.chance.choice((1, 60)))
        else:
            place.put([place.value])

    def _odd_value(self, old: Any) -> Any:
        kind = self.chance.random()
        if kind < 0.25 and self.foreign:
            return self.chance.choice(self.foreign)
        if kind < 0.30:
            deep: Any = "deep"
            for _ in range(self.chance.choice((50, 400))):
                deep = {"a": deep} if self.chance.random() < 0.5 else [deep]
            return deep
        if kind < 0.35 and isinstance(old, str):
            return old + self.chance.choice(("\u0000", "é", ":1", "A"))
        if kind < 0.40 and isinstance(old, int):
            return old + self.chance.choice((-1, 1, 10**6))
        return copy.deepcopy(self.chance.choice(_ODD_VALUES))

    def _twisted_uri(self, uri: str) -> str:
        path, _, query = uri.partition("?")
        odd = self.chance.choice(("%00", "%ff", "x" * 5000, "%2F", "!a:b", "$x", "1e9", "-1"))
        if query and self.chance.random() < 0.5:
            name = self.chance.choice(query.split("&")).partition("=")[0]
            return f"{path}?{query}&{name}={odd}"
        parts = path.split("/")
        parts[self.chance.randrange(4, len(parts))] = odd
        return "/".join(parts) + (f"?{query}" if query else "")


@dataclass
class Recorder:
    """Remembers what one server asks."""

    server_name: ServerName
    requests: list[Request] = field(default_factory=list)

    def request(self, request: Request) -> Request:
        """Remember a request."""
        if request.origin == self.server_name:
            self.requests.append(request)
        return request

    def reply(self, request: Request, reply: Reply) -> Reply:
        """Let an answer pass."""
        return reply


@dataclass
class SignatureWatch:
    """Looks at everything a server says for events it should not have signed.

    A server signs its own users' events, invites of its users, and joins that one of its users
    authorises: nothing else.

    Attributes:
        wrong: events with the server's signature that are none of these.
    """

    server_name: ServerName
    key: SigningKey
    rules: RoomVersionRules
    wrong: list[Any] = field(default_factory=list)

    def request(self, request: Request) -> Request:
        """Look at a request of the server's."""
        if request.origin == self.server_name:
            self._look(_parse(request.body))
        return request

    def reply(self, request: Request, reply: Reply) -> Reply:
        """Look at an answer of the server's."""
        if request.destination == self.server_name:
            self._look(_parse(reply.body))
        return reply

    def _look(self, content: Any) -> None:
        self.wrong.extend(
            place.value
            for place in _places(content)
            if _is_event(place.value)
            and not self._may_sign(place.value)
            and self._did_sign(place.value)
        )

    def _did_sign(self, event: Mapping[str, Any]) -> bool:
        """Whether the signature in the server's name is its own: anyone may claim one."""
        for key_id, signature in signatures_of(event, self.server_name).items():
            try:
                message = signed_event_json(self.rules, event)
                verify_signature(message, signature, key_id, self.key.verify_key)
                return True
            except MatrixError:
                continue
        return False

    def _may_sign(self, event: Mapping[str, Any]) -> bool:
        content = event["content"]
        if self._is_ours(event["sender"]) or self._is_ours(event.get("event_id")):
            return True
        if event["type"] != "m.room.member" or not isinstance(content, dict):
            return False
        return (
            content.get("membership") == "invite" and self._is_ours(event.get("state_key"))
        ) or (
            content.get("membership") == "join"
            and self._is_ours(content.get("join_authorised_via_users_server"))
        )

    def _is_ours(self, identifier: Any) -> bool:
        return (
            isinstance(identifier, str)
            and ":" in identifier
            and server_name_of(identifier) == self.server_name
        )


@dataclass(frozen=True)
class _Place:
    """A value inside a JSON value."""

    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        self.holder[self.key] = value


def _places(content: Any) -> Iterator[_Place]:
    """Every value inside a JSON value."""
    stack = [content]
    while stack:
        holder = stack.pop()
        keys: Any = ()
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = range(len(holder))
        for key in keys:
            yield _Place(holder, key)
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and {"type", "sender", "content"} <= value.keys()


def _parse(body: bytes) -> Any:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict | list) else None
