"""Tokens that prove to third parties who somebody is.

Spec: https://spec.matrix.org/v1.19/client-server-api/#openid
"""

from __future__ import annotations

import falcon

from architex.api.requests import json_body, require_own, require_user
from architex.usecases.openid import LIFETIME_SECONDS, OpenId


class RequestTokenResource:
    """POST /user/{userId}/openid/request_token"""

    def __init__(self, openid: OpenId) -> None:
        self._openid = openid

    def on_post(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """A new token.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridopenidrequest_token
        """
        requester = require_user(req)
        require_own(requester, user_id, "the OpenID tokens")
        json_body(req, optional=True)
        resp.media = {
            "access_token": self._openid.create_token(requester),
            "token_type": "Bearer",
            "matrix_server_name": self._openid.server_name,
            "expires_in": LIFETIME_SECONDS,
        }
