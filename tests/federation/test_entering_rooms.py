"""Users of one server come into rooms of another, and out of them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architex.bootstrap import all_projections
from architex.domain.room_versions import ROOM_VERSIONS
from architex.usecases.verifying import Verifying
from tests.api.client import User, segment
from tests.conftest import DatabaseFactory
from tests.federation.simulation import SimulatedServer, Simulation, simulation


@pytest.fixture
def two(make_database: DatabaseFactory, tmp_path: Path) -> Iterator[Simulation]:
    """Two servers, and a network in which nothing fails; `architex verify` has the last word."""
    with simulation("calm", make_database, tmp_path, count=2) as run:
        yield run
        keys = {s.name: s.server.core.signing_key.verify_key for s in run.servers}
        for server in run.servers:
            verifying = Verifying(
                server.server.core.database, all_projections, lambda name, _: keys.get(name)
            )
            assert [problem.what for problem in verifying.verify().problems] == []


def join(user: User, room: str, *via: str) -> str:
    path = f"/join/{segment(room)}"
    told = user.server.request("POST", path, {}, token=user.token, params={"via": list(via)}).ok()
    return str(told["room_id"])


def membership(server: SimulatedServer, room_id: str, user: User) -> str | None:
    return server.memberships(room_id).get(user.user_id)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_user_joins_a_room_of_another_server(two: Simulation, version: str) -> None:
    here, there = two.servers
    alice, bob = there.users[0], here.users[0]
    room_id = alice.create_room(preset="public_chat", room_version=version, name="Tea")
    assert join(bob, room_id, there.name) == room_id
    assert here.state(room_id) == there.state(room_id)
    assert membership(here, room_id, bob) == "join"
    assert here.extremities(room_id) == there.extremities(room_id)
    told = bob.get("/sync").ok()
    assert told["rooms"]["join"][room_id]["state"]["events"]


def test_second_user_of_a_server_joins_without_asking_others(two: Simulation) -> None:
    here, there = two.servers
    room_id = there.users[0].create_room(preset="public_chat")
    join(here.users[0], room_id, there.name)
    two.network.asked.clear()
    join(here.users[1], room_id)
    assert not two.network.asked


def test_user_joins_by_alias_of_another_server(two: Simulation) -> None:
    here, there = two.servers
    room_id = there.users[0].create_room(preset="public_chat", room_alias_name="tea")
    assert join(here.users[0], f"#tea:{there.name}") == room_id


def test_room_that_nobody_knows_is_not_found(two: Simulation) -> None:
    here, there = two.servers
    told = two.join(here.users[0], "!nowhere:s1.test", via=[there.name])
    told.refused(404, "M_NOT_FOUND")
    two.join(here.users[0], "!nowhere:s1.test", via=[]).refused(404, "M_NOT_FOUND")


def test_room_of_invited_users_is_forbidden_to_others(two: Simulation) -> None:
    here, there = two.servers
    room_id = there.users[0].create_room(preset="private_chat")
    two.join(here.users[0], room_id, via=[there.name]).refused(403, "M_FORBIDDEN")


def test_servers_that_do_not_answer_are_passed_over(two: Simulation) -> None:
    here, there = two.servers
    room_id = there.users[0].create_room(preset="public_chat")
    join(here.users[0], room_id, "down.test", there.name)


def test_server_that_does_not_answer_is_named_to_the_client(two: Simulation) -> None:
    here, there = two.servers
    room_id = there.users[0].create_room(preset="public_chat")
    two.network.down.add(there.name)
    told = two.join(here.users[0], room_id, via=[there.name]).refused(502, "M_UNKNOWN")
    assert there.name in told["error"]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_invited_user_of_another_server_joins(two: Simulation, version: str) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room(preset="private_chat", room_version=version)
    alice.post(f"/rooms/{segment(room_id)}/invite", {"user_id": bob.user_id}).ok()
    assert membership(here, room_id, bob) == "invite"
    invited = bob.get("/sync").ok()["rooms"]["invite"]
    assert any(e["type"] == "m.room.create" for e in invited[room_id]["invite_state"]["events"])
    join(bob, room_id)
    assert membership(here, room_id, bob) == "join"
    assert here.state(room_id) == there.state(room_id)


def test_room_is_created_with_an_invite_to_another_server(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room(invite=[bob.user_id], is_direct=True)
    assert membership(here, room_id, bob) == "invite"
    events = bob.get("/sync").ok()["rooms"]["invite"][room_id]["invite_state"]["events"]
    own = [event for event in events if event.get("state_key") == bob.user_id]
    assert own[0]["content"]["is_direct"] is True


def test_room_is_created_though_the_invited_users_server_is_down(two: Simulation) -> None:
    here, there = two.servers
    two.network.down.add(there.name)
    room_id = here.users[0].create_room(invite=[there.users[0].user_id])
    assert membership(here, room_id, there.users[0]) is None


def test_nobody_is_invited_whose_server_is_down(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room()
    two.network.down.add(there.name)
    told = alice.post(f"/rooms/{segment(room_id)}/invite", {"user_id": bob.user_id})
    told.refused(502, "M_UNKNOWN")
    assert membership(here, room_id, bob) is None


def test_invite_is_rejected_where_it_came_from(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room(invite=[bob.user_id])
    since = bob.get("/sync").ok()["next_batch"]
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert membership(here, room_id, bob) == "leave"
    told = bob.get("/sync", since=since).ok()["rooms"]
    assert room_id in told["leave"]
    assert room_id not in bob.get("/sync").ok().get("rooms", {}).get("invite", {})


def test_invite_is_rejected_though_the_inviting_server_is_down(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room(invite=[bob.user_id])
    two.network.down.add(here.name)
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert membership(there, room_id, bob) == "leave"
    assert room_id not in bob.get("/sync").ok().get("rooms", {}).get("invite", {})


@pytest.mark.parametrize("version", ["7", "10", "11", "12"])
def test_user_knocks_at_a_room_of_another_server(two: Simulation, version: str) -> None:
    here, there = two.servers
    alice, bob = there.users[0], here.users[0]
    room_id = alice.create_room(
        name="Tea",
        room_version=version,
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}],
    )
    path = f"/knock/{segment(room_id)}"
    params = {"via": [there.name]}
    here.server.request("POST", path, {"reason": "me"}, token=bob.token, params=params).ok()
    assert membership(there, room_id, bob) == "knock"
    knocked = bob.get("/sync").ok()["rooms"]["knock"][room_id]["knock_state"]["events"]
    assert {"m.room.name", "m.room.create"} <= {event["type"] for event in knocked}
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    assert membership(there, room_id, bob) == "leave"


def test_user_comes_back_to_a_room_that_went_on_without_them(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = there.users[0], here.users[0]
    room_id = alice.create_room(preset="public_chat", name="Tea")
    join(bob, room_id, there.name)
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    alice.put(f"/rooms/{segment(room_id)}/state/m.room.topic", {"topic": "Green"}).ok()
    alice.put(f"/rooms/{segment(room_id)}/state/m.room.name", {"name": "Coffee"}).ok()
    assert join(bob, room_id, there.name) == room_id
    assert here.state(room_id) == there.state(room_id)


def test_timeline_begins_after_what_was_missed_while_nobody_was_there(two: Simulation) -> None:
    here, there = two.servers
    bob, carol, alice = here.users[0], here.users[1], there.users[0]
    room_id = alice.create_room(preset="public_chat")
    room = f"/rooms/{segment(room_id)}"
    join(bob, room_id, there.name)
    bob.put(f"{room}/send/m.room.message/1", {"body": "seen"}).ok()
    bob.post(f"{room}/leave").ok()
    two.settle()
    alice.put(f"{room}/send/m.room.message/1", {"body": "missed"}).ok()
    since = carol.get("/sync").ok()["next_batch"]
    join(carol, room_id, there.name)
    for params in ({"since": since}, {}):
        timeline = carol.get("/sync", **params).ok()["rooms"]["join"][room_id]["timeline"]
        assert timeline["limited"] is True
        assert [event["state_key"] for event in timeline["events"]] == [carol.user_id]
    page = carol.get(f"{room}/messages", dir="b", **{"from": timeline["prev_batch"]}).ok()
    bodies = [event["content"].get("body") for event in page["chunk"]]
    assert bodies[0] == "missed"
    assert "seen" in bodies


def test_invite_is_taken_back_though_the_inviter_has_left(two: Simulation) -> None:
    here, there = two.servers
    bob, carol, alice = here.users[0], here.users[1], there.users[0]
    room_id = alice.create_room(preset="private_chat", invite=[bob.user_id])
    room = f"/rooms/{segment(room_id)}"
    join(bob, room_id)
    bob.post(f"{room}/invite", {"user_id": carol.user_id}).ok()
    bob.post(f"{room}/leave").ok()
    two.settle()
    since = carol.get("/sync").ok()["next_batch"]
    alice.post(f"{room}/kick", {"user_id": carol.user_id}).ok()
    two.settle()
    assert membership(here, room_id, carol) == "leave"
    assert room_id in carol.get("/sync", since=since).ok()["rooms"]["leave"]


@pytest.mark.parametrize("deed", ["rejected", "taken back"])
def test_end_of_an_invite_is_shown_to_who_was_in_the_room_before(
    two: Simulation, deed: str
) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room(preset="public_chat")
    room = f"/rooms/{segment(room_id)}"
    join(bob, room_id, here.name)
    bob.post(f"{room}/leave").ok()
    two.settle()
    alice.post(f"{room}/invite", {"user_id": bob.user_id}).ok()
    told = bob.get("/sync").ok()
    assert room_id in told["rooms"]["invite"]
    if deed == "rejected":
        bob.post(f"{room}/leave").ok()
    else:
        alice.post(f"{room}/kick", {"user_id": bob.user_id}).ok()
        two.settle()
    left = bob.get("/sync", since=told["next_batch"]).ok()["rooms"]["leave"][room_id]
    memberships = [e["content"]["membership"] for e in left["timeline"]["events"]]
    assert memberships == ["leave"]


def test_knock_is_refused_by_who_set_the_room_up(
    make_database: DatabaseFactory, tmp_path: Path
) -> None:
    with simulation("calm", make_database, tmp_path, count=3) as run:
        founder, guest, away = run.servers
        alice, bob, carol = founder.users[0], guest.users[0], away.users[0]
        rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        room_id = alice.create_room(invite=[bob.user_id], initial_state=[rules])
        room = f"/rooms/{segment(room_id)}"
        join(bob, room_id)
        run.settle()
        path, params = f"/knock/{segment(room_id)}", {"via": [guest.name]}
        away.server.request("POST", path, {}, token=carol.token, params=params).ok()
        bob.post(f"{room}/leave").ok()
        run.settle()
        alice.post(f"{room}/kick", {"user_id": carol.user_id}).ok()
        run.settle()
        assert membership(away, room_id, carol) == "leave"


def test_invite_that_others_still_know_of_is_shown_as_the_inviters(two: Simulation) -> None:
    here, there = two.servers
    bob, carol, alice = here.users[0], here.users[1], there.users[0]
    room_id = alice.create_room(preset="public_chat", invite=[bob.user_id])
    two.network.down.add(there.name)
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    two.network.down.clear()
    join(carol, room_id, there.name)
    events = bob.get("/sync").ok()["rooms"]["invite"][room_id]["invite_state"]["events"]
    members = {event["state_key"] for event in events if event["type"] == "m.room.member"}
    assert members == {alice.user_id, bob.user_id}


def restrict(owner: User, room_id: str, *allowed: str) -> None:
    allow = [{"type": "m.room_membership", "room_id": allowed_id} for allowed_id in allowed]
    content = {"join_rule": "restricted", "allow": allow}
    owner.put(f"/rooms/{segment(room_id)}/state/m.room.join_rules", content).ok()


@pytest.mark.parametrize("version", ["8", "10", "11", "12"])
def test_member_of_an_allowed_room_joins_a_restricted_room(two: Simulation, version: str) -> None:
    here, there = two.servers
    alice, bob = there.users[0], here.users[0]
    club_id = alice.create_room(preset="public_chat", name="Club")
    two.network.clock.pass_seconds(1)
    room_id = alice.create_room(room_version=version)
    restrict(alice, room_id, club_id)
    two.join(bob, room_id, via=[there.name]).refused(403, "M_FORBIDDEN")
    join(bob, club_id, there.name)
    join(bob, room_id, there.name)
    assert membership(there, room_id, bob) == "join"
    assert here.state(room_id) == there.state(room_id)


def test_server_without_power_lets_another_one_authorise_a_join(two: Simulation) -> None:
    here, there = two.servers
    alice, bob, carol = there.users[0], here.users[0], here.users[1]
    club_id = alice.create_room(preset="public_chat", name="Club")
    two.network.clock.pass_seconds(1)
    room_id = alice.create_room(preset="public_chat", power_level_content_override={"invite": 50})
    join(bob, room_id, there.name)
    join(carol, club_id, there.name)
    restrict(alice, room_id, club_id)
    two.settle()
    # Bob is the only one here in the room, and may not invite.
    join(carol, room_id)
    assert membership(here, room_id, carol) == "join"
    assert membership(there, room_id, carol) == "join"
    assert here.state(room_id) == there.state(room_id)


def test_invited_user_is_not_invited_who_is_banned(two: Simulation) -> None:
    here, there = two.servers
    alice, bob = here.users[0], there.users[0]
    room_id = alice.create_room()
    room = f"/rooms/{segment(room_id)}"
    alice.post(f"{room}/ban", {"user_id": bob.user_id}).ok()
    two.network.asked.clear()
    alice.post(f"{room}/invite", {"user_id": bob.user_id}).refused(403, "M_FORBIDDEN")
    assert not two.network.asked


def test_user_that_does_not_exist_elsewhere_is_not_invited(two: Simulation) -> None:
    here, there = two.servers
    alice = here.users[0]
    room_id = alice.create_room()
    nobody = f"@nobody:{there.name}"
    answer = alice.post(f"/rooms/{segment(room_id)}/invite", {"user_id": nobody})
    answer.refused(404, "M_NOT_FOUND")
    assert nobody not in here.memberships(room_id)


def test_outsider_learns_nothing_by_inviting_from_elsewhere(two: Simulation) -> None:
    here, there = two.servers
    room_id = here.users[0].create_room()
    stranger = here.users[1]
    body = {"user_id": there.users[0].user_id}
    stranger.post(f"/rooms/{segment(room_id)}/invite", body).refused(403, "M_FORBIDDEN")
