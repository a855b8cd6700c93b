"""Sending to other servers: everybody gets what is owed to them, in order, whatever fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.errors import InvalidCanonicalJson
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.followers.federation_sender import FederationSender, delay_after
from architex.followers.workers import InlineWorkers, Job
from architex.gateways.clock import SystemRandomness
from architex.gateways.errors import RemoteRefused, RemoteUnreachable
from architex.gateways.federation_client import Json
from architex.projections.federation_outbox import forward, prune_outgoing_events
from architex.projections.outgoing_edus import EduBatch, EduSource
from architex.storage.commit_queue import RoomCommand, RoomSession
from architex.storage.destinations import Destination, Destinations
from architex.storage.pool import PgConnection
from tests.core import (
    ALICE,
    BOB,
    SERVER_NAME,
    append,
    create_room,
    member_draft,
    message_draft,
    send_message,
)
from tests.fakes.clock import FakeClock
from tests.fakes.federation_client import FakeFederation

CAROL = "@carol:c.example"
DAVE = "@dave:d.example"


@dataclass
class Others(FakeFederation):
    """Other servers, which take transactions.

    Attributes:
        transactions: server → the IDs and contents of those it got, also twice.
        events: server → the events that it knows, in the order in which it got them.
        fails: server → what it does instead of taking a transaction, given its content.
    """

    transactions: dict[ServerName, list[tuple[str, Json]]] = field(default_factory=dict)
    events: dict[ServerName, list[EventId]] = field(default_factory=dict)
    fails: dict[ServerName, Callable[[Json], Json | None]] = field(default_factory=dict)
    timeline: list[ServerName] = field(default_factory=list)

    def put(self, destination: ServerName, path: str, content: Any, *_: Any, **__: Any) -> Json:
        """See FederationClient."""
        self.timeline.append(destination)
        assert path.startswith("/_matrix/federation/v1/send/")
        answer = None
        if destination in self.fails:
            answer = self.fails[destination](content)
        taken = self.transactions.setdefault(destination, [])
        taken.append((path.rsplit("/", 1)[1], content))
        events = self.events.setdefault(destination, [])
        for pdu in content["pdus"]:
            events.append(pdu["content"].get("body") or pdu["type"])
        return answer or {"pdus": {}}

    def edus(self, destination: ServerName, edu_type: str) -> list[Any]:
        """The contents of the EDUs of a type that a server got."""
        return [
            edu["content"]
            for _, content in self.transactions.get(destination, [])
            for edu in content.get("edus", [])
            if edu["edu_type"] == edu_type
        ]

    def breaks(self, destination: ServerName, error: Exception | None = None) -> None:
        """Let a server be unreachable from now on."""

        def fail(content: Json) -> Json:
            raise error or RemoteUnreachable(destination, "No route.")

        self.fails[destination] = fail

    def mends(self, destination: ServerName) -> None:
        """Let a server take everything again."""
        del self.fails[destination]


def make_sender(
    core: Core,
    others: Others,
    clock: FakeClock,
    sources: Sequence[EduSource] = (),
    *,
    workers: Any = None,
) -> FederationSender:
    return FederationSender(
        core.database,
        others,
        clock,
        SystemRandomness(),
        server_name=SERVER_NAME,
        sources=sources,
        workers=workers or InlineWorkers(),
    )


def run(sender: FederationSender) -> None:
    """Send until there is nothing to do now."""
    while sender.advance():
        pass


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def sender(core: Core, others: Others, clock: FakeClock) -> FederationSender:
    return make_sender(core, others, clock)


@pytest.fixture
def room_id(core: Core) -> RoomId:
    """A room with Alice of ours and Carol of c.example."""
    room_id = create_room(core)
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    return room_id


def test_members_servers_get_our_events_in_order(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    for number in range(120):
        send_message(core, room_id, ALICE, str(number))
    run(sender)
    for server in ("c.example", "d.example"):
        assert others.events[server] == [str(number) for number in range(120)]
        assert [len(content["pdus"]) for _, content in others.transactions[server]] == [50, 50, 20]
    assert set(others.events) == {"c.example", "d.example"}
    run(sender)
    assert len(others.transactions["c.example"]) == 3
