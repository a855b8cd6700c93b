"""Facts as bytes: the mapper between the domain's facts and the library's stored events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

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
    redaction_server, before ([position, overlay, entries as in delta]), reason,
    known_at, ordering and is_followed.
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
    if fact.known_at is not None:
        envelope["known_at"] = fact.known_at
    if fact.ordering is not None:
        envelope["ordering"] = fact.ordering
    if fact.is_followed:
        envelope["is_followed"] = True
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
        known_at=envelope.get("known_at"),
        ordering=envelope.get("ordering"),
        is_followed=envelope.get("is_followed", False),
    )


def check_envelope(state: bytes) -> None:
    """Check that bytes have the form that `encode_fact` writes, and nothing else.

    Raises:
        ValueError: says what is not as it should be.
    """
    envelope = orjson.loads(state)
    if not isinstance(envelope, dict) or not isinstance(envelope.get("pdu"), dict):
        raise ValueError("it is no envelope around an event")
    unknown = envelope.keys() - _ENVELOPE.keys()
    if unknown:
        raise ValueError(f"it has a field {min(unknown)!r}")
    for name, fits in _ENVELOPE.items():
        is_needed = name in ("event_id", "received_ts", "pdu")
        if (is_needed or name in envelope) and not fits(envelope.get(name)):
            raise ValueError(f"its field {name} makes no sense")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    # bool is an int to Python, not to JSON.
    return type(value) is int and value >= 0


def _are_entries(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, list)
        and len(entry) == 3
        and _is_text(entry[0])
        and _is_text(entry[1])
        and (entry[2] is None or _is_text(entry[2]))
        for entry in value
    )


def _is_state_before(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _is_count(value[0])
        and (value[1] is None or _is_count(value[1]))
        and _are_entries(value[2])
    )


def _is_device(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_text, value))


_ENVELOPE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "event_id": _is_text,
    "received_ts": _is_count,
    "replaces": _is_text,
    "delta": _are_entries,
    "sender_device": _is_device,
    "redaction_server": _is_text,
    "before": _is_state_before,
    "reason": _is_text,
    "known_at": _is_count,
    "ordering": lambda value: type(value) is int,
    "is_followed": lambda value: value is True,
    "pdu": lambda value: isinstance(value, dict),
}


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
