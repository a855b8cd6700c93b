"""Talks to a running server over several connections, so that each worker gets its share."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from tests.house.conformity import check_answer

CONNECTIONS: Final = 6
_RENEWED_AFTER: Final = 200
_CLIENT: Final = "/_matrix/client/v3"


class Wire:
    """Connections to one server. Whatever it answers has to look as the specification says."""

    def __init__(self, url: str) -> None:
        self.requests = 0
        self._address = urlsplit(url).netloc
        self._connections = [self._connect() for _ in range(CONNECTIONS)]
        self._turns = itertools.cycle(range(CONNECTIONS))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> tuple[int, Any]:
        """One request; gives the status and the body. `path` is below /_matrix/client/v3."""
        path = _CLIENT + path
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = None
        if method != "GET":
            data = json.dumps({} if body is None else body)
            headers["Content-Type"] = "application/json"
        turn = next(self._turns)
        self.requests += 1
        if self.requests % _RENEWED_AFTER == 0:
            # A new connection may come to another worker.
            self._connections[turn].close()
            self._connections[turn] = self._connect()
        connection = self._connections[turn]
        target = f"{path}?{urlencode(query)}" if query else path
        connection.request(method, target, data, headers)
        with connection.getresponse() as answer:
            told = json.loads(answer.read())
        check_answer(method, path, answer.status, told)
        return answer.status, told

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=60)


def at(*segments: str) -> str:
    """A path of segments."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)
