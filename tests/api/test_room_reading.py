"""Reading rooms: history, events, their surroundings, state and members."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.client import Server, User, segment

Json = dict[str, Any]


def send(user: User, room_id: str, body: str = "hello", type_: str = "m.room.message") -> str:
    """A message; its event ID."""
    path = f"/rooms/{room_id}/send/{type_}/t{next(user.server.numbers)}"
    event_id: str = user.put(path, {"msgtype": "m.text", "body": body}).ok()["event_id"]
    return event_id


def set_state(user: User, room_id: str, type_: str, content: Json, key: str = "") -> str:
    """A state event; its event ID."""
    path = f"/rooms/{room_id}/state/{type_}/{segment(key)}"
    event_id: str = user.put(path, content).ok()["event_id"]
    return event_id


def set_visibility(user: User, room_id: str, visibility: str) -> None:
    """Change the room's history visibility."""
    set_state(user, room_id, "m.room.history_visibility", {"history_visibility": visibility})


def join(user: User, room_id: str) -> None:
    """Join a room."""
    user.post(f"/rooms/{room_id}/join").ok()


def leave(user: User, room_id: str) -> None:
    """Leave a room."""
    user.post(f"/rooms/{room_id}/leave").ok()


def public_room(user: User, **options: Any) -> str:
    """A room anybody may join."""
    return user.create_room(preset="public_chat", **options)


def messages(user: User, room_id: str, direction: str = "b", **params: Any) -> Json:
    """A page of history; `filter` may be an object."""
    if isinstance(params.get("filter"), dict):
        params["filter"] = json.dumps(params["filter"])
    page: Json = user.get(f"/rooms/{room_id}/messages", dir=direction, **params).ok()
    return page


def bodies(events: list[Json]) -> list[str]:
    """What the messages among events say."""
    return [e["content"]["body"] for e in events if e["type"] == "m.room.message"]


def all_pages(user: User, room_id: str, direction: str, **params: Any) -> list[str]:
    """The event IDs of all pages, one after the other."""
    found: list[str] = []
    page = messages(user, room_id, direction, **params)
    while page["chunk"]:
        found += [e["event_id"] for e in page["chunk"]]
        if "end" not in page:
            break
        page = messages(user, room_id, direction, **{**params, "from": page["end"]})
    return found


# ---- /messages


def test_both_directions_tell_each_event_once_in_opposite_order(alice: User) -> None:
    room_id = alice.create_room()
    for number in range(20):
        send(alice, room_id, str(number))
    backwards = all_pages(alice, room_id, "b", limit=3)
    forwards = all_pages(alice, room_id, "f", limit=4)
    assert backwards == forwards[::-1]
    assert len(set(forwards)) == len(forwards)
    first = alice.get(f"/rooms/{room_id}/event/{segment(forwards[0])}").ok()
    assert first["type"] == "m.room.create"


def test_pages_backwards_end_at_the_beginning_of_the_room(alice: User) -> None:
    room_id = alice.create_room()
    page = messages(alice, room_id, limit=100)
    assert page["chunk"][-1]["type"] == "m.room.create"
    last = messages(alice, room_id, limit=100, **{"from": page["end"]})
    assert last["chunk"] == []
    assert "end" not in last


def test_prev_batch_continues_where_the_timeline_began(alice: User) -> None:
    room_id = alice.create_room()
    for number in range(5):
        send(alice, room_id, str(number))
    filter_ = json.dumps({"room": {"timeline": {"limit": 2}}})
    timeline = alice.get("/sync", filter=filter_).ok()["rooms"]["join"][room_id]["timeline"]
    page = messages(alice, room_id, limit=2, **{"from": timeline["prev_batch"]})
    assert bodies(page["chunk"]) == ["2", "1"]
    assert page["start"] == timeline["prev_batch"]


def test_next_batch_goes_forwards_to_what_came_later(alice: User) -> None:
    room_id = alice.create_room()
    send(alice, room_id, "old")
    since = alice.get("/sync").ok()["next_batch"]
    send(alice, room_id, "new")
    page = messages(alice, room_id, "f", **{"from": since})
    assert bodies(page["chunk"]) == ["new"]
    send(alice, room_id, "newer")
    assert bodies(messages(alice, room_id, "f", **{"from": page["end"]})["chunk"]) == ["newer"]


def test_page_stops_at_the_to_token(alice: User) -> None:
    room_id = alice.create_room()
    send(alice, room_id, "one")
    token = alice.get("/sync").ok()["next_batch"]
    send(alice, room_id, "two")
    send(alice, room_id, "three")
    assert bodies(messages(alice, room_id, to=token)["chunk"]) == ["three", "two"]


def test_messages_can_be_filtered(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    send(alice, room_id, "from alice")
    send(bob, room_id, "from bob")
    path = f"/rooms/{room_id}/send/m.room.message/u1"
    alice.put(path, {"msgtype": "m.image", "body": "picture", "url": "mxc://x/y"}).ok()
    only = {"types": ["m.room.message"]}
    for more, expected in (
        ({}, ["picture", "from bob", "from alice"]),
        ({"senders": [bob.user_id]}, ["from bob"]),
        ({"not_senders": [bob.user_id]}, ["picture", "from alice"]),
        ({"contains_url": True}, ["picture"]),
        ({"contains_url": False}, ["from bob", "from alice"]),
        ({"not_rooms": [room_id]}, []),
        ({"not_types": ["m.room.*"]}, []),
    ):
        page = messages(alice, room_id, filter={**only, **more})
        assert bodies(page["chunk"]) == expected
        assert len(page["chunk"]) == len(expected)


def test_filter_that_hides_nearly_everything_still_reaches_the_rest(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("architex.projections.room_reads.MAX_SCANNED", 4)
    monkeypatch.setattr("architex.usecases.room_reader.MAX_SCANNED", 4)
    room_id = alice.create_room()
    wanted = [send(alice, room_id, "1")]
    for _ in range(10):
        send(alice, room_id, type_="org.filler")
    wanted.append(send(alice, room_id, "2"))
    filter_ = {"types": ["m.room.message"]}
    for direction in ("b", "f"):
        found: list[str] = []
        page = messages(alice, room_id, direction, filter=filter_)
        for _ in range(30):
            found += [e["event_id"] for e in page["chunk"]]
            if "end" not in page:
                break
            params = {"from": page["end"], "filter": filter_}
            page = messages(alice, room_id, direction, **params)
            if direction == "f" and not page["chunk"] and "end" not in page:
                break
        assert found == (wanted if direction == "f" else wanted[::-1])


def test_lazily_loaded_members_are_those_of_the_senders(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    send(bob, room_id)
    page = messages(alice, room_id, limit=1, filter={"lazy_load_members": True})
    assert [(e["type"], e["state_key"]) for e in page["state"]] == [("m.room.member", bob.user_id)]
    assert "state" not in messages(alice, room_id, limit=1)


def test_redacted_events_are_pruned_everywhere(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id, "oops")
    alice.put(f"/rooms/{room_id}/redact/{segment(event_id)}/r1").ok()
    for path in ("messages?dir=b", f"event/{segment(event_id)}", f"context/{segment(event_id)}"):
        name, _, query = path.partition("?")
        params = dict([query.split("=")]) if query else {}
        answer = alice.get(f"/rooms/{room_id}/{name}", **params)
        assert "oops" not in json.dumps(answer.ok())


# ---- history visibility


@pytest.mark.parametrize(
    ("visibility", "without_join", "before_invite", "after_invite"),
    [
        ("world_readable", True, True, True),
        ("shared", False, True, True),
        ("invited", False, False, True),
        ("joined", False, False, False),
    ],
)
def test_history_visibility_decides_what_newcomers_see(
    alice: User,
    bob: User,
    visibility: str,
    without_join: bool,
    before_invite: bool,
    after_invite: bool,
) -> None:
    room_id = alice.create_room()
    set_visibility(alice, room_id, visibility)
    early = send(alice, room_id, "before invite")
    answer = bob.get(f"/rooms/{room_id}/messages", dir="b")
    assert answer.status == (200 if without_join else 403)
    if without_join:
        assert bodies(answer.json["chunk"]) == ["before invite"]
    event = bob.get(f"/rooms/{room_id}/event/{segment(early)}")
    assert event.status == (200 if without_join else 404)
    alice.post(f"/rooms/{room_id}/invite", {"user_id": bob.user_id}).ok()
    late = send(alice, room_id, "after invite")
    join(bob, room_id)
    expected = ["after invite"] * after_invite + ["before invite"] * before_invite
    assert bodies(messages(bob, room_id, limit=100)["chunk"]) == expected
    for event_id, is_visible in ((early, before_invite), (late, after_invite)):
        for resource in ("event", "context"):
            answer = bob.get(f"/rooms/{room_id}/{resource}/{segment(event_id)}")
            assert answer.status == (200 if is_visible else 404)


def test_hidden_stretches_are_skipped_without_ending_the_history(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    set_visibility(alice, room_id, "joined")
    for stay in range(3):
        send(alice, room_id, f"hidden {stay}")
        join(bob, room_id)
        send(alice, room_id, f"seen {stay}")
        leave(bob, room_id)
    join(bob, room_id)
    for direction, expected in (("b", [2, 1, 0]), ("f", [0, 1, 2])):
        found = []
        page = messages(bob, room_id, direction, limit=1)
        while page["chunk"]:
            found += bodies(page["chunk"])
            if "end" not in page:
                break
            page = messages(bob, room_id, direction, limit=1, **{"from": page["end"]})
        assert found == [f"seen {stay}" for stay in expected]


def test_departed_user_sees_the_room_as_it_was_then(alice: User, bob: User) -> None:
    room_id = public_room(alice, name="Den")
    join(bob, room_id)
    send(alice, room_id, "before")
    leave(bob, room_id)
    after = send(alice, room_id, "after")
    set_state(alice, room_id, "m.room.name", {"name": "secret"})
    assert bodies(messages(bob, room_id)["chunk"]) == ["before"]
    since = bob.get("/sync").ok()["next_batch"]
    page = messages(bob, room_id, "f", **{"from": since})
    assert page["chunk"] == []
    assert "end" not in page
    assert bob.get(f"/rooms/{room_id}/state/m.room.name").ok() == {"name": "Den"}
    state = bob.get(f"/rooms/{room_id}/state").ok()
    assert "secret" not in json.dumps(state)
    chunk = bob.get(f"/rooms/{room_id}/members").ok()["chunk"]
    memberships = {e["state_key"]: e["content"]["membership"] for e in chunk}
    assert memberships == {alice.user_id: "join", bob.user_id: "leave"}
    bob.get(f"/rooms/{room_id}/joined_members").refused(403, "M_FORBIDDEN")
    bob.get(f"/rooms/{room_id}/event/{segment(after)}").refused(404, "M_NOT_FOUND")


def test_forgotten_room_is_closed(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    leave(bob, room_id)
    bob.post(f"/rooms/{room_id}/forget").ok()
    bob.get(f"/rooms/{room_id}/messages", dir="b").refused(403, "M_FORBIDDEN")
    bob.get(f"/rooms/{room_id}/state").refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize("invited", [False, True])
def test_who_is_not_in_the_room_reads_nothing(alice: User, bob: User, invited: bool) -> None:
    room_id = alice.create_room(name="Den", invite=[bob.user_id] if invited else [])
    event_id = send(alice, room_id)
    for path in ("state", "state/m.room.name", "members", "joined_members"):
        bob.get(f"/rooms/{room_id}/{path}").refused(403, "M_FORBIDDEN")
    bob.get(f"/rooms/{room_id}/messages", dir="b").refused(403, "M_FORBIDDEN")
    bob.get(f"/rooms/{room_id}/context/{segment(event_id)}").refused(403, "M_FORBIDDEN")
    bob.get(f"/rooms/{room_id}/event/{segment(event_id)}").refused(404, "M_NOT_FOUND")


def test_unknown_room_looks_like_a_foreign_one(alice: User) -> None:
    alice.get("/rooms/!nowhere:x/messages", dir="b").refused(403, "M_FORBIDDEN")
    alice.get("/rooms/!nowhere:x/state").refused(403, "M_FORBIDDEN")
    alice.get("/rooms/!nowhere:x/event/$e").refused(404, "M_NOT_FOUND")


def test_anybody_reads_a_world_readable_room(alice: User, bob: User) -> None:
    room_id = alice.create_room(name="Den")
    set_visibility(alice, room_id, "world_readable")
    assert bob.get(f"/rooms/{room_id}/state/m.room.name").ok() == {"name": "Den"}
    assert bob.get(f"/rooms/{room_id}/state").ok()
    assert bob.get(f"/rooms/{room_id}/members").ok()["chunk"]
    bob.get(f"/rooms/{room_id}/joined_members").refused(403, "M_FORBIDDEN")


def test_event_of_another_room_is_not_found(alice: User) -> None:
    here, there = alice.create_room(), alice.create_room()
    event_id = send(alice, there)
    alice.get(f"/rooms/{here}/event/{segment(event_id)}").refused(404, "M_NOT_FOUND")
    alice.get(f"/rooms/{here}/context/{segment(event_id)}").refused(404, "M_NOT_FOUND")


# ---- /event and /context


def test_event_is_in_the_client_format(alice: User) -> None:
    room_id = alice.create_room()
    event_id = send(alice, room_id, "hi")
    event = alice.get(f"/rooms/{room_id}/event/{segment(event_id)}").ok()
    assert (event["event_id"], event["room_id"]) == (event_id, room_id)
    assert event["content"]["body"] == "hi"
    assert "prev_events" not in event


def test_context_has_events_on_both_sides(alice: User) -> None:
    room_id = alice.create_room()
    ids = [send(alice, room_id, str(number)) for number in range(7)]
    path = f"/rooms/{room_id}/context/{segment(ids[3])}"
    context = alice.get(path, limit=4).ok()
    assert bodies(context["events_before"]) == ["2", "1"]
    assert bodies(context["events_after"]) == ["4", "5"]
    assert context["event"]["event_id"] == ids[3]
    assert "m.room.create" in {e["type"] for e in context["state"]}
    before = messages(alice, room_id, limit=1, **{"from": context["start"]})
    after = messages(alice, room_id, "f", limit=1, **{"from": context["end"]})
    assert bodies(before["chunk"]) == ["0"]
    assert bodies(after["chunk"]) == ["6"]
    context = alice.get(path, limit=0).ok()
    assert (context["events_before"], context["events_after"]) == ([], [])


def test_context_filter_spares_the_event_itself(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    send(alice, room_id, "before")
    event_id = send(bob, room_id, type_="org.x")
    path = f"/rooms/{room_id}/context/{segment(event_id)}"
    filter_ = json.dumps({"types": ["m.room.message"], "lazy_load_members": True})
    context = alice.get(path, filter=filter_).ok()
    assert context["event"]["event_id"] == event_id
    assert bodies(context["events_before"]) == ["before"]
    assert len(context["events_before"]) == 1
    lazy = alice.get(path, limit=1, filter='{"lazy_load_members": true}').ok()
    members = [e["state_key"] for e in lazy["state"] if e["type"] == "m.room.member"]
    assert bob.user_id in members


# ---- state and members


def test_state_event_is_content_or_event(alice: User) -> None:
    room_id = alice.create_room(name="Den")
    for path in ("m.room.name", "m.room.name/"):
        assert alice.get(f"/rooms/{room_id}/state/{path}").ok() == {"name": "Den"}
    event = alice.get(f"/rooms/{room_id}/state/m.room.name", format="event").ok()
    assert (event["type"], event["state_key"], event["room_id"]) == ("m.room.name", "", room_id)
    own = {"membership": "join", "displayname": "Alice"}
    set_state(alice, room_id, "m.room.member", own, alice.user_id)
    member = alice.get(f"/rooms/{room_id}/state/m.room.member/{alice.path}", format="event").ok()
    assert member["unsigned"]["prev_content"] == {"membership": "join"}
    alice.get(f"/rooms/{room_id}/state/m.room.topic").refused(404, "M_NOT_FOUND")
    answer = alice.get(f"/rooms/{room_id}/state/m.room.name", format="xml")
    answer.refused(400, "M_INVALID_PARAM")


def test_members_can_be_filtered_and_dated(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    earlier = alice.get("/sync").ok()["next_batch"]
    join(bob, room_id)
    leave(bob, room_id)

    def members(**params: Any) -> set[str]:
        chunk = alice.get(f"/rooms/{room_id}/members", **params).ok()["chunk"]
        return {e["state_key"] for e in chunk}

    assert members() == {alice.user_id, bob.user_id}
    assert members(membership="join") == {alice.user_id}
    assert members(not_membership="join") == {bob.user_id}
    assert members(membership="join", not_membership="join") == {alice.user_id, bob.user_id}
    assert members(membership="ban", not_membership="leave") == {alice.user_id}
    assert members(at=earlier) == {alice.user_id}


def test_members_are_dated_no_earlier_than_what_one_may_see(
    alice: User, bob: User, server: Server
) -> None:
    room_id = public_room(alice)
    own = f"/rooms/{room_id}/state/m.room.member/{alice.path}"
    alice.put(own, {"membership": "join", "displayname": "Secret"}).ok()
    earlier = alice.get("/sync").ok()["next_batch"]
    alice.put(own, {"membership": "join", "displayname": "Alice"}).ok()
    carol = server.register()
    join(carol, room_id)
    set_visibility(alice, room_id, "joined")
    leave(carol, room_id)
    alice.put(own, {"membership": "join", "displayname": "Hidden"}).ok()
    hidden = alice.get("/sync").ok()["next_batch"]
    alice.put(own, {"membership": "join", "displayname": "Open"}).ok()
    join(carol, room_id)
    join(bob, room_id)

    def name(user: User, at: str) -> Any:
        chunk = user.get(f"/rooms/{room_id}/members", at=at).ok()["chunk"]
        return next(e["content"]["displayname"] for e in chunk if e["sender"] == alice.user_id)

    assert [name(alice, at) for at in (earlier, hidden)] == ["Secret", "Hidden"]
    assert [name(carol, at) for at in (earlier, hidden)] == ["Secret", "Open"]
    assert name(bob, hidden) == "Open"


def test_joined_members_have_names_and_avatars(alice: User, bob: User) -> None:
    room_id = public_room(alice)
    join(bob, room_id)
    content = {"membership": "join", "displayname": "Bob", "avatar_url": "mxc://x/y"}
    set_state(bob, room_id, "m.room.member", content, bob.user_id)
    joined = alice.get(f"/rooms/{room_id}/joined_members").ok()["joined"]
    assert joined[bob.user_id] == {"display_name": "Bob", "avatar_url": "mxc://x/y"}
    assert joined[alice.user_id]["avatar_url"] is None
    leave(bob, room_id)
    joined = alice.get(f"/rooms/{room_id}/joined_members").ok()["joined"]
    assert set(joined) == {alice.user_id}


@pytest.mark.parametrize(
    ("path", "params", "errcode"),
    [
        ("messages", {}, "M_MISSING_PARAM"),
        ("messages", {"dir": "x"}, "M_INVALID_PARAM"),
        ("messages", {"dir": "b", "from": "END"}, "M_INVALID_PARAM"),
        ("messages", {"dir": "b", "to": "END"}, "M_INVALID_PARAM"),
        ("messages", {"dir": "b", "limit": "-1"}, "M_INVALID_PARAM"),
        ("messages", {"dir": "b", "limit": "many"}, "M_INVALID_PARAM"),
        ("messages", {"dir": "b", "filter": "[]"}, "M_INVALID_PARAM"),
        ("messages", {"dir": "b", "filter": "{"}, "M_NOT_JSON"),
        ("messages", {"dir": "b", "filter": '{"types": 1}'}, "M_BAD_JSON"),
        ("members", {"membership": "guest"}, "M_INVALID_PARAM"),
        ("members", {"at": "then"}, "M_INVALID_PARAM"),
    ],
)
def test_bad_parameters_are_refused(
    alice: User, path: str, params: dict[str, str], errcode: str
) -> None:
    room_id = alice.create_room()
    alice.get(f"/rooms/{room_id}/{path}", **params).refused(400, errcode)


def test_extreme_tokens_do_no_harm(alice: User) -> None:
    room_id = alice.create_room()
    for token in ("t-4611686018427387904", "t4611686018427387904", "s0", "t0"):
        for direction in ("b", "f"):
            messages(alice, room_id, direction, **{"from": token})


def test_reading_needs_a_token(server: Server) -> None:
    for path in ("messages", "state", "members", "joined_members", "event/$e", "context/$e"):
        answer = server.request("GET", f"/rooms/!r:x/{path}", params={"dir": "b"})
        answer.refused(401, "M_MISSING_TOKEN")


@pytest.mark.parametrize("odd", ["%00", "a%00b", "%ED%A0%80", "%FF", "%F0%9F%98%80"])
def test_odd_characters_in_paths_do_no_harm(alice: User, odd: str) -> None:
    room_id = alice.create_room()
    for path in (
        f"/rooms/!{odd}:x/messages",
        f"/rooms/!{odd}:x/state",
        f"/rooms/{room_id}/state/{odd}",
        f"/rooms/{room_id}/state/m.room.name/{odd}",
        f"/rooms/{room_id}/event/{odd}",
        f"/rooms/{room_id}/context/{odd}",
        f"/rooms/!{odd}:x/members",
    ):
        assert alice.get(path, dir="b").status in (400, 403, 404), path
    assert alice.post(f"/rooms/{room_id}/receipt/m.read/{odd}").status in (400, 404)
    assert alice.put(f"/rooms/!{odd}:x/typing/{alice.path}", {"typing": True}).status in (400, 403)
    for marker in ("\0", "a\0"):
        body = {"m.fully_read": marker}
        assert alice.post(f"/rooms/{room_id}/read_markers", body).status in (400, 404)


@pytest.mark.parametrize(
    "odd", ["\\u0000", "\\ud800", "%", "_", "\\\\", "\\u0001", "*", "*" * 500]
)
def test_odd_characters_in_filters_do_no_harm(alice: User, odd: str) -> None:
    room_id = alice.create_room()
    send(alice, room_id)
    for key in ("types", "not_types", "senders", "not_senders", "rooms", "not_rooms"):
        filter_ = f'{{"{key}": ["{odd}"]}}'
        answer = alice.get(f"/rooms/{room_id}/messages", dir="b", filter=filter_)
        assert answer.status in (200, 400)
        assert alice.get("/sync", filter=f'{{"room": {{"timeline": {filter_}}}}}').status in (
            200,
            400,
        )
