"""A client that is in many rooms begins afresh: the same answer, put together piece by piece.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import falcon.testing
import orjson
import pytest

from architex.api import streams
from architex.domain.canonical_json import encode_json
from architex.domain.errors import DatabaseUnavailable
from architex.usecases import syncing
from architex.usecases.sync_rooms import SyncRooms
from tests.api.client import User, segment


def without_ages(value: Any) -> Any:
    """JSON without what time changes; state, which has no order, in order of the IDs."""
    if isinstance(value, dict):
        for name in ("state", "state_after"):
            if name in value:
                events = sorted(value[name]["events"], key=lambda event: str(event["event_id"]))
                value = {**value, name: {"events": events}}
        return {key: without_ages(v) for key, v in value.items() if key != "age"}
    return [without_ages(v) for v in value] if isinstance(value, list) else value


@pytest.fixture
def busy(alice: User, bob: User) -> User:
    """A user with rooms of every kind, and something in each of them."""
    for number in range(5):
        room_id = alice.create_room(preset="public_chat", name=f"Room {number}")
        quoted = segment(room_id)
        bob.post(f"/join/{quoted}").ok()
        body = {"msgtype": "m.text", "body": f"hi {number}"}
        event_id = bob.put(f"/rooms/{quoted}/send/m.room.message/1", body).ok()["event_id"]
        data = f"/user/{alice.path}/rooms/{quoted}"
        alice.put(f"{data}/account_data/org.example.note", {"number": number}).ok()
        alice.put(f"{data}/tags/u.{number}", {"order": 0.5}).ok()
        if number % 2:
            alice.post(f"/rooms/{quoted}/receipt/m.read/{event_id}").ok()
        bob.put(f"/rooms/{quoted}/typing/{bob.path}", {"typing": True, "timeout": 30_000}).ok()
    bob.create_room(invite=[alice.user_id], name="Invited")
    left = alice.create_room(name="Left")
    data = f"/user/{alice.path}/rooms/{segment(left)}"
    alice.put(f"{data}/account_data/org.example.note", {"left": True}).ok()
    alice.post(f"/rooms/{segment(left)}/leave").ok()
    knocked = bob.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    alice.post(f"/knock/{segment(knocked)}").ok()
    alice.put(f"/user/{alice.path}/account_data/org.example.all", {"global": True}).ok()
    return alice


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"use_state_after": "true"},
        {"filter": '{"room": {"include_leave": true, "timeline": {"limit": 1}}}'},
        {"filter": '{"room": {"state": {"lazy_load_members": true}}}'},
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_answer_does_not_depend_on_how_it_is_put_together(
    busy: User, query: dict[str, str], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = busy.get("/sync", set_presence="offline", **query).ok()
    assert len(whole["rooms"]["join"]) == 5
    assert len(whole["rooms"]["invite"]) == len(whole["rooms"]["knock"]) == 1
    monkeypatch.setattr(syncing, "ROOMS_AT_ONCE", at_once)
    pieces = busy.get("/sync", set_presence="offline", **query).ok()
    assert without_ages(pieces) == without_ages(whole)
    # And so does what comes next.
    later = busy.get("/sync", since=pieces["next_batch"], set_presence="offline").ok()
    assert later["rooms"]["join"] == {}


@pytest.mark.parametrize("at_once", [1, 100])
def test_numbers_of_old_rooms_come_whole(
    alice: User, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "ROOMS_AT_ONCE", at_once)
    alice.create_room()
    room_id = alice.create_room(room_version="5")
    quoted = segment(room_id)
    alice.put(f"/user/{alice.path}/account_data/org.example.note", {"a": [1, "ü"]}).ok()
    alice.put(f"/rooms/{quoted}/send/org.example.big/1", {"n": 2**80, "f": 0.5}).ok()
    told = alice.get("/sync").ok()
    event = told["rooms"]["join"][room_id]["timeline"]["events"][-1]
    assert event["content"] == {"n": 2**80, "f": 0.5}
    notes = [e for e in told["account_data"]["events"] if e["type"] == "org.example.note"]
    assert notes[0]["content"] == {"a": [1, "ü"]}


def test_json_of_answers_holds_fragments_and_numbers_of_any_size() -> None:
    fragment = orjson.Fragment(b'{"b":[1,"\xc3\xbc"]}')
    assert encode_json({"z": fragment, "a": 1}) == '{"z":{"b":[1,"ü"]},"a":1}'.encode()
    assert encode_json({"z": fragment, "a": 2**70}) == (
        '{"z":{"b":[1,"ü"]},"a":1180591620717411303424}'.encode()
    )
    with pytest.raises(TypeError):
        encode_json({"a": 2**70, "b": object()})


def begin_sync(user: User) -> Iterator[bytes]:
    """The body of a first sync, as the server hands it out."""
    environ = falcon.testing.create_environ(
        "/_matrix/client/v3/sync",
        query_string="set_presence=offline",
        headers={"Authorization": f"Bearer {user.token}"},
    )
    statuses: list[str] = []
    body = user.server.app(environ, lambda status, *_: statuses.append(status))
    assert statuses == ["200 OK"]
    return iter(body)


def test_rooms_are_sent_as_they_are_read(busy: User, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = busy.get("/sync", set_presence="offline").ok()
    monkeypatch.setattr(syncing, "ROOMS_AT_ONCE", 2)
    monkeypatch.setattr(streams, "PIECE_BYTES", 1)
    read: list[int] = []
    collect = SyncRooms.collect

    def counted(self: SyncRooms, connection: Any, request: Any, views: Any) -> Any:
        read.append(len(views))
        return collect(self, connection, request, views)

    monkeypatch.setattr(SyncRooms, "collect", counted)
    pieces = begin_sync(busy)
    body = next(pieces)
    assert read == [2]
    # What happens while the client reads is part of the next answer, as all that is later.
    new_room = busy.create_room()
    body += b"".join(pieces)
    assert read == [2, 2, 1, 1, 1]
    told = json.loads(body)
    assert without_ages(told["rooms"]) == without_ages(whole["rooms"])
    later = busy.get("/sync", since=told["next_batch"], set_presence="offline").ok()
    assert list(later["rooms"]["join"]) == [new_room]


def test_answer_that_cannot_be_finished_is_no_json(
    busy: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "ROOMS_AT_ONCE", 2)
    collect = SyncRooms.collect
    read: list[int] = []

    def failing(self: SyncRooms, connection: Any, request: Any, views: Any) -> Any:
        read.append(len(views))
        if len(read) == 2:
            raise DatabaseUnavailable("It is gone.")
        return collect(self, connection, request, views)

    monkeypatch.setattr(SyncRooms, "collect", failing)
    with pytest.raises(DatabaseUnavailable):
        list(begin_sync(busy))
    # Before anything was sent, it is an error like any other.
    read[:] = [0]
    assert busy.get("/sync").status == 503
