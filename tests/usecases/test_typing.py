"""Typing notifications over time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import RoomId
from architex.projections.outgoing_edus import TypingEdus
from architex.projections.sync_reads import look_for_news
from architex.storage.typing import list_changed_typing
from architex.usecases.requester import Requester
from architex.usecases.typing import MAX_TIMEOUT_MS, Typing
from tests.core import ALICE, BOB, SERVER_NAME, append, create_room, member_draft
from tests.fakes.clock import FakeClock


@pytest.fixture
def room_id(core: Core) -> RoomId:
    """A room with two users."""
    room_id = create_room(core)
    append(core, room_id, member_draft(BOB, BOB, "join"))
    return room_id


def position(core: Core) -> int:
    """The newest position."""
    return core.event_log.position()


def news(core: Core, clock: FakeClock, since: int) -> list[list[str]]:
    """Who types, for each room of Bob's where that changed."""
    with core.database.connection() as connection:
        changed = list_changed_typing(connection, BOB, since, clock.now_ms())
    return list(changed.values())


def test_typing_ends_when_its_time_is_over(core: Core, room_id: RoomId) -> None:
    clock = FakeClock()
    typing = Typing(core.database, core.commits, clock)
    began = position(core)
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True, timeout_ms=5000)
    assert news(core, clock, began) == [[ALICE]]
    told = position(core)
    assert typing.announce_expired() == 0
    clock.pass_seconds(6)
    # Readers do not show it any more, and those who were told are told of the end.
    assert news(core, clock, began) == [[]]
    assert news(core, clock, told) == []
    assert typing.announce_expired() == 1
    assert news(core, clock, told) == [[]]
    assert typing.announce_expired() == 0


def test_going_on_typing_moves_the_end_without_news(core: Core, room_id: RoomId) -> None:
    clock = FakeClock()
    typing = Typing(core.database, core.commits, clock)
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True, timeout_ms=5000)
    told = position(core)
    clock.pass_seconds(4)
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True, timeout_ms=5000)
    clock.pass_seconds(4)
    assert typing.announce_expired() == 0
    assert position(core) == told


def test_nobody_types_for_ever(core: Core, room_id: RoomId) -> None:
    clock = FakeClock()
    typing = Typing(core.database, core.commits, clock)
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True, timeout_ms=10**12)
    clock.pass_seconds(MAX_TIMEOUT_MS / 1000 + 1)
    assert typing.announce_expired() == 1


def test_stopping_without_having_typed_is_no_news(core: Core, room_id: RoomId) -> None:
    before = position(core)
    typing = Typing(core.database, core.commits, FakeClock())
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=False)
    assert position(core) == before


def test_a_timer_announces_the_end_and_waits_for_the_next_one(core: Core, room_id: RoomId) -> None:
    clock = FakeClock()
    timers: list[tuple[float, Callable[[], None]]] = []
    typing = Typing(core.database, core.commits, clock, lambda s, call: timers.append((s, call)))
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True, timeout_ms=5000)
    typing.set_typing(Requester(BOB), BOB, room_id, typing=True, timeout_ms=9000)
    ((delay_s, ring),) = timers
    told = position(core)
    clock.pass_seconds(delay_s)
    ring()
    assert news(core, clock, told) == [[BOB]]
    (_, (delay_s, ring)) = timers
    clock.pass_seconds(delay_s)
    ring()
    assert news(core, clock, told) == [[]]
    assert len(timers) == 2


def test_who_is_not_in_the_room_is_told_nothing(core: Core, room_id: RoomId) -> None:
    clock = FakeClock()
    began = position(core)
    typing = Typing(core.database, core.commits, clock)
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True)
    stranger = "@stranger:architex.test"
    for recent in (True, False):
        assert not look_for_news(core.database, stranger, began, recent=recent).is_anything
        assert look_for_news(core.database, BOB, began, recent=recent).typing


def test_other_servers_are_told_again_of_who_goes_on_typing(core: Core, room_id: RoomId) -> None:
    clock = FakeClock()
    typing = Typing(core.database, core.commits, clock)
    typing.set_typing(Requester(ALICE), ALICE, room_id, typing=True, timeout_ms=60_000)
    assert typing.announce_again(SERVER_NAME) == 0  # there is no other server
    carol = "@carol:c.example"
    append(core, room_id, member_draft(carol, carol, "join"))
    typing.set_remote_typing(carol, room_id, typing=True)
    edus = TypingEdus(SERVER_NAME, clock.now_ms)

    def told(since: int) -> list[str]:
        with core.database.connection() as connection:
            batch = edus.list_edus(connection, "c.example", since, position(core), 100)
        return [edu["content"]["user_id"] for edu in batch.edus]

    before = position(core)
    assert told(before) == []
    assert typing.announce_again(SERVER_NAME) == 1
    assert told(before) == [ALICE]
    clock.pass_seconds(61)
    assert typing.announce_again(SERVER_NAME) == 0
