"""What state resolution promises about any room."""

from __future__ import annotations

from random import Random  # noqa: TID251 -- only the type: hypothesis hands in the numbers

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.identifiers import EventId
from architex.domain.pdu import StateKey
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.state_resolution import resolve_state, split_conflicted_state
from tests.builders import RoomBuilder
from tests.differential.random_rooms import RandomRoom

rooms = settings(max_examples=12, deadline=None)
numbers = st.randoms(use_true_random=True)
every_version = pytest.mark.parametrize("version", ROOM_VERSIONS)

State = dict[StateKey, EventId]


def some_states(version: str, random: Random) -> tuple[RoomBuilder, list[State]]:
    grown = RandomRoom(version, random, lambda branch, pdu: None)
    grown.grow(40)
    states = list(grown.room.state_after.values())
    return grown.room, [random.choice(states) for _ in range(3)]


def resolve(room: RoomBuilder, states: list[State]) -> State:
    chains = [room.auth_chain(state.values()) for state in states]
    return resolve_state(room.rules, states, chains, room.pdus.get)


@every_version
@rooms
@given(random=numbers)
def test_branches_in_any_order_give_one_result(version: str, random: Random) -> None:
    room, states = some_states(version, random)
    expected = resolve(room, states)
    for _ in range(3):
        random.shuffle(states)
        assert resolve(room, states) == expected


@every_version
@rooms
@given(random=numbers)
def test_a_branch_counts_once_however_often_it_is_named(version: str, random: Random) -> None:
    room, states = some_states(version, random)
    assert resolve(room, states + states) == resolve(room, states)
    assert resolve(room, [states[0], states[0]]) == states[0]


@every_version
@rooms
@given(random=numbers)
def test_what_no_branch_disputes_survives(version: str, random: Random) -> None:
    room, states = some_states(version, random)
    resolved = resolve(room, states)
    unconflicted, conflicted = split_conflicted_state(room.rules, states)
    assert unconflicted.items() <= resolved.items()
    assert not unconflicted.keys() & conflicted.keys()
    common = set(states[0].items()).intersection(*(state.items() for state in states))
    assert common <= set(unconflicted.items())


@every_version
@rooms
@given(random=numbers)
def test_every_place_of_the_result_holds_an_event_of_that_place(
    version: str, random: Random
) -> None:
    room, states = some_states(version, random)
    for key, event_id in resolve(room, states).items():
        assert room.pdus[event_id].key == key
