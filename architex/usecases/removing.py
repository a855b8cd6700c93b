"""Making others leave: kick, ban, unban.

Spec: https://spec.matrix.org/v1.19/client-server-api/#leaving-rooms
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from architex.domain.errors import BadState, Forbidden
from architex.domain.identifiers import RoomId, UserId, parse_user_id
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import (
    USUAL_KEYS,
    check_joined,
    find_membership,
    unknown_rooms_forbidden,
)
from architex.usecases.member_events import member_draft, with_reason
from architex.usecases.requester import Requester


@dataclass(frozen=True)
class Removing:
    """Kicks and bans."""

    commits: CommitQueue

    def kick(
        self, requester: Requester, room_id: RoomId, user_id: UserId, *, reason: str | None = None
    ) -> None:
        """Make a user leave.

        Raises:
            Forbidden: the requester may not, or the user is not in the room.
        """

        def refuse(membership: str | None) -> None:
            if membership not in ("join", "invite", "knock"):
                raise Forbidden(f"{user_id} is not in the room.")

        self._change(requester, room_id, user_id, "leave", reason, refuse)

    def ban(
        self, requester: Requester, room_id: RoomId, user_id: UserId, *, reason: str | None = None
    ) -> None:
        """Make a user leave and stay away.

        Raises:
            Forbidden: the requester may not.
        """
        self._change(requester, room_id, user_id, "ban", reason, lambda membership: None)

    def unban(
        self, requester: Requester, room_id: RoomId, user_id: UserId, *, reason: str | None = None
    ) -> None:
        """Lift a ban.

        Raises:
            BadState: the user is not banned.
            Forbidden: the requester may not.
        """

        def refuse(membership: str | None) -> None:
            if membership != "ban":
                raise BadState(f"{user_id} is not banned.")

        self._change(requester, room_id, user_id, "leave", reason, refuse)

    def _change(
        self,
        requester: Requester,
        room_id: RoomId,
        user_id: UserId,
        membership: str,
        reason: str | None,
        refuse: Callable[[str | None], None],
    ) -> None:
        parse_user_id(user_id)
        content = with_reason({"membership": membership}, reason)

        def decide(session: RoomSession) -> None:
            check_joined(session, requester.user_id)
            refuse(find_membership(session, user_id))
            session.append(member_draft(requester.user_id, user_id, content))

        members = [("m.room.member", one) for one in (requester.user_id, user_id)]
        with unknown_rooms_forbidden():
            self.commits.write_room(RoomCommand(room_id, decide, USUAL_KEYS.union(members)))
