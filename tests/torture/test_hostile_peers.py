"""A server that twists everything it says does not break ours.

`ARCHITEX_SEEDS=100` runs as many seeds, `ARCHITEX_SEED=17` repeats one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from architex.domain.identifiers import RoomId
from architex.domain.room_versions import get_room_version
from tests.conftest import DatabaseFactory
from tests.federation.simulation import SimulatedServer, Simulation, simulation
from tests.federation.tampering import SignatureWatch, Tamperer

_STEPS = 50
_VERSIONS = ("12", "1", "10")
# What one step of theirs may make us ask them, and what it may leave with us.
_REQUESTS_PER_STEP = 60
_EVENTS_PER_STEP = 60
_ROUNDS_OF_CANARY = 5


def _seeds() -> list[str]:
    if "ARCHITEX_SEED" in os.environ:
        return [os.environ["ARCHITEX_SEED"]]
    return [str(number) for number in range(int(os.environ.get("ARCHITEX_SEEDS", "3")))]


@pytest.mark.parametrize("seed", _seeds())
def test_a_server_that_twists_everything_harms_nobody_else(
    seed: str, make_database: DatabaseFactory, tmp_path: Path
) -> None:
    version = _VERSIONS[int(seed) % len(_VERSIONS)]
    with simulation(
        f"hostile {seed}", make_database, tmp_path, count=3, room_version=version
    ) as run:
        run.is_troubled = False
        try:
            _live_with_evil(run)
        except BaseException as error:
            error.add_note("\n".join(run.actions))
            error.add_note(f"ARCHITEX_SEED={seed} repeats it: room version {version}")
            raise


def _live_with_evil(run: Simulation) -> None:
    ours, honest, evil = run.servers
    network, rules = run.network, get_room_version(run.room_version)
    canary = ours.users[0].create_room(preset="public_chat", room_version=run.room_version)
    run.join(honest.users[0], canary, via=[ours.name])
    run.begin()
    abroad = replace(run, room_id="", club_id="")
    abroad.begin(host=2)
    tamperer = Tamperer(evil.name, evil.server.core.signing_key, rules, run.chance, rate=0.5)
    tamperer.foreign += [canary, run.room_id, abroad.room_id]
    tamperer.foreign += [user.user_id for user in run.users]
    tamperer.foreign += [*ours.state(canary).values(), *evil.state(run.room_id).values()]
    watches = [
        SignatureWatch(server.name, server.server.core.signing_key, rules)
        for server in (ours, honest)
    ]
    network.watchers = [tamperer, *watches]
    network.asked.clear()
    before = _count_events(ours)
    for number in range(_STEPS):
        scene = run.chance.choice((run, abroad))
        scene.step()
        if number % 5 == 0:
            _read(scene, ours)
    assert tamperer.changes > _STEPS / 2
    tamperer.rate = 0.0
    _check_canary(run, canary, ours, honest)
    for server in (ours, honest):
        for user in server.users:
            run.do(user, "GET", "/sync?timeout=0")
    assert run.network.failures == []
    assert [watch.wrong for watch in watches] == [[], []]
    asked = sum(
        n for (origin, to, _), n in network.asked.items() if (origin, to) == (ours.name, evil.name)
    )
    assert asked < _STEPS * _REQUESTS_PER_STEP
    assert _count_events(ours) - before < _STEPS * _EVENTS_PER_STEP


def _read(scene: Simulation, server: SimulatedServer) -> None:
    """Users of a server look around, which makes it ask others."""
    user = scene.chance.choice(server.users)
    room = quote(scene.room_id, safe="")
    scene.do(user, "GET", f"/rooms/{room}/messages?dir=b&limit=50")
    scene.do(user, "GET", f"/rooms/{room}/members")
    scene.do(user, "GET", "/sync?timeout=0")


def _check_canary(
    run: Simulation, canary: RoomId, ours: SimulatedServer, honest: SimulatedServer
) -> None:
    """The room of two honest servers works as ever, and soon."""
    for sender, receiver in ((ours, honest), (honest, ours)):
        path = f"/rooms/{quote(canary, safe='')}/send/m.room.message/canary{sender.name}"
        answer = run.do(sender.users[0], "PUT", path, {"msgtype": "m.text", "body": "Peep"})
        event_id = answer.ok()["event_id"]
        for _ in range(_ROUNDS_OF_CANARY):
            sender.advance()
            if receiver.events(canary).get(event_id) == 0:
                break
            run.network.clock.pass_seconds(1)
        assert receiver.events(canary).get(event_id) == 0
    assert ours.state(canary) == honest.state(canary)


def _count_events(server: SimulatedServer) -> int:
    ((number,),) = server.query("SELECT count(*) FROM event_graph")
    return int(number)
