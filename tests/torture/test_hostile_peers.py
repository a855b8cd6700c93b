"""A server that twists everything it says does not break ours.

`ARCHITEX_SEEDS=100` runs as many seeds, `ARCHITEX_SEED=17` repeats one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random  # noqa: TID251 - only the type
from typing import Any
from urllib.parse import quote

import pytest

from architex.domain.identifiers import EventId, RoomId
from architex.domain.room_versions import get_room_version
from architex.gateways.errors import RemoteRefused
from architex.gateways.federation_client import federation_path
from tests.conftest import DatabaseFactory
from tests.fakes.randomness import SeededRandomness
from tests.federation.network import Request, kind_of
from tests.federation.simulation import SimulatedServer, Simulation, simulation
from tests.federation.tampering import Recorder, SignatureWatch, Tamperer

_STEPS = 50
_VERSIONS = ("12", "1", "10")
# What one step of theirs may make us ask them, and what it may leave with us.
_REQUESTS_PER_STEP = 60
_EVENTS_PER_STEP = 60
_ROUNDS_OF_CANARY = 5
_VARIANTS = 12
_DOORS_FOR_EVENTS = {
    "v1/exchange_third_party_invite",
    "v1/invite",
    "v1/send",
    "v1/send_join",
    "v1/send_knock",
    "v2/invite",
    "v2/send_join",
    "v2/send_leave",
}
_DOORS = _DOORS_FOR_EVENTS | {
    "v1/3pid",
    "v1/backfill",
    "v1/event",
    "v1/event_auth",
    "v1/get_missing_events",
    "v1/hierarchy",
    "v1/make_join",
    "v1/make_knock",
    "v1/make_leave",
    "v1/openid",
    "v1/publicRooms",
    "v1/query",
    "v1/state",
    "v1/state_ids",
    "v1/timestamp_to_event",
    "v1/user",
}


def _seeds() -> list[str]:
    if "ARCHITEX_SEED" in os.environ:
        return [os.environ["ARCHITEX_SEED"]]
    return [str(number) for number in range(int(os.environ.get("ARCHITEX_SEEDS", "2")))]


@pytest.mark.parametrize("seed", _seeds())
def test_a_server_that_twists_everything_harms_nobody_else(
    seed: str, make_database: DatabaseFactory, tmp_path: Path
) -> None:
    with _evil_neighbour(seed, make_database, tmp_path) as scene:
        scene.tamperer.rate = 0.6
        before = _count_events(scene.ours)
        scene.run.network.asked.clear()
        for number in range(_STEPS):
            room = scene.chance.choice((scene.run, scene.abroad))
            room.step()
            scene.evil.advance()
            if number % 3 == 0:
                scene.ours.advance()
            if number % 5 == 0:
                _read(room, scene.ours)
        assert scene.tamperer.changes > _STEPS / 3
        scene.check_harm()
        assert scene.count_questions() < _STEPS * _REQUESTS_PER_STEP
        assert _count_events(scene.ours) - before < _STEPS * _EVENTS_PER_STEP


@pytest.mark.parametrize("seed", _seeds())
def test_every_door_bears_twisted_requests(
    seed: str, make_database: DatabaseFactory, tmp_path: Path
) -> None:
    with _evil_neighbour(seed, make_database, tmp_path) as scene:
        recorder = Recorder(scene.evil.name)
        network = scene.run.network
        network.watchers.insert(0, recorder)
        _knock_at_every_door(scene)
        network.watchers.remove(recorder)
        by_kind: dict[str, list[Request]] = {}
        for request in recorder.requests:
            if request.destination == scene.ours.name:
                by_kind.setdefault(kind_of(request.path), []).append(request)
        assert by_kind.keys() >= _DOORS, _DOORS - by_kind.keys()
        scene.tamperer.rate = 1.0
        before = _count_events(scene.ours)
        network.asked.clear()
        for kind, requests in sorted(by_kind.items()):
            for _ in range(_VARIANTS * (3 if kind in _DOORS_FOR_EVENTS else 1)):
                network.call(scene.chance.choice(requests))
                network.clock.pass_seconds(0.1)
        variants = scene.tamperer.changes
        assert variants > len(by_kind) * _VARIANTS / 2
        scene.check_harm()
        assert scene.count_questions() < variants * _REQUESTS_PER_STEP
        assert _count_events(scene.ours) - before < variants * 3


@dataclass
class Scene:
    """A room of ours and one of theirs, with everybody in both, and a room of honest servers.

    Attributes:
        run: the room of ours.
        abroad: the room of theirs.
        canary: where the evil server is not.
    """

    run: Simulation
    abroad: Simulation
    canary: RoomId
    tamperer: Tamperer
    watches: list[SignatureWatch]

    @property
    def ours(self) -> SimulatedServer:
        """The server that is attacked."""
        return self.run.servers[0]

    @property
    def honest(self) -> SimulatedServer:
        """Another one that is as it should be."""
        return self.run.servers[1]

    @property
    def evil(self) -> SimulatedServer:
        """The attacker."""
        return self.run.servers[2]

    @property
    def chance(self) -> Random:
        """Of the run."""
        return self.run.chance

    def count_questions(self) -> int:
        """How often ours asked the attacker."""
        return sum(
            number
            for (origin, destination, _), number in self.run.network.asked.items()
            if (origin, destination) == (self.ours.name, self.evil.name)
        )

    def check_harm(self) -> None:
        """Raises AssertionError unless honest servers and their users live as before."""
        self.tamperer.rate = 0.0
        assert self.run.network.failures == []
        assert [watch.wrong for watch in self.watches] == [[], []]
        _check_canary(self.run, self.canary, self.ours, self.honest)
        for server in (self.ours, self.honest):
            for user in server.users:
                self.run.do(user, "GET", "/sync?timeout=0").ok()


@contextmanager
def _evil_neighbour(seed: str, make_database: DatabaseFactory, directory: Path) -> Iterator[Scene]:
    version = _VERSIONS[int(seed) % len(_VERSIONS)]
    name = f"hostile {seed}"
    with simulation(name, make_database, directory, count=3, room_version=version) as run:
        run.is_troubled = False
        try:
            yield _set_scene(run)
        except BaseException as error:
            error.add_note("\n".join(run.actions))
            error.add_note(f"ARCHITEX_SEED={seed} repeats it: room version {version}")
            raise


def _set_scene(run: Simulation) -> Scene:
    ours, honest, evil = run.servers
    rules = get_room_version(run.room_version)
    canary = ours.users[0].create_room(preset="public_chat", room_version=run.room_version)
    run.join(honest.users[0], canary, via=[ours.name]).ok()
    run.begin()
    abroad = replace(run, room_id="", club_id="")
    abroad.begin(host=2)
    tamperer = Tamperer(evil.name, evil.server.core.signing_key, rules, run.chance)
    tamperer.foreign += [canary, run.room_id, abroad.room_id]
    tamperer.foreign += [user.user_id for user in run.users]
    tamperer.foreign += [*ours.state(canary).values(), *evil.state(run.room_id).values()]
    watches = [
        SignatureWatch(server.name, server.server.core.signing_key, rules)
        for server in (ours, honest)
    ]
    run.network.watchers = [tamperer, *watches]
    return Scene(run, abroad, canary, tamperer, watches)


def _knock_at_every_door(scene: Scene) -> None:
    """Let the evil server make a request of every kind, as it should be."""
    run, ours, evil = scene.run, scene.ours, scene.evil
    theirs, other = evil.users
    room = quote(run.room_id, safe="")
    for _ in range(3):
        fresh = ours.users[0].create_room(
            preset="private_chat", room_version=run.room_version, invite=[theirs.user_id]
        )
        run.join(theirs, fresh, via=[ours.name]).ok()
    ours.users[0].create_room(room_version=run.room_version, invite=[other.user_id])
    for declined in other.get("/sync", timeout=0).ok()["rooms"]["invite"]:
        run.do(other, "POST", f"/rooms/{quote(declined, safe='')}/leave", {}).ok()
    run.do(other, "PUT", f"/rooms/{room}/send/m.room.message/k1", {"body": "x"})
    run.do(other, "PUT", f"/rooms/{room}/typing/{other.path}", {"typing": True, "timeout": 1000})
    event_id = ours.state(run.room_id)["m.room.join_rules", ""]
    run.do(other, "POST", f"/rooms/{room}/receipt/m.read/{quote(event_id, safe='')}", {})
    run.do(other, "PUT", f"/presence/{other.path}/status", {"presence": "online"})
    invites = theirs.create_room(
        preset="private_chat", room_version=run.room_version, invite=[ours.users[0].user_id]
    )
    run.do(theirs, "POST", f"/rooms/{quote(invites, safe='')}/leave", {})
    if get_room_version(run.room_version).knocking:
        club = ours.users[0].create_room(
            room_version=run.room_version,
            initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}],
        )
        run.do(theirs, "POST", f"/knock/{quote(club, safe='')}?via={ours.name}", {}).ok()
    evil.advance()
    _ask_everything(scene, event_id)


def _ask_everything(scene: Scene, event_id: EventId) -> None:
    """The requests that a server makes when something is missing, or a user wants to know."""
    ours, evil, room_id = scene.ours, scene.evil, scene.run.room_id
    user_id, theirs = ours.users[0].user_id, evil.users[0].user_id
    client = scene.run.network.client(
        evil.name, evil.server.core.signing_key, SeededRandomness("evil")
    )
    gets: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("v1", "event", event_id), {}),
        (("v1", "state", room_id), {"event_id": event_id}),
        (("v1", "state_ids", room_id), {"event_id": event_id}),
        (("v1", "event_auth", room_id, event_id), {}),
        (("v1", "backfill", room_id), {"v": event_id, "limit": "10"}),
        (("v1", "timestamp_to_event", room_id), {"ts": "0", "dir": "f"}),
        (("v1", "hierarchy", room_id), {}),
        (("v1", "make_join", room_id, theirs), {"ver": scene.run.room_version}),
        (("v1", "make_leave", room_id, theirs), {}),
        (("v1", "make_knock", room_id, theirs), {"ver": scene.run.room_version}),
        (("v1", "query", "profile"), {"user_id": user_id}),
        (("v1", "query", "directory"), {"room_alias": f"#none:{ours.name}"}),
        (("v1", "publicRooms"), {"limit": "10"}),
        (("v1", "user", "devices", user_id), {}),
        (("v1", "openid", "userinfo"), {"access_token": "x"}),
    ]
    posts: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (
            ("v1", "get_missing_events", room_id),
            {"earliest_events": [], "latest_events": [event_id], "limit": 10},
        ),
        (("v1", "publicRooms"), {"limit": 10}),
        (("v1", "user", "keys", "query"), {"device_keys": {user_id: []}}),
        (
            ("v1", "user", "keys", "claim"),
            {"one_time_keys": {user_id: {"DEVICE": "signed_curve25519"}}},
        ),
    ]
    member = evil.state(room_id)["m.room.member", theirs]
    found = evil.query(
        "SELECT convert_from(state, 'UTF8')::json->'pdu' FROM stored_events e"
        " JOIN event_graph g ON g.position = e.notification_id WHERE g.event_id = %s",
        member,
    )
    event = found[0][0]
    puts: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("v1", "exchange_third_party_invite", room_id), event),
        (("v1", "send_join", room_id, member), event),
        (("v2", "send_leave", room_id, member), event),
        (("v1", "send_knock", room_id, member), event),
        (("v1", "invite", room_id, member), event),
        (
            ("v2", "invite", room_id, member),
            {"room_version": scene.run.room_version, "event": event, "invite_room_state": []},
        ),
        (
            ("v1", "3pid", "onbind"),
            {"medium": "email", "address": "a@b.c", "invites": [], "mxid": user_id},
        ),
    ]
    for segments, query in gets:
        with suppress(RemoteRefused):
            client.get(ours.name, federation_path(*segments), query)
    for segments, content in posts:
        with suppress(RemoteRefused):
            client.post(ours.name, federation_path(*segments), content)
    for segments, content in puts:
        with suppress(RemoteRefused):
            client.put(ours.name, federation_path(*segments), content)


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
