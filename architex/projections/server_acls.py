"""Which servers may take part in which rooms, by the rooms' current server ACLs.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from architex.domain.identifiers import RoomId, ServerName
from architex.domain.room_versions import get_room_version
from architex.domain.server_acl import ServerAcl
from architex.storage.pool import Database
from architex.storage.room_facts import decode_pdu

MAX_REMEMBERED: Final = 1_000
"""Lists kept ready in a process; each comes from an event of at most 64 KiB."""

_FIND_POSITION: Final = """
SELECT position FROM current_state WHERE room_nid = %s AND type = 'm.room.server_acl'
AND state_key = '' AND valid_to = 9223372036854775807"""

_FIND_POSITIONS: Final = """
SELECT r.room_id, c.position FROM rooms r JOIN current_state c USING (room_nid)
WHERE r.room_id = ANY(%s) AND c.type = 'm.room.server_acl' AND c.state_key = ''
AND c.valid_to = 9223372036854775807"""

_LOAD: Final = """
SELECT s.state, r.room_version FROM stored_events s JOIN rooms r ON r.room_id = s.originator_id
WHERE s.notification_id = %s"""

_LOOK_UP: Final = """
SELECT EXISTS (SELECT FROM room_servers s WHERE s.room_nid = r.room_nid AND s.server_name = %s
    AND s.joined > 0),
    (SELECT c.position FROM current_state c WHERE c.room_nid = r.room_nid
    AND c.type = 'm.room.server_acl' AND c.state_key = '' AND c.valid_to = 9223372036854775807)
FROM rooms r WHERE r.room_id = %s"""


@dataclass(frozen=True, slots=True)
class RoomAdmission:
    """How a room stands to two servers.

    Attributes:
        is_here: ours is in it.
        is_allowed: its ACL lets the other one take part.
    """

    is_here: bool
    is_allowed: bool


class ServerAcls:
    """Asks `current_state`, `room_servers`; keeps the lists that were asked for lately ready."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # By the position of the event that a list is in: so none is ever out of date.
        self._remembered: OrderedDict[int, ServerAcl] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, room_nid: int, server_name: ServerName) -> bool:
        """Whether a server may take part in a room. Without a list every server may.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls
        """
        row = self._database.fetch_one(_FIND_POSITION, (room_nid,))
        return row is None or self._get(row[0]).allows(server_name)

    def list_denying(self, server_name: ServerName, room_ids: Collection[RoomId]) -> set[RoomId]:
        """Those of the rooms in which a server may not take part."""
        rows = self._database.fetch_all(_FIND_POSITIONS, (list(room_ids),))
        return {
            room_id for room_id, position in rows if not self._get(position).allows(server_name)
        }

    def look_up(
        self, room_id: RoomId, server_name: ServerName, origin: ServerName
    ) -> RoomAdmission:
        """Whether a server, ours, is in a room, and another may take part in it; one question."""
        row = self._database.fetch_one(_LOOK_UP, (server_name, room_id))
        if row is None:
            return RoomAdmission(False, False)
        is_here, position = row
        return RoomAdmission(is_here, position is None or self._get(position).allows(origin))

    def _get(self, position: int) -> ServerAcl:
        with self._lock:
            acl = self._remembered.get(position)
            if acl is not None:
                self._remembered.move_to_end(position)
                return acl
        row = self._database.fetch_one(_LOAD, (position,))
        content = {} if row is None else decode_pdu(row[0], get_room_version(row[1])).content
        acl = ServerAcl(content)
        with self._lock:
            self._remembered[position] = acl
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return acl
