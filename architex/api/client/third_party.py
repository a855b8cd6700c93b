"""Third-party networks: what bridges would know. There are none yet, and so nothing to know.

Spec: https://spec.matrix.org/v1.19/client-server-api/#third-party-networks
"""

from __future__ import annotations

import falcon

from architex.api.requests import require_user
from architex.domain.errors import NotFound


class ProtocolsResource:
    """GET /thirdparty/protocols."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The networks that bridges of this server reach.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocols
        """
        require_user(req)
        resp.media = {}


class ProtocolResource:
    """GET /thirdparty/protocol/{protocol}, and what is below a protocol."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, protocol: str) -> None:
        """Refuse: no bridge speaks it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol
        """
        require_user(req)
        raise NotFound("No bridge of this server speaks this protocol.")


class LookupResource:
    """GET /thirdparty/location and /thirdparty/user."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The places or users of other networks behind an alias or a user ID: none.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartylocation
        """
        require_user(req)
        resp.media = []
