"""Inviting users, of this server or another.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-membership
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from architex.domain.errors import Forbidden, InviteBlocked, NotFound
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    parse_user_id,
    server_name_of,
)
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import USUAL_KEYS, check_joined, unknown_rooms_forbidden
from architex.usecases.invite_permission import InvitePermission
from architex.usecases.inviting_elsewhere import InvitingElsewhere
from architex.usecases.member_events import ProfileFinder, member_content, member_draft
from architex.usecases.requester import Requester
from architex.usecases.unredacted import says


@dataclass(frozen=True)
class Inviting:
    """Invites: to whom, with what in them, and who may."""

    commits: CommitQueue
    profiles: ProfileFinder
    invite_permission: InvitePermission
    elsewhere: InvitingElsewhere
    server_name: ServerName

    def invite(
        self,
        requester: Requester,
        room_id: RoomId,
        user_id: UserId,
        *,
        reason: str | None = None,
    ) -> None:
        """Invite a user, of this server or another.

        Raises:
            Forbidden: the inviter may not, or the user is a member or banned, or their server
                wants no such invite.
            InviteBlocked: the user wants no invites.
            NotFound: there is no such user.
            RemoteFailed: the user's server does not answer.
        """
        self.invite_with(requester, room_id, user_id, self.invite_content(user_id, reason=reason))

    def invite_with(
        self,
        requester: Requester,
        room_id: RoomId,
        user_id: UserId,
        content: Mapping[str, Any],
    ) -> EventId:
        """As `invite`, with the content of the m.room.member event, as `invite_content` gives it.

        Returns the invite; the one that is there already, if it says the same.
        """
        parse_user_id(user_id)
        is_blocking = self.is_local(user_id) and self.invite_permission.is_blocking(user_id)

        def decide(session: RoomSession) -> EventId:
            check_joined(session, requester.user_id)
            current = session.find_state("m.room.member", user_id)
            if current is not None and (
                current.sender == requester.user_id and says(session, current, content)
            ):
                return current.event_id
            event_id = session.append(member_draft(requester.user_id, user_id, content)).event_id
            if is_blocking:  # only who may invite learns that
                raise InviteBlocked(f"{user_id} wants no invites.")
            return event_id

        def check(session: RoomSession) -> None:
            check_joined(session, requester.user_id)
            create = session.find_state("m.room.create")
            if create is not None and create.content.get("m.federate") is False:
                # The rules let them be invited, but not join.
                raise Forbidden("This room is for users of its own server only.")

        with unknown_rooms_forbidden():
            usual = USUAL_KEYS | {("m.room.member", requester.user_id)}
            if self.is_local(user_id):
                prefetch = usual | {("m.room.member", user_id)}
                return self.commits.write_room(RoomCommand(room_id, decide, prefetch))
            self.commits.write_room(RoomCommand(room_id, check, usual))
            draft = member_draft(requester.user_id, user_id, content)
            return self.elsewhere.invite(room_id, draft)

    def invite_content(
        self, user_id: UserId, *, reason: str | None = None, is_direct: bool = False
    ) -> dict[str, Any]:
        """The content of an invite of a user.

        Raises:
            NotFound: there is no such user.
        """
        parse_user_id(user_id)
        profile = self.profiles.find_profile(user_id)
        if profile is None and self.is_local(user_id):
            raise NotFound(f"There is no user {user_id} on this server.")
        content = member_content(profile or {}, "invite", reason)
        if is_direct:
            content["is_direct"] = True
        return content

    def is_local(self, user_id: UserId) -> bool:
        """Whether a user is one of this server."""
        return server_name_of(user_id) == self.server_name
