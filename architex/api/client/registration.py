"""Registering an account.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-registration
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.authentication import client_address
from architex.api.client.login import account_fields, session_fields
from architex.api.fields import TrueOrFalse
from architex.api.interactive_auth import interactive
from architex.api.requests import BodySchema, json_body, load, string_param
from architex.domain.errors import InvalidParam, MissingParam
from architex.usecases.registration import Registered, Registration


class _RegisterSchema(BodySchema):
    username = fields.String(allow_none=True)
    password = fields.String(allow_none=True)
    device_id = fields.String(allow_none=True)
    initial_device_display_name = fields.String(allow_none=True)
    inhibit_login = TrueOrFalse()
    refresh_token = TrueOrFalse()
    guest_access_token = fields.String(allow_none=True)


_REGISTER = _RegisterSchema()


class RegisterResource:
    """POST /register."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Make an account, or a guest account.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register
        """
        kind = string_param(req, "kind", "user")
        if kind == "guest":
            body = json_body(req, optional=True)
            name = body.get("initial_device_display_name")
            registered = self._registration.register_guest(
                name if isinstance(name, str) else None, address=client_address(req)
            )
        elif kind == "user":
            registered = self._register(req)
        else:
            raise InvalidParam("The kind of an account is user or guest.")
        resp.media = registered_fields(registered)

    def _register(self, req: falcon.Request) -> Registered:
        body = json_body(req)
        given = {name: value for name, value in load(_REGISTER, body).items() if value is not None}
        with interactive():
            return self._registration.register(
                given, body.get("auth"), address=client_address(req)
            )


class RegisterAvailableResource:
    """GET /register/available."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Whether a user name can be registered.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3registeravailable
        """
        username = string_param(req, "username")
        if username is None:
            raise MissingParam("Missing: username.")
        self._registration.check_available(username, address=client_address(req))
        resp.media = {"available": True}


class RegistrationTokenValidityResource:
    """GET /register/m.login.registration_token/validity."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Whether a registration token is valid now.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity
        """
        token = string_param(req, "token")
        if token is None:
            raise MissingParam("Missing: token.")
        valid = self._registration.check_registration_token(token, address=client_address(req))
        resp.media = {"valid": valid}


def registered_fields(registered: Registered) -> dict[str, Any]:
    """What a client is told about its new account."""
    if registered.session is None:
        return account_fields(registered.user_id)
    return session_fields(registered.session)
