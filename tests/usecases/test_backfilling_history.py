"""Backfilling history: what lies before our time in a room, or in a gap, is fetched when read."""

from __future__ import annotations

import orjson
import pytest

from architex.bootstrap import Core
from architex.domain.canonical_json import Json
from architex.domain.identifiers import EventId
from architex.domain.sync_token import parse_pagination_token
from architex.gateways.errors import RemoteTimedOut
from architex.projections.room_servers import RoomServers
from architex.usecases.backfilling_history import (
    MAX_SERVERS,
    REST_S,
    SHORT_REST_S,
    BackfillingHistory,
)
from architex.usecases.event_rendering import EventRendering
from architex.usecases.requester import Requester
from architex.usecases.room_reading import RoomReading
from tests.builders import ALICE, BOB, CAROL, RoomBuilder
from tests.core import SERVER_NAME
from tests.usecases.test_receiving import OURS, World, make_world

EVER = 2**62


def make_history(world: World) -> BackfillingHistory:
    return BackfillingHistory(
        database=world.core.database,
        event_log=world.core.event_log,
        servers=RoomServers(world.core.database),
        doors=world.doors,
        clock=world.clock,
        server_name=SERVER_NAME,
    )


def timeline(world: World) -> list[EventId]:
    rows = world.core.database.fetch_all(
        "SELECT event_id FROM timeline t JOIN event_graph USING (position) ORDER BY t.ordering"
    )
    return [event_id for (event_id,) in rows]


def world_with_past(core: Core, version: str = "11", messages: int = 30) -> World:
    """A room in which much was said before our user joined."""

    def live(world: World) -> None:
        world.room.join(CAROL)
        world.room.send_state(ALICE, "m.room.topic", {"topic": "old"})
        for n in range(messages):
            world.room.message(CAROL if n % 2 else BOB, str(n))
        world.room.leave(CAROL)
        world.room.send_state(ALICE, "m.room.topic", {"topic": "new"})

    return make_world(core, version, before=live)


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_whole_history_is_fetched_piece_by_piece(core: Core, version: str) -> None:
    world = world_with_past(core, version)
    history = make_history(world)
    before = world.state(world.room)
    assert len(timeline(world)) == 1
    for _ in range(5):
        history.fill(world.room.room_id, -EVER, EVER, 10)
    assert timeline(world) == list(world.room.pdus)
    assert world.state(world.room) == before
    assert not history.is_incomplete(world.room.room_id, -EVER, EVER)
    assert not history.fill(world.room.room_id, -EVER, EVER, 10)


def test_history_from_before_references_were_limited_is_taken(core: Core) -> None:
    def live(world: World) -> None:
        begin = world.room.heads
        ends = [
            world.room.add(
                world.room.compose(BOB, "m.room.message", {"body": str(n)}, prev_events=begin)
            )
            for n in range(25)
        ]
        world.room.heads = tuple(end.event_id for end in ends)
        world.room.send_state(ALICE, "m.room.topic", {"topic": "Where 25 ends meet"})

    world = make_world(core, "6", before=live)
    history = make_history(world)
    for _ in range(5):
        history.fill(world.room.room_id, -EVER, EVER, 50)
    assert set(timeline(world)) == set(world.room.pdus)


def test_no_more_is_fetched_than_about_what_is_wanted(core: Core) -> None:
    world = world_with_past(core)
    assert make_history(world).fill(world.room.room_id, -EVER, EVER, 5)
    assert len(timeline(world)) == 1 + 20
    assert world.peer.count("backfill") == 1


def test_nobody_is_asked_when_nothing_is_missing_there(core: Core) -> None:
    world = world_with_past(core)
    (end,) = world.core.database.fetch_all("SELECT max(ordering) FROM timeline")
    assert not make_history(world).fill(world.room.room_id, end[0], EVER, 10)
    assert not make_history(world).fill("!unknown:x.example", -EVER, EVER, 10)
    assert world.peer.count("backfill") == 0


def test_other_servers_are_asked_when_one_does_not_answer(core: Core) -> None:
    world = world_with_past(core)
    servers = []

    def only_b(answer: Json) -> Json | Exception:
        servers.append(world.peer.asked[-1][1])
        return answer if servers[-1] == "b.example" else RemoteTimedOut(servers[-1], "slow")

    world.peer.twisted["backfill"] = only_b
    assert make_history(world).fill(world.room.room_id, -EVER, EVER, 10)
    assert servers == ["a.example", "b.example"]


def test_servers_that_are_gone_do_not_keep_those_behind_them_from_being_asked(core: Core) -> None:
    world = world_with_past(core)
    for n in range(8):
        world.send(world.room.join(f"@z:z{n}.example"))
    servers = []

    def only_last(answer: Json) -> Json | Exception:
        servers.append(world.peer.asked[-1][1])
        return answer if servers[-1] == "z7.example" else RemoteTimedOut(servers[-1], "gone")

    world.peer.twisted["backfill"] = only_last
    assert make_history(world).fill(world.room.room_id, -EVER, EVER, 10)
    assert len(set(servers)) == 10


def test_only_some_servers_are_asked_that_have_nothing(core: Core) -> None:
    world = world_with_past(core)
    for n in range(8):
        world.send(world.room.join(f"@z:z{n}.example"))
    world.peer.twisted["backfill"] = lambda _: {"pdus": []}
    assert not make_history(world).fill(world.room.room_id, -EVER, EVER, 10)
    assert world.peer.count("backfill") == MAX_SERVERS


def test_history_that_nobody_gives_is_not_asked_for_again_and_again(core: Core) -> None:
    world = world_with_past(core)
    world.peer.twisted["backfill"] = lambda _: {"pdus": []}
    history = make_history(world)
    assert not history.fill(world.room.room_id, -EVER, EVER, 10)
    asked = world.peer.count("backfill")
    assert not history.fill(world.room.room_id, -EVER, EVER, 10)
    assert world.peer.count("backfill") == asked
    assert history.is_incomplete(world.room.room_id, -EVER, EVER)
    assert not history.may_come(world.room.room_id, -EVER, EVER)
    world.clock.pass_seconds(REST_S + 1)
    del world.peer.twisted["backfill"]
    assert history.fill(world.room.room_id, -EVER, EVER, 10)


def test_room_that_we_left_is_not_backfilled(core: Core) -> None:
    world = world_with_past(core)
    world.send(world.room.kick(ALICE, OURS))
    assert not make_history(world).fill(world.room.room_id, -EVER, EVER, 10)
    assert not make_history(world).may_come(world.room.room_id, -EVER, EVER)
    assert world.peer.count("backfill") == 0


def test_history_may_still_come_while_somebody_who_may_have_it_does_not_answer(core: Core) -> None:
    world = world_with_past(core)

    def only_b(answer: Json) -> Json | Exception:
        server = world.peer.asked[-1][1]
        return {"pdus": []} if server == "b.example" else RemoteTimedOut(server, "slow")

    world.peer.twisted["backfill"] = only_b
    history = make_history(world)
    assert history.may_come(world.room.room_id, -EVER, EVER)
    assert not history.fill(world.room.room_id, -EVER, EVER, 10)
    assert history.may_come(world.room.room_id, -EVER, EVER)
    asked = world.peer.count("backfill")
    assert not history.fill(world.room.room_id, -EVER, EVER, 10)
    assert world.peer.count("backfill") == asked
    world.clock.pass_seconds(SHORT_REST_S + 1)
    del world.peer.twisted["backfill"]
    assert history.fill(world.room.room_id, -EVER, EVER, 10)


def test_reading_back_ends_where_nobody_has_more(core: Core) -> None:
    world = world_with_past(core)
    reading = RoomReading(core.database, EventRendering(), core.clock, make_history(world))

    def read_back() -> list[str]:
        seen, begin = [], None
        for _ in range(10):
            page = reading.get_messages(
                Requester(OURS), world.room.room_id, backwards=True, begin=begin, limit=10
            )
            chunk = orjson.loads(orjson.dumps(page["chunk"]))
            seen += [event["event_id"] for event in chunk]
            if "end" not in page:
                return seen
            begin = parse_pagination_token(page["end"])
        raise AssertionError("history has no beginning")

    world.peer.twisted["backfill"] = lambda _: {"pdus": []}
    assert len(read_back()) == 1
    world.clock.pass_seconds(REST_S + 1)
    del world.peer.twisted["backfill"]
    assert read_back() == list(reversed(world.room.pdus))


def test_history_is_what_is_connected_and_signed_and_of_the_room(core: Core) -> None:
    world = world_with_past(core)
    other = RoomBuilder("11", creator="@x:z.example").message("@x:z.example")
    messages = [pdu for pdu in world.room.pdus.values() if pdu.type == "m.room.message"]
    unconnected, forged = messages[0], messages[-1]

    def lie(answer: Json) -> Json:
        pdus = [event for event in answer["pdus"] if event["type"] != "m.room.message"]
        bad = {**forged.event, "signatures": {"b.example": {"ed25519:test": "A" * 86}}}
        return {"pdus": [None, {}, bad, *pdus, unconnected.event, other.event]}

    world.peer.twisted["backfill"] = lie
    make_history(world).fill(world.room.room_id, -EVER, EVER, 10)
    came = set(timeline(world))
    assert not came & {unconnected.event_id, forged.event_id, other.event_id}
