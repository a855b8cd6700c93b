"""Several servers in one process, users who act at random, and a network that fails by a seed.

A run is told by its seed: what users do, what the network does to which request, what time it is,
every key and every name come from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

from architex.bootstrap import (
    all_projections,
    build_core,
    build_federation_sender,
    build_use_cases,
)
from architex.bootstrap.web import build_app
from architex.domain.identifiers import EventId, RoomId, ServerName, server_name_of
from architex.domain.room_versions import get_room_version
from architex.followers.housekeeping import Housekeeping, chores_of_receiving
from architex.followers.runner import Follower
from architex.followers.workers import InlineWorkers
from architex.settings import RateLimitSettings
from architex.usecases.verifying import Verifying
from tests.api.client import Answer, Server, User, settings_for, stop_server
from tests.fakes.clock import FakeClock
from tests.fakes.inline import InlineExecutor, Timers
from tests.fakes.randomness import SeededRandomness
from tests.federation.network import Network, Weather

ROOM_VERSIONS = ("1", "2", "3", "5", "6", "7", "8", "9", "10", "11", "12")
_RESTRICTED = {v for v in ROOM_VERSIONS if get_room_version(v).restricted_joins}
_KNOCKING = {v for v in ROOM_VERSIONS if get_room_version(v).knocking}

_NOW = 9223372036854775807
# A step is short; after healing, time passes until the longest wait of a sender is over.
_STEP_S = 1.0
_REST_S = 900.0
_MAX_RESTS = 40


@dataclass
class SimulatedServer:
    """One of the servers.

    Attributes:
        followers: what goes on behind requests: sending to other servers.
    """

    name: ServerName
    server: Server
    users: list[User]
    followers: Sequence[Follower]

    def advance(self) -> bool:
        """Let followers do what there is to do; whether there was anything."""
        worked = False
        for follower in self.followers:
            for _ in range(1000):
                if not follower.advance():
                    break
                worked = True
        return worked

    def query(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Rows of its database."""
        with self.server.core.database.connection() as connection:
            return list(connection.execute(sql.encode(), params).fetchall())

    def state(self, room_id: RoomId) -> dict[tuple[str, str], EventId]:
        """The current state: (type, state key) → event ID."""
        rows = self.query(
            "SELECT s.type, s.state_key, g.event_id FROM current_state s"
            " JOIN rooms r USING (room_nid) JOIN event_graph g ON g.position = s.position"
            " WHERE r.room_id = %s AND s.valid_to = %s",
            room_id,
            _NOW,
        )
        return {(type_, state_key): event_id for type_, state_key, event_id in rows}

    def memberships(self, room_id: RoomId) -> dict[str, str]:
        """User ID → membership."""
        rows = self.query(
            "SELECT s.state_key, s.membership FROM current_state s JOIN rooms r USING (room_nid)"
            " WHERE r.room_id = %s AND s.valid_to = %s AND s.type = 'm.room.member'",
            room_id,
            _NOW,
        )
        return dict(rows)

    def servers_in(self, room_id: RoomId) -> set[ServerName]:
        """The servers that have users in a room, as this one sees it."""
        members = self.memberships(room_id)
        return {server_name_of(user) for user, is_in in members.items() if is_in == "join"}

    def events(self, room_id: RoomId) -> dict[EventId, int]:
        """Every event that is no state → its verdict (0 accepted, 1 soft-failed, 2 rejected)."""
        rows = self.query(
            "SELECT g.event_id, g.verdict FROM event_graph g JOIN rooms r USING (room_nid)"
            " WHERE r.room_id = %s AND NOT g.is_state",
            room_id,
        )
        return dict(rows)

    def extremities(self, room_id: RoomId) -> Sequence[EventId]:
        """The forward extremities."""
        log = self.server.core.event_log
        return () if log.find_head(room_id) is None else tuple(log.get_room(room_id).extremities)


@dataclass
class Simulation:
    """A run.

    Attributes:
        room_id: where things happen.
        club_id: who is in this room may join the other when it is restricted.
        is_troubled: whether the network fails.
        are_restless: whether people come and go more than they talk.
        actions: what was done, for who reads a failure.
    """

    seed: str
    chance: Random
    network: Network
    servers: list[SimulatedServer]
    room_version: str
    timers: Timers
    room_id: RoomId = ""
    club_id: RoomId = ""
    is_troubled: bool = True
    are_restless: bool = False
    actions: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    # ---- what users do

    @property
    def users(self) -> list[User]:
        """All of them."""
        return [user for server in self.servers for user in server.users]

    def begin(self, host: int = 0) -> None:
        """Make the room, and another one whose members may join it when it is restricted.

        Args:
            host: whose user makes them: the number of a server.
        """
        founder = self.servers[host].users[0]
        self.club_id = founder.create_room(preset="public_chat", name="Club")
        self.room_id = founder.create_room(
            preset="public_chat", room_version=self.room_version, name="Room"
        )
        for user in self.users:
            if user is not founder:
                self.join(user, self.room_id, via=[self.servers[host].name]).ok()
        path = self._in_room("state/m.room.power_levels/")
        levels = self.do(founder, "GET", path).ok()
        # Several with power, on several servers: what they do apart from each other conflicts.
        others = [user for user in self.users[::2] if user is not founder]
        for user, level in zip(others, (100, 100, 50, 50), strict=False):
            levels["users"][user.user_id] = level
        self.do(founder, "PUT", path, levels).ok()
        self.settle()

    def join(self, user: User, room_id: RoomId, via: Sequence[ServerName]) -> Answer:
        """Somebody joins, through other servers if need be."""
        query = "&".join(f"via={quote(name)}&server_name={quote(name)}" for name in via)
        return self.do(user, "POST", f"/join/{quote(room_id, safe='')}?{query}", {})

    def do(self, user: User, method: str, path: str, body: Any = None) -> Answer:
        """One request of a user; it may be refused, and must not break the server."""
        path, _, query = path.partition("?")
        params: dict[str, Any] = {}
        for part in filter(None, query.split("&")):
            name, _, value = part.partition("=")
            params.setdefault(name, []).append(value)
        answer = user.server.request(method, path, body, token=user.token, params=params)
        told = "" if answer.status == 200 else f" {answer.json}"
        self.actions.append(f"{user.user_id} {method} {path} {body}: {answer.status}{told}")
        assert answer.status < 500 or answer.status in (502, 504), (answer.status, answer.json)
        return answer

    def step(self) -> None:
        """Something happens."""
        self.network.clock.pass_seconds(self.chance.expovariate(1 / _STEP_S))
        self.timers.run_due()
        if self.is_troubled and self.chance.random() < 0.25:
            self._trouble()
        if self.chance.random() < 0.6:
            self.chance.choice(self.servers).advance()
        if self.chance.random() < 0.3:
            self.network.deliver_late(self.chance, at_most=3)
        acts, weights = zip(*self._acts(), strict=True)
        self.chance.choices(acts, weights)[0](self.chance.choice(self.users))

    def _acts(self) -> list[tuple[Callable[[User], object], int]]:
        often = 5 if self.are_restless else 1
        return [
            (self._send, 30),
            (self._join_anyhow, 10 * often),
            (self._leave, 3 * often * often),
            (self._punish, 8 * often),
            (self._invite, 6 * often),
            (self._change_power, 6),
            (self._change_topic, 8),
            (self._redact, 4),
            (self._change_join_rules, 4),
            (self._knock, 2 * often),
            (self._change_name, 2),
        ]

    def _in_room(self, rest: str) -> str:
        return f"/rooms/{quote(self.room_id, safe='')}/{rest}"

    def _send(self, user: User) -> None:
        for _ in range(self.chance.choice((1, 1, 1, 2, 5))):
            number = next(self.numbers)
            path = self._in_room(f"send/m.room.message/t{number}")
            self.do(user, "PUT", path, {"msgtype": "m.text", "body": f"message {number}"})

    def _join_anyhow(self, user: User) -> None:
        via = self.chance.sample([s.name for s in self.servers], 2)
        room_id = self.club_id if self.chance.random() < 0.2 else self.room_id
        self.join(user, room_id, via)

    def _leave(self, user: User) -> None:
        self.do(user, "POST", self._in_room("leave"), {})

    def _punish(self, user: User) -> None:
        deed = self.chance.choice(("kick", "ban", "unban", "unban"))
        self.do(user, "POST", self._in_room(deed), {"user_id": self._somebody().user_id})

    def _invite(self, user: User) -> None:
        self.do(user, "POST", self._in_room("invite"), {"user_id": self._somebody().user_id})

    def _knock(self, user: User) -> None:
        via = self.chance.choice(self.servers).name
        path = f"/knock/{quote(self.room_id, safe='')}?via={quote(via)}&server_name={quote(via)}"
        self.do(user, "POST", path, {"reason": "Hello?"})

    def _change_power(self, user: User) -> None:
        path = self._in_room("state/m.room.power_levels/")
        answer = self.do(user, "GET", path)
        if answer.status != 200:
            return
        content = dict(answer.json)
        levels = dict(content.get("users", {}))
        levels[self._somebody().user_id] = self.chance.choice((0, 50, 50, 100))
        content["users"] = levels
        self.do(user, "PUT", path, content)

    def _change_topic(self, user: User) -> None:
        topic = {"topic": f"Topic {next(self.numbers)}"}
        self.do(user, "PUT", self._in_room("state/m.room.topic/"), topic)

    def _change_name(self, user: User) -> None:
        path = f"/profile/{user.path}/displayname"
        self.do(user, "PUT", path, {"displayname": f"Name {next(self.numbers)}"})

    def _change_join_rules(self, user: User) -> None:
        contents: list[dict[str, Any]] = [{"join_rule": "public"}] * 3 + [{"join_rule": "invite"}]
        if self.room_version in _RESTRICTED:
            allowed = {"type": "m.room_membership", "room_id": self.club_id}
            contents.append({"join_rule": "restricted", "allow": [allowed]})
        if self.room_version in _KNOCKING:
            contents.append({"join_rule": "knock"})
        content = self.chance.choice(contents)
        self.do(user, "PUT", self._in_room("state/m.room.join_rules/"), content)

    def _redact(self, user: User) -> None:
        server = self._server_of(user)
        event_ids = sorted(server.events(self.room_id))
        if event_ids:
            event_id = quote(self.chance.choice(event_ids), safe="")
            self.do(user, "PUT", self._in_room(f"redact/{event_id}/t{next(self.numbers)}"), {})

    def _somebody(self) -> User:
        return self.chance.choice(self.users)

    def _server_of(self, user: User) -> SimulatedServer:
        return next(server for server in self.servers if user in server.users)

    # ---- what the network does

    def _trouble(self) -> None:
        names = [server.name for server in self.servers]
        kind = self.chance.randrange(13)
        if kind == 12:  # what was an outage of seconds is one of hours; keys expire
            self.network.clock.pass_seconds(self.chance.choice((3600.0, 30_000.0, 200_000.0)))
            self.timers.run_due()
        elif kind < 2:
            self.network.separate(self.chance.sample(names, self.chance.randint(1, 2)))
        elif kind < 4:
            self.network.down = {self.chance.choice(names)}
        elif kind < 8:
            self.network.heal()
        else:
            self.network.weather = Weather(
                lost=self.chance.choice((0.0, 0.1, 0.4)),
                answer_lost=self.chance.choice((0.0, 0.1, 0.3)),
                late=self.chance.choice((0.0, 0.1, 0.3)),
                twice=self.chance.choice((0.0, 0.1, 0.3)),
                refused=self.chance.choice((0.0, 0.0, 0.2)),
            )

    # ---- the end

    def settle(self) -> None:
        """Let everything arrive that is under way."""
        self.network.heal()
        self.network.deliver_late(self.chance)
        for _ in range(_MAX_RESTS):
            while sum(server.advance() for server in self.servers):
                pass
            if not self.waiting():
                return
            self.network.clock.pass_seconds(_REST_S)
            self.timers.run_due()
        raise AssertionError(f"still waiting: {self.waiting()}")

    def waiting(self) -> dict[ServerName, Any]:
        """Per server what it owes to others; empty when nobody owes anything."""
        owed = {}
        for server in self.servers:
            rows = server.query(
                "SELECT server_name, delivered, last_error FROM destinations"
                " WHERE delivered IS NOT NULL"
            )
            rows += server.query("SELECT origin, event_id, tries FROM waiting_pdus")
            if rows:
                owed[server.name] = rows
        return owed

    def speak_everywhere(self) -> None:
        """Somebody of each server in the room says something, so that branches meet."""
        for server in self.servers:
            members = server.memberships(self.room_id)
            for user in server.users:
                if members.get(user.user_id) == "join":
                    self._send(user)
                    break
            self.settle()

    def read_everything(self) -> None:
        """A user of each server in the room reads back to its beginning."""
        for server in self.servers:
            members = server.memberships(self.room_id)
            for user in server.users:
                if members.get(user.user_id) == "join":
                    self._read_back(user)
                    break

    def _read_back(self, user: User) -> None:
        page = ""
        for _ in range(100):
            answer = self.do(user, "GET", self._in_room(f"messages?dir=b&limit=100{page}"))
            assert answer.status == 200
            end = answer.json.get("end")
            # The same again: there is more, and none of the others has it.
            if end is None or end == answer.json["start"]:
                return
            page = f"&from={end}"
        raise AssertionError("history has no beginning")

    def check(self) -> None:
        """Raises AssertionError unless all servers in the room agree."""
        views = {server.name: server.servers_in(self.room_id) for server in self.servers}
        inside = [server for server in self.servers if server.name in views[server.name]]
        for one in inside:
            for other in inside:
                # A server whose join the others soft-failed is in a room of its own.
                is_mutual = other.name in views[one.name] and one.name in views[other.name]
                if one.name < other.name and is_mutual:
                    self._check_pair(one, other)
        for server in inside:
            extremities = server.extremities(self.room_id)
            assert len(extremities) <= 2, (server.name, extremities)
        assert self.network.failures == []
        for server in self.servers:
            assert self._verify(server) == [], server.name

    def _verify(self, server: SimulatedServer) -> list[Any]:
        """What `architex verify` finds wrong with what a server wrote about the room."""
        keys = {s.name: s.server.core.signing_key.verify_key for s in self.servers}

        def find_key(server_name: str, key_id: str) -> bytes | None:
            return keys.get(server_name)

        database = server.server.core.database
        report = Verifying(database, all_projections, find_key).verify(self.room_id)
        return list(report.problems)

    def _check_pair(self, one: SimulatedServer, other: SimulatedServer) -> None:
        assert _differences(one.state(self.room_id), other.state(self.room_id)) == {}, (
            one.name,
            other.name,
        )
        verdicts = one.events(self.room_id), other.events(self.room_id)
        # Whether an event soft-fails depends on what came before it; no other verdict does.
        known = [
            {event_id for event_id, verdict in found.items() if verdict < 2} for found in verdicts
        ]
        assert known[0] ^ known[1] == set(), (one.name, other.name, known[0] - known[1])


def _differences(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        key: (one.get(key), other.get(key))
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
    }


@contextmanager
def simulation(
    seed: str,
    make_database: Callable[[], str],
    directory: Path,
    *,
    count: int | None = None,
    room_version: str | None = None,
) -> Iterator[Simulation]:
    """The servers of a run, each with two users.

    Args:
        make_database: gives the conninfo of an empty, migrated database.
        directory: for keys.
        count: how many servers; by default the seed decides, and so for the room's version.
    """
    chance = Random(seed)  # noqa: S311 - as above
    clock = FakeClock()
    network = Network(seed, clock)
    room_version = room_version or chance.choice(ROOM_VERSIONS)
    run = Simulation(seed, chance, network, [], room_version, Timers(clock))
    with ExitStack() as stack:
        for part in _in_one_thread(clock):
            stack.enter_context(part)
        for number in range(count or chance.choice((3, 3, 3, 4, 4, 5, 7))):
            name = f"s{number}.test"
            started = _start(name, network, make_database(), directory, seed, run.timers)
            stack.callback(stop_server, started.server)
            run.servers.append(started)
        yield run


def _in_one_thread(clock: FakeClock) -> list[AbstractContextManager[Any]]:
    """Stand-ins for threads: what they do would come in another order each time."""
    with_threads = [
        module
        for name, module in sys.modules.items()
        if name.startswith("architex.usecases.") and hasattr(module, "ThreadPoolExecutor")
    ]
    return [
        patch("architex.storage.destinations.time", SimpleNamespace(monotonic=clock.monotonic)),
        *(patch.object(module, "ThreadPoolExecutor", InlineExecutor) for module in with_threads),
    ]


def _start(
    name: ServerName,
    network: Network,
    conninfo: str,
    directory: Path,
    seed: str,
    timers: Timers,
) -> SimulatedServer:
    settings = settings_for(
        directory / name,
        server_name=name,
        rate_limits=RateLimitSettings(enabled=False),
    )
    settings.data_dir.mkdir()
    randomness = SeededRandomness(f"{seed} {name}")
    core = build_core(
        settings,
        conninfo=conninfo,
        clock=network.clock,
        randomness=randomness,
        call_later=timers.call_later,
    )
    client = network.client(name, core.signing_key, randomness)
    app = build_app(settings, core, client)
    network.apps[name] = app
    server = Server(app, core)
    uses = build_use_cases(settings, core, client)
    chores = chores_of_receiving(uses.receiving, uses.receipts, core.clock)
    followers: list[Follower] = [
        build_federation_sender(settings, core, client, InlineWorkers()),
        Housekeeping(chores, core.clock, name="inbox"),
    ]
    users = [server.register(f"{letter}{name[1]}") for letter in "ab"]
    return SimulatedServer(name, server, users, followers)
