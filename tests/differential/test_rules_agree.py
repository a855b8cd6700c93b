"""Authorisation and state resolution decide as matrix-synapse does, in every room version.

`ARCHITEX_DIFFERENTIAL_ROOMS` sets how many random rooms are tried per room version.
"""

from __future__ import annotations

import os
from random import Random  # noqa: TID251 -- only the type: hypothesis hands in the numbers

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architex.domain.auth_rules import (
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from architex.domain.errors import Forbidden
from architex.domain.pdu import Pdu
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.state_resolution import resolve_state
from tests.builders import RoomBuilder
from tests.differential.random_rooms import USERS, RandomRoom

synapse_rules = pytest.importorskip("tests.differential.synapse_rules")

ROOMS = int(os.environ.get("ARCHITEX_DIFFERENTIAL_ROOMS", "12"))
random_rooms = settings(
    max_examples=ROOMS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
numbers = st.randoms(use_true_random=True)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@random_rooms
@given(random=numbers)
def test_authorisation_agrees_with_synapse(version: str, random: Random) -> None:
    events = synapse_rules.Events(ROOM_VERSIONS[version])

    def judge(branch: RoomBuilder, pdu: Pdu) -> None:
        ours = _state_independent_refusal(branch, pdu) or _state_dependent_refusal(branch, pdu)
        theirs, state = synapse_rules.refusal_in(events, branch, pdu)
        assert (ours is None) == (theirs is None), _explain(ours, theirs, pdu, state)

    RandomRoom(version, random, judge).grow(40)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@random_rooms
@given(random=numbers)
def test_resolved_state_agrees_with_synapse(version: str, random: Random) -> None:
    grown = RandomRoom(version, random, lambda branch, pdu: None)
    grown.grow(60)
    room = grown.room
    sets = list(room.state_after.values())
    events = synapse_rules.Events(ROOM_VERSIONS[version])
    for _ in range(10):
        state_sets = [random.choice(sets) for _ in range(random.choice((2, 2, 3)))]
        chains = [room.auth_chain(state.values()) for state in state_sets]
        # Written out, not ours: that must hold on its own.
        full_chains = [
            chain | set(state.values()) for chain, state in zip(chains, state_sets, strict=True)
        ]
        difference = (
            set().union(*full_chains).difference(full_chains[0].intersection(*full_chains))
        )
        ours = resolve_state(room.rules, state_sets, chains, room.pdus.get)
        theirs = synapse_rules.resolve(events, room.room_id, state_sets, difference, room.pdus.get)
        assert ours == theirs


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@random_rooms
@given(random=numbers)
def test_judgement_of_auth_events_agrees_with_synapse(version: str, random: Random) -> None:
    events = synapse_rules.Events(ROOM_VERSIONS[version])
    grown = RandomRoom(version, random, lambda branch, pdu: None)
    grown.grow(20)
    room, other = grown.room, RoomBuilder(version, creator="@alice:other.example")
    strangers = [pdu for pdu in other.pdus.values() if pdu.is_state]
    locals_ = [pdu for pdu in room.pdus.values() if pdu.is_state]
    room.pdus.update({pdu.event_id: pdu for pdu in strangers})
    for _ in range(10):
        proper = room.compose(
            random.choice(USERS),
            "m.room.member",
            {"membership": random.choice(("join", "leave", "invite", "ban"))},
            state_key=random.choice(USERS),
        )
        auth_ids = list(proper.auth_events)
        # One or two things wrong with them.
        for _ in range(random.choice((0, 1, 1, 2))):
            match random.choice(("drop", "add", "repeat", "stranger")):
                case "drop" if auth_ids:
                    auth_ids.remove(random.choice(auth_ids))
                case "add":
                    auth_ids.append(random.choice(locals_).event_id)
                case "repeat" if auth_ids:
                    auth_ids.append(random.choice(auth_ids))
                case "stranger":
                    auth_ids.append(random.choice(strangers).event_id)
        pdu = room.compose(
            proper.sender,
            proper.type,
            proper.content,
            state_key=proper.state_key,
            auth_events=auth_ids,
        )
        create = room.find_state("m.room.create")
        ours = _state_independent_refusal(room, pdu)
        theirs = synapse_rules.state_independent_refusal(events, pdu, room.pdus.get, create)
        assert (ours is None) == (theirs is None), _explain(
            ours, theirs, pdu, [room.pdus[event_id] for event_id in auth_ids]
        )


def _state_independent_refusal(room: RoomBuilder, pdu: Pdu) -> str | None:
    auth_events = [room.pdus[event_id] for event_id in pdu.auth_events]
    create = room.find_state("m.room.create")
    try:
        check_state_independent_auth_rules(room.rules, pdu, auth_events, create=create)
    except Forbidden as error:
        return error.message
    return None


def _state_dependent_refusal(room: RoomBuilder, pdu: Pdu) -> str | None:
    try:
        check_state_dependent_auth_rules(room.rules, pdu, room.find_state)
    except Forbidden as error:
        return error.message
    return None


def _explain(ours: str | None, theirs: str | None, pdu: Pdu, state: list[Pdu]) -> str:
    lines = [f"ours: {ours}", f"theirs: {theirs}"]
    lines += [
        f"{one.type} {one.state_key} by {one.sender}: {dict(one.content)} {one.redacts}"
        for one in [pdu, *state]
    ]
    return "\n".join(lines)
