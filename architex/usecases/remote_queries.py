"""What other servers know: their users' profiles, their aliases, their lists of rooms.

Anybody may ask us for these, so how often we ask a server for them has a limit.

Spec: https://spec.matrix.org/v1.19/server-server-api/#querying-for-information
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from architex.domain.canonical_json import Json
from architex.domain.errors import Forbidden, InvalidParam, NotFound, RemoteFailed
from architex.domain.identifiers import (
    RoomAlias,
    ServerName,
    UserId,
    is_room_alias,
    is_room_id,
    is_server_name,
    server_name_of,
)
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.gateways.federation_client import FederationClient, federation_path
from architex.usecases.directory import AliasTarget
from architex.usecases.public_rooms import RoomListPage, RoomListRequest
from architex.usecases.rate_limits import RateLimits

T = TypeVar("T")

MAX_SERVERS_OF_ALIAS: Final = 50

TIMEOUT_S: Final = 15.0
MAX_PROFILE_BYTES: Final = 128 * 1024
MAX_ALIAS_BYTES: Final = 128 * 1024
MAX_LIST_BYTES: Final = 4 * 1024 * 1024
MAX_ROOMS_AT_ONCE: Final = 500
MAX_TOKEN_LENGTH: Final = 2_000

# The keys of a room in a list, and what they hold.
_ROOM_TEXTS: Final = (
    "name",
    "topic",
    "canonical_alias",
    "avatar_url",
    "room_type",
    "join_rule",
)


class FederatedProfiles:
    """See architex.usecases.profiles.RemoteProfiles: asks the users' servers.

    Nothing is remembered: people look at a profile to see how it is now.
    """

    def __init__(self, client: FederationClient, rate_limits: RateLimits) -> None:
        self._client = client
        self._rate_limits = rate_limits

    def fetch_profile(self, user_id: UserId) -> Mapping[str, Any] | None:
        """The profile of another server's user; None when there is none.

        Raises:
            Forbidden: the server does not tell.
            RemoteFailed: it does not answer.
            LimitExceeded: it was asked too much lately.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile
        """
        self._rate_limits.spend("remote_lookups", server_name_of(user_id))
        try:
            told = _ask(
                lambda: self._client.get(
                    server_name_of(user_id),
                    federation_path("v1", "query", "profile"),
                    {"user_id": user_id},
                    timeout_s=TIMEOUT_S,
                    max_bytes=MAX_PROFILE_BYTES,
                )
            )
        except NotFound:
            return None
        # A field of null is one that is not set.
        profile = {key: value for key, value in told.items() if value is not None}
        for key in ("displayname", "avatar_url"):
            if not isinstance(profile.get(key, ""), str):
                del profile[key]
        return profile


class FederatedDirectory:
    """Asks other servers; see `directory.RemoteAliases` and `public_rooms.RemoteRoomLists`."""

    def __init__(self, client: FederationClient, rate_limits: RateLimits) -> None:
        self._client = client
        self._rate_limits = rate_limits

    def fetch_alias(self, alias: RoomAlias) -> AliasTarget:
        """Where another server's alias points now: it may be another one's in a moment.

        Raises:
            NotFound: the server has no such alias.
            RemoteFailed: it does not answer, or makes no sense.
            LimitExceeded: it was asked too much lately.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory
        """
        server = server_name_of(alias)
        self._rate_limits.spend("remote_lookups", server)
        told = _ask(
            lambda: self._client.get(
                server,
                federation_path("v1", "query", "directory"),
                {"room_alias": alias},
                timeout_s=TIMEOUT_S,
                max_bytes=MAX_ALIAS_BYTES,
            )
        )
        room_id, servers = told.get("room_id"), told.get("servers")
        if not isinstance(room_id, str) or not is_room_id(room_id):
            raise RemoteFailed(f"{server} answered with what is no room ID.")
        listed = servers if isinstance(servers, list) else []
        names = [name for name in listed if isinstance(name, str) and is_server_name(name)]
        # Whoever has the alias most likely can help to get in, whether it says so or not.
        return AliasTarget(room_id, list(dict.fromkeys((*names[:MAX_SERVERS_OF_ALIAS], server))))

    def fetch_room_list(self, server: ServerName, request: RoomListRequest) -> RoomListPage:
        """Another server's published rooms.

        Raises:
            InvalidParam: that server does not take the request.
            Forbidden: it shows its list to nobody.
            RemoteFailed: it does not answer, or makes no sense.
            LimitExceeded: it was asked too much lately.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1publicrooms
        """
        self._rate_limits.spend("remote_lookups", server)
        wanted: Json = {"limit": min(request.limit or MAX_ROOMS_AT_ONCE, MAX_ROOMS_AT_ONCE)}
        if request.since is not None:
            wanted["since"] = request.since
        if request.all_networks:
            wanted["include_all_networks"] = True
        if request.network is not None:
            wanted["third_party_instance_id"] = request.network
        chosen: Json = {}
        if request.room_filter.search_term:
            chosen["generic_search_term"] = request.room_filter.search_term
        if request.room_filter.room_types is not None:
            chosen["room_types"] = list(request.room_filter.room_types)
        path = federation_path("v1", "publicRooms")
        try:
            if chosen:
                content = {**wanted, "filter": chosen}
                told = _ask(
                    lambda: self._client.post(
                        server, path, content, timeout_s=TIMEOUT_S, max_bytes=MAX_LIST_BYTES
                    )
                )
            else:
                query = {key: _in_query(value) for key, value in wanted.items()}
                told = _ask(
                    lambda: self._client.get(
                        server, path, query, timeout_s=TIMEOUT_S, max_bytes=MAX_LIST_BYTES
                    )
                )
        except NotFound:
            raise RemoteFailed(f"{server} has no list of rooms.") from None
        return _read_page(told)


def _ask(ask: Callable[[], T]) -> T:
    """Ask another server, and say what its failure means for whoever asks us.

    Raises:
        NotFound, Forbidden, InvalidParam: it answered so.
        RemoteFailed: it did not answer, or with nonsense.
    """
    try:
        return ask()
    except RemoteRefused as error:
        if error.status == 404:
            raise NotFound("The other server knows of no such thing.") from error
        if error.status == 403:
            raise Forbidden("The other server does not tell.") from error
        if error.errcode == InvalidParam.errcode:
            raise InvalidParam("The other server does not take this request.") from error
        raise RemoteFailed(f"{error.remote} answered with {error.status}.") from error
    except RemoteError as error:
        raise RemoteFailed(f"{error.remote} cannot be asked: {error.message}") from error


def _in_query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_page(told: Mapping[str, Any]) -> RoomListPage:
    """A page of another server's list, with what makes sense of it."""
    chunk = told.get("chunk")
    listed = chunk if isinstance(chunk, list) else []
    rooms = [_read_room(room) for room in listed if isinstance(room, dict)]
    total = told.get("total_room_count_estimate")
    return RoomListPage(
        chunk=[room for room in rooms if room is not None],
        next_batch=_token(told.get("next_batch")),
        prev_batch=_token(told.get("prev_batch")),
        total=total if isinstance(total, int) and not isinstance(total, bool) else None,
    )


def _read_room(room: Mapping[str, Any]) -> Json | None:
    """A PublishedRoomsChunk; None for what is none."""
    room_id = room.get("room_id")
    if not isinstance(room_id, str) or not is_room_id(room_id):
        return None
    members = room.get("num_joined_members")
    read: Json = {
        "room_id": room_id,
        "num_joined_members": members
        if isinstance(members, int) and not isinstance(members, bool) and members >= 0
        else 0,
        "world_readable": room.get("world_readable") is True,
        "guest_can_join": room.get("guest_can_join") is True,
    }
    texts = {key: room[key] for key in _ROOM_TEXTS if isinstance(room.get(key), str)}
    if not is_room_alias(texts.get("canonical_alias", "")):
        texts.pop("canonical_alias", None)
    return read | texts


def _token(value: Any) -> str | None:
    is_one = isinstance(value, str) and 0 < len(value) <= MAX_TOKEN_LENGTH
    return value if is_one else None
