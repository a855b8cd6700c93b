"""What this server runs.

Spec: https://spec.matrix.org/v1.19/server-server-api/#server-implementation
"""

from __future__ import annotations

import falcon


class VersionResource:
    """GET /version"""

    def __init__(self, version: str) -> None:
        self._told = {"server": {"name": "Architex", "version": version}}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The name and version of this program; for anybody.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version
        """
        resp.media = self._told
