"""Guest access: rooms that stop letting guests in lose those they have.

Spec: https://spec.matrix.org/v1.19/client-server-api/#guest-access
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import DatabaseUnavailable, MatrixError
from architex.domain.identifiers import RoomId, UserId
from architex.domain.room.aggregate import EventDraft
from architex.projections.guest_reads import GuestReads
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.unredacted import content_of

log = logging.getLogger(__name__)

GUESTS_AT_ONCE: Final = 200


@dataclass(frozen=True)
class GuestAccess:
    """Takes guests out of rooms that do not want them any more.

    Attributes:
        guests: finds them, sometimes ones that may stay.
    """

    guests: GuestReads
    commits: CommitQueue

    def send_guests_away(self) -> int:
        """Make guests leave the rooms that do not let guests join; returns how many left.

        Bounded: the rest is for the next time. Whoever set the room's m.room.guest_access, and on
        whichever server, it is found here.
        """
        return sum(
            self._send_away(room_id, user_id)
            for room_id, user_id in self.guests.list_guests_out_of_place(GUESTS_AT_ONCE)
        )

    def _send_away(self, room_id: RoomId, user_id: UserId) -> bool:
        def decide(session: RoomSession) -> bool:
            access = session.find_state("m.room.guest_access")
            if access is not None and (
                content_of(session, access).get("guest_access") == "can_join"
            ):
                return False
            member = session.find_state("m.room.member", user_id)
            if member is None or member.content.get("membership") != "join":
                return False
            session.append(
                EventDraft(
                    type="m.room.member",
                    sender=user_id,
                    state_key=user_id,
                    content={"membership": "leave", "reason": "Guests may not stay in this room."},
                )
            )
            return True

        prefetch = frozenset({("m.room.guest_access", ""), ("m.room.member", user_id)})
        try:
            return self.commits.write_room(RoomCommand(room_id, decide, prefetch))
        except DatabaseUnavailable:
            raise
        except MatrixError as error:
            log.warning("%s stays in %s: %s", user_id, room_id, error.message)
            return False
