"""EDUs about devices for other servers: messages to their devices, changes of our users' devices.

All of them must arrive. Spec: https://spec.matrix.org/v1.19/server-server-api/#device-management
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.canonical_json import Json
from architex.domain.encryption_keys import MASTER, SELF_SIGNING
from architex.domain.identifiers import ServerName, UserId
from architex.projections.outgoing_edus import EduBatch
from architex.storage.device_lists import CROSS_SIGNING, DeviceListUpdate
from architex.storage.pool import PgConnection

_RANGE: Final = "x.position > %(after)s AND x.position <= %(up_to)s"

_SERVERS_OF_MESSAGES: Final = f"""
SELECT x.destination, min(x.position) FROM to_device_outbox x WHERE {_RANGE}
GROUP BY x.destination"""  # noqa: S608 - constants

# Of messages in one transaction, but for the first: each may be as large as a client's request.
# What is beyond is not read; sizes are known without reading what they are of.
_MAX_BYTES: Final = 4 * 1024 * 1024

_MESSAGES: Final = f"""
SELECT position, sender, type, message_id, CASE WHEN before < {_MAX_BYTES} THEN messages END
FROM (SELECT x.*, sum(octet_length(x.messages)) OVER (ORDER BY x.position)
        - octet_length(x.messages) AS before
    FROM to_device_outbox x WHERE x.destination = %(to)s AND {_RANGE}
    ORDER BY x.position LIMIT %(limit)s) AS owed
ORDER BY position"""  # noqa: S608 - constants

# Changes concern the servers in rooms with the user; a join concerns the servers in the room.
_SERVERS_OF_CHANGES: Final = f"""
SELECT server_name, min(position) FROM (
    SELECT s.server_name, x.position FROM device_list_updates x
    JOIN memberships m ON m.user_id = x.user_id AND m.membership = 'join'
    JOIN room_servers s ON s.room_nid = m.room_nid AND s.joined > 0 WHERE {_RANGE}
    UNION ALL SELECT s.server_name, x.position FROM event_graph x
    JOIN memberships m ON m.room_nid = x.room_nid AND m.join_position = x.position
    JOIN room_servers s ON s.room_nid = m.room_nid AND s.joined > 0
    WHERE {_RANGE} AND EXISTS (SELECT 1 FROM device_keys k WHERE k.user_id = m.user_id))
AS concerned
WHERE server_name <> %(own)s GROUP BY server_name"""  # noqa: S608 - constants

_CHANGES: Final = f"""
SELECT x.user_id, x.stream_id, x.device_id, x.previous, x.position FROM device_list_updates x
WHERE {_RANGE} AND EXISTS (SELECT 1 FROM memberships m JOIN room_servers s
    ON s.room_nid = m.room_nid AND s.server_name = %(to)s AND s.joined > 0
    WHERE m.user_id = x.user_id AND m.membership = 'join')
ORDER BY x.position, x.stream_id FETCH FIRST %(limit)s ROWS WITH TIES"""  # noqa: S608 - constants

# Of somebody with keys who joined the newest change is told: whoever does not know what was before
# it asks.
_JOINS: Final = f"""
SELECT u.user_id, u.stream_id, u.device_id, u.previous, x.position FROM event_graph x
JOIN memberships m ON m.room_nid = x.room_nid AND m.join_position = x.position
JOIN room_servers s ON s.room_nid = x.room_nid AND s.server_name = %(to)s AND s.joined > 0
CROSS JOIN LATERAL (SELECT * FROM device_list_updates n WHERE n.user_id = m.user_id
    AND n.device_id <> '' ORDER BY n.stream_id DESC LIMIT 1) u
WHERE {_RANGE} AND EXISTS (SELECT 1 FROM device_keys k WHERE k.user_id = m.user_id)
ORDER BY x.position FETCH FIRST %(limit)s ROWS WITH TIES"""  # noqa: S608 - constants

_DEVICES: Final = """
SELECT w.user_id, w.device_id, d.device_id IS NOT NULL, k.keys
FROM unnest(%s::text[], %s::text[]) AS w (user_id, device_id)
LEFT JOIN devices d USING (user_id, device_id)
LEFT JOIN device_keys k USING (user_id, device_id)"""

_SIGNATURES: Final = """
SELECT s.target_user_id, s.target_id, s.signer_key_id, s.signature FROM key_signatures s
WHERE s.target_user_id = ANY(%s) AND s.signer_user_id = s.target_user_id"""

_CROSS_SIGNING_KEYS: Final = """
SELECT user_id, usage, public_key, key FROM cross_signing_keys
WHERE user_id = ANY(%s) AND usage IN ('master', 'self_signing')"""


@dataclass(frozen=True)
class ToDeviceEdus:
    """m.direct_to_device: what our users send to devices on other servers.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging
    """

    name: str = "to_device"
    traces: Sequence[str] = ("(SELECT position AS at FROM to_device_outbox)",)
    is_durable: bool = True
    is_perishable: bool = False
    servers_per_second: float | None = None

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        """See EduSource."""
        params = {"after": after, "up_to": up_to}
        return dict(connection.execute(_SERVERS_OF_MESSAGES.encode(), params).fetchall())

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        """See EduSource."""
        rows = connection.execute(
            _MESSAGES.encode(),
            {"to": destination, "after": after, "up_to": up_to, "limit": limit},
        ).fetchall()
        fitting = [row for row in rows if row[4] is not None]
        edus: list[Json] = [
            {
                "edu_type": "m.direct_to_device",
                "content": {
                    "sender": sender,
                    "type": type_,
                    "message_id": message_id,
                    "messages": orjson.loads(messages),
                },
            }
            for _, sender, type_, message_id, messages in fitting
        ]
        is_all = len(fitting) == len(rows) < limit
        return EduBatch(edus, up_to if is_all else fitting[-1][0])

    def note_delivered(
        self, connection: PgConnection, destination: ServerName, up_to: int
    ) -> None:
        """See EduSource: they are kept no longer."""
        connection.execute(
            "DELETE FROM to_device_outbox WHERE destination = %s AND position <= %s",
            (destination, up_to),
        )


@dataclass(frozen=True)
class DeviceListEdus:
    """m.device_list_update and m.signing_key_update: changes of our users' devices and keys.

    A device that changed several times goes out once, as it is then. Names of devices stay here.

    Attributes:
        own: our server name.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#device-management
    """

    own: ServerName
    name: str = "device_lists"
    traces: Sequence[str] = (
        "(SELECT position AS at FROM device_list_updates)",
        # OFFSET 0: few events are new, whatever PostgreSQL believes; the joins follow from them.
        "(SELECT x.position AS at FROM event_graph x WHERE EXISTS (SELECT FROM memberships m"
        " WHERE m.room_nid = x.room_nid AND m.join_position = x.position OFFSET 0))",
    )
    is_durable: bool = True
    is_perishable: bool = False
    servers_per_second: float | None = None

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        """See EduSource."""
        params = {"own": self.own, "after": after, "up_to": up_to}
        return dict(connection.execute(_SERVERS_OF_CHANGES.encode(), params).fetchall())

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        """See EduSource."""
        params = {
            "own": self.own,
            "to": destination,
            "after": after,
            "up_to": up_to,
            "limit": limit,
        }
        reached = up_to
        found: list[DeviceListUpdate] = []
        for sql in (_CHANGES, _JOINS):
            rows = connection.execute(sql.encode(), params).fetchall()
            if len(rows) >= limit:
                reached = min(reached, rows[-1][4])
            found += [DeviceListUpdate(*row) for row in rows]
        updates = _newest([update for update in found if update.position <= reached])
        return EduBatch(_edus(connection, updates), reached)

    def note_delivered(
        self, connection: PgConnection, destination: ServerName, up_to: int
    ) -> None:
        """See EduSource: nothing is kept for a server alone."""


def _newest(updates: Sequence[DeviceListUpdate]) -> list[DeviceListUpdate]:
    """The last update of each device, each following the one told before it."""
    by_stream = {(u.user_id, u.stream_id): u for u in updates}
    ordered = sorted(by_stream.values(), key=lambda update: update.stream_id)
    last = {(u.user_id, u.device_id): u for u in ordered}
    told: list[DeviceListUpdate] = []
    # The user's stream as the other server has it.
    before: dict[UserId, int | None] = {}
    for update in ordered:
        if update.device_id == CROSS_SIGNING:
            if last[update.user_id, CROSS_SIGNING] is update:
                told.append(update)
            continue
        previous = before.setdefault(update.user_id, update.previous)
        if last[update.user_id, update.device_id] is update:
            told.append(
                DeviceListUpdate(
                    update.user_id, update.stream_id, update.device_id, previous, update.position
                )
            )
            before[update.user_id] = update.stream_id
    return told


def _edus(connection: PgConnection, updates: Sequence[DeviceListUpdate]) -> list[Json]:
    if not updates:
        return []
    users = sorted({update.user_id for update in updates})
    devices = {
        (user_id, device_id): (exists, keys)
        for user_id, device_id, exists, keys in connection.execute(
            _DEVICES, ([u.user_id for u in updates], [u.device_id for u in updates])
        ).fetchall()
    }
    signatures: dict[tuple[UserId, str], dict[str, str]] = {}
    for user_id, target_id, key_id, signature in connection.execute(
        _SIGNATURES, (users,)
    ).fetchall():
        signatures.setdefault((user_id, target_id), {})[key_id] = signature
    signing_keys: dict[tuple[UserId, str], Json] = {}
    if any(update.device_id == CROSS_SIGNING for update in updates):
        for user_id, usage, public_key, key in connection.execute(
            _CROSS_SIGNING_KEYS, (users,)
        ).fetchall():
            more = signatures.get((user_id, public_key), {})
            signing_keys[user_id, usage] = _signed(orjson.loads(key), user_id, more)
    edus: list[Json] = []
    for update in updates:
        if update.device_id == CROSS_SIGNING:
            edus.append(_signing_key_edu(update.user_id, signing_keys))
            continue
        exists, keys = devices[update.user_id, update.device_id]
        content: Json = {
            "user_id": update.user_id,
            "device_id": update.device_id,
            "stream_id": update.stream_id,
            "prev_id": [] if update.previous is None else [update.previous],
        }
        if not exists:
            content["deleted"] = True
        elif keys is not None:
            more = signatures.get((update.user_id, update.device_id), {})
            content["keys"] = _signed(orjson.loads(keys), update.user_id, more)
        edus.append({"edu_type": "m.device_list_update", "content": content})
    return edus


def _signing_key_edu(user_id: UserId, signing_keys: Mapping[tuple[UserId, str], Json]) -> Json:
    content: Json = {"user_id": user_id}
    for usage, field in ((MASTER, "master_key"), (SELF_SIGNING, "self_signing_key")):
        if (user_id, usage) in signing_keys:
            content[field] = signing_keys[user_id, usage]
    return {"edu_type": "m.signing_key_update", "content": content}


def _signed(key: Json, user_id: UserId, more: Mapping[str, str]) -> Json:
    """A key with further signatures of its user."""
    if not more:
        return key
    signatures: dict[str, Any] = dict(key.get("signatures", {}))
    signatures[user_id] = {**signatures.get(user_id, {}), **more}
    return {**key, "signatures": signatures}
