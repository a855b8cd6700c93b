"""The notifier: who waits is woken by what concerns them, and by nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from architex.bootstrap import Core
from architex.domain.errors import LimitExceeded
from architex.storage import notifier as notifier_module
from architex.storage.announcements import CHANNEL
from architex.storage.notifier import Notifier
from tests.core import ALICE, BOB, append, create_room, member_draft, send_message
from tests.waiting import eventually

LONG = 20.0


@pytest.fixture
def notifier(core: Core) -> Iterator[Notifier]:
    core.notifier.start()
    # The first announcement proves that the notifier listens.
    heard = threading.Event()
    core.notifier.on_position(lambda position: heard.set())
    core.commits.write_rows(lambda execute, position: None)
    assert heard.wait(LONG)
    yield core.notifier
    core.notifier.stop()


def _waiting(
    notifier: Notifier, user_id: str, rooms: list[int], after: int, timeout_s: float = LONG
) -> threading.Thread:
    thread = threading.Thread(target=notifier.wait, args=(user_id, rooms, after, timeout_s))
    thread.start()
    return thread


def _room(core: Core) -> tuple[str, int]:
    room_id = create_room(core)
    head = core.event_log.find_head(room_id)
    assert head is not None
    return room_id, head.room_nid


def test_message_wakes_who_is_in_the_room_and_nobody_else(core: Core, notifier: Notifier) -> None:
    room_id, room_nid = _room(core)
    now = core.event_log.position()
    member = _waiting(notifier, ALICE, [room_nid], now)
    stranger = _waiting(notifier, BOB, [room_nid + 1], now)
    send_message(core, room_id, ALICE, "hello")
    member.join(LONG)
    assert not member.is_alive()
    assert stranger.is_alive()
    notifier.stop()
    stranger.join(LONG)
    assert not stranger.is_alive()


def test_membership_wakes_whom_it_is_about(core: Core, notifier: Notifier) -> None:
    room_id, _ = _room(core)
    invited = _waiting(notifier, BOB, [], core.event_log.position())
    append(core, room_id, member_draft(ALICE, BOB, "invite"))
    invited.join(LONG)
    assert not invited.is_alive()


def test_rows_wake_the_users_they_name(core: Core, notifier: Notifier) -> None:
    waiting = _waiting(notifier, BOB, [], core.event_log.position())
    core.commits.write_rows(lambda execute, position: None, wake_users=[BOB])
    waiting.join(LONG)
    assert not waiting.is_alive()


def test_what_came_between_looking_and_waiting_is_not_missed(
    core: Core, notifier: Notifier
) -> None:
    room_id, room_nid = _room(core)
    seen = core.event_log.position()
    announced = threading.Event()
    notifier.on_position(lambda position: announced.set() if position > seen else None)
    send_message(core, room_id, ALICE, "before anybody waits")
    assert announced.wait(LONG)
    late = _waiting(notifier, ALICE, [room_nid], seen)
    late.join(LONG)
    assert not late.is_alive()


def test_lost_connection_wakes_everybody_to_look_again(core: Core, notifier: Notifier) -> None:
    waiting = _waiting(notifier, BOB, [], core.event_log.position())
    core.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'architex notifier' AND datname = current_database()"
    )
    waiting.join(LONG)
    assert not waiting.is_alive()


def test_nothing_new_ends_with_the_timeout(core: Core, notifier: Notifier) -> None:
    waiting = _waiting(notifier, BOB, [], core.event_log.position(), timeout_s=0.05)
    waiting.join(LONG)
    assert not waiting.is_alive()


def test_one_user_waits_with_so_many_requests_only(
    core: Core, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_module, "MAX_WAITING", 0)
    now = core.event_log.position()
    with pytest.raises(LimitExceeded):
        notifier.wait(ALICE, [], now, LONG)
    monkeypatch.setattr(notifier_module, "MAX_WAITING", 1)
    # Another one of theirs waits no more: there is room again.
    for user_id in (ALICE, BOB, ALICE):
        notifier.wait(user_id, [], now, 0.01)


def test_whose_keys_changed_is_known_as_long_as_it_is_remembered(
    core: Core, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(news: str) -> int:
        before = notifier.key_changes
        core.database.execute("SELECT pg_notify(%s, %s)", (CHANNEL, news))
        eventually(lambda: notifier.key_changes != before)
        return notifier.key_changes or 0

    start = notifier.key_changes
    assert start is not None
    alone = tell(f'{{"k":["{ALICE}"]}}')
    assert not notifier.are_keys_unchanged(ALICE, start)
    assert notifier.are_keys_unchanged(ALICE, alone)
    assert notifier.are_keys_unchanged(BOB, start)
    anybody = tell('{"k":null}')
    assert not notifier.are_keys_unchanged(BOB, alone)
    assert notifier.are_keys_unchanged(BOB, anybody)
    monkeypatch.setattr(notifier_module, "MAX_REMEMBERED", 1)
    tell(f'{{"k":["{ALICE}"]}}')
    tell('{"k":["@carol:example.org"]}')
    assert not notifier.are_keys_unchanged(ALICE, anybody)
    assert not notifier.are_keys_unchanged(BOB, anybody)  # nothing is known of that time


def test_whose_keys_changed_is_not_known_while_nobody_listens(
    core: Core, notifier: Notifier
) -> None:
    before = notifier.key_changes
    assert before is not None
    core.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'architex notifier' AND datname = current_database()"
    )
    eventually(lambda: not notifier.are_keys_unchanged(ALICE, before))
    again = eventually(lambda: notifier.key_changes) or 0
    assert again > before
    assert notifier.are_keys_unchanged(ALICE, again)
