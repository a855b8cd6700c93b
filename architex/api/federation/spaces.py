"""The rooms below spaces, for other servers.

Spec: https://spec.matrix.org/v1.19/server-server-api/#spaces
"""

from __future__ import annotations

import falcon

from architex.api.federation.authentication import require_server
from architex.api.requests import bool_param
from architex.domain.identifiers import parse_room_id
from architex.usecases.spaces import Spaces


class HierarchyResource:
    """GET /hierarchy/{roomId}"""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """A room and its children.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid
        """
        origin = require_server(req)
        resp.media = self._spaces.serve_hierarchy(
            origin, parse_room_id(room_id), suggested_only=bool_param(req, "suggested_only")
        )
