"""Devices and keys of our users, for other servers.

Spec: https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption
"""

from __future__ import annotations

import falcon
from marshmallow import fields

from architex.api.federation.authentication import require_server, signed_content
from architex.api.requests import BodySchema, load
from architex.domain.identifiers import is_user_id, server_name_of
from architex.usecases.encryption_keys import EncryptionKeys


class _QuerySchema(BodySchema):
    device_keys = fields.Dict(
        keys=fields.String(), values=fields.List(fields.String(), allow_none=True), required=True
    )


class _ClaimSchema(BodySchema):
    one_time_keys = fields.Dict(
        keys=fields.String(),
        values=fields.Dict(keys=fields.String(), values=fields.String()),
        required=True,
    )


_QUERY = _QuerySchema()
_CLAIM = _ClaimSchema()


class _Keys:
    """What the resources share."""

    def __init__(self, keys: EncryptionKeys) -> None:
        self._keys = keys

    def _is_ours(self, user_id: str) -> bool:
        return is_user_id(user_id) and server_name_of(user_id) == self._keys.server_name


class UserDevicesResource(_Keys):
    """GET /user/devices/{userId}."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """The devices of one user of ours.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid
        """
        require_server(req)
        resp.media = self._keys.tell_devices(user_id)


class UserKeysQueryResource(_Keys):
    """POST /user/keys/query."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The devices of users of ours; others are passed over.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery
        """
        require_server(req)
        given = load(_QUERY, signed_content(req))
        wanted = {
            user_id: devices or ()
            for user_id, devices in given["device_keys"].items()
            if self._is_ours(user_id)
        }
        found = self._keys.query_own_users(wanted, None)
        resp.media = {
            "device_keys": found.device_keys,
            "master_keys": found.master_keys,
            "self_signing_keys": found.self_signing_keys,
        }


class UserKeysClaimResource(_Keys):
    """POST /user/keys/claim."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Claim one-time keys of users of ours; others are passed over.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim
        """
        require_server(req)
        given = load(_CLAIM, signed_content(req))
        wanted = {
            user_id: devices
            for user_id, devices in given["one_time_keys"].items()
            if self._is_ours(user_id)
        }
        resp.media = {"one_time_keys": self._keys.claim_own_keys(wanted)}
