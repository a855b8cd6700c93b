"""Room aliases and the list of rooms, through the client API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from architex.settings import RateLimitSettings, RoomDirectorySettings, RoomSettings
from tests.api.client import (
    SERVER_NAME,
    Server,
    User,
    segment,
    settings_for,
    start_server,
    stop_server,
)
from tests.conftest import DatabaseFactory


def alias_path(localpart: str, server_name: str = SERVER_NAME) -> str:
    return "/directory/room/" + segment(f"#{localpart}:{server_name}")


def state_path(room_id: str, type: str) -> str:
    return f"/rooms/{segment(room_id)}/state/{type}"


def make_admin(server: Server, user: User) -> None:
    server.core.database.execute(
        "UPDATE users SET is_admin = true WHERE user_id = %s", (user.user_id,)
    )


def public_rooms(user: User, body: Mapping[str, Any] | None = None) -> Any:
    return user.post("/publicRooms", body or {}).ok()


@pytest.fixture
def server_with(make_database: DatabaseFactory, tmp_path: Path) -> Iterator[Any]:
    """Make a server of other settings."""
    started: list[Server] = []

    def make(**changes: Any) -> Server:
        settings = settings_for(tmp_path, rate_limits=RateLimitSettings(enabled=False), **changes)
        started.append(start_server(make_database(), settings))
        return started[-1]

    yield make
    for server in started:
        stop_server(server)


# Aliases


def test_alias_leads_to_its_room(server: Server, alice: User) -> None:
    room_id = alice.create_room()
    alice.put(alias_path("lead"), {"room_id": room_id}).ok()
    found = server.request("GET", alias_path("lead")).ok()  # needs no account
    assert found == {"room_id": room_id, "servers": [SERVER_NAME]}


def test_alias_may_be_of_any_script_and_have_slashes(alice: User) -> None:
    room_id = alice.create_room()
    for localpart in ("☕", "a/b", "%2F", "#?&=", "'\""):
        alice.put(alias_path(localpart), {"room_id": room_id}).ok()
        assert alice.get(alias_path(localpart)).ok()["room_id"] == room_id


def test_taken_alias_is_refused_even_for_the_same_room(alice: User) -> None:
    room_id = alice.create_room()
    alice.put(alias_path("taken"), {"room_id": room_id}).ok()
    alice.put(alias_path("taken"), {"room_id": room_id}).refused(409, "M_UNKNOWN")


@pytest.mark.parametrize(
    "alias", ["nohash:test.example", "#noserver", "#a b:test.example", "#:test.example", "#x:y z"]
)
def test_what_is_no_alias_cannot_be_made(alice: User, alias: str) -> None:
    path = "/directory/room/" + segment(alias)
    alice.put(path, {"room_id": alice.create_room()}).refused(400, "M_INVALID_PARAM")


@pytest.mark.parametrize("alias", ["nohash:test.example", "#noserver", "#x:y z"])
def test_what_is_no_alias_leads_nowhere(alice: User, alias: str) -> None:
    alice.get("/directory/room/" + segment(alias)).refused(400, "M_INVALID_PARAM")


def test_alias_of_another_server_cannot_be_made_or_deleted_here(alice: User) -> None:
    path = alias_path("far", "elsewhere.example")
    alice.put(path, {"room_id": alice.create_room()}).refused(400, "M_INVALID_PARAM")
    alice.delete(path).refused(400, "M_INVALID_PARAM")
    alice.get(path).refused(502, "M_UNKNOWN")


def test_unknown_alias_leads_nowhere(alice: User) -> None:
    alice.get(alias_path("nobody")).refused(404, "M_NOT_FOUND")
    alice.delete(alias_path("nobody")).refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"room_id": 7}, "M_BAD_JSON"),
        ({"room_id": "room"}, "M_INVALID_PARAM"),
        ({"room_id": "!a\0b:c"}, "M_INVALID_PARAM"),
        ([], "M_BAD_JSON"),
    ],
)
def test_alias_needs_a_room_id(alice: User, body: Any, errcode: str) -> None:
    alice.put(alias_path("bodiless"), body).refused(400, errcode)


def test_only_members_may_make_aliases(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.put(alias_path("outsider"), {"room_id": room_id}).refused(403, "M_FORBIDDEN")
    bob.post(f"/join/{segment(room_id)}").ok()
    bob.put(alias_path("insider"), {"room_id": room_id}).ok()
    bob.put(alias_path("unknown"), {"room_id": "!no:where"}).refused(403, "M_FORBIDDEN")


def test_aliases_may_be_made_from_outside_where_the_operator_says_so(server_with: Any) -> None:
    server = server_with(rooms=RoomSettings(aliases_require_membership=False))
    alice, bob = server.register(), server.register()
    bob.put(alias_path("out"), {"room_id": alice.create_room()}).ok()
    bob.put(alias_path("none"), {"room_id": "!no:where"}).refused(404, "M_NOT_FOUND")


def test_alias_is_deleted_by_its_maker_or_by_who_may_set_the_rooms_aliases(
    server: Server, alice: User, bob: User
) -> None:
    carol = server.register()
    room_id = alice.create_room(preset="public_chat")
    for user in (bob, carol):
        user.post(f"/join/{segment(room_id)}").ok()
    for localpart in ("d1", "d2", "d3"):
        bob.put(alias_path(localpart), {"room_id": room_id}).ok()
    carol.delete(alias_path("d1")).refused(403, "M_FORBIDDEN")
    bob.delete(alias_path("d1")).ok()
    alice.delete(alias_path("d2")).ok()
    make_admin(server, carol)
    carol.delete(alias_path("d3")).ok()
    assert alice.get(f"/rooms/{segment(room_id)}/aliases").ok() == {"aliases": []}
    server.request("DELETE", alias_path("d1")).refused(401, "M_MISSING_TOKEN")


def test_deleted_alias_leaves_the_rooms_canonical_alias(alice: User) -> None:
    room_id = alice.create_room(room_alias_name="canon")
    alias, other = f"#canon:{SERVER_NAME}", f"#canon2:{SERVER_NAME}"
    alice.put(alias_path("canon2"), {"room_id": room_id}).ok()
    content = {"alias": alias, "alt_aliases": [alias, other], "extra": 1}
    alice.put(state_path(room_id, "m.room.canonical_alias"), content).ok()
    alice.delete(alias_path("canon")).ok()
    left = alice.get(state_path(room_id, "m.room.canonical_alias")).ok()
    assert left == {"alt_aliases": [other], "extra": 1}
    alice.delete(alias_path("canon2")).ok()
    assert alice.get(state_path(room_id, "m.room.canonical_alias")).ok() == {"extra": 1}
    alice.get(alias_path("canon")).refused(404, "M_NOT_FOUND")


def test_alias_goes_even_if_its_maker_may_not_change_the_room(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/join/{segment(room_id)}").ok()
    bob.put(alias_path("powerless"), {"room_id": room_id}).ok()
    content = {"alias": f"#powerless:{SERVER_NAME}"}
    alice.put(state_path(room_id, "m.room.canonical_alias"), content).ok()
    bob.delete(alias_path("powerless")).ok()
    alice.get(alias_path("powerless")).refused(404, "M_NOT_FOUND")
    assert alice.get(state_path(room_id, "m.room.canonical_alias")).ok() == content


def test_only_members_may_list_aliases_of_a_room_that_not_everybody_reads(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(room_alias_name="listed")
    path = f"/rooms/{segment(room_id)}/aliases"
    assert alice.get(path).ok() == {"aliases": [f"#listed:{SERVER_NAME}"]}
    bob.get(path).refused(403, "M_FORBIDDEN")
    bob.get("/rooms/!no:where/aliases").refused(403, "M_FORBIDDEN")
    visibility = {"history_visibility": "world_readable"}
    alice.put(state_path(room_id, "m.room.history_visibility"), visibility).ok()
    assert bob.get(path).ok() == {"aliases": [f"#listed:{SERVER_NAME}"]}


# m.room.canonical_alias and createRoom


@pytest.mark.parametrize(
    ("content", "errcode"),
    [
        ({"alias": f"#missing:{SERVER_NAME}"}, "M_BAD_ALIAS"),
        ({"alias": f"#other:{SERVER_NAME}"}, "M_BAD_ALIAS"),
        ({"alias": "#missing:elsewhere.example"}, "M_BAD_ALIAS"),
        ({"alt_aliases": [f"#missing:{SERVER_NAME}"]}, "M_BAD_ALIAS"),
        ({"alias": f"%other:{SERVER_NAME}"}, "M_INVALID_PARAM"),
        ({"alias": 7}, "M_INVALID_PARAM"),
        ({"alt_aliases": ["no alias"]}, "M_INVALID_PARAM"),
        ({"alt_aliases": [{}]}, "M_INVALID_PARAM"),
        ({"alt_aliases": "#a:b"}, "M_INVALID_PARAM"),
    ],
)
def test_canonical_alias_must_point_at_the_room(
    alice: User, content: dict[str, Any], errcode: str
) -> None:
    alice.put(alias_path("other"), {"room_id": alice.create_room()})
    path = state_path(alice.create_room(), "m.room.canonical_alias")
    alice.put(path, content).refused(400, errcode)


def test_canonical_alias_may_keep_what_it_had(server: Server, alice: User) -> None:
    room_id = alice.create_room(room_alias_name="kept")
    path = state_path(room_id, "m.room.canonical_alias")
    alias = f"#kept:{SERVER_NAME}"
    server.core.database.execute("DELETE FROM room_aliases WHERE room_alias = %s", (alias,))
    alice.put(path, {"alias": alias, "note": "still here"}).ok()
    alice.put(path, {"alt_aliases": [alias]}).ok()
    alice.put(path, {"alias": ""}).ok()
    alice.put(path, {"alias": None}).ok()
    alice.put(path, {"alias": alias}).refused(400, "M_BAD_ALIAS")


def test_room_is_created_with_its_alias_or_not_at_all(alice: User) -> None:
    room_id = alice.create_room(room_alias_name="born")
    assert alice.get(alias_path("born")).ok()["room_id"] == room_id
    again = alice.post("/createRoom", {"room_alias_name": "born"})
    again.refused(400, "M_ROOM_IN_USE")
    for name in ("", "a b", "a:b"):
        odd = alice.post("/createRoom", {"room_alias_name": name})
        odd.refused(400, "M_INVALID_PARAM")


# The list of rooms


def test_published_room_is_listed_with_what_it_shows(server_with: Any) -> None:
    server = server_with(room_directory=RoomDirectorySettings(unauthenticated=True))
    alice = server.register()
    room_id = alice.create_room(
        visibility="public",
        name="Garden",
        topic="Weeds",
        room_alias_name="garden",
        creation_content={"type": "m.space"},
        initial_state=[{"type": "m.room.avatar", "content": {"url": "mxc://a/b"}}],
    )
    bare = alice.create_room(visibility="public")
    alice.create_room(name="Secret")
    listed = server.request("GET", "/publicRooms").ok()
    assert listed == {
        "chunk": [
            {
                "room_id": room_id,
                "name": "Garden",
                "topic": "Weeds",
                "canonical_alias": f"#garden:{SERVER_NAME}",
                "avatar_url": "mxc://a/b",
                "room_type": "m.space",
                "join_rule": "public",
                "num_joined_members": 1,
                "world_readable": False,
                "guest_can_join": False,
            },
            {
                "room_id": bare,
                "join_rule": "public",
                "num_joined_members": 1,
                "world_readable": False,
                "guest_can_join": False,
            },
        ],
        "total_room_count_estimate": 2,
    }


def test_room_that_cannot_be_listed_yet_is_not_counted(alice: User) -> None:
    listed = public_rooms(alice)["total_room_count_estimate"]
    alice.create_room(visibility="public")
    assert public_rooms(alice)["total_room_count_estimate"] == listed + 1
    # As before what is shown of it was brought up to date.
    alice.server.core.database.execute("DELETE FROM room_directory")
    assert public_rooms(alice) == {"chunk": [], "total_room_count_estimate": 0}


def test_list_of_rooms_needs_an_account_unless_the_operator_says_otherwise(
    server: Server,
) -> None:
    server.request("GET", "/publicRooms").refused(401, "M_MISSING_TOKEN")
    server.request("POST", "/publicRooms", {}).refused(401, "M_MISSING_TOKEN")


def test_pages_of_the_list_hold_each_room_once_in_both_directions(server_with: Any) -> None:
    server = server_with()
    alice, bob, carol = (server.register() for _ in range(3))
    rooms = [alice.create_room(visibility="public", name=f"Room {n}") for n in range(8)]
    for user, joined in ((bob, (2, 5)), (carol, (5,))):
        for n in joined:
            user.post(f"/join/{segment(rooms[n])}").ok()
    in_order = [rooms[n] for n in (5, 2, 0, 1, 3, 4, 6, 7)]

    pages, since = [], None
    while True:
        page = public_rooms(alice, {"limit": 3, **({"since": since} if since else {})})
        assert page["total_room_count_estimate"] == 8
        pages.append(page)
        since = page.get("next_batch")
        if since is None:
            break
    forwards = [[room["room_id"] for room in page["chunk"]] for page in pages]
    assert forwards == [in_order[:3], in_order[3:6], in_order[6:]]
    assert "prev_batch" not in pages[0]

    back, since = [], pages[-1]["prev_batch"]
    while since is not None:
        page = public_rooms(alice, {"limit": 3, "since": since})
        back.append([room["room_id"] for room in page["chunk"]])
        assert public_rooms(alice, {"limit": 3, "since": page["next_batch"]})["chunk"]
        since = page.get("prev_batch")
    assert back == [in_order[3:6], in_order[:3]]
    assert [r["room_id"] for r in public_rooms(alice)["chunk"]] == in_order


def test_list_of_rooms_is_searched_without_regard_to_case(server_with: Any) -> None:
    server = server_with()
    alice = server.register()
    french = alice.create_room(visibility="public", name="Un Nom FRANÇAIS", topic="100% _fun_")
    space = alice.create_room(
        visibility="public", name="Weltraum", creation_content={"type": "m.space"}
    )

    def found(**room_filter: Any) -> list[str]:
        return [r["room_id"] for r in public_rooms(alice, {"filter": room_filter})["chunk"]]

    assert found(generic_search_term="français") == [french]
    assert found(generic_search_term="fun nom") == [french]
    assert found(generic_search_term="0%") == [french]
    assert found(generic_search_term="1_0") == []
    assert found(generic_search_term="x\0y\\") == []
    assert found(generic_search_term="") == [french, space]
    assert found(room_types=["m.space"]) == [space]
    assert found(room_types=[None]) == [french]
    assert found(room_types=[None, "m.space"]) == [french, space]
    assert found(room_types=[]) == []
    assert found(room_types=["m.space"], generic_search_term="nom") == []


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"limit": -1}, "M_INVALID_PARAM"),
        ({"limit": "10"}, "M_BAD_JSON"),
        ({"limit": True}, "M_BAD_JSON"),
        ({"since": "garbage"}, "M_INVALID_PARAM"),
        ({"since": 7}, "M_BAD_JSON"),
        ({"filter": "x"}, "M_BAD_JSON"),
        ({"filter": {"room_types": [7]}}, "M_BAD_JSON"),
        ({"filter": {"room_types": ["a\0b"]}}, "M_BAD_JSON"),
        ({"include_all_networks": True, "third_party_instance_id": "irc"}, "M_INVALID_PARAM"),
    ],
)
def test_odd_questions_about_the_list_are_refused(
    alice: User, body: dict[str, Any], errcode: str
) -> None:
    alice.post("/publicRooms", body).refused(400, errcode)


def test_list_of_this_server_may_be_asked_for_by_name(alice: User) -> None:
    room_id = alice.create_room(visibility="public")
    listed = alice.get("/publicRooms", server=SERVER_NAME).ok()["chunk"]
    assert room_id in [room["room_id"] for room in listed]
    alice.get("/publicRooms", server="elsewhere.example").refused(502, "M_UNKNOWN")
    alice.get("/publicRooms", server="no server").refused(400, "M_INVALID_PARAM")
    alice.get("/publicRooms", limit="x").refused(400, "M_INVALID_PARAM")
    none = alice.post("/publicRooms", {"third_party_instance_id": "irc-example"}).ok()
    assert none["chunk"] == []


def test_room_without_members_is_not_listed(server_with: Any) -> None:
    server = server_with()
    alice = server.register()
    room_id = alice.create_room(visibility="public")
    assert len(public_rooms(alice)["chunk"]) == 1
    alice.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert public_rooms(alice) == {"chunk": [], "total_room_count_estimate": 0}


def test_room_is_published_and_withdrawn_by_who_may_set_its_aliases(
    server: Server, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    path = f"/directory/list/room/{segment(room_id)}"
    bob.post(f"/join/{segment(room_id)}").ok()
    assert server.request("GET", path).ok() == {"visibility": "private"}
    bob.put(path, {"visibility": "public"}).refused(403, "M_FORBIDDEN")
    alice.put(path, {}).ok()
    assert server.request("GET", path).ok() == {"visibility": "public"}
    alice.put(path, {"visibility": "public"}).ok()
    bob.put(path, {"visibility": "private"}).refused(403, "M_FORBIDDEN")
    alice.put(path, {"visibility": "private"}).ok()
    assert server.request("GET", path).ok() == {"visibility": "private"}
    make_admin(server, bob)
    bob.put(path, {"visibility": "public"}).ok()
    alice.put(path, {"visibility": "secret"}).refused(400, "M_INVALID_PARAM")
    alice.put(path, {"visibility": 1}).refused(400, "M_BAD_JSON")


def test_visibility_of_an_unknown_room_is_not_found(alice: User) -> None:
    path = "/directory/list/room/!no:where"
    alice.get(path).refused(404, "M_NOT_FOUND")
    alice.put(path, {}).refused(404, "M_NOT_FOUND")
    alice.get("/directory/list/room/nothing").refused(400, "M_INVALID_PARAM")


def test_only_administrators_publish_where_the_operator_says_so(server_with: Any) -> None:
    server = server_with(room_directory=RoomDirectorySettings(anyone_may_publish=False))
    alice, bob = server.register(), server.register()
    room_id = alice.create_room()
    path = f"/directory/list/room/{segment(room_id)}"
    alice.put(path, {"visibility": "public"}).refused(403, "M_FORBIDDEN")
    alice.post("/createRoom", {"visibility": "public"}).refused(403, "M_FORBIDDEN")
    make_admin(server, bob)
    bob.put(path, {"visibility": "public"}).ok()
    alice.put(path, {"visibility": "private"}).ok()


def test_lists_of_networks_are_for_application_services(alice: User) -> None:
    path = f"/directory/list/appservice/irc/{segment(alice.create_room())}"
    alice.put(path, {"visibility": "public"}).refused(403, "M_FORBIDDEN")
