"""The table of the server-server API: path template → resource, one row per endpoint."""

from __future__ import annotations

from architex.api.federation.keys import KeyQueryResource, ServerKeysResource
from architex.api.federation.version import VersionResource
from architex.api.routing import Route
from architex.gateways.clock import Clock
from architex.usecases.catalogue import UseCases


def federation_routes(use_cases: UseCases, clock: Clock, version: str) -> list[Route]:
    """Rows with their full paths.

    Args:
        version: of this program.

    Spec: https://spec.matrix.org/v1.19/server-server-api/
    """
    own_keys = ServerKeysResource(use_cases.key_ring)
    queries = KeyQueryResource(use_cases.key_ring, clock)
    return [
        Route("/_matrix/key/v2/server", own_keys),
        Route("/_matrix/key/v2/server/{key_id}", own_keys),
        Route("/_matrix/key/v2/query", queries),
        Route("/_matrix/key/v2/query/{server_name}", queries, "one"),
        Route("/_matrix/key/v2/query/{server_name}/{key_id}", queries, "one"),
        Route("/_matrix/federation/v1/version", VersionResource(version)),
    ]
