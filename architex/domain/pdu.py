"""The PDU: a room event as servers exchange it; its format, size, hashes and event ID.

Spec: https://spec.matrix.org/v1.19/server-server-api/#pdus
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeAlias

from architex.domain.canonical_json import encode_canonical_json, encode_lenient_json
from architex.domain.errors import InvalidCanonicalJson, InvalidPdu, TooLarge
from architex.domain.identifiers import (
    MAX_IDENTIFIER_BYTES,
    EventId,
    RoomId,
    ServerName,
    UserId,
    fits_identifier,
    is_create_event_hash,
    is_event_id,
    is_room_id,
    is_user_id,
)
from architex.domain.redaction import redact_event
from architex.domain.room_versions import RoomVersionRules
from architex.domain.unpadded_base64 import decode_base64, encode_base64, encode_base64url

#: (type, state key): the place of a state event in the state of its room.
StateKey: TypeAlias = tuple[str, str]

#: Most bytes an event has as canonical JSON, signatures included.
#: Spec: https://spec.matrix.org/v1.19/client-server-api/#size-limits
MAX_PDU_BYTES: Final = 65536
#: Most bytes of sender, room_id, state_key, type and event_id.
MAX_FIELD_BYTES: Final = MAX_IDENTIFIER_BYTES
MAX_PREV_EVENTS: Final = 20
MAX_AUTH_EVENTS: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Pdu:
    """An event of a room, read once; two are equal when their event IDs are.

    Attributes:
        event_id: the event's ID; from v3 on its reference hash.
        room_id: the room; for the create event of v12 derived from its event ID.
        state_key: None for message events.
        depth: the greatest depth of its parents, plus one. Claimed by the sender, not checked.
        prev_events: its parents.
        auth_events: the events that (it claims) allow it.
        origin_server_ts: when it was made, in ms since 1970. Claimed by the sender.
        redacts: the event it redacts, wherever the room version keeps that; None otherwise.
        event: the whole event as exchanged, with hashes and signatures. Must not be changed.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#event-format-1
    """

    event_id: EventId
    room_id: RoomId
    type: str
    state_key: str | None
    sender: UserId
    content: Mapping[str, Any]
    depth: int
    prev_events: tuple[EventId, ...]
    auth_events: tuple[EventId, ...]
    origin_server_ts: int
    redacts: EventId | None
    event: Mapping[str, Any]

    @property
    def is_state(self) -> bool:
        """Whether it is a state event."""
        return self.state_key is not None

    @property
    def key(self) -> StateKey:
        """Its place in the room state.

        Raises:
            ValueError: it is a message event and has none.
        """
        if self.state_key is None:
            raise ValueError(f"{self.event_id} is not a state event")
        return (self.type, self.state_key)

    @property
    def membership(self) -> str | None:
        """The `membership` of an m.room.member event; None when it is none or no string."""
        if self.type != "m.room.member":
            return None
        membership = self.content.get("membership")
        return membership if isinstance(membership, str) else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pdu):
            return NotImplemented
        return self.event_id == other.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)


def parse_pdu(
    rules: RoomVersionRules,
    event: Mapping[str, Any],
    *,
    event_id: EventId | None = None,
    limit_references: bool = True,
) -> Pdu:
    """Read an event of the room version.

    Args:
        event: the event; the Pdu keeps it, so it must not be changed afterwards.
        event_id: its ID when it comes from our own log; then nothing is checked or hashed again.
        limit_references: see `check_pdu_format`.

    Raises:
        InvalidPdu: it does not have the format of the room version.
        TooLarge: it, or one of its fields, exceeds the size limits.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
    """
    if event_id is None:
        check_pdu_format(rules, event, limit_references=limit_references)
        event_id = compute_event_id(rules, event)
    room_id = event.get("room_id")
    if room_id is None:
        room_id = "!" + event_id[1:]
    content = event["content"]
    redacts = None
    if event["type"] == "m.room.redaction":
        redacts = (content if rules.redacts_in_content else event).get("redacts")
    prev_events, auth_events = event["prev_events"], event["auth_events"]
    # Versions 1 and 2 have pairs of event ID and hashes. Here their form tells, not the version:
    # of a room of which we only got an invite, that may have been told wrongly.
    prev_events = [ref if type(ref) is str else ref[0] for ref in prev_events]
    auth_events = [ref if type(ref) is str else ref[0] for ref in auth_events]
    return Pdu(
        event_id,
        room_id,
        event["type"],
        event.get("state_key"),
        event["sender"],
        content,
        event["depth"],
        tuple(prev_events),
        tuple(auth_events),
        event["origin_server_ts"],
        redacts if isinstance(redacts, str) and is_event_id(redacts) else None,
        event,
    )


def check_pdu_format(
    rules: RoomVersionRules, event: Mapping[str, Any], *, limit_references: bool = True
) -> bytes:
    """Check that an event has the format of its room version and keeps the size limits.

    Signatures and hashes are looked at for their form only, and of the type and the state key the
    characters are counted: see `check_field_sizes`.

    Args:
        limit_references: whether it may name only so many prev_events and auth_events; not what
            is backfilled, which may be from before there was a limit.

    Returns the event as canonical JSON.

    Raises:
        InvalidPdu: a field is missing, of the wrong type or of the wrong grammar, or (from v6 on)
            the event is not canonical JSON.
        TooLarge: the event or one of its fields is too long.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#event-format-1 (and of each room version)
    """
    _check_sender_and_type(event)
    _check_room_id(rules, event)
    _check_numbers(rules, event)
    content = event.get("content")
    if not isinstance(content, dict):
        raise InvalidPdu("The content of the event is not an object.")
    unsigned = event.get("unsigned")
    if unsigned is not None and not isinstance(unsigned, dict):
        raise InvalidPdu("The unsigned data of the event is not an object.")
    _check_hashes(event)
    _check_signatures(event)
    _check_references(rules, event, "prev_events", MAX_PREV_EVENTS if limit_references else None)
    _check_references(rules, event, "auth_events", MAX_AUTH_EVENTS if limit_references else None)
    if rules.event_id_format == "domain":
        event_id = event.get("event_id")
        if not isinstance(event_id, str) or not is_event_id(event_id) or ":" not in event_id:
            raise InvalidPdu("The event_id is not an event ID of this room version.")
    if (
        not rules.redacts_in_content
        and "redacts" in event
        and not isinstance(event["redacts"], str)
    ):
        raise InvalidPdu("The redacts field is not an event ID.")
    try:
        event_json = encode_event_json(rules, event)
    except InvalidCanonicalJson as error:
        raise InvalidPdu(error.message) from error
    check_pdu_size(event_json)
    return event_json


def check_field_sizes(event: Mapping[str, Any]) -> None:
    """Check the bytes of the type and the state key of an event that has the format.

    Other servers counted characters once. The events that they let pass then are followed by
    others, so they are not dropped like what has no format, but rejected.

    Raises:
        TooLarge: one has more than 255 bytes.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#size-limits
    """
    for field in ("type", "state_key"):
        if not fits_identifier(event.get(field, "")):
            raise TooLarge(f"The {field} of the event is longer than {MAX_FIELD_BYTES} bytes.")


def check_pdu_size(event_json: bytes) -> None:
    """Check the size of an event, given as canonical JSON with its signatures.

    Raises:
        TooLarge: it has more than 65,536 bytes.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#size-limits
    """
    if len(event_json) > MAX_PDU_BYTES:
        raise TooLarge(f"The event is larger than {MAX_PDU_BYTES} bytes.")


def encode_event_json(rules: RoomVersionRules, event: Mapping[str, Any]) -> bytes:
    """Return an event (or a part of one) as canonical JSON, as strictly as its version wants.

    Raises:
        InvalidCanonicalJson: it cannot be written.

    Spec: https://spec.matrix.org/v1.19/rooms/v6/#canonical-json
    """
    if rules.strict_canonical_json:
        return encode_canonical_json(event)
    return encode_lenient_json(event)


def compute_content_hash(rules: RoomVersionRules, event: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 over the whole event, without `unsigned`, `signatures` and `hashes`.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#calculating-the-content-hash-for-an-event
    """
    hashed = {
        key: value
        for key, value in event.items()
        if key != "signatures" and key != "unsigned" and key != "hashes"
    }
    return sha256(encode_event_json(rules, hashed)).digest()


def has_valid_content_hash(rules: RoomVersionRules, event: Mapping[str, Any]) -> bool:
    """Tell whether the event's `hashes.sha256` is its content hash.

    False for a redacted copy: the receiver goes on with the redacted form of the event.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events
    """
    try:
        claimed = decode_base64(event["hashes"]["sha256"])
    except ValueError:
        return False
    return claimed == compute_content_hash(rules, event)


def signed_event_json(rules: RoomVersionRules, event: Mapping[str, Any]) -> bytes:
    """Return the bytes that signatures of an event cover, and that its reference hash is made of.

    Both are the canonical JSON of the redacted event without `signatures` and `unsigned`.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#signing-events
    """
    redacted = redact_event(rules, event)
    redacted.pop("signatures", None)
    return encode_event_json(rules, redacted)


def compute_reference_hash(rules: RoomVersionRules, event: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 over the essential fields of an event.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#calculating-the-reference-hash-for-an-event
    """
    return sha256(signed_event_json(rules, event)).digest()


def compute_event_id(
    rules: RoomVersionRules, event: Mapping[str, Any], *, signed_json: bytes | None = None
) -> EventId:
    """Return the ID of an event: its own field in v1 and v2, else made from its reference hash.

    Args:
        signed_json: its `signed_event_json`, where that is at hand.

    Spec: https://spec.matrix.org/v1.19/rooms/v4/#event-ids
    """
    if rules.event_id_format == "domain":
        event_id: EventId = event["event_id"]
        return event_id
    if signed_json is None:
        signed_json = signed_event_json(rules, event)
    return event_id_of_hash(rules, sha256(signed_json).digest())


def event_id_of_hash(rules: RoomVersionRules, reference_hash: bytes) -> EventId:
    """Return the event ID that a reference hash makes, from room version 3 on.

    Spec: https://spec.matrix.org/v1.19/rooms/v3/#event-ids
    """
    if rules.event_id_format == "base64":
        return "$" + encode_base64(reference_hash)
    return "$" + encode_base64url(reference_hash)


def build_event(
    rules: RoomVersionRules,
    *,
    room_id: RoomId | None,
    sender: UserId,
    type: str,
    content: Mapping[str, Any],
    prev_events: Sequence[EventId],
    auth_events: Sequence[EventId],
    depth: int,
    origin_server_ts: int,
    state_key: str | None = None,
    redacts: EventId | None = None,
    origin: ServerName | None = None,
    event_id: EventId | None = None,
    reference_hashes: Mapping[EventId, bytes | None] | None = None,
) -> dict[str, Any]:
    """Build an unsigned event of exactly the room version's format.

    Args:
        room_id: left out of the event where the version derives it (the create event of v12);
            None is allowed only there.
        depth: cut to the greatest that the room version allows.
        origin_server_ts: in ms since 1970.
        redacts: put where the room version keeps it. In `content` it takes precedence.
        origin: written at top level when given. No room version needs it.
        event_id: the new event's ID; needed in v1 and v2 only.
        reference_hashes: the hash of each parent and auth event, None for one not known; needed
            in v1 and v2 only.

    Raises:
        ValueError: room_id, event_id or a hash is missing where the version needs it.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#event-format-1 (and of each room version)
    """
    event: dict[str, Any] = {
        "type": type,
        "sender": sender,
        "content": dict(content),
        "depth": min(depth, rules.max_depth),
        "origin_server_ts": origin_server_ts,
        "prev_events": list(prev_events),
        "auth_events": list(auth_events),
    }
    if not (rules.room_id_is_create_hash and type == "m.room.create" and state_key == ""):
        if room_id is None:
            raise ValueError("only the create event of room version 12 has no room ID")
        event["room_id"] = room_id
    if state_key is not None:
        event["state_key"] = state_key
    if origin is not None:
        event["origin"] = origin
    if redacts is not None:
        (event["content"] if rules.redacts_in_content else event)["redacts"] = redacts
    if rules.event_id_format == "domain":
        if event_id is None or reference_hashes is None:
            raise ValueError("room versions 1 and 2 need an event ID and reference hashes")
        event["event_id"] = event_id
        for field in ("prev_events", "auth_events"):
            event[field] = [
                [parent, _quoted_hash(reference_hashes[parent])] for parent in event[field]
            ]
    return event


def _quoted_hash(reference_hash: bytes | None) -> dict[str, str]:
    return {} if reference_hash is None else {"sha256": encode_base64(reference_hash)}


def _check_sender_and_type(event: Mapping[str, Any]) -> None:
    sender = event.get("sender")
    if not isinstance(sender, str) or not is_user_id(sender):
        raise InvalidPdu("The sender of the event is not a user ID.")
    for field in ("type", "state_key"):
        value = event.get(field)
        if not isinstance(value, str):
            if field not in event and field == "state_key":
                continue
            raise InvalidPdu(f"The {field} of the event is not a string.")
        # Nothing in the spec forbids it, but no database of homeservers can keep it as text.
        if "\0" in value:
            raise InvalidPdu(f"The {field} of the event holds a NUL.")
        if len(value) > MAX_FIELD_BYTES:
            raise TooLarge(f"The {field} of the event is longer than {MAX_FIELD_BYTES} bytes.")


def _check_room_id(rules: RoomVersionRules, event: Mapping[str, Any]) -> None:
    if rules.room_id_is_create_hash:
        if event["type"] == "m.room.create" and event.get("state_key") == "":
            # "If the event has a room_id, reject" is authorisation rule 1.2 of v12; but an event
            # whose ID depends on the room ID it names cannot be a room's beginning at all.
            if "room_id" in event:
                raise InvalidPdu("The create event of this room version has no room_id.")
            return
        room_id = event.get("room_id")
        if (
            not isinstance(room_id, str)
            or not room_id.startswith("!")
            or not is_create_event_hash(room_id[1:])
        ):
            raise InvalidPdu("The room_id is not a room ID of this room version.")
        return
    room_id = event.get("room_id")
    if not isinstance(room_id, str) or not is_room_id(room_id) or ":" not in room_id:
        raise InvalidPdu("The room_id is not a room ID of this room version.")


def _check_numbers(rules: RoomVersionRules, event: Mapping[str, Any]) -> None:
    depth, timestamp = event.get("depth"), event.get("origin_server_ts")
    # bool is an int to Python, not to JSON.
    if type(depth) is not int or not 0 <= depth <= rules.max_depth:
        raise InvalidPdu("The depth of the event is not an integer in range.")
    if type(timestamp) is not int or not -(2**63) <= timestamp < 2**63:
        raise InvalidPdu("The origin_server_ts of the event is not a 64-bit integer.")


def _check_hashes(event: Mapping[str, Any]) -> None:
    hashes = event.get("hashes")
    if not isinstance(hashes, dict) or not isinstance(hashes.get("sha256"), str):
        raise InvalidPdu("The event has no SHA-256 hash.")


def _check_signatures(event: Mapping[str, Any]) -> None:
    signatures = event.get("signatures")
    if not isinstance(signatures, dict):
        raise InvalidPdu("The event has no signatures.")
    for of_server in signatures.values():
        if not isinstance(of_server, dict) or not all(
            isinstance(signature, str) for signature in of_server.values()
        ):
            raise InvalidPdu("The signatures of the event are not an object of objects.")


def _check_references(
    rules: RoomVersionRules, event: Mapping[str, Any], field: str, maximum: int | None
) -> None:
    references = event.get(field)
    if not isinstance(references, list):
        raise InvalidPdu(f"The {field} of the event are not a list.")
    if maximum is not None and len(references) > maximum:
        raise InvalidPdu(f"The event has more than {maximum} {field}.")
    for reference in references:
        if rules.event_id_format == "domain":
            # Pairs of event ID and hashes.
            if (
                not isinstance(reference, list)
                or len(reference) != 2
                or not isinstance(reference[1], dict)
            ):
                raise InvalidPdu(f"The {field} are not pairs of event ID and hashes.")
            reference = reference[0]
        if not isinstance(reference, str) or not is_event_id(reference):
            raise InvalidPdu(f"The {field} of the event are not event IDs.")
