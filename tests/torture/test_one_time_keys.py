"""One-time keys under many hands at once: none is given out twice, whatever is repeated."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from architex.domain.encryption_keys import OneTimeKey
from architex.storage.access_tokens import AccessTokenStore, NewTokens
from architex.storage.accounts import Account, AccountStore
from architex.storage.one_time_keys import OneTimeKeyStore, Wanted
from architex.storage.pool import Database

ALICE = "@alice:test.example"
DEVICE = "PHONE"
UPLOADS = 20
KEYS_EACH = 15
CLAIMERS = 6


def add_device(database: Database) -> None:
    """A user with one device."""
    AccountStore(database).create_account(Account(ALICE, None, 0), now_ms=0)
    AccessTokenStore(database).open_session(
        ALICE, DEVICE, NewTokens(b"token", 0), display_name=None, address=None
    )


def upload(store: OneTimeKeyStore, number: int) -> None:
    """The keys of one upload; each time the same for the same number."""
    keys = [OneTimeKey("curve", f"{number:03}-{k:03}", f"key {k}") for k in range(KEYS_EACH)]
    store.add_keys(ALICE, DEVICE, keys, [], max_unclaimed=10_000)


def run_all(*functions: Callable[[], None]) -> None:
    """All at once; fails when one of them fails."""
    failures: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_key_is_claimed_twice_while_uploads_are_repeated(database: Database) -> None:
    add_device(database)
    store = OneTimeKeyStore(database)
    claimed: list[str] = []
    uploaded = threading.Event()

    def claim() -> None:
        while True:
            is_last = uploaded.is_set()
            found = store.claim_keys([Wanted(ALICE, DEVICE, "curve")], 1)
            claimed.extend(key.key_id for key in found.values())
            if not found and is_last:
                return

    def upload_all() -> None:
        for number in range(UPLOADS):
            upload(store, number)
            upload(store, number)  # the answer was lost
        uploaded.set()

    def upload_again() -> None:
        while not uploaded.wait(0.01):
            upload(store, 0)

    run_all(upload_all, upload_again, *[claim] * CLAIMERS)
    assert [key for key, times in Counter(claimed).items() if times > 1] == []
    assert len(claimed) == UPLOADS * KEYS_EACH
    assert store.count_keys(ALICE, DEVICE) == {}


def test_claims_of_many_devices_at_once_take_one_key_each(database: Database) -> None:
    add_device(database)
    store = OneTimeKeyStore(database)
    upload(store, 0)
    wanted = [Wanted(ALICE, DEVICE, "curve"), Wanted(ALICE, "NOPE", "curve")]
    assert list(store.claim_keys(wanted, 1)) == [(ALICE, DEVICE)]
    assert store.count_keys(ALICE, DEVICE) == {"curve": KEYS_EACH - 1}


def test_claimed_keys_are_remembered_for_a_while(database: Database) -> None:
    add_device(database)
    store = OneTimeKeyStore(database)
    upload(store, 0)
    for now_ms in (1, 2, 3):
        store.claim_keys([Wanted(ALICE, DEVICE, "curve")], now_ms)
    assert store.forget_claimed(3) == 2
    assert store.count_keys(ALICE, DEVICE) == {"curve": KEYS_EACH - 3}
