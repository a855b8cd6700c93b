"""The account of whoever asks: who they are, password, deactivation.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.authentication import client_address, find_user
from architex.api.fields import TrueOrFalse
from architex.api.interactive_auth import interactive
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.usecases.accounts import Accounts


class _PasswordSchema(BodySchema):
    new_password = fields.String()
    logout_devices = TrueOrFalse()


class _DeactivateSchema(BodySchema):
    erase = TrueOrFalse()
    id_server = fields.String()


_PASSWORD = _PasswordSchema()
_DEACTIVATE = _DeactivateSchema()


class WhoamiResource:
    """GET /account/whoami."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Whose access token this is.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami
        """
        requester = require_user(req, guests=True)
        told: dict[str, Any] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            told["device_id"] = requester.device_id
        resp.media = told


class PasswordResource:
    """POST /account/password."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Change the password.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword
        """
        requester = find_user(req)
        body = json_body(req)
        with interactive():
            self._accounts.change_password(
                requester,
                load(_PASSWORD, body),
                body.get("auth"),
                address=client_address(req),
            )
        resp.media = {}


class DeactivateResource:
    """POST /account/deactivate."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Deactivate the account for good.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
        """
        requester = find_user(req)
        body = json_body(req)
        with interactive():
            is_unbound = self._accounts.deactivate(
                requester,
                load(_DEACTIVATE, body),
                body.get("auth"),
                address=client_address(req),
            )
        resp.media = unbind_result(is_unbound)


def unbind_result(is_unbound: bool) -> dict[str, str]:
    """What clients are told about identity servers that shall forget an address."""
    return {"id_server_unbind_result": "success" if is_unbound else "no-support"}
