"""Whatever one sends to whichever endpoint, it is answered, and no failure of the server's.

`ARCHITEX_ODD_REQUESTS=500 pytest tests/api/test_no_server_error.py` makes as many requests of
each operation, `ARCHITEX_ODD_SEED=…` others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from random import Random  # noqa: TID251 - seeded, so that a failure can be repeated
from typing import Any, Final

import orjson
import pytest

from architex.settings import RateLimitSettings, RoomDirectorySettings
from tests.api.client import Answer, segment, stop_server
from tests.api.odd_requests import (
    CONTENTS,
    Oddities,
    OddRequest,
    Operation,
    read_spec_requests,
)
from tests.federation.visitors import Visitor, World

PER_OPERATION: Final = int(os.environ.get("ARCHITEX_ODD_REQUESTS", "6"))
SEED: Final = int(os.environ.get("ARCHITEX_ODD_SEED", "1"))
IS_LONG: Final = PER_OPERATION > 50

MAX_CPU_S: Final = 1.0
"""Of one request; looked at only in long runs, of which nobody else's work is a part."""

ANSWERED: Final = frozenset({501, 502, 504})
"""Not offered here; another server does not answer; the media has not come yet."""


class Fuzzed:
    """A server, one of its users, and another server in their room."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alice = world.server.register("alice")
        self.bob = world.server.register("bob")
        self.visitor: Visitor = world.meet("odd.example")
        self.oddities = Oddities(Random(SEED))  # noqa: S311 - as above
        self.room_id = self.make_room()
        self.canary = self.bob.create_room(name="canary")
        self._fill()

    def make_room(self, version: str = "11") -> str:
        """A room with two members, one elsewhere, and a little history."""
        number = next(self.alice.server.numbers)
        room_id = self.alice.create_room(
            preset="public_chat", room_alias_name=f"room{number}", room_version=version
        )
        room = f"/rooms/{segment(room_id)}"
        self.bob.post(room + "/join").ok()
        self.visitor.join(room_id, self.visitor.user("carol"))
        add = self.oddities.add
        add("room_id", room_id)
        add("room_alias", f"#room{number}:test.example")
        for body in ("first", "second"):
            content: dict[str, Any] = {"msgtype": "m.text", "body": body}
            if body == "second":
                relation = {"rel_type": "m.thread", "event_id": self.oddities.pool["event_id"][-1]}
                content["m.relates_to"] = relation
            path = f"{room}/send/m.room.message/{body}{number}"
            add("event_id", self.alice.put(path, content).ok()["event_id"])
        return room_id

    def _fill(self) -> None:
        alice, add = self.alice, self.oddities.add
        add("user_id", alice.user_id, self.bob.user_id, self.visitor.user("carol"))
        add("device_id", alice.device_id, self.bob.device_id)
        add("event_type", *CONTENTS)
        add("stateKey", "", alice.user_id, self.bob.user_id)
        add("state_key", "", alice.user_id)
        add("receiptType", "m.read", "m.read.private", "m.fully_read")
        add("relType", "m.thread", "m.annotation", "m.replace")
        add("keyName", "displayname", "avatar_url", "m.tz", "org.example.x")
        add("kind", "override", "room", "sender", "content", "underride")
        add("ruleId", ".m.rule.master", "word", alice.user_id, self.room_id)
        add("txnId", "t1", "t2")
        add("room_version", "1", "6", "11", "12")
        add("new_version", "11", "12")
        add("tag", "m.favourite", "u.x")
        add("serverName", "test.example", self.visitor.name, "away.example")
        add("server_name", "test.example")
        add("server", "test.example", "away.example")
        add("algorithm", "m.megolm.v1.aes-sha2", "m.megolm_backup.v1.curve25519-aes-sha2")
        add("filter_json", '{"room":{"timeline":{"limit":3}}}', "0", '{"not_rooms":["x"]}', "{")
        add("dir", "b", "f")
        add("session_id", "session1")
        add("sessionId", "session1")
        add("keyId", self.visitor.peer.key.key_id)
        add("event_fields", "content.body", "type")
        backup = alice.post("/room_keys/version", {"algorithm": "m.x", "auth_data": {}}).ok()
        add("version", backup["version"], "1", "2")
        add("filter_id", alice.post(f"/user/{alice.path}/filter", {}).ok()["filter_id"])
        self.oddities.learn(alice.get("/sync").ok())

    def send(self, request: OddRequest) -> Answer:
        """Send one as the user."""
        path = "/" + "/".join(_quote(part) for part in request.segments)
        return self.alice.server.request(
            request.method,
            path,
            raw=_encode(request.body),
            token=self.alice.token,
            params=request.query,
            headers={"Content-Type": "application/json"},
        )

    def send_signed(self, request: OddRequest) -> Answer:
        """Send one as the other server; below /_matrix/federation."""
        segments = [part or "x" for part in request.segments[2:]]
        query = {name: value for name, value in request.query.items() if name != "method"}
        try:
            return self.visitor.request(request.method, segments, request.body, **query)
        except TypeError:
            # Integers that not even who signs the request can write.
            return self.visitor.request(request.method, segments, {}, **query)

    def recover(self, answer: Answer) -> None:
        """Log in again when that was lost; make a new room when the user is out of the others."""
        if answer.status == 401 and answer.json.get("errcode") in (
            "M_UNKNOWN_TOKEN",
            "M_USER_LOCKED",
        ):
            self.alice = self.alice.log_in_again()
        path = f"/rooms/{segment(self.room_id)}/joined_members"
        if self.oddities.chance.random() < 0.02 and self.alice.get(path).status == 403:
            self.room_id = self.make_room()

    def check_others_go_on(self) -> None:
        """What was sent lies in nobody's way: everything can be read, the canary sings."""
        room, canary = segment(self.room_id), segment(self.canary)
        number = next(self.alice.server.numbers)
        song = {"msgtype": "m.text", "body": "la"}
        self.bob.put(f"/rooms/{canary}/send/m.room.message/{number}", song).ok()
        for path, query in (
            ("/sync", {}),
            ("/sync", {"full_state": "true"}),
            (f"/rooms/{canary}/messages", {"dir": "b"}),
            ("/publicRooms", {}),
            ("/notifications", {}),
            ("/initialSync", {}),
        ):
            for user in (self.bob,) if "rooms" in path else (self.alice, self.bob):
                answer = user.get(path, **query)
                assert answer.status == 200, (path, user.user_id, answer.json)
        for path in ("state", "members", "messages", "threads", "hierarchy"):
            answer = self.alice.get(f"/_matrix/client/v1/rooms/{room}/{path}", dir="b")
            assert answer.status in (200, 403), (path, answer.json)

    def check_room_is_read(self, room_id: str) -> None:
        """Whatever is in a room, its creator and another server can read it."""
        room = f"/rooms/{segment(room_id)}"
        for path in (
            f"{room}/state",
            f"{room}/members",
            f"{room}/joined_members",
            f"{room}/messages",
            f"{room}/initialSync",
            f"{room}/aliases",
            f"/_matrix/client/v1{room}/threads",
            f"/_matrix/client/v1{room}/hierarchy",
            f"/_matrix/client/v1/room_summary/{segment(room_id)}",
            f"/directory/list{room.replace('rooms', 'room')}",
            "/sync",
        ):
            answer = self.alice.get(path, dir="b")
            assert answer.status == 200, (path, answer.json)
        event_id = self.alice.get(f"{room}/messages", dir="b").ok()["chunk"][0]["event_id"]
        self.alice.get(f"{room}/context/{segment(event_id)}").ok()
        carol = self.visitor.user("carol")
        for segments, query in (
            (["v1", "state", room_id], {"event_id": event_id}),
            (["v1", "backfill", room_id], {"v": event_id, "limit": 100}),
            (["v1", "make_leave", room_id, carol], {}),
            (["v1", "make_join", room_id, carol], {"ver": ["11", "12"]}),
            (["v1", "hierarchy", room_id], {}),
        ):
            answer = self.visitor.request("GET", segments, **query)
            # Events may have made carol leave, or deny her server.
            assert answer.status in (200, 403, 404), (segments, answer.json)


def _quote(part: str) -> str:
    return segment(part) if part not in (".", "..") else part.replace(".", "%2E")


def _encode(body: Any) -> bytes | None:
    if body is None:
        return None
    try:
        return orjson.dumps(body)
    except TypeError:
        # Integers beyond 64 bits.
        return b'{"far": ' + b"9" * 40 + b"}"


@pytest.fixture(scope="module")
def fuzzed(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    world = World(
        module_database_url,
        tmp_path_factory.mktemp("server"),
        rate_limits=RateLimitSettings(enabled=False),
        room_directory=RoomDirectorySettings(unauthenticated=True, over_federation=True),
    )
    yield Fuzzed(world)
    stop_server(world.server)


def check(request: OddRequest, answer: Answer, cpu_s: float) -> None:
    """Fail unless a request was answered in time, and a refusal with a name."""
    shown = (request.method, request.segments, request.query, str(request.body)[:2000])
    assert answer.status < 500 or answer.status in ANSWERED, (shown, answer.json)
    if answer.status >= 400:
        is_interactive = answer.status == 401 and "flows" in (answer.json or {})
        named = isinstance(answer.json, dict) and isinstance(answer.json.get("errcode"), str)
        assert is_interactive or named, (shown, answer)
    if IS_LONG:
        assert cpu_s < MAX_CPU_S, (cpu_s, shown)


def run(fuzzed: Fuzzed, operation: Operation, send: Any) -> None:
    """Requests of one operation."""
    for _ in range(PER_OPERATION):
        request = fuzzed.oddities.make(operation)
        before = time.thread_time()
        answer = send(request)
        check(request, answer, time.thread_time() - before)
        fuzzed.oddities.learn(answer.json)
        fuzzed.recover(answer)


@pytest.mark.parametrize("operation", read_spec_requests("client-server"), ids=str)
def test_no_client_makes_the_server_fail(fuzzed: Fuzzed, operation: Operation) -> None:
    run(fuzzed, operation, fuzzed.send)


@pytest.mark.parametrize(
    "operation",
    [o for o in read_spec_requests("server-server") if o.path.startswith("/_matrix/federation")],
    ids=str,
)
def test_no_server_makes_the_server_fail(fuzzed: Fuzzed, operation: Operation) -> None:
    run(fuzzed, operation, fuzzed.send_signed)


def test_what_was_sent_lies_in_nobodys_way(fuzzed: Fuzzed) -> None:
    chance = fuzzed.oddities.chance
    operations = read_spec_requests("client-server")
    writing = [o for o in operations if o.method in ("PUT", "POST") and o.body is not None]
    for _ in range(30 if not IS_LONG else PER_OPERATION):
        for operation in chance.sample(writing, 8):
            request = fuzzed.oddities.make(operation)
            answer = fuzzed.send(request)
            check(request, answer, 0)
            fuzzed.oddities.learn(answer.json)
            fuzzed.recover(answer)
        fuzzed.check_others_go_on()


@pytest.mark.parametrize("version", ["11", "12"])
def test_odd_events_lie_in_nobodys_way(fuzzed: Fuzzed, version: str) -> None:
    oddities = fuzzed.oddities
    chance, taken = oddities.chance, 0
    for _ in range(PER_OPERATION // 3):
        room_id = fuzzed.make_room(version)
        room = f"/rooms/{segment(room_id)}"
        for number in range(30):
            kind = chance.choice(sorted(CONTENTS))
            path = f"{room}/send/{kind}/{number}"
            if chance.random() < 0.7:
                key = chance.choice(("", "", fuzzed.bob.user_id, room_id, "x"))
                path = f"{room}/state/{kind}/{segment(key)}"
            content = oddities.content(kind)
            if kind == "m.room.member" and fuzzed.alice.user_id in path:
                continue
            raw = _encode(content)
            answer = fuzzed.alice.server.request("PUT", path, raw=raw, token=fuzzed.alice.token)
            check(OddRequest("PUT", [path], {}, content), answer, 0)
            taken += answer.status == 200
        fuzzed.check_room_is_read(room_id)
    fuzzed.check_others_go_on()
    assert taken > PER_OPERATION // 3 * 5
