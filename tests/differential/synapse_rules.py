"""The rules of Matrix as matrix-synapse has them, in the shapes of ours; for comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from synapse import event_auth
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import compute_content_hash, compute_event_reference_hash
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference

from architex.domain.auth_rules import auth_types_for_event
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room_versions import RoomVersionRules
from architex.domain.state_resolution import conflicted_state_subgraph
from tests.builders import RoomBuilder

T = TypeVar("T")
FindPdu = Callable[[EventId], Pdu | None]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the coroutine waits for something")


class Events:
    """Our PDUs as Synapse's events, each converted once."""

    def __init__(self, rules: RoomVersionRules) -> None:
        self.version = KNOWN_ROOM_VERSIONS[rules.version]
        self._events: dict[EventId, Any] = {}

    def convert(self, pdu: Pdu) -> Any:
        """Return a PDU as an event of Synapse's."""
        event = self._events.get(pdu.event_id)
        if event is None:
            event = make_event_from_dict(copy.deepcopy(dict(pdu.event)), self.version)
            assert event.event_id == pdu.event_id
            self._events[pdu.event_id] = event
        return event


class _Store:
    """What Synapse asks of its database."""

    def __init__(self, events: Events, find_pdu: FindPdu, difference: set[EventId]) -> None:
        self._events = events
        self._find_pdu = find_pdu
        self._difference = difference

    async def get_events(self, event_ids: Iterable[EventId], *_: Any, **__: Any) -> dict[str, Any]:
        return {
            event_id: self._events.convert(pdu)
            for event_id in event_ids
            if (pdu := self._find_pdu(event_id)) is not None
        }

    async def get_auth_chain_difference(
        self,
        room_id: str,
        state_sets: list[set[str]],
        conflicted_state: set[str] | None,
        additional: set[str] | None,
    ) -> StateDifference:
        if conflicted_state is None:
            return StateDifference(self._difference, None)
        return StateDifference(
            self._difference, set(conflicted_state_subgraph(conflicted_state, self._find_pdu))
        )


class _Clock:
    async def sleep(self, duration: Any) -> None:
        """Let nobody else run: there is nobody."""


def state_independent_refusal(
    events: Events, pdu: Pdu, find_pdu: FindPdu, create: Pdu | None
) -> str | None:
    """Return why the event is refused by itself and its auth events; None when it is not."""
    known = [pdu_ for event_id in pdu.auth_events if (pdu_ := find_pdu(event_id)) is not None]
    if create is not None:
        known.append(create)
    batch = {pdu_.event_id: events.convert(pdu_) for pdu_ in known}
    return _refusal(
        lambda: run(
            event_auth.check_state_independent_auth_rules(
                _Store(events, find_pdu, set()), events.convert(pdu), batch
            )
        )
    )


def state_dependent_refusal(events: Events, pdu: Pdu, state: Iterable[Pdu]) -> str | None:
    """Return why the event is refused in a room state; None when it is not."""
    return _refusal(
        lambda: event_auth.check_state_dependent_auth_rules(
            events.convert(pdu), [events.convert(other) for other in state]
        )
    )


def refusal_in(events: Events, room: RoomBuilder, pdu: Pdu) -> tuple[str | None, list[Pdu]]:
    """Return why the event is refused next in a room; and the part of the state that counts."""
    keys = auth_types_for_event(
        room.rules,
        type=pdu.type,
        state_key=pdu.state_key,
        sender=pdu.sender,
        content=pdu.content,
    )
    state = [
        room.pdus[room.state[key]] for key in {*keys, ("m.room.create", "")} if key in room.state
    ]
    create = room.find_state("m.room.create")
    refusal = state_independent_refusal(events, pdu, room.pdus.get, create)
    return refusal or state_dependent_refusal(events, pdu, state), state


def resolve(
    events: Events,
    room_id: str,
    state_sets: Sequence[Mapping[StateKey, EventId]],
    difference: Iterable[EventId],
    find_pdu: FindPdu,
) -> dict[StateKey, EventId]:
    """Return the resolved state."""
    store = _Store(events, find_pdu, set(difference))
    if events.version.identifier == "1":
        return dict(
            run(
                v1.resolve_events_with_store(
                    room_id, events.version, state_sets, None, store.get_events
                )
            )
        )
    return dict(
        run(
            v2.resolve_events_with_store(
                _Clock(), room_id, events.version, state_sets, None, store
            )
        )
    )


def redact(rules: RoomVersionRules, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the redacted form of an event."""
    version = KNOWN_ROOM_VERSIONS[rules.version]
    pruned = prune_event(make_event_from_dict(copy.deepcopy(dict(event)), version))
    redacted: dict[str, Any] = pruned.get_dict()
    return redacted


def reference_hash(rules: RoomVersionRules, event: Mapping[str, Any]) -> bytes:
    """Return the reference hash of an event."""
    version = KNOWN_ROOM_VERSIONS[rules.version]
    made = make_event_from_dict(copy.deepcopy(dict(event)), version)
    digest: bytes = compute_event_reference_hash(made)[1]
    return digest


def content_hash(rules: RoomVersionRules, event: Mapping[str, Any]) -> bytes:
    """Return the content hash of an event."""
    version = KNOWN_ROOM_VERSIONS[rules.version]
    made = make_event_from_dict(copy.deepcopy(dict(event)), version)
    _, digest = compute_content_hash(made.get_pdu_json(), sha256)
    result: bytes = digest
    return result


def _refusal(check: Callable[[], None]) -> str | None:
    try:
        check()
    except SynapseError as error:
        return str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        # A malformed event: Synapse drops it earlier, or answers 500.
        return f"{type(error).__name__}: {error}"
    return None
