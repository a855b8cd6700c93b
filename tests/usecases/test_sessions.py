"""Sessions: tokens, devices, and when a device was seen."""

from __future__ import annotations

import pytest

from architex.bootstrap import build_device_lists
from architex.domain.errors import UnknownToken
from architex.gateways.clock import SystemRandomness
from architex.storage.access_tokens import AccessTokenStore
from architex.storage.accounts import Account, AccountStore
from architex.storage.devices import Device, DeviceStore
from architex.storage.pool import Database
from architex.usecases.sessions import REFRESHABLE_LIFETIME_MS, DeviceWish, Sessions
from tests.core import make_core
from tests.fakes.clock import FakeClock

ALICE = "@alice:test.example"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def sessions(database: Database, clock: FakeClock) -> Sessions:
    """Sessions on a server with one user."""
    account = Account(user_id=ALICE, password_hash=None, created_ts=clock.now_ms())
    assert AccountStore(database).create_account(account, now_ms=clock.now_ms())
    device_lists = build_device_lists(make_core(database))
    return Sessions(
        AccessTokenStore(database),
        DeviceStore(database),
        device_lists,
        clock,
        SystemRandomness(),
    )


def seen(database: Database, device_id: str) -> Device:
    """What is known of the device."""
    device = DeviceStore(database).find_device(ALICE, device_id)
    assert device is not None
    return device


def test_token_stands_for_user_and_device(sessions: Sessions) -> None:
    session = sessions.open_session(ALICE, DeviceWish(device_id="PHONE"))
    requester = sessions.find_requester(session.access_token, address="192.0.2.1")
    assert (requester.user_id, requester.device_id) == (ALICE, "PHONE")
    assert not requester.is_guest
    assert not requester.is_admin


def test_tokens_and_devices_are_never_the_same(sessions: Sessions) -> None:
    made = [sessions.open_session(ALICE, DeviceWish()) for _ in range(20)]
    assert len({session.access_token for session in made}) == 20
    assert len({session.device_id for session in made}) == 20


def test_seeing_a_device_costs_a_write_every_few_minutes_only(
    sessions: Sessions, database: Database, clock: FakeClock
) -> None:
    opened = clock.now_ms()
    wish = DeviceWish(device_id="PHONE", address="192.0.2.1")
    token = sessions.open_session(ALICE, wish).access_token
    clock.pass_seconds(299)
    sessions.find_requester(token, address="192.0.2.1")
    assert seen(database, "PHONE").last_seen_ts == opened
    clock.pass_seconds(1)
    sessions.find_requester(token, address="192.0.2.1")
    assert seen(database, "PHONE").last_seen_ts == opened + 300_000


def test_new_address_is_noted_sooner(
    sessions: Sessions, database: Database, clock: FakeClock
) -> None:
    wish = DeviceWish(device_id="PHONE", address="192.0.2.1")
    token = sessions.open_session(ALICE, wish).access_token
    clock.pass_seconds(59)
    sessions.find_requester(token, address="192.0.2.2")
    assert seen(database, "PHONE").last_seen_ip == "192.0.2.1"
    clock.pass_seconds(1)
    sessions.find_requester(token, address="192.0.2.2")
    assert seen(database, "PHONE").last_seen_ip == "192.0.2.2"


def test_refreshable_token_expires(sessions: Sessions, clock: FakeClock) -> None:
    session = sessions.open_session(ALICE, DeviceWish(refreshable=True))
    assert session.expires_in_ms == REFRESHABLE_LIFETIME_MS
    clock.pass_seconds(REFRESHABLE_LIFETIME_MS / 1000 - 1)
    sessions.find_requester(session.access_token, address="")
    clock.pass_seconds(1)
    with pytest.raises(UnknownToken) as refused:
        sessions.find_requester(session.access_token, address="")
    assert refused.value.fields == {"soft_logout": True}
    assert session.refresh_token is not None
    fresh = sessions.refresh(session.refresh_token)
    sessions.find_requester(fresh.access_token, address="")


def test_other_tokens_do_not_expire(sessions: Sessions, clock: FakeClock) -> None:
    session = sessions.open_session(ALICE, DeviceWish())
    assert (session.refresh_token, session.expires_in_ms) == (None, None)
    clock.pass_seconds(10 * 365 * 86_400)
    sessions.find_requester(session.access_token, address="")


def test_token_of_a_deactivated_user_is_unknown(sessions: Sessions, database: Database) -> None:
    session = sessions.open_session(ALICE, DeviceWish(refreshable=True))
    database.execute("UPDATE users SET deactivated_ts = 1")
    with pytest.raises(UnknownToken):
        sessions.find_requester(session.access_token, address="")
    assert session.refresh_token is not None
    with pytest.raises(UnknownToken):
        sessions.refresh(session.refresh_token)


def test_everything_of_a_chain_of_refreshes_ends_with_the_device(
    sessions: Sessions, database: Database
) -> None:
    session = sessions.open_session(ALICE, DeviceWish(device_id="PHONE", refreshable=True))
    for _ in range(3):
        assert session.refresh_token is not None
        session = sessions.refresh(session.refresh_token)
    # At most the pair in use and the pair it replaces are kept.
    assert database.fetch_one("SELECT count(*) FROM access_tokens") == (2,)
    assert database.fetch_one("SELECT count(*) FROM refresh_tokens") == (2,)
    sessions.log_out_everywhere(ALICE)
    assert database.fetch_one("SELECT count(*) FROM access_tokens") == (0,)
    assert database.fetch_one("SELECT count(*) FROM refresh_tokens") == (0,)
