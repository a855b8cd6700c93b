"""Members that devices were told about."""

from __future__ import annotations

import pytest

from architex.storage import lazy_members
from architex.storage.lazy_members import LazyMemberStore, Member, list_known_members
from architex.storage.pool import Database

ALICE, BOB = "@alice:x", "@bob:x"


def known(database: Database, device: str, since: int) -> dict[Member, int]:
    """What a device knows that comes with a token."""
    with database.connection() as connection:
        return list_known_members(connection, ALICE, device, [(1, BOB), (2, BOB)], since)


def test_device_knows_a_member_once_it_comes_back_with_the_token(database: Database) -> None:
    store = LazyMemberStore(database)
    store.note(ALICE, "PHONE", [((1, BOB), 7)], sent_at=100)
    assert known(database, "PHONE", 99) == {}
    assert known(database, "PHONE", 100) == {(1, BOB): 7}
    assert known(database, "LAPTOP", 100) == {}
    store.note(ALICE, "PHONE", [((1, BOB), 9)], sent_at=200)
    assert known(database, "PHONE", 150) == {}
    assert known(database, "PHONE", 200) == {(1, BOB): 9}


def test_device_that_begins_anew_knows_nobody(database: Database) -> None:
    store = LazyMemberStore(database)
    store.note(ALICE, "PHONE", [((1, BOB), 7)], sent_at=1)
    store.note(ALICE, "LAPTOP", [((1, BOB), 7)], sent_at=1)
    store.forget_device(ALICE, "PHONE")
    assert known(database, "PHONE", 5) == {}
    assert known(database, "LAPTOP", 5) == {(1, BOB): 7}


def test_what_was_told_long_ago_is_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_members, "KEPT_POSITIONS", 10)
    database.execute("UPDATE log_position SET position = 100")
    store = LazyMemberStore(database)
    store.note(ALICE, "PHONE", [((1, BOB), 7)], sent_at=89)
    store.note(ALICE, "PHONE", [((2, BOB), 8)], sent_at=91)
    assert store.forget_old() == 1
    assert known(database, "PHONE", 100) == {(2, BOB): 8}
