"""Servers agree about a room once the network heals, whatever happened before.

`ARCHITEX_SEEDS=1000` runs as many seeds, `ARCHITEX_SEED=17` repeats one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import DatabaseFactory
from tests.federation.simulation import Simulation, simulation

_STEPS = 60


def seeds(count: str) -> list[str]:
    """The seeds to run: so many, unless the environment says otherwise."""
    if "ARCHITEX_SEED" in os.environ:
        return [os.environ["ARCHITEX_SEED"]]
    return [str(number) for number in range(int(os.environ.get("ARCHITEX_SEEDS", count)))]


@pytest.mark.parametrize("seed", seeds("3"))
def test_servers_agree_after_the_network_healed(
    seed: str, make_database: DatabaseFactory, tmp_path: Path
) -> None:
    with simulation(seed, make_database, tmp_path) as run:
        try:
            _live(run)
            run.check()
        except BaseException as error:
            error.add_note("\n".join(run.actions))
            error.add_note(f"ARCHITEX_SEED={seed} repeats it: room version {run.room_version}")
            raise


def _live(run: Simulation) -> None:
    run.begin()
    for _ in range(_STEPS):
        run.step()
    run.settle()
    # A branch that nothing follows may still hold what the others do not have.
    run.speak_everywhere()
    run.speak_everywhere()
    run.read_everything()
