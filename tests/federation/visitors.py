"""A server of another person that asks ours, and signs what it sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import falcon.testing
import orjson

from architex.bootstrap import build_core
from architex.bootstrap.web import build_app
from architex.domain.errors import MatrixError
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId
from architex.domain.pdu import compute_event_id
from architex.domain.room_versions import ROOM_VERSIONS, get_room_version
from architex.domain.signing import SigningKey, sign_event
from tests.api.client import SERVER_NAME, Answer, Server, settings_for
from tests.fakes.federation_client import FakeFederation
from tests.federation.peers import Peer
from tests.house.conformity import check_answer

HOUR_MS = 3_600_000
KEYS = "/_matrix/key/v2/server"
ALL_VERSIONS = list(ROOM_VERSIONS)

Json = dict[str, Any]


class World:
    """Our server, and others that it can get the keys of."""

    def __init__(self, conninfo: str, directory: Path, **changes: Any) -> None:
        settings = settings_for(directory, **changes)
        self.federation = FakeFederation()
        core = build_core(settings, conninfo=conninfo)
        self.server = Server(build_app(settings, core, self.federation), core)

    def meet(self, server_name: ServerName, key: SigningKey | None = None) -> Visitor:
        """A server that is new to ours, and reachable.

        Args:
            key: by default one of its own.
        """
        peer = Peer(server_name) if key is None else Peer(server_name, key)
        told = peer.tell_keys(self.server.core.clock.now_ms() + HOUR_MS)
        self.federation.replies[server_name, KEYS] = told
        return Visitor(self.server, peer)


@dataclass
class Visitor:
    """Another server; its users join rooms of ours."""

    server: Server
    peer: Peer

    @property
    def name(self) -> ServerName:
        """Its name."""
        return self.peer.server_name

    def user(self, localpart: str) -> UserId:
        """A user of this server."""
        return f"@{localpart}:{self.name}"

    def request(
        self, method: str, segments: Sequence[str], content: Any = None, **query: Any
    ) -> Answer:
        """A signed request below /_matrix/federation."""
        path = "/_matrix/federation/" + "/".join(quote(segment, safe="") for segment in segments)
        question = urlencode(query, doseq=True)
        uri = f"{path}?{question}" if question else path
        result = falcon.testing.simulate_request(
            self.server.app,
            method,
            path,
            query_string=question,
            body=None if content is None else orjson.dumps(content),
            headers={"Authorization": self.peer.authorize(method, uri, SERVER_NAME, content)},
            extras={"RAW_URI": uri},
        )
        check_answer(method, path, result.status_code, result.json)
        return Answer(result.status_code, result.json, result.headers)

    def make(
        self,
        what: str,
        room_id: RoomId,
        user_id: UserId,
        versions: Sequence[str] | None = ALL_VERSIONS,
    ) -> Answer:
        """make_join, make_knock or make_leave."""
        query = {} if versions is None else {"ver": list(versions)}
        return self.request("GET", ["v1", f"make_{what}", room_id, user_id], **query)

    def sign(self, version: str, event: Mapping[str, Any]) -> tuple[Json, EventId]:
        """The event with this server's hash and signature, and its ID.

        What was signed before is signed anew: whoever mutates an event has that done with it.
        """
        rules = get_room_version(version)
        bare = {key: value for key, value in event.items() if key not in ("signatures", "hashes")}
        if rules.event_id_format == "domain":
            bare.setdefault("event_id", f"${next(self.server.numbers)}:{self.name}")
        return sign_event(rules, bare, self.name, self.peer.key)

    def sign_anyhow(self, version: str, event: Mapping[str, Any]) -> tuple[Json, EventId]:
        """The event as `sign` gives it, or something like it where it cannot be signed."""
        try:
            return self.sign(version, event)
        except (MatrixError, AttributeError, KeyError, TypeError, ValueError):
            signatures = {self.name: {self.peer.key.key_id: "A" * 86}}
            broken = {**event, "hashes": {"sha256": "A" * 43}, "signatures": signatures}
            return broken, "$" + "A" * 43

    def send(
        self,
        what: str,
        room_id: RoomId,
        event: Mapping[str, Any],
        event_id: EventId,
        *,
        version: str = "v2",
        **query: Any,
    ) -> Answer:
        """send_join, send_knock or send_leave."""
        version = "v1" if what == "knock" else version
        return self.request("PUT", [version, f"send_{what}", room_id, event_id], event, **query)

    def template(self, what: str, room_id: RoomId, user_id: UserId) -> tuple[str, Json]:
        """The room's version, and the event that ours proposes."""
        made = self.make(what, room_id, user_id).ok()
        return made["room_version"], made["event"]

    def complete(
        self, what: str, room_id: RoomId, user_id: UserId, **changes: Any
    ) -> tuple[Json, EventId]:
        """The signed event of a template; `changes` replace fields of it."""
        version, event = self.template(what, room_id, user_id)
        return self.sign(version, {**event, "origin": self.name, **changes})

    def invite(self, version: str, event: Json, told: Any = None, **changes: Any) -> Answer:
        """PUT /v2/invite with an event; `changes` replace what the request says."""
        request = {
            "room_id": event.get("room_id"),
            "room_version": version,
            "told": [] if told is None else told,
            **changes,
        }
        if "event_id" not in request:
            request["event_id"] = event_id_of(version, event)
        content = {
            "event": event,
            "room_version": request["room_version"],
            "invite_room_state": request["told"],
        }
        segments = ["v2", "invite", str(request["room_id"]), request["event_id"]]
        return self.request("PUT", segments, content)

    def join(self, room_id: RoomId, user_id: UserId, **query: Any) -> Json:
        """Join a room; the answer to send_join."""
        event, event_id = self.complete("join", room_id, user_id)
        answer: Json = self.send("join", room_id, event, event_id, **query).ok()
        return answer


def event_id_of(version: str, event: Mapping[str, Any]) -> EventId:
    """The ID of an event."""
    return compute_event_id(get_room_version(version), event)
