"""Joining rooms with the help of servers that are in them.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import parse_json
from architex.domain.errors import NotJson, RemoteFailed
from architex.domain.identifiers import RoomId, ServerName, UserId
from architex.domain.room.pdu_checks import Outcome
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteRefused
from architex.gateways.federation_client import FederationClient, Query, federation_path
from architex.gateways.json_stream import BrokenJson, read_members
from architex.projections.room_servers import RoomServers
from architex.storage.leases import LeaseStore
from architex.usecases.backfilling import Backfilling
from architex.usecases.entering import Entering
from architex.usecases.handshakes import (
    HANDSHAKE_TIMEOUT_S,
    Handshakes,
    Prepared,
    Wish,
    is_unknown_endpoint,
)
from architex.usecases.told_room import BrokenAnswer

SEND_JOIN_TIMEOUT_S: Final = 600.0
MAX_JOIN_ANSWER_BYTES: Final = 1024**3

# How long we may stand still before another process may take over, and how often we show that we
# do not; how long others wait for us, and how often they look.
_LEASE_S: Final = 90.0
_RENEW_EVERY_S: Final = 5.0
_WAIT_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.25


@dataclass(frozen=True)
class RemoteJoining:
    """Lets our users join by way of other servers."""

    client: FederationClient
    handshakes: Handshakes
    entering: Entering
    backfilling: Backfilling
    room_servers: RoomServers
    leases: LeaseStore
    clock: Clock
    randomness: Randomness

    def join(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        candidates: Iterable[ServerName],
    ) -> bool:
        """Join a room through one of some servers, if this server is not in the room.

        Args:
            content: of the m.room.member event.
            candidates: servers that may be in the room, the likeliest first.

        Returns False if it meanwhile is: then the user can join like any other.

        Raises:
            NotFound: there is nobody to ask, or nobody knows the room.
            Forbidden: the user may not join.
            IncompatibleRoomVersion: this server does not have the version of the room.
            UnableToAuthoriseJoin, UnableToGrantJoin: nobody can tell whether the user may join.
            RemoteFailed: none of the servers answers as it should.
        """
        with self._alone(_join_of(room_id)) as note_progress:
            if self._is_in_room(room_id):
                return False
            self.handshakes.perform(
                Wish("join", user_id, room_id, content),
                candidates,
                lambda prepared: self._enter(prepared, note_progress),
            )
            return True

    def join_authorised(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        candidates: Iterable[ServerName],
    ) -> None:
        """Join a restricted room that this server is in, but where others must let the user in.

        Arguments and errors as of `join`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms
        """
        self.handshakes.perform(
            Wish("join", user_id, room_id, content), candidates, self._take_authorised
        )

    def is_entering(self, room_id: RoomId) -> bool:
        """Whether this server is about to enter a room, in some process of it."""
        return self.leases.find_lease(_join_of(room_id)) is not None

    def _is_in_room(self, room_id: RoomId) -> bool:
        """Whether a user of this server is joined to a room."""
        return self.handshakes.server_name in self.room_servers.list_servers_of_room(room_id)

    def _enter(self, prepared: Prepared, note_progress: Callable[[], None]) -> None:
        rules, join = prepared.rules, prepared.pdu
        try:
            answer = self._send_join("v2", prepared)
            self.entering.enter(rules, join, answer, note_progress)
        except RemoteRefused as refusal:
            if not is_unknown_endpoint(refusal):
                raise
            self.entering.enter(rules, join, self._send_join("v1", prepared), note_progress)

    def _take_authorised(self, prepared: Prepared) -> None:
        rules, join = prepared.rules, prepared.pdu
        theirs = None
        # We have the room: the less of it is told the better.
        with self._send_join("v2", prepared, {"omit_members": "true"}) as pieces:
            try:
                for name, raw in read_members(pieces):
                    if name == "event":
                        theirs = parse_json(raw)
            except (BrokenJson, NotJson) as error:
                raise BrokenAnswer(str(error)) from error
        if not isinstance(theirs, dict):
            raise BrokenAnswer("It does not give the event back.")
        join = self.entering.authorised(rules, join, theirs)
        ends = self.clock.monotonic() + HANDSHAKE_TIMEOUT_S
        arrival = self.backfilling.judge(prepared.resident, join.room_id, [join.event], ends)[0]
        if arrival.verdict.outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
            raise BrokenAnswer(arrival.verdict.reason or "The join is not allowed here.")

    @contextmanager
    def _send_join(
        self, version: str, prepared: Prepared, query: Query | None = None
    ) -> Iterator[Iterable[bytes]]:
        """The pieces of the answer."""
        join = prepared.pdu
        with self.client.stream(
            "PUT",
            prepared.resident,
            federation_path(version, "send_join", join.room_id, join.event_id),
            join.event,
            query,
            timeout_s=SEND_JOIN_TIMEOUT_S,
            max_bytes=MAX_JOIN_ANSWER_BYTES,
            despite_failures=True,
        ) as answer:
            yield iter(answer.read, b"")

    @contextmanager
    def _alone(self, name: str) -> Iterator[Callable[[], None]]:
        """Do something that nobody else does meanwhile, in any process; wait for those who do.

        Gives what is to be called now and then.

        Raises:
            RemoteFailed: somebody else does it and does not come to an end.
        """
        holder = self.randomness.token_urlsafe(12)
        ends = self.clock.monotonic() + _WAIT_S
        while not self.leases.acquire(name, holder, seconds=_LEASE_S):
            if self.clock.monotonic() > ends:
                raise RemoteFailed("The same is under way for somebody else. Try again later.")
            self.clock.sleep(_LOOK_EVERY_S)
        renewed_at = self.clock.monotonic()

        def note_progress() -> None:
            nonlocal renewed_at
            if self.clock.monotonic() - renewed_at > _RENEW_EVERY_S:
                self.leases.acquire(name, holder, seconds=_LEASE_S)
                renewed_at = self.clock.monotonic()

        try:
            yield note_progress
        finally:
            self.leases.release(name, holder)


def _join_of(room_id: RoomId) -> str:
    """Names what only one at a time does: entering a room."""
    return f"join {room_id}"
