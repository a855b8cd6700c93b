"""Restricted rooms: who may join because of another room they are in, and who vouches for them.

Spec: https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin
from architex.domain.identifiers import RoomId, ServerName, UserId, is_room_id, server_name_of
from architex.projections.member_reads import MemberReads
from architex.projections.room_servers import RoomServers
from architex.storage.event_log import EventLog
from architex.storage.room_session import RoomSession
from architex.usecases.deciding import find_membership, power_levels

MAX_CANDIDATES: Final = 100
"""Members of this server who are asked whether they may invite."""

MAX_CONDITIONS: Final = 100
"""Rooms of a join rule that are looked at."""


@dataclass(frozen=True)
class RestrictedJoins:
    """Checks the conditions of restricted rooms for this server."""

    members: MemberReads
    room_servers: RoomServers
    event_log: EventLog
    server_name: ServerName

    def find_authoriser(self, session: RoomSession, user_id: UserId) -> UserId | None:
        """The member of this server in whose name a user is let in; None if they need nobody.

        Raises:
            Forbidden: the user meets none of the conditions.
            UnableToAuthoriseJoin: this server cannot tell whether they do.
            UnableToGrantJoin: they do, but nobody of this server may let them in.
        """
        if not is_restricted(session) or find_membership(session, user_id) in ("join", "invite"):
            return None
        self.check_conditions(session, user_id)
        power_event = session.find_state("m.room.power_levels")
        named = power_event.content.get("users") if power_event is not None else None
        create = session.find_state("m.room.create")
        candidates: list[UserId] = [
            *(map(str, named) if isinstance(named, Mapping) else ()),
            *(() if create is None else (create.sender,)),
            *self.members.list_local_members(
                session.head.room_nid, self.server_name, MAX_CANDIDATES
            ),
        ]
        for candidate in candidates:
            if self.may_authorise(session, candidate):
                return candidate
        raise UnableToGrantJoin("Nobody of this server may let you into the room.")

    def check_conditions(self, session: RoomSession, user_id: UserId) -> None:
        """Check that a user meets one of the conditions of a restricted room.

        Raises:
            Forbidden: they meet none of them.
            UnableToAuthoriseJoin: this server cannot tell whether they do.
        """
        rooms = _allowed_rooms(session)
        if self.members.is_joined_to_any(user_id, rooms):
            return
        if not all(map(self._is_known, rooms)):
            raise UnableToAuthoriseJoin("This server is not in all the rooms that give access.")
        raise Forbidden("You are in none of the rooms that give access to this one.")

    def may_authorise(self, session: RoomSession, user_id: UserId) -> bool:
        """Whether a user is of this server, in the room, and has the power to invite."""
        if server_name_of(user_id) != self.server_name:
            return False
        levels = power_levels(session)
        return (
            levels.of_user(user_id) >= levels.invite
            and find_membership(session, user_id) == "join"
        )

    def _is_known(self, room_id: RoomId) -> bool:
        head = self.event_log.find_head(room_id)
        return head is not None and self.room_servers.is_in_room(head.room_nid, self.server_name)


def is_restricted(session: RoomSession) -> bool:
    """Whether a room lets people in who are in certain other rooms."""
    join_rules = session.find_state("m.room.join_rules")
    rule: Any = None if join_rules is None else join_rules.content.get("join_rule")
    rules = session.room.rules
    return (rule == "restricted" and rules.restricted_joins) or (
        rule == "knock_restricted" and rules.knock_restricted
    )


def _allowed_rooms(session: RoomSession) -> list[RoomId]:
    """The rooms of the conditions, as far as they are of the form that the spec gives.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomjoin_rules
    """
    join_rules = session.find_state("m.room.join_rules")
    allow = None if join_rules is None else join_rules.content.get("allow")
    rooms = [
        room_id
        for entry in (allow if isinstance(allow, list) else ())
        if isinstance(entry, Mapping)
        and entry.get("type") == "m.room_membership"
        and isinstance(room_id := entry.get("room_id"), str)
        and is_room_id(room_id)
    ]
    return list(dict.fromkeys(rooms))[:MAX_CONDITIONS]
