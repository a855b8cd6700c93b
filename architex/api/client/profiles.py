"""Profiles.

Spec: https://spec.matrix.org/v1.19/client-server-api/#profiles
"""

from __future__ import annotations

import falcon

from architex.api.authentication import count_question_to
from architex.api.requests import json_body, require_user
from architex.domain.errors import MissingParam
from architex.domain.identifiers import parse_user_id, server_name_of
from architex.usecases.profiles import Profiles


class ProfileResource:
    """GET /profile/{userId}."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """All of a profile.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuserid
        """
        count_question_to(req, server_name_of(parse_user_id(user_id)), self._profiles.server_name)
        resp.media = self._profiles.get_profile(user_id)


class ProfileFieldResource:
    """GET, PUT and DELETE /profile/{userId}/{keyName}."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, key_name: str
    ) -> None:
        """One field of a profile.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuseridkeyname
        """
        count_question_to(req, server_name_of(parse_user_id(user_id)), self._profiles.server_name)
        resp.media = self._profiles.get_field(user_id, key_name)

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, key_name: str
    ) -> None:
        """Set one field of one's own profile.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname
        """
        requester = require_user(req, guests=True, limit="profiles")
        body = json_body(req)
        if key_name not in body:
            raise MissingParam(f"Missing: {key_name}.")
        self._profiles.set_field(requester, user_id, key_name, body[key_name])
        resp.media = {}

    def on_delete(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, key_name: str
    ) -> None:
        """Remove one field of one's own profile.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3profileuseridkeyname
        """
        requester = require_user(req, guests=True, limit="profiles")
        self._profiles.delete_field(requester, user_id, key_name)
        resp.media = {}
