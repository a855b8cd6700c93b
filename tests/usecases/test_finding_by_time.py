"""The event nearest to a moment, where part of the history is on other servers only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.errors import NotFound
from architex.domain.identifiers import RoomId
from architex.domain.pdu import Pdu
from architex.domain.room.visibility import EVER
from architex.gateways.errors import RemoteTimedOut
from architex.gateways.federation_client import federation_path
from architex.projections.branch_states import BranchStates
from architex.projections.room_servers import RoomServers
from architex.usecases.event_rendering import EventRendering
from architex.usecases.finding_by_time import MAX_ASKED, MAX_FILLS, FindingByTime, FoundEvent
from architex.usecases.importing import Importing
from architex.usecases.requester import Requester
from tests.builders import ALICE, CAROL, TEST_KEY, RoomBuilder
from tests.core import SERVER_NAME
from tests.fakes.federation_client import FakeFederation

ERIN = f"@erin:{SERVER_NAME}"


@dataclass
class FakeHistory:
    """See architex.usecases.room_reading.HistoryFiller."""

    fetch: Callable[[], None] | None = None
    gap: tuple[int, int] = (-EVER, EVER)
    filled: int = 0

    def fill(self, room_id: RoomId, low: int, high: int, wanted: int) -> bool:
        """See HistoryFiller."""
        self.filled += 1
        if self.fetch is not None:
            self.fetch()
            return True
        return False

    def may_come(self, room_id: RoomId, low: int, high: int) -> bool:
        """See HistoryFiller."""
        return False

    def is_incomplete(self, room_id: RoomId, low: int, high: int) -> bool:
        """See HistoryFiller."""
        return low < self.gap[1] and high > self.gap[0]


@dataclass
class Scene:
    """A room that our server joined late: its first messages are elsewhere."""

    core: Core
    federation: FakeFederation = field(default_factory=FakeFederation)
    history: FakeHistory = field(default_factory=FakeHistory)

    def __post_init__(self) -> None:
        room = self.room = RoomBuilder("11")
        room.join(CAROL)
        self.said = [room.message(CAROL, f"{number}") for number in range(3)]
        state = [room.pdus[event_id] for event_id in room.state.values()]
        self.joined = room.join(ERIN)
        importing = Importing(self.core.commits, BranchStates())
        ids = [pdu.event_id for pdu in state]
        importing.record_state(room.room_id, state, as_state=set(ids), creates=room.rules)
        importing.record_join(room.room_id, self.joined, ids)

    def backfill(self) -> None:
        """Fetch all that was before the join."""
        past = [pdu.event for pdu in reversed(self.room.pdus.values()) if pdu is not self.joined]
        importing = Importing(self.core.commits, BranchStates())
        importing.import_history(self.room.room_id, past, lambda *_: TEST_KEY.verify_key)

    def tell(self, server: str, answer: Any) -> None:
        """What another server answers."""
        path = federation_path("v1", "timestamp_to_event", self.room.room_id)
        self.federation.replies[server, path] = answer

    def find(self, ts: int, *, backwards: bool = False) -> FoundEvent:
        finding = FindingByTime(
            self.core.database,
            EventRendering(),
            RoomServers(self.core.database),
            self.federation,
            self.history,
            self.core.clock,
            SERVER_NAME,
        )
        return finding.find_event(Requester(ERIN), self.room.room_id, ts, backwards=backwards)


@pytest.fixture
def scene(core: Core) -> Scene:
    return Scene(core)


def found(pdu: Pdu) -> FoundEvent:
    return FoundEvent(pdu.event_id, pdu.origin_server_ts)


def test_nearer_event_of_another_server_is_fetched(scene: Scene) -> None:
    wanted = scene.said[1]
    scene.history.fetch = scene.backfill
    scene.tell("a.example", found(wanted).as_json())
    assert scene.find(wanted.origin_server_ts) == found(wanted)
    assert scene.history.filled == 1
    scene.history.gap = (0, 0)
    asked = len(scene.federation.asked)
    assert scene.find(wanted.origin_server_ts, backwards=True) == found(wanted)
    assert len(scene.federation.asked) == asked


def test_event_that_cannot_be_fetched_gives_way_to_what_is_here(scene: Scene) -> None:
    scene.tell("a.example", found(scene.said[1]).as_json())
    assert scene.find(scene.said[1].origin_server_ts) == found(scene.joined)
    with pytest.raises(NotFound):
        scene.find(scene.said[1].origin_server_ts, backwards=True)


def test_fetching_ends_when_the_event_never_comes(scene: Scene) -> None:
    scene.history.fetch = lambda: None
    scene.tell("a.example", {"event_id": "$lie", "origin_server_ts": 1_700_000_000_001})
    assert scene.find(1_600_000_000_000) == found(scene.joined)
    assert scene.history.filled == MAX_FILLS


@pytest.mark.parametrize(
    "answer",
    [
        RemoteTimedOut("x", "late"),
        {},
        {"event_id": 5, "origin_server_ts": 1_700_000_000_003},
        {"event_id": "no id", "origin_server_ts": 1_700_000_000_003},
        {"event_id": "$before", "origin_server_ts": 1},
        {"event_id": "$later", "origin_server_ts": 1_800_000_000_000},
        {"event_id": "$odd", "origin_server_ts": "1700000000003"},
        {"event_id": "$odd", "origin_server_ts": True},
        {"event_id": "$odd", "origin_server_ts": 1e12},
    ],
)
def test_answers_that_do_not_help_are_passed_over(scene: Scene, answer: Any) -> None:
    scene.tell("a.example", answer)
    scene.tell("c.example", answer)
    assert scene.find(scene.said[0].origin_server_ts) == found(scene.joined)
    assert scene.history.filled == 0


def test_next_server_is_asked_when_one_fails(scene: Scene) -> None:
    scene.history.fetch = scene.backfill
    scene.tell("a.example", RemoteTimedOut("a.example", "late"))
    scene.tell("c.example", found(scene.said[2]).as_json())
    assert scene.find(scene.said[2].origin_server_ts) == found(scene.said[2])
    assert len(scene.federation.asked) <= MAX_ASKED


def test_nobody_is_asked_where_nothing_lacks(scene: Scene) -> None:
    scene.history.gap = (0, 0)
    assert scene.find(0) == found(scene.joined)
    assert scene.find(scene.joined.origin_server_ts + 5, backwards=True) == found(scene.joined)
    assert scene.federation.asked == []


def test_end_of_the_room_lacks_nothing(scene: Scene) -> None:
    with pytest.raises(NotFound):
        scene.find(scene.joined.origin_server_ts + 1)
    assert scene.federation.asked == []


def test_event_before_the_gap_is_found_from_after_it(scene: Scene) -> None:
    scene.tell("a.example", found(scene.said[2]).as_json())
    scene.history.fetch = scene.backfill
    late = scene.room.message(ALICE)
    assert scene.find(late.origin_server_ts, backwards=True) == found(scene.joined)
