"""The authorisation rules: whether an event may be in its room, for every room version.

The comment above each step is the spec's rule, numbered as in room version 11 unless it says
otherwise, and the room versions it holds for.

Spec: https://spec.matrix.org/v1.19/server-server-api/#authorisation-rules
and https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules (and the page of each version)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from architex.domain.auth_rules.membership import check_member_event
from architex.domain.auth_rules.power_levels import PowerLevels, check_power_levels_event
from architex.domain.auth_rules.room_state import AuthState, FindState
from architex.domain.errors import Forbidden
from architex.domain.identifiers import EventId, is_user_id, server_name_of
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room_versions import RoomVersionRules, find_room_version

__all__ = [
    "AuthState",
    "FindState",
    "PowerLevels",
    "auth_types_for_event",
    "check_state_dependent_auth_rules",
    "check_state_independent_auth_rules",
    "find_state_among",
]

_CREATE: StateKey = ("m.room.create", "")
_POWER_LEVELS: StateKey = ("m.room.power_levels", "")
_JOIN_RULES: StateKey = ("m.room.join_rules", "")


def auth_types_for_event(
    rules: RoomVersionRules,
    *,
    type: str,
    state_key: str | None,
    sender: str,
    content: Mapping[str, Any],
) -> frozenset[StateKey]:
    """Return the places in the room state whose events authorise this event.

    The auth events of a new event are the events at these places; nothing else decides about it,
    but for the create event of v12, which the room ID stands for.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection
    """
    if type == "m.room.create":
        return frozenset()
    keys = {_POWER_LEVELS, ("m.room.member", sender)}
    if not rules.room_id_is_create_hash:
        keys.add(_CREATE)
    if type == "m.room.member":
        keys.update(_auth_types_for_member(rules, state_key, content))
    return frozenset(keys)


def check_state_independent_auth_rules(
    rules: RoomVersionRules,
    pdu: Pdu,
    auth_events: Sequence[Pdu],
    *,
    create: Pdu | None = None,
    rejected: Collection[EventId] = (),
) -> None:
    """Check the rules that need only the event and its own auth events (rules 1 and 2).

    Args:
        auth_events: the events that `pdu.auth_events` names, all of them.
        create: the room's accepted create event; needed since v12, where it is no auth event.
        rejected: those of the auth events that were rejected when they were received.

    Raises:
        Forbidden: the event is refused; the message names the rule.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#authorisation-rules
    """
    # 1. If type is m.room.create: …
    if pdu.type == "m.room.create":
        _check_create_event(rules, pdu)
        return
    # v12, 2. If the event's room_id is not an event ID for an accepted m.room.create event, with
    # the sigil ! instead of $, reject.
    if rules.room_id_is_create_hash and (
        create is None
        or create.type != "m.room.create"
        or create.event_id != "$" + pdu.room_id[1:]
        or create.event_id in rejected
    ):
        raise Forbidden("The room ID is not that of an accepted m.room.create event.")
    # 2. Considering the event's auth_events: (v12: 3.)
    expected = auth_types_for_event(
        rules, type=pdu.type, state_key=pdu.state_key, sender=pdu.sender, content=pdu.content
    )
    seen: set[StateKey] = set()
    for auth_event in auth_events:
        # 2.2 If there are entries whose type and state_key don't match those specified by the auth
        # events selection algorithm, reject.
        if auth_event.state_key is None or auth_event.key not in expected:
            raise Forbidden(f"The event has an auth event of type {auth_event.type} too many.")
        # 2.1 If there are duplicate entries for a given type and state_key pair, reject.
        if auth_event.key in seen:
            raise Forbidden(f"The event has two auth events of type {auth_event.type}.")
        seen.add(auth_event.key)
        # 2.3 If there are entries which were themselves rejected, reject.
        if auth_event.event_id in rejected:
            raise Forbidden(f"The auth event {auth_event.event_id} was rejected.")
        # 2.5 If any event in auth_events has a room_id which does not match that of the event
        # being authorised, reject.
        if auth_event.room_id != pdu.room_id:
            raise Forbidden(f"The auth event {auth_event.event_id} is of another room.")
    # 2.4 If there is no m.room.create event among the entries, reject. (not in v12)
    if not rules.room_id_is_create_hash and _CREATE not in seen:
        raise Forbidden("The event has no m.room.create event among its auth events.")


def check_state_dependent_auth_rules(
    rules: RoomVersionRules, pdu: Pdu, find_state: FindState
) -> None:
    """Check the rules that look at a room state (from rule 3 on).

    Signatures are not checked here (except an identity server's, of a third-party invite): that
    the sender's server and the one that authorised a restricted join have signed comes before.

    Args:
        find_state: (type, state key) → the event at that place of the state to check against; in
            every room version it knows the create event. Asked only for the places of
            `auth_types_for_event` and the create event.

    Raises:
        Forbidden: the event is refused; the message names the rule.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules
    """
    # 1. A create event is judged by itself.
    if pdu.type == "m.room.create":
        return
    state = AuthState(rules, find_state)
    # 3. If the content of the m.room.create event in the room state has the property m.federate
    # set to false, and the sender domain of the event does not match the sender domain of the
    # create event, reject.
    create = state.create
    if create.content.get("m.federate") is False and (
        server_name_of(pdu.sender) != server_name_of(create.sender)
    ):
        raise Forbidden("This room is not federated.")
    # v1 to v5, 4. If type is m.room.aliases: …
    if pdu.type == "m.room.aliases" and rules.aliases_auth_rule:
        _check_aliases_event(pdu)
        return
    # 4. If type is m.room.member: …
    if pdu.type == "m.room.member":
        check_member_event(rules, pdu, state)
        return
    # 5. If the sender's current membership state is not join, reject.
    if state.membership_of(pdu.sender) != "join":
        raise Forbidden(f"{pdu.sender} is not in the room.")
    power_levels = state.power_levels
    sender_level = power_levels.of_user(pdu.sender)
    # 6. If type is m.room.third_party_invite: allow if and only if sender's current power level is
    # greater than or equal to the invite level.
    if pdu.type == "m.room.third_party_invite":
        if sender_level < power_levels.invite:
            raise Forbidden("You don't have the power level to invite somebody.")
        return
    # 7. If the event type's required power level is greater than the sender's power level, reject.
    required_level = power_levels.to_send(pdu.type, pdu.is_state)
    if required_level > sender_level:
        raise Forbidden(
            f"Sending {pdu.type} needs power level {required_level}; yours is {sender_level}."
        )
    # 8. If the event has a state_key that starts with an @ and does not match the sender, reject.
    if pdu.state_key is not None and pdu.state_key.startswith("@") and pdu.state_key != pdu.sender:
        raise Forbidden("Only the user whose ID is the state key may set this.")
    # 9. If type is m.room.power_levels: …
    if pdu.type == "m.room.power_levels":
        check_power_levels_event(
            rules, pdu, create=create, current=state.find("m.room.power_levels")
        )
    # v1, v2, 11. If type is m.room.redaction: …
    elif pdu.type == "m.room.redaction" and rules.redaction_auth_rule:
        _check_redaction_event(pdu, sender_level, power_levels)
    # 10. Otherwise, allow.


def find_state_among(pdus: Iterable[Pdu], *, create: Pdu | None = None) -> FindState:
    """Return a lookup in a handful of state events, such as an event's auth events.

    Args:
        create: the room's create event, which since v12 is not among the auth events.
    """
    state = {pdu.key: pdu for pdu in pdus if pdu.state_key is not None}
    if create is not None:
        state[_CREATE] = create
    return lambda type, state_key: state.get((type, state_key))


def _auth_types_for_member(
    rules: RoomVersionRules, state_key: str | None, content: Mapping[str, Any]
) -> Iterable[StateKey]:
    membership = content.get("membership")
    # The target's current m.room.member event, if any.
    if state_key is not None:
        yield ("m.room.member", state_key)
    # If membership is join, invite or knock, the current m.room.join_rules event, if any.
    if membership in ("join", "invite", "knock"):
        yield _JOIN_RULES
    # If membership is invite and content contains a third_party_invite property, the current
    # m.room.third_party_invite event with state_key matching the token, if any.
    if membership == "invite":
        invite = content.get("third_party_invite")
        signed = invite.get("signed") if isinstance(invite, dict) else None
        token = signed.get("token") if isinstance(signed, dict) else None
        if isinstance(token, str):
            yield ("m.room.third_party_invite", token)
    # If membership is join, join_authorised_via_users_server is present, and the room version
    # supports restricted rooms, then that user's m.room.member event.
    if membership == "join" and rules.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            yield ("m.room.member", authoriser)


def _check_create_event(rules: RoomVersionRules, pdu: Pdu) -> None:
    """Rule 1."""
    # 1.1 If it has any prev_events, reject.
    if pdu.prev_events:
        raise Forbidden("A create event has no previous events.")
    if rules.room_id_is_create_hash:
        # v12, 1.2 If the event has a room_id, reject.
        if "room_id" in pdu.event:
            raise Forbidden("A create event of this room version has no room_id.")
    # 1.2 If the domain of the room_id does not match the domain of the sender, reject. (v1 to v11)
    elif server_name_of(pdu.room_id) != server_name_of(pdu.sender):
        raise Forbidden("The room ID is not of the server of the room's creator.")
    # 1.3 If content.room_version is present and is not a recognised version, reject.
    if "room_version" in pdu.content:
        version = pdu.content["room_version"]
        if not isinstance(version, str) or find_room_version(version) is None:
            raise Forbidden("The create event names a room version that is not known.")
    # v1 to v10, 1.4 If content has no creator property, reject.
    if not rules.creator_is_sender and "creator" not in pdu.content:
        raise Forbidden("The create event names no creator.")
    # v12, 1.4 If additional_creators is present in content and is not an array of strings where
    # each string passes the same user ID validation applied to sender, reject.
    if rules.privileged_creators and "additional_creators" in pdu.content:
        creators = pdu.content["additional_creators"]
        if not isinstance(creators, list) or not all(
            isinstance(creator, str) and is_user_id(creator) for creator in creators
        ):
            raise Forbidden("The additional creators are not a list of user IDs.")


def _check_aliases_event(pdu: Pdu) -> None:
    """Rule 4 of v1 to v5."""
    # 4.1 If event has no state_key, reject.
    if pdu.state_key is None:
        raise Forbidden("An m.room.aliases event needs a state key.")
    # 4.2 If sender's domain doesn't match state_key, reject.
    if server_name_of(pdu.sender) != pdu.state_key:
        raise Forbidden("A server's aliases are set by its own users.")


def _check_redaction_event(pdu: Pdu, sender_level: int, power_levels: PowerLevels) -> None:
    """Rule 11 of v1 and v2."""
    # 11.1 If the sender's power level is greater than or equal to the redact level, allow.
    if sender_level >= power_levels.redact:
        return
    # 11.2 If the domain of the event_id of the event being redacted is the same as the domain of
    # the event_id of the m.room.redaction, allow.
    target_domain = (pdu.redacts or "").partition(":")[2]
    if target_domain and target_domain == server_name_of(pdu.event_id):
        return
    raise Forbidden("You don't have the power level to redact this event.")
