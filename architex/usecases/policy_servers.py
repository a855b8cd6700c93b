"""Policy servers: asking the one of a room to recommend an event.

Spec: https://spec.matrix.org/v1.19/server-server-api/#policy-servers
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from architex.domain.errors import LimitExceeded, MatrixError, RefusedElsewhere, RemoteFailed
from architex.domain.pdu import Pdu, parse_pdu
from architex.domain.policy_servers import (
    POLICY_TYPE,
    PolicyServer,
    is_recommended,
    parse_policy,
    with_recommendation,
)
from architex.domain.room_versions import RoomVersionRules
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.gateways.federation_client import FederationClient
from architex.projections.room_servers import has_members
from architex.storage.room_session import RoomSession
from architex.usecases.timed_cache import TimedCache

_SIGN_PATH: Final = "/_matrix/policy/v1/sign"
_TIMEOUT_S: Final = 10.0
_TIMEOUT_FOR_ALL_S: Final = 20.0
_AT_ONCE: Final = 8
_LEFT_ALONE_S: Final = 30.0
"""So long a policy server is not asked again that did not answer: events pile up meanwhile."""

_DEFAULT_WAIT_MS: Final = 1000


@dataclass(frozen=True)
class PolicyServers:
    """Knows the policy servers of rooms, and asks them.

    Attributes:
        silent: the names of those that did not answer a moment ago.
    """

    client: FederationClient
    clock: Clock
    silent: TimedCache[str, bool] = field(repr=False)

    def find(self, session: RoomSession) -> PolicyServer | None:
        """The policy server that a room uses; None for none.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
        """
        event = session.find_state(POLICY_TYPE)
        policy_server = None if event is None else parse_policy(event.content)
        if policy_server is None:
            return None
        name = policy_server.server_name
        is_there = has_members(session.connection, session.head.room_nid, name)
        return policy_server if is_there else None

    def sign_each(
        self, rules: RoomVersionRules, policy_server: PolicyServer, pdus: Sequence[Pdu]
    ) -> list[Pdu | MatrixError]:
        """For each event: it, recommended by a policy server, or why it is not.

        Some are asked about side by side; for a bounded time, however slow the server is.
        """
        ends = self.clock.monotonic() + _TIMEOUT_FOR_ALL_S

        def sign_one(pdu: Pdu) -> Pdu | MatrixError:
            left_s = ends - self.clock.monotonic()
            if left_s <= 0:
                return RemoteFailed("There was no time to ask.")
            try:
                return self.sign(rules, policy_server, pdu, timeout_s=min(_TIMEOUT_S, left_s))
            except MatrixError as error:
                return error

        if len(pdus) == 1:
            return [sign_one(pdus[0])]
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            return list(workers.map(sign_one, pdus))

    def sign(
        self,
        rules: RoomVersionRules,
        policy_server: PolicyServer,
        pdu: Pdu,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> Pdu:
        """The event, recommended by a policy server.

        Raises:
            RefusedElsewhere: it does not recommend it; as it says.
            LimitExceeded: it is asked too often.
            RemoteFailed: it does not answer, or not with a good signature.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#asking-for-a-policy-server-signature-on-an-event
        """
        name = policy_server.server_name
        if self.silent.find(name) is not None:
            raise RemoteFailed(f"The room's policy server {name} does not answer.")
        try:
            answer = self.client.post(name, _SIGN_PATH, pdu.event, timeout_s=timeout_s)
        except RemoteRefused as error:
            if error.status >= 500:
                self.silent.remember(name, True, seconds=_LEFT_ALONE_S)
            raise _refusal(error) from error
        except RemoteError as error:
            self.silent.remember(name, True, seconds=_LEFT_ALONE_S)
            raise RemoteFailed(
                f"The room's policy server {name} does not answer: {error.message}"
            ) from error
        event = with_recommendation(pdu.event, policy_server, answer)
        if not is_recommended(rules, policy_server, event):
            raise RemoteFailed(f"The room's policy server {name} gives no valid signature.")
        return parse_pdu(rules, event)


def _refusal(error: RemoteRefused) -> MatrixError:
    """What a policy server says, for our client.

    "If the Policy Server returned an error, that error SHOULD be provided to the client verbatim."
    """
    said = error.body.get("error")
    message = said[:500] if isinstance(said, str) else "The room's policy server refuses this."
    if error.status == 429:
        return LimitExceeded(message, retry_after_ms=error.retry_after_ms or _DEFAULT_WAIT_MS)
    if error.status < 500 and error.errcode is not None and len(error.errcode) <= 100:
        return RefusedElsewhere(message, errcode=error.errcode)
    return RemoteFailed(f"The room's policy server {error.remote} fails: {error.message}")
