"""Finding people, through the client API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import SERVER_NAME, Server, User, segment


def named(server: Server, displayname: str) -> User:
    """A new user of that name."""
    user = server.register()
    user.put(f"/profile/{user.path}/displayname", {"displayname": displayname}).ok()
    return user


def found(user: User, term: str, **more: Any) -> list[str]:
    """The user IDs that a search finds."""
    body = {"search_term": term, **more}
    answer = user.post("/user_directory/search", body).ok()
    return [result["user_id"] for result in answer["results"]]


def test_users_of_public_rooms_are_found_by_everybody(server: Server, bob: User) -> None:
    zoe = named(server, "Zoë Quibble")
    zoe.create_room(preset="public_chat")
    for term in (
        "Zoë Quibble",
        "zoë",
        "QUIB",
        "quibble zo",
        "\uff51\uff55\uff49\uff42",
        zoe.user_id,
        zoe.user_id[:-3],
    ):
        assert found(bob, term) == [zoe.user_id], term
    for term in ("uibble", "zoë nobody", "", " ", "@", "'|", "zoe & !zoë", "\\", "a\0b"):
        assert zoe.user_id not in found(bob, term), term


def test_result_shows_the_profile(server: Server, bob: User) -> None:
    yan = named(server, "Yan Xerxes")
    yan.put(f"/profile/{yan.path}/avatar_url", {"avatar_url": "mxc://a/b"}).ok()
    yan.create_room(preset="public_chat")
    answer = bob.post("/user_directory/search", {"search_term": "xerxes"}).ok()
    assert answer == {
        "results": [
            {"user_id": yan.user_id, "display_name": "Yan Xerxes", "avatar_url": "mxc://a/b"}
        ],
        "limited": False,
    }


def test_users_of_private_rooms_are_found_by_those_who_share_one(
    server: Server, bob: User
) -> None:
    vera = named(server, "Vera Private")
    room_id = vera.create_room(preset="private_chat", invite=[bob.user_id])
    assert found(bob, "vera") == []
    assert found(vera, "vera") == []
    bob.post(f"/join/{segment(room_id)}").ok()
    assert found(bob, "vera") == [vera.user_id]
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert found(bob, "vera") == []


@pytest.mark.parametrize(
    ("type", "opened", "closed"),
    [
        ("join_rules", {"join_rule": "public"}, {"join_rule": "invite"}),
        (
            "history_visibility",
            {"history_visibility": "world_readable"},
            {"history_visibility": "shared"},
        ),
    ],
)
def test_users_appear_and_disappear_with_the_openness_of_their_room(
    server: Server, bob: User, type: str, opened: dict[str, Any], closed: dict[str, Any]
) -> None:
    uma = named(server, f"Uma{type.replace('_', '')}")
    path = f"/rooms/{segment(uma.create_room())}/state/m.room.{type}"
    term = f"uma{type.replace('_', '')}"
    assert found(bob, term) == []
    uma.put(path, opened).ok()
    assert found(bob, term) == [uma.user_id]
    uma.put(path, closed).ok()
    assert found(bob, term) == []


def test_user_is_found_by_the_new_name_and_not_the_old(server: Server, bob: User) -> None:
    tom = named(server, "Tomtom Oldname")
    tom.create_room(preset="public_chat")
    assert found(bob, "oldname") == [tom.user_id]
    tom.put(f"/profile/{tom.path}/displayname", {"displayname": "Tomtom Newname"}).ok()
    assert found(bob, "newname") == [tom.user_id]
    assert found(bob, "oldname") == []


def test_name_for_one_room_is_not_told_elsewhere(server: Server, bob: User) -> None:
    sam = named(server, "Sam Known")
    sam.create_room(preset="public_chat")
    private = sam.create_room(preset="private_chat")
    content = {"membership": "join", "displayname": "Secretagent"}
    sam.put(f"/rooms/{segment(private)}/state/m.room.member/{sam.path}", content).ok()
    assert found(bob, "secretagent") == []
    answer = bob.post("/user_directory/search", {"search_term": sam.user_id}).ok()
    assert answer["results"] == [{"user_id": sam.user_id, "display_name": "Sam Known"}]


def test_search_says_when_there_are_more(server: Server, bob: User) -> None:
    rex = [named(server, "Rex Many") for _ in range(3)]
    for user in rex:
        user.create_room(preset="public_chat")
    for limit, limited in ((2, True), (3, False)):
        answer = bob.post("/user_directory/search", {"search_term": "rex", "limit": limit}).ok()
        assert len(answer["results"]) == limit
        assert answer["limited"] is limited
    assert found(bob, "rex", limit=0) == []


def test_whole_words_come_before_beginnings(server: Server, bob: User) -> None:
    longer = named(server, "Quentin")
    exact = named(server, "Quent")
    for user in (longer, exact):
        user.create_room(preset="public_chat")
    assert found(bob, "quent") == [exact.user_id, longer.user_id]


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"search_term": 7}, "M_BAD_JSON"),
        ({"search_term": "a", "limit": "3"}, "M_BAD_JSON"),
        ({"search_term": "a", "limit": -3}, "M_INVALID_PARAM"),
    ],
)
def test_odd_searches_are_refused(alice: User, body: dict[str, Any], errcode: str) -> None:
    alice.post("/user_directory/search", body).refused(400, errcode)


def test_search_needs_an_account(server: Server) -> None:
    answer = server.request("POST", "/user_directory/search", {"search_term": SERVER_NAME})
    answer.refused(401, "M_MISSING_TOKEN")
