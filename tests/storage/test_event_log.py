"""The event log: rooms loaded from snapshots and later facts."""

from __future__ import annotations

import pytest
from eventsourcing.persistence import IntegrityError, Tracking

from architex.bootstrap import Core
from architex.domain.errors import UnknownRoom
from architex.domain.room.aggregate import Room
from architex.storage.pool import Database
from architex.storage.room_snapshots import INTERVAL
from tests.core import ALICE, BOB, append, create_room, make_core, member_draft, send_message


def _essence(room: Room) -> tuple[object, ...]:
    return (room.room_id, room.rules.version, room.version, room.depth, dict(room.extremities))


def test_room_loaded_from_its_facts_equals_the_one_that_wrote_them(
    core: Core, database: Database
) -> None:
    room_id = create_room(core)
    append(core, room_id, member_draft(BOB, BOB, "join"))
    written = core.event_log.get_room(room_id)
    loaded = make_core(database).event_log.get_room(room_id)
    assert _essence(loaded) == _essence(written)
    assert loaded.find_state("m.room.member", BOB) == written.find_state("m.room.member", BOB)


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_room_loaded_from_its_snapshot_equals_the_replayed_one(
    core: Core, database: Database, version: str
) -> None:
    room_id = create_room(core, version=version)
    for number in range(INTERVAL + 10):
        send_message(core, room_id, ALICE, f"message {number}")
    assert database.fetch_all("SELECT originator_version FROM snapshots") == [(INTERVAL,)]
    from_snapshot = make_core(database).event_log.get_room(room_id)
    database.execute("DELETE FROM snapshots")
    replayed = make_core(database).event_log.get_room(room_id)
    assert _essence(from_snapshot) == _essence(replayed)
    for type_ in ("m.room.create", "m.room.power_levels", "m.room.join_rules"):
        assert from_snapshot.find_state(type_) == replayed.find_state(type_)


@pytest.mark.parametrize(
    "damage",
    [
        "SET state = set_byte(state, 40, get_byte(state, 40) # 1)",
        "SET originator_version = originator_version - 1",
    ],
)
def test_damaged_snapshot_is_ignored(core: Core, database: Database, damage: str) -> None:
    room_id = create_room(core)
    for number in range(INTERVAL):
        send_message(core, room_id, ALICE, f"message {number}")
    database.execute(f"UPDATE snapshots {damage}")
    loaded = make_core(database).event_log.get_room(room_id)
    assert _essence(loaded) == _essence(core.event_log.get_room(room_id))


def test_loading_from_cold_reads_at_most_one_interval_of_facts(
    core: Core, database: Database
) -> None:
    room_id = create_room(core)
    for number in range(3 * INTERVAL):
        send_message(core, room_id, ALICE, f"message {number}")
    snapshot_version = database.fetch_all("SELECT originator_version FROM snapshots")[0][0]
    assert core.event_log.get_room(room_id).version - snapshot_version < INTERVAL


def test_fact_of_a_version_that_exists_is_refused(core: Core) -> None:
    room_id = create_room(core)
    fact = core.event_log.facts_after(0, 1)[0].fact
    stored = core.event_log.mapper.to_stored_event(fact)
    with pytest.raises(IntegrityError):
        core.event_log.recorder.insert_events([stored])
    assert core.event_log.find_head(room_id) is not None


def test_unknown_room_cannot_be_loaded(core: Core) -> None:
    with pytest.raises(UnknownRoom):
        core.event_log.get_room("!nowhere:architex.test")


def test_library_reads_the_log_by_position(core: Core) -> None:
    create_room(core)
    notifications = core.event_log.notification_log.select(start=2, limit=2)
    assert [notification.id for notification in notifications] == [2, 3]
    assert core.event_log.recorder.max_notification_id() == 4


def test_subscription_gives_what_is_there_and_what_comes(core: Core) -> None:
    room_id = create_room(core)
    with core.event_log.recorder.subscribe(gt=3) as subscription:
        assert next(subscription).id == 4
        send_message(core, room_id, ALICE, "hello")
        assert next(subscription).id == 5


def test_tracking_never_goes_back(core: Core) -> None:
    tracking = core.event_log.tracking
    assert tracking.max_tracking_id("search") is None
    tracking.insert_tracking(Tracking("search", 5))
    tracking.insert_tracking(Tracking("search", 3))
    assert tracking.max_tracking_id("search") == 5
