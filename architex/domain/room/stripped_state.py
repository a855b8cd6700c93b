"""Stripped state: what a server tells of a room to those outside, with an invite or a knock.

It comes from another server, and it goes to clients: whatever is not of its form is left out, and
it is bounded.

Spec: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import orjson

from architex.domain.client_event import strip_state_event
from architex.domain.errors import InvalidParam, InvalidSignature, MatrixError
from architex.domain.identifiers import RoomId, ServerName, fits_identifier, is_user_id
from architex.domain.pdu import Pdu, parse_pdu
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import (
    FindEventKey,
    servers_that_must_sign,
    verify_event_signatures,
)

StrippedEvent: TypeAlias = Mapping[str, Any]
"""`type`, `state_key`, `sender` and `content` of a state event."""

MAX_EVENTS: Final = 64
MAX_BYTES: Final = 131_072
"""Of the JSON of all events together; what does not fit is left out."""


def strip_told_state(entries: object) -> list[StrippedEvent]:
    """What is told of a room, as far as it is stripped state, each entry of the state once.

    Args:
        entries: a list of events, whole or stripped; or anything else, as it came.
    """
    stripped: dict[tuple[str, str], StrippedEvent] = {}
    size = 0
    for entry in entries[:MAX_EVENTS] if isinstance(entries, list) else ():
        if not _is_stripped_state(entry):
            continue
        event = strip_state_event(entry)
        event_bytes = _size_of(event)
        key = (event["type"], event["state_key"])
        if event_bytes is not None and key not in stripped and size + event_bytes <= MAX_BYTES:
            stripped[key] = event
            size += event_bytes
    return list(stripped.values())


def read_told_state(rules: RoomVersionRules, room_id: RoomId, entries: object) -> list[Pdu]:
    """What is told of a room, where every entry must be a whole event of it.

    Raises:
        InvalidParam: one is not, or there is no m.room.create event.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid
    """
    if not isinstance(entries, list) or len(entries) > MAX_EVENTS:
        raise InvalidParam("The state of the room is not told as a list of a few events.")
    told = [_parse(rules, room_id, entry) for entry in entries]
    if not any(pdu.key == ("m.room.create", "") for pdu in told):
        raise InvalidParam("The m.room.create event is not among the state of the room.")
    return told


def verify_told_state(
    rules: RoomVersionRules, told: Iterable[Pdu], find_verify_key: FindEventKey
) -> list[StrippedEvent]:
    """Those of the events that are signed, stripped.

    An event that cannot be verified because its server's key cannot be had is left out; but not
    the m.room.create event of a room that has its ID from it, which needs no other proof.

    Raises:
        InvalidParam: a signature does not hold, or is wanting.
    """
    return strip_told_state(
        [pdu.event for pdu in told if _is_verified(rules, pdu, find_verify_key)]
    )


def _parse(rules: RoomVersionRules, room_id: RoomId, entry: object) -> Pdu:
    if not isinstance(entry, dict):
        raise InvalidParam("What is told of the room are not events.")
    try:
        pdu = parse_pdu(rules, {key: value for key, value in entry.items() if key != "unsigned"})
    except MatrixError as error:
        raise InvalidParam(f"What is told of the room is no event. {error.message}") from error
    if pdu.room_id != room_id:
        raise InvalidParam(f"{pdu.event_id} is an event of another room, {pdu.room_id}.")
    if pdu.state_key is None:
        raise InvalidParam(f"{pdu.event_id} is no state event.")
    return pdu


def _is_verified(rules: RoomVersionRules, pdu: Pdu, find_verify_key: FindEventKey) -> bool:
    """Whether an event is signed; False when there is no key to tell by.

    Raises:
        InvalidParam: it is not.
    """
    wanting: set[ServerName] = set()

    def find(server_name: ServerName, key_id: str) -> bytes | None:
        verify_key = find_verify_key(server_name, key_id, pdu.origin_server_ts)
        if verify_key is None:
            wanting.add(server_name)
        return verify_key

    try:
        verify_event_signatures(rules, pdu.event, servers_that_must_sign(rules, pdu), find)
    except InvalidSignature as error:
        if wanting:
            return rules.room_id_is_create_hash and pdu.type == "m.room.create"
        raise InvalidParam(f"{pdu.event_id} is not signed. {error.message}") from error
    return True


def _is_stripped_state(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and all(_is_short(entry.get(key)) for key in ("type", "state_key", "sender"))
        and is_user_id(entry["sender"])
        and isinstance(entry.get("content"), dict)
    )


def _is_short(value: object) -> bool:
    return isinstance(value, str) and fits_identifier(value)


def _size_of(event: StrippedEvent) -> int | None:
    try:
        return len(orjson.dumps(event))
    except TypeError:  # an integer beyond 64 bits
        return None


def find_told(events: Iterable[StrippedEvent], type: str) -> StrippedEvent | None:
    """The event of a type with an empty state key; None when nothing is told of it."""
    return next((e for e in events if e["type"] == type and e["state_key"] == ""), None)
