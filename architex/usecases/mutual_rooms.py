"""Mutual rooms: which rooms two users are both in.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mutual-rooms
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architex.domain.errors import InvalidParam
from architex.domain.identifiers import RoomId, UserId
from architex.projections.member_reads import MemberReads
from architex.usecases.requester import Requester

PAGE_SIZE: Final = 200


@dataclass(frozen=True, slots=True)
class MutualRoomsPage:
    """Some of the rooms.

    Attributes:
        count: of all of them.
        next: the room after which to go on; None when there are no more.
    """

    room_ids: Sequence[RoomId]
    count: int
    next: RoomId | None


@dataclass(frozen=True)
class MutualRooms:
    """Says where the requester meets others."""

    members: MemberReads

    def list_rooms(
        self, requester: Requester, user_id: UserId, after: RoomId | None = None
    ) -> MutualRoomsPage:
        """The rooms that the requester and another user are in, in the order of their IDs.

        Raises:
            InvalidParam: it is the requester.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms
        """
        if user_id == requester.user_id:
            raise InvalidParam("You share all of your rooms with yourself.")
        room_ids = sorted(self.members.list_mutual_rooms(requester.user_id, user_id))
        rest = [room_id for room_id in room_ids if after is None or room_id > after]
        page = rest[:PAGE_SIZE]
        return MutualRoomsPage(page, len(room_ids), page[-1] if len(rest) > PAGE_SIZE else None)
