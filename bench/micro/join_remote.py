"""Joining a large room of another server: time until usable, CPU, and how memory grows.

python -m bench.micro.join_remote [MEMBERS …]

Three in ten members have changed their names, so their first joins are in the auth chain; twenty
members share a server, each server has a key of its own. The other server is a file.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from architex.bootstrap import build_core, build_use_cases
from architex.domain.identifiers import EventId, RoomId, UserId, server_name_of
from architex.domain.pdu import build_event
from architex.domain.room_versions import get_room_version
from architex.domain.signing import SigningKey, sign_event, sign_json
from architex.settings import Settings
from architex.usecases.requester import Requester
from bench.micro.rooms import Meter, database, in_fresh_process, table

MEMBERS = (1_000, 10_000, 50_000)
MEMBERS_PER_SERVER = 20
MOST_MEMORY_MB = 150
# A sixth of what Synapse burns for 10,000 members, its database included.
MOST_CPU_S_PER_10_000 = 14 / 6
HEADERS = ["members", "events", "answer MB", "s", "py CPU s", "pg CPU s", "memory MB", "again s"]

RESIDENT = "resident.example"
OWNER = f"@owner:{RESIDENT}"
VERSION = "11"
_TIME = 1_700_000_000_000


@dataclass
class ToldRoom:
    """What the other server tells of its room.

    Attributes:
        path: the answer to send_join.
        keys: server name → what it tells of its keys.
    """

    room_id: RoomId
    path: Path
    events: int
    template: dict[str, Any]
    keys: dict[str, Any]


class Maker:
    """Makes the events of the room."""

    def __init__(self) -> None:
        self.rules = get_room_version(VERSION)
        self.room_id = f"!room:{RESIDENT}"
        self._keys: dict[str, SigningKey] = {}
        self._depth = itertools.count(1)
        self.end: list[EventId] = []
        self.depth = 0

    def key_of(self, server_name: str) -> SigningKey:
        """The key of a server."""
        key = self._keys.get(server_name)
        if key is None:
            seed = len(self._keys).to_bytes(32, "big")
            key = self._keys[server_name] = SigningKey.from_seed(seed, "a_key")
        return key

    def told_keys(self) -> dict[str, Any]:
        """What servers tell of their keys."""
        return {
            name: sign_json(
                {
                    "server_name": name,
                    "verify_keys": {key.key_id: {"key": key.verify_key_base64}},
                    "old_verify_keys": {},
                    "valid_until_ts": 2**50,
                },
                name,
                key,
            )
            for name, key in self._keys.items()
        }

    def make(
        self,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        auth: list[EventId],
        state_key: str = "",
    ) -> tuple[EventId, bytes]:
        """The next event: its ID and its JSON."""
        self.depth = next(self._depth)
        event = build_event(
            self.rules,
            room_id=self.room_id,
            sender=sender,
            type=type,
            content=content,
            state_key=state_key,
            redacts=None,
            prev_events=self.end,
            auth_events=auth,
            depth=self.depth,
            origin_server_ts=_TIME + self.depth,
            event_id=None,
            reference_hashes=None,
        )
        server_name = server_name_of(sender)
        signed, event_id = sign_event(self.rules, event, server_name, self.key_of(server_name))
        self.end = [event_id]
        return event_id, orjson.dumps({**signed, "unsigned": {"age": 12345}})


def make_room(members: int, directory: Path) -> ToldRoom:
    """A room in which that many users are."""
    maker = Maker()
    create, create_json = maker.make(OWNER, "m.room.create", {"room_version": VERSION}, [])
    owner, owner_json = maker.make(OWNER, "m.room.member", {"membership": "join"}, [create], OWNER)
    power, power_json = maker.make(
        OWNER, "m.room.power_levels", {"users": {OWNER: 100}}, [create, owner]
    )
    rules, rules_json = maker.make(
        OWNER, "m.room.join_rules", {"join_rule": "public"}, [create, power, owner]
    )
    state = [create_json, owner_json, power_json, rules_json]
    chain = list(state)
    for number in range(members - 1):
        user_id = f"@user{number}:server{number // MEMBERS_PER_SERVER}.example"
        profile = {"displayname": f"User number {number}", "avatar_url": f"mxc://a.b/{number:024}"}
        content = {"membership": "join", **profile}
        auth = [create, power, rules]
        event_id, event_json = maker.make(user_id, "m.room.member", content, auth, user_id)
        if number % 10 < 3:
            chain.append(event_json)
            content["displayname"] = f"Renamed {number}"
            auth = [*auth, event_id]
            _, event_json = maker.make(user_id, "m.room.member", content, auth, user_id)
        state.append(event_json)
    path = directory / f"{members}.json"
    with path.open("wb") as file:
        file.write(b'{"origin":"resident.example","auth_chain":[' + b",".join(chain))
        file.write(b'],"state":[' + b",".join(state) + b"]}")
    template = {
        "type": "m.room.member",
        "room_id": maker.room_id,
        "content": {"membership": "join"},
        "depth": maker.depth + 1,
        "prev_events": maker.end,
        "auth_events": [create, power, rules],
    }
    events = len({*chain, *state})
    return ToldRoom(maker.room_id, path, events, template, maker.told_keys())


class FileServer:
    """A FederationClient for which all other servers are a file."""

    def __init__(self, room: ToldRoom) -> None:
        self._room = room

    def get(self, destination: str, path: str, *_: Any, **__: Any) -> Any:
        """Keys, and templates."""
        if path == "/_matrix/key/v2/server":
            return self._room.keys[destination]
        user_id = path.rpartition("/")[2].replace("%40", "@").replace("%3A", ":")
        template = {**self._room.template, "sender": user_id, "state_key": user_id}
        return {"room_version": VERSION, "event": template}

    @contextmanager
    def stream(self, *_: Any, **__: Any) -> Iterator[Any]:
        """The answer to send_join."""

        class Answer:
            def __init__(self, path: Path) -> None:
                self.file = path.open("rb")

            def read(self) -> bytes:
                return self.file.read(65536)

        answer = Answer(self._room.path)
        with answer.file:
            yield answer


class Peak:
    """The greatest memory of this process while something runs."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._over = threading.Event()
        self.peak = 0

    def of(self, work: Callable[[], None]) -> float:
        """By how many MB it grew."""
        before = self.peak = self._process.memory_info().rss
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        work()
        self._over.set()
        watcher.join()
        return (self.peak - before) / 1e6

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss)


def measure(conninfo: str, room: ToldRoom, members: int) -> list[Any]:
    """What it costs to join."""
    directory = Path(tempfile.mkdtemp(prefix="architex-bench-"))
    settings = Settings(
        server_name="bench.example",
        public_base_url="https://bench.example/",
        data_dir=directory,
        signing_key_path=directory / "key",
    )
    core = build_core(settings, conninfo=conninfo)
    client: Any = FileServer(room)
    joining = build_use_cases(settings, core, client).joining
    meter = Meter(core)
    alice, peak = Requester("@alice:bench.example"), Peak()
    grew = []

    def join() -> None:
        joining.join(alice, room.room_id, via=[RESIDENT])

    started = time.monotonic()
    cost = meter.cost(lambda: grew.append(peak.of(join)), 1)
    seconds = time.monotonic() - started
    row = core.database.fetch_one(
        "SELECT joined FROM room_counts JOIN rooms USING (room_nid) WHERE room_id = %s",
        (room.room_id,),
    )
    if row is None or row[0] != members + 1:
        sys.exit(f"{row} members instead of {members + 1}.")
    joining.leave(alice, room.room_id)
    started = time.monotonic()
    join()
    return [
        members,
        room.events,
        room.path.stat().st_size / 1e6,
        seconds,
        cost.python_us / 1e6,
        cost.postgres_us / 1e6,
        grew[0],
        time.monotonic() - started,
    ]


def main() -> None:
    """Print the table; fail when it costs too much."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for members in [int(argument) for argument in sys.argv[1:]] or MEMBERS:
            room = make_room(members, Path(directory))
            with database() as conninfo:
                rows.append(in_fresh_process(measure, conninfo, room, members))
            room.path.unlink()
    print(table(HEADERS, rows), flush=True)
    if max(row[6] for row in rows) > MOST_MEMORY_MB:
        sys.exit("Memory grows too much.")
    for row in rows:
        if row[0] >= 10_000 and (row[4] + row[5]) / row[0] * 10_000 > MOST_CPU_S_PER_10_000:
            sys.exit("It burns too much CPU.")


if __name__ == "__main__":
    main()
