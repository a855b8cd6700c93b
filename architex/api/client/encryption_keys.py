"""Keys of devices: upload, query, claim; changes; cross-signing.

Spec: https://spec.matrix.org/v1.19/client-server-api/#key-management-api
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.fields import JsonObject, WholeNumber
from architex.api.interactive_auth import interactive
from architex.api.requests import (
    BodySchema,
    count_several,
    json_body,
    load,
    require_user,
    string_param,
)
from architex.domain.errors import BadJson, MissingParam
from architex.domain.sync_token import parse_sync_token
from architex.usecases.cross_signing import CrossSigning
from architex.usecases.encryption_keys import DEFAULT_TIMEOUT_MS, EncryptionKeys

_MAX_BODY_BYTES = 4 * 1024 * 1024


class _UploadSchema(BodySchema):
    device_keys = JsonObject(allow_none=True)
    one_time_keys = JsonObject(allow_none=True)
    fallback_keys = JsonObject(allow_none=True)


class _QuerySchema(BodySchema):
    device_keys = fields.Dict(
        keys=fields.String(), values=fields.List(fields.String(), allow_none=True), required=True
    )
    timeout = WholeNumber()


class _ClaimSchema(BodySchema):
    one_time_keys = fields.Dict(
        keys=fields.String(),
        values=fields.Dict(keys=fields.String(), values=fields.String()),
        required=True,
    )
    timeout = WholeNumber()


_UPLOAD = _UploadSchema()
_QUERY = _QuerySchema()
_CLAIM = _ClaimSchema()


class UploadKeysResource:
    """POST /keys/upload."""

    def __init__(self, keys: EncryptionKeys) -> None:
        self._keys = keys

    def on_post(self, req: falcon.Request, resp: falcon.Response, **_path: str) -> None:
        """Take the keys of a device. A device ID in the path (of old clients) says nothing new.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload
        """
        requester = require_user(req, guests=True)
        given = load(_UPLOAD, json_body(req, max_bytes=_MAX_BODY_BYTES))
        if given.get("device_keys") is not None:  # one-time keys are nobody's news
            count_several(req, requester, "devices", 1)
        counts = self._keys.upload_keys(requester, given)
        resp.media = {"one_time_key_counts": dict(counts)}


class QueryKeysResource:
    """POST /keys/query."""

    def __init__(self, keys: EncryptionKeys) -> None:
        self._keys = keys

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The keys of users' devices.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery
        """
        requester = require_user(req, guests=True)
        given = load(_QUERY, json_body(req))
        wanted = {user_id: devices or () for user_id, devices in given["device_keys"].items()}
        found = self._keys.query_keys(requester, wanted, _timeout_ms(given))
        resp.media = {
            "device_keys": found.device_keys,
            "master_keys": found.master_keys,
            "self_signing_keys": found.self_signing_keys,
            "user_signing_keys": found.user_signing_keys,
            "failures": found.failures,
        }


class ClaimKeysResource:
    """POST /keys/claim."""

    def __init__(self, keys: EncryptionKeys) -> None:
        self._keys = keys

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Claim one-time keys.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim
        """
        require_user(req, guests=True)
        given = load(_CLAIM, json_body(req))
        claimed, failures = self._keys.claim_keys(given["one_time_keys"], _timeout_ms(given))
        resp.media = {"one_time_keys": claimed, "failures": failures}


class KeyChangesResource:
    """GET /keys/changes."""

    def __init__(self, keys: EncryptionKeys) -> None:
        self._keys = keys

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Whose keys have changed.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges
        """
        requester = require_user(req, guests=True)
        since = string_param(req, "from")
        if not since:
            raise MissingParam("from is missing: the token of an earlier sync.")
        news = self._keys.list_changes(requester, parse_sync_token(since))
        resp.media = {"changed": list(news.changed), "left": list(news.left)}


class UploadCrossSigningKeysResource:
    """POST /keys/device_signing/upload."""

    def __init__(self, cross_signing: CrossSigning) -> None:
        self._cross_signing = cross_signing

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take a user's cross-signing keys.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload
        """
        requester = require_user(req, limit="devices")
        body = json_body(req)
        with interactive():
            self._cross_signing.upload_keys(requester, body, body.get("auth"))
        resp.media = {}


class UploadSignaturesResource:
    """POST /keys/signatures/upload."""

    def __init__(self, cross_signing: CrossSigning) -> None:
        self._cross_signing = cross_signing

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take signatures on keys.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload
        """
        requester = require_user(req, limit="devices")
        body = json_body(req)
        resp.media = {"failures": self._cross_signing.upload_signatures(requester, body)}


def _timeout_ms(given: dict[str, Any]) -> int:
    timeout_ms: int = given.get("timeout", DEFAULT_TIMEOUT_MS)
    if timeout_ms < 0:
        raise BadJson("timeout is not negative.")
    return timeout_ms
