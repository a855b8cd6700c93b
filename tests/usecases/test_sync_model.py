"""A client that only ever syncs knows what the server knows: random traffic, random filters."""

from __future__ import annotations

from random import Random  # noqa: TID251 - seeded: the same traffic each time
from typing import Any

import orjson
import pytest

from architex.bootstrap import Core
from architex.domain.event_filter import parse_sync_filter
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.aggregate import EventDraft
from architex.projections.room_reads import list_room_views
from architex.storage.lazy_members import LazyMemberStore
from architex.storage.pool import Database
from architex.storage.presence import PresenceStore
from architex.usecases.event_rendering import EventRendering
from architex.usecases.presence import PresenceUpdates
from architex.usecases.requester import Requester
from architex.usecases.room_reading import RoomReading
from architex.usecases.sync_parts import SyncRequest
from architex.usecases.sync_rooms import SyncRooms
from architex.usecases.syncing import Syncing
from architex.usecases.unread_counts import UnreadCounts
from tests.core import make_core
from tests.projections.traffic import USERS, RandomTraffic

Json = dict[str, Any]


class Traffic(RandomTraffic):
    """Traffic in rooms that also change what newcomers may see.

    Args:
        resets: also facts that change the state to something else than their own event.
    """

    def __init__(self, core: Core, seed: int, *, resets: bool) -> None:
        super().__init__(core, seed)
        self._resets = resets
        self.actions += [self._visibility, self._join, self._join, self._leave]

    def _visibility(self, room_id: RoomId, user_id: UserId) -> EventDraft:
        value = self.random.choice(["joined", "invited", "shared", "world_readable"])
        content = {"history_visibility": value}
        return EventDraft("m.room.history_visibility", user_id, content, "")

    def _delta(self, room_id: RoomId, pdu: Pdu) -> dict[StateKey, EventId | None]:
        if self._resets:
            return super()._delta(room_id, pdu)
        return {pdu.key: pdu.event_id} if pdu.is_state else {}


class Client:
    """What a client makes of the responses it gets."""

    def __init__(self, syncing: Syncing, user_id: UserId, *, state_after: bool) -> None:
        self.requester = Requester(user_id, f"DEVICE{state_after}")
        self.since: int | None = None
        self.states: dict[RoomId, dict[StateKey, EventId]] = {}
        self.timelines: dict[RoomId, list[EventId]] = {}
        self._syncing = syncing
        self._state_after = state_after

    def sync(self, filter_: Json) -> None:
        """Sync once, and take in what comes."""
        request = SyncRequest(
            requester=self.requester,
            since=self.since,
            filter=parse_sync_filter(filter_),
            set_presence="offline",
            use_state_after=self._state_after,
        )
        response = orjson.loads(orjson.dumps(self._syncing.sync(request)))
        self.since = int(response["next_batch"][1:])
        for room_id in response["rooms"]["leave"]:
            self.states.pop(room_id, None)
            self.timelines.pop(room_id, None)
        for room_id, room in response["rooms"]["join"].items():
            self._take_in(room_id, room)

    def _take_in(self, room_id: RoomId, room: Json) -> None:
        state = self.states.setdefault(room_id, {})
        told = room["state_after" if self._state_after else "state"]["events"]
        events = room["timeline"]["events"]
        for event in told if self._state_after else told + events:
            if "state_key" in event:
                state[event["type"], event["state_key"]] = event["event_id"]
        if room["timeline"]["limited"]:
            self.timelines[room_id] = []
        timeline = self.timelines.setdefault(room_id, [])
        ids = [event["event_id"] for event in events]
        assert not set(ids) & set(timeline)
        timeline += ids


def make_syncing(core: Core, rendering: EventRendering) -> Syncing:
    """The use case over a core."""
    presence = PresenceUpdates(PresenceStore(core.database), core.commits, core.clock)
    return Syncing(
        core.database,
        SyncRooms(rendering),
        core.notifier,
        LazyMemberStore(core.database),
        presence,
        core.clock,
        UnreadCounts(rendering.event_reads),
    )


def joined_rooms(database: Database, user_id: UserId) -> set[RoomId]:
    """The rooms a user is in."""
    with database.connection() as connection:
        return {view.room_id for view in list_room_views(connection, user_id, ["join"])}


def state_of(
    reading: RoomReading, requester: Requester, room_id: RoomId
) -> dict[StateKey, EventId]:
    """The state as GET /state tells it."""
    events = orjson.loads(orjson.dumps(reading.get_state(requester, room_id)))
    return {(e["type"], e["state_key"]): e["event_id"] for e in events}


def check_rooms(client: Client, database: Database, reading: RoomReading) -> None:
    """The client's rooms and their states are those of the server."""
    joined = joined_rooms(database, client.requester.user_id)
    assert set(client.states) == joined
    for room_id in joined:
        actual = state_of(reading, client.requester, room_id)
        known = client.states[room_id]
        # An entry that went away altogether cannot be told to clients.
        assert {key: known.get(key) for key in actual} == actual


def check_timelines(client: Client, reading: RoomReading) -> None:
    """The timelines end as the rooms' histories do, without gaps."""
    for room_id, timeline in client.timelines.items():
        page = reading.get_messages(
            client.requester, room_id, backwards=True, limit=max(len(timeline), 1)
        )
        chunk = orjson.loads(orjson.dumps(page["chunk"]))
        assert [e["event_id"] for e in chunk][: len(timeline)] == timeline[::-1]


def run(database: Database, seed: int, *, resets: bool, state_after: bool) -> None:
    """Let traffic flow, and clients sync now and then."""
    core = make_core(database)
    rendering = EventRendering()
    syncing = make_syncing(core, rendering)
    reading = RoomReading(database, rendering, core.clock)
    traffic = Traffic(core, seed, resets=resets)
    random = Random(seed)  # noqa: S311 - no secrets
    clients = [Client(syncing, user_id, state_after=state_after) for user_id in USERS]
    for _ in range(40):
        traffic.run(random.choice([1, 1, 5, 15]))
        for client in random.sample(clients, 2):
            limit = random.choice([1, 3, 10, 200])
            client.sync({"room": {"timeline": {"limit": limit}}})
            check_rooms(client, database, reading)
    core.notifier.stop()


@pytest.mark.parametrize("seed", range(6))
def test_state_at_the_start_of_timelines_adds_up_to_the_rooms_state(
    database: Database, seed: int
) -> None:
    run(database, seed, resets=False, state_after=False)


@pytest.mark.parametrize("seed", range(10, 16))
def test_state_after_timelines_is_the_rooms_state_whatever_resolution_did(
    database: Database, seed: int
) -> None:
    run(database, seed, resets=True, state_after=True)


def test_timelines_are_the_end_of_the_history_without_gaps(database: Database) -> None:
    core = make_core(database)
    rendering = EventRendering()
    syncing = make_syncing(core, rendering)
    reading = RoomReading(database, rendering, core.clock)
    traffic = RandomTraffic(core, 77)
    client = Client(syncing, USERS[0], state_after=True)
    for _ in range(30):
        traffic.run(4)
        client.sync({"room": {"timeline": {"limit": 5}}})
        check_timelines(client, reading)
    core.notifier.stop()
