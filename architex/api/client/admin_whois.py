"""From where a user's devices were seen.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-administration
"""

from __future__ import annotations

import falcon

from architex.api.requests import require_user
from architex.storage.devices import Device
from architex.usecases.whois import Whois


class WhoisResource:
    """GET /admin/whois/{userId}"""

    def __init__(self, whois: Whois) -> None:
        self._whois = whois

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """What is known about the devices of a user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3adminwhoisuserid
        """
        devices = self._whois.list_devices(require_user(req), user_id)
        resp.media = {
            "user_id": user_id,
            "devices": {
                device.device_id: {"sessions": [{"connections": _connections(device)}]}
                for device in devices
            },
        }


def _connections(device: Device) -> list[dict[str, object]]:
    if device.last_seen_ts is None:
        return []
    return [
        {
            "ip": device.last_seen_ip or "",
            "last_seen": device.last_seen_ts,
            "user_agent": device.last_seen_user_agent or "",
        }
    ]
