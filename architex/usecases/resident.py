"""Resident: what servers that are not in a room ask of this one, which is: let our user in.

They get a template of an event, sign it, and send it back; here it is judged, recorded, and handed
on to the other servers in the room. Joins, knocks, and leaves of those who were invited.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import orjson

from architex.domain.canonical_json import Json, encode_lenient_json
from architex.domain.errors import (
    Forbidden,
    IncompatibleRoomVersion,
    InvalidParam,
    InvalidPdu,
    InvalidSignature,
    UnknownRoom,
)
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    is_user_id,
    parse_user_id,
    server_name_of,
)
from architex.domain.pdu import Pdu, StateKey, has_valid_content_hash, parse_pdu
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.events import ACCEPTED, StateBefore
from architex.domain.room.handshakes import AUTHORISED_VIA
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.domain.signing import (
    add_event_signature,
    servers_that_must_sign,
    verify_event_signatures,
)
from architex.projections.branch_states import BranchStates
from architex.projections.federation_outbox import forward
from architex.projections.room_reads import list_heroes
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.projections.state_exports import (
    list_auth_chain,
    list_state,
    list_state_under,
    list_state_without_members,
    load_stripped_state,
    stream_events,
)
from architex.storage.commit_queue import CommitQueue
from architex.storage.event_log import RoomHead
from architex.storage.pool import Database, PgConnection
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import USUAL_KEYS
from architex.usecases.judging import Judging
from architex.usecases.rate_limits import RateLimits
from architex.usecases.restricted_joins import RestrictedJoins, is_restricted
from architex.usecases.server_keys import KeyRing

Membership: TypeAlias = Literal["join", "knock", "leave"]

_KEYS_TIMEOUT_S: Final = 10.0
_NAMING_KEYS: Final[tuple[StateKey, ...]] = (("m.room.name", ""), ("m.room.canonical_alias", ""))


@dataclass(frozen=True)
class Resident:
    """Helps users of other servers into rooms that this server is in, and out of them."""

    database: Database
    commits: CommitQueue
    judging: Judging
    branches: BranchStates
    key_ring: KeyRing
    room_servers: RoomServers
    acls: ServerAcls
    restricted: RestrictedJoins
    rate_limits: RateLimits

    @property
    def server_name(self) -> ServerName:
        """Ours."""
        return self.commits.signer.server_name

    # ---- templates

    def make_template(
        self,
        origin: ServerName,
        room_id: RoomId,
        user_id: UserId,
        membership: Membership,
        versions: Collection[str] | None = None,
    ) -> Json:
        """The event by which a user of another server would join, knock or leave, to be signed.

        Args:
            versions: the room versions that the other server has; None for whatever it is.

        Returns `room_version` and `event`.

        Raises:
            UnknownRoom: this server is not in the room.
            Forbidden: the user may not, is of another server, or the room's ACL denies it.
            IncompatibleRoomVersion: the other server does not have the room's version.
            LimitExceeded: it asks too often.
            UnableToAuthoriseJoin, UnableToGrantJoin: see RestrictedJoins.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid
        """
        if server_name_of(parse_user_id(user_id)) != origin:
            raise Forbidden(f"{user_id} is no user of {origin}.")
        head = self._get_head(origin, room_id)
        if versions is not None and head.room_version not in versions:
            raise IncompatibleRoomVersion(
                f"Your server does not have room version {head.room_version}.",
                room_version=head.room_version,
            )

        def decide(session: RoomSession) -> Json:
            content: Json = {"membership": membership}
            if membership == "join":
                authoriser = self.restricted.find_authoriser(session, user_id)
                if authoriser is not None:
                    content[AUTHORISED_VIA] = authoriser
            draft = EventDraft("m.room.member", user_id, content, user_id)
            for key in {("m.room.create", ""), *session.room.auth_types(draft)}:
                session.find_state(*key)
            return session.room.build_template(draft, self.server_name, session.now_ms)

        template = self._decide(room_id, [user_id], decide)
        return {"room_version": head.room_version, "event": template}

    # ---- signed events

    def receive_join(
        self,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        event: Mapping[str, Any],
        *,
        omit_members: bool = False,
    ) -> Iterator[bytes]:
        """Let a user of another server join, by the event that it signed.

        Args:
            omit_members: tell no members of the room but those it is named after.

        Returns the answer, a JSON object, in pieces: the event as it goes to others, and the state
        before it with its auth chain.

        Raises:
            UnknownRoom: this server is not in the room.
            BadJson, InvalidParam, TooLarge: the event is not such an event.
            Forbidden: the user may not join, the event is not signed by `origin`, or the ACL of
                the room denies that server.
            LimitExceeded: it asks too often, or the user joins too often.
            UnableToAuthoriseJoin, UnableToGrantJoin: see RestrictedJoins.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid
        """
        head = self._get_head(origin, room_id)
        rules = get_room_version(head.room_version)
        self.rate_limits.spend("joins", str(event.get("sender")))
        pdu = self._read(rules, origin, room_id, event_id, event, "join")
        signed = self._co_sign(rules, pdu)
        servers = self.room_servers.list_servers(head.room_nid)
        before = self._record(origin, head, rules, signed)
        return self._tell_join(head, rules, pdu, signed, before, servers, omit_members)

    def receive_leave(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, event: Mapping[str, Any]
    ) -> None:
        """Let a user of another server leave, reject an invite or take back a knock.

        Raises:
            UnknownRoom, BadJson, InvalidParam, TooLarge, Forbidden: as of `receive_join`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_leaveroomideventid
        """
        head = self._get_head(origin, room_id)
        rules = get_room_version(head.room_version)
        pdu = self._read(rules, origin, room_id, event_id, event, "leave")
        self._record(origin, head, rules, pdu.event)

    def receive_knock(
        self, origin: ServerName, room_id: RoomId, event_id: EventId, event: Mapping[str, Any]
    ) -> list[orjson.Fragment]:
        """Let a user of another server knock.

        Returns what they may know of the room: events.

        Raises:
            UnknownRoom, BadJson, InvalidParam, TooLarge, Forbidden: as of `receive_join`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid
        """
        head = self._get_head(origin, room_id)
        rules = get_room_version(head.room_version)
        pdu = self._read(rules, origin, room_id, event_id, event, "knock")
        self._record(origin, head, rules, pdu.event)
        with self.database.connection() as connection:
            stripped = load_stripped_state(connection, rules, head.room_nid)
        return [orjson.Fragment(event_json) for event_json in stripped]

    # ---- within

    def _get_head(self, origin: ServerName, room_id: RoomId) -> RoomHead:
        """The room's row, if we are in the room and that server may be. Counts the request.

        Raises:
            LimitExceeded: the server asks too often.
            UnknownRoom: this server does not know the room, or is not in it any more.
            Forbidden: the room's ACL denies the server.
        """
        self.rate_limits.spend("federation", origin)
        head = self.commits.event_log.find_head(room_id)
        if head is None or not self.room_servers.is_in_room(head.room_nid, self.server_name):
            raise UnknownRoom(f"This server is not in {room_id}.")
        if not self.acls.allows(head.room_nid, origin):
            raise Forbidden(f"{origin} is denied access to the room.")
        return head

    def _read(
        self,
        rules: RoomVersionRules,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        event: Mapping[str, Any],
        membership: Membership,
    ) -> Pdu:
        """The event that was sent, if it is the change of its sender's own membership.

        "A specific error code is not mandated": who sends what is not theirs, or what they did not
        sign, is told M_FORBIDDEN, as servers in use and their tests have it, and not
        M_INVALID_PARAM.

        Raises:
            BadJson, TooLarge: it does not have the format of the room version.
            InvalidParam: it is something else.
            Forbidden: it is not the sending server's, or not signed.
        """
        bare = {key: value for key, value in event.items() if key != "unsigned"}
        try:
            pdu = parse_pdu(rules, bare)
        except InvalidPdu:
            # Whatever else is wrong with it: first of all it must be theirs.
            self._verify(rules, bare, {origin})
            raise
        if pdu.room_id != room_id:
            raise InvalidParam("The event is of another room than the path says.")
        if pdu.event_id != event_id:
            raise InvalidParam(f"The event is {pdu.event_id}, not {event_id}.")
        if pdu.type != "m.room.member" or pdu.membership != membership:
            raise InvalidParam(f"The event is no m.room.member of membership {membership}.")
        if pdu.state_key != pdu.sender:
            raise InvalidParam("The event is not about its sender.")
        if server_name_of(pdu.sender) != origin:
            raise Forbidden(f"{pdu.sender} is no user of {origin}.")
        if not has_valid_content_hash(rules, pdu.event):
            raise InvalidParam("The content hash of the event does not match.")
        others = servers_that_must_sign(rules, pdu) - {self.server_name}
        self._verify(rules, pdu.event, {origin} | others)
        return pdu

    def _verify(
        self, rules: RoomVersionRules, event: Mapping[str, Any], servers: Collection[ServerName]
    ) -> None:
        """Check that servers signed an event, whatever its form.

        Raises:
            Forbidden: they did not.
            InvalidCanonicalJson: it cannot be signed.
        """
        find_key = self.key_ring.for_events(rules, [event], timeout_s=_KEYS_TIMEOUT_S)
        told_ts = event.get("origin_server_ts")
        made_ts = told_ts if isinstance(told_ts, int) else 0
        try:
            verify_event_signatures(
                rules, event, servers, lambda server, key_id: find_key(server, key_id, made_ts)
            )
        except InvalidSignature as error:
            raise Forbidden(error.message) from error

    def _co_sign(self, rules: RoomVersionRules, pdu: Pdu) -> Mapping[str, Any]:
        """The join with our signature, where a member of this server vouches for it.

        Nothing is signed but what we would have made a template of just now.

        Raises:
            Forbidden: there is nothing to vouch for.
            UnableToAuthoriseJoin, UnableToGrantJoin: see RestrictedJoins.
        """
        authoriser = pdu.content.get(AUTHORISED_VIA)
        if (
            not rules.restricted_joins
            or not isinstance(authoriser, str)
            or not is_user_id(authoriser)
            or server_name_of(authoriser) != self.server_name
        ):
            return pdu.event

        def decide(session: RoomSession) -> None:
            if not is_restricted(session):
                raise Forbidden("Nobody vouches for who joins this room.")
            if not self.restricted.may_authorise(session, authoriser):
                raise Forbidden(f"{authoriser} may not let you into the room.")
            self.restricted.check_conditions(session, pdu.sender)

        self._decide(pdu.room_id, [pdu.sender, authoriser], decide)
        return add_event_signature(rules, pdu.event, self.server_name, self.commits.signer.key)

    def _record(
        self,
        origin: ServerName,
        head: RoomHead,
        rules: RoomVersionRules,
        event: Mapping[str, Any],
    ) -> StateBefore:
        """Let an event through the door and hand it on; returns the state before it.

        Raises:
            Forbidden: the rules do not allow it, or something has happened since.
            InvalidParam: it follows events that are not here.
        """
        find_key = self.key_ring.for_events(rules, [event], timeout_s=_KEYS_TIMEOUT_S)
        verdict = self.judging.judge(
            head.room_id, [event], find_key, also=partial(forward, came_from=origin)
        )[0]
        pdu = verdict.pdu
        if pdu is None or verdict.outcome in (Outcome.DROPPED, Outcome.MISSING):
            raise InvalidParam(verdict.reason or "This is no event of the room.")
        if verdict.outcome in (Outcome.REJECTED, Outcome.SOFT_FAILED):
            raise Forbidden(verdict.reason or "The room's rules do not allow this.")
        with self.database.connection() as connection:
            known = self.branches.find_events(connection, head.room_nid, rules, [pdu.event_id])
            current = list_state_under(connection, head.room_nid, _NOW, [pdu.key])
        event_known = known[pdu.event_id]
        if event_known.verdict != ACCEPTED or current != [event_known.position]:
            raise Forbidden("This was sent before, and is no longer so.")
        return event_known.before or StateBefore(event_known.position - 1)

    def _decide(self, room_id: RoomId, users: Sequence[UserId], decide: Any) -> Any:
        prefetch = USUAL_KEYS | {("m.room.member", user_id) for user_id in users}
        return self.commits.write_room(RoomCommand(room_id, decide, prefetch))

    # ---- the answer to a join

    def _tell_join(
        self,
        head: RoomHead,
        rules: RoomVersionRules,
        pdu: Pdu,
        event: Mapping[str, Any],
        before: StateBefore,
        servers: Sequence[ServerName],
        omit_members: bool,
    ) -> Iterator[bytes]:
        with self.database.connection() as connection:
            if omit_members:
                state = self._list_without_members(connection, head.room_nid, pdu, before)
            else:
                state = list_state(connection, head.room_nid, before)
            known = self.branches.find_events(connection, head.room_nid, rules, [pdu.event_id])
            chain = list_auth_chain(connection, [known[pdu.event_id].position, *state])
        if omit_members:
            # What is in the state may then be left out of the chain.
            chain = sorted(set(chain).difference(state))
        return _join_answer(
            encode_lenient_json(event),
            servers,
            stream_events(self.database, rules, state),
            stream_events(self.database, rules, chain),
            omit_members=omit_members,
        )

    def _list_without_members(
        self, connection: PgConnection, room_nid: int, pdu: Pdu, before: StateBefore
    ) -> list[int]:
        """The state without members, but those by whom a room without a name is known."""
        heroes: Sequence[UserId] = ()
        if not list_state_under(connection, room_nid, before, _NAMING_KEYS):
            heroes = list_heroes(connection, pdu.sender, [room_nid])[room_nid]
        return list_state_without_members(connection, room_nid, before, heroes)


_NOW: Final = StateBefore(2**63 - 2)


def _join_answer(
    event_json: bytes,
    servers: Sequence[ServerName],
    state: Iterator[bytes],
    auth_chain: Iterator[bytes],
    *,
    omit_members: bool,
) -> Iterator[bytes]:
    """The answer to send_join, what is short first."""
    yield b'{"event":' + event_json
    yield b',"members_omitted":' + (b"true" if omit_members else b"false")
    yield b',"servers_in_room":' + orjson.dumps(servers)
    yield b',"state":['
    yield from state
    yield b'],"auth_chain":['
    yield from auth_chain
    yield b"]}"
