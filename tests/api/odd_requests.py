"""Odd requests: for each operation of the specification, mostly right and here and there wrong.

`tests/house/spec_requests.json` is a digest of the specification's OpenAPI: for each operation
the parameters of its query and the shape of its body. A shape is the name of a type, a list of
the values of an enumeration, {"[]": shape} for an array, {"*": shape} for an object with any
keys, and else an object by its keys.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - seeded, so that a failure can be repeated
from typing import Any, Final

SPEC_REQUESTS: Final = Path(__file__).parent.parent / "house" / "spec_requests.json"

_VARIABLE: Final = re.compile(r"{([^}]+)}")

ODD_TEXTS: Final = (
    "", " ", "\0", "a\0b", "a\nb", "\x7f", "\u202e\u2066", "é\u0301", "\ufeff",
    "\uffff", "😀" * 70,
    "x" * 300, "x" * 5000, "%00", "%2F", "../..", ".", "..", "*", "?", "[", "**a*b**", "'", '"',
    "\\", ";", "--", "{}", "null", "true", "0", "-1", "9" * 30, "1e9", "0x10", "NaN", "$",
    "!", "@", "#", "@:", "!:", "#:x", "$a", "$" + "a" * 300, "!a:b:c:d", "@a:[::1]:0",
    "@a:x:99999",
    "@A:test.example", "@é:test.example", "#é:test.example", "@" + "a" * 250 + ":test.example",
    "mxc://", "mxc://a", "mxc://a/b/c", "mxc://test.example/../x", "m.room.member",
    "m.room.create", "m.read", "s0", "s" + "9" * 25, "t-5", "9223372036854775807",
    "-9223372036854775808", "9007199254740993",
)  # fmt: skip

ODD_NUMBERS: Final = (
    0, 1, -1, 2, 100, 1001, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 - 1, -(2**53) + 1, 2**53,
    2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e300,
)  # fmt: skip

_DEEP: Final = json.loads('{"a":' * 60 + "[]" + "}" * 60)
_WIDE: Final = {f"key{number}": number for number in range(2000)}
ODD_VALUES: Final[Sequence[Any]] = (
    *ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], [None], [{}], {"": ""}, {"\0": 1},
    {"a": None}, _DEEP, _WIDE, ["x"] * 1000, [{"a": [1, {"b": []}]}], [["a", "b"], ["c"]],
)  # fmt: skip

CONTENTS: Final[Mapping[str, Any]] = {
    "m.room.power_levels": {
        "ban": "integer", "kick": "integer", "redact": "integer", "invite": "integer",
        "events_default": "integer", "state_default": "integer", "users_default": "integer",
        "users": {"*": "integer"}, "events": {"*": "integer"},
        "notifications": {"room": "integer"},
    },
    "m.room.join_rules": {
        "join_rule": ["public", "invite", "knock", "restricted", "knock_restricted", "private"],
        "allow": {"[]": {"type": ["m.room_membership"], "room_id": "string"}},
    },
    "m.room.member": {
        "membership": ["join", "leave", "invite", "ban", "knock"], "displayname": "string",
        "avatar_url": "string", "reason": "string", "is_direct": "boolean",
        "third_party_invite": {"display_name": "string", "signed": {
            "mxid": "string", "token": "string", "signatures": {"*": {"*": "string"}}}},
        "join_authorised_via_users_server": "string",
    },
    "m.room.history_visibility": {
        "history_visibility": ["world_readable", "shared", "invited", "joined"]
    },
    "m.room.canonical_alias": {"alias": "string", "alt_aliases": {"[]": "string"}},
    "m.room.server_acl": {
        "allow": {"[]": "string"}, "deny": {"[]": "string"}, "allow_ip_literals": "boolean",
    },
    "m.room.name": {"name": "string"},
    "m.room.topic": {
        "topic": "string",
        "m.topic": {"m.text": {"[]": {"body": "string", "mimetype": "string"}}},
    },
    "m.room.avatar": {"url": "string", "info": {"w": "integer", "h": "integer"}},
    "m.room.guest_access": {"guest_access": ["can_join", "forbidden"]},
    "m.room.encryption": {"algorithm": "string", "rotation_period_ms": "integer"},
    "m.room.pinned_events": {"pinned": {"[]": "string"}},
    "m.room.tombstone": {"body": "string", "replacement_room": "string"},
    "m.room.create": {"room_version": "string", "creator": "string", "type": "string"},
    "m.room.third_party_invite": {
        "display_name": "string", "key_validity_url": "string", "public_key": "string",
        "public_keys": {"[]": {"public_key": "string", "key_validity_url": "string"}},
    },
    "m.room.policy": {"via": "string", "public_keys": {"*": "string"}},
    "m.room.aliases": {"aliases": {"[]": "string"}},
    "m.space.child": {"via": {"[]": "string"}, "order": "string", "suggested": "boolean"},
    "m.space.parent": {"via": {"[]": "string"}, "canonical": "boolean"},
    "m.room.message": {
        "msgtype": ["m.text", "m.image"], "body": "string", "format": "string",
        "formatted_body": "string", "url": "string",
        "m.mentions": {"user_ids": {"[]": "string"}, "room": "boolean"},
        "m.new_content": "object",
        "m.relates_to": {
            "rel_type": ["m.replace", "m.thread", "m.annotation", "m.reference", "m.x"],
            "event_id": "string", "key": "string", "is_falling_back": "boolean",
            "m.in_reply_to": {"event_id": "string"},
        },
    },
    "m.reaction": {"m.relates_to": {
        "rel_type": ["m.annotation"], "event_id": "string", "key": "string"}},
    "m.room.redaction": {"redacts": "string", "reason": "string"},
    "m.push_rules": {"global": "object"},
    "m.ignored_user_list": {"ignored_users": {"*": "object"}},
    "m.direct": {"*": {"[]": "string"}},
    "m.fully_read": {"event_id": "string"},
    "m.invite_permission_config": {"default_action": ["allow", "block"]},
    "m.tag": {"tags": {"*": {"order": "number"}}},
}  # fmt: skip
"""Type → shape of the content: what the specification's event schemas name."""

_NAMES: Final = {
    "roomId": "room_id", "roomIdOrAlias": "room_id", "eventId": "event_id", "userId": "user_id",
    "roomAlias": "room_alias", "deviceId": "device_id", "filterId": "filter_id", "from": "token",
    "to": "token", "since": "token", "next_batch": "token", "prev_batch": "token", "end": "token",
    "start": "token", "at": "token", "filter": "filter_json", "eventType": "event_type",
    "type": "event_type", "rel_type": "relType", "content_uri": "mxc", "url": "mxc",
    "avatar_url": "mxc", "room": "room_id", "rooms": "room_id", "user": "user_id",
    "user_ids": "user_id", "invite": "user_id", "sender": "user_id", "v": "event_id",
    "senders": "user_id", "replacement_room": "room_id", "redacts": "event_id",
    "latest_events": "event_id", "earliest_events": "event_id", "pinned": "event_id",
}  # fmt: skip
"""Other names of what the pool has."""

# A long wait is what these ask for.
_WAITS: Final = frozenset({"timeout", "timeout_ms"})
_SHORT_WAITS: Final = ("0", "1", "-1", "x", "", "1.5")


@dataclass(frozen=True)
class Operation:
    """One operation of the specification.

    Attributes:
        path: with variables in braces.
        query: parameter → shape.
        body: the shape; None when it has none.
    """

    method: str
    path: str
    query: Mapping[str, Any]
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class OddRequest:
    """What is sent.

    Attributes:
        segments: of the path, not yet quoted.
    """

    method: str
    segments: Sequence[str]
    query: Mapping[str, str | list[str]]
    body: Any


def read_spec_requests(api: str) -> list[Operation]:
    """The operations of an API: client-server or server-server."""
    told = json.loads(SPEC_REQUESTS.read_text())[api]
    operations = []
    for name, holds in told.items():
        method, _, path = name.partition(" ")
        operations.append(Operation(method, path, holds.get("query", {}), holds.get("body")))
    return operations


@dataclass
class Oddities:
    """Makes requests, and learns from answers what can be named in them.

    Attributes:
        pool: name → values that mean something to the server.
        odd: how often a value is odd.
    """

    chance: Random
    pool: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    odd: float = 0.15

    def make(self, operation: Operation) -> OddRequest:
        """A request of an operation."""
        self.odd = self.chance.choice((0.02, 0.1, 0.3))
        names: dict[str, str] = {}
        segments = []
        for part in operation.path.split("/")[1:]:
            variable = _VARIABLE.fullmatch(part)
            if variable:
                part = names[variable[1]] = self._path_value(variable[1])
            segments.append(part)
        query: dict[str, str | list[str]] = {}
        for name, shape in operation.query.items():
            if self.chance.random() < 0.6:
                query[name] = self._query_value(name, shape)
        if self._happens():
            query[self.chance.choice(("user_id", "ts", "\0", "é", "access_token_"))] = "x"
        body = operation.body
        kind = names.get("eventType", names.get("type", ""))
        if body == "object" and kind in CONTENTS and not self._happens():
            body = CONTENTS[kind]
        content = None if body is None and not self._happens() else self._value(body or {}, "")
        return OddRequest(operation.method, segments, query, content)

    def content(self, type: str) -> Any:
        """The content of an event, here and there odd, but mostly an object."""
        self.odd = self.chance.choice((0.02, 0.1, 0.3))
        return self._composed(CONTENTS[type], type)

    def learn(self, answer: Any) -> None:
        """Remember what an answer names, for later requests."""
        if isinstance(answer, list):
            for inner in answer[:20]:
                self.learn(inner)
        elif isinstance(answer, dict):
            for key, value in list(answer.items())[:40]:
                if isinstance(value, str) and 0 < len(value) < 300:
                    self.add(key, value)
                else:
                    self.learn(value)

    def add(self, name: str, *values: str) -> None:
        """Values that mean something."""
        known = self.pool[_NAMES.get(name, name)]
        known += [value for value in values if value not in known]
        # What the test began with stays.
        del known[4:-20]

    # Within

    def _happens(self) -> bool:
        return self.chance.random() < self.odd

    def _text(self, name: str) -> str:
        known = self.pool.get(_NAMES.get(name, name))
        if known and not self._happens():
            return self.chance.choice(known)
        if self.chance.random() < 0.3:
            other = self.pool[self.chance.choice(sorted(self.pool))]
            if other:
                return self.chance.choice(other)
        return self.chance.choice(ODD_TEXTS)

    def _path_value(self, name: str) -> str:
        return self._text(name) or "x"

    def _query_value(self, name: str, shape: Any) -> str | list[str]:
        if name in _WAITS:
            return self.chance.choice(_SHORT_WAITS)
        if isinstance(shape, dict) and "[]" in shape:
            return [self._plain(name, shape["[]"]) for _ in range(self.chance.randrange(4))]
        if self._happens():
            return [self._plain(name, shape) for _ in range(2)]
        return self._plain(name, shape)

    def _plain(self, name: str, shape: Any) -> str:
        if shape == "integer" and not self._happens():
            return str(self.chance.choice((0, 1, 2, 10, 100, 10**6)))
        if shape == "boolean" and not self._happens():
            return self.chance.choice(("true", "false"))
        if isinstance(shape, list) and not self._happens():
            return str(self.chance.choice(shape))
        return self._text(name)

    def _value(self, shape: Any, name: str) -> Any:
        if name in _WAITS:
            return 0
        if self._happens():
            return self.chance.choice(ODD_VALUES)
        if isinstance(shape, list):
            return self.chance.choice(shape)
        if isinstance(shape, dict):
            return self._composed(shape, name)
        match shape:
            case "integer" | "number":
                return self.chance.choice((0, 1, 10, 50, 100, -1, 1700000000000))
            case "boolean":
                return self.chance.random() < 0.5
            case "object":
                kind = self.chance.choice(sorted(CONTENTS))
                return self._composed(CONTENTS[kind], name) if self.chance.random() < 0.5 else {}
            case "string":
                return self._text(name)
            case _:
                return self.chance.choice(ODD_VALUES)

    def _composed(self, shape: Mapping[str, Any], name: str) -> Any:
        if "[]" in shape:
            return [self._value(shape["[]"], name) for _ in range(self.chance.randrange(4))]
        if "*" in shape:
            return {
                self._text(self.chance.choice(("user_id", "room_id", "event_type", "device_id"))):
                    self._value(shape["*"], name)
                for _ in range(self.chance.randrange(3))
            }  # fmt: skip
        return {
            key: self._value(inner, key)
            for key, inner in shape.items()
            if self.chance.random() < 0.7
        }
