"""What clients asked before there was /sync."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.api.client import Server, User

Json = dict[str, Any]


def send(user: User, room_id: str, body: str) -> str:
    """A message; its event ID."""
    path = f"/rooms/{room_id}/send/m.room.message/t{next(user.server.numbers)}"
    event_id: str = user.put(path, {"msgtype": "m.text", "body": body}).ok()["event_id"]
    return event_id


def room_in(body: Json, room_id: str) -> Json:
    """A room of /initialSync."""
    (room,) = [room for room in body["rooms"] if room["room_id"] == room_id]
    return dict(room)


def bodies(chunk: list[Json]) -> list[str]:
    """What messages say."""
    return [event["content"]["body"] for event in chunk if event["type"] == "m.room.message"]


def test_initial_sync_has_the_rooms_with_state_and_newest_events(alice: User) -> None:
    room_id = alice.create_room(preset="public_chat", name="Den")
    for number in range(4):
        send(alice, room_id, str(number))
    alice.put(f"/user/{alice.user_id}/rooms/{room_id}/tags/u.work", {"order": 0.5}).ok()
    body = alice.get("/initialSync", limit=2).ok()
    room = room_in(body, room_id)
    assert room["membership"] == "join"
    assert room["visibility"] == "private"
    assert bodies(room["messages"]["chunk"]) == ["2", "3"]
    types = [event["type"] for event in room["state"]]
    assert {"m.room.create", "m.room.name", "m.room.member"} <= set(types)
    assert all(event["room_id"] == room_id for event in room["state"])
    assert [entry["type"] for entry in room["account_data"]] == ["m.tag"]
    assert "m.push_rules" not in [entry["type"] for entry in body["account_data"]]
    assert alice.user_id in {p["content"]["user_id"] for p in body["presence"]}
    params = {"from": room["messages"]["start"], "dir": "b", "limit": 1}
    before = alice.get(f"/rooms/{room_id}/messages", **params).ok()["chunk"]
    assert bodies(before) == ["1"]
    assert room_in(alice.get("/initialSync", limit=0).ok(), room_id)["messages"]["chunk"] == []


def test_state_of_initial_sync_is_the_current_one(alice: User) -> None:
    room_id = alice.create_room(name="old")
    alice.put(f"/rooms/{room_id}/state/m.room.name", {"name": "new"}).ok()
    room = room_in(alice.get("/initialSync").ok(), room_id)
    names = [e["content"]["name"] for e in room["state"] if e["type"] == "m.room.name"]
    assert names == ["new"]


def test_initial_sync_has_invites_and_if_asked_rooms_left(alice: User, bob: User) -> None:
    invited = alice.create_room(invite=[bob.user_id])
    left = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{left}/join").ok()
    send(alice, left, "before")
    bob.post(f"/rooms/{left}/leave").ok()
    send(alice, left, "after")
    body = bob.get("/initialSync").ok()
    room = room_in(body, invited)
    assert (room["membership"], room["inviter"]) == ("invite", alice.user_id)
    assert room["invite"]["content"]["membership"] == "invite"
    assert left not in [room["room_id"] for room in body["rooms"]]
    room = room_in(bob.get("/initialSync", archived="true").ok(), left)
    assert room["membership"] == "leave"
    assert bodies(room["messages"]["chunk"]) == ["before"]


def test_initial_sync_has_receipts(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id, "read")
    alice.post(f"/rooms/{room_id}/receipt/m.read/{event_id}").ok()
    for receipts in (
        alice.get("/initialSync").ok()["receipts"],
        alice.get(f"/rooms/{room_id}/initialSync").ok()["receipts"],
    ):
        assert [r["room_id"] for r in receipts] == [room_id]
        assert alice.user_id in receipts[0]["content"][event_id]["m.read"]


def test_room_initial_sync_has_the_presence_of_members(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join").ok()
    alice.put(f"/presence/{alice.user_id}/status", {"presence": "online"}).ok()
    room = alice.get(f"/rooms/{room_id}/initialSync").ok()
    told = {p["content"]["user_id"]: p["content"]["presence"] for p in room["presence"]}
    assert told == {alice.user_id: "online", bob.user_id: "offline"}


def test_events_come_in_order_from_all_rooms_and_each_once(alice: User) -> None:
    rooms = [alice.create_room(), alice.create_room()]
    token = alice.get("/events").ok()["end"]
    sent = [send(alice, room_id, str(number)) for number in range(3) for room_id in rooms]
    page = alice.get("/events", **{"from": token}).ok()
    assert page["start"] == token
    told = [event for event in page["chunk"] if event["type"] == "m.room.message"]
    assert [event["event_id"] for event in told] == sent
    assert [event["room_id"] for event in told] == rooms * 3
    again = alice.get("/events", **{"from": page["end"]}).ok()
    assert again["chunk"] == []


def test_events_tell_a_newcomer_nothing_from_before(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    send(alice, room_id, "old")
    token = bob.get("/events").ok()["end"]
    bob.post(f"/rooms/{room_id}/join").ok()
    send(alice, room_id, "new")
    page = bob.get("/events", **{"from": token}).ok()
    assert bodies(page["chunk"]) == ["new"]
    assert bob.user_id in {e.get("state_key") for e in page["chunk"]}


def test_events_tell_of_invites_tags_and_typing(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    token = bob.get("/events").ok()["end"]
    alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id}).ok()
    page = bob.get("/events", **{"from": token}).ok()
    (invite,) = [event for event in page["chunk"] if event["type"] == "m.room.member"]
    assert (invite["room_id"], invite["state_key"]) == (room_id, bob.user_id)
    bob.post(f"/rooms/{room_id}/join").ok()
    token = bob.get("/events").ok()["end"]
    bob.put(f"/user/{bob.user_id}/rooms/{room_id}/tags/u.work", {}).ok()
    alice.put(f"/rooms/{room_id}/typing/{alice.user_id}", {"typing": True, "timeout": 9000}).ok()
    page = bob.get("/events", **{"from": token}).ok()
    told = {event["type"]: event for event in page["chunk"]}
    assert told["m.tag"]["room_id"] == told["m.typing"]["room_id"] == room_id
    assert told["m.typing"]["content"]["user_ids"] == [alice.user_id]


def test_events_wait_for_something_new(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join").ok()
    told: list[str] = []

    def listen(token: str) -> None:
        while not told:  # there may be presence first
            page = bob.get("/events", **{"from": token, "timeout": 20_000}).ok()
            assert page["chunk"]
            told.extend(bodies(page["chunk"]))
            token = page["end"]

    waiting = threading.Thread(target=listen, args=(bob.get("/events").ok()["end"],))
    waiting.start()
    send(alice, room_id, "new")
    waiting.join(15)
    assert told == ["new"]


def test_messages_to_devices_wait_for_sync(alice: User) -> None:
    token = alice.get("/events").ok()["end"]
    messages = {alice.user_id: {alice.device_id: {"secret": "s"}}}
    alice.put("/sendToDevice/m.test/t1", {"messages": messages}).ok()
    chunk = alice.get("/events", **{"from": token}).ok()["chunk"]
    assert "m.test" not in {event["type"] for event in chunk}
    assert len(alice.get("/sync").ok()["to_device"]["events"]) == 1


def test_one_event_is_found_in_whichever_room(alice: User, bob: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id, "here")
    event = alice.get(f"/events/{event_id}").ok()
    assert (event["room_id"], event["content"]["body"]) == (room_id, "here")
    bob.get(f"/events/{event_id}").refused(404, "M_NOT_FOUND")
    alice.get("/events/$nothing").refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize("path", ["/events", "/initialSync"])
def test_guests_ask_about_single_rooms_only(server: Server, path: str) -> None:
    told = server.request("POST", "/register", {}, params={"kind": "guest"})
    if told.status == 200:
        guest = User(server, told.json["user_id"], told.json["access_token"], "")
        assert guest.get(path).status == 403


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/initialSync", {"limit": "hello"}),
        ("/events", {"limit": "hello"}),
        ("/events", {"limit": "-2"}),
        ("/events", {"timeout": "hello"}),
        ("/events", {"from": "hello"}),
    ],
)
def test_bad_parameters_are_refused(alice: User, path: str, params: Json) -> None:
    alice.get(path, **params).refused(400, "M_INVALID_PARAM")
