"""What all members of a room are told alike is what each would be told by themselves.

Spec: https://spec.matrix.org/v1.19/client-server-api/#syncing
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter
from typing import Any

import pytest

from architex.projections.plain_news import read_plain_news
from architex.settings import RateLimitSettings
from architex.usecases import sync_alike
from architex.usecases.sync_alike import AlikeAnswers
from tests.api.client import Server, User, segment, settings_for, start_server, stop_server
from tests.api.test_sync import send

SEEDS = int(os.environ.get("SYNC_ALIKE_SEEDS", "2"))
"""How many histories are made up; 50 take ten minutes."""

FILTERS = [
    None,
    {"room": {"timeline": {"limit": 3}, "state": {"lazy_load_members": True}}},
    {"room": {"timeline": {"unread_thread_notifications": True}}},
    {"room": {"ephemeral": {"types": []}, "timeline": {"not_types": ["org.example.odd"]}}},
    {"event_format": "federation"},
    {"event_fields": ["content.body"]},
    {"room": {"timeline": {"contains_url": True, "limit": 9}, "state": {"types": []}}},
]


def timeless(value: Any) -> Any:
    """JSON without what time changes."""
    if isinstance(value, dict):
        changing = ("age", "last_active_ago", "currently_active")
        return {key: timeless(v) for key, v in value.items() if key not in changing}
    return [timeless(v) for v in value] if isinstance(value, list) else value


class Watcher:
    """Waits until the server's notifier has heard of everything."""

    def __init__(self, server: Server) -> None:
        self._core = server.core
        self._heard = threading.Condition()
        self._position = 0
        server.core.notifier.on_position(self._hear)
        server.core.notifier.start()
        # The first time it tells what was there before.
        self._core.commits.write_rows(lambda execute, position: None)
        self.catch_up()

    def _hear(self, position: int) -> None:
        with self._heard:
            self._position = position
            self._heard.notify_all()

    def catch_up(self) -> None:
        """Return when all that was committed was announced."""
        with self._heard:
            assert self._heard.wait_for(
                lambda: self._position >= self._core.event_log.position(), 20
            )


class Device:
    """A device that syncs, each time in both ways."""

    def __init__(
        self, user: User, filter_: Any, *, state_after: bool, also: User | None = None
    ) -> None:
        """Remember who asks, and how.

        Args:
            also: the user at another process of the server, for `move`.
        """
        self.user = user
        self._also = also
        self.params = {"set_presence": "offline", "use_state_after": str(state_after).lower()}
        if filter_ is not None:
            self.params["filter"] = json.dumps(filter_)
        self.since: str | None = None
        self.earlier: str | None = None

    def move(self) -> None:
        """Ask the other process from now on."""
        if self._also is not None:
            self.user, self._also = self._also, self.user

    def sync(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """What is new; fails when the database itself tells something else."""
        params = {**self.params, **({} if self.since is None else {"since": self.since})}
        quick = self.user.get("/sync", **params).ok()
        with monkeypatch.context() as patch:
            patch.setattr(AlikeAnswers, "find_answer", lambda *_: None)
            patch.setattr(AlikeAnswers, "note", lambda *_: None)
            patch.setattr(AlikeAnswers, "note_nothing", lambda *_: None)
            slow = self.user.get("/sync", **params).ok()
        assert timeless(quick) == timeless(slow)
        self.earlier, self.since = self.since, quick["next_batch"]
        return quick


@pytest.fixture
def server(database_url: str, tmp_path: Any) -> Iterator[Server]:
    started = start_server(
        database_url, settings_for(tmp_path, rate_limits=RateLimitSettings(enabled=False))
    )
    yield started
    stop_server(started)


@pytest.fixture
def other_process(database_url: str, tmp_path: Any, server: Server) -> Iterator[Server]:
    started = start_server(
        database_url, settings_for(tmp_path, rate_limits=RateLimitSettings(enabled=False))
    )
    yield started
    stop_server(started)


@pytest.fixture
def quick_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose questions were answered without asking the database for everything."""
    told: list[str] = []
    find: Callable[..., Any] = AlikeAnswers.find_answer

    def counted(self: AlikeAnswers, request: Any, since: int) -> Any:
        answer = find(self, request, since)
        if answer is not None and answer[0]:
            told.append(request.requester.user_id)
        return answer

    monkeypatch.setattr(AlikeAnswers, "find_answer", counted)
    return told


def act(chance: Random, users: list[User], rooms: list[str], said: list[str]) -> None:
    """Somebody does something."""
    user, room_id = chance.choice(users), segment(chance.choice(rooms))
    txn_id = f"t{next(user.server.numbers)}"
    message: dict[str, Any] = {"msgtype": "m.text", "body": txn_id}
    at = f"/rooms/{room_id}"
    match chance.choices(range(14), [14, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1])[0]:
        case 0:
            told = user.put(f"{at}/send/m.room.message/{txn_id}", message)
            if told.status == 200:
                said.append(told.json["event_id"])
        case 1:
            relation = {"rel_type": "m.thread", "event_id": chance.choice(said or ["$none"])}
            user.put(f"{at}/send/m.room.message/{txn_id}", {**message, "m.relates_to": relation})
        case 2:
            user.put(
                f"{at}/typing/{user.path}",
                {"typing": chance.random() < 0.6, "timeout": 60_000},
            )
        case 3:
            kind = chance.choice(["m.read", "m.read.private"])
            user.post(f"{at}/receipt/{kind}/{segment(chance.choice(said or ['$none']))}")
        case 4:
            mentions = {"user_ids": [chance.choice(users).user_id]}
            user.put(f"{at}/send/m.room.message/{txn_id}", {**message, "m.mentions": mentions})
        case 5:
            user.put(f"{at}/send/org.example.odd/{txn_id}", {"n": 1})
        case 6:
            user.put(f"{at}/redact/{segment(chance.choice(said or ['$none']))}/{txn_id}", {})
        case 7:
            user.put(f"{at}/state/m.room.topic/", {"topic": txn_id})
        case 8:
            user.post(f"{at}/{chance.choice(['join', 'leave'])}")
        case 9:
            data = {"x": txn_id}
            user.put(f"/user/{user.path}/rooms/{room_id}/account_data/org.example.x", data)
        case 10:
            rule = f"/pushrules/global/room/{room_id}"
            if chance.random() < 0.5:
                user.put(rule, {"actions": ["notify"]})
            else:
                user.delete(rule)
        case 11:
            ignored: dict[str, Any]
            ignored = {chance.choice(users).user_id: {}} if chance.random() < 0.3 else {}
            user.put(
                f"/user/{user.path}/account_data/m.ignored_user_list", {"ignored_users": ignored}
            )
        case 12:
            other = chance.choice(users)
            to = {"messages": {other.user_id: {"*": {"n": 1}}}}
            user.put(f"/sendToDevice/org.example.thing/{txn_id}", to)
        case _:
            user.put(f"/presence/{user.path}/status", {"presence": "online", "status_msg": txn_id})


@pytest.mark.parametrize("seed", range(SEEDS))
def test_answers_are_those_that_everybody_would_get_alone(
    server: Server,
    other_process: Server,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    quick_answers: list[str],
) -> None:
    chance = Random(seed)  # noqa: S311 - as above
    users = [server.register() for _ in range(4)]
    rooms = [users[0].create_room(preset="public_chat") for _ in range(2)]
    for user in users[1:]:
        for room_id in rooms:
            user.post(f"/join/{segment(room_id)}").ok()
    watchers = [Watcher(server), Watcher(other_process)]
    devices = [
        Device(
            user,
            filter_,
            state_after=chance.random() < 0.3,
            also=replace(user, server=other_process),
        )
        for user in users
        for filter_ in FILTERS
    ]
    said: list[str] = []
    for _ in range(25):
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            act(chance, users, rooms, said)
        for watcher in watchers:
            watcher.catch_up()
        for device in chance.sample(devices, 4):
            if chance.random() < 0.3:
                device.move()
            if chance.random() < 0.1:
                # The last answer was lost on its way.
                device.since = device.earlier
            device.sync(monkeypatch)
    assert quick_answers


def test_message_to_many_is_read_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, quick_answers: list[str]
) -> None:
    alice, *others = [server.register() for _ in range(6)]
    room_id = alice.create_room(preset="public_chat")
    for user in others:
        user.post(f"/join/{segment(room_id)}").ok()
    watcher = Watcher(server)
    filter_ = {"room": {"state": {"lazy_load_members": True}}}
    devices = [Device(user, filter_, state_after=False) for user in others]
    read: list[str] = []

    def counted(*args: Any) -> Any:
        read.append(body)
        return read_plain_news(*args)

    monkeypatch.setattr(sync_alike, "read_plain_news", counted)
    for body in ("one", "two", "three", "four"):
        send(alice, room_id, body)
        watcher.catch_up()
        for device in devices:
            told = device.sync(monkeypatch)["rooms"]["join"][room_id]
            assert told["timeline"]["events"][-1]["content"]["body"] == body
    assert Counter(read)["three"] == Counter(read)["four"] == 1
    # Before, they had to be told who speaks.
    told_times = Counter(quick_answers)
    assert all(told_times[user.user_id] >= 2 for user in others)


@pytest.mark.parametrize("lazily", [True, False])
def test_message_is_read_once_for_those_whom_another_process_told_the_last(
    server: Server,
    other_process: Server,
    monkeypatch: pytest.MonkeyPatch,
    quick_answers: list[str],
    lazily: bool,
) -> None:
    alice, *others = [server.register() for _ in range(4)]
    room_id = alice.create_room(preset="public_chat")
    for user in others:
        user.post(f"/join/{segment(room_id)}").ok()
    watchers = [Watcher(server), Watcher(other_process)]
    filter_ = {"room": {"state": {"lazy_load_members": True}}} if lazily else None
    devices = [
        Device(user, filter_, state_after=False, also=replace(user, server=other_process))
        for user in others
    ]
    for number in range(10):
        send(alice, room_id, str(number))
        if number % 3 == 2:
            send(alice, room_id, "And more.")
        for watcher in watchers:
            watcher.catch_up()
        if number == 4:
            quick_answers.clear()  # by now both know them
        for device in devices:
            told = device.sync(monkeypatch)["rooms"]["join"][room_id]
            assert told["unread_notifications"]["notification_count"] >= number
            device.move()
    assert Counter(quick_answers) == {user.user_id: 6 for user in others}


def test_presence_alone_changes_nothing_for_the_next_message(
    server: Server, monkeypatch: pytest.MonkeyPatch, quick_answers: list[str]
) -> None:
    alice, bob = server.register(), server.register()
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{segment(room_id)}").ok()
    watcher = Watcher(server)
    device = Device(bob, None, state_after=False)
    for number in range(4):
        alice.put(
            f"/presence/{alice.path}/status", {"presence": "online", "status_msg": "x" * number}
        )
        watcher.catch_up()
        assert device.sync(monkeypatch)["presence"]["events"]
        send(alice, room_id, "hello")
        watcher.catch_up()
        assert device.sync(monkeypatch)["rooms"]["join"][room_id]["timeline"]["events"]
    assert len(quick_answers) >= 3


def test_who_speaks_is_told_their_transaction(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = server.register(), server.register()
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{segment(room_id)}").ok()
    watcher = Watcher(server)
    devices = [Device(user, None, state_after=False) for user in (bob, alice)]
    for number in range(4):
        send(alice, room_id, "hello", f"txn{number}")
        watcher.catch_up()
        to_bob, to_alice = (
            device.sync(monkeypatch)["rooms"]["join"][room_id]["timeline"]["events"][-1]
            for device in devices
        )
        assert to_alice["unsigned"]["transaction_id"] == f"txn{number}"
        assert "transaction_id" not in to_bob["unsigned"]
