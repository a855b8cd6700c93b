"""Handshakes: the membership events of our users that another server proposes and we sign.

Of what the other server proposes, only what we cannot know is taken: where the event stands in
its room. Everything that somebody could be blamed for is ours.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from architex.domain.errors import InvalidPdu
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    is_event_id,
    is_user_id,
    server_name_of,
)
from architex.domain.pdu import MAX_AUTH_EVENTS, MAX_PREV_EVENTS, build_event
from architex.domain.room_versions import RoomVersionRules
from architex.domain.unpadded_base64 import decode_base64

AUTHORISED_VIA: Final = "join_authorised_via_users_server"

_HASH_BYTES: Final = 32


def complete_template(
    rules: RoomVersionRules,
    template: object,
    *,
    room_id: RoomId,
    user_id: UserId,
    content: Mapping[str, Any],
    resident: ServerName,
    origin_server_ts: int,
    opaque_id: str,
) -> dict[str, Any]:
    """The unsigned membership event of a user of ours, standing where `template` stands.

    Args:
        template: the `event` that a server answered to make_join, make_leave or make_knock.
        content: what the event shall say, with its `membership`; who authorises a restricted
            join is added.
        resident: the server that answered.
        origin_server_ts: milliseconds since 1970.
        opaque_id: names the event, in room versions 1 and 2; unique.

    Raises:
        InvalidPdu: the template is not of what was asked for, or of no form that can be signed.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid
    """
    if not isinstance(template, Mapping):
        raise InvalidPdu("The template is no object.")
    proposed = template.get("content")
    for what, is_as_asked in {
        "type": template.get("type") == "m.room.member",
        "room_id": template.get("room_id") == room_id,
        "sender": template.get("sender") == user_id,
        "state_key": template.get("state_key") == user_id,
        "content": isinstance(proposed, Mapping)
        and proposed.get("membership") == content["membership"],
    }.items():
        if not is_as_asked:
            raise InvalidPdu(f"The {what} of the template is not what was asked for.")
    depth = template.get("depth")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
        raise InvalidPdu("The depth of the template is no natural number.")
    hashes: dict[EventId, bytes | None] = {}
    prev_events = _references(rules, template.get("prev_events"), MAX_PREV_EVENTS, hashes)
    auth_events = _references(rules, template.get("auth_events"), MAX_AUTH_EVENTS, hashes)
    if not prev_events:
        raise InvalidPdu("The template follows no event.")
    own_server = server_name_of(user_id)
    return build_event(
        rules,
        room_id=room_id,
        sender=user_id,
        type="m.room.member",
        state_key=user_id,
        content=_with_authoriser(rules, content, proposed, resident),
        prev_events=prev_events,
        auth_events=auth_events,
        depth=depth,
        origin_server_ts=origin_server_ts,
        # Not needed by any room version we know, but by servers that check what they proposed.
        origin=own_server,
        event_id=f"${opaque_id}:{own_server}",
        reference_hashes=hashes,
    )


def _with_authoriser(
    rules: RoomVersionRules, content: Mapping[str, Any], proposed: object, resident: ServerName
) -> Mapping[str, Any]:
    """The content, with the user who lets ours into a restricted room."""
    if not rules.restricted_joins or content["membership"] != "join":
        return content
    authoriser = proposed.get(AUTHORISED_VIA) if isinstance(proposed, Mapping) else None
    if authoriser is None:
        return content
    # It is the resident that signs for them.
    if (
        not isinstance(authoriser, str)
        or not is_user_id(authoriser)
        or server_name_of(authoriser) != resident
    ):
        raise InvalidPdu("Who is to authorise the join is no user of the server that was asked.")
    return {**content, AUTHORISED_VIA: authoriser}


def _references(
    rules: RoomVersionRules, given: object, at_most: int, hashes: dict[EventId, bytes | None]
) -> list[EventId]:
    """The events that a template refers to; with their hashes in room versions 1 and 2."""
    if not isinstance(given, list) or len(given) > at_most:
        raise InvalidPdu("The template does not refer to a few events.")
    event_ids = []
    for reference in given:
        event_id = reference
        if rules.event_id_format == "domain":
            event_id, quoted = _quoted_reference(reference)
            hashes[event_id] = quoted
        if not isinstance(event_id, str) or not is_event_id(event_id):
            raise InvalidPdu("The template refers to what is no event ID.")
        event_ids.append(event_id)
    return event_ids


def _quoted_reference(reference: object) -> tuple[EventId, bytes | None]:
    """A reference of room versions 1 and 2: `[event ID, {"sha256": hash}]`.

    Nobody looks at the hash, and Synapse leaves it out.
    """
    match reference:
        case [str(event_id), {"sha256": str(text)}]:
            try:
                quoted = decode_base64(text)
            except ValueError:
                quoted = b""
            if len(quoted) == _HASH_BYTES:
                return event_id, quoted
        case [str(event_id), dict(hashes)] if not hashes:
            return event_id, None
    raise InvalidPdu("The template does not quote the hash of an event it refers to.")
