"""Snapshots of rooms: what a Room knows, as bytes that vouch for themselves."""

from __future__ import annotations

import hashlib
import logging
from typing import Final

import immutables
import orjson
from eventsourcing.persistence import StoredEvent

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import MatrixError
from architex.domain.pdu import parse_pdu
from architex.domain.room.aggregate import Extremity, Room
from architex.domain.room_versions import get_room_version

log = logging.getLogger(__name__)

SCHEMA: Final = 1
TOPIC: Final = "RoomSnapshot"
INTERVAL: Final = 100
"""Facts from one snapshot to the next."""

# State that most decisions look at. Everything else is looked up when somebody needs it, so that
# a snapshot does not grow with the room.
_KEPT_TYPES: Final = (
    "m.room.create",
    "m.room.encryption",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.policy",
    "m.room.power_levels",
    "m.room.server_acl",
)


def encode_snapshot(room: Room) -> StoredEvent:
    """The room's snapshot; begins with the SHA-256 of the rest."""
    body = orjson.dumps(
        {
            "schema": SCHEMA,
            "room_id": room.room_id,
            "room_version": room.rules.version,
            "version": room.version,
            "depth": room.depth,
            "extremities": {
                event_id: [end.depth, end.reference_hash and end.reference_hash.hex()]
                for event_id, end in room.extremities.items()
            },
            "state": [
                [pdu.event_id, orjson.Fragment(encode_lenient_json(pdu.event))]
                for type_ in _KEPT_TYPES
                if (pdu := room.state.get((type_, ""))) is not None
            ],
        }
    )
    return StoredEvent(
        originator_id=room.room_id,
        originator_version=room.version,
        topic=TOPIC,
        state=hashlib.sha256(body).digest() + body,
    )


def is_damaged(stored: StoredEvent) -> bool:
    """Whether a snapshot's bytes are not those that were written."""
    return hashlib.sha256(stored.state[32:]).digest() != stored.state[:32]


def decode_snapshot(stored: StoredEvent) -> Room | None:
    """The room of a snapshot; None when the snapshot is of another schema or damaged."""
    body = stored.state[32:]
    if is_damaged(stored):
        log.warning("The snapshot of %s is damaged; replaying its facts.", stored.originator_id)
        return None
    fields = orjson.loads(body)
    if fields.get("schema") != SCHEMA or fields["version"] != stored.originator_version:
        return None
    try:
        rules = get_room_version(fields["room_version"])
        pdus = [
            parse_pdu(rules, event, event_id=event_id)
            for event_id, event in filter(None, fields["state"])
        ]
    except MatrixError:
        log.warning("The snapshot of %s does not fit; replaying.", stored.originator_id)
        return None
    return Room(
        room_id=fields["room_id"],
        rules=rules,
        version=fields["version"],
        depth=fields["depth"],
        extremities=immutables.Map(
            {
                event_id: Extremity(depth, bytes.fromhex(quoted) if quoted else None)
                for event_id, (depth, quoted) in fields["extremities"].items()
            }
        ),
        state=immutables.Map({(pdu.type, pdu.state_key or ""): pdu for pdu in pdus}),
    )
