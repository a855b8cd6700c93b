"""Other servers as a table: what each answers to which request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from architex.domain.canonical_json import Json
from architex.domain.identifiers import ServerName
from architex.gateways.errors import RemoteRefused, RemoteUnreachable
from architex.gateways.federation_client import Query
from architex.gateways.http import AnswerStream

Reply = Json | Exception | Callable[[Any], Json]


@dataclass
class FakeFederation:
    """See architex.gateways.federation_client.FederationClient.

    Attributes:
        replies: (destination, path) → an answer, an exception, or what makes one of the content;
            any other path of a server that has replies is refused with 404, other servers are
            unreachable.
        asked: every request: method, destination, path, query, content.
        alive: of whom we were told that they live.
    """

    replies: dict[tuple[ServerName, str], Reply] = field(default_factory=dict)
    asked: list[tuple[str, ServerName, str, Query | None, Any]] = field(default_factory=list)
    alive: list[ServerName] = field(default_factory=list)

    def get(
        self, destination: ServerName, path: str, query: Query | None = None, **_: Any
    ) -> Json:
        """See FederationClient."""
        return self._answer("GET", destination, path, query, None)

    def put(
        self,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any],
        query: Query | None = None,
        **_: Any,
    ) -> Json:
        """See FederationClient."""
        return self._answer("PUT", destination, path, query, content)

    def post(
        self,
        destination: ServerName,
        path: str,
        content: Mapping[str, Any],
        query: Query | None = None,
        **_: Any,
    ) -> Json:
        """See FederationClient."""
        return self._answer("POST", destination, path, query, content)

    @contextmanager
    def stream(
        self, method: str, destination: ServerName, path: str, *_: Any, **__: Any
    ) -> Iterator[AnswerStream]:
        """See FederationClient: streams nothing."""
        raise RemoteUnreachable(destination, "This fake does not stream.")
        yield  # a generator, as the decorator wants

    def note_alive(self, server_name: ServerName) -> None:
        """See FederationClient."""
        self.alive.append(server_name)

    def _answer(
        self, method: str, destination: ServerName, path: str, query: Query | None, content: Any
    ) -> Json:
        self.asked.append((method, destination, path, query, content))
        reply = self.replies.get((destination, path))
        if reply is None:
            if any(server == destination for server, _ in self.replies):
                raise RemoteRefused(destination, 404, {"errcode": "M_UNRECOGNIZED"})
            raise RemoteUnreachable(destination, "There is no such server.")
        if isinstance(reply, Exception):
            raise reply
        return reply(content) if callable(reply) else reply
