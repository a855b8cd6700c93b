"""A real server: its follower is killed, its projections are rebuilt, and it goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from tests.server import RunningServer, start_server
from tests.waiting import eventually

WAIT_S = 30.0
API = "/_matrix/client/v3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`architex serve` with two workers."""
    with start_server(tmp_path_factory.mktemp("live"), web_workers=2) as running:
        yield running


@pytest.fixture
def token(server: RunningServer, request: pytest.FixtureRequest) -> str:
    """The access token of a new user."""
    body = {
        "auth": {"type": "m.login.dummy"},
        "username": request.node.name.lower(),
        "password": "secret",
    }
    status, answer = server.request("POST", f"{API}/register", body)
    assert status == 200, answer
    return str(answer["access_token"])


def call(server: RunningServer, token: str, method: str, path: str, body: Any = None) -> Any:
    """A request that succeeds."""
    status, answer = server.request(method, API + path, body, token=token)
    assert status == 200, answer
    return answer


def published_names(server: RunningServer, token: str) -> list[str]:
    """The names in the list of rooms."""
    listed = call(server, token, "POST", "/publicRooms", {})["chunk"]
    return [room["name"] for room in listed if "name" in room]


def followers(server: RunningServer) -> list[psutil.Process]:
    """The follower process."""
    found = []
    for process in server.processes():
        try:
            if "follow" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_killed_follower_is_replaced_and_misses_nothing(server: RunningServer, token: str) -> None:
    call(server, token, "POST", "/createRoom", {"visibility": "public", "name": "Before"})
    eventually(lambda: "Before" in published_names(server, token), patience_s=WAIT_S)
    # Whoever asks for the list brings it up to date: that says nothing of the follower.
    eventually(lambda: len(followers(server)) == 1, patience_s=WAIT_S)
    (follower,) = followers(server)
    follower.kill()
    call(server, token, "POST", "/createRoom", {"visibility": "public", "name": "After"})
    eventually(lambda: "After" in published_names(server, token), patience_s=WAIT_S)
    eventually(
        lambda: follower.pid not in [process.pid for process in followers(server)],
        patience_s=WAIT_S,
    )


def test_rebuild_of_everything_goes_unnoticed_by_clients(
    server: RunningServer, token: str
) -> None:
    room_id = call(server, token, "POST", "/createRoom", {"name": "Garden"})["room_id"]
    room = f"/rooms/{quote(room_id, safe='')}"
    stop = threading.Event()
    sent: list[str] = []
    failures: list[BaseException] = []

    def send() -> None:
        try:
            while not stop.is_set():
                path = f"{room}/send/m.room.message/{len(sent)}"
                sent.append(call(server, token, "PUT", path, {"body": "x"})["event_id"])
        except BaseException as error:  # noqa: BLE001 - the test fails of it
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        rebuilt = subprocess.run(
            [
                *(sys.executable, "-m", "architex", "projections", "rebuild"),
                *("--config", str(server.config_file)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        stop.set()
        sender.join(WAIT_S)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert not failures
    assert sent
    state = call(server, token, "GET", f"{room}/state/m.room.name")
    assert state == {"name": "Garden"}
    seen: list[str] = []
    start = ""
    while True:
        page = call(server, token, "GET", f"{room}/messages?dir=b&limit=100{start}")
        seen += [e["event_id"] for e in page["chunk"] if e["type"] == "m.room.message"]
        if "end" not in page:
            break
        start = f"&from={page['end']}"
    assert seen[::-1] == sent
    log: Path = server.log_file
    assert "Traceback" not in log.read_text()
