"""Server discovery, step by step.

Spec: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names
"""

from __future__ import annotations

from http.client import HTTPMessage
from typing import Any

import pytest

from architex.gateways.clock import SystemRandomness
from architex.gateways.errors import RemoteError, RemoteTimedOut, RemoteUnreachable
from architex.gateways.http import Answer, Target
from architex.gateways.name_lookup import Service
from architex.gateways.server_discovery import ServerDiscovery
from tests.fakes.clock import FakeClock
from tests.fakes.names import FakeNames

HOUR_S = 3600


class WellKnowns:
    """Stands for the HTTP client: well-known files by host."""

    def __init__(self) -> None:
        self.files: dict[str, Answer | RemoteError] = {}
        self.asked: list[str] = []

    def put(
        self, host: str, body: bytes, status: int = 200, cache_control: str | None = None
    ) -> None:
        message = HTTPMessage()
        if cache_control is not None:
            message["Cache-Control"] = cache_control
        self.files[host] = Answer(status, message, body)

    def fetch_url(self, method: str, url: str, **_: Any) -> Answer:
        host = url.removeprefix("https://").removesuffix("/.well-known/matrix/server")
        self.asked.append(host)
        answer = self.files.get(host)
        if answer is None:
            raise RemoteUnreachable(host, "Nobody is there.")
        if isinstance(answer, RemoteError):
            raise answer
        return answer


class World:
    def __init__(self) -> None:
        self.http = WellKnowns()
        self.names = FakeNames()
        self.clock = FakeClock()
        self.discovery = ServerDiscovery(
            self.http,  # type: ignore[arg-type] # has the one method that is used
            self.names,
            self.clock,
            SystemRandomness(),
        )

    def find(self, name: str) -> list[Target]:
        return list(self.discovery.find(name))


@pytest.fixture
def world() -> World:
    return World()


def well_known(server: str) -> bytes:
    return b'{"m.server": "%s"}' % server.encode()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        # 1. IP literals
        ("1.2.3.4", Target("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
        ("1.2.3.4:80", Target("1.2.3.4", 80, "1.2.3.4", "1.2.3.4:80")),
        ("[::1]", Target("::1", 8448, "::1", "[::1]")),
        ("[::1]:81", Target("::1", 81, "::1", "[::1]:81")),
        ("010.0.0.8", Target("10.0.0.8", 8448, "10.0.0.8", "010.0.0.8")),
        # 2. An explicit port
        ("a.example:82", Target("a.example", 82, "a.example", "a.example:82")),
        ("a.example.:82", Target("a.example", 82, "a.example", "a.example.:82")),
    ],
)
def test_address_or_port_needs_no_discovery(world: World, name: str, target: Target) -> None:
    assert world.find(name) == [target]
    assert (world.http.asked, world.names.asked) == ([], [])


@pytest.mark.parametrize(
    ("delegated", "target"),
    [
        # 3.1
        ("1.2.3.4", Target("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
        ("[::1]:99", Target("::1", 99, "::1", "[::1]:99")),
        # 3.2
        ("m.example:443", Target("m.example", 443, "m.example", "m.example:443")),
        # 3.5
        ("m.example", Target("m.example", 8448, "m.example", "m.example")),
    ],
)
def test_well_known_file_delegates(world: World, delegated: str, target: Target) -> None:
    world.http.put("a.example", well_known(delegated))
    assert world.find("a.example") == [target]


def test_service_of_the_delegated_host_is_used_with_its_name(world: World) -> None:
    world.http.put("a.example", well_known("m.example"))
    world.names.services["_matrix-fed._tcp.m.example"] = [Service(0, 0, 11, "srv.example")]
    # 3.3 goes before 3.4.
    world.names.services["_matrix._tcp.m.example"] = [Service(0, 0, 12, "old.example")]
    assert world.find("a.example") == [Target("srv.example", 11, "m.example", "m.example")]
    del world.names.services["_matrix-fed._tcp.m.example"]
    assert world.find("a.example") == [Target("old.example", 12, "m.example", "m.example")]


def test_service_of_the_host_is_used_without_a_well_known_file(world: World) -> None:
    world.names.services["_matrix._tcp.a.example"] = [Service(0, 0, 12, "old.example")]
    assert world.find("a.example") == [Target("old.example", 12, "a.example", "a.example")]
    world.names.services["_matrix-fed._tcp.a.example"] = [Service(0, 0, 11, "srv.example")]
    assert world.find("a.example") == [Target("srv.example", 11, "a.example", "a.example")]


def test_without_any_hint_it_is_port_8448(world: World) -> None:
    assert world.find("a.example") == [Target("a.example", 8448, "a.example", "a.example")]


def test_delegation_is_not_followed_twice(world: World) -> None:
    world.http.put("a.example", well_known("b.example"))
    world.http.put("b.example", well_known("c.example"))
    assert world.find("a.example") == [Target("b.example", 8448, "b.example", "b.example")]
    assert world.http.asked == ["a.example"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not JSON", 200),
        (b"{}", 200),
        (b"[]", 200),
        (b'{"m.server": 5}', 200),
        (b'{"m.server": "a b"}', 200),
        (b'{"m.server": "https://m.example"}', 200),
        (b'{"m.server": "m.example:http"}', 200),
        (well_known("m.example"), 404),
        (well_known("m.example"), 500),
        (well_known("m.example"), 302),
        (b"[" * 40_000, 200),
    ],
)
def test_invalid_well_known_file_counts_as_none(world: World, body: bytes, status: int) -> None:
    world.http.put("a.example", body, status)
    assert world.find("a.example") == [Target("a.example", 8448, "a.example", "a.example")]


def test_services_are_tried_by_priority(world: World) -> None:
    world.names.services["_matrix-fed._tcp.a.example"] = [
        Service(20, 0, 3, "c.example"),
        Service(10, 0, 2, "b.example"),
        Service(10, 10**4, 1, "b.example"),
    ]
    found = [[target.port for target in world.find("a.example")] for _ in range(50)]
    assert all(ports[-1] == 3 for ports in found)
    # The heavier is first nearly always.
    assert sum(ports[0] == 1 for ports in found) > 40


def test_service_that_is_not_offered_is_nowhere(world: World) -> None:
    world.names.services["_matrix-fed._tcp.a.example"] = [Service(0, 0, 0, "")]
    with pytest.raises(RemoteUnreachable):
        world.find("a.example")


def test_broken_name_servers_are_no_reason_to_give_up(world: World) -> None:
    world.names.broken = {"_matrix-fed._tcp.a.example", "_matrix._tcp.a.example"}
    assert [target.port for target in world.find("a.example")] == [8448]


@pytest.mark.parametrize(
    "name", ["", "a b", "a.example:http", "a.example:0", "a.example:65536", "[::1", "a/b", "a@b"]
)
def test_what_is_no_server_name_leads_nowhere(world: World, name: str) -> None:
    with pytest.raises(RemoteUnreachable):
        world.find(name)
    assert world.http.asked == []


# ---- remembering


@pytest.mark.parametrize(
    ("cache_control", "lifetime_s"),
    [
        (None, 24 * HOUR_S),
        ("public, max-age=7200", 2 * HOUR_S),
        ("max-age=99999999", 48 * HOUR_S),
        ("max-age=0", 300),
        ("no-store", 300),
        ("max-age=soon", 24 * HOUR_S),
        ("s-max-age=5", 24 * HOUR_S),
    ],
)
def test_well_known_file_is_remembered_as_long_as_it_says(
    world: World, cache_control: str | None, lifetime_s: int
) -> None:
    world.http.put("a.example", well_known("m.example:1"), cache_control=cache_control)
    world.find("a.example")
    world.clock.pass_seconds(lifetime_s - 1)
    world.find("a.example")
    assert len(world.http.asked) == 1
    world.clock.pass_seconds(2)
    world.find("a.example")
    assert len(world.http.asked) == 2


def test_failures_are_remembered_ever_longer_up_to_an_hour(world: World) -> None:
    waits = []
    for _ in range(9):
        asked = len(world.http.asked)
        seconds = 0
        while len(world.http.asked) == asked:
            world.clock.pass_seconds(10)
            seconds += 10
            world.find("a.example")
        waits.append(seconds)
    assert waits[1] <= 60
    assert waits[:7] == sorted(waits[:7])
    assert all(3000 < wait <= HOUR_S for wait in waits[7:])


def test_delegation_outlives_an_outage_but_not_its_withdrawal(world: World) -> None:
    world.http.put("a.example", well_known("m.example:1"), cache_control="max-age=3600")
    world.find("a.example")
    world.http.files["a.example"] = RemoteTimedOut("a.example", "It took too long.")
    world.clock.pass_seconds(HOUR_S + 1)
    assert world.find("a.example")[0].port == 1
    world.http.put("a.example", b"", 404)
    world.clock.pass_seconds(HOUR_S + 1)
    assert world.find("a.example")[0].port == 8448


def test_delegation_does_not_outlive_an_outage_of_two_days(world: World) -> None:
    world.http.put("a.example", well_known("m.example:1"), cache_control="max-age=3600")
    world.find("a.example")
    del world.http.files["a.example"]
    for _ in range(60):
        world.clock.pass_seconds(HOUR_S)
        target = world.find("a.example")[0]
    assert target.port == 8448


def test_explanation_tells_the_way(world: World) -> None:
    world.names.services["_matrix-fed._tcp.a.example"] = [Service(0, 0, 11, "srv.example")]
    told = world.discovery.explain("a.example")
    assert told.delegated is None
    assert told.well_known_error == "Nobody is there."
    assert told.service == "_matrix-fed._tcp.a.example"
