"""Rooms from outside: summaries, and the tree of rooms below a space, across servers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#discovering-rooms-within-spaces
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architex.domain.errors import Forbidden, InvalidParam, LimitExceeded, MissingToken, NotFound
from architex.domain.identifiers import RoomId, ServerName, server_name_of
from architex.domain.room_summary import (
    MAX_CHILDREN,
    RoomSummary,
    SpaceChild,
    can_enter,
    read_summary,
)
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError
from architex.gateways.federation_client import FederationClient, federation_path
from architex.projections.server_acls import ServerAcls
from architex.projections.summary_reads import (
    SummaryReads,
    list_memberships,
    list_rooms_of_server,
    list_rooms_with_invited,
)
from architex.storage.pool import Database, PgConnection
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester
from architex.usecases.timed_cache import TimedCache

DEFAULT_ROOMS: Final = 50
MAX_ROOMS: Final = 100
"""Rooms in one page of a hierarchy."""

MAX_WALKED: Final = 2_000
"""Rooms that one hierarchy has, over all its pages."""

MAX_DEPTH: Final = 100

REMOTE_SECONDS: Final = 300.0
NO_REMOTE_SECONDS: Final = 60.0
MAX_REMEMBERED: Final = 1_000
MAX_ASKED: Final = 3
"""Servers that are asked about one room."""
TIMEOUT_S: Final = 10.0
DEADLINE_S: Final = 30.0
"""For all that one request of a client asks of others."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024

_TOKEN: Final = re.compile(r"h(?P<start>[0-9]{1,5})_(?P<depth>[0-9]{1,3})_(?P<suggested>[01])")


@dataclass(frozen=True, slots=True)
class RemoteSpace:
    """What another server told of a room.

    Attributes:
        room: None when no server that was asked shows it.
        children: of its children, those that the other server knows.
        hidden: children that it knows, and shows to nobody here.
    """

    room: RoomSummary | None
    children: Mapping[RoomId, RoomSummary] = field(default_factory=dict)
    hidden: Collection[RoomId] = ()


_NOTHING: Final = RemoteSpace(None)


class RemoteSpaces:
    """Asks other servers about rooms that this one is not in."""

    def __init__(
        self,
        client: FederationClient,
        clock: Clock,
        server_name: ServerName,
        rate_limits: RateLimits,
    ) -> None:
        self._client = client
        self._rate_limits = rate_limits
        self._clock = clock
        self._server_name = server_name
        self._told: TimedCache[RoomId, RemoteSpace] = TimedCache(clock, max_entries=MAX_REMEMBERED)

    def fetch(self, room_id: RoomId, via: Iterable[ServerName], ends: float) -> RemoteSpace:
        """What the first server that knows the room tells of it.

        Args:
            via: whom to ask.
            ends: until when, by the clock's monotonic time.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid
        """
        known = self._told.find(room_id)
        if known is not None:
            return known
        servers = [server for server in dict.fromkeys(via) if server != self._server_name]
        for server in servers[:MAX_ASKED]:
            left_s = ends - self._clock.monotonic()
            if left_s <= 0:
                return _NOTHING
            try:
                self._rate_limits.spend("remote_lookups", server)
                told = self._client.get(
                    server,
                    federation_path("v1", "hierarchy", room_id),
                    {"suggested_only": "false"},
                    timeout_s=min(TIMEOUT_S, left_s),
                    max_bytes=MAX_ANSWER_BYTES,
                )
            except (RemoteError, LimitExceeded):
                continue
            space = _read_space(room_id, told)
            if space.room is not None:
                self._told.remember(room_id, space, seconds=REMOTE_SECONDS)
                return space
        if servers:
            self._told.remember(room_id, _NOTHING, seconds=NO_REMOTE_SECONDS)
        return _NOTHING


@dataclass(frozen=True)
class Spaces:
    """Shows rooms to people and servers that are not in them, as far as they could be.

    Attributes:
        server_name: ours.
    """

    database: Database
    reads: SummaryReads
    acls: ServerAcls
    remote: RemoteSpaces
    clock: Clock
    server_name: ServerName
    rate_limits: RateLimits

    def get_summary(
        self, requester: Requester | None, room_id: RoomId, via: Sequence[ServerName] = ()
    ) -> dict[str, Any]:
        """What a room looks like to somebody who may enter it.

        Args:
            requester: None for who has no account: they see what is open to anybody.
            via: servers to ask when this one is not in the room.

        Raises:
            NotFound: there is no such room that the requester may be shown.
            MissingToken: only who has an account may be shown the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias
        """
        walk = _Walk(self, requester)
        summary = walk.find(room_id, (*via, *_server_of(room_id)))
        if summary is None:
            raise NotFound("There is no such room, or you may not see it.")
        if requester is None and not summary.is_open:
            raise MissingToken("You may see this room with an account, if at all.")
        if not walk.may_see(summary):
            raise NotFound("There is no such room, or you may not see it.")
        membership = walk.membership(room_id)
        return summary.as_json() | ({} if membership is None else {"membership": membership})

    def get_hierarchy(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        suggested_only: bool = False,
        limit: int = DEFAULT_ROOMS,
        max_depth: int | None = None,
        begin: str | None = None,
    ) -> dict[str, Any]:
        """A page of the rooms below a space, the space itself first; depth first.

        Args:
            begin: `next_batch` of the page before.

        Raises:
            Forbidden: the requester may not see the space, or there is none.
            InvalidParam: `begin` is no token of this walk.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy
        """
        depth = MAX_DEPTH if max_depth is None else min(max_depth, MAX_DEPTH)
        start = 0 if begin is None else _parse_token(begin, depth, suggested_only)
        walk = _Walk(self, requester)
        root = walk.find(room_id, _server_of(room_id))
        if root is None or not walk.may_see(root):
            raise Forbidden("You may not see this room, or there is none.")
        # Each page walks the same way again: what the servers tell is remembered.
        wanted = start + min(limit, MAX_ROOMS)
        shown = walk.list_tree(root, depth, suggested_only, min(wanted + 1, MAX_WALKED))
        response: dict[str, Any] = {"rooms": shown[start:wanted]}
        if len(shown) > wanted:
            response["next_batch"] = _format_token(wanted, depth, suggested_only)
        return response

    def serve_hierarchy(
        self, origin: ServerName, room_id: RoomId, *, suggested_only: bool = False
    ) -> dict[str, Any]:
        """A room and its children, as far as a server's users could enter them.

        Raises:
            NotFound: there is no such room here, or the server's users could not enter it.
            LimitExceeded: the server asks too much.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid
        """
        self.rate_limits.spend("federation_reads", origin)
        with self.database.snapshot() as connection:
            room = self.reads.find_summaries(connection, [room_id]).get(room_id)
            if room is None:
                raise NotFound("There is no such room.")
            followed = _followed(room, suggested_only)
            known = self.reads.find_summaries(connection, [child.room_id for child in followed])
            known.pop(room_id, None)
            entering = _list_enterable(connection, origin, [room, *known.values()])
        denied = self.acls.list_denying(origin, [room_id, *known])
        enterable = [summary for summary in entering if summary.room_id not in denied]
        if room not in enterable:
            raise NotFound("There is no such room.")
        children = [summary for summary in enterable if summary is not room]
        return {
            "room": _with_children(room, suggested_only),
            "children": [summary.as_json() for summary in children],
            "inaccessible_children": sorted(
                known.keys() - {summary.room_id for summary in children}
            ),
        }


def _list_enterable(
    connection: PgConnection, origin: ServerName, rooms: Collection[RoomSummary]
) -> list[RoomSummary]:
    """Those of the rooms that some user of a server is in, or could enter or read."""
    room_ids = [room.room_id for room in rooms]
    allowing = {allowed for room in rooms for allowed in room.allowed_room_ids}
    inside = list_rooms_of_server(connection, origin, {*room_ids, *allowing})
    invited = list_rooms_with_invited(connection, origin, room_ids)
    return [
        room
        for room in rooms
        if can_enter(
            room,
            "join" if room.room_id in inside | invited else None,
            inside.intersection(room.allowed_room_ids),
        )
    ]


class _Walk:
    """What one requester finds out about rooms, within one request."""

    def __init__(self, spaces: Spaces, requester: Requester | None) -> None:
        self._spaces = spaces
        self._requester = requester
        self._ends = spaces.clock.monotonic() + DEADLINE_S
        self._local: dict[RoomId, RoomSummary | None] = {}
        self._memberships: dict[RoomId, str | None] = {}
        self._told: dict[RoomId, RoomSummary] = {}
        self._hidden: set[RoomId] = set()

    def find(self, room_id: RoomId, via: Iterable[ServerName]) -> RoomSummary | None:
        """A room, from our own state of it if we are in it, else from other servers."""
        self._learn([room_id])
        local = self._local[room_id]
        if local is not None:
            return local
        if room_id in self._hidden:
            return None
        told = self._told.get(room_id)
        if told is not None and not told.is_space:
            return told
        space = self._spaces.remote.fetch(room_id, via, self._ends)
        self._told.update(space.children)
        self._hidden.update(space.hidden)
        return space.room or told

    def may_see(self, room: RoomSummary) -> bool:
        """Whether the requester may be shown a room."""
        self._learn_memberships([room.room_id, *room.allowed_room_ids])
        inside = [
            allowed for allowed in room.allowed_room_ids if self.membership(allowed) == "join"
        ]
        return can_enter(room, self.membership(room.room_id), inside)

    def membership(self, room_id: RoomId) -> str | None:
        """The requester's membership in a room; None when they never had one."""
        self._learn_memberships([room_id])
        return self._memberships[room_id]

    def list_tree(
        self, root: RoomSummary, max_depth: int, suggested_only: bool, limit: int
    ) -> list[dict[str, Any]]:
        """The rooms of a tree in the order of the walk, each once."""
        shown: list[dict[str, Any]] = []
        seen: set[RoomId] = set()
        waiting: list[tuple[RoomId, Sequence[ServerName], int]] = [(root.room_id, (), 0)]
        while waiting and len(shown) < limit:
            room_id, via, depth = waiting.pop()
            if room_id in seen:  # a loop, or the child of several
                continue
            seen.add(room_id)
            room = root if depth == 0 else self.find(room_id, via)
            if room is None or not self.may_see(room):
                continue
            shown.append(_with_children(room, suggested_only))
            if depth < max_depth and room.is_space:
                children = _followed(room, suggested_only)
                self._learn([child.room_id for child in children])
                waiting += [(child.room_id, child.via, depth + 1) for child in reversed(children)]
        return shown

    def _learn(self, room_ids: Collection[RoomId]) -> None:
        """Look up rooms that we may be in, and how the requester stands to them, all at once."""
        missing = [room_id for room_id in room_ids if room_id not in self._local]
        if missing:
            spaces = self._spaces
            with spaces.database.snapshot() as connection:
                found = spaces.reads.find_summaries(connection, missing)
            self._local.update((room_id, found.get(room_id)) for room_id in missing)
            allowed = [a for room in found.values() for a in room.allowed_room_ids]
            self._learn_memberships([*missing, *allowed])

    def _learn_memberships(self, room_ids: Collection[RoomId]) -> None:
        missing = {room_id for room_id in room_ids if room_id not in self._memberships}
        if not missing:
            return
        found: dict[RoomId, str] = {}
        if self._requester is not None:
            with self._spaces.database.connection() as connection:
                found = list_memberships(connection, self._requester.user_id, missing)
        self._memberships.update((room_id, found.get(room_id)) for room_id in missing)


def _followed(room: RoomSummary, suggested_only: bool) -> list[SpaceChild]:
    children = [child for child in room.children if child.is_suggested or not suggested_only]
    return children[:MAX_CHILDREN]


def _with_children(room: RoomSummary, suggested_only: bool) -> dict[str, Any]:
    events = [dict(child.event) for child in _followed(room, suggested_only)]
    return {**room.as_json(), "children_state": events}


def _server_of(room_id: RoomId) -> tuple[ServerName, ...]:
    """The server in a room ID: where nobody says better, it may know the room."""
    return (server_name_of(room_id),) if ":" in room_id else ()


def _read_space(room_id: RoomId, told: Mapping[str, Any]) -> RemoteSpace:
    """What a server answered about a room; a room of another ID is no answer."""
    room = told.get("room")
    summary = read_summary(room) if isinstance(room, dict) else None
    if summary is None or summary.room_id != room_id:
        return _NOTHING
    named = {child.room_id for child in summary.children}
    listed, hidden = told.get("children"), told.get("inaccessible_children")
    children = [
        child
        for entry in (listed if isinstance(listed, list) else ())[:MAX_CHILDREN]
        if isinstance(entry, dict) and (child := read_summary(entry)) is not None
    ]
    return RemoteSpace(
        summary,
        {child.room_id: child for child in children if child.room_id in named},
        {
            child
            for child in (hidden if isinstance(hidden, list) else ())
            if isinstance(child, str) and child in named
        },
    )


def _format_token(start: int, depth: int, suggested_only: bool) -> str:
    return f"h{start}_{depth}_{int(suggested_only)}"


def _parse_token(token: str, depth: int, suggested_only: bool) -> int:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidParam("from is not a token of this walk.")
    if (int(match["depth"]), match["suggested"] == "1") != (depth, suggested_only):
        raise InvalidParam("suggested_only and max_depth cannot change within a walk.")
    return int(match["start"])
