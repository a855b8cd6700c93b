"""The load generator with scenarios of its own for federation: many peers, many destinations.

    bench/peers.py certificates DIRECTORY      make ca.pem, for the server under test to trust
    bench/peers.py run in out …                as hsbench.py, which is in $HSBENCH

`in`: 1 and 20 servers send transactions of 50 messages at the same time, each in a room of its
own; it ends when local users have seen all of it in /sync. `out`: local users send messages in
rooms with members of 1, 50 and 400 other servers; it ends when each of these has each of them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, os.environ.get("HSBENCH") or str(Path(__file__).parents[2] / "shared/bench"))
import hsbench  # type: ignore[import-not-found]  # it is where $HSBENCH says

PEERS = (1, 20)
DESTINATIONS = (1, 50, 400)
EVENTS_PER_TRANSACTION = 50
TRANSACTIONS = 4
MESSAGES = 50
PATIENCE_S = 180.0
_FILTER = '{"room":{"timeline":{"limit":500},"state":{"lazy_load_members":true}}}'


_known: dict[str, Any] = {}


class Bench(hsbench.Bench):  # type: ignore[misc] # as above
    """Says of every scenario, too, how much memory the server has after it."""

    def emit(self, scenario: str, variant: str, fields: dict[str, Any]) -> None:
        """See hsbench."""
        names = {"srv": "pss_mb", "pg": "pg_pss_mb"}
        sizes = {
            name: round(self.meter.groups[group].proportional() / hsbench.MIB, 1)
            for group, name in names.items()
            if group in self.meter.groups
        }
        super().emit(scenario, variant, {**sizes, **fields})


hsbench.Bench = Bench


def hosts(count: int) -> list[str]:
    """Addresses of the loopback network; each is a server's name."""
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


class Remotes(hsbench.FakeRemotes):  # type: ignore[misc] # as above
    """Other servers; counts what each of them gets."""

    def __init__(self, count: int, port: int) -> None:
        super().__init__(0, port)
        self.hosts = hosts(count)
        # With the keys they had in the scenario before: the server under test remembers them.
        for name in (f"{host}:{port}" for host in self.hosts):
            if name not in _known:
                _known[name] = hsbench.RemoteServer(name)
        self.servers = [_known[f"{host}:{port}"] for host in self.hosts]
        self.by_name = {server.name: server for server in self.servers}
        self.got: dict[str, set[str]] = {server.name: set() for server in self.servers}
        self.left = 0
        self.complete = asyncio.Event()

    def expect(self, count: int) -> None:
        """Set `complete` when so many events have arrived, at whatever servers."""
        self.left = count
        self.complete.clear()

    def answer(self, method: str, host: str, parts: list[str], query: Any, body: bytes) -> Any:
        """See FakeRemotes."""
        if parts[:3] != ["federation", "v1", "send"]:
            return super().answer(method, host, parts, query, body)
        results: dict[str, Any] = {}
        for pdu in orjson.loads(body).get("pdus", ()):
            room = self.rooms.get(pdu["room_id"])
            event_id = hsbench.event_id_of(pdu, room.version if room else "11")
            results[event_id] = {}
            if pdu["type"] == "m.room.message" and event_id not in self.got[host]:
                self.got[host].add(event_id)
                self.left -= 1
                if self.left == 0:
                    self.complete.set()
        return {"pdus": results}


async def _join(bench: Any, room: Any, user: Any) -> None:
    path = f"{hsbench.CLIENT}/join/{hsbench.q(room.room_id)}"
    via = hsbench.q(room.host.name)
    await bench.matrix.call("POST", f"{path}?server_name={via}&via={via}", user)


async def _start_remotes(bench: Any, count: int, stack: ExitStack) -> Remotes:
    remotes = Remotes(count, bench.args.fed_port)
    directory = bench.args.fed_cert_dir or stack.enter_context(tempfile.TemporaryDirectory())
    await remotes.start(directory)
    return remotes


@hsbench.scenario  # type: ignore[untyped-decorator] # as above
async def run_in(bench: Any) -> None:
    """PDUs from other servers."""
    with ExitStack() as stack:
        remotes = await _start_remotes(bench, max(PEERS), stack)
        try:
            users = await bench.users("in", max(PEERS))
            for count in PEERS:
                await _receive(bench, remotes, users[:count])
        finally:
            await remotes.stop()


async def _receive(bench: Any, remotes: Remotes, users: list[Any]) -> None:
    """One measurement: as many servers send as there are users."""
    rooms = [
        hsbench.RemoteRoom([server], 10, "11")
        for server, _ in zip(remotes.servers, users, strict=False)
    ]
    remotes.rooms = {room.room_id: room for room in rooms}
    for room, user in zip(rooms, users, strict=True):
        await _join(bench, room, user)
    await bench.quiet()
    refused: list[int] = []
    with bench.meter.window() as window:
        started = time.monotonic()
        await asyncio.gather(
            *(_push(bench, room, user, refused) for room, user in zip(rooms, users, strict=True))
        )
        took = time.monotonic() - started
    total = len(users) * TRANSACTIONS * EVENTS_PER_TRANSACTION
    fields = {"ops": total, "errors": sum(refused), "rate": round(total / took, 1)}
    bench.emit("in", f"from_{len(users)}", fields | window.fields(total))


async def _push(bench: Any, room: Any, user: Any, refused: list[int]) -> None:
    """Let a server send its transactions, each when the last but one is seen in /sync."""
    senders = [name for name in room.member_event if name.endswith(f":{room.host.name}")]
    first = await bench.matrix.sync(user, filter_=hsbench.SYNC_FILTER)
    since = first.json()["next_batch"]
    http = hsbench.Http(bench.args.fed_url or bench.args.base_url, verify=False)
    seen: set[str] = set()
    sent: list[set[str]] = []
    try:
        for number in range(TRANSACTIONS):
            made = [
                room.message(senders[n % len(senders)], f"{n} {hsbench.TEXT}")
                for n in range(EVENTS_PER_TRANSACTION)
            ]
            content = {
                "origin": room.host.name,
                "origin_server_ts": room.clock,
                "pdus": [orjson.loads(data) for _, data in made],
            }
            uri = f"/_matrix/federation/v1/send/{bench.matrix.next_txn()}"
            header = room.host.authorization("PUT", uri, bench.args.server_name, content)
            response = await http.request("PUT", uri, orjson.dumps(content), header)
            if response.status != 200:
                refused.append(EVENTS_PER_TRANSACTION)
                continue
            sent.append({event_id for event_id, _ in made})
            due = set().union(*(sent if number == TRANSACTIONS - 1 else sent[:-1]))
            deadline = time.monotonic() + PATIENCE_S
            while not due <= seen and time.monotonic() < deadline:
                answer = (await bench.matrix.sync(user, since, 5000, _FILTER)).json()
                since = answer["next_batch"]
                seen |= {e["event_id"] for _, e in hsbench.message_bodies(answer, room.room_id)}
    finally:
        http.close()
    refused.append(len(set().union(*sent) - seen))


@hsbench.scenario  # type: ignore[untyped-decorator] # as above
async def run_out(bench: Any) -> None:
    """Messages to other servers."""
    with ExitStack() as stack:
        remotes = await _start_remotes(bench, max(DESTINATIONS), stack)
        try:
            users = await bench.users("out", len(DESTINATIONS))
            for count, user in zip(DESTINATIONS, users, strict=True):
                await _send(bench, remotes, count, user)
        finally:
            await remotes.stop()


async def _send(bench: Any, remotes: Remotes, count: int, user: Any) -> None:
    """One measurement: a room with members of so many servers."""
    room = hsbench.RemoteRoom(remotes.servers[:count], count + 1, "11")
    remotes.rooms = {room.room_id: room}
    await _join(bench, room, user)
    remotes.expect(count)
    await bench.matrix.send(user, room.room_id, "connections are made, keys are fetched")
    with suppress(TimeoutError):
        await asyncio.wait_for(remotes.complete.wait(), PATIENCE_S)
    await bench.quiet()
    remotes.expect(MESSAGES * count)
    with bench.meter.window() as window:
        started = time.monotonic()
        for number in range(MESSAGES):
            await bench.matrix.send(user, room.room_id, f"{number} {hsbench.TEXT}")
        with suppress(TimeoutError):
            await asyncio.wait_for(remotes.complete.wait(), PATIENCE_S)
        took = time.monotonic() - started
    fields = {"ops": MESSAGES, "errors": remotes.left, "rate": round(MESSAGES / took, 1)}
    bench.emit("out", f"to_{count}", fields | window.fields(MESSAGES))


def main() -> None:
    """Make certificates, or do what hsbench.py does."""
    if sys.argv[1:2] == ["certificates"]:
        directory = Path(sys.argv[2])
        directory.mkdir(parents=True, exist_ok=True)
        hsbench.make_certificate(str(directory), hosts(max(DESTINATIONS)))
    else:
        hsbench.main()


if __name__ == "__main__":
    main()
