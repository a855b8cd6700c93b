"""/_synapse/admin/v1/register: accounts for scripts that know the shared secret.

The path and the form are Synapse's, because registration scripts everywhere speak them.
"""

from __future__ import annotations

import falcon
from marshmallow import fields

from architex.api.authentication import client_address
from architex.api.client.registration import registered_fields
from architex.api.fields import TrueOrFalse, refuse_nul
from architex.api.requests import BodySchema, json_body, load
from architex.usecases.profiles import Profiles
from architex.usecases.registration import Registration
from architex.usecases.requester import Requester
from architex.usecases.sessions import DeviceWish


class _SharedSecretSchema(BodySchema):
    nonce = fields.String(required=True, validate=refuse_nul)
    username = fields.String(required=True, validate=refuse_nul)
    password = fields.String(required=True, validate=refuse_nul)
    mac = fields.String(required=True)
    admin = TrueOrFalse(load_default=False)
    user_type = fields.String(load_default=None, allow_none=True, validate=refuse_nul)
    displayname = fields.String(load_default=None, allow_none=True)
    device_id = fields.String(load_default=None, allow_none=True)


_SHARED_SECRET = _SharedSecretSchema()


class SharedSecretRegistrationResource:
    """GET and POST /_synapse/admin/v1/register."""

    def __init__(self, registration: Registration, profiles: Profiles) -> None:
        self._registration = registration
        self._profiles = profiles

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A nonce for one registration."""
        resp.media = {"nonce": self._registration.new_nonce()}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Make an account, an administrator's too."""
        given = load(_SHARED_SECRET, json_body(req))
        registered = self._registration.register_with_shared_secret(
            given["nonce"],
            given["username"],
            given["password"],
            given["mac"],
            is_admin=given["admin"],
            user_type=given["user_type"],
            wish=DeviceWish(device_id=given["device_id"], address=client_address(req)),
        )
        user_id = registered.user_id
        if given["displayname"]:
            self._profiles.set_field(
                Requester(user_id), user_id, "displayname", given["displayname"]
            )
        resp.media = {
            **registered_fields(registered),
            "home_server": self._registration.server_name,
        }
