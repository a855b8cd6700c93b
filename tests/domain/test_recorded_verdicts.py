"""Rooms that grew by chance are judged and resolved as matrix-synapse judged them when recorded.

What `tests/differential` compares live, for few rooms and without Synapse. After a change of
`RandomRoom`, record anew (which needs matrix-synapse): `python -m
tests.domain.test_recorded_verdicts`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random  # noqa: TID251 -- from fixed seeds
from typing import Any, Final

import pytest

from architex.domain.auth_rules import (
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from architex.domain.errors import Forbidden
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.state_resolution import resolve_state
from tests.builders import RoomBuilder
from tests.differential.random_rooms import RandomRoom

RECORD: Final = Path(__file__).parent / "recorded_verdicts.json"
ROOMS: Final = 8
EVENTS: Final = 50
MERGES: Final = 6

#: Whether an event may be in a branch of its room.
Allows = Callable[[RoomBuilder, Pdu], bool]
#: Resolve states, given also the auth chain of each.
Resolve = Callable[
    [RoomBuilder, list[dict[StateKey, EventId]], list[set[EventId]]], dict[StateKey, EventId]
]


def verdicts_of_room(version: str, seed: int, allows: Allows, resolve: Resolve) -> list[str]:
    """Return one letter per event, `a`llowed or `-` refused, and a digest per merge."""
    random = Random(seed)  # noqa: S311 -- the same rooms each time
    verdicts: list[str] = []

    def judge(branch: RoomBuilder, pdu: Pdu) -> None:
        verdicts.append("a" if allows(branch, pdu) else "-")

    grown = RandomRoom(version, random, judge)
    grown.grow(EVENTS)
    room = grown.room
    states = list(room.state_after.values())
    digests = []
    for number in range(MERGES):
        merged = [random.choice(states) for _ in range(2 + number % 2)]
        chains = [room.auth_chain(state.values()) for state in merged]
        resolved = sorted(resolve(room, merged, chains).items())
        digests.append(sha256(repr(resolved).encode()).hexdigest()[:8])
    return ["".join(verdicts), *digests]


def we_allow(branch: RoomBuilder, pdu: Pdu) -> bool:
    auth_events = [branch.pdus[event_id] for event_id in pdu.auth_events]
    create = branch.find_state("m.room.create")
    try:
        check_state_independent_auth_rules(branch.rules, pdu, auth_events, create=create)
        check_state_dependent_auth_rules(branch.rules, pdu, branch.find_state)
    except Forbidden:
        return False
    return True


def we_resolve(
    room: RoomBuilder, states: list[dict[StateKey, EventId]], chains: list[set[EventId]]
) -> dict[StateKey, EventId]:
    return resolve_state(room.rules, states, chains, room.pdus.get)


RECORDED: Final[dict[str, list[list[str]]]] = (
    json.loads(RECORD.read_text()) if RECORD.exists() else {}
)


@pytest.mark.parametrize("seed", range(ROOMS))
@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_verdicts_and_resolved_state_are_those_that_synapse_gave(version: str, seed: int) -> None:
    assert verdicts_of_room(version, seed, we_allow, we_resolve) == RECORDED[version][seed]


def verdicts_of_synapse(synapse_rules: Any, version: str, seed: int) -> list[str]:
    events = synapse_rules.Events(ROOM_VERSIONS[version])

    def they_allow(branch: RoomBuilder, pdu: Pdu) -> bool:
        refusal: str | None = synapse_rules.refusal_in(events, branch, pdu)[0]
        return refusal is None

    def they_resolve(
        room: RoomBuilder, states: list[dict[StateKey, EventId]], chains: list[set[EventId]]
    ) -> dict[StateKey, EventId]:
        full = [chain | set(state.values()) for chain, state in zip(chains, states, strict=True)]
        difference = set().union(*full).difference(full[0].intersection(*full))
        resolved: dict[StateKey, EventId] = synapse_rules.resolve(
            events, room.room_id, states, difference, room.pdus.get
        )
        return resolved

    return verdicts_of_room(version, seed, they_allow, they_resolve)


def record(synapse_rules: Any) -> None:
    """Write down what Synapse says of the rooms of all versions."""
    recorded = {
        version: [verdicts_of_synapse(synapse_rules, version, seed) for seed in range(ROOMS)]
        for version in ROOM_VERSIONS
    }
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")
    sys.stdout.write(f"{RECORD} written\n")


if __name__ == "__main__":
    record(pytest.importorskip("tests.differential.synapse_rules"))
