"""Invites of our users by other servers, into rooms that this server may not be in.

Such a room is known here by nothing but the user's membership, and by what the inviting server
told of it. When an invite is taken back, that is told by events of a room we are not in, too.

Spec: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from architex.domain.auth_rules import check_state_dependent_auth_rules
from architex.domain.canonical_json import Json
from architex.domain.errors import (
    Forbidden,
    IncompatibleRoomVersion,
    InvalidParam,
    InvalidSignature,
    NotFound,
)
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    is_user_id,
    server_name_of,
)
from architex.domain.pdu import Pdu, StateKey, has_valid_content_hash, parse_pdu
from architex.domain.room.events import StateImported
from architex.domain.room.pdu_checks import Outcome, Verdict, check_form
from architex.domain.room.stripped_state import (
    StrippedEvent,
    find_told,
    read_told_state,
    strip_told_state,
    verify_told_state,
)
from architex.domain.room_versions import RoomVersionRules, find_room_version
from architex.domain.signing import (
    add_event_signature,
    servers_that_must_sign,
    verify_event_signatures,
)
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.stripped_states import (
    drop_stripped_state,
    keep_stripped_state,
    list_stripped_states,
)
from architex.usecases.invite_permission import InvitePermission
from architex.usecases.judging import Judging
from architex.usecases.member_events import ProfileFinder
from architex.usecases.rate_limits import RateLimits
from architex.usecases.server_keys import KeyRing

_KEYS_TIMEOUT_S: Final = 10.0
_OLDEST_VERSIONS: Final = ("1", "2")


@dataclass(frozen=True)
class RemoteInvites:
    """What other servers ask of the server of a user whom they invite."""

    commits: CommitQueue
    judging: Judging
    branches: BranchStates
    key_ring: KeyRing
    room_servers: RoomServers
    acls: ServerAcls
    members: MemberReads
    profiles: ProfileFinder
    invite_permission: InvitePermission
    rate_limits: RateLimits

    @property
    def server_name(self) -> ServerName:
        """Ours."""
        return self.commits.signer.server_name

    def receive_old_invite(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, event: Mapping[str, Any]
    ) -> Json:
        """As `receive_invite`, into a room of version 1 or 2: their events look alike.

        Args:
            event: what is told of the room is in its `unsigned`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid
        """
        unsigned = event.get("unsigned")
        told = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        create = find_told(strip_told_state(told), "m.room.create")
        said = None if create is None else create["content"].get("room_version")
        version = said if said in _OLDEST_VERSIONS else "1"
        head = self.commits.event_log.find_head(room_id)
        if head is not None and head.room_version in _OLDEST_VERSIONS:
            version = head.room_version
        return self.receive_invite(origin, room_id, event_id, version, event, told)

    def receive_invite(
        self,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        room_version: str,
        event: Mapping[str, Any],
        told_state: object,
    ) -> Json:
        """Take an invite of one of our users; they see it.

        Where we are in the room it is judged as an event of the room, which comes a second time
        with the others. If it follows some that are not here, it is seen when it comes again.

        Args:
            told_state: what is told of the room; whatever came.

        Returns the event with our signature beside theirs.

        Raises:
            IncompatibleRoomVersion: we do not have the room's version.
            BadJson, InvalidParam, TooLarge: the event is no such invite.
            Forbidden: it is not of the inviting server, or not signed by it; the room's ACL denies
                that server; the user is in the room or banned from it, or the rules of the room
                do not allow the invite.
            InviteBlocked: the user wants no invites.
            NotFound: there is no such user.
            LimitExceeded: that server asks too often, or invited this user too often lately.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid
        """
        self.rate_limits.spend("federation", origin)
        rules = find_room_version(room_version)
        if rules is None:
            raise IncompatibleRoomVersion(
                f"This server does not have room version {room_version}.",
                room_version=room_version,
            )
        is_here = self._is_here(room_id)
        if is_here:
            self._check_acl(origin, room_id)
        pdu = self._read_invite(rules, origin, room_id, event_id, event)
        user_id = pdu.key[1]
        self.rate_limits.spend("invites", f"{origin} {user_id}")
        self._verify(rules, origin, pdu)
        self.invite_permission.check(user_id)
        signed = add_event_signature(rules, pdu.event, self.server_name, self.commits.signer.key)
        if is_here:
            self._check_in_room(pdu)
            self._judge(rules, room_id, signed)
        else:
            self._check_user(user_id)
            told = self._read_told_state(rules, pdu, told_state)
            self._record(rules, origin, parse_pdu(rules, signed), told)
        # The rest of the event remains as it came.
        unsigned = {key: event[key] for key in ("unsigned",) if key in event}
        return {**signed, **unsigned}

    def take_back(self, origin: ServerName, event: Mapping[str, Any]) -> bool:
        """Take an event of a room that this server is not in, if it ends an invite or a knock.

        One of our users was uninvited or their knock refused. That is believed of the server by
        whose word we know of the room, of users of the inviter's server and of those of whom we
        were told with the invite or knock that they set the room up; and, where this server has
        left the room, of who was allowed to do it then.

        Args:
            event: as it came in a transaction of `origin`.

        Returns whether it was taken, now or before; there is no other use for such events.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites
        """
        room_id, user_id = event.get("room_id"), event.get("state_key")
        if not isinstance(room_id, str) or not isinstance(user_id, str):
            return False
        head = self.commits.event_log.find_head(room_id)
        if (
            head is None
            or not is_user_id(user_id)
            or server_name_of(user_id) != self.server_name
            or self._is_here(room_id)
        ):
            return False
        member = self.members.find_member(user_id, head.room_nid)
        if member is None:
            return False
        rules = self.commits.event_log.rules_of(room_id)
        bare = {key: value for key, value in event.items() if key != "unsigned"}
        find_key = self.key_ring.for_events(rules, [bare], timeout_s=_KEYS_TIMEOUT_S)
        pdu = check_form(rules, room_id, bare, find_key)
        if (
            isinstance(pdu, Verdict)
            or pdu.membership not in ("leave", "ban")
            or pdu.sender == user_id
        ):
            return False
        decide = partial(self._take_back, origin, pdu)
        return self.commits.write_room(RoomCommand(room_id, decide, frozenset({pdu.key})))

    # ---- checks

    def _read_invite(
        self,
        rules: RoomVersionRules,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        event: Mapping[str, Any],
    ) -> Pdu:
        """The event, if it is what the path says, an invite of a user of ours by one of theirs.

        Errors as of `Resident`, where no specific one is mandated either.

        Raises:
            BadJson, InvalidParam, TooLarge, Forbidden: it is not.
        """
        pdu = parse_pdu(rules, {key: value for key, value in event.items() if key != "unsigned"})
        if pdu.room_id != room_id:
            raise InvalidParam("The event is of another room than the path says.")
        if pdu.event_id != event_id:
            raise InvalidParam(f"The event is {pdu.event_id}, not {event_id}.")
        if pdu.type != "m.room.member" or pdu.membership != "invite":
            raise InvalidParam("The event is no m.room.member of membership invite.")
        user_id = pdu.state_key
        if user_id is None or not is_user_id(user_id):
            raise InvalidParam("The event invites nobody.")
        if server_name_of(user_id) != self.server_name:
            raise InvalidParam(f"{user_id} is no user of this server.")
        if server_name_of(pdu.sender) != origin:
            raise Forbidden(f"{pdu.sender} is no user of {origin}.")
        if not has_valid_content_hash(rules, pdu.event):
            raise InvalidParam("The content hash of the event does not match.")
        return pdu

    def _verify(self, rules: RoomVersionRules, origin: ServerName, pdu: Pdu) -> None:
        """Check that the inviting server signed the event.

        Raises:
            Forbidden: it did not.
        """
        find_key = self.key_ring.for_events(rules, [pdu.event], timeout_s=_KEYS_TIMEOUT_S)
        try:
            verify_event_signatures(
                rules,
                pdu.event,
                {origin} | servers_that_must_sign(rules, pdu),
                lambda server_name, key_id: find_key(server_name, key_id, pdu.origin_server_ts),
            )
        except InvalidSignature as error:
            raise Forbidden(error.message) from error

    def _check_user(self, user_id: UserId) -> None:
        """Check that there is such a user.

        Not asked of rooms that we are in: there the invite is an event like others, and comes
        anyhow.

        Raises:
            NotFound: there is not.
        """
        if self.profiles.find_profile(user_id) is None:
            raise NotFound(f"There is no user {user_id} on this server.")

    def _is_here(self, room_id: RoomId) -> bool:
        head = self.commits.event_log.find_head(room_id)
        return head is not None and self.room_servers.is_in_room(head.room_nid, self.server_name)

    def _check_acl(self, origin: ServerName, room_id: RoomId) -> None:
        """Check that a server may take part in a room that we are in.

        Raises:
            Forbidden: the room's ACL denies it.
        """
        head = self.commits.event_log.find_head(room_id)
        if head is not None and not self.acls.allows(head.room_nid, origin):
            raise Forbidden(f"{origin} is denied access to the room.")

    def _check_in_room(self, pdu: Pdu) -> None:
        """Check an invite into a room that we are in.

        Raises:
            Forbidden: the user is in the room, or banned from it.
        """

        def decide(session: RoomSession) -> str | None:
            current = session.find_state(*pdu.key)
            return None if current is None else current.membership

        membership = self.commits.write_room(
            RoomCommand(pdu.room_id, decide, frozenset({pdu.key}))
        )
        if membership in ("join", "ban"):
            raise Forbidden(f"The membership of {pdu.key[1]} is {membership}.")

    def _judge(self, rules: RoomVersionRules, room_id: RoomId, event: Mapping[str, Any]) -> None:
        """Judge an invite into a room that we are in, if its place there is known.

        Raises:
            Forbidden: the rules do not allow it.
        """
        find_key = self.key_ring.for_events(rules, [event], timeout_s=_KEYS_TIMEOUT_S)
        (verdict,) = self.judging.judge(room_id, [event], find_key)
        if verdict.outcome in (Outcome.REJECTED, Outcome.SOFT_FAILED):
            raise Forbidden(verdict.reason or "The room's rules do not allow this.")

    def _read_told_state(
        self, rules: RoomVersionRules, pdu: Pdu, told_state: object
    ) -> Sequence[StrippedEvent]:
        """What is told of the room, as strictly as its version wants.

        Raises:
            InvalidParam: it is not as the version wants.
        """
        # Servers MAY check in versions 1 to 11: not all who send invites there follow v1.16 yet.
        if not rules.room_id_is_create_hash:
            return strip_told_state(told_state)
        told = read_told_state(rules, pdu.room_id, told_state)
        find_key = self.key_ring.for_events(
            rules, [event.event for event in told], timeout_s=_KEYS_TIMEOUT_S
        )
        return verify_told_state(rules, told, find_key)

    # ---- under the room's lock

    def _record(
        self,
        rules: RoomVersionRules,
        origin: ServerName,
        pdu: Pdu,
        told: Sequence[StrippedEvent],
    ) -> None:
        """Remember the invite into a room that we are not in, and what was told of the room."""

        def decide(session: RoomSession) -> None:
            if self._is_here(pdu.room_id):
                return  # since a moment ago: the invite comes with the other events
            current = session.find_state(*pdu.key)
            if current is not None and current.event_id == pdu.event_id:
                return
            if self._is_known(session, pdu):
                raise Forbidden("This invite came before, and is no longer so.")
            session.record(_outside_fact(session, pdu, current))
            keeping = keep_stripped_state(pdu.key[1], session.head.room_nid, origin, told)
            session.also(keeping)

        prefetch: frozenset[StateKey] = frozenset({pdu.key})
        self.commits.write_room(RoomCommand(pdu.room_id, decide, prefetch, creates=rules))

    def _take_back(self, origin: ServerName, pdu: Pdu, session: RoomSession) -> bool:
        current = session.find_state(*pdu.key)
        if current is not None and current.event_id == pdu.event_id:
            return True
        if (
            current is None
            or current.membership not in ("invite", "knock")
            or self._is_known(session, pdu)
            or self._is_here(pdu.room_id)
        ):
            return False
        user_id, room_nid = pdu.key[1], session.head.room_nid
        told = list_stripped_states(session.connection, user_id, [room_nid]).get(room_nid)
        believed = {server_name_of(current.sender)}
        if told is not None:
            believed |= {told.told_by, *(server_name_of(e["sender"]) for e in told.events)}
        # Of a knock, the sender's server is ours; so may the inviter's be, who has left since.
        is_believed = (believed - {self.server_name}) & {origin, server_name_of(pdu.sender)}
        if not is_believed and not _was_allowed(session, pdu):
            return False
        session.record(_outside_fact(session, pdu, current))
        session.also(drop_stripped_state(user_id, room_nid))
        return True

    def _is_known(self, session: RoomSession, pdu: Pdu) -> bool:
        """Whether the log has an event of that ID, in this room or another."""
        if session.is_uncommitted(pdu.event_id):
            return True
        found = self.branches.find_pdus(session.connection, session.room.rules, [pdu.event_id])
        return bool(found)


def _was_allowed(session: RoomSession, pdu: Pdu) -> bool:
    """Whether the state of the room allows an event, as this server knew it when it left."""
    if session.find_state("m.room.create") is None:
        return False  # it never was in the room
    try:
        check_state_dependent_auth_rules(session.room.rules, pdu, session.find_state)
    except Forbidden:
        return False
    return True


def _outside_fact(session: RoomSession, pdu: Pdu, current: Pdu | None) -> StateImported:
    """The fact that a membership changed in a room that we are not in."""
    return StateImported(
        originator_id=session.room.room_id,
        originator_version=session.room.version + 1,
        pdu=pdu,
        received_ts=session.now_ms,
        replaces=None if current is None else current.event_id,
    )
