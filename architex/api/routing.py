"""Route: one row of a route table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

CLIENT_VERSIONS: Final = ("v3", "v1", "r0", "unstable")
"""Prefixes under which every client endpoint is served alike."""


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
    """The routes under each version prefix of the client API."""
    for route in routes:
        for version in CLIENT_VERSIONS:
            yield Route(f"/_matrix/client/{version}{route.path}", route.resource, route.suffix)
