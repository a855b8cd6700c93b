"""Whole requests while connections to PostgreSQL break at each of their statements in turn.

The answer is the right one, or "not now" (503), never a failure of ours (500); and the same
request again succeeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from architex.settings import RateLimitSettings
from tests.api.client import (
    Answer,
    Server,
    User,
    segment,
    settings_for,
    start_server,
    stop_server,
)
from tests.torture.postgres_proxy import Kind, PostgresProxy

pytestmark = pytest.mark.slow

Request = Callable[[User, str, str], Answer]
"""Given a user, a room of theirs and a name never used before."""

REQUESTS: Final[dict[str, Request]] = {
    "whoami": lambda user, room, name: user.get("/account/whoami"),
    "send": lambda user, room, name: user.put(
        f"/rooms/{room}/send/m.room.message/{name}", {"body": name}
    ),
    "set state": lambda user, room, name: user.put(
        f"/rooms/{room}/state/m.room.topic", {"topic": name}
    ),
    "create a room": lambda user, room, name: user.post(
        "/createRoom", {"room_alias_name": name, "preset": "public_chat"}
    ),
    "first sync": lambda user, room, name: user.get("/sync", timeout=0),
    "messages": lambda user, room, name: user.get(f"/rooms/{room}/messages", dir="b"),
    "state": lambda user, room, name: user.get(f"/rooms/{room}/state"),
    "members": lambda user, room, name: user.get(f"/rooms/{room}/members"),
    "account data": lambda user, room, name: user.put(
        f"/user/{user.path}/account_data/org.example.x", {"x": name}
    ),
    "display name": lambda user, room, name: user.put(
        f"/profile/{user.path}/displayname", {"displayname": name}
    ),
    "filter": lambda user, room, name: user.post(f"/user/{user.path}/filter", {}),
    "typing": lambda user, room, name: user.put(
        f"/rooms/{room}/typing/{user.path}", {"typing": True, "timeout": 30_000}
    ),
    "devices": lambda user, room, name: user.get("/devices"),
    "log in": lambda user, room, name: user.server.request(
        "POST",
        "/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user.user_id},
            "password": "correct horse battery staple",
        },
    ),
    "public rooms": lambda user, room, name: user.get("/publicRooms"),
}


@pytest.fixture(scope="module")
def proxy(module_database_url: str) -> Iterator[PostgresProxy]:
    with PostgresProxy(module_database_url) as running:
        yield running


@pytest.fixture(scope="module")
def server(proxy: PostgresProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose every connection goes through the proxy."""
    directory: Path = tmp_path_factory.mktemp("server")
    settings = settings_for(directory, rate_limits=RateLimitSettings(enabled=False))
    started = start_server(proxy.conninfo, settings)
    yield started
    stop_server(started)


@pytest.mark.parametrize("kind", [Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.SHUTDOWN, Kind.CONFLICT])
@pytest.mark.parametrize("what", REQUESTS)
def test_request_is_answered_whatever_statement_loses_its_connection(
    server: Server, proxy: PostgresProxy, what: str, kind: Kind
) -> None:
    user = server.register()
    room = segment(user.create_room())
    request = REQUESTS[what]
    names = (f"{user.user_id[1:].partition(':')[0]}-{number}" for number in itertools.count())
    assert request(user, room, next(names)).status == 200  # and statements get prepared
    for number in itertools.count(1):
        name = next(names)
        fault = proxy.arm(kind, _nth_statement(number))
        answer = request(user, room, name)
        proxy.disarm()
        assert answer.status in (200, 503), (number, answer)
        again = request(user, room, name)
        if again.status != 200:
            # What was done and not answered is there already: only the alias tells it.
            assert what == "create a room", (number, answer, again)
            again.refused(400, "M_ROOM_IN_USE")
        if not fault.happened.is_set():
            assert answer.status == 200
            break
    assert number > 1


def _nth_statement(wanted: int) -> Callable[[str, int], bool]:
    """The statement of that number from now on, on whichever connection."""
    passed: Any = itertools.count(1)
    return lambda sql, number: next(passed) == wanted
