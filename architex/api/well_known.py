"""/.well-known/matrix/*: where to find this server, and who runs it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#well-known-uris
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import falcon

from architex.domain.errors import NotFound


@dataclass(frozen=True)
class WellKnown:
    """What the operator says about where this server is and how to get help.

    Attributes:
        base_url: of the client API.
        delegated_server: host (and port) that speaks federation for the server name; None for the
            server name itself.
        support_page: a URL; None for none.
        contacts: as the spec has them: `role` and `matrix_id` or `email_address`.
    """

    base_url: str
    delegated_server: str | None = None
    support_page: str | None = None
    contacts: Sequence[Mapping[str, str]] = ()


class WellKnownClientResource:
    """GET /.well-known/matrix/client."""

    def __init__(self, well_known: WellKnown) -> None:
        self._told = {"m.homeserver": {"base_url": well_known.base_url.rstrip("/")}}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Where clients find this server.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixclient
        """
        resp.media = self._told


class WellKnownServerResource:
    """GET /.well-known/matrix/server."""

    def __init__(self, well_known: WellKnown) -> None:
        self._delegated_server = well_known.delegated_server

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Where other servers find this one, if not under its name.

        Raises:
            NotFound: nothing is delegated.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver
        """
        if self._delegated_server is None:
            raise NotFound("This server is found under its name.")
        resp.media = {"m.server": self._delegated_server}


class WellKnownSupportResource:
    """GET /.well-known/matrix/support."""

    def __init__(self, well_known: WellKnown) -> None:
        self._told: dict[str, Any] = {}
        if well_known.contacts:
            self._told["contacts"] = [dict(contact) for contact in well_known.contacts]
        if well_known.support_page is not None:
            self._told["support_page"] = well_known.support_page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """How to reach those who run this server.

        Raises:
            NotFound: they do not say.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixsupport
        """
        if not self._told:
            raise NotFound("The operator has given no contact.")
        resp.media = self._told
