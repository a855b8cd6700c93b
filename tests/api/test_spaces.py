"""Rooms from outside: who is shown which, here and from other servers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#discovering-rooms-within-spaces
"""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

import pytest

from architex.domain.identifiers import RoomId, ServerName
from architex.gateways.errors import RemoteTimedOut
from tests.api.client import SERVER_NAME, Answer, User, segment
from tests.federation.visitors import Visitor, World
from tests.statements import noted_statements

Json = dict[str, Any]

_numbers = itertools.count()


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def bob(world: World) -> User:
    return world.server.register()


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(f"peer{next(_numbers)}.example")


def create_space(owner: User, **options: Any) -> RoomId:
    options = {"preset": "public_chat", **options}
    return owner.create_room(creation_content={"type": "m.space"}, **options)


def add_child(owner: User, space: RoomId, child: RoomId, *via: ServerName, **content: Any) -> None:
    path = f"/rooms/{segment(space)}/state/m.space.child/{segment(child)}"
    owner.put(path, {"via": list(via or (SERVER_NAME,)), **content}).ok()


def create_restricted(owner: User, allowed: RoomId, rule: str = "restricted") -> RoomId:
    content = {
        "join_rule": rule,
        "allow": [{"type": "m.room_membership", "room_id": allowed}, {"type": "x"}, 5],
    }
    event = {"type": "m.room.join_rules", "state_key": "", "content": content}
    return owner.create_room(preset="private_chat", initial_state=[event])


def hierarchy(user: User, space: RoomId, **params: Any) -> Json:
    path = f"/_matrix/client/v1/rooms/{segment(space)}/hierarchy"
    return dict(user.get(path, **params).ok())


def rooms_below(user: User, space: RoomId, **params: Any) -> list[RoomId]:
    return [room["room_id"] for room in hierarchy(user, space, **params)["rooms"]]


def ask(visitor: Visitor, room_id: RoomId, **query: Any) -> Answer:
    return visitor.request("GET", ["v1", "hierarchy", room_id], **query)


# ---- the tree, on one server


def test_tree_is_walked_depth_first_in_the_order_of_the_children(alice: User) -> None:
    space, inner = create_space(alice, name="outer"), create_space(alice, name="inner")
    rooms = [alice.create_room(preset="public_chat") for _ in range(4)]
    add_child(alice, space, rooms[0], order="b")
    add_child(alice, space, inner, order="a")
    add_child(alice, space, rooms[1], order=" ")
    add_child(alice, space, rooms[2], order="\u00e9 is no order")
    add_child(alice, inner, rooms[3])
    assert rooms_below(alice, space) == [space, rooms[1], inner, rooms[3], rooms[0], rooms[2]]


def test_room_of_the_tree_is_described(alice: User) -> None:
    space = create_space(alice, name="Space", topic="All of it", room_alias_name="sp1")
    room = alice.create_room(preset="public_chat", name="Room", room_version="11")
    add_child(alice, space, room, suggested=True)
    told = hierarchy(alice, space)
    first, second = told["rooms"]
    assert "next_batch" not in told
    (child,) = first.pop("children_state")
    assert isinstance(child.pop("origin_server_ts"), int)
    assert child == {
        "type": "m.space.child",
        "state_key": room,
        "sender": alice.user_id,
        "content": {"via": [SERVER_NAME], "suggested": True},
    }
    assert first.pop("room_version")
    assert first == {
        "room_id": space,
        "name": "Space",
        "topic": "All of it",
        "canonical_alias": f"#sp1:{SERVER_NAME}",
        "room_type": "m.space",
        "join_rule": "public",
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
    }
    assert second["children_state"] == []
    assert second["room_version"] == "11"
    assert "room_type" not in second


def test_children_without_via_are_none(alice: User) -> None:
    space = create_space(alice)
    gone, room = (alice.create_room(preset="public_chat") for _ in range(2))
    add_child(alice, space, gone)
    add_child(alice, space, room)
    path = f"/rooms/{segment(space)}/state/m.space.child/{segment(gone)}"
    alice.put(path, {}).ok()
    for odd in ("x", [5], [], ["no server"]):
        alice.put(path, {"via": odd}).ok()
        assert rooms_below(alice, space) == [space, room]
    alice.put(f"/rooms/{segment(space)}/state/m.space.child/nonsense", {"via": ["a.b"]}).ok()
    assert rooms_below(alice, space) == [space, room]


def test_redacted_child_is_none(alice: User) -> None:
    space, room = create_space(alice), alice.create_room(preset="public_chat")
    path = f"/rooms/{segment(space)}/state/m.space.child/{segment(room)}"
    event_id = alice.put(path, {"via": [SERVER_NAME]}).ok()["event_id"]
    alice.put(f"/rooms/{segment(space)}/redact/{segment(event_id)}/r", {}).ok()
    assert rooms_below(alice, space) == [space]


def test_loops_end(alice: User) -> None:
    one, two = create_space(alice), create_space(alice)
    add_child(alice, one, two)
    add_child(alice, two, one)
    add_child(alice, one, one)
    assert rooms_below(alice, one) == [one, two]


def test_depth_and_suggestions_limit_the_walk(alice: User) -> None:
    chain = [create_space(alice) for _ in range(4)]
    for parent, child in itertools.pairwise(chain):
        add_child(alice, parent, child, suggested=parent != chain[1])
    for depth in range(4):
        assert rooms_below(alice, chain[0], max_depth=depth) == chain[: depth + 1]
    assert rooms_below(alice, chain[0], suggested_only="true") == chain[:2]
    shown = hierarchy(alice, chain[0], suggested_only="true")["rooms"]
    assert shown[1]["children_state"] == []


def test_pages_make_up_the_whole(alice: User) -> None:
    space = create_space(alice)
    rooms = [alice.create_room(preset="public_chat") for _ in range(5)]
    for number, room in enumerate(rooms):
        add_child(alice, space, room, order=f"{number}")
    found: list[RoomId] = []
    page = hierarchy(alice, space, limit=2)
    found += [room["room_id"] for room in page["rooms"]]
    while "next_batch" in page:
        page = hierarchy(alice, space, limit=2, **{"from": page["next_batch"]})
        found += [room["room_id"] for room in page["rooms"]]
    assert found == [space, *rooms]


def test_token_is_good_for_its_own_walk_only(alice: User) -> None:
    space = create_space(alice)
    for _ in range(2):
        add_child(alice, space, alice.create_room(preset="public_chat"))
    path = f"/_matrix/client/v1/rooms/{segment(space)}/hierarchy"
    token = hierarchy(alice, space, limit=1)["next_batch"]
    for changed in ({"max_depth": 1}, {"suggested_only": "true"}):
        alice.get(path, limit=1, **{"from": token}, **changed).refused(400, "M_INVALID_PARAM")
    for odd in ("x", "h1", "h99999999_1_0", "h-1_100_0"):
        alice.get(path, **{"from": odd}).refused(400, "M_INVALID_PARAM")
    for params in ({"limit": 0}, {"limit": -1}, {"limit": "x"}, {"max_depth": -1}):
        alice.get(path, **params).refused(400, "M_INVALID_PARAM")
    alice.get(path, suggested_only="maybe").refused(400, "M_INVALID_PARAM")


def test_big_space_asks_the_database_little(alice: User, module_database_url: str) -> None:
    space = create_space(alice)
    for _ in range(30):
        add_child(alice, space, alice.create_room(preset="public_chat"))
    with noted_statements(module_database_url) as asked:
        assert len(rooms_below(alice, space)) == 31
    assert len(asked) < 40


# ---- who is shown what


@pytest.mark.parametrize("outside", ["stranger", "invited", "joined", "left", "banned"])
@pytest.mark.parametrize(
    ("kind", "shown_to"),
    [
        ("public", {"stranger", "invited", "joined", "left"}),
        ("private", {"invited", "joined"}),
        ("knock", {"stranger", "invited", "joined", "left"}),
        ("world_readable", {"stranger", "invited", "joined", "left", "banned"}),
    ],
)
def test_rooms_are_shown_to_who_could_enter(
    alice: User, bob: User, kind: str, shown_to: set[str], outside: str
) -> None:
    room_id = _create_room(alice, kind)
    path = f"/rooms/{segment(room_id)}"
    if outside in ("invited", "joined", "left"):
        alice.post(f"{path}/invite", {"user_id": bob.user_id}).ok()
    if outside in ("joined", "left"):
        bob.post(f"{path}/join").ok()
    if outside == "left":
        bob.post(f"{path}/leave").ok()
    if outside == "banned":
        alice.post(f"{path}/ban", {"user_id": bob.user_id}).ok()
    answer = bob.get(f"/_matrix/client/v1/rooms/{segment(room_id)}/hierarchy")
    summary = bob.get(f"/_matrix/client/v1/room_summary/{segment(room_id)}")
    if outside in shown_to:
        assert answer.ok()["rooms"][0]["room_id"] == room_id
        memberships = {"invited": "invite", "joined": "join", "left": "leave", "banned": "ban"}
        assert summary.ok().get("membership") == memberships.get(outside)
    else:
        answer.refused(403, "M_FORBIDDEN")
        summary.refused(404, "M_NOT_FOUND")
    space = create_space(alice)
    add_child(alice, space, room_id)
    assert (room_id in rooms_below(bob, space)) is (outside in shown_to)


def _create_room(owner: User, kind: str) -> RoomId:
    if kind == "public":
        return owner.create_room(preset="public_chat")
    events = {
        "private": [],
        "knock": [("m.room.join_rules", {"join_rule": "knock"})],
        "world_readable": [("m.room.history_visibility", {"history_visibility": kind})],
    }[kind]
    initial = [{"type": t, "state_key": "", "content": content} for t, content in events]
    return owner.create_room(preset="private_chat", initial_state=initial)


@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
def test_restricted_room_is_shown_to_members_of_the_allowed_one(
    alice: User, bob: User, rule: str
) -> None:
    club = alice.create_room(preset="public_chat")
    room_id = create_restricted(alice, club, rule)
    path = f"/_matrix/client/v1/room_summary/{segment(room_id)}"
    if rule == "restricted":
        bob.get(path).refused(404, "M_NOT_FOUND")
    bob.post(f"/rooms/{segment(club)}/join").ok()
    told = bob.get(path).ok()
    assert told["join_rule"] == rule
    assert told["allowed_room_ids"] == [club]


def test_summary_needs_an_account_where_the_room_is_not_open(world: World, alice: User) -> None:
    def look(room_id: RoomId) -> Answer:
        return world.server.request("GET", f"/_matrix/client/v1/room_summary/{segment(room_id)}")

    for kind in ("public", "knock", "world_readable"):
        assert "membership" not in look(_create_room(alice, kind)).ok()
    look(_create_room(alice, "private")).refused(401, "M_MISSING_TOKEN")
    path = "/_matrix/client/v1/room_summary/"
    alice.get(path + segment("!nowhere")).refused(400, "M_INVALID_PARAM")
    alice.get(path + segment(f"!nowhere:{SERVER_NAME}")).refused(404, "M_NOT_FOUND")
    alice.get(path + segment(f"#nowhere:{SERVER_NAME}")).refused(404, "M_NOT_FOUND")
    alice.get(path + segment("!a:b.c"), via="no server").refused(400, "M_INVALID_PARAM")
    answer = world.server.request("GET", "/rooms/!a:b.c/hierarchy")
    answer.refused(401, "M_MISSING_TOKEN")


def test_summary_is_found_by_alias(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat", room_alias_name="summed")
    path = f"/_matrix/client/v1/room_summary/{segment(f'#summed:{SERVER_NAME}')}"
    assert bob.get(path).ok()["room_id"] == room_id


# ---- for other servers


def test_server_is_told_the_rooms_that_its_users_could_enter(
    alice: User, visitor: Visitor
) -> None:
    space = create_space(alice, name="Space")
    club = alice.create_room(preset="public_chat")
    rooms = {kind: _create_room(alice, kind) for kind in ("public", "private", "knock")}
    rooms["restricted"] = create_restricted(alice, club)
    for room_id in rooms.values():
        add_child(alice, space, room_id)
    add_child(alice, space, "!elsewhere:elsewhere.example", "elsewhere.example")
    told = ask(visitor, space).ok()
    assert told["room"]["name"] == "Space"
    assert len(told["room"]["children_state"]) == 5
    assert {room["room_id"] for room in told["children"]} == {rooms["public"], rooms["knock"]}
    hidden = {rooms["private"], rooms["restricted"]}
    assert set(told["inaccessible_children"]) == hidden
    visitor.join(club, visitor.user("carol"))
    told = ask(visitor, space).ok()
    assert rooms["restricted"] in {room["room_id"] for room in told["children"]}
    assert told["inaccessible_children"] == [rooms["private"]]


def test_suggested_only_leaves_other_children_out_for_servers(
    alice: User, visitor: Visitor
) -> None:
    space = create_space(alice)
    one, other = (alice.create_room(preset="public_chat") for _ in range(2))
    add_child(alice, space, one, suggested=True)
    add_child(alice, space, other, suggested="yes")
    told = ask(visitor, space, suggested_only="true").ok()
    assert [room["room_id"] for room in told["children"]] == [one]
    assert [child["state_key"] for child in told["room"]["children_state"]] == [one]


def test_room_that_a_server_could_not_enter_is_unknown_to_it(
    alice: User, visitor: Visitor
) -> None:
    ask(visitor, _create_room(alice, "private")).refused(404, "M_NOT_FOUND")
    ask(visitor, f"!nowhere:{SERVER_NAME}").refused(404, "M_NOT_FOUND")
    ask(visitor, "nonsense").refused(400, "M_INVALID_PARAM")
    ask(visitor, "!a:b.c", suggested_only="5").refused(400, "M_INVALID_PARAM")
    room_id = alice.create_room(preset="public_chat")
    path = f"/rooms/{segment(room_id)}/state/m.room.server_acl"
    alice.put(path, {"allow": ["*"], "deny": [visitor.name]}).ok()
    ask(visitor, room_id).refused(404, "M_NOT_FOUND")


def test_server_in_a_private_room_is_told_of_it(alice: User, visitor: Visitor) -> None:
    room_id = alice.create_room(preset="public_chat")
    visitor.join(room_id, visitor.user("carol"))
    path = f"/rooms/{segment(room_id)}/state/m.room.join_rules"
    alice.put(path, {"join_rule": "invite"}).ok()
    assert ask(visitor, room_id).ok()["room"]["join_rule"] == "invite"


# ---- from other servers


def remote_path(room_id: RoomId) -> str:
    return f"/_matrix/federation/v1/hierarchy/{quote(room_id, safe='')}"


def entry(room_id: RoomId, **more: Any) -> Json:
    return {
        "room_id": room_id,
        "num_joined_members": 3,
        "world_readable": False,
        "guest_can_join": False,
        **more,
    }


def child_event(room_id: RoomId, via: ServerName) -> Json:
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "content": {"via": [via]},
        "sender": f"@x:{via}",
        "origin_server_ts": 1,
    }


def test_rooms_of_other_servers_are_filled_in(world: World, alice: User, visitor: Visitor) -> None:
    there = visitor.name
    far, open_, closed, secret = (f"!{name}:{there}" for name in ("far", "open", "closed", "s"))
    events = [child_event(room_id, there) for room_id in (open_, closed, secret)]
    told = {
        "room": entry(far, room_type="m.space", name="Far", children_state=events),
        "children": [
            entry(open_, name="Open"),
            entry(closed, join_rule="invite"),
            entry(f"!other:{there}", name="not a child"),
        ],
        "inaccessible_children": [secret],
    }
    world.federation.replies[there, remote_path(far)] = told
    space = create_space(alice)
    add_child(alice, space, far, there)
    asked = len(world.federation.asked)
    found = hierarchy(alice, space)["rooms"]
    assert [room["room_id"] for room in found] == [space, far, open_]
    assert found[1]["name"] == "Far"
    assert len(found[1]["children_state"]) == 3
    # Once asked, it is remembered for a while; what nobody may see is not asked for at all.
    assert rooms_below(alice, space) == [space, far, open_]
    assert [a[2] for a in world.federation.asked[asked:]] == [remote_path(far)]


def test_own_state_counts_more_than_what_others_tell(
    world: World, alice: User, visitor: Visitor
) -> None:
    mine = alice.create_room(preset="public_chat", name="as I know it")
    far = f"!far2:{visitor.name}"
    told = {
        "room": entry(far, room_type="m.space", children_state=[child_event(mine, SERVER_NAME)]),
        "children": [entry(mine, name="as they claim", world_readable=True)],
        "inaccessible_children": [mine],
    }
    world.federation.replies[visitor.name, remote_path(far)] = told
    space = create_space(alice)
    add_child(alice, space, far, visitor.name)
    names = [room.get("name") for room in hierarchy(alice, space)["rooms"]]
    assert names == [None, None, "as I know it"]


@pytest.mark.parametrize(
    "told",
    [
        RemoteTimedOut("x", "late"),
        {},
        {"room": 5},
        {"room": {"room_id": 5}},
        {"room": entry("!another:room.example")},
        {"room": {}, "children": 5, "inaccessible_children": 5},
        {"room": None, "children": [None, 5, {}]},
    ],
)
def test_servers_that_make_no_sense_are_passed_over(
    world: World, alice: User, visitor: Visitor, told: Any
) -> None:
    far = f"!far:{visitor.name}"
    world.federation.replies[visitor.name, remote_path(far)] = told
    space, last = create_space(alice), alice.create_room(preset="public_chat")
    add_child(alice, space, far, visitor.name, order="a")
    add_child(alice, space, last, order="b")
    assert rooms_below(alice, space) == [space, last]


def test_odd_details_of_other_servers_are_left_out(
    world: World, alice: User, visitor: Visitor
) -> None:
    far = f"!far:{visitor.name}"
    odd = entry(
        far,
        name=5,
        topic=["x"],
        canonical_alias="no alias",
        avatar_url={},
        num_joined_members=-1,
        world_readable="yes",
        join_rule="public",
        allowed_room_ids="all",
        room_type="m.space",
        children_state=[5, {}, {"type": "m.space.child"}, child_event("nonsense", "a.b")],
    )
    told = {"room": odd, "children": {}, "inaccessible_children": [[]]}
    world.federation.replies[visitor.name, remote_path(far)] = told
    path = f"/_matrix/client/v1/room_summary/{segment(far)}"
    assert alice.get(path, via=visitor.name).ok() == {
        "room_id": far,
        "num_joined_members": 0,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        "room_type": "m.space",
    }
    assert hierarchy(alice, far)["rooms"][0]["children_state"] == []


def test_remote_room_is_shown_only_to_who_could_enter(
    world: World, alice: User, bob: User, visitor: Visitor
) -> None:
    club = alice.create_room(preset="public_chat")
    far = f"!far:{visitor.name}"
    told = entry(far, join_rule="restricted", allowed_room_ids=[club], room_version="9")
    world.federation.replies[visitor.name, remote_path(far)] = {"room": told}
    path = f"/_matrix/client/v1/room_summary/{segment(far)}"
    assert alice.get(path, via=visitor.name).ok()["allowed_room_ids"] == [club]
    bob.get(path, via=visitor.name).refused(404, "M_NOT_FOUND")
