"""room_servers: which servers have members in which room, since when; written by Memberships."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from architex.domain.identifiers import RoomId, ServerName, UserId, is_server_name
from architex.storage.pool import Database, Execute, PgConnection

Change: TypeAlias = tuple[int, UserId, int, int]
"""Room number, user, +1 (joined) or -1 (was joined), position."""

# Between two facts of a batch a server may go and come back. Such runs are written one after
# the other; usually there is one.
_UPSERT: Final = """
INSERT INTO room_servers AS held (room_nid, server_name, joined, since)
SELECT * FROM unnest(%b::int8[], %b::text[], %b::int8[], %b::int8[])
ON CONFLICT (room_nid, server_name) DO UPDATE SET joined = held.joined + excluded.joined,
    since = CASE WHEN held.joined = 0 THEN excluded.since ELSE held.since END,
    until = CASE WHEN held.joined + excluded.joined = 0 THEN excluded.since END"""


def write_changes(execute: Execute, changes: Iterable[Change]) -> None:
    """Count members who came and went, in the order in which they did."""
    runs: dict[tuple[int, ServerName], list[list[int]]] = {}
    for (room_nid, server_name, position), change in _by_fact(changes).items():
        if change == 0:
            continue
        held = runs.setdefault((room_nid, server_name), [])
        if held and (held[-1][0] > 0) == (change > 0):
            held[-1][0] += change
            if change < 0:  # the last who goes decides when the server went
                held[-1][1] = position
        else:
            held.append([change, position])
    number = 0
    while round_ := [(*key, *held[number]) for key, held in runs.items() if len(held) > number]:
        execute(_UPSERT, [list(column) for column in zip(*round_, strict=True)])
        number += 1


def _by_fact(changes: Iterable[Change]) -> dict[tuple[int, ServerName, int], int]:
    """Room, server and position → by how many the server's members changed there."""
    counts: dict[tuple[int, ServerName, int], int] = {}
    is_name: dict[str, bool] = {}
    for room_nid, user_id, change, position in changes:
        server_name = user_id.partition(":")[2]
        if server_name not in is_name:
            is_name[server_name] = is_server_name(server_name)
        if is_name[server_name]:
            key = (room_nid, server_name, position)
            counts[key] = counts.get(key, 0) + change
    return counts


def has_members(connection: PgConnection, room_nid: int, server_name: ServerName) -> bool:
    """Whether a server has a joined member in a room, as far as it is written."""
    row = connection.execute(
        "SELECT 1 FROM room_servers WHERE room_nid = %s AND server_name = %s AND joined > 0",
        (room_nid, server_name),
    ).fetchone()
    return row is not None


@dataclass(frozen=True)
class RoomServers:
    """Questions about the servers in rooms; ours is among them."""

    database: Database

    def list_servers(self, room_nid: int) -> Sequence[ServerName]:
        """The servers with joined members, those with the most first."""
        rows = self.database.fetch_all(
            "SELECT server_name FROM room_servers WHERE room_nid = %s AND joined > 0"
            " ORDER BY joined DESC, server_name",
            (room_nid,),
        )
        return [server_name for (server_name,) in rows]

    def list_servers_of_room(self, room_id: RoomId) -> Sequence[ServerName]:
        """As `list_servers`, by room ID; none for a room we do not know."""
        rows = self.database.fetch_all(
            "SELECT s.server_name FROM room_servers s JOIN rooms r USING (room_nid)"
            " WHERE r.room_id = %s AND s.joined > 0 ORDER BY s.joined DESC, s.server_name",
            (room_id,),
        )
        return [server_name for (server_name,) in rows]

    def is_in_room(self, room_nid: int, server_name: ServerName) -> bool:
        """Whether a server has a joined member."""
        row = self.database.fetch_one(
            "SELECT 1 FROM room_servers WHERE room_nid = %s AND server_name = %s AND joined > 0",
            (room_nid, server_name),
        )
        return row is not None

    def list_servers_sharing(self, user_id: UserId) -> Sequence[ServerName]:
        """The servers with members in any room that a user is in."""
        rows = self.database.fetch_all(
            "SELECT DISTINCT s.server_name FROM memberships m JOIN room_servers s USING (room_nid)"
            " WHERE m.user_id = %s AND m.membership = 'join' AND s.joined > 0",
            (user_id,),
        )
        return [server_name for (server_name,) in rows]
