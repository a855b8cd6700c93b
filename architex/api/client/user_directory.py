"""Finding people by name.

Spec: https://spec.matrix.org/v1.19/client-server-api/#user-directory
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.fields import WholeNumber
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.domain.errors import InvalidParam
from architex.projections.directory_reads import FoundUser
from architex.usecases.user_directory import DEFAULT_RESULTS, UserDirectory


class _SearchSchema(BodySchema):
    search_term = fields.String(required=True)
    limit = WholeNumber(load_default=DEFAULT_RESULTS)


_SEARCH = _SearchSchema()


class UserDirectorySearchResource:
    """POST /user_directory/search."""

    def __init__(self, user_directory: UserDirectory) -> None:
        self._user_directory = user_directory

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Search for people.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch
        """
        requester = require_user(req, limit="searches")
        body = load(_SEARCH, json_body(req))
        if body["limit"] < 0:
            raise InvalidParam("limit must be at least 0.")
        found = self._user_directory.search(requester, body["search_term"], body["limit"])
        resp.media = {
            "results": [_user(user) for user in found.users],
            "limited": found.limited,
        }


def _user(user: FoundUser) -> dict[str, Any]:
    optional = {"display_name": user.displayname, "avatar_url": user.avatar_url}
    return {
        "user_id": user.user_id,
        **{key: value for key, value in optional.items() if value is not None},
    }
