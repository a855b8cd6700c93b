"""Disagreements of states, found by what they do not share, equal those of whole auth chains."""

from __future__ import annotations

from collections import Counter
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter
from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.state_resolution import auth_difference, conflicted_state_subgraph
from architex.projections import disagreements
from architex.projections.branch_states import BranchStates
from tests.builders import auth_chain_of
from tests.usecases.test_judging import Reference, found_room, judge, random_room

PAIRS = 40


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_differences_equal_those_of_whole_auth_chains(core: Core, version: str, seed: int) -> None:
    compared = compare_differences(core, version, seed, steps=80)
    assert compared["conflicts"] > PAIRS / 4


def compare_differences(core: Core, version: str, seed: int, *, steps: int) -> Counter[str]:
    """Compare the differences of random states of a random room; how many of what there were."""
    create, *pdus = random_room(version, seed, steps=steps)
    rules = ROOM_VERSIONS[version]
    found_room(core, create, rules)
    reference = Reference(rules, create)
    outcomes = [reference.judge(pdu) for pdu in pdus]
    assert judge(core, create.room_id, pdus) == outcomes
    kept = [
        pdu.event_id
        for pdu, outcome in zip(pdus, outcomes, strict=True)
        if outcome in (Outcome.ACCEPTED, Outcome.SOFT_FAILED)
    ]
    random = Random(seed)  # noqa: S311 - seeded, so that a failure can be repeated
    head = core.event_log.find_head(create.room_id)
    assert head is not None
    counts: Counter[str] = Counter()
    branches = BranchStates()
    with core.database.connection() as connection:
        for _ in range(PAIRS):
            chosen = random.sample(kept, random.choice((2, 2, 3)))
            known = branches.find_events(connection, head.room_nid, rules, chosen)
            states = [known[event_id].state_after for event_id in chosen]
            values = branches.compare(connection, head.room_nid, states)
            conflicted = {e for row in values.values() for e in row if e is not None}
            if not conflicted:
                continue
            found = branches.disagreement(
                connection, head.room_nid, states, values, with_subgraph=True
            )
            whole = [reference.after[event_id] for event_id in chosen]
            chains = [auth_chain_of(reference.pdus, state.values()) for state in whole]
            difference = auth_difference(whole, chains, reference.pdus.get)
            assert found.difference - conflicted == difference - conflicted
            assert found.subgraph == conflicted_state_subgraph(conflicted, reference.pdus.get)
            counts["conflicts"] += 1
            counts["differences"] += bool(difference - conflicted)
    return counts


@pytest.mark.parametrize(
    ("way", "seed"),
    [("_authorising_what_stands", 5), ("_authorising", 6), ("_in_usual_chain", 11)],
)
def test_every_way_to_find_what_states_share_is_taken_in_some_room(
    core: Core, monkeypatch: pytest.MonkeyPatch, way: str, seed: int
) -> None:
    found = 0
    find = getattr(disagreements._Search, way)

    def counted(search: Any, candidates: set[int]) -> set[int]:
        nonlocal found
        shared: set[int] = find(search, candidates)
        found += len(shared & candidates)
        return shared

    monkeypatch.setattr(disagreements._Search, way, counted)
    compare_differences(core, "11", seed, steps=80)
    assert found > 0
