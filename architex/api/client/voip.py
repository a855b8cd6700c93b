"""Credentials for TURN servers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#voice-over-ip
"""

from __future__ import annotations

import falcon

from architex.api.requests import require_user
from architex.usecases.turn_servers import TurnServers


class TurnServerResource:
    """GET /voip/turnServer."""

    def __init__(self, turn_servers: TurnServers) -> None:
        self._turn_servers = turn_servers

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """How the requester's calls are relayed; an empty object when they are not.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver
        """
        credentials = self._turn_servers.make_credentials(require_user(req, guests=True))
        if credentials is None:
            resp.media = {}
            return
        resp.media = {
            "username": credentials.username,
            "password": credentials.password,
            "uris": list(credentials.uris),
            "ttl": credentials.lifetime_s,
        }
