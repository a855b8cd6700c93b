"""The event nearest to a moment: for people, for servers, and from servers that know more.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
"""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

import pytest

from architex.domain.identifiers import EventId, RoomId
from architex.usecases.finding_by_time import PIECE
from tests.api.client import Answer, User, segment
from tests.fakes.clock import FakeClock
from tests.federation.visitors import Visitor, World

_names = (f"peer{number}.example" for number in itertools.count())


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def bob(world: World) -> User:
    return world.server.register()


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(next(_names))


@pytest.fixture
def clock(world: World, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time that events of our users claim."""
    fake = FakeClock(world.server.core.clock.now_ms())
    monkeypatch.setattr(world.server.core.commits, "now_ms", fake.now_ms)
    return fake


def say(user: User, room_id: RoomId) -> EventId:
    path = f"/rooms/{segment(room_id)}/send/m.room.message/{next(user.server.numbers)}"
    return str(user.put(path, {"msgtype": "m.text", "body": "hello"}).ok()["event_id"])


def ask(user: User, room_id: RoomId, ts: Any, direction: str) -> Answer:
    path = f"/_matrix/client/v1/rooms/{segment(room_id)}/timestamp_to_event"
    return user.get(path, ts=ts, dir=direction)


def ask_as_server(visitor: Visitor, room_id: RoomId, ts: Any, direction: str) -> Answer:
    path = ["v1", "timestamp_to_event", room_id]
    return visitor.request("GET", path, ts=ts, dir=direction)


def create_room(owner: User, visibility: str = "shared") -> RoomId:
    content = {"history_visibility": visibility}
    event = {"type": "m.room.history_visibility", "state_key": "", "content": content}
    return owner.create_room(preset="public_chat", initial_state=[event])


def test_nearest_event_on_either_side_is_found(
    alice: User, visitor: Visitor, clock: FakeClock
) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    times, said = [], []
    for _ in range(4):
        clock.pass_seconds(60)
        times.append(clock.now_ms())
        said.append(say(alice, room_id))

    def as_person(ts: int, direction: str) -> Answer:
        return ask(alice, room_id, ts, direction)

    def as_server(ts: int, direction: str) -> Answer:
        return ask_as_server(visitor, room_id, ts, direction)

    for asking in (as_person, as_server):
        for number, ts in enumerate(times):
            expected = {"event_id": said[number], "origin_server_ts": ts}
            assert asking(ts, "f").ok() == expected
            assert asking(ts, "b").ok() == expected
            assert asking(ts - 30_000, "f").ok() == expected
            assert asking(ts + 30_000, "b").ok() == expected
        asking(times[-1] + 1, "f").refused(404, "M_NOT_FOUND")
        asking(1, "b").refused(404, "M_NOT_FOUND")
        asking(-(10**15), "b").refused(404, "M_NOT_FOUND")
        assert asking(0, "f").ok()["origin_server_ts"] < times[0]


@pytest.mark.parametrize(
    ("ts", "direction", "errcode"),
    [
        ("", "f", "M_MISSING_PARAM"),
        ("1", "", "M_INVALID_PARAM"),
        ("1", "up", "M_INVALID_PARAM"),
        ("soon", "f", "M_INVALID_PARAM"),
        ("1.5", "f", "M_INVALID_PARAM"),
        ("9" * 25, "f", "M_INVALID_PARAM"),
        (str(-(2**60)), "f", "M_INVALID_PARAM"),
    ],
)
def test_odd_moments_are_refused(
    alice: User, visitor: Visitor, ts: str, direction: str, errcode: str
) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    ask(alice, room_id, ts, direction).refused(400, errcode)
    ask_as_server(visitor, room_id, ts, direction).refused(400, errcode)


def test_only_who_may_read_the_room_finds_anything(
    alice: User, bob: User, visitor: Visitor
) -> None:
    room_id = create_room(alice)
    ask(bob, room_id, 1, "f").refused(403, "M_FORBIDDEN")
    ask_as_server(visitor, room_id, 1, "f").refused(403, "M_FORBIDDEN")
    ask_as_server(visitor, "!no:where.example", 1, "f").refused(403, "M_FORBIDDEN")


def test_what_may_not_be_seen_is_passed_over(
    alice: User, bob: User, visitor: Visitor, clock: FakeClock
) -> None:
    room_id = create_room(alice, "joined")
    clock.pass_seconds(60)
    before = clock.now_ms()
    for _ in range(PIECE + 5):
        say(alice, room_id)
    clock.pass_seconds(60)
    bob.post(f"/rooms/{segment(room_id)}/join").ok()
    clock.pass_seconds(60)
    visitor.join(room_id, visitor.user("carol"))
    seen = say(alice, room_id)
    assert ask(bob, room_id, before, "f").ok()["origin_server_ts"] == before + 60_000
    told = ask_as_server(visitor, room_id, before, "f").ok()
    assert told["origin_server_ts"] == before + 120_000
    assert ask_as_server(visitor, room_id, before + 120_000, "b").ok()["event_id"] == seen
    # What was before anybody restricted the history may be seen.
    for answer in (
        ask(bob, room_id, before + 1, "b"),
        ask_as_server(visitor, room_id, before + 1, "b"),
    ):
        assert answer.ok()["origin_server_ts"] < before


def test_whole_history_needs_no_other_server(world: World, alice: User, visitor: Visitor) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("carol"))
    ask(alice, room_id, 1, "f").ok()
    ask(alice, room_id, 1, "b").refused(404, "M_NOT_FOUND")
    path = f"/_matrix/federation/v1/timestamp_to_event/{quote(room_id, safe='')}"
    assert path not in [asked[2] for asked in world.federation.asked]
