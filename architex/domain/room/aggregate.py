"""Room: decides what may be added to a room, and evolves by its facts.

A Room is an immutable value. It holds what decisions need: the forward extremities, the depth and
those entries of the current state that somebody has needed. Entries it does not hold are unknown,
not absent: whoever asks for a decision first supplies them (`Room.unknown`, `Room.learn`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import immutables

from architex.domain.auth_rules import (
    FindState,
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from architex.domain.auth_rules.power_levels import PowerLevels
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId, server_name_of
from architex.domain.pdu import (
    Pdu,
    StateKey,
    build_event,
    check_field_sizes,
    check_pdu_format,
    compute_reference_hash,
    parse_pdu,
)
from architex.domain.room.events import Fact, JoinImported, PduAccepted, SenderDevice
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import SigningKey, sign_event

KnownState = immutables.Map[StateKey, Pdu | None]
"""(type, state key) → event, or None when the room is known to have no such entry."""

MAX_PREV_EVENTS: Final = 20

DUMMY_EVENT_TYPE: Final = "org.matrix.dummy_event"
"""An event without content that merges ends of a room; clients are not shown it."""

# Rooms with more known entries than this forget the members they know: memory stays bounded,
# and who is needed again is looked up again.
MAX_KNOWN_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event that someone of ours wants to add; the room fills in the rest.

    Attributes:
        state_key: None for events that are not state.
        redacts: the event to redact, for m.room.redaction.
        origin_server_ts: milliseconds since 1970; None for now.
        device: by which device and transaction ID it was sent.
    """

    type: str
    sender: UserId
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: EventId | None = None
    origin_server_ts: int | None = None
    device: SenderDevice | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose name and key our events carry."""

    server_name: ServerName
    key: SigningKey


@dataclass(frozen=True, slots=True)
class Extremity:
    """An accepted event that no accepted event follows yet.

    Attributes:
        reference_hash: of the event, in room versions 1 and 2, where those who follow it quote it.
    """

    depth: int
    reference_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a decision about a room needs.

    Attributes:
        version: number of facts so far.
        depth: the greatest depth of a forward extremity.
        extremities: accepted events that no accepted event follows yet.
        state: the known entries of the current state.
    """

    room_id: RoomId
    rules: RoomVersionRules
    version: int = 0
    depth: int = 0
    extremities: Mapping[EventId, Extremity] = field(default_factory=immutables.Map)
    state: KnownState = field(default_factory=immutables.Map)

    # Decisions

    def compose(
        self,
        draft: EventDraft,
        signer: Signer,
        now_ms: int,
        *,
        opaque_id: str = "",
        find_before: FindState | None = None,
    ) -> Pdu:
        """The signed event that adds `draft` at the end of the room, checked by the auth rules.

        Args:
            opaque_id: names the event, in room versions 1 and 2; unique.
            find_before: the state before the event, where that is not the current state: in a
                room with more ends than an event can follow.

        Raises:
            Forbidden: the authorization rules do not allow it.
            InvalidPdu, TooLarge: the event would break the format or a size limit.

        Spec: https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules
        """
        find_state = find_before or self.find_state
        auth_events = self._auth_events(draft, find_state)
        unsigned_event = self._build(
            draft, auth_events, now_ms, event_id=f"${opaque_id}:{signer.server_name}"
        )
        event, event_id = sign_event(self.rules, unsigned_event, signer.server_name, signer.key)
        check_pdu_format(self.rules, event)
        check_field_sizes(event)
        pdu = parse_pdu(self.rules, event, event_id=event_id)
        self._check(pdu, auth_events, find_state)
        return pdu

    def build_template(
        self, draft: EventDraft, server_name: ServerName, now_ms: int
    ) -> dict[str, Any]:
        """The event that would add `draft` at the end of the room, for others to sign.

        It has no hashes, signatures or event ID. Signed as it is, the auth rules allow it.

        Args:
            server_name: ours, which goes into `origin`.

        Raises:
            Forbidden: the authorization rules do not allow it.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid
        """
        auth_events = self._auth_events(draft, self.find_state)
        event_id = f"$template:{server_name}"
        event = self._build(draft, auth_events, now_ms, event_id=event_id)
        pdu = parse_pdu(self.rules, event, event_id=event_id)
        self._check(pdu, auth_events, self.find_state)
        event.pop("event_id", None)
        return {**event, "origin": server_name}

    def _auth_events(self, draft: EventDraft, find_state: FindState) -> tuple[Pdu, ...]:
        keys = sorted(self.auth_types(draft))
        return tuple(pdu for key in keys if (pdu := find_state(*key)) is not None)

    def _build(
        self, draft: EventDraft, auth_events: Sequence[Pdu], now_ms: int, *, event_id: EventId
    ) -> dict[str, Any]:
        """The unsigned event that adds a draft; `event_id` counts in room versions 1 and 2."""
        return build_event(
            self.rules,
            room_id=self.room_id,
            sender=draft.sender,
            type=draft.type,
            content=draft.content,
            state_key=draft.state_key,
            redacts=draft.redacts,
            prev_events=self.prev_events(),
            auth_events=[pdu.event_id for pdu in auth_events],
            depth=self.depth + 1,
            origin_server_ts=now_ms if draft.origin_server_ts is None else draft.origin_server_ts,
            event_id=event_id,
            reference_hashes=self._reference_hashes(auth_events),
        )

    def _check(self, pdu: Pdu, auth_events: Sequence[Pdu], find_state: FindState) -> None:
        """Check an event of ours by the auth rules; raises Forbidden."""
        check_state_independent_auth_rules(
            self.rules, pdu, auth_events, create=find_state("m.room.create", "")
        )
        check_state_dependent_auth_rules(self.rules, pdu, find_state)

    def auth_types(self, draft: EventDraft) -> frozenset[StateKey]:
        """The entries of the current state that decide about `draft`."""
        return auth_types_for_event(
            self.rules,
            type=draft.type,
            state_key=draft.state_key,
            sender=draft.sender,
            content=draft.content,
        )

    def prev_events(self) -> list[EventId]:
        """The events that the next one follows: the deepest extremities, at most 20."""
        deepest = sorted(self.extremities.items(), key=lambda item: (-item[1].depth, item[0]))
        return [event_id for event_id, _ in deepest[:MAX_PREV_EVENTS]]

    def _reference_hashes(self, auth_events: Iterable[Pdu]) -> dict[EventId, bytes | None] | None:
        """What an event of room versions 1 and 2 quotes of those it follows and relies on."""
        if self.rules.event_id_format != "domain":
            return None
        relied_on = {
            pdu.event_id: compute_reference_hash(self.rules, pdu.event) for pdu in auth_events
        }
        ends = {event_id: end.reference_hash for event_id, end in self.extremities.items()}
        return {**relied_on, **ends}

    def accepted(
        self, pdu: Pdu, received_ts: int, device: SenderDevice | None = None
    ) -> PduAccepted:
        """The fact that `pdu` was added at the end of the room."""
        replaces = None
        if pdu.state_key is not None:
            replaced = self.state.get((pdu.type, pdu.state_key))
            replaces = replaced.event_id if replaced is not None else None
        return PduAccepted(
            originator_id=self.room_id,
            originator_version=self.version + 1,
            pdu=pdu,
            received_ts=received_ts,
            replaces=replaces,
            sender_device=device,
            redaction_server=redaction_server(self.rules, pdu, self.find_state),
        )

    # Knowledge

    def find_state(self, type: str, state_key: str = "") -> Pdu | None:
        """The current state event; None when the room has none.

        Raises:
            KeyError: nobody has told the room about this entry yet.
        """
        return self.state[type, state_key]

    def unknown(self, keys: Iterable[StateKey]) -> list[StateKey]:
        """Those of `keys` that the room has not been told about."""
        return [key for key in keys if key not in self.state]

    def learn(self, entries: Mapping[StateKey, Pdu | None]) -> Room:
        """The room, told about entries of its current state."""
        return replace(self, state=self.state.update(entries))

    def trimmed(self) -> Room:
        """The room, without the members it knows if it knows a great many entries.

        For between decisions: what a decision has just changed cannot be learned again.
        """
        if len(self.state) <= MAX_KNOWN_ENTRIES:
            return self
        kept = {key: pdu for key, pdu in self.state.items() if key[0] != "m.room.member"}
        if len(kept) > MAX_KNOWN_ENTRIES:
            kept = {}
        return replace(self, state=immutables.Map(kept))

    # Evolution

    def evolve(self, fact: Fact) -> Room:
        """The room after `fact`.

        A change of the state to an event other than the fact's own makes that entry unknown.

        Raises:
            ValueError: the fact is not the next one of the room.
        """
        if fact.originator_version != self.version + 1:
            raise ValueError(
                f"fact {fact.originator_version} cannot follow version {self.version} "
                f"of {self.room_id}"
            )
        pdu = fact.pdu
        state = self.state
        for key, event_id in fact.state_changes.items():
            if event_id is None:
                state = state.set(key, None)
            elif event_id == pdu.event_id:
                state = state.set(key, pdu)
            elif key in state:
                state = state.delete(key)
        extremities, depth = self.extremities, self.depth
        if isinstance(fact, PduAccepted):
            extremities = extremities_after(
                self.rules, extremities, pdu, is_followed=fact.is_followed
            )
            depth = max(depth, pdu.depth)
        elif isinstance(fact, JoinImported):
            extremities = immutables.Map({pdu.event_id: extremity_of(self.rules, pdu)})
            depth = pdu.depth
        return Room(
            room_id=self.room_id,
            rules=self.rules,
            version=fact.originator_version,
            depth=depth,
            extremities=extremities,
            state=state,
        )


def extremities_after(
    rules: RoomVersionRules,
    extremities: Mapping[EventId, Extremity],
    pdu: Pdu,
    *,
    is_followed: bool = False,
) -> Mapping[EventId, Extremity]:
    """The forward extremities when an event was accepted.

    Args:
        is_followed: accepted events follow it already; it closes a gap.
    """
    followed = set(pdu.prev_events)
    kept = {event_id: end for event_id, end in extremities.items() if event_id not in followed}
    if not is_followed:
        kept[pdu.event_id] = extremity_of(rules, pdu)
    # Where IDs are no hashes, events can follow each other in a circle; a room has an end still.
    return immutables.Map(kept or extremities)


def extremity_of(rules: RoomVersionRules, pdu: Pdu) -> Extremity:
    """What those who follow an event need to know of it."""
    quoted = rules.event_id_format == "domain"
    return Extremity(pdu.depth, compute_reference_hash(rules, pdu.event) if quoted else None)


def redaction_server(
    rules: RoomVersionRules, pdu: Pdu, find_state: FindState
) -> ServerName | None:
    """The server to whose events alone a redaction applies; None for any event of the room.

    Who has the power level to redact may redact any event; others those of their own server.

    Args:
        find_state: the state before the redaction.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions
    """
    if pdu.type != "m.room.redaction":
        return None
    create = find_state("m.room.create", "")
    if create is None:
        return server_name_of(pdu.sender)
    levels = PowerLevels(rules, create, find_state("m.room.power_levels", ""))
    mighty = levels.of_user(pdu.sender) >= levels.redact
    return None if mighty else server_name_of(pdu.sender)


def compose_create_event(
    rules: RoomVersionRules, draft: EventDraft, signer: Signer, now_ms: int, *, opaque_id: str
) -> Pdu:
    """The signed m.room.create event of a new room; its `room_id` is the new room's.

    Args:
        opaque_id: names the room, in the versions where the room ID is chosen and not a hash;
            and its first event, in room versions 1 and 2.

    Raises:
        Forbidden: the authorization rules do not allow it.
        InvalidPdu, TooLarge: the event would break the format or a size limit.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomcreate
    """
    unsigned_event = build_event(
        rules,
        room_id=f"!{opaque_id}:{signer.server_name}",
        sender=draft.sender,
        type=draft.type,
        content=draft.content,
        state_key=draft.state_key,
        redacts=None,
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=now_ms if draft.origin_server_ts is None else draft.origin_server_ts,
        event_id=f"${opaque_id}:{signer.server_name}",
        reference_hashes={},
    )
    event, event_id = sign_event(rules, unsigned_event, signer.server_name, signer.key)
    check_pdu_format(rules, event)
    check_field_sizes(event)
    pdu = parse_pdu(rules, event, event_id=event_id)
    check_state_independent_auth_rules(rules, pdu, [])
    return pdu


def project_room(room: Room | None, facts: Collection[Fact], rules: RoomVersionRules) -> Room:
    """The room after `facts`, from nothing or from an earlier value.

    Raises:
        ValueError: there is neither, or a fact is missing between.
    """
    for fact in facts:
        if room is None:
            room = Room(room_id=fact.originator_id, rules=rules)
        room = room.evolve(fact)
    if room is None:
        raise ValueError("a room has at least one fact")
    return room
