"""The list of published rooms: reading it, page by page, and who is in it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#published-room-directory
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from architex.domain.errors import Forbidden, InvalidParam, UnknownRoom
from architex.domain.identifiers import RoomId, ServerName, UserId, parse_server_name
from architex.gateways.clock import Clock
from architex.projections.directory_reads import (
    DirectoryReads,
    ListedRoom,
    RoomListFilter,
    RoomListPlace,
    Standing,
)
from architex.storage.published_rooms import PublishedRoomStore
from architex.usecases.directory import DirectoryPolicy
from architex.usecases.requester import Requester

MAX_LISTED_ROOMS: Final = 1000
EVERY_ROOM: Final = RoomListFilter()

_PLACE: Final = re.compile(r"(?P<direction>[np])(?P<joined>[0-9]{1,18})\.(?P<nid>[0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class RoomListRequest:
    """Which part of the list of rooms to show.

    Attributes:
        limit: at most so many rooms; 0 for as many as the server gives at once.
        since: where to begin, from an earlier answer.
        all_networks: also the rooms of application services' networks.
        network: only those of this network.
    """

    limit: int = 0
    since: str | None = None
    room_filter: RoomListFilter = EVERY_ROOM
    all_networks: bool = False
    network: str | None = None


@dataclass(frozen=True, slots=True)
class RoomListPage:
    """Some of the published rooms.

    Attributes:
        chunk: in the spec's form (PublishedRoomsChunk).
        next_batch, prev_batch: `since` for the rooms after and before; None at the ends.
        total: how many rooms the whole list has.
    """

    chunk: Sequence[Mapping[str, Any]]
    next_batch: str | None = None
    prev_batch: str | None = None
    total: int | None = None


class RemoteRoomLists(Protocol):
    """The published rooms of other servers."""

    def fetch_room_list(self, server: ServerName, request: RoomListRequest) -> RoomListPage:
        """Another server's published rooms; raises RemoteFailed when it does not answer."""


@dataclass(frozen=True)
class PublicRooms:
    """The list of published rooms.

    Attributes:
        catch_up: brings what is read to the end of the log.
    """

    published: PublishedRoomStore
    reads: DirectoryReads
    clock: Clock
    server_name: ServerName
    policy: DirectoryPolicy
    remote: RemoteRoomLists
    catch_up: Callable[[], None]

    def is_published(self, room_id: RoomId) -> bool:
        """Whether a room is in the list.

        Raises:
            UnknownRoom: this server does not know the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid
        """
        self._get_standing(room_id, "")
        return self.published.is_published(room_id)

    def set_published(self, requester: Requester, room_id: RoomId, published: bool) -> None:
        """Put a room into the list, or take it out.

        Raises:
            UnknownRoom: this server does not know the room.
            Forbidden: the requester may not.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid
        """
        standing = self._get_standing(room_id, requester.user_id)
        if not (requester.is_admin or standing.may_set_aliases):
            raise Forbidden("Only who may set the room's aliases may publish it.")
        if published:
            self.policy.check_may_publish(requester)
            self.published.publish(room_id, requester.user_id, self.clock.now_ms())
        else:
            self.published.withdraw(room_id)

    def list_rooms(self, request: RoomListRequest, server: ServerName | None) -> RoomListPage:
        """A page of the published rooms of a server, the biggest first.

        Args:
            server: None for this one.

        Raises:
            InvalidParam: a value of the request is wrong.
            RemoteFailed: the other server cannot be asked.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms
        """
        if request.all_networks and request.network is not None:
            raise InvalidParam("third_party_instance_id excludes include_all_networks.")
        if server is not None and server != self.server_name:
            return self.remote.fetch_room_list(parse_server_name(server), request)
        place = None if request.since is None else _parse_place(request.since)
        if request.network is not None:  # a network of an application service, and there is none
            return RoomListPage(chunk=(), total=0)
        self.catch_up()
        limit = min(request.limit or MAX_LISTED_ROOMS, MAX_LISTED_ROOMS)
        # One more than wanted tells whether there are more.
        found = self.reads.list_rooms(request.room_filter, place, limit + 1)
        there_are_more = len(found) > limit
        backwards = place is not None and place.backwards
        rooms = (found[-limit:] if backwards else found[:limit]) if found else []
        more_before = there_are_more if backwards else place is not None
        more_after = backwards or there_are_more
        return RoomListPage(
            chunk=[published_rooms_chunk(room) for room in rooms],
            next_batch=_format_place("n", rooms[-1]) if rooms and more_after else None,
            prev_batch=_format_place("p", rooms[0]) if rooms and more_before else None,
            total=self.reads.count_rooms(),
        )

    def list_for_server(self, request: RoomListRequest) -> RoomListPage:
        """A page of the published rooms of this server, for another one.

        Raises:
            Forbidden: the operator does not show the list to others.
            InvalidParam: a value of the request is wrong.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1publicrooms
        """
        if not self.policy.over_federation:
            raise Forbidden("This server does not show its list of rooms to others.")
        return self.list_rooms(request, None)

    def _get_standing(self, room_id: RoomId, user_id: UserId) -> Standing:
        standing = self.reads.find_standing(room_id, user_id)
        if standing is None:
            raise UnknownRoom(f"{room_id} is not a room this server knows.")
        return standing


def published_rooms_chunk(room: ListedRoom) -> dict[str, Any]:
    """A room in the form of the list; what the room does not have is absent.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms
    """
    optional = {
        "name": room.name,
        "topic": room.topic,
        "canonical_alias": room.canonical_alias,
        "avatar_url": room.avatar_url,
        "room_type": room.room_type,
        "join_rule": room.join_rule,
    }
    return {
        "room_id": room.room_id,
        "num_joined_members": room.joined_members,
        "world_readable": room.world_readable,
        "guest_can_join": room.guest_can_join,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _format_place(direction: str, room: ListedRoom) -> str:
    return f"{direction}{room.joined_members}.{room.room_nid}"


def _parse_place(since: str) -> RoomListPlace:
    match = _PLACE.fullmatch(since)
    if match is None:
        raise InvalidParam("since is not a token of this list.")
    return RoomListPlace(int(match["joined"]), int(match["nid"]), match["direction"] == "p")
