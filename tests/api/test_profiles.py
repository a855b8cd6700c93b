"""Profiles through the client API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architex.bootstrap import build_use_cases
from architex.storage.pool import Database
from architex.usecases.requester import Requester
from tests.api.client import Server, User, segment, settings_for
from tests.house.conformity import check_event


def member_content(database: Database, room_id: str, user_id: str) -> Any:
    """The content of a user's current m.room.member event."""
    row = database.fetch_one(
        "SELECT convert_from(e.state, 'UTF8')::json #> '{pdu,content}' FROM current_state s"
        " JOIN rooms USING (room_nid) JOIN stored_events e ON e.notification_id = s.position"
        " WHERE room_id = %s AND type = 'm.room.member' AND state_key = %s"
        " AND valid_to = 9223372036854775807",
        (room_id, user_id),
    )
    assert row is not None
    return row[0]


def count_events(database: Database, room_id: str) -> int:
    """How many facts the room has."""
    row = database.fetch_one("SELECT version FROM rooms WHERE room_id = %s", (room_id,))
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("key_name", "value"),
    [
        ("displayname", "Alice Margatroid"),
        ("displayname", "nul \0 and \u202e"),
        ("avatar_url", "mxc://test.example/SDGdghriugerRg"),
        ("m.tz", "Europe/London"),
        ("org.example.job_title", {"any": ["json", 1, 0.5, None, "\0"]}),
        ("org.example.nothing", None),
        ("org.example.with-hyphen", True),
    ],
)
def test_field_that_was_set_is_public(
    server: Server, alice: User, key_name: str, value: Any
) -> None:
    path = f"/profile/{alice.path}/{key_name}"
    assert alice.put(path, {key_name: value}).ok() == {}
    assert server.request("GET", path).ok() == {key_name: value}
    assert server.request("GET", f"/profile/{alice.path}").ok() == {key_name: value}


def test_deleted_field_is_gone(server: Server, alice: User) -> None:
    path = f"/profile/{alice.path}/org.example.x"
    alice.put(path, {"org.example.x": 1}).ok()
    alice.delete(path).ok()
    alice.delete(path).ok()
    server.request("GET", path).refused(404, "M_NOT_FOUND")
    assert server.request("GET", f"/profile/{alice.path}").ok() == {}


def test_name_and_avatar_not_set_are_an_empty_answer(server: Server, alice: User) -> None:
    for key_name in ("displayname", "avatar_url"):
        assert server.request("GET", f"/profile/{alice.path}/{key_name}").ok() == {}


def test_empty_name_takes_the_name_away(alice: User) -> None:
    path = f"/profile/{alice.path}/displayname"
    alice.put(path, {"displayname": "Alice"}).ok()
    alice.put(path, {"displayname": ""}).ok()
    assert alice.get(f"/profile/{alice.path}").ok() == {}


def test_unknown_user_has_no_profile(server: Server) -> None:
    path = f"/profile/{segment('@nobody:test.example')}"
    server.request("GET", path).refused(404, "M_NOT_FOUND")
    server.request("GET", f"{path}/displayname").refused(404, "M_NOT_FOUND")


def test_profile_on_a_server_that_does_not_answer_cannot_be_had(server: Server) -> None:
    path = f"/profile/{segment('@alice:elsewhere.example')}"
    server.request("GET", path).refused(502, "M_UNKNOWN")


def test_path_that_is_no_user_id_is_refused(server: Server) -> None:
    server.request("GET", "/profile/alice").refused(400, "M_INVALID_PARAM")


def test_profile_of_others_cannot_be_changed(alice: User, bob: User) -> None:
    path = f"/profile/{alice.path}/displayname"
    bob.put(path, {"displayname": "Mallory"}).refused(403, "M_FORBIDDEN")
    bob.delete(path).refused(403, "M_FORBIDDEN")


def test_profile_cannot_be_changed_without_token(server: Server, alice: User) -> None:
    path = f"/profile/{alice.path}/displayname"
    server.request("PUT", path, {"displayname": "x"}).refused(401, "M_MISSING_TOKEN")


@pytest.mark.parametrize(
    ("key_name", "body", "errcode"),
    [
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 5}, "M_BAD_JSON"),
        ("displayname", {"displayname": None}, "M_BAD_JSON"),
        ("displayname", {"displayname": "x" * 2000}, "M_BAD_JSON"),
        ("avatar_url", {"avatar_url": []}, "M_BAD_JSON"),
        ("m.tz", {"m.tz": 1}, "M_BAD_JSON"),
        ("notnamespaced", {"notnamespaced": 1}, "M_INVALID_PARAM"),
        ("Org.Example", {"Org.Example": 1}, "M_INVALID_PARAM"),
        ("org.example." + "x" * 250, {"org.example." + "x" * 250: 1}, "M_KEY_TOO_LARGE"),
        ("org.example.x", {"org.example.x": "x" * 65_530}, "M_PROFILE_TOO_LARGE"),
    ],
)
def test_impossible_field_is_refused(alice: User, key_name: str, body: Any, errcode: str) -> None:
    alice.put(f"/profile/{alice.path}/{key_name}", body).refused(400, errcode)


def test_whole_profile_stays_under_64_kib(alice: User) -> None:
    for number in range(2):
        key = f"org.example.f{number}"
        alice.put(f"/profile/{alice.path}/{key}", {key: "x" * 30_000}).ok()
    answer = alice.put(
        f"/profile/{alice.path}/org.example.last", {"org.example.last": "x" * 6_000}
    )
    answer.refused(400, "M_PROFILE_TOO_LARGE")
    # Replacing a field counts the new value only.
    key = "org.example.f1"
    alice.put(f"/profile/{alice.path}/{key}", {key: "x" * 35_000}).ok()


def test_guest_may_change_the_display_name_only(server: Server) -> None:
    guest = server.request("POST", "/register", {}, params={"kind": "guest"}).ok()
    path = f"/profile/{segment(guest['user_id'])}"
    token = guest["access_token"]
    server.request("PUT", f"{path}/displayname", {"displayname": "G"}, token=token).ok()
    server.request("PUT", f"{path}/avatar_url", {"avatar_url": "mxc://a/b"}, token=token).refused(
        403, "M_GUEST_ACCESS_FORBIDDEN"
    )
    server.request("DELETE", f"{path}/displayname", token=token).ok()


def test_suspended_user_cannot_change_the_profile(alice: User, module_database: Database) -> None:
    module_database.execute(
        "UPDATE users SET suspended = true WHERE user_id = %s", (alice.user_id,)
    )
    answer = alice.put(f"/profile/{alice.path}/displayname", {"displayname": "x"})
    answer.refused(403, "M_USER_SUSPENDED")


# Rooms


@pytest.mark.parametrize("key_name", ["displayname", "avatar_url"])
def test_joined_rooms_learn_of_a_change(
    alice: User, bob: User, module_database: Database, key_name: str
) -> None:
    joined = [bob.create_room(preset="public_chat") for _ in range(3)]
    for room_id in joined:
        alice.post(f"/join/{room_id}").ok()
    left = bob.create_room(preset="public_chat")
    alice.post(f"/join/{left}").ok()
    alice.post(f"/rooms/{left}/leave").ok()
    before = count_events(module_database, left)
    alice.put(f"/profile/{alice.path}/{key_name}", {key_name: "mxc://test.example/x"}).ok()
    for room_id in joined:
        content = member_content(module_database, room_id, alice.user_id)
        assert content == {"membership": "join", key_name: "mxc://test.example/x"}
    assert count_events(module_database, left) == before
    alice.delete(f"/profile/{alice.path}/{key_name}").ok()
    for room_id in joined:
        content = member_content(module_database, room_id, alice.user_id)
        assert content == {"membership": "join"}


def test_who_sees_the_presence_is_told_of_another_name(
    server: Server, alice: User, bob: User
) -> None:
    room_id = bob.create_room(preset="public_chat")
    alice.post(f"/join/{room_id}").ok()

    def told(user: User, since: str | None) -> tuple[str, list[Any]]:
        more = {} if since is None else {"since": since}
        answer = user.get("/sync", set_presence="offline", **more).ok()
        shown = [
            e["content"] for e in answer["presence"]["events"] if e["sender"] == alice.user_id
        ]
        return answer["next_batch"], shown

    since = {user.user_id: told(user, None)[0] for user in (alice, bob)}
    names = {"displayname": "Alice", "avatar_url": "mxc://test.example/a"}
    for number, (key_name, value) in enumerate(names.items(), start=1):
        # Again changes nothing, and nobody hears of it.
        for expected in ([{"presence": "offline", **dict(list(names.items())[:number])}], []):
            alice.put(f"/profile/{alice.path}/{key_name}", {key_name: value}).ok()
            for user in (alice, bob):
                since[user.user_id], shown = told(user, since[user.user_id])
                assert shown == expected
    alice.put(f"/presence/{alice.path}/status", {"presence": "online"}).ok()
    since[bob.user_id], (shown,) = told(bob, since[bob.user_id])
    assert {**shown, **names, "presence": "online"} == shown
    alice.delete(f"/profile/{alice.path}/avatar_url").ok()
    _, (shown,) = told(bob, since[bob.user_id])
    assert shown["displayname"] == "Alice"
    assert "avatar_url" not in shown
    check_event({"type": "m.presence", "sender": alice.user_id, "content": shown})


def test_name_set_while_a_room_is_joined_is_shown_there(
    server: Server, alice: User, bob: User, tmp_path: Path
) -> None:
    room_id = bob.create_room(preset="public_chat")
    joining = build_use_cases(settings_for(tmp_path), server.core).joining

    class ProfileThatChanges:
        """Alice takes a name as soon as somebody has looked that she has none."""

        def find_profile(self, user_id: str) -> Any:
            found = joining.profiles.find_profile(user_id)
            if not found:
                alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Alice"}).ok()
            return found

    slow = replace(joining, profiles=ProfileThatChanges())
    slow.join(Requester(alice.user_id), room_id)
    content = member_content(server.core.database, room_id, alice.user_id)
    assert content == {"membership": "join", "displayname": "Alice"}


def test_rooms_keep_the_last_of_two_names_set_at_once(
    server: Server, alice: User, tmp_path: Path
) -> None:
    room_id = alice.create_room()
    path = f"/profile/{alice.path}/displayname"
    profiles = build_use_cases(settings_for(tmp_path), server.core).profiles
    changes = iter(["Second"])

    def list_rooms_late(user_id: str) -> Any:
        for name in changes:
            alice.put(path, {"displayname": name}).ok()
        return profiles.list_joined_rooms(user_id)

    slow = replace(profiles, list_joined_rooms=list_rooms_late)
    slow.set_field(Requester(alice.user_id), alice.user_id, "displayname", "First")
    assert alice.get(path).ok() == {"displayname": "Second"}
    content = member_content(server.core.database, room_id, alice.user_id)
    assert content["displayname"] == "Second"


def test_change_that_changes_nothing_sends_nothing(alice: User, module_database: Database) -> None:
    room_id = alice.create_room()
    path = f"/profile/{alice.path}/displayname"
    alice.put(path, {"displayname": "Same"}).ok()
    before = count_events(module_database, room_id)
    alice.put(path, {"displayname": "Same"}).ok()
    alice.put(f"/profile/{alice.path}/m.tz", {"m.tz": "Europe/Berlin"}).ok()
    assert count_events(module_database, room_id) == before


def test_joining_takes_the_profile_along(alice: User, module_database: Database) -> None:
    alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Alice"}).ok()
    room_id = alice.create_room()
    content = member_content(module_database, room_id, alice.user_id)
    assert content["displayname"] == "Alice"
