"""Events in the formats that clients see.

A RecordedEvent is an event as it comes out of the log, with the parts that every rendering shares
serialised once. Renderings are `orjson.Fragment`s: JSON that goes into a response as it is.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-event-format
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import orjson

from architex.domain.event_filter import EventFields, select_event_fields
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.redaction import redact_event
from architex.domain.room_versions import RoomVersionRules

ClientEvent: TypeAlias = orjson.Fragment
"""An event as a client sees it, as JSON."""

STRIPPED_STATE_TYPES: Final = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
"""What someone may know of a room before joining it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
"""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEvent:
    """An event as the log has it, pruned if it was redacted.

    Attributes:
        position: its place in the log.
        redacted_by: the position of the redaction that pruned it, if one did.
        replaces: the event it replaced in the room's state, if any.
        sender_device: the device that sent it and the device's transaction ID, if known.
        pdu: the event as servers exchange it; do not change it.
        body: the client format as JSON, without `room_id`, `unsigned` and the closing brace.
    """

    position: int
    event_id: EventId
    redacted_by: int | None
    replaces: EventId | None
    sender_device: tuple[str, str] | None
    pdu: Mapping[str, Any]
    body: bytes

    @property
    def type(self) -> str:
        """The event's type."""
        return str(self.pdu["type"])

    @property
    def state_key(self) -> str | None:
        """The event's state key; None when it is no state event."""
        return self.pdu.get("state_key")

    @property
    def sender(self) -> UserId:
        """Who sent it."""
        return str(self.pdu["sender"])

    @property
    def content(self) -> Mapping[str, Any]:
        """The event's content, pruned if it was redacted."""
        content: Mapping[str, Any] = self.pdu["content"]
        return content

    @property
    def has_url(self) -> bool:
        """Whether the content has a `url`, as `contains_url` of filters means it."""
        return isinstance(self.content.get("url"), str)


@dataclass(frozen=True, slots=True)
class Viewer:
    """For whom events are rendered, when, and in which form.

    Attributes:
        now_ms: milliseconds since 1970, for `unsigned.age`.
        room_id: added to the events; None where the response says it elsewhere.
        event_fields: only these parts; None for all.
        federation_format: the event as servers exchange it.
    """

    user_id: UserId
    device_id: str | None
    now_ms: int
    room_id: RoomId | None = None
    event_fields: EventFields | None = None
    federation_format: bool = False


def read_recorded_event(
    position: int, state: bytes, redacted_by: int | None, rules: RoomVersionRules
) -> RecordedEvent:
    """The event of a stored fact.

    Args:
        state: the fact's bytes, as storage.room_facts writes them.
        redacted_by: the position of the redaction of this event; then it is pruned.
    """
    envelope = orjson.loads(state)
    pdu = envelope["pdu"]
    if redacted_by is not None:
        pdu = redact_event(rules, pdu)
    device = envelope.get("sender_device")
    event_id = envelope["event_id"]
    return RecordedEvent(
        position=position,
        event_id=event_id,
        redacted_by=redacted_by,
        replaces=envelope.get("replaces"),
        sender_device=None if device is None else (device[0], device[1]),
        pdu=pdu,
        body=orjson.dumps(client_fields(event_id, pdu))[:-1],
    )


def client_fields(event_id: EventId, pdu: Mapping[str, Any]) -> dict[str, Any]:
    """The client format of an event, without `room_id` and `unsigned`."""
    fields: dict[str, Any] = {
        "content": pdu["content"],
        "event_id": event_id,
        "origin_server_ts": pdu["origin_server_ts"],
        "sender": pdu["sender"],
        "type": pdu["type"],
    }
    if "state_key" in pdu:
        fields["state_key"] = pdu["state_key"]
    if pdu["type"] == "m.room.redaction":
        # Room version 11 moved `redacts` into the content; clients of either age find it.
        redacts = pdu.get("redacts", pdu["content"].get("redacts"))
        if redacts is not None:
            fields["redacts"] = redacts
            fields["content"] = {**pdu["content"], "redacts": redacts}
    return fields


def without_content(event: RecordedEvent) -> RecordedEvent:
    """A redacted copy of an event that is not state, though no redaction was sent.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
    """
    content = event.pdu["content"]
    # A redaction without it would no longer say what it redacts.
    kept = {key: content[key] for key in ("redacts",) if key in content}
    pdu = {**event.pdu, "content": kept if event.type == "m.room.redaction" else {}}
    body = orjson.dumps(client_fields(event.event_id, pdu))[:-1]
    return replace(event, pdu=pdu, body=body)


def render_client_event(
    event: RecordedEvent,
    viewer: Viewer,
    *,
    membership: str | None = None,
    replaced: RecordedEvent | None = None,
    redaction: RecordedEvent | None = None,
    relations: Mapping[str, Any] | None = None,
) -> ClientEvent:
    """The event as `viewer` sees it.

    Args:
        membership: of the viewer after the event; None to say nothing about it.
        replaced: the state event it replaced, if the viewer may see that one.
        redaction: the event that redacted it.
        relations: what its children add up to, by the type of their relation.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#room-event-format
    """
    unsigned: dict[str, Any] = {"age": viewer.now_ms - event.pdu["origin_server_ts"]}
    if membership is not None:
        unsigned["membership"] = membership
    if event.replaces is not None:
        unsigned["replaces_state"] = event.replaces
    if replaced is not None and event.redacted_by is None:
        unsigned["prev_content"] = replaced.content
    if relations:
        unsigned["m.relations"] = relations
    device = event.sender_device
    if (
        device is not None
        and device[0] == viewer.device_id
        and event.pdu["sender"] == viewer.user_id
    ):
        unsigned["transaction_id"] = device[1]
    if redaction is not None:
        # Not in the specification, but clients know it from the time before `redacted_because`.
        unsigned["redacted_by"] = redaction.event_id
        unsigned["redacted_because"] = render_client_event(
            redaction,
            Viewer(viewer.user_id, viewer.device_id, viewer.now_ms, viewer.room_id),
        )
    if viewer.federation_format or viewer.event_fields is not None:
        return _render_unusual(event, viewer, unsigned)
    body = event.body + b',"unsigned":' + orjson.dumps(unsigned)
    if viewer.room_id is not None:
        body += b',"room_id":' + orjson.dumps(viewer.room_id)
    return orjson.Fragment(body + b"}")


def _render_unusual(
    event: RecordedEvent, viewer: Viewer, unsigned: Mapping[str, Any]
) -> ClientEvent:
    if viewer.federation_format:
        rendered = {**event.pdu, "event_id": event.event_id, "unsigned": unsigned}
    else:
        rendered = {**client_fields(event.event_id, event.pdu), "unsigned": unsigned}
    if viewer.room_id is not None:
        rendered["room_id"] = viewer.room_id
    if viewer.event_fields is not None:
        # Serialised and read again: `unsigned` may hold JSON that a path leads into.
        rendered = select_event_fields(orjson.loads(orjson.dumps(rendered)), viewer.event_fields)
    return orjson.Fragment(orjson.dumps(rendered))


def render_stripped_state(event: RecordedEvent) -> dict[str, Any]:
    """A state event as someone outside the room may see it.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
    """
    return strip_state_event(event.pdu)


def strip_state_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Only `type`, `state_key`, `sender` and `content` of a state event."""
    return {key: event[key] for key in ("type", "state_key", "sender", "content")}
