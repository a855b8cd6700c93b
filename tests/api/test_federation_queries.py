"""What other servers ask about our users, aliases and rooms; and what people ask about theirs.

Spec: https://spec.matrix.org/v1.19/server-server-api/#querying-for-information
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from architex.gateways.errors import RemoteRefused, RemoteTimedOut, RemoteUnintelligible
from architex.settings import RateLimit, RateLimitSettings, RoomDirectorySettings
from tests.api.client import SERVER_NAME, Answer, User, segment, stop_server
from tests.federation.visitors import Visitor, World
from tests.following import follow_to_the_end

Json = dict[str, Any]

PROFILE = "/_matrix/federation/v1/query/profile"
DIRECTORY = "/_matrix/federation/v1/query/directory"
ROOMS = "/_matrix/federation/v1/publicRooms"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def world(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    started = World(
        module_database_url,
        tmp_path_factory.mktemp("server"),
        rate_limits=RateLimitSettings(enabled=False),
        room_directory=RoomDirectorySettings(over_federation=True),
    )
    yield started
    stop_server(started.server)


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(f"peer{next(_numbers)}.example")


def query(visitor: Visitor, what: str, **params: Any) -> Answer:
    return visitor.request("GET", ["v1", "query", what], **params)


# ---- profiles


def test_profile_is_told_whole_or_by_field(alice: User, visitor: Visitor) -> None:
    alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Alice"}).ok()
    alice.put(f"/profile/{alice.path}/m.tz", {"m.tz": "Europe/Berlin"}).ok()
    whole = query(visitor, "profile", user_id=alice.user_id).ok()
    assert whole == {"displayname": "Alice", "m.tz": "Europe/Berlin"}
    for field, expected in (
        ("displayname", {"displayname": "Alice"}),
        ("m.tz", {"m.tz": "Europe/Berlin"}),
        ("avatar_url", {}),
    ):
        told = query(visitor, "profile", user_id=alice.user_id, field=field).ok()
        assert told == expected


@pytest.mark.parametrize(
    ("params", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"user_id": ""}, 400, "M_MISSING_PARAM"),
        ({"user_id": "alice"}, 400, "M_INVALID_PARAM"),
        ({"user_id": "@alice:elsewhere.example"}, 400, "M_INVALID_PARAM"),
        ({"user_id": f"@nobody:{SERVER_NAME}"}, 404, "M_NOT_FOUND"),
        ({"user_id": f"@nobody:{SERVER_NAME}", "field": "displayname"}, 404, "M_NOT_FOUND"),
        ({"user_id": f"@nobody:{SERVER_NAME}", "field": "password"}, 400, "M_INVALID_PARAM"),
        ({"user_id": f"@nobody:{SERVER_NAME}", "field": "a." * 200}, 400, "M_KEY_TOO_LARGE"),
    ],
)
def test_odd_questions_for_profiles_are_refused(
    visitor: Visitor, params: Json, status: int, errcode: str
) -> None:
    query(visitor, "profile", **params).refused(status, errcode)


def test_field_that_is_not_set_is_not_found(alice: User, visitor: Visitor) -> None:
    answer = query(visitor, "profile", user_id=alice.user_id, field="org.example.more")
    answer.refused(404, "M_NOT_FOUND")


def test_ended_account_has_no_profile(alice: User, visitor: Visitor) -> None:
    alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    query(visitor, "profile", user_id=alice.user_id).refused(404, "M_NOT_FOUND")


def test_only_servers_may_ask(world: World) -> None:
    for path in (
        f"{PROFILE}?user_id=@a:{SERVER_NAME}",
        f"{DIRECTORY}?room_alias=%23a:{SERVER_NAME}",
        ROOMS,
        "/_matrix/federation/v1/hierarchy/!a:b.c",
    ):
        world.server.request("GET", path).refused(401, "M_UNAUTHORIZED")
    world.server.request("POST", ROOMS, {}).refused(401, "M_UNAUTHORIZED")


def test_unknown_kind_of_query_is_refused(visitor: Visitor) -> None:
    query(visitor, "weather").refused(404, "M_UNRECOGNIZED")


# ---- aliases


def test_alias_leads_to_its_room_and_the_servers_in_it(alice: User, visitor: Visitor) -> None:
    room_id = alice.create_room(preset="public_chat", room_alias_name="asked")
    visitor.join(room_id, visitor.user("carol"))
    told = query(visitor, "directory", room_alias=f"#asked:{SERVER_NAME}").ok()
    assert told == {"room_id": room_id, "servers": [SERVER_NAME, visitor.name]}


@pytest.mark.parametrize(
    ("params", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"room_alias": "asked"}, 400, "M_INVALID_PARAM"),
        ({"room_alias": "#asked:elsewhere.example"}, 400, "M_INVALID_PARAM"),
        ({"room_alias": f"#nothing:{SERVER_NAME}"}, 404, "M_NOT_FOUND"),
    ],
)
def test_odd_questions_for_aliases_are_refused(
    visitor: Visitor, params: Json, status: int, errcode: str
) -> None:
    query(visitor, "directory", **params).refused(status, errcode)


# ---- lists of rooms


def test_published_rooms_are_told_to_servers(alice: User, visitor: Visitor) -> None:
    room_id = alice.create_room(visibility="public", name="Listed", topic="for all")
    hidden = alice.create_room(name="hidden")
    follow_to_the_end(alice.server.core.database)
    told = visitor.request("GET", ["v1", "publicRooms"]).ok()
    by_id = {room["room_id"]: room for room in told["chunk"]}
    assert by_id[room_id]["name"] == "Listed"
    assert hidden not in by_id
    chosen = {"filter": {"generic_search_term": "listed"}, "limit": 5}
    found = visitor.request("POST", ["v1", "publicRooms"], chosen).ok()
    assert room_id in [room["room_id"] for room in found["chunk"]]
    page = visitor.request("GET", ["v1", "publicRooms"], limit=1).ok()
    assert len(page["chunk"]) == 1


@pytest.mark.parametrize(
    ("params", "content"),
    [
        ({"limit": "x"}, None),
        ({"since": "nonsense"}, None),
        ({"include_all_networks": "perhaps"}, None),
        ({}, {"limit": -1}),
        ({}, {"filter": {"room_types": [5]}}),
        ({}, {"filter": []}),
    ],
)
def test_odd_questions_for_rooms_are_refused(
    visitor: Visitor, params: Json, content: Json | None
) -> None:
    method = "GET" if content is None else "POST"
    answer = visitor.request(method, ["v1", "publicRooms"], content, **params)
    assert answer.status == 400


def test_list_is_not_shown_where_the_operator_keeps_it(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World(module_database_url, tmp_path_factory.mktemp("closed"))
    visitor = world.meet("curious.example")
    visitor.request("GET", ["v1", "publicRooms"]).refused(403, "M_FORBIDDEN")
    visitor.request("POST", ["v1", "publicRooms"], {}).refused(403, "M_FORBIDDEN")
    stop_server(world.server)


# ---- what people ask of other servers


def test_profile_of_another_server_is_told_as_it_is_now(
    world: World, alice: User, visitor: Visitor
) -> None:
    told = {"displayname": "Carol", "avatar_url": None, "org.example.more": [1]}
    world.federation.replies[visitor.name, PROFILE] = told
    path = f"/profile/{segment(visitor.user('carol'))}"
    asked = len(world.federation.asked)
    assert alice.get(path).ok() == {"displayname": "Carol", "org.example.more": [1]}
    assert alice.get(f"{path}/avatar_url").ok() == {}
    assert [a[3] for a in world.federation.asked[asked:]] == [
        {"user_id": visitor.user("carol")}
    ] * 2
    world.federation.replies[visitor.name, PROFILE] = {"displayname": "Caroline"}
    assert alice.get(f"{path}/displayname").ok() == {"displayname": "Caroline"}
    gone = RemoteRefused("x", 404, {"errcode": "M_NOT_FOUND"})
    world.federation.replies[visitor.name, PROFILE] = gone
    alice.get(path).refused(404, "M_NOT_FOUND")
    world.federation.replies[visitor.name, PROFILE] = told
    alice.get(path).ok()


@pytest.mark.parametrize(
    ("failure", "status", "errcode"),
    [
        (RemoteRefused("x", 404, {"errcode": "M_NOT_FOUND"}), 404, "M_NOT_FOUND"),
        (RemoteRefused("x", 403, {"errcode": "M_FORBIDDEN"}), 403, "M_FORBIDDEN"),
        (RemoteRefused("x", 500, {}), 502, "M_UNKNOWN"),
        (RemoteRefused("x", 429, {"errcode": "M_LIMIT_EXCEEDED"}), 502, "M_UNKNOWN"),
        (RemoteTimedOut("x", "late"), 502, "M_UNKNOWN"),
        (RemoteUnintelligible("x", "no JSON"), 502, "M_UNKNOWN"),
    ],
)
def test_failure_of_another_server_is_told_as_such(
    world: World, alice: User, visitor: Visitor, failure: Exception, status: int, errcode: str
) -> None:
    for path in (PROFILE, DIRECTORY):
        world.federation.replies[visitor.name, path] = failure
    alice.get(f"/profile/{segment(visitor.user('carol'))}").refused(status, errcode)
    alias = segment(f"#room:{visitor.name}")
    alice.get(f"/directory/room/{alias}").refused(status, errcode)


def test_alias_of_another_server_is_looked_up_there(
    world: World, alice: User, visitor: Visitor
) -> None:
    room_id = f"!room:{visitor.name}"
    told = {"room_id": room_id, "servers": ["one.example", "no server", 5, "one.example"]}
    world.federation.replies[visitor.name, DIRECTORY] = told
    found = alice.get(f"/directory/room/{segment(f'#room:{visitor.name}')}").ok()
    assert found == {"room_id": room_id, "servers": ["one.example", visitor.name]}
    # It may be deleted at any time.
    gone = RemoteRefused("x", 404, {"errcode": "M_NOT_FOUND"})
    world.federation.replies[visitor.name, DIRECTORY] = gone
    path = f"/directory/room/{segment(f'#room:{visitor.name}')}"
    alice.get(path).refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize("told", [{}, {"room_id": 5}, {"room_id": "nonsense", "servers": []}])
def test_alias_that_leads_nowhere_is_the_other_servers_failure(
    world: World, alice: User, visitor: Visitor, told: Json
) -> None:
    world.federation.replies[visitor.name, DIRECTORY] = told
    alias = segment(f"#room:{visitor.name}")
    alice.get(f"/directory/room/{alias}").refused(502, "M_UNKNOWN")


def test_alias_that_cannot_be_asked_for_cannot_become_canonical(alice: User) -> None:
    room_id = alice.create_room()
    path = f"/rooms/{segment(room_id)}/state/m.room.canonical_alias"
    alice.put(path, {"alias": "#room:gone.example"}).refused(400, "M_BAD_ALIAS")


def test_rooms_of_another_server_are_listed(world: World, alice: User, visitor: Visitor) -> None:
    room_id = f"!room:{visitor.name}"
    room = {
        "room_id": room_id,
        "num_joined_members": 3,
        "world_readable": True,
        "guest_can_join": "yes",
        "name": "There",
        "topic": 5,
        "canonical_alias": "nonsense",
        "more": {"of": "it"},
    }
    told = {"chunk": [room, 5, {}, {"room_id": "x"}], "next_batch": "n", "prev_batch": 5}
    world.federation.replies[visitor.name, ROOMS] = told
    page = alice.get("/publicRooms", server=visitor.name, limit=5, since="s").ok()
    assert page == {
        "chunk": [
            {
                "room_id": room_id,
                "num_joined_members": 3,
                "world_readable": True,
                "guest_can_join": False,
                "name": "There",
            }
        ],
        "next_batch": "n",
    }
    method, _, _, params, content = world.federation.asked[-1]
    assert (method, params, content) == ("GET", {"limit": "5", "since": "s"}, None)
    chosen = {"filter": {"generic_search_term": "tea", "room_types": [None]}}
    alice.post("/publicRooms", chosen, server=visitor.name).ok()
    method, _, _, _, content = world.federation.asked[-1]
    assert (method, content["filter"]) == ("POST", chosen["filter"])


@pytest.mark.parametrize(
    "told", [{}, {"chunk": 5}, {"chunk": {}, "total_room_count_estimate": "9"}]
)
def test_list_that_makes_no_sense_is_empty(
    world: World, alice: User, visitor: Visitor, told: Json
) -> None:
    world.federation.replies[visitor.name, ROOMS] = told
    assert alice.get("/publicRooms", server=visitor.name).ok() == {"chunk": []}


def test_server_without_a_list_is_named_as_failing(
    world: World, alice: User, visitor: Visitor
) -> None:
    alice.get("/publicRooms", server=visitor.name).refused(502, "M_UNKNOWN")
    world.federation.replies[visitor.name, ROOMS] = RemoteRefused(
        "x", 400, {"errcode": "M_INVALID_PARAM"}
    )
    alice.get("/publicRooms", server=visitor.name).refused(400, "M_INVALID_PARAM")
    world.federation.replies[visitor.name, ROOMS] = RemoteRefused("x", 403, {})
    alice.get("/publicRooms", server=visitor.name).refused(403, "M_FORBIDDEN")


def test_no_server_is_asked_without_end_for_our_users(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World(
        module_database_url,
        tmp_path_factory.mktemp("curious"),
        rate_limits=RateLimitSettings(remote_lookups=RateLimit(per_second=0.001, burst=2)),
    )
    visitor, other = world.meet("asked.example"), world.meet("spared.example")

    def look(name: str, at: Visitor) -> Answer:
        return world.server.request("GET", f"/profile/{segment(at.user(name))}")

    for name in ("a", "b"):
        look(name, visitor).refused(404, "M_NOT_FOUND")
    look("c", visitor).refused(429, "M_LIMIT_EXCEEDED")
    look("a", visitor).refused(429, "M_LIMIT_EXCEEDED")
    look("a", other).refused(404, "M_NOT_FOUND")
    stop_server(world.server)
