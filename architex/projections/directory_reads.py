"""Questions of the directories: rooms in the list, people by name, who may change what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from architex.domain.auth_rules.power_levels import PowerLevels
from architex.domain.identifiers import (
    RoomId,
    ServerName,
    UserId,
    fits_identifier,
    server_name_of,
)
from architex.domain.room_versions import get_room_version
from architex.domain.search_text import fold_text, words_of
from architex.projections.current_state import CurrentStateFinder
from architex.storage.event_log import EventLog
from architex.storage.pool import Database

MAX_MEMBERS_LOOKED_AT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user may say about a room.

    Attributes:
        room_nid: the room's number.
        is_joined: whether the user is joined.
        may_set_aliases: whether the user is joined, with the power level that
            m.room.canonical_alias needs.
        is_world_readable: whether anyone may read the room.
    """

    room_nid: int
    is_joined: bool
    may_set_aliases: bool
    is_world_readable: bool


@dataclass(frozen=True, slots=True)
class ListedRoom:
    """A published room, as a list of rooms shows it."""

    room_id: RoomId
    room_nid: int
    joined_members: int
    name: str | None
    topic: str | None
    canonical_alias: str | None
    avatar_url: str | None
    room_type: str | None
    join_rule: str | None
    guest_can_join: bool
    world_readable: bool


@dataclass(frozen=True, slots=True)
class RoomListFilter:
    """Which published rooms to list.

    Attributes:
        search_term: every word of it is somewhere in the name, the topic or the alias.
        room_types: these types only; None in it stands for rooms without a type.
    """

    search_term: str = ""
    room_types: Sequence[str | None] | None = None


@dataclass(frozen=True, slots=True)
class RoomListPlace:
    """A place in the list, between two rooms: next to the room of this size and number.

    Attributes:
        backwards: list the rooms before it, not those after it.
    """

    joined_members: int
    room_nid: int
    backwards: bool = False


@dataclass(frozen=True, slots=True)
class FoundUser:
    """Somebody whom a search of the user directory found."""

    user_id: UserId
    displayname: str | None
    avatar_url: str | None


# Biggest rooms first; among equals the older ones, so that the order is total.
_LIST_ROOMS: Final = """
SELECT r.room_id, room_nid, c.joined, d.name, d.topic, d.canonical_alias, d.avatar_url,
    d.room_type, d.join_rule, d.guest_can_join, d.world_readable
FROM published_rooms p JOIN rooms r USING (room_id) JOIN room_directory d USING (room_nid)
    JOIN room_counts c USING (room_nid)
WHERE c.joined > 0 AND d.search_text LIKE ALL (%(patterns)s::text[])
    AND (%(any_type)s OR d.room_type = ANY (%(types)s::text[])
        OR (%(untyped)s AND d.room_type IS NULL))"""

_AFTER: Final = " AND (c.joined, -room_nid) < (%(joined)s, -%(nid)s)"
_BEFORE: Final = " AND (c.joined, -room_nid) > (%(joined)s, -%(nid)s)"
_FORWARDS: Final = " ORDER BY c.joined DESC, room_nid LIMIT %(limit)s"
_BACKWARDS: Final = " ORDER BY c.joined, room_nid DESC LIMIT %(limit)s"

# Whom somebody may find: who shares a room with them, and who is in a room that anyone may enter
# or read; one that this server is in, as it no more learns who is in others. For users of this
# server the profile counts that they made for all rooms, not what they call themselves in one.
_FIND_USERS: Final = """
SELECT p.user_id,
    CASE WHEN u.user_id IS NULL THEN to_json(p.displayname)::text ELSE
        (SELECT value FROM profiles o WHERE o.user_id = p.user_id AND o.key_name = 'displayname')
    END,
    CASE WHEN u.user_id IS NULL THEN to_json(p.avatar_url)::text ELSE
        (SELECT value FROM profiles o WHERE o.user_id = p.user_id AND o.key_name = 'avatar_url')
    END
FROM user_profiles p LEFT JOIN users u USING (user_id)
WHERE p.words @@ %(query)s::tsquery AND u.deactivated_ts IS NULL
    AND EXISTS (
        SELECT 1 FROM memberships m WHERE m.user_id = p.user_id AND m.membership = 'join'
            AND ((EXISTS (SELECT 1 FROM room_directory d WHERE d.room_nid = m.room_nid
                        AND (d.join_rule = 'public' OR d.world_readable))
                    AND EXISTS (SELECT 1 FROM room_servers s WHERE s.room_nid = m.room_nid
                        AND s.server_name = %(server)s AND s.joined > 0))
                OR (p.user_id <> %(requester)s AND EXISTS (SELECT 1 FROM memberships own
                    WHERE own.user_id = %(requester)s AND own.room_nid = m.room_nid
                        AND own.membership = 'join'))))
ORDER BY p.words @@ %(exact)s::tsquery DESC,
    p.displayname IS NULL AND p.avatar_url IS NULL, p.user_id
LIMIT %(limit)s"""


@dataclass(frozen=True)
class DirectoryReads:
    """Reads `room_directory`, `user_profiles`, and what else the directories show."""

    database: Database
    event_log: EventLog

    def find_standing(self, room_id: RoomId, user_id: UserId) -> Standing | None:
        """What the user may say about the room; None when this server does not know the room."""
        head = self.event_log.find_head(room_id)
        if head is None:
            return None
        with self.database.connection() as connection:
            keys = [
                ("m.room.create", ""),
                ("m.room.power_levels", ""),
                ("m.room.history_visibility", ""),
                ("m.room.member", user_id),
            ]
            found = CurrentStateFinder().find_states(connection, [(head, key) for key in keys])
        create, levels_event, visibility, member = (found.get((room_id, key)) for key in keys)
        is_joined = member is not None and member.membership == "join"
        may_set_aliases = False
        if is_joined and create is not None:
            levels = PowerLevels(get_room_version(head.room_version), create, levels_event)
            needed = levels.to_send("m.room.canonical_alias", is_state=True)
            may_set_aliases = levels.of_user(user_id) >= needed
        return Standing(
            room_nid=head.room_nid,
            is_joined=is_joined,
            may_set_aliases=may_set_aliases,
            is_world_readable=visibility is not None
            and visibility.content.get("history_visibility") == "world_readable",
        )

    def list_servers(self, room_id: RoomId, limit: int) -> list[ServerName]:
        """Servers with joined members, those with most of them first.

        Of a very large room some members stand for all.
        """
        rows = self.database.fetch_all(
            "SELECT substr(user_id, strpos(user_id, ':') + 1) AS server, count(*)"
            " FROM (SELECT user_id FROM memberships JOIN rooms USING (room_nid)"
            "  WHERE room_id = %s AND membership = 'join' LIMIT %s) AS sample"
            " GROUP BY server ORDER BY count(*) DESC, server LIMIT %s",
            (room_id, MAX_MEMBERS_LOOKED_AT, limit),
        )
        return [server for server, _ in rows]

    def list_rooms(
        self, room_filter: RoomListFilter, place: RoomListPlace | None, limit: int
    ) -> list[ListedRoom]:
        """Published rooms that somebody is in, biggest first, on one side of a place."""
        backwards = place is not None and place.backwards
        types = room_filter.room_types
        sql = _LIST_ROOMS
        if place is not None:
            sql += _BEFORE if backwards else _AFTER
        sql += _BACKWARDS if backwards else _FORWARDS
        rows = self.database.fetch_all(
            sql,
            {
                "patterns": [
                    f"%{_escape_like(word)}%"
                    for word in fold_text(room_filter.search_term).split()
                ],
                "any_type": types is None,
                "types": [type_ for type_ in types or () if type_ is not None],
                "untyped": types is not None and None in types,
                "joined": 0 if place is None else place.joined_members,
                "nid": 0 if place is None else place.room_nid,
                "limit": limit,
            },
        )
        rooms = [ListedRoom(*row) for row in rows]
        return rooms[::-1] if backwards else rooms

    def count_rooms(self) -> int:
        """How many published rooms somebody is in, as far as `list_rooms` knows of them."""
        row = self.database.fetch_one(
            "SELECT count(*) FROM published_rooms JOIN rooms USING (room_id)"
            " JOIN room_directory USING (room_nid) JOIN room_counts USING (room_nid)"
            " WHERE joined > 0"
        )
        return 0 if row is None else int(row[0])

    def find_users(self, search_term: str, requester: UserId, limit: int) -> list[FoundUser]:
        """Users whom the requester may find, by the beginnings of words of their names and IDs.

        Best matches first. Somebody whom only a name found that is not shown is left out.
        """
        words = words_of(search_term)
        whole = fold_text(search_term).strip()
        if not words:
            return []
        beginnings = [f"{_quote_lexeme(word)}:*" for word in words]
        query = f"({' & '.join(beginnings)})"
        if fits_identifier(whole):  # nothing longer is the beginning of a user ID
            query += f" | {_quote_lexeme(whole)}:*"
        rows = self.database.fetch_all(
            _FIND_USERS,
            {
                "query": query,
                "exact": " & ".join(map(_quote_lexeme, words)),
                "requester": requester,
                "server": server_name_of(requester),
                "limit": limit,
            },
        )
        users = [
            FoundUser(user_id, _json_text(displayname), _json_text(avatar_url))
            for user_id, displayname, avatar_url in rows
        ]
        return [user for user in users if _is_found_by(user, words, whole)]


def _is_found_by(user: FoundUser, words: Sequence[str], whole: str) -> bool:
    """Whether what is shown of the user is what was searched for."""
    if fold_text(user.user_id).startswith(whole):
        return True
    shown = words_of(f"{user.user_id[1:].partition(':')[0]} {user.displayname or ''}")
    return all(any(known.startswith(word) for known in shown) for word in words)


def _json_text(value: str | None) -> str | None:
    """A JSON string's text; None for any other JSON."""
    text = None if value is None else orjson.loads(value)
    return text if isinstance(text, str) else None


def _escape_like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _quote_lexeme(word: str) -> str:
    """A word as tsquery reads it, whatever characters it has."""
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
