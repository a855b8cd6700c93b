"""Logging in and out.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-login
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.authentication import client_address, require_even_locked_user
from architex.api.fields import TrueOrFalse
from architex.api.interactive_auth import interactive
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.domain.errors import MissingParam, UnknownLoginType
from architex.domain.identifiers import UserId, server_name_of
from architex.usecases.login import Login
from architex.usecases.login_tokens import LIFETIME_MS, LoginTokens
from architex.usecases.password_check import user_in_identifier
from architex.usecases.sessions import DeviceWish, NewSession, Sessions


class _LoginSchema(BodySchema):
    type = fields.String(required=True)
    password = fields.String(allow_none=True)
    token = fields.String(allow_none=True)
    device_id = fields.String(allow_none=True)
    initial_device_display_name = fields.String(allow_none=True)
    refresh_token = TrueOrFalse()


class _RefreshSchema(BodySchema):
    refresh_token = fields.String(required=True)


_LOGIN = _LoginSchema()
_REFRESH = _RefreshSchema()


class LoginResource:
    """GET and POST /login."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The ways to log in.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3login
        """
        resp.media = {
            "flows": [
                {"type": "m.login.password"},
                {"type": "m.login.token", "get_login_token": True},
            ]
        }

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Log in.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login
        """
        body = json_body(req)
        given = load(_LOGIN, body)
        wish = DeviceWish(
            device_id=given.get("device_id"),
            display_name=given.get("initial_device_display_name"),
            refreshable=given.get("refresh_token", False),
            address=client_address(req),
        )
        if given["type"] == "m.login.password":
            session = self._login.log_in_with_password(
                user_in_identifier(body), _needed(given, "password"), wish
            )
        elif given["type"] == "m.login.token":
            session = self._login.log_in_with_token(_needed(given, "token"), wish)
        else:
            raise UnknownLoginType("Bad login type.")
        resp.media = session_fields(session)


class LoginTokenResource:
    """POST /login/get_token."""

    def __init__(self, login_tokens: LoginTokens) -> None:
        self._login_tokens = login_tokens

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A token that logs another client in.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token
        """
        requester = require_user(req)
        with interactive():
            token = self._login_tokens.create_token(requester, json_body(req).get("auth"))
        resp.media = {"login_token": token, "expires_in_ms": LIFETIME_MS}


class RefreshResource:
    """POST /refresh."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """New tokens for a refresh token.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh
        """
        given = load(_REFRESH, json_body(req))
        resp.media = _token_fields(self._sessions.refresh(given["refresh_token"]))


class LogoutResource:
    """POST /logout."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """End the request's access token and its device.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout
        """
        self._sessions.log_out(require_even_locked_user(req))
        resp.media = {}


class LogoutAllResource:
    """POST /logout/all."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """End all access tokens of the user, and all devices.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logoutall
        """
        requester = require_even_locked_user(req)
        self._sessions.log_out_everywhere(requester.user_id)
        resp.media = {}


def _needed(given: dict[str, Any], name: str) -> str:
    value: str | None = given.get(name)
    if value is None:
        raise MissingParam(f"Missing: {name}.")
    return value


def account_fields(user_id: UserId) -> dict[str, Any]:
    """What a client is told about its account."""
    # home_server is deprecated; clients there are that want it.
    return {"user_id": user_id, "home_server": server_name_of(user_id)}


def session_fields(session: NewSession) -> dict[str, Any]:
    """What a client is told about its new session."""
    return {
        **account_fields(session.user_id),
        "device_id": session.device_id,
        **_token_fields(session),
    }


def _token_fields(session: NewSession) -> dict[str, Any]:
    told: dict[str, Any] = {"access_token": session.access_token}
    if session.refresh_token is not None:
        told["refresh_token"] = session.refresh_token
    if session.expires_in_ms is not None:
        told["expires_in_ms"] = session.expires_in_ms
    return told
