"""The simulated network does to requests what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated

import pytest

from architex.gateways.errors import RemoteRefused, RemoteTimedOut, RemoteUnreachable
from architex.gateways.federation_client import FederationClient
from tests.conftest import DatabaseFactory
from tests.fakes.randomness import SeededRandomness
from tests.federation.network import Network, Weather
from tests.federation.peers import make_key
from tests.federation.simulation import Simulation, simulation

PATH = "/_matrix/key/v2/server"


@pytest.fixture
def run(make_database: DatabaseFactory, tmp_path: Path) -> Iterator[Simulation]:
    with simulation("network", make_database, tmp_path) as started:
        yield started


@pytest.fixture
def client(run: Simulation) -> FederationClient:
    network = run.network
    network.apps["asker.test"] = network.apps["s0.test"]
    return network.client("asker.test", make_key(), SeededRandomness("asker"))


def test_servers_know_each_others_keys(run: Simulation) -> None:
    one, other = run.servers[0], run.servers[1]
    told = one.server.request("GET", f"/_matrix/key/v2/query/{other.name}").ok()
    (keys,) = told["server_keys"]
    assert keys["server_name"] == other.name
    assert set(keys["signatures"]) == {one.name, other.name}


def test_weather_has_its_way(run: Simulation, client: FederationClient) -> None:
    network: Network = run.network
    network.weather = Weather(lost=1.0)
    with pytest.raises(RemoteUnreachable):
        client.get("s1.test", PATH, despite_failures=True)
    network.weather = Weather(answer_lost=1.0)
    with pytest.raises(RemoteTimedOut):
        client.get("s1.test", PATH, despite_failures=True)
    network.weather = Weather(refused=1.0)
    with pytest.raises(RemoteRefused):
        client.get("s1.test", PATH, despite_failures=True)
    network.weather = Weather(late=1.0)
    with pytest.raises(RemoteTimedOut):
        client.get("s1.test", PATH, despite_failures=True)
    assert network.late_requests == 1
    network.heal()
    network.deliver_late(Random(1))  # noqa: S311 - as above
    assert network.late_requests == 0
    network.weather = replace(network.weather, twice=1.0)
    assert client.get("s1.test", PATH)["server_name"] == "s1.test"


def test_separated_servers_do_not_reach_each_other(
    run: Simulation, client: FederationClient
) -> None:
    run.network.separate(["asker.test", "s0.test"])
    with pytest.raises(RemoteUnreachable):
        client.get("s1.test", PATH, despite_failures=True)
    assert client.get("s0.test", PATH)["server_name"] == "s0.test"
    run.network.heal()
    assert client.get("s1.test", PATH, despite_failures=True)["server_name"] == "s1.test"
