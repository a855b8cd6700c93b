"""Presence over time."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.storage.presence import PresenceStore
from architex.usecases.presence import (
    IDLE_AFTER_MS,
    MAX_ONLINE_DEVICES,
    SILENT_AFTER_MS,
    TOUCH_EVERY_MS,
    PresenceUpdates,
)
from architex.usecases.requester import Requester
from tests.core import ALICE, SERVER_NAME
from tests.fakes.clock import FakeClock

PHONE = Requester(ALICE, device_id="PHONE")
DESK = Requester(ALICE, device_id="DESK")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def presence(core: Core, clock: FakeClock) -> PresenceUpdates:
    """Presence in one process."""
    return PresenceUpdates(PresenceStore(core.database), core.commits, clock)


def state(presence: PresenceUpdates) -> str:
    """How Alice is to be seen."""
    return str(presence.get_status(Requester(ALICE), ALICE)["presence"])


def test_syncing_user_is_online_until_the_clients_fall_silent(
    presence: PresenceUpdates, clock: FakeClock
) -> None:
    assert state(presence) == "offline"
    presence.note_sync(PHONE, "online")
    assert state(presence) == "online"
    clock.pass_seconds(SILENT_AFTER_MS / 1000 - 1)
    assert presence.announce_quiet() == 0
    clock.pass_seconds(2)
    assert presence.announce_quiet() == 1
    assert state(presence) == "offline"
    presence.note_sync(PHONE, "online")
    assert state(presence) == "online"


def test_waiting_for_news_for_long_is_no_silence(
    presence: PresenceUpdates, clock: FakeClock
) -> None:
    presence.note_sync(PHONE, "online", wait_ms=240_000)
    for _ in range(3):
        clock.pass_seconds(80)
        assert presence.announce_quiet() == 0
        presence.note_sync(DESK, "unavailable")
        assert state(presence) == "online"
    clock.pass_seconds(SILENT_AFTER_MS / 1000 + 1)
    assert presence.announce_quiet() == 1


def test_polling_on_keeps_the_user_online_without_news(
    presence: PresenceUpdates, clock: FakeClock, core: Core
) -> None:
    presence.note_sync(PHONE, "online")
    told = core.event_log.position()
    for _ in range(IDLE_AFTER_MS // TOUCH_EVERY_MS - 1):
        clock.pass_seconds(TOUCH_EVERY_MS / 1000)
        presence.note_sync(PHONE, "online")
        assert presence.announce_quiet() == 0
    assert core.event_log.position() == told


def test_offline_sync_leaves_the_presence_alone(presence: PresenceUpdates) -> None:
    presence.note_sync(PHONE, "offline")
    assert state(presence) == "offline"
    presence.note_sync(PHONE, "online")
    presence.note_sync(PHONE, "offline")
    assert state(presence) == "online"


def test_device_that_becomes_idle_shows_the_user_so_at_once(presence: PresenceUpdates) -> None:
    presence.note_sync(PHONE, "online")
    presence.note_sync(PHONE, "unavailable")
    assert state(presence) == "unavailable"
    presence.note_sync(PHONE, "online")
    assert state(presence) == "online"
    presence.set_status(PHONE, ALICE, "unavailable", None)
    assert state(presence) == "unavailable"


def test_idle_device_does_not_hide_an_active_one(
    presence: PresenceUpdates, clock: FakeClock, core: Core
) -> None:
    presence.note_sync(PHONE, "online")
    presence.note_sync(DESK, "online")
    # As another process sees it.
    other = PresenceUpdates(PresenceStore(core.database), core.commits, clock)
    for _ in range(5):
        other.note_sync(PHONE, "unavailable")
        assert state(presence) == "online"
        clock.pass_seconds(TOUCH_EVERY_MS / 1000)
        presence.note_sync(DESK, "online")
    presence.note_sync(DESK, "unavailable")
    assert state(presence) == "unavailable"


def test_of_many_devices_some_are_known(core: Core, presence: PresenceUpdates) -> None:
    for number in range(50):
        presence.note_sync(Requester(ALICE, device_id=f"D{number}"), "online")
    held = PresenceStore(core.database).find_presence(ALICE)
    assert held is not None
    assert len(held.online_devices) <= MAX_ONLINE_DEVICES + 1
    presence.note_sync(PHONE, "unavailable")
    assert state(presence) == "online"


def test_active_device_that_falls_silent_hides_an_idle_one_no_more(
    presence: PresenceUpdates, clock: FakeClock
) -> None:
    presence.note_sync(DESK, "online")
    presence.note_sync(PHONE, "unavailable")
    assert state(presence) == "online"
    clock.pass_seconds(SILENT_AFTER_MS / 1000 + 1)
    presence.note_sync(PHONE, "unavailable")
    assert state(presence) == "unavailable"


def poll(presence: PresenceUpdates, clock: FakeClock, seconds: float) -> None:
    """Alice's phone asks for news for so long."""
    for _ in range(int(seconds * 1000 / TOUCH_EVERY_MS)):
        clock.pass_seconds(TOUCH_EVERY_MS / 1000)
        presence.note_sync(PHONE, "online")
        presence.announce_quiet()


def test_who_does_nothing_is_idle_until_they_do_something(
    presence: PresenceUpdates, clock: FakeClock
) -> None:
    presence.note_sync(PHONE, "online")
    poll(presence, clock, IDLE_AFTER_MS / 1000 - 30)
    status = presence.get_status(PHONE, ALICE)
    assert (status["presence"], status["currently_active"]) == ("online", True)
    assert status["last_active_ago"] == IDLE_AFTER_MS - 30_000
    poll(presence, clock, 60)
    assert state(presence) == "unavailable"
    presence.note_active(DESK)
    assert presence.get_status(PHONE, ALICE)["last_active_ago"] == 0
    poll(presence, clock, 60)
    assert state(presence) == "online"


def test_doing_something_now_and_then_keeps_the_user_active_without_news(
    presence: PresenceUpdates, clock: FakeClock, core: Core
) -> None:
    presence.note_sync(PHONE, "online")
    told = core.event_log.position()
    for _ in range(5):
        poll(presence, clock, IDLE_AFTER_MS / 1000 - 60)
        presence.note_active(PHONE)
    assert state(presence) == "online"
    assert core.event_log.position() == told


def test_who_is_not_to_be_seen_is_not_shown_by_what_they_do(
    presence: PresenceUpdates,
) -> None:
    presence.note_active(PHONE)
    assert state(presence) == "offline"
    presence.set_status(PHONE, ALICE, "offline", None)
    presence.note_active(PHONE)
    assert state(presence) == "offline"


def test_all_rooms_hear_of_somebody_who_is_in_many(core: Core, presence: PresenceUpdates) -> None:
    core.database.execute(
        "INSERT INTO rooms (room_nid, room_id, room_version, version, last_position)"
        " SELECT n, '!' || n, '12', 1, n FROM generate_series(1, 300) n"
    )
    core.database.execute(
        "INSERT INTO memberships (user_id, room_nid, membership, position, sender)"
        " SELECT %s, n, 'join', n, '' FROM generate_series(1, 300) n",
        (ALICE,),
    )
    assert len(presence.store.list_rooms_to_tell(ALICE)) == 300


def test_server_without_presence_keeps_none(core: Core, clock: FakeClock) -> None:
    store = PresenceStore(core.database)
    presence = PresenceUpdates(store, core.commits, clock, enabled=False)
    presence.note_sync(PHONE, "online")
    presence.set_status(Requester(ALICE), ALICE, "online", "hi")
    assert store.find_presence(ALICE) is None
    assert state(presence) == "offline"


def test_who_becomes_idle_or_offline_together_is_announced_together(
    presence: PresenceUpdates, clock: FakeClock, core: Core
) -> None:
    for number in range(5):
        presence.note_sync(Requester(f"@u{number}:{SERVER_NAME}", device_id="D"), "online")
    clock.pass_seconds(60)
    for number in range(3):
        waiting = Requester(f"@u{number}:{SERVER_NAME}", device_id="D")
        presence.note_sync(waiting, "online", wait_ms=IDLE_AFTER_MS * 2)
    before = core.event_log.position()
    clock.pass_seconds(SILENT_AFTER_MS / 1000)
    assert presence.announce_quiet() == 2  # of them nothing was heard
    clock.pass_seconds(IDLE_AFTER_MS / 1000)
    assert presence.announce_quiet() == 3
    assert presence.announce_quiet() == 0
    assert core.event_log.position() == before + 2
