"""What one user piles up, or sets off with one request, has bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from architex.settings import FederationSettings, RateLimit, RateLimitSettings
from architex.storage import notifier
from architex.usecases import account_data, directory, filters, remote_keys
from architex.usecases.room_creation import MAX_INITIAL_STATE
from architex.usecases.to_device import MAX_CONTENT_BYTES
from tests.api.client import Answer, Server, User, segment, settings_for, start_server, stop_server

ONCE = RateLimit(per_second=0.001, burst=1)


# How much is kept


def test_account_data_of_a_user_is_bounded_together(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_data, "MAX_BYTES", 10_000)
    path = f"/user/{alice.path}/account_data"
    alice.put(f"{path}/org.example.a", {"x": "x" * 6_000}).ok()
    alice.put(f"{path}/org.example.b", {"x": "x" * 6_000}).refused(413, "M_TOO_LARGE")
    room = f"/user/{alice.path}/rooms/{segment('!r:test.example')}/account_data/org.example.b"
    alice.put(room, {"x": "x" * 6_000}).refused(413, "M_TOO_LARGE")
    # What is there can be replaced, and others are not concerned.
    alice.put(f"{path}/org.example.a", {"x": "y" * 7_000}).ok()
    bob.put(f"/user/{bob.path}/account_data/org.example.a", {"x": "x" * 6_000}).ok()


def test_number_of_entries_of_account_data_is_bounded(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_data, "MAX_ENTRIES", 3)
    path = f"/user/{alice.path}/account_data"
    statuses = [alice.put(f"{path}/org.example.{n}", {}).status for n in range(4)]
    assert statuses == [200, 200, 200, 413]
    tag = f"/user/{alice.path}/rooms/{segment('!r:test.example')}/tags/u.x"
    alice.put(tag, {}).refused(413, "M_TOO_LARGE")
    alice.put(f"{path}/org.example.0", {"changed": True}).ok()


def test_tags_of_a_room_are_bounded_together(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_data, "MAX_CONTENT_BYTES", 5_000)
    path = f"/user/{alice.path}/rooms/{segment('!r:test.example')}/tags"
    about = {"org.example.why": "x" * 2_000}
    statuses = [alice.put(f"{path}/u.{n}", about).status for n in range(4)]
    assert statuses == [200, 200, 413, 413]


def test_filters_of_a_user_are_bounded(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "MAX_FILTERS", 2)

    def keep(user: User, number: int) -> Answer:
        return user.post(f"/user/{user.path}/filter", {"room": {"timeline": {"limit": number}}})

    assert [keep(alice, number).status for number in (1, 2, 3)] == [200, 200, 413]
    # What is kept already has its ID as before.
    assert keep(alice, 1).ok() == keep(alice, 1).ok()
    keep(bob, 3).ok()


def test_aliases_of_a_room_are_bounded(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_ALIASES", 2)
    first, second = alice.create_room(), alice.create_room()

    def name(number: int, room_id: str) -> int:
        path = f"/directory/room/{segment(f'#{alice.user_id[1:6]}{number}:test.example')}"
        return alice.put(path, {"room_id": room_id}).status

    assert [name(number, first) for number in range(3)] == [200, 200, 403]
    assert name(3, second) == 200


def test_message_to_a_device_is_no_larger_than_an_event(alice: User, bob: User) -> None:
    def send(txn_id: str, size: int) -> Answer:
        messages = {bob.user_id: {"*": {"x": "x" * size}}}
        return alice.put(f"/sendToDevice/org.example.x/{txn_id}", {"messages": messages})

    send("1", MAX_CONTENT_BYTES + 1).refused(413, "M_TOO_LARGE")
    send("2", MAX_CONTENT_BYTES - 100).ok()
    told = bob.get("/sync").ok()
    assert len(told["to_device"]["events"]) == 1


# What one request sets off


def test_new_room_has_a_bounded_initial_state(alice: User) -> None:
    entries = [
        {"type": "org.example.x", "state_key": str(n), "content": {}}
        for n in range(MAX_INITIAL_STATE + 1)
    ]
    alice.post("/createRoom", {"initial_state": entries}).refused(400, "M_INVALID_PARAM")
    alice.post("/createRoom", {"initial_state": entries[:20]}).ok()


def test_few_aliases_of_other_servers_are_asked_for_by_one_event(alice: User) -> None:
    # Each would be looked up on another server before the answer.
    path = f"/rooms/{segment(alice.create_room())}/state/m.room.canonical_alias"
    aliases = [f"#room:server{n}.example" for n in range(1000)]
    alice.put(path, {"alt_aliases": aliases}).refused(400, "M_INVALID_PARAM")


# How often, and how many at once


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("changes", lambda user: user.put(f"/user/{user.path}/account_data/org.example.x", {})),
        ("changes", lambda user: user.post(f"/user/{user.path}/filter", {})),
        ("changes", lambda user: user.put("/sendToDevice/org.example.x/1", {"messages": {}})),
        ("changes", lambda user: user.post("/keys/upload", {})),
        ("changes", lambda user: user.post("/keys/claim", {"one_time_keys": {}})),
        (
            "changes",
            lambda user: user.put(f"/presence/{user.path}/status", {"presence": "online"}),
        ),
        ("profiles", lambda user: user.put(f"/profile/{user.path}/displayname", {})),
        ("searches", lambda user: user.post("/user_directory/search", {"search_term": "x"})),
        ("searches", lambda user: user.post("/search", {"search_categories": {}})),
        ("messages", lambda user: user.post("/rooms/!r:test.example/leave")),
        ("messages", lambda user: user.post("/rooms/!r:test.example/kick", {"user_id": "@b:c"})),
        ("messages", lambda user: user.post("/rooms/!r:test.example/ban", {"user_id": "@b:c"})),
    ],
)
def test_all_that_users_do_is_limited(
    kind: str, act: Callable[[User], Answer], database_url: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {kind: ONCE}
    limits = RateLimitSettings(**changes)
    server = start_server(database_url, settings_for(tmp_path, rate_limits=limits))
    alice, bob = server.register(), server.register()
    assert act(alice).status != 429
    act(alice).refused(429, "M_LIMIT_EXCEEDED")
    assert act(bob).status != 429
    alice.get("/sync").ok()
    stop_server(server)


@pytest.mark.parametrize(
    "path",
    [
        "/profile/%40bob%3Aserver{}.example",
        "/profile/%40bob%3Aserver{}.example/displayname",
        "/directory/room/%23room%3Aserver{}.example",
        "/_matrix/client/v1/room_summary/%23room%3Aserver{}.example",
    ],
)
def test_strangers_have_few_servers_asked(path: str, database_url: str, tmp_path: Path) -> None:
    # Each name would be looked up, and its server connected to.
    limits = RateLimitSettings(lookups=RateLimit(per_second=0.001, burst=2))
    federation = FederationSettings(enabled=False)
    settings = settings_for(tmp_path, rate_limits=limits, federation=federation)
    server = start_server(database_url, settings)
    statuses = [server.request("GET", path.format(number)).status for number in range(4)]
    assert 429 not in statuses[:2]
    assert statuses[2:] == [429, 429]
    alice = server.register()
    assert alice.get(path.format(5)).status != 429
    server.request("GET", f"/profile/{alice.path}").ok()
    stop_server(server)


def test_few_servers_are_asked_for_keys_by_one_request(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_keys, "MAX_SERVERS", 2)
    users: dict[str, list[str]] = {f"@bob:server{number}.example": [] for number in range(4)}
    told = alice.post("/keys/query", {"device_keys": users, "timeout": 100}).ok()
    refused = [one for one in told["failures"].values() if one["status"] == 429]
    assert len(refused) == 2
    assert len(told["failures"]) == 4


def test_few_requests_of_one_user_wait_at_once(
    server: Server, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each takes one of the connections that are there for everybody.
    monkeypatch.setattr(notifier, "MAX_WAITING", 0)
    since = alice.get("/sync").ok()["next_batch"]
    alice.get("/sync", since=since, timeout=60_000).refused(429, "M_LIMIT_EXCEEDED")
    # Who does not wait is answered.
    alice.get("/sync", since=since, timeout=0).ok()
