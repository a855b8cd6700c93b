"""Who an OpenID token stands for.

Spec: https://spec.matrix.org/v1.19/server-server-api/#openid
"""

from __future__ import annotations

import falcon

from architex.api.requests import string_param
from architex.domain.errors import MissingToken
from architex.usecases.openid import OpenId


class UserInfoResource:
    """GET /openid/userinfo"""

    def __init__(self, openid: OpenId) -> None:
        self._openid = openid

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The user of an OpenID token; anybody who has the token may ask.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1openiduserinfo
        """
        token = string_param(req, "access_token")
        if not token:
            raise MissingToken("access_token is missing.")
        resp.media = {"sub": self._openid.find_user(token)}
