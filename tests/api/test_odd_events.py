"""Events that the rules allow and that hold anything at all: nobody who reads them stumbles.

One such event must neither stop anybody's /sync nor a follower of the log.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Final

import pytest

from architex.bootstrap import followed_projections
from architex.projections.following import FollowedProjection
from tests.api.client import Server, User, segment

ODD: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    2**53 - 1,
    "",
    "\0",
    "a\0b",
    "\uffff😀\u202e",
    "x" * 20_000,
    " \n\t",
    [],
    [None, [], {}],
    {},
    {"": {"": [{}]}},
    {"\0": "\0"},
    ["@nobody:test.example", "#nowhere:test.example", "$nothing"],
    "@nobody:test.example",
    "mxc://nowhere/nothing",
)
"""What stands where the spec wants something of a kind."""

STATE: Final[dict[str, tuple[str, ...]]] = {
    "m.room.name": ("name",),
    "m.room.topic": ("topic", "m.topic"),
    "m.room.avatar": ("url", "info"),
    "m.room.encryption": ("algorithm", "rotation_period_ms"),
    "m.room.tombstone": ("body", "replacement_room"),
    "m.room.guest_access": ("guest_access",),
    "m.room.history_visibility": ("history_visibility",),
    "m.room.pinned_events": ("pinned",),
    "m.room.server_acl": ("allow", "deny", "allow_ip_literals"),
    "m.space.child": ("via", "order", "suggested"),
    "m.space.parent": ("via", "canonical"),
    "m.room.member": ("displayname", "avatar_url", "reason", "is_direct"),
    "m.room.third_party_invite": ("display_name", "public_key", "key_validity_url"),
    "org.example.odd": ("anything",),
}
"""Types of state, and keys of their content that somebody may read."""

MESSAGES: Final[dict[str, tuple[str, ...]]] = {
    "m.room.message": ("body", "msgtype", "formatted_body", "m.relates_to", "m.mentions", "url"),
    "m.reaction": ("m.relates_to",),
    "m.room.encrypted": ("algorithm", "ciphertext", "m.relates_to"),
    "m.poll.start": ("m.poll.start",),
    "m.call.invite": ("call_id",),
}

RELATIONS: Final[tuple[Any, ...]] = (
    {"rel_type": "m.thread", "event_id": None},
    {"rel_type": None, "event_id": "$nothing"},
    {"rel_type": "m.annotation", "event_id": "$nothing", "key": {}},
    {"rel_type": "m.replace", "event_id": []},
    {"rel_type": "\0", "event_id": "\0"},
    {"m.in_reply_to": "$nothing"},
    {"m.in_reply_to": {"event_id": {}}},
)


@pytest.fixture(scope="module")
def odd_room(server: Server) -> tuple[User, str]:
    """A public room full of odd events, and its creator."""
    user = server.register()
    room_id = user.create_room(preset="public_chat", visibility="public")
    room = segment(room_id)
    for type_, keys in STATE.items():
        base = {"membership": "join"} if type_ == "m.room.member" else {}
        state_key = user.path if type_ == "m.room.member" else ""
        for key, value in itertools.product(keys, ODD):
            told = user.put(f"/rooms/{room}/state/{type_}/{state_key}", {**base, key: value})
            assert told.status in (200, 400, 403), (type_, key, value, told)
    for number, (type_, keys) in enumerate(MESSAGES.items()):
        for place, (key, value) in enumerate(itertools.product(keys, (*ODD, *RELATIONS))):
            path = f"/rooms/{room}/send/{type_}/{number}-{place}"
            told = user.put(path, {key: value})
            assert told.status == 200, (type_, key, value, told)
    assert user.put(f"/rooms/{room}/state/m.room.history_visibility", {}).status == 200
    return user, room_id


def test_every_way_to_read_odd_events_goes_on(server: Server, odd_room: tuple[User, str]) -> None:
    user, room_id = odd_room
    room = segment(room_id)
    stranger = server.register()
    stranger.post(f"/join/{room}").ok()
    for reader in (user, stranger):
        told = reader.get("/sync", timeout=0, full_state="true").ok()
        assert room_id in told["rooms"]["join"]
        lazy = '{"room":{"timeline":{"limit":1000},"state":{"lazy_load_members":true}}}'
        reader.get("/sync", timeout=0, filter=lazy).ok()
        for path in ("state", "members", "joined_members"):
            reader.get(f"/rooms/{room}/{path}").ok()
        assert _count_messages(reader, room) > 300
    last = user.get(f"/rooms/{room}/messages", dir="b", limit=1).ok()["chunk"][0]["event_id"]
    user.get(f"/rooms/{room}/event/{segment(last)}").ok()
    user.get(f"/rooms/{room}/context/{segment(last)}", limit=100).ok()


def _count_messages(reader: User, room: str) -> int:
    count = 0
    start: dict[str, Any] | None = {}
    while start is not None:
        page = reader.get(f"/rooms/{room}/messages", dir="b", limit=100, **start).ok()
        count += len(page["chunk"])
        start = {"from": page["end"]} if "end" in page else None
    return count


def test_every_event_is_told_as_it_was_sent(odd_room: tuple[User, str]) -> None:
    user, room_id = odd_room
    room = segment(room_id)
    for number, value in enumerate((*ODD, *RELATIONS)):
        path = f"/rooms/{room}/send/org.example.echo/{number}"
        event_id = user.put(path, {"value": value, "m.relates_to": value}).ok()["event_id"]
        told = user.get(f"/rooms/{room}/event/{segment(event_id)}").ok()
        assert told["content"] == {"value": value, "m.relates_to": value}


@pytest.mark.usefixtures("odd_room")
@pytest.mark.parametrize("projection", followed_projections(), ids=lambda p: p.name)
def test_followers_pass_odd_events(server: Server, projection: Any) -> None:
    follower = FollowedProjection(
        server.core.database, projection, monotonic=time.monotonic, batch_size=50
    )
    while follower.advance():
        pass


def test_directories_show_odd_rooms_and_users(server: Server, odd_room: tuple[User, str]) -> None:
    user, room_id = odd_room
    for projection in followed_projections():
        follower = FollowedProjection(server.core.database, projection, monotonic=time.monotonic)
        while follower.advance():
            pass
    listed = user.get("/publicRooms", limit=100).ok()["chunk"]
    assert room_id in [entry["room_id"] for entry in listed]
    for term in ("x", "\0", "", "%", "😀", "a" * 5000):
        body = {"filter": {"generic_search_term": term}}
        assert user.post("/publicRooms", body).status in (200, 400)
        searched = user.post("/user_directory/search", {"search_term": term})
        assert searched.status in (200, 400, 404)
