"""Signing keys: our own, and those of others as a notary.

Spec: https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys
"""

from __future__ import annotations

from typing import Any, Final

import falcon

from architex.api.requests import int_param, json_body
from architex.domain.errors import BadJson
from architex.domain.identifiers import parse_server_name
from architex.gateways.clock import Clock
from architex.usecases.server_keys import KeyRing

_MAX_TS: Final = 2**53 - 1


class ServerKeysResource:
    """GET /server"""

    def __init__(self, key_ring: KeyRing) -> None:
        self._key_ring = key_ring

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_: str) -> None:
        """Our keys; for anybody. A key ID in the path (of old servers) makes no difference.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server
        """
        resp.media = self._key_ring.own_keys()


class KeyQueryResource:
    """POST /query, GET /query/{server_name}"""

    def __init__(self, key_ring: KeyRing, clock: Clock) -> None:
        self._key_ring = key_ring
        self._clock = clock

    def on_get_one(
        self, req: falcon.Request, resp: falcon.Response, server_name: str, key_id: str = ""
    ) -> None:
        """The keys of one server; for anybody.

        Raises:
            InvalidParam: that is no server name.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2queryservername
        """
        parse_server_name(server_name)
        valid_until_ts = int_param(
            req, "minimum_valid_until_ts", self._clock.now_ms(), at_most=_MAX_TS
        )
        key_ids = {key_id: valid_until_ts} if key_id else {}
        resp.media = {"server_keys": self._key_ring.notarise({server_name: key_ids})}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The keys of several servers; for anybody.

        Raises:
            BadJson: the query is not of its form, or about too many servers.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixkeyv2query
        """
        query = json_body(req).get("server_keys")
        if not isinstance(query, dict):
            raise BadJson("server_keys must be an object.")
        wanted = {
            server_name: {key_id: self._until(criteria) for key_id, criteria in keys.items()}
            for server_name, keys in query.items()
            if isinstance(keys, dict)
        }
        resp.media = {"server_keys": self._key_ring.notarise(wanted)}

    def _until(self, criteria: Any) -> int:
        until = criteria.get("minimum_valid_until_ts") if isinstance(criteria, dict) else None
        is_number = isinstance(until, int) and not isinstance(until, bool)
        return until if is_number and until is not None else self._clock.now_ms()
