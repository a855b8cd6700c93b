"""A worker is killed at every point of a write, one after the other, as far as others can tell.

Between two messages to PostgreSQL a process changes nothing that anybody else sees. So its
crash points are two for each statement: before PostgreSQL hears of it, and after it was carried
out, before the process hears of that. A proxy kills the worker at each of them in turn; then the
client repeats its request.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import pytest

from architex.storage.embedded_postgres import EmbeddedPostgres
from tests.directories import make_directory
from tests.federation.authority import Authority
from tests.federation.homeserver import Architex, Person, architex
from tests.torture.postgres_proxy import KILLS, Kind, PostgresProxy
from tests.waiting import eventually

pytestmark = pytest.mark.slow

# make torture: ARCHITEX_CRASH_STEP=1, each statement
STEP: Final = int(os.environ.get("ARCHITEX_CRASH_STEP", "6"))
ALGORITHM: Final = "curve25519"


@dataclass
class Stage:
    """A server behind the proxy, and a user who writes."""

    server: Architex
    proxy: PostgresProxy
    user: Person
    device_id: str
    room: str
    claimed: list[str] = field(default_factory=list)

    def workers(self) -> list[int]:
        """The process IDs of the web workers."""
        return [process.pid for process in self.server.running.find("gunicorn")[1:]]

    def messages(self) -> Counter[str]:
        """Text → how often it is in the room."""
        room = self.user.messages(self.room)
        return Counter(event["content"].get("body", "") for event in room.values())

    def put(self, path: str, content: Any) -> tuple[int, Any]:
        """A request."""
        return self.user.ask("PUT", path, content)

    def claim(self, name: str) -> tuple[int, Any]:
        """Upload a key, and claim one."""
        status, told = self.user.ask(
            "POST", "/keys/upload", {"one_time_keys": {f"{ALGORITHM}:{name}": name}}
        )
        if status != 200:
            return status, told
        wanted = {self.user.user_id: {self.device_id: ALGORITHM}}
        status, told = self.user.ask("POST", "/keys/claim", {"one_time_keys": wanted})
        if status == 200:
            self.claimed += (
                told["one_time_keys"].get(self.user.user_id, {}).get(self.device_id, {})
            )
        return status, told


Deed = Callable[[Stage, str], tuple[int, Any]]

DEEDS: Final[dict[str, Deed]] = {
    "send": lambda stage, name: stage.put(
        f"/rooms/{quote(stage.room)}/send/m.room.message/{name}",
        {"msgtype": "m.text", "body": name},
    ),
    "set state": lambda stage, name: stage.put(
        f"/rooms/{quote(stage.room)}/state/m.room.topic", {"topic": name}
    ),
    "message to a device": lambda stage, name: stage.put(
        f"/sendToDevice/x/{name}", {"messages": {stage.user.user_id: {"*": {"name": name}}}}
    ),
    "claim a key": lambda stage, name: stage.claim(name),
    "account data": lambda stage, name: stage.put(
        f"/user/{quote(stage.user.user_id)}/account_data/x", {"x": name}
    ),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = make_directory()
    cluster = EmbeddedPostgres(directory / "postgres")
    authority = Authority(tmp_path_factory.mktemp("crashes"))
    try:
        cluster.ensure_running()
        with (
            PostgresProxy(cluster.conninfo()) as proxy,
            architex(
                tmp_path_factory.mktemp("server"),
                authority,
                web_workers=1,
                database_url=proxy.conninfo,
            ) as server,
        ):
            user = server.register()
            device_id = user.do("GET", "/account/whoami")["device_id"]
            yield Stage(server, proxy, user, device_id, user.create_room())
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("kind", KILLS)
@pytest.mark.parametrize("what", DEEDS)
def test_request_repeated_after_any_crash_is_done_once(
    stage: Stage, what: str, kind: Kind
) -> None:
    deed = DEEDS[what]
    since = stage.user.sync()["next_batch"]
    sent: list[str] = []
    told: dict[str, Any] = {}
    for number in itertools.count(1, STEP):
        name = f"{what} {kind.name} {number}".replace(" ", "-").lower()
        fault = stage.proxy.arm(kind, _is_statement(number), stage.workers())
        with suppress(OSError):
            status, _ = deed(stage, name)
            assert status in (200, 503)
        stage.proxy.disarm()
        told[name] = eventually(partial(_succeed, deed, stage, name), "it stays away", 60)
        sent.append(name)
        if not fault.happened.is_set():
            break
    assert number > 1, "nobody was killed"
    if what == "send":
        messages = stage.messages()
        assert [messages[name] for name in sent] == [1] * len(sent)
        ids = {e["content"].get("body"): i for i, e in stage.user.messages(stage.room).items()}
        assert {name: ids[name] for name in sent} == {n: a["event_id"] for n, a in told.items()}
    if what == "message to a device":
        received = stage.user.sync(since)["to_device"]["events"]
        assert [event["content"]["name"] for event in received] == sent
    assert len(set(stage.claimed)) == len(stage.claimed), "a one-time key was given twice"


def _is_statement(wanted: int) -> Callable[[str, int], bool]:
    """The statement of that number from now on, of the processes that are concerned."""
    passed = itertools.count(1)
    return lambda sql, number: next(passed) == wanted


def _succeed(deed: Deed, stage: Stage, name: str) -> Any:
    """The answer, if there is one."""
    with suppress(OSError):
        status, told = deed(stage, name)
        if status == 200:
            return told or {"done": True}
    return None
