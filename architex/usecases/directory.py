"""Room aliases: who makes them, where they point, and what rooms say of theirs.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-aliases
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from architex.domain.errors import (
    AliasExists,
    BadAlias,
    Forbidden,
    InvalidParam,
    NotFound,
    RemoteFailed,
    RoomInUse,
    UnknownRoom,
)
from architex.domain.identifiers import (
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    is_room_alias,
    parse_room_alias,
    parse_room_id,
    server_name_of,
)
from architex.domain.room.aggregate import EventDraft
from architex.gateways.clock import Clock
from architex.projections.directory_reads import (
    DirectoryReads,
)
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Execute, WriteRows
from architex.storage.published_rooms import (
    MOVE_PUBLICATION,
    PUBLISH_ROOM,
)
from architex.storage.room_aliases import (
    DELETE_ALIAS,
    INSERT_ALIAS,
    MOVE_ALIASES,
    AliasRow,
    RoomAliasStore,
    alias_row,
    taken_alias_named,
)
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.requester import Requester
from architex.usecases.unredacted import content_of

MAX_SERVERS: Final = 50
MAX_ALIASES: Final = 1_000
"""Of one room, on this server."""
MAX_ALIASES_ELSEWHERE: Final = 5
"""Aliases of other servers that one m.room.canonical_alias may add."""


@dataclass(frozen=True, slots=True)
class DirectoryPolicy:
    """What the operator decided.

    Attributes:
        aliases_require_membership: only who is in a room may give it an alias.
        list_needs_account: reading the list of rooms needs an access token.
        anyone_may_publish: whoever may change a room's aliases may publish it; otherwise only
            administrators of the server may.
        over_federation: other servers may read the list of rooms.
    """

    aliases_require_membership: bool = True
    list_needs_account: bool = True
    anyone_may_publish: bool = True
    over_federation: bool = False

    def check_may_publish(self, requester: Requester) -> None:
        """Raise Forbidden when only administrators may publish rooms, and this is none."""
        if not (self.anyone_may_publish or requester.is_admin):
            raise Forbidden("Only administrators of the server may publish rooms.")


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """Where an alias points, and servers that can help to join there."""

    room_id: RoomId
    servers: Sequence[ServerName]


class RemoteAliases(Protocol):
    """The aliases of other servers."""

    def fetch_alias(self, alias: RoomAlias) -> AliasTarget:
        """Where another server's alias points; raises NotFound, RemoteFailed."""


@dataclass(frozen=True)
class Directory:
    """Aliases: their making, finding, listing and deletion, and what rooms say of them."""

    aliases: RoomAliasStore
    reads: DirectoryReads
    commits: CommitQueue
    clock: Clock
    server_name: ServerName
    policy: DirectoryPolicy
    remote: RemoteAliases

    def resolve(self, alias: RoomAlias) -> AliasTarget:
        """Where an alias points.

        Raises:
            InvalidParam: it is no alias.
            NotFound: there is no such alias.
            RemoteFailed: it is another server's, which cannot be asked.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directoryroomroomalias
        """
        parse_room_alias(alias)
        if server_name_of(alias) != self.server_name:
            return self.remote.fetch_alias(alias)
        room_id = self._get_alias(alias).room_id
        others = self.reads.list_servers(room_id, MAX_SERVERS)
        servers = [self.server_name, *(name for name in others if name != self.server_name)]
        return AliasTarget(room_id, servers)

    def locate_room(
        self, room_id_or_alias: str, via: Sequence[ServerName] = ()
    ) -> tuple[RoomId, Sequence[ServerName]]:
        """The room that an ID or an alias names, and servers that are said to be in it.

        Args:
            via: servers that somebody named already.

        Raises:
            InvalidParam: it is neither.
            NotFound: there is no such alias, or its server cannot be asked.
        """
        if room_id_or_alias.startswith("#"):
            # Whoever goes by an alias is to come where it points now.
            target = self.resolve(room_id_or_alias)
            return target.room_id, [*via, *target.servers]
        return parse_room_id(room_id_or_alias), via

    def create_alias(self, requester: Requester, alias: RoomAlias, room_id: RoomId) -> None:
        """Let an alias of this server point at a room.

        Raises:
            InvalidParam: it is no alias, or another server's.
            Forbidden: the requester is not in the room, and must be; or it has MAX_ALIASES.
            UnknownRoom: this server does not know the room.
            AliasExists: there is such an alias.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias
        """
        self._check_own(alias)
        standing = self.reads.find_standing(room_id, requester.user_id)
        if self.policy.aliases_require_membership and not requester.is_admin:
            if standing is None or not standing.is_joined:
                raise Forbidden("Only who is in a room may give it an alias.")
        elif standing is None:
            raise UnknownRoom(f"{room_id} is not a room this server knows.")
        if len(self.aliases.list_aliases(room_id)) >= MAX_ALIASES:
            raise Forbidden(f"A room has at most {MAX_ALIASES} aliases on this server.")
        now_ms = self.clock.now_ms()
        if not self.aliases.insert_alias(alias, room_id, requester.user_id, now_ms):
            raise AliasExists(f"There is a room alias {alias} already.")

    def delete_alias(self, requester: Requester, alias: RoomAlias) -> None:
        """Delete an alias, also from the room's m.room.canonical_alias if the requester may.

        Raises:
            InvalidParam: it is no alias, or another server's.
            NotFound: there is no such alias.
            Forbidden: the requester neither made it, nor may change the room's canonical alias,
                nor is an administrator of the server.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3directoryroomroomalias
        """
        parse_room_alias(alias)
        if server_name_of(alias) != self.server_name:
            raise InvalidParam("Aliases of other servers can only be deleted there.")
        row = self._get_alias(alias)
        standing = self.reads.find_standing(row.room_id, requester.user_id)
        may_set_aliases = standing is not None and standing.may_set_aliases
        if not (requester.user_id == row.creator or requester.is_admin or may_set_aliases):
            raise Forbidden("You did not make this alias, and may not change the room's aliases.")
        if may_set_aliases and self._delete_with_mention(requester, row):
            return
        self.aliases.delete_alias(alias)

    def list_aliases(self, requester: Requester, room_id: RoomId) -> list[RoomAlias]:
        """The aliases of this server that point at a room.

        Raises:
            Forbidden: the requester is not in the room, and not everybody may read it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidaliases
        """
        standing = self.reads.find_standing(room_id, requester.user_id)
        allowed = standing is not None and (standing.is_joined or standing.is_world_readable)
        if not (allowed or requester.is_admin):
            raise Forbidden("You are not in this room.")
        return self.aliases.list_aliases(room_id)

    def check_canonical_alias(
        self, content: Mapping[str, Any], previous: Mapping[str, Any], room_id: RoomId
    ) -> None:
        """Check the aliases that a new m.room.canonical_alias has and the previous one had not.

        Raises:
            InvalidParam: one of them is no alias, or too many of them are other servers'.
            BadAlias: one of them does not point at the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
        """
        new = dict.fromkeys(_listed_aliases(content)).keys() - set(_known_aliases(previous))
        elsewhere = [alias for alias in new if not alias.endswith(f":{self.server_name}")]
        if len(elsewhere) > MAX_ALIASES_ELSEWHERE:
            # Each is asked for before the answer.
            raise InvalidParam(
                f"At most {MAX_ALIASES_ELSEWHERE} aliases of other servers can be added at once."
            )
        for alias in sorted(new):
            try:
                points_at = self._find_target(alias)
            except (NotFound, Forbidden, RemoteFailed):
                points_at = None
            if points_at != room_id:
                raise BadAlias(f"The alias {alias} does not point to this room.")

    # For the creation of rooms

    def check_new_alias(self, requester: Requester, localpart: str) -> RoomAlias:
        """The alias of that localpart on this server, which nobody has made yet.

        Raises:
            InvalidParam: the localpart is of the wrong grammar.
            RoomInUse: there is such an alias.
        """
        alias = f"#{localpart}:{self.server_name}"
        if ":" in localpart:
            raise InvalidParam("room_alias_name is the alias without the # and the server name.")
        self._check_own(alias)
        if self.aliases.find_alias(alias) is not None:
            raise RoomInUse(f"There is a room alias {alias} already.")
        return alias

    def claim(self, alias: RoomAlias, room_id: RoomId, creator: UserId) -> WriteRows:
        """Writes the alias in the room's own transaction; see `naming_taken_alias`."""
        row = alias_row(alias, room_id, creator, self.clock.now_ms())
        return lambda execute, position: execute(INSERT_ALIAS, row)

    def naming_taken_alias(self) -> AbstractContextManager[None]:
        """Around a write with `claim`: raises RoomInUse when somebody was faster."""
        return taken_alias_named()

    def check_may_publish(self, requester: Requester) -> None:
        """Whether the operator lets the requester publish rooms of theirs.

        Raises:
            Forbidden: only administrators may.
        """
        self.policy.check_may_publish(requester)

    def publish(self, room_id: RoomId, by: UserId) -> WriteRows:
        """Writes the room into the list of rooms, in the room's own transaction."""
        row = (room_id, by, self.clock.now_ms())
        return lambda execute, position: execute(PUBLISH_ROOM, row)

    def hand_over(self, room_id: RoomId, replacement: RoomId) -> WriteRows:
        """Gives a room's aliases of this server, and its place in the list, to another room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#room-upgrades
        """

        def write(execute: Execute, position: int) -> None:
            execute(MOVE_ALIASES, (replacement, room_id))
            execute(MOVE_PUBLICATION, (room_id, replacement))

        return write

    # Within

    def _check_own(self, alias: RoomAlias) -> None:
        """Whether an alias can be made here."""
        parse_room_alias(alias)
        if server_name_of(alias) != self.server_name:
            raise InvalidParam(f"Aliases of this server end with :{self.server_name}.")
        localpart = alias[1:].partition(":")[0]
        if not localpart or any(character.isspace() for character in localpart):
            raise InvalidParam("An alias has a name without blanks.")

    def _get_alias(self, alias: RoomAlias) -> AliasRow:
        row = self.aliases.find_alias(alias)
        if row is None:
            raise NotFound(f"Room alias {alias} not found.")
        return row

    def _find_target(self, alias: RoomAlias) -> RoomId:
        if server_name_of(alias) == self.server_name:
            return self._get_alias(alias).room_id
        return self.remote.fetch_alias(alias).room_id

    def _delete_with_mention(self, requester: Requester, row: AliasRow) -> bool:
        """Delete an alias and its mention in the room's state at once.

        False, and nothing is done, when it is not mentioned or the event is refused.
        """
        type_ = "m.room.canonical_alias"

        def decide(session: RoomSession) -> bool:
            current = session.find_state(type_)
            if current is None:
                return False
            before = content_of(session, current)
            content = without_alias(before, row.room_alias)
            if content == before:
                return False
            try:
                session.append(EventDraft(type_, requester.user_id, content, state_key=""))
            except Forbidden:
                return False
            session.also(lambda execute, position: execute(DELETE_ALIAS, (row.room_alias,)))
            return True

        prefetch = frozenset({(type_, ""), ("m.room.create", ""), ("m.room.power_levels", "")})
        return self.commits.write_room(RoomCommand(row.room_id, decide, prefetch))


def without_alias(content: Mapping[str, Any], alias: RoomAlias) -> dict[str, Any]:
    """The content of an m.room.canonical_alias without one alias."""
    kept = dict(content)
    if kept.get("alias") == alias:
        del kept["alias"]
    alternatives = kept.get("alt_aliases")
    if isinstance(alternatives, list) and alias in alternatives:
        kept["alt_aliases"] = [other for other in alternatives if other != alias]
        if not kept["alt_aliases"]:
            del kept["alt_aliases"]
    return kept


def _listed_aliases(content: Mapping[str, Any]) -> Iterator[RoomAlias]:
    """The aliases of an m.room.canonical_alias; raises InvalidParam for what is none."""
    alias = content.get("alias")
    # If not present, null, or empty the room should be considered to have no canonical alias.
    if alias is not None and alias != "":
        yield _checked_alias(alias)
    alternatives = content.get("alt_aliases")
    if alternatives is None:
        return
    if not isinstance(alternatives, list):
        raise InvalidParam("alt_aliases is a list of room aliases.")
    for alternative in alternatives:
        yield _checked_alias(alternative)


def _known_aliases(previous: Mapping[str, Any]) -> Iterator[RoomAlias]:
    """The aliases of the earlier event, whatever else is in it."""
    alternatives = previous.get("alt_aliases")
    listed = alternatives if isinstance(alternatives, list) else []
    for alias in (previous.get("alias"), *listed):
        if isinstance(alias, str):
            yield alias


def _checked_alias(alias: object) -> RoomAlias:
    if not isinstance(alias, str) or not is_room_alias(alias):
        raise InvalidParam(f"{alias!r} is not a room alias (#localpart:server).")
    return alias
