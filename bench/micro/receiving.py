"""Receiving events of other servers: events a second and CPU per event, from one and from twenty.

    python -m bench.micro.receiving [--profile]

Signed transactions go straight into the WSGI application, everything of their receipt included:
the signatures of request and event, the checks, the state, the commit, the answer. They are made
beforehand. With --profile, the functions that take the most time for transactions of one event.
"""

from __future__ import annotations

import cProfile
import itertools
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from architex.api.middleware import WsgiApp
from architex.bootstrap import Core, build_core
from architex.bootstrap.web import build_app
from architex.domain.canonical_json import Json
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.domain.pdu import build_event
from architex.domain.room.aggregate import EventDraft
from architex.domain.room_versions import get_room_version
from architex.domain.signing import sign_event, sign_json
from architex.gateways.federation_client import Query, request_to_sign
from architex.settings import RateLimitSettings, RegistrationSettings, Settings
from architex.storage.room_session import RoomCommand, RoomSession
from bench.micro.rooms import KEY, SERVER_NAME, Meter, create_room, database, table
from tests.api.raw_requests import call
from tests.fakes.federation_client import FakeFederation

VERSION = "11"
MOST_CPU_MS = 5.5
"""A tenth of what Synapse burns for an event, its database included."""

_numbers = itertools.count(1)


class Keys(FakeFederation):
    """Servers that tell the one key that all of them sign with, and nothing else."""

    def _answer(
        self, method: str, destination: ServerName, path: str, query: Query | None, content: Any
    ) -> Json:
        told = {
            "server_name": destination,
            "verify_keys": {KEY.key_id: {"key": KEY.verify_key_base64}},
            "old_verify_keys": {},
            "valid_until_ts": 4_000_000_000_000,
        }
        return sign_json(told, destination, KEY)


@dataclass
class Peer:
    """A server with a user in a room."""

    core: Core
    name: ServerName
    room_id: RoomId
    auth_events: list[EventId] = field(default_factory=list)

    @property
    def user_id(self) -> str:
        """Its user."""
        return f"@bob:{self.name}"

    def join(self) -> None:
        """Let its user join."""
        draft = EventDraft("m.room.member", self.user_id, {"membership": "join"}, self.user_id)
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), draft_key(draft)]

        def decide(session: RoomSession) -> list[EventId]:
            session.append(draft)
            return [pdu.event_id for key in keys if (pdu := session.find_state(*key)) is not None]

        self.auth_events = self.core.commits.write_room(RoomCommand(self.room_id, decide))

    def message(self, prev: EventId, depth: int) -> tuple[Json, EventId]:
        """A signed message that follows an event."""
        event = build_event(
            get_room_version(VERSION),
            room_id=self.room_id,
            sender=self.user_id,
            type="m.room.message",
            content={"msgtype": "m.text", "body": f"message {next(_numbers)} of a benchmark"},
            prev_events=[prev],
            auth_events=self.auth_events,
            depth=depth,
            origin_server_ts=self.core.clock.now_ms(),
        )
        return sign_event(get_room_version(VERSION), event, self.name, KEY)

    def transaction(self, pdus: Sequence[Json]) -> Callable[[WsgiApp], None]:
        """A signed request; call it to send it."""
        path = f"/_matrix/federation/v1/send/txn{next(_numbers)}"
        content = {"origin": self.name, "origin_server_ts": 1, "pdus": list(pdus), "edus": []}
        message = request_to_sign("PUT", path, self.name, SERVER_NAME, content)
        authorization = (
            f'X-Matrix origin="{self.name}",destination="{SERVER_NAME}",'
            f'key="{KEY.key_id}",sig="{KEY.sign(message)}"'
        )
        body = orjson.dumps(content)

        def send(app: WsgiApp) -> None:
            answer = call(app, "PUT", path, body, headers={"Authorization": authorization})
            assert answer.status == 200, answer
            assert not any(answer.json["pdus"].values()), answer.json

        return send


def draft_key(draft: EventDraft) -> tuple[str, str]:
    """Where a state event stands."""
    return (draft.type, draft.state_key or "")


def conversation(peers: Sequence[Peer], events: int, per_transaction: int) -> list[Any]:
    """Transactions of peers in one room, in turn, each following the one before."""
    room = peers[0].core.event_log.get_room(peers[0].room_id)
    (end,), depth = tuple(room.extremities), room.depth
    transactions = []
    for turn in range(events // per_transaction):
        peer = peers[turn % len(peers)]
        pdus = []
        for _ in range(per_transaction):
            depth += 1
            event, end = peer.message(end, depth)
            pdus.append(event)
        transactions.append(peer.transaction(pdus))
    return transactions


def scenarios(core: Core) -> Iterator[tuple[str, int, int, list[list[Any]]]]:
    """Name, events, per transaction, and transactions of each who sends on their own."""
    numbers = itertools.count()

    def peers(count: int, room_id: RoomId) -> list[Peer]:
        made = [Peer(core, f"peer{next(numbers)}.example", room_id) for _ in range(count)]
        for peer in made:
            peer.join()
        return made

    room_id = create_room(core, "one", version=VERSION)
    one = peers(1, room_id)
    conversation_of_one = conversation(one, 100, 1)
    yield "warm up", 100, 1, [conversation_of_one]
    yield "1 peer", 500, 1, [conversation(one, 500, 1)]
    yield "1 peer", 2000, 50, [conversation(one, 2000, 50)]
    room_id = create_room(core, "twenty", version=VERSION)
    twenty = peers(20, room_id)
    yield "20 peers, one room, in turn", 1000, 1, [conversation(twenty, 1000, 1)]
    own = [peers(1, create_room(core, f"own{n}", version=VERSION)) for n in range(20)]
    yield "20 peers at once, own rooms", 1000, 1, [conversation(one, 50, 1) for one in own]
    yield "20 peers at once, own rooms", 4000, 50, [conversation(one, 200, 50) for one in own]


def main() -> None:
    """Measure, and fail when it costs too much."""
    rows: list[list[Any]] = []
    with database() as conninfo, tempfile.TemporaryDirectory() as directory:
        settings = Settings(
            server_name=SERVER_NAME,
            public_base_url="http://127.0.0.1:8008/",
            data_dir=Path(directory),
            signing_key_path=Path(directory) / "id_ed25519",
            registration=RegistrationSettings(enabled=True, weak_password_hashing=True),
            rate_limits=RateLimitSettings(enabled=False),
        )
        core = build_core(settings, conninfo=conninfo)
        app = build_app(settings, core, Keys())
        meter = Meter(core)
        for name, events, per_transaction, senders in scenarios(core):

            def send_all(transactions: list[Any]) -> None:
                for send in transactions:
                    send(app)

            def work(senders: list[list[Any]] = senders) -> None:
                if len(senders) == 1:
                    send_all(senders[0])
                    return
                with ThreadPoolExecutor(len(senders)) as threads:
                    list(threads.map(send_all, senders))

            begin = time.perf_counter()
            if "--profile" in sys.argv and (name, per_transaction) == ("1 peer", 1):
                profile = cProfile.Profile()
                profile.runcall(work)
                pstats.Stats(profile).sort_stats("tottime").print_stats(45)
                return
            cost = meter.cost(work, 1)
            seconds = time.perf_counter() - begin
            if name != "warm up":
                rows.append(
                    [
                        name,
                        per_transaction,
                        events / seconds,
                        cost.python_us / events / 1000,
                        cost.postgres_us / events / 1000,
                        cost.queries / events,
                    ]
                )
        core.close()
    headers = ["who", "events a txn", "events/s", "py CPU ms", "pg CPU ms", "queries"]
    print(table(headers, rows))
    worst = max(float(row[3]) + float(row[4]) for row in rows)
    if worst > MOST_CPU_MS:
        raise SystemExit(f"An event costs {worst:.1f} ms of CPU; {MOST_CPU_MS} are allowed.")


if __name__ == "__main__":
    main()
