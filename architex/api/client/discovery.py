"""What this server speaks and can do: versions and capabilities.

Spec: https://spec.matrix.org/v1.19/client-server-api/#api-versions
"""

from __future__ import annotations

from typing import Final

import falcon

from architex.api.requests import require_user
from architex.domain.room_versions import ROOM_VERSIONS

SPEC_VERSIONS: Final = (
    "r0.0.1",
    "r0.1.0",
    "r0.2.0",
    "r0.3.0",
    "r0.4.0",
    "r0.5.0",
    "r0.6.0",
    "r0.6.1",
    *(f"v1.{minor}" for minor in range(1, 20)),
)


FLAGS_OF_CLIENTS: Final = (
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc2285.stable",  # private read receipts
    "org.matrix.msc3440.stable",  # threads
    "org.matrix.msc3814",  # dehydrated devices
    "org.matrix.msc3827.stable",  # types in the list of rooms
    "org.matrix.msc3916.stable",  # media for users only
    "uk.tcpip.msc4133",  # fields of profiles
    "uk.tcpip.msc4133.stable",
)
"""Names from before these things were in the specification, which clients still look for.

Each stands for what this server does as the specification has it, and for nothing else; but
dehydrated devices are a proposal still.
"""


class VersionsResource:
    """GET /versions."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The versions of the specification that this server speaks.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions
        """
        resp.media = {
            "versions": list(SPEC_VERSIONS),
            "unstable_features": dict.fromkeys(FLAGS_OF_CLIENTS, True),
        }


class CapabilitiesResource:
    """GET /capabilities."""

    def __init__(
        self, default_room_version: str, *, addresses_change: bool, forgets_on_leave: bool
    ) -> None:
        self._capabilities = {
            "m.change_password": {"enabled": True},
            "m.room_versions": {
                "default": default_room_version,
                "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
            },
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": True},
            "m.3pid_changes": {"enabled": addresses_change},
            "m.get_login_token": {"enabled": True},
            "m.profile_fields": {"enabled": True},
            "m.forget_forced_upon_leave": {"enabled": forgets_on_leave},
        }

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What the requester may expect of this server.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3capabilities
        """
        capabilities = dict(self._capabilities)
        if require_user(req).is_admin:
            capabilities["m.account_moderation"] = {"lock": True, "suspend": True}
        resp.media = {"capabilities": capabilities}
