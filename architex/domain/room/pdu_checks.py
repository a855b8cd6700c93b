"""The checks on receipt of a PDU, in the spec's order: one door for every event, ours and theirs.

What does not pass the first three checks is no event at all and is dropped. What does, gets a
Verdict by the authorization rules. A peer's bad event is ordinary data: a Verdict, no exception.

Spec: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from architex.domain.auth_rules import (
    FindState,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
    find_state_among,
)
from architex.domain.errors import Forbidden, InvalidPdu, MatrixError, TooLarge
from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import Pdu, check_field_sizes, has_valid_content_hash, parse_pdu
from architex.domain.redaction import redact_event
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import (
    FindEventKey,
    servers_that_must_sign,
    signatures_of,
    verify_event_signatures,
)


class Outcome(Enum):
    """What becomes of a received event."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft-failed"
    """Allowed where it stands in the graph, but not by the room's current state."""
    REJECTED = "rejected"
    """Breaks the authorization rules; kept, so that what refers to it can be judged."""
    DROPPED = "dropped"
    """Not an event: malformed, unsigned, or of another room. Nothing of it is kept."""
    MISSING = "missing"
    """Cannot be judged yet: events that it refers to are not here, or states."""
    KNOWN = "known"
    """Was judged before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What we think of an event, and why.

    Attributes:
        pdu: the event as kept (redacted if its content hash did not match); None when dropped.
        reason: the rule that said so; None for accepted events.
        missing: the events without which it cannot be judged.
        missing_states: the events that it follows of which only they themselves are known, not
            the state where they stand; without that it cannot be judged either.
        lacks_key: it was dropped, but a key that signed it is not known: perhaps later.
    """

    outcome: Outcome
    pdu: Pdu | None = None
    reason: str | None = None
    missing: frozenset[EventId] = frozenset()
    missing_states: frozenset[EventId] = frozenset()
    lacks_key: bool = False


def check_form(
    rules: RoomVersionRules,
    room_id: RoomId,
    event: Mapping[str, Any],
    find_verify_key: FindEventKey,
    *,
    limit_references: bool = True,
) -> Verdict | Pdu:
    """Checks 1 to 3: is it an event of this room, signed, and whole?

    Args:
        find_verify_key: gives only keys that counted when the event was made.
        limit_references: see `check_pdu_format`.

    Returns the event, or the verdict that it is dropped.
    """
    try:
        # 1. Is a valid event, otherwise it is dropped.
        pdu = parse_pdu(rules, event, limit_references=limit_references)
        if pdu.room_id != room_id:
            raise InvalidPdu(f"The event is of another room, {pdu.room_id}.")
    except MatrixError as error:
        return Verdict(Outcome.DROPPED, reason=error.message)
    return check_signed_and_whole(rules, pdu, find_verify_key)


@dataclass(frozen=True, slots=True)
class WorkedOut:
    """What was worked out of an event before it is checked.

    Attributes:
        is_whole: whether its content hash matches.
        signed_json: the bytes that its signatures cover.
    """

    is_whole: bool
    signed_json: bytes


def check_signed_and_whole(
    rules: RoomVersionRules,
    pdu: Pdu,
    find_verify_key: FindEventKey,
    worked_out: WorkedOut | None = None,
) -> Verdict | Pdu:
    """Checks 2 and 3, for an event that passed the first: is it signed, and whole?

    Args:
        find_verify_key: gives only keys that counted when the event was made.
        worked_out: what need not be worked out again.

    Returns the event, redacted if its hash does not match, or the verdict that it is dropped.
    """
    event, made_ts = pdu.event, pdu.origin_server_ts
    must_sign = servers_that_must_sign(rules, pdu)
    try:
        # 2. Passes signature checks, otherwise it is dropped.
        verify_event_signatures(
            rules,
            event,
            must_sign,
            lambda server_name, key_id: find_verify_key(server_name, key_id, made_ts),
            message=None if worked_out is None else worked_out.signed_json,
        )
        # 3. Passes hash checks, otherwise it is redacted before being processed further.
        if worked_out is None:
            is_whole = has_valid_content_hash(rules, event)
        else:
            is_whole = worked_out.is_whole
        if not is_whole:
            pdu = parse_pdu(rules, redact_event(rules, dict(event)), event_id=pdu.event_id)
    except MatrixError as error:
        lacks_key = any(
            find_verify_key(server_name, key_id, made_ts) is None
            for server_name in must_sign
            for key_id in signatures_of(event, server_name)
        )
        return Verdict(Outcome.DROPPED, reason=error.message, lacks_key=lacks_key)
    return pdu


def check_authorisation(
    rules: RoomVersionRules,
    pdu: Pdu,
    auth_events: Sequence[Pdu],
    *,
    create: Pdu | None,
    rejected: Collection[EventId],
    find_before: FindState,
    find_current: FindState,
) -> Verdict:
    """Checks 4 to 6: do the authorization rules allow it?

    Args:
        auth_events: all the events that `pdu.auth_events` names.
        create: the room's create event.
        rejected: those of the auth events that were rejected.
        find_before: the state before the event.
        find_current: the current state of the room.
    """
    try:
        # 4. Passes authorization rules based on the event's auth events, otherwise it is rejected.
        _check_by_auth_events(rules, pdu, auth_events, create, rejected)
        if pdu.type != "m.room.create":
            # 5. Passes authorization rules based on the state before the event, otherwise it is
            # rejected.
            check_state_dependent_auth_rules(rules, pdu, find_before)
    except (Forbidden, TooLarge) as error:
        return Verdict(Outcome.REJECTED, pdu, error.message)
    try:
        # 6. Passes authorization rules based on the current state of the room, otherwise it is
        # "soft failed".
        if pdu.type != "m.room.create":
            check_state_dependent_auth_rules(rules, pdu, find_current)
    except Forbidden as error:
        return Verdict(Outcome.SOFT_FAILED, pdu, error.message)
    return Verdict(Outcome.ACCEPTED, pdu)


def check_imported(
    rules: RoomVersionRules,
    pdu: Pdu,
    auth_events: Sequence[Pdu],
    *,
    create: Pdu | None,
    rejected: Collection[EventId],
) -> str | None:
    """Check 4 alone, for an event of which we do not know the state where it stands.

    Returns why it is rejected; None when its auth events allow it.
    """
    try:
        _check_by_auth_events(rules, pdu, auth_events, create, rejected)
    except (Forbidden, TooLarge) as error:
        return error.message
    return None


def _check_by_auth_events(
    rules: RoomVersionRules,
    pdu: Pdu,
    auth_events: Sequence[Pdu],
    create: Pdu | None,
    rejected: Collection[EventId],
) -> None:
    """Check 4, and the sizes of fields, which events of long ago may break; raises as they do."""
    check_field_sizes(pdu.event)
    check_state_independent_auth_rules(rules, pdu, auth_events, create=create, rejected=rejected)
    if pdu.type != "m.room.create":
        check_state_dependent_auth_rules(rules, pdu, find_state_among(auth_events, create=create))
