"""TURN servers: credentials with which clients relay their calls.

The password is a keyed hash of the user name, which holds the time when both expire: so the TURN
server can check it without asking us.

Spec: https://spec.matrix.org/v1.19/client-server-api/#voice-over-ip
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from architex.domain.errors import Forbidden
from architex.gateways.clock import Clock
from architex.usecases.requester import Requester


@dataclass(frozen=True, slots=True)
class TurnCredentials:
    """How to use the TURN servers.

    Attributes:
        lifetime_s: for how long.
    """

    username: str
    password: str
    uris: Sequence[str]
    lifetime_s: int


@dataclass(frozen=True)
class TurnServers:
    """Makes credentials.

    Attributes:
        uris: of the servers; none when calls are not relayed.
        shared_secret: what the servers know, too.
        lifetime_s: how long credentials count.
    """

    clock: Clock
    uris: Sequence[str] = ()
    shared_secret: str | None = None
    lifetime_s: int = 86_400
    guests: bool = True

    def make_credentials(self, requester: Requester) -> TurnCredentials | None:
        """Credentials of the requester's own; None when there are no servers.

        Raises:
            Forbidden: the requester is a guest, and guests' calls are not relayed.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver
        """
        if not self.uris or self.shared_secret is None:
            return None
        if requester.is_guest and not self.guests:
            raise Forbidden("Calls of guests are not relayed.")
        username = f"{self.clock.now_ms() // 1000 + self.lifetime_s}:{requester.user_id}"
        # coturn's use-auth-secret knows only this hash.
        digest = hmac.new(self.shared_secret.encode(), username.encode(), hashlib.sha1).digest()
        password = base64.b64encode(digest).decode()
        return TurnCredentials(username, password, self.uris, self.lifetime_s)
