"""The room directory: aliases, and the list of public rooms.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-aliases
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from architex.domain.errors import BadAlias, InvalidParam, NotFound
from architex.domain.identifiers import (
    RoomAlias,
    RoomId,
    ServerName,
    parse_room_alias,
    parse_room_id,
    server_name_of,
)
from architex.storage.room_aliases import RoomAliasStore


@dataclass(frozen=True)
class Directory:
    """Names of rooms."""

    aliases: RoomAliasStore
    server_name: ServerName

    def resolve_room(self, room_id_or_alias: str) -> RoomId:
        """The room that an ID or an alias names.

        Raises:
            InvalidParam: it is neither.
            NotFound: there is no such alias.
        """
        if room_id_or_alias.startswith("#"):
            return self.get_alias(parse_room_alias(room_id_or_alias))
        return parse_room_id(room_id_or_alias)

    def get_alias(self, alias: RoomAlias) -> RoomId:
        """The room that an alias names.

        Raises:
            NotFound: there is no such alias.
        """
        row = self.aliases.find_alias(alias) if server_name_of(alias) == self.server_name else None
        if row is None:
            raise NotFound(f"There is no room {alias}.")
        return row.room_id

    def check_canonical_alias(
        self, content: Mapping[str, Any], previous: Mapping[str, Any], room_id: RoomId
    ) -> None:
        """Check that every alias that an m.room.canonical_alias adds points at the room.

        Raises:
            InvalidParam: an alias is not of the grammar.
            BadAlias: an alias does not exist or points elsewhere.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomcanonical_alias
        """
        old = set(_named_aliases(previous))
        added = [alias for alias in _named_aliases(content) if alias not in old]
        for alias in added:
            parse_room_alias(alias)
        found = self.aliases.find_rooms(added)
        for alias in added:
            if found.get(alias) != room_id:
                raise BadAlias(f"{alias} does not point at this room.")


def _named_aliases(content: Mapping[str, Any]) -> Iterator[str]:
    """The aliases an m.room.canonical_alias names."""
    alias, others = content.get("alias"), content.get("alt_aliases", [])
    if alias is not None and alias != "":
        if not isinstance(alias, str):
            raise InvalidParam("alias must be a string.")
        yield alias
    if not isinstance(others, list | tuple):
        raise InvalidParam("alt_aliases must be a list of aliases.")
    for other in others:
        if not isinstance(other, str):
            raise InvalidParam("alt_aliases must be a list of aliases.")
        yield other
