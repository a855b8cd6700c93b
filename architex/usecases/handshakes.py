"""Handshakes: how another server helps our users to join, knock or leave; whom to ask, and how.

First a resident server says where our event would stand (make_join and its like); then we
complete it, sign it and send it. Who does not help is not asked for ever: the next one is.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from architex.domain import errors
from architex.domain.errors import MatrixError, NotFound, RemoteFailed
from architex.domain.identifiers import RoomId, ServerName, UserId, is_server_name
from architex.domain.pdu import Pdu, parse_pdu
from architex.domain.room.handshakes import complete_template
from architex.domain.room_versions import ROOM_VERSIONS, RoomVersionRules, find_room_version
from architex.domain.signing import sign_event
from architex.gateways.clock import Clock
from architex.gateways.errors import (
    RemoteError,
    RemoteRefused,
    RemoteTimedOut,
    RemoteUnintelligible,
)
from architex.gateways.federation_client import FederationClient, federation_path
from architex.storage.commit_queue import CommitQueue
from architex.usecases.told_room import BrokenAnswer

log = logging.getLogger(__name__)

T = TypeVar("T")

Membership: TypeAlias = Literal["join", "knock", "leave"]

MAX_SERVERS_ASKED: Final = 10
"""Servers that are asked one after the other to do the same thing."""

HANDSHAKE_TIMEOUT_S: Final = 20.0
"""For one request of a handshake, but for the answer to send_join."""

PATIENCE_S: Final = 8.0
"""For the first request of a handshake, while there are other servers to ask: several of those
that a link to a room names may be gone."""

MAX_MEMBERSHIP_BYTES: Final = 256 * 1024
"""Of an answer that has one membership in it."""
MAX_STRIPPED_BYTES: Final = 512 * 1024
"""Of one that may have the stripped state of the room beside it."""

# For asking all servers together; who has begun to answer is waited for longer.
_ASK_FOR_S: Final = 80.0

# What other servers refuse with, as it is passed on to our clients.
_REFUSALS: Final[Mapping[str, type[MatrixError]]] = {
    refusal.errcode: refusal
    for refusal in (
        errors.Forbidden,
        errors.NotFound,
        errors.IncompatibleRoomVersion,
        errors.UnableToAuthoriseJoin,
        errors.UnableToGrantJoin,
        errors.InviteBlocked,
        errors.BadState,
        errors.TooLarge,
    )
}
# Those that have other names, which are passed on as they are.
_REFUSALS_BY_STATUS: Final[Mapping[int, type[MatrixError]]] = {
    400: errors.RefusedElsewhere,
    403: errors.Forbidden,
}
_ERRCODE: Final = re.compile(r"[A-Za-z0-9_.]{1,100}", re.ASCII)
# "If M_MISSING_PARAM or M_INVALID_PARAM is returned …, the Client-Server API request SHOULD fail
# with a 5xx error rather than being passed through."
_OUR_FAULTS: Final = ("M_MISSING_PARAM", "M_INVALID_PARAM")
# Refusals that another server of the room would only repeat. M_FORBIDDEN is none: a server may
# have something against ours that the room has not.
_FINAL: Final = (errors.IncompatibleRoomVersion, errors.BadState)
# What counts most of what several servers said.
_WEIGHTIEST: Final = errors.Forbidden
_LIGHTEST: Final = errors.NotFound


class _NoTemplateInTime(RemoteTimedOut):
    """A server did not even begin to help: nothing has happened yet."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user of ours wants to be in a room.

    Attributes:
        content: of the m.room.member event.
    """

    membership: Membership
    user_id: UserId
    room_id: RoomId
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Our signed event, standing where a resident server says; and the rules of its room."""

    resident: ServerName
    rules: RoomVersionRules
    pdu: Pdu


@dataclass(frozen=True)
class Handshakes:
    """Asks other servers for help."""

    client: FederationClient
    commits: CommitQueue
    clock: Clock

    @property
    def server_name(self) -> ServerName:
        """Ours."""
        return self.commits.signer.server_name

    def perform(
        self, wish: Wish, candidates: Iterable[ServerName], complete: Callable[[Prepared], T]
    ) -> T:
        """Do what a user wants by way of one of some servers.

        Args:
            candidates: servers that may be in the room, the likeliest first.
            complete: the second half of the handshake: sends what is prepared.

        Raises:
            MatrixError: as `ask_each`.
        """
        return self.ask_each(
            candidates,
            lambda server, patience_s: complete(self._prepare(wish, server, patience_s)),
        )

    def ask_each(
        self, candidates: Iterable[ServerName], attempt: Callable[[ServerName, float], T]
    ) -> T:
        """What the first of some servers gives that does not fail.

        Who is slow to begin is asked again when the others have been.

        Args:
            attempt: asks a server, which has so many seconds to begin.

        Raises:
            MatrixError: what the first of them refused with, if all failed; rather that the user
                may not than that the room is not known there.
        """
        ends = self.clock.monotonic() + _ASK_FOR_S
        failures: list[MatrixError] = []
        servers = [
            name
            for name in dict.fromkeys(candidates)
            if name != self.server_name and is_server_name(name)
        ]
        patience_s = PATIENCE_S if len(servers) > 1 else HANDSHAKE_TIMEOUT_S
        waiting = deque((server, patience_s) for server in servers[:MAX_SERVERS_ASKED])
        while waiting and self.clock.monotonic() <= ends:
            server, patience_s = waiting.popleft()
            try:
                return attempt(server, patience_s)
            except (RemoteError, BrokenAnswer) as error:
                failure = _as_matrix_error(server, error)
                if isinstance(error, _NoTemplateInTime) and patience_s < HANDSHAKE_TIMEOUT_S:
                    waiting.append((server, HANDSHAKE_TIMEOUT_S))
            except errors.IncompatibleRoomVersion:
                raise
            except (errors.InvalidPdu, errors.TooLarge, errors.InvalidCanonicalJson) as error:
                failure = RemoteFailed(f"{server} proposes what cannot be: {error.message}")
            log.info("asking %s: %s", server, failure.message)
            if isinstance(failure, _FINAL):
                raise failure
            failures.append(failure)
        # What somebody says counts for more than that others say nothing.
        said = [failure for failure in failures if not isinstance(failure, RemoteFailed)]
        said.sort(key=lambda one: isinstance(one, _LIGHTEST) - isinstance(one, _WEIGHTIEST))
        for failure in (*said, *failures):
            raise failure
        raise NotFound("No server is known that is in the room.")

    def sign(self, rules: RoomVersionRules, unsigned_event: Mapping[str, Any]) -> Pdu:
        """An event of a user of ours, signed by us."""
        signer = self.commits.signer
        event, event_id = sign_event(rules, unsigned_event, signer.server_name, signer.key)
        # Not by the ID, so that its format is checked.
        pdu = parse_pdu(rules, event)
        if pdu.event_id != event_id:
            raise ValueError(f"{event_id} was signed as {pdu.event_id}")
        return pdu

    def _prepare(self, wish: Wish, resident: ServerName, patience_s: float) -> Prepared:
        """Raises _NoTemplateInTime if the server does not begin to help in so many seconds."""
        # make_leave takes no versions: who was invited knows the room's.
        query = {} if wish.membership == "leave" else {"ver": list(ROOM_VERSIONS)}
        try:
            answer = self.client.get(
                resident,
                federation_path("v1", f"make_{wish.membership}", wish.room_id, wish.user_id),
                query,
                timeout_s=patience_s,
                max_bytes=MAX_MEMBERSHIP_BYTES,
                despite_failures=True,
            )
        except RemoteTimedOut as error:
            raise _NoTemplateInTime(error.remote, error.message) from error
        version = answer.get("room_version", "1")
        rules = find_room_version(version) if isinstance(version, str) else None
        if rules is None:
            raise errors.IncompatibleRoomVersion(
                "This server does not have the version of the room.", room_version=str(version)
            )
        unsigned_event = complete_template(
            rules,
            answer.get("event"),
            room_id=wish.room_id,
            user_id=wish.user_id,
            content=wish.content,
            resident=resident,
            origin_server_ts=self.clock.now_ms(),
            opaque_id=self.commits.new_opaque_id(),
        )
        return Prepared(resident, rules, self.sign(rules, unsigned_event))


def is_unknown_endpoint(refusal: RemoteRefused) -> bool:
    """Whether a server does not have this version of an endpoint."""
    return refusal.status in (404, 405) and refusal.errcode in (None, "M_UNRECOGNIZED")


def _as_matrix_error(server: ServerName, error: RemoteError | BrokenAnswer) -> MatrixError:
    """What a failure of another server means to our client.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid
    """
    if isinstance(error, RemoteRefused):
        errcode = error.errcode or ""
        refusal = _REFUSALS.get(errcode)
        if refusal is None and errcode not in _OUR_FAULTS and _ERRCODE.fullmatch(errcode):
            refusal = _REFUSALS_BY_STATUS.get(error.status)
        if refusal is not None:
            said = error.body.get("error")
            fields = {"errcode": errcode}
            if refusal is errors.IncompatibleRoomVersion:
                fields["room_version"] = str(error.body.get("room_version", ""))
            return refusal(
                said[:500] if isinstance(said, str) else f"{server} refuses this.", **fields
            )
    if isinstance(error, RemoteUnintelligible | BrokenAnswer):
        return RemoteFailed(f"{server} answers what makes no sense: {error}")
    return RemoteFailed(f"{server} does not help: {error}")
