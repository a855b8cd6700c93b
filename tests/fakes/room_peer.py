"""Other servers that tell everything of one room, or less, or lies."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from architex.domain.canonical_json import Json
from architex.domain.identifiers import EventId, ServerName
from architex.domain.pdu import Pdu
from architex.domain.signing import sign_json
from architex.gateways.errors import RemoteRefused, RemoteUnreachable
from architex.gateways.federation_client import Query
from architex.gateways.http import AnswerStream
from tests.builders import TEST_KEY, RoomBuilder
from tests.fakes.federation_client import FakeFederation

Answer = Callable[[Json], Json | Exception]


@dataclass
class RoomPeer(FakeFederation):
    """Answers for every server of a room, from what a builder has.

    Attributes:
        room: what they know.
        hidden: events that they do not tell.
        twisted: the endpoint (get_missing_events, state_ids …) → what is made of its answer.
        mute: servers that tell nobody their keys.
        max_missing: how many events an answer to get_missing_events has at most.
    """

    room: RoomBuilder = field(default_factory=RoomBuilder)
    hidden: set[EventId] = field(default_factory=set)
    twisted: dict[str, Answer] = field(default_factory=dict)
    mute: set[ServerName] = field(default_factory=set)
    max_missing: int = 20

    def count(self, endpoint: str) -> int:
        """How often an endpoint was asked."""
        return sum(1 for _, _, path, _, _ in self.asked if path.split("/")[4] == endpoint)

    @contextmanager
    def stream(
        self,
        method: str,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any] | None = None,
        query: Query | None = None,
        **_: Any,
    ) -> Iterator[AnswerStream]:
        """See FederationClient."""
        body = json.dumps(self._answer(method, destination, path, query, content)).encode()
        yield cast(AnswerStream, io.BytesIO(body))

    def _answer(
        self, method: str, destination: ServerName, path: str, query: Query | None, content: Any
    ) -> Json:
        self.asked.append((method, destination, path, query, content))
        if path == "/_matrix/key/v2/server":
            if destination in self.mute:
                raise RemoteUnreachable(destination, "It does not answer.")
            return tell_keys(destination)
        _, _, _, _, endpoint, *arguments = path.split("/")
        event_ids = dict(query or {})
        match endpoint:
            case "get_missing_events":
                known = set(content["earliest_events"])
                found = self._back(content["latest_events"], known, self.max_missing)
                answer: Json = {"events": [pdu.event for pdu in reversed(found)]}
            case "backfill":
                found = self._back(event_ids["v"], set(), int(str(event_ids["limit"])), True)
                answer = {"pdus": [pdu.event for pdu in found]}
            case "state_ids":
                state = self._state_before(str(event_ids["event_id"]))
                chain = self.room.auth_chain(state)
                answer = {"pdu_ids": sorted(state), "auth_chain_ids": sorted(chain)}
            case "state":
                state = self._state_before(str(event_ids["event_id"]))
                chain = self.room.auth_chain(state)
                answer = {"pdus": self._events(state), "auth_chain": self._events(chain)}
            case "event_auth":
                answer = {
                    "auth_chain": self._events(self.room.auth_chain([unquote(arguments[1])]))
                }
            case "event":
                events = self._events([unquote(arguments[0])])
                if not events:
                    raise RemoteRefused(destination, 404, {"errcode": "M_NOT_FOUND"})
                answer = {"pdus": events}
            case _:
                raise RemoteRefused(destination, 404, {"errcode": "M_UNRECOGNIZED"})
        twist = self.twisted.get(endpoint)
        told = answer if twist is None else twist(answer)
        if isinstance(told, Exception):
            raise told
        return told

    def _events(self, event_ids: Iterable[EventId]) -> list[Any]:
        return [
            self.room.pdus[event_id].event
            for event_id in event_ids
            if event_id in self.room.pdus and event_id not in self.hidden
        ]

    def _state_before(self, event_id: EventId) -> set[EventId]:
        parents = self.room.pdus[event_id].prev_events
        state = self.room.state_after[parents[0]] if parents else {}
        return set(state.values())

    def _back(
        self, latest: Iterable[EventId], known: set[EventId], limit: int, with_them: bool = False
    ) -> list[Pdu]:
        """Events before others, the newest first."""
        found: dict[EventId, Pdu] = {}
        waiting = list(latest)
        seen = set(waiting)
        while waiting and len(found) < limit:
            event_id = waiting.pop(0)
            pdu = self.room.pdus.get(event_id)
            if pdu is None:
                continue
            if with_them or event_id not in latest:
                if event_id in self.hidden:
                    continue
                found[event_id] = pdu
            new = [prev for prev in pdu.prev_events if prev not in known and prev not in seen]
            waiting += new
            seen.update(new)
        return list(found.values())


def tell_keys(server_name: ServerName) -> Json:
    """The key that all servers of a builder's rooms sign with, as one of them tells it."""
    told = {
        "server_name": server_name,
        "verify_keys": {TEST_KEY.key_id: {"key": TEST_KEY.verify_key_base64}},
        "old_verify_keys": {},
        "valid_until_ts": 4_000_000_000_000,
    }
    return sign_json(told, server_name, TEST_KEY)
