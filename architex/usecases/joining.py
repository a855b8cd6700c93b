"""What people do to their own memberships: join, knock, leave, forget.

In rooms that this server is in, they are written here; in others by way of servers that are.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-membership
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from architex.domain.errors import (
    CannotLeaveServerNoticeRoom,
    DatabaseUnavailable,
    Forbidden,
    GuestAccessForbidden,
    MatrixError,
    RemoteFailed,
    UnableToAuthoriseJoin,
    UnableToGrantJoin,
)
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    server_name_of,
)
from architex.domain.room.handshakes import AUTHORISED_VIA
from architex.gateways.errors import RemoteError
from architex.projections.member_reads import MemberReads
from architex.projections.room_servers import RoomServers
from architex.storage.commit_queue import CommitQueue
from architex.storage.event_log import EventLog
from architex.storage.forgotten_rooms import ForgottenRooms
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import USUAL_KEYS, find_membership, unknown_rooms_forbidden
from architex.usecases.member_events import (
    ProfileFinder,
    member_content,
    member_draft,
    with_reason,
)
from architex.usecases.remote_joining import RemoteJoining
from architex.usecases.remote_membership import RemoteMembership
from architex.usecases.requester import Requester
from architex.usecases.restricted_joins import RestrictedJoins
from architex.usecases.room_succession import RoomSuccession, find_predecessor
from architex.usecases.side_by_side import call_each
from architex.usecases.third_party_invites import ThirdPartyInvites
from architex.usecases.unredacted import content_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_REJECTED_AT_ONCE: Final = 8

MAX_CANDIDATES: Final = 10
"""Servers of a room that are asked for their help."""

# Servers vouch for these: no client sets them by joining.
_VOUCHED_KEYS: Final = frozenset({"third_party_invite", AUTHORISED_VIA})
_SERVER_SET_KEYS: Final = _VOUCHED_KEYS | {"membership", "reason"}

_LEAVE: Final[Mapping[str, Any]] = {"membership": "leave"}


@dataclass(frozen=True)
class Joining:
    """What people do to their own memberships.

    Attributes:
        tell_profile: brings a membership up to date with the profile of the user.
    """

    commits: CommitQueue
    event_log: EventLog
    members: MemberReads
    profiles: ProfileFinder
    forgotten: ForgottenRooms
    succession: RoomSuccession
    room_servers: RoomServers
    restricted: RestrictedJoins
    remote_joining: RemoteJoining
    remote_membership: RemoteMembership
    third_party_invites: ThirdPartyInvites
    server_name: ServerName
    notices_sender: UserId
    tell_profile: Callable[[UserId, RoomId], None]

    def join(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        reason: str | None = None,
        third_party_signed: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        via: Sequence[ServerName] = (),
    ) -> RoomId:
        """Become a member of a room; who is one already stays one.

        Args:
            custom: what the m.room.member event shall hold beside what the server puts there.
            third_party_signed: proof from an identity server, for an invite by e-mail address.
            via: servers that are said to be in the room.

        Raises:
            Forbidden: the join rules do not let the user in.
            GuestAccessForbidden: the user is a guest, and the room lets none in.
            NotFound: neither this server nor those that it asked know the room.
            RemoteFailed: this server is not in the room, and others do not help.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#joining-rooms
        """
        user_id = requester.user_id
        kept = {key: value for key, value in (custom or {}).items() if key not in _SERVER_SET_KEYS}
        shown = self._member_content(user_id, "join", reason)
        content = {**kept, **shown}
        if third_party_signed is not None:
            with _remote_errors_named():
                self.third_party_invites.claim(room_id, user_id, third_party_signed)
        self._join(requester, room_id, content, via)
        # Joining another server's room takes its time, and the profile was not told there yet.
        if self._member_content(user_id, "join", reason) != shown:
            self.tell_profile(user_id, room_id)
        return room_id

    def join_with(
        self,
        requester: Requester,
        room_id: RoomId,
        content: Mapping[str, Any],
        origin_server_ts: int | None = None,
    ) -> EventId:
        """As `join`, with the content of the m.room.member event; returns that event.

        Raises: as `join`; Forbidden for a room of which nobody here knows.
        """
        user_id = requester.user_id
        if not self._is_here(room_id) and not self._candidates(user_id, room_id, ()):
            raise Forbidden("You are not in this room.")
        kept = {key: value for key, value in content.items() if key not in _VOUCHED_KEYS}
        self._join(requester, room_id, kept, (), origin_server_ts)
        return self._membership_event(user_id, room_id)

    def _join(
        self,
        requester: Requester,
        room_id: RoomId,
        content: Mapping[str, Any],
        via: Sequence[ServerName],
        origin_server_ts: int | None = None,
    ) -> None:
        user_id = requester.user_id

        def decide(session: RoomSession) -> RoomId | None:
            if find_membership(session, user_id) == "join":
                return None
            if requester.is_guest and not _guests_can_join(session):
                raise GuestAccessForbidden("Guests may not join this room.")
            join_content = dict(content)
            authoriser = self.restricted.find_authoriser(session, user_id)
            if authoriser is not None:
                join_content[AUTHORISED_VIA] = authoriser
            session.append(member_draft(user_id, user_id, join_content, origin_server_ts))
            session.also(self.forgotten.remember_again(user_id, room_id))
            create = session.find_state("m.room.create")
            return None if create is None else find_predecessor(create.content)

        if not self._is_here(room_id):
            candidates = self._candidates(user_id, room_id, via)
            if self.remote_joining.join(user_id, room_id, content, candidates):
                if requester.is_guest:
                    self._check_guests_can_join(requester, room_id)
                self._note_joined(user_id, room_id)
                return
        try:
            predecessor = self._write(room_id, [user_id], decide)
        except (UnableToAuthoriseJoin, UnableToGrantJoin) as error:
            others = self._candidates(user_id, room_id, via)
            if not others:
                raise Forbidden(error.message) from error
            self.remote_joining.join_authorised(user_id, room_id, content, others)
            if requester.is_guest:
                self._check_guests_can_join(requester, room_id)
            self._note_joined(user_id, room_id)
            return
        if predecessor is not None:
            self.succession.follow(user_id, predecessor, room_id)

    def knock(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        reason: str | None = None,
        via: Sequence[ServerName] = (),
    ) -> RoomId:
        """Ask to be let into a room.

        Args:
            via: servers that are said to be in the room.

        Raises:
            Forbidden: the join rules do not allow knocking, or the user is a member or banned.
            NotFound: neither this server nor those that it asked know the room.
            RemoteFailed: this server is not in the room, and others do not help.
        """
        user_id = requester.user_id
        content = self._member_content(user_id, "knock", reason)
        if not self._is_here(room_id):
            self.remote_membership.knock(
                user_id, room_id, content, self._candidates(user_id, room_id, via)
            )
            return room_id

        def decide(session: RoomSession) -> RoomId:
            if find_membership(session, user_id) == "knock":
                return room_id
            session.append(member_draft(user_id, user_id, content))
            return room_id

        return self._write(room_id, [user_id], decide)

    def is_joined(self, user_id: UserId, room_id: RoomId) -> bool:
        """Whether a user is in a room, as far as this server knows."""
        return self.members.is_joined_to_any(user_id, [room_id])

    def leave(self, requester: Requester, room_id: RoomId, *, reason: str | None = None) -> None:
        """Leave a room, reject an invite, or take back a knock; leaving twice changes nothing.

        Raises:
            Forbidden: the user never was in the room, or is banned.
            CannotLeaveServerNoticeRoom: it is an invite to the user's server notice room.
        """
        content = with_reason({"membership": "leave"}, reason)
        self._leave(requester.user_id, room_id, content)

    def leave_with(
        self,
        requester: Requester,
        room_id: RoomId,
        content: Mapping[str, Any],
        origin_server_ts: int | None = None,
    ) -> EventId:
        """As `leave`, with the content of the m.room.member event; returns that event."""
        return self._leave(requester.user_id, room_id, content, origin_server_ts)

    def _leave(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        origin_server_ts: int | None = None,
        *,
        even_notices: bool = False,
    ) -> EventId:
        """Leave.

        Args:
            even_notices: also reject an invite to the server notice room.
        """

        def decide(session: RoomSession) -> EventId:
            member = session.find_state("m.room.member", user_id)
            if member is None:
                raise Forbidden("You are not in this room.")
            if member.membership == "invite" and not even_notices:
                self._check_may_reject(session, user_id)
            if member.membership == "leave":
                return member.event_id
            draft = member_draft(user_id, user_id, content, origin_server_ts)
            return session.append(draft).event_id

        if self._is_invited_elsewhere(user_id, room_id):
            self.remote_membership.leave(
                user_id, room_id, content, self._candidates(user_id, room_id, ())
            )
            return self._membership_event(user_id, room_id)
        with unknown_rooms_forbidden():
            return self._write(room_id, [user_id], decide)

    def forget(self, requester: Requester, room_id: RoomId) -> None:
        """Show the user nothing of a room any more that they have left.

        Raises:
            CannotForget: the user is still in the room.
            Forbidden: the user never was in the room.
        """
        head = self.event_log.find_head(room_id)
        member = (
            self.members.find_member(requester.user_id, head.room_nid)
            if head is not None
            else None
        )
        if member is None:
            raise Forbidden("You are not in this room.")
        if member.membership not in ("leave", "ban"):
            raise CannotForget("Leave the room first; then you can forget it.")
        self.commits.write_rows(
            self.forgotten.forget(requester.user_id, room_id), wake_users=[requester.user_id]
        )

    def list_joined_rooms(self, requester: Requester) -> list[RoomId]:
        """The rooms that the user is a member of."""
        return self.members.list_joined_rooms(requester.user_id)

    def leave_all(self, requester: Requester) -> None:
        """Leave every room that this server is in, and reject the invites to them.

        As users do whose account ends. Rooms that refuse are passed over.

        Raises:
            DatabaseUnavailable: not all could be left.
        """
        user_id = requester.user_id
        for room_id in self.members.list_rooms_to_leave(user_id):
            if not self._is_invited_elsewhere(user_id, room_id):
                self._leave_for_good(user_id, room_id)

    def reject_all(self, requester: Requester) -> None:
        """Reject the invites that `leave_all` leaves: those to rooms of other servers.

        That takes as long as these servers do.
        """
        user_id = requester.user_id
        call_each(
            lambda room_id: self._leave_for_good(user_id, room_id),
            self.members.list_rooms_to_leave(user_id),
            at_once=_REJECTED_AT_ONCE,
        )

    def _leave_for_good(self, user_id: UserId, room_id: RoomId) -> None:
        try:
            self._leave(user_id, room_id, _LEAVE, even_notices=True)
        except DatabaseUnavailable:
            raise
        except MatrixError as error:
            log.warning("%s stays in %s: %s", user_id, room_id, error.message)

    # Within

    def _check_may_reject(self, session: RoomSession, user_id: UserId) -> None:
        """Check that an invite may be rejected; raises CannotLeaveServerNoticeRoom.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#server-notices
        """
        member = session.find_state("m.room.member", user_id)
        if member is not None and member.sender == self.notices_sender:
            raise CannotLeaveServerNoticeRoom("Notices of this server come there; join it.")

    def _write(
        self, room_id: RoomId, users: list[UserId], decide: Callable[[RoomSession], T]
    ) -> T:
        prefetch = USUAL_KEYS | {("m.room.member", user_id) for user_id in users}
        return self.commits.write_room(RoomCommand(room_id, decide, prefetch))

    def _member_content(
        self, user_id: UserId, membership: str, reason: str | None
    ) -> dict[str, Any]:
        return member_content(self.profiles.find_profile(user_id) or {}, membership, reason)

    def _membership_event(self, user_id: UserId, room_id: RoomId) -> EventId:
        """The event that says how a user stands to a room, which we know to be there."""
        key = ("m.room.member", user_id)

        def read(session: RoomSession) -> EventId:
            member = session.find_state(*key)
            if member is None:
                raise Forbidden("You are not in this room.")
            return member.event_id

        return self.commits.write_room(RoomCommand(room_id, read, frozenset({key})))

    def _is_here(self, room_id: RoomId) -> bool:
        """Whether what happens in a room is decided here: this server is in it, or nobody is.

        The last to leave a room of this server's may come back.
        """
        servers = self.room_servers.list_servers_of_room(room_id)
        if servers:
            return self.server_name in servers
        head = self.event_log.find_head(room_id)
        return head is not None and self.members.has_create(head.room_nid)

    def _is_invited_elsewhere(self, user_id: UserId, room_id: RoomId) -> bool:
        """Whether a user is invited to, or knocks at, a room that this server is not in."""
        head = self.event_log.find_head(room_id)
        member = None if head is None else self.members.find_member(user_id, head.room_nid)
        return (
            member is not None
            and member.membership in ("invite", "knock")
            and not self._is_here(room_id)
        )

    def _candidates(
        self, user_id: UserId, room_id: RoomId, via: Sequence[ServerName]
    ) -> list[ServerName]:
        """Other servers that may be in a room, the likeliest first."""
        candidates = list(via)
        head = self.event_log.find_head(room_id)
        if head is not None:
            member = self.members.find_member(user_id, head.room_nid)
            if member is not None and member.membership == "invite":
                candidates.append(server_name_of(member.sender))
            candidates += self.members.list_tellers(user_id, head.room_nid)
            candidates += self.room_servers.list_servers(head.room_nid)[:MAX_CANDIDATES]
        return [name for name in dict.fromkeys(candidates) if name != self.server_name]

    def _check_guests_can_join(self, requester: Requester, room_id: RoomId) -> None:
        """Let a guest stay in a room only if it wants guests; before, its state was not here.

        Raises:
            GuestAccessForbidden: it does not, and the guest has left again.
        """
        prefetch = frozenset({("m.room.guest_access", "")})
        if not self.commits.write_room(RoomCommand(room_id, _guests_can_join, prefetch)):
            self.leave(requester, room_id)
            raise GuestAccessForbidden("Guests may not join this room.")

    def _note_joined(self, user_id: UserId, room_id: RoomId) -> None:
        """What follows a join that was made by way of another server."""
        self.commits.write_rows(self.forgotten.remember_again(user_id, room_id))
        create = self.commits.write_room(
            RoomCommand(room_id, lambda session: session.find_state("m.room.create"), USUAL_KEYS)
        )
        predecessor = None if create is None else find_predecessor(create.content)
        if predecessor is not None:
            self.succession.follow(user_id, predecessor, room_id)


@contextmanager
def _remote_errors_named() -> Iterator[None]:
    """Turn a failure of the server of who made an offer into what its user is told."""
    try:
        yield
    except RemoteError as error:
        raise RemoteFailed("The server of who invites you does not help.") from error


class CannotForget(MatrixError):
    """The user is still in the room.

    The spec gives M_UNKNOWN:
    https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget
    """

    errcode = "M_UNKNOWN"


def _guests_can_join(session: RoomSession) -> bool:
    guest_access = session.find_state("m.room.guest_access")
    return (
        guest_access is not None
        and content_of(session, guest_access).get("guest_access") == "can_join"
    )
