"""Facts as bytes: the mapper between the domain's facts and the library's stored events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import orjson
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, StoredEvent

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey, parse_pdu
from architex.domain.room.events import FACT_CLASSES, Fact, SenderDevice, StateBefore
from architex.domain.room_versions import RoomVersionRules, get_room_version

RulesFinder: TypeAlias = Callable[[str], RoomVersionRules]
"""Room ID → the rules of its version."""


def encode_fact(fact: Fact) -> bytes:
    """The bytes of a fact: an envelope of ours around the PDU's canonical JSON.

    Keys beside `pdu`: event_id, received_ts, and, where there is something to say, replaces,
    delta ([[type, state key, event ID or null], …]), sender_device ([device ID, transaction ID]),
    redaction_server, before ([position, overlay, entries as in delta]) and reason.
    """
    envelope: dict[str, Any] = {"event_id": fact.pdu.event_id, "received_ts": fact.received_ts}
    if fact.replaces is not None:
        envelope["replaces"] = fact.replaces
    if fact.delta is not None:
        envelope["delta"] = _entries(fact.delta)
    if fact.sender_device is not None:
        envelope["sender_device"] = [fact.sender_device.device_id, fact.sender_device.txn_id]
    if fact.redaction_server is not None:
        envelope["redaction_server"] = fact.redaction_server
    if fact.before is not None:
        before = fact.before
        envelope["before"] = [before.at, before.overlay, _entries(before.entries)]
    if fact.reason is not None:
        envelope["reason"] = fact.reason
    pdu = encode_lenient_json(fact.pdu.event)
    return orjson.dumps(envelope)[:-1] + b',"pdu":' + pdu + b"}"


def decode_fact(stored: StoredEvent, rules: RoomVersionRules) -> Fact:
    """The fact that `encode_fact` wrote.

    Raises:
        ValueError: the bytes are not such a fact.
    """
    envelope = orjson.loads(stored.state)
    device = envelope.get("sender_device")
    delta, before = envelope.get("delta"), envelope.get("before")
    return FACT_CLASSES[stored.topic](
        originator_id=cast(str, stored.originator_id),
        originator_version=stored.originator_version,
        pdu=parse_pdu(rules, envelope["pdu"], event_id=envelope["event_id"]),
        received_ts=envelope["received_ts"],
        replaces=envelope.get("replaces"),
        delta=None if delta is None else _state_changes(delta),
        sender_device=None if device is None else SenderDevice(*device),
        redaction_server=envelope.get("redaction_server"),
        before=None
        if before is None
        else StateBefore(before[0], before[1], _state_changes(before[2])),
        reason=envelope.get("reason"),
    )


def _entries(changes: Mapping[StateKey, EventId | None]) -> list[list[str | None]]:
    return [[type_, state_key, event_id] for (type_, state_key), event_id in changes.items()]


def _state_changes(entries: Iterable[Sequence[Any]]) -> dict[StateKey, EventId | None]:
    return {(type_, state_key): event_id for type_, state_key, event_id in entries}


def decode_pdu(state: bytes, rules: RoomVersionRules) -> Pdu:
    """Only the PDU of a fact's bytes."""
    envelope = orjson.loads(state)
    return parse_pdu(rules, envelope["pdu"], event_id=envelope["event_id"])


def room_version_of(first: StoredEvent) -> RoomVersionRules:
    """The room version that the first fact of a room, its create event, names.

    Raises:
        UnsupportedRoomVersion: it is none of ours.
    """
    content = orjson.loads(first.state)["pdu"]["content"]
    return get_room_version(content.get("room_version", "1"))


class FactMapper(Mapper[str]):
    """The eventsourcing library's mapper, for rooms: a fact is its own serialisation."""

    def __init__(self, find_rules: RulesFinder) -> None:
        self._find_rules = find_rules

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """The stored event of a fact."""
        fact = cast(Fact, domain_event)
        return StoredEvent(
            originator_id=fact.originator_id,
            originator_version=fact.originator_version,
            topic=type(fact).__name__,
            state=encode_fact(fact),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        """The fact of a stored event."""
        rules = self._find_rules(cast(str, stored_event.originator_id))
        return cast("DomainEventProtocol[str]", decode_fact(stored_event, rules))
