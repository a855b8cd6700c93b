"""Invites by e-mail address: what servers and identity servers ask.

Spec: https://spec.matrix.org/v1.19/server-server-api/#third-party-invites
"""

from __future__ import annotations

from typing import Final

import falcon

from architex.api.federation.authentication import require_server, signed_content
from architex.api.requests import json_body
from architex.usecases.third_party_invites import ThirdPartyInvites

MAX_BODY_BYTES: Final = 256 * 1024


class ExchangeResource:
    """PUT /exchange_third_party_invite/{room_id}"""

    def __init__(self, invites: ThirdPartyInvites) -> None:
        self._invites = invites

    def on_put(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Invite a user of the server that asks; answered when they are invited.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
        """
        origin = require_server(req, max_bytes=MAX_BODY_BYTES)
        self._invites.exchange(origin, room_id, signed_content(req))
        resp.media = {}


class OnBindResource:
    """PUT /3pid/onbind; POST too, as the identity servers that there are ask."""

    def __init__(self, invites: ThirdPartyInvites) -> None:
        self._invites = invites

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A notice of an identity server; it signs only what is in it.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind
        """
        body = json_body(req, max_bytes=MAX_BODY_BYTES)
        self._invites.bind(body.get("mxid"), body.get("invites"))
        resp.media = {}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The same."""
        self.on_put(req, resp)
