"""Memberships of our users in rooms that this server is not in: with the help of one that is.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

import orjson

from architex.domain import errors
from architex.domain.canonical_json import parse_json
from architex.domain.errors import (
    BadJson,
    Forbidden,
    InvalidSignature,
    MatrixError,
    NotFound,
    NotJson,
    RemoteFailed,
)
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    is_server_name,
    server_name_of,
)
from architex.domain.pdu import (
    Pdu,
    build_event,
    check_pdu_format,
    compute_reference_hash,
    parse_pdu,
)
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.events import StateImported
from architex.domain.room.handshakes import complete_template
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room.stripped_state import StrippedEvent, strip_told_state
from architex.domain.room_versions import ROOM_VERSIONS, RoomVersionRules, find_room_version
from architex.domain.signing import sign_event, signatures_of, verify_event_signatures
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import (
    RemoteError,
    RemoteRefused,
    RemoteTimedOut,
    RemoteUnintelligible,
)
from architex.gateways.federation_client import FederationClient, Json, Query, federation_path
from architex.gateways.json_stream import BrokenJson, read_members
from architex.projections.room_servers import RoomServers
from architex.projections.state_exports import load_stripped_state
from architex.storage.commit_queue import CommitQueue
from architex.storage.leases import LeaseStore
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.stripped_states import drop_stripped_state, keep_stripped_state
from architex.usecases.backfilling import Backfilling
from architex.usecases.entering import Entering
from architex.usecases.judging import Judging
from architex.usecases.server_keys import KeyRing
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

SEND_JOIN_TIMEOUT_S: Final = 600.0
MAX_JOIN_ANSWER_BYTES: Final = 1024**3

# For asking all servers together; who has begun to answer is waited for longer.
_ASK_FOR_S: Final = 80.0

_MAX_TEMPLATE_BYTES: Final = 256 * 1024
_MAX_STRIPPED_BYTES: Final = 512 * 1024

# How long we may stand still before another process may take over, and how often we show that we
# do not; how long others wait for us, and how often they look.
_LEASE_S: Final = 90.0
_RENEW_EVERY_S: Final = 5.0
_WAIT_S: Final = 120.0
_LOOK_EVERY_S: Final = 0.25

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


@dataclass(frozen=True)
class RemoteMembership:
    """Lets our users join, knock, leave and invite by way of other servers."""

    client: FederationClient
    entering: Entering
    key_ring: KeyRing
    judging: Judging
    backfilling: Backfilling
    commits: CommitQueue
    room_servers: RoomServers
    leases: LeaseStore
    clock: Clock
    randomness: Randomness

    @property
    def server_name(self) -> ServerName:
        """Ours."""
        return self.commits.signer.server_name

    # ---- join, knock, leave

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
            if self.is_in_room(room_id):
                return False
            self._ask_each(
                candidates,
                lambda server, patience_s: self._join_through(
                    server, patience_s, user_id, room_id, content, note_progress
                ),
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
        self._ask_each(
            candidates,
            lambda server, patience_s: self._join_authorised_by(
                server, patience_s, user_id, room_id, content
            ),
        )

    def knock(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        candidates: Iterable[ServerName],
    ) -> None:
        """Knock at a room that this server is not in. Arguments and errors as of `join`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#knocking-rooms
        """
        self._ask_each(
            candidates,
            lambda server, patience_s: self._knock_through(
                server, patience_s, user_id, room_id, content
            ),
        )

    def leave(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        candidates: Iterable[ServerName],
    ) -> None:
        """Reject an invite to a room that this server is not in, or take back a knock.

        If no other server helps, the user has left all the same, as far as we are concerned.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites
        """
        try:
            rules, leave = self._ask_each(
                candidates,
                lambda server, patience_s: self._leave_through(
                    server, patience_s, user_id, room_id, content
                ),
            )
        except MatrixError as error:
            log.info("%s leaves %s without telling it: %s", user_id, room_id, error.message)
            self.commits.write_room(
                RoomCommand(
                    room_id, lambda session: self._leave_silently(session, user_id, content)
                )
            )
        else:
            self._record_membership(rules, leave, told_by=None)

    def is_in_room(self, room_id: RoomId) -> bool:
        """Whether a user of this server is joined to a room."""
        return self.server_name in self.room_servers.list_servers_of_room(room_id)

    def is_entering(self, room_id: RoomId) -> bool:
        """Whether this server is about to enter a room, in some process of it."""
        return self.leases.find_lease(_join_of(room_id)) is not None

    def _join_through(
        self,
        server: ServerName,
        patience_s: float,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        note_progress: Callable[[], None],
    ) -> None:
        rules, join = self._prepare("join", server, patience_s, user_id, room_id, content)
        try:
            answer = self._send_join("v2", server, join)
            self.entering.enter(rules, join, answer, note_progress)
        except RemoteRefused as refusal:
            if not _is_unknown_endpoint(refusal):
                raise
            self.entering.enter(rules, join, self._send_join("v1", server, join), note_progress)

    def _join_authorised_by(
        self,
        server: ServerName,
        patience_s: float,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
    ) -> None:
        rules, join = self._prepare("join", server, patience_s, user_id, room_id, content)
        theirs = None
        # We have the room: the less of it is told the better.
        with self._send_join("v2", server, join, {"omit_members": "true"}) as pieces:
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
        arrival = self.backfilling.judge(server, room_id, [join.event], ends)[0]
        if arrival.verdict.outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
            raise BrokenAnswer(arrival.verdict.reason or "The join is not allowed here.")

    @contextmanager
    def _send_join(
        self, version: str, server: ServerName, join: Pdu, query: Query | None = None
    ) -> Iterator[Iterable[bytes]]:
        """The pieces of the answer."""
        with self.client.stream(
            "PUT",
            server,
            federation_path(version, "send_join", join.room_id, join.event_id),
            join.event,
            query,
            timeout_s=SEND_JOIN_TIMEOUT_S,
            max_bytes=MAX_JOIN_ANSWER_BYTES,
            despite_failures=True,
        ) as answer:
            yield iter(answer.read, b"")

    def _knock_through(
        self,
        server: ServerName,
        patience_s: float,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
    ) -> None:
        rules, knock = self._prepare("knock", server, patience_s, user_id, room_id, content)
        answer = self.client.put(
            server,
            federation_path("v1", "send_knock", room_id, knock.event_id),
            knock.event,
            timeout_s=HANDSHAKE_TIMEOUT_S,
            max_bytes=_MAX_STRIPPED_BYTES,
            despite_failures=True,
        )
        told = strip_told_state(answer.get("knock_room_state"))
        self._record_membership(rules, knock, told_by=server, told=told)

    def _leave_through(
        self,
        server: ServerName,
        patience_s: float,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
    ) -> tuple[RoomVersionRules, Pdu]:
        rules, leave = self._prepare("leave", server, patience_s, user_id, room_id, content)
        for version in ("v2", "v1"):
            try:
                self.client.put(
                    server,
                    federation_path(version, "send_leave", room_id, leave.event_id),
                    leave.event,
                    timeout_s=HANDSHAKE_TIMEOUT_S,
                    max_bytes=_MAX_TEMPLATE_BYTES,
                    despite_failures=True,
                )
                break
            except RemoteRefused as refusal:
                if version == "v1" or not _is_unknown_endpoint(refusal):
                    raise
        return rules, leave

    def _prepare(
        self,
        membership: Membership,
        server: ServerName,
        patience_s: float,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
    ) -> tuple[RoomVersionRules, Pdu]:
        """Our signed event, standing where another server says; and the rules of its room.

        Raises:
            _NoTemplateInTime: the server did not say where in so many seconds.
        """
        # make_leave takes no versions: who was invited knows the room's.
        query = {} if membership == "leave" else {"ver": list(ROOM_VERSIONS)}
        try:
            answer = self.client.get(
                server,
                federation_path("v1", f"make_{membership}", room_id, user_id),
                query,
                timeout_s=patience_s,
                max_bytes=_MAX_TEMPLATE_BYTES,
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
            room_id=room_id,
            user_id=user_id,
            content=content,
            resident=server,
            origin_server_ts=self.clock.now_ms(),
            opaque_id=self.commits.new_opaque_id(),
        )
        return rules, self._sign(rules, unsigned_event)

    def _sign(self, rules: RoomVersionRules, unsigned_event: Mapping[str, Any]) -> Pdu:
        signer = self.commits.signer
        event, event_id = sign_event(rules, unsigned_event, signer.server_name, signer.key)
        # Not by the ID, so that its format is checked.
        pdu = parse_pdu(rules, event)
        if pdu.event_id != event_id:
            raise ValueError(f"{event_id} was signed as {pdu.event_id}")
        return pdu

    # ---- what is remembered of rooms that this server is not in

    def _record_membership(
        self,
        rules: RoomVersionRules,
        pdu: Pdu,
        *,
        told_by: ServerName | None,
        told: Sequence[StrippedEvent] = (),
    ) -> None:
        """Remember a membership of our user; and what was told of the room, if it was."""

        def decide(session: RoomSession) -> None:
            session.record(_outlier(session, pdu))
            if told_by is None:
                session.also(drop_stripped_state(pdu.sender, session.head.room_nid))
            else:
                room_nid = session.head.room_nid
                session.also(keep_stripped_state(pdu.sender, room_nid, told_by, told))

        self.commits.write_room(RoomCommand(pdu.room_id, decide, creates=rules))

    def _leave_silently(
        self, session: RoomSession, user_id: UserId, content: Mapping[str, Any]
    ) -> None:
        """Let the user have left, by an event that only we know."""
        rules = session.room.rules
        member = session.find_state("m.room.member", user_id)
        if member is None or member.membership not in ("invite", "knock", "join"):
            return
        leave = self._sign(
            rules,
            build_event(
                rules,
                room_id=member.room_id,
                sender=user_id,
                type="m.room.member",
                state_key=user_id,
                content=content,
                prev_events=[member.event_id],
                auth_events=[member.event_id],
                depth=member.depth + 1,
                origin_server_ts=session.now_ms,
                event_id=f"${self.commits.new_opaque_id()}:{self.server_name}",
                reference_hashes={member.event_id: compute_reference_hash(rules, member.event)},
            ),
        )
        session.record(_outlier(session, leave))
        session.also(drop_stripped_state(user_id, session.head.room_nid))

    # ---- invite

    def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Invite a user of another server to a room that this server is in.

        Args:
            draft: the m.room.member event.

        Returns the invite.

        Raises:
            Forbidden: the inviter may not, or the other server wants no such invite.
            UnsupportedRoomVersion: the other server does not have the version of the room.
            BadJson, RemoteFailed: the other server does not answer as it should; nobody is
                invited.
            UnknownRoom: this server does not know the room.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
        """
        user_id = draft.state_key or ""
        invited_server = server_name_of(user_id)

        def decide(session: RoomSession) -> tuple[Pdu, list[bytes]]:
            for key in {("m.room.create", ""), *session.room.auth_types(draft)}:
                session.find_state(*key)
            stripped = load_stripped_state(
                session.connection,
                session.room.rules,
                session.head.room_nid,
                [("m.room.member", draft.sender)],
            )
            return session.recommend(session.compose(draft)), stripped

        invite, stripped = self.commits.write_room(RoomCommand(room_id, decide))
        rules = self.commits.event_log.rules_of(room_id)
        try:
            answer = self._ask_each(
                [invited_server],
                lambda server, _: self._send_invite(server, rules, invite, stripped),
            )
        except errors.IncompatibleRoomVersion as error:
            raise errors.UnsupportedRoomVersion(
                f"{invited_server} does not have the version of the room."
            ) from error
        event = self._co_signed(rules, invite, user_id, answer.get("event"))
        find_key = self.key_ring.for_events(rules, [event])
        verdict = self.judging.judge(room_id, [event], find_key)[0]
        if verdict.outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
            raise Forbidden(verdict.reason or "The user cannot be invited any more.")
        return invite.event_id

    def _send_invite(
        self, server: ServerName, rules: RoomVersionRules, invite: Pdu, stripped: Sequence[bytes]
    ) -> Json:
        told = [orjson.loads(event_json) for event_json in stripped]
        try:
            return self._put_invite(
                "v2",
                server,
                invite,
                {
                    "room_version": rules.version,
                    "event": invite.event,
                    "invite_room_state": told,
                },
            )
        except RemoteRefused as refusal:
            # "Senders which receive a 400 or 404 response to this endpoint should retry using the
            # v1 API as the server may be older, if the room version is 1 or 2."
            if refusal.status not in (400, 404) or rules.version not in ("1", "2"):
                raise
        event = {**invite.event, "unsigned": {"invite_room_state": told}}
        return self._put_invite("v1", server, invite, event)

    def _put_invite(
        self, version: str, server: ServerName, invite: Pdu, content: Mapping[str, Any]
    ) -> Json:
        return self.client.put(
            server,
            federation_path(version, "invite", invite.room_id, invite.event_id),
            content,
            timeout_s=HANDSHAKE_TIMEOUT_S,
            max_bytes=_MAX_STRIPPED_BYTES,
            despite_failures=True,
        )

    def _co_signed(
        self, rules: RoomVersionRules, invite: Pdu, user_id: UserId, theirs: object
    ) -> Mapping[str, Any]:
        """The invite with the signature of the invited user's server.

        Raises:
            BadJson, TooLarge: it gave back what is no event.
            RemoteFailed: it did not sign it.
        """
        server_name = server_name_of(user_id)
        if not isinstance(theirs, dict):
            raise BadJson(f"{server_name} does not give the invite back.")
        check_pdu_format(rules, {key: theirs[key] for key in theirs if key != "unsigned"})
        given = signatures_of(theirs, server_name)
        signatures = {**invite.event["signatures"], server_name: dict(given)}
        event = {**invite.event, "signatures": signatures}
        # Keys are looked up of those who send events; so this once it is as if the user had.
        find_key = self.key_ring.for_events(rules, [{**event, "sender": user_id}])
        try:
            verify_event_signatures(
                rules,
                event,
                [server_name],
                lambda name, key_id: find_key(name, key_id, invite.origin_server_ts),
            )
        except InvalidSignature as error:
            raise RemoteFailed(f"{server_name} did not sign the invite: {error}") from error
        return event

    # ---- asking

    def _ask_each(
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


def _outlier(session: RoomSession, pdu: Pdu) -> StateImported:
    """The fact of a membership in a room that this server is not in."""
    return StateImported(
        originator_id=pdu.room_id,
        originator_version=session.room.version + 1,
        pdu=pdu,
        received_ts=session.now_ms,
    )


def _is_unknown_endpoint(refusal: RemoteRefused) -> bool:
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
