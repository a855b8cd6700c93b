"""Route: one row of a route table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

CLIENT_VERSIONS: Final = ("v3", "v1", "r0", "unstable")
"""Prefixes under which every client endpoint is served alike."""

NAMES_FROM_BEFORE: Final = {
    "/im.nheko.summary/summary/{room_id_or_alias}": "/room_summary/{room_id_or_alias}",
    "/im.nheko.summary/rooms/{room_id_or_alias}/summary": "/room_summary/{room_id_or_alias}",
    "/uk.tcpip.msc4133/profile/{user_id}": "/profile/{user_id}",
    "/uk.tcpip.msc4133/profile/{user_id}/{key_name}": "/profile/{user_id}/{key_name}",
}
"""Paths below `unstable` that today's clients still use, and the endpoints they became."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path template and the resource that answers there.

    Attributes:
        path: with variable segments in braces; below its API's prefix.
        resource: a Falcon resource.
        suffix: for a resource that answers at several paths with different methods.
    """

    path: str
    resource: object
    suffix: str | None = None


def under_client_versions(routes: Iterable[Route]) -> Iterator[Route]:
    """The routes under each version prefix of the client API, and under what they were called."""
    of_path = {}
    for route in routes:
        of_path[route.path] = route
        for version in CLIENT_VERSIONS:
            yield Route(f"/_matrix/client/{version}{route.path}", route.resource, route.suffix)
    for old, path in NAMES_FROM_BEFORE.items():
        route = of_path[path]
        yield Route(f"/_matrix/client/unstable{old}", route.resource, route.suffix)
