"""Account data, tags, filters and push rules through the client API."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from architex.storage.pool import Database
from tests.api.client import Server, User, segment

ROOM = "!726s6s6q:test.example"
V12_ROOM = "!" + "x" * 43


def own(user: User, rest: str) -> str:
    """A path below /user/{userId}."""
    return f"/user/{user.path}/{rest}"


@pytest.mark.parametrize("where", ["", f"rooms/{segment(ROOM)}/", f"rooms/{segment(V12_ROOM)}/"])
def test_content_is_given_back_as_it_was_put(alice: User, where: str) -> None:
    path = own(alice, f"{where}account_data/org.example.x")
    alice.get(path).refused(404, "M_NOT_FOUND")
    content = {"nul": "\0", "float": 0.25, "huge": 10**30, "nested": [{"a": None}], "é": "€"}
    assert alice.put(path, content).ok() == {}
    assert alice.get(path).ok() == content
    alice.put(path, {}).ok()
    assert alice.get(path).ok() == {}


def test_global_and_room_data_are_apart(alice: User) -> None:
    alice.put(own(alice, "account_data/org.example.x"), {"global": True}).ok()
    alice.get(own(alice, f"rooms/{ROOM}/account_data/org.example.x")).refused(404, "M_NOT_FOUND")


def test_every_change_has_a_new_position(alice: User, module_database: Database) -> None:
    def position() -> int:
        row = module_database.fetch_one(
            "SELECT position FROM account_data WHERE user_id = %s", (alice.user_id,)
        )
        assert row is not None
        return int(row[0])

    path = own(alice, "account_data/org.example.x")
    alice.put(path, {"n": 1}).ok()
    first = position()
    alice.put(path, {"n": 1}).ok()
    assert position() > first
    assert (position(),) == module_database.fetch_one("SELECT position FROM log_position")


@pytest.mark.parametrize("type", ["m.fully_read", "m.push_rules"])
@pytest.mark.parametrize("where", ["", f"rooms/{ROOM}/"])
def test_types_of_the_server_cannot_be_put(alice: User, type: str, where: str) -> None:
    alice.put(own(alice, f"{where}account_data/{type}"), {}).refused(405, "M_BAD_JSON")


def test_account_data_of_others_is_forbidden(alice: User, bob: User) -> None:
    for path in (
        own(alice, "account_data/m.direct"),
        own(alice, f"rooms/{ROOM}/account_data/m.tag"),
        own(alice, f"rooms/{ROOM}/tags"),
        own(alice, "filter/abc"),
    ):
        bob.get(path).refused(403, "M_FORBIDDEN")
    bob.put(own(alice, "account_data/m.direct"), {}).refused(403, "M_FORBIDDEN")
    bob.put(own(alice, f"rooms/{ROOM}/tags/x"), {}).refused(403, "M_FORBIDDEN")
    bob.delete(own(alice, f"rooms/{ROOM}/tags/x")).refused(403, "M_FORBIDDEN")
    bob.post(own(alice, "filter"), {}).refused(403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("raw", "errcode"),
    [
        (b"[]", "M_BAD_JSON"),
        (b'"x"', "M_BAD_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"", "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b'{"a": "\\ud800"}', "M_NOT_JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "M_NOT_JSON"),
    ],
)
def test_content_that_is_no_object_is_refused(
    server: Server, alice: User, raw: bytes, errcode: str
) -> None:
    path = own(alice, "account_data/org.example.x")
    server.request("PUT", path, raw=raw, token=alice.token).refused(400, errcode)


def test_too_much_content_is_refused(alice: User) -> None:
    path = own(alice, "account_data/org.example.x")
    alice.put(path, {"x": "x" * 500_000}).refused(413, "M_TOO_LARGE")
    alice.put(own(alice, "account_data/" + "x" * 300), {}).refused(400, "M_INVALID_PARAM")


def test_path_without_a_room_id_is_refused(alice: User) -> None:
    path = own(alice, "rooms/@notaroomid:example.org/account_data/x")
    alice.get(path).refused(400, "M_INVALID_PARAM")
    alice.put(path, {}).refused(400, "M_INVALID_PARAM")


# Tags


def test_tags_come_and_go(alice: User) -> None:
    tags = own(alice, f"rooms/{ROOM}/tags")
    assert alice.get(tags).ok() == {"tags": {}}
    alice.put(f"{tags}/m.favourite", {"order": 0.25}).ok()
    alice.put(f"{tags}/u.Customers", {}).ok()
    alice.put(f"{tags}/{segment('ü/%20')}", {"order": 1}).ok()
    expected = {"m.favourite": {"order": 0.25}, "u.Customers": {}, "ü/%20": {"order": 1}}
    assert alice.get(tags).ok() == {"tags": expected}
    content = alice.get(own(alice, f"rooms/{ROOM}/account_data/m.tag")).ok()
    assert content == {"tags": expected}
    assert alice.delete(f"{tags}/m.favourite").ok() == {}
    alice.delete(f"{tags}/never-was").ok()
    del expected["m.favourite"]
    assert alice.get(tags).ok() == {"tags": expected}


def test_tag_can_be_put_anew(alice: User) -> None:
    path = own(alice, f"rooms/{ROOM}/tags/u.work")
    alice.put(path, {"order": 0.5}).ok()
    alice.put(path, {"order": 0.75}).ok()
    assert alice.get(own(alice, f"rooms/{ROOM}/tags")).ok()["tags"] == {"u.work": {"order": 0.75}}


def test_tags_put_at_the_same_time_are_all_kept(alice: User) -> None:
    tags = own(alice, f"rooms/{ROOM}/tags")
    names = [f"u.{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda name: alice.put(f"{tags}/{name}", {}), names):
            answer.ok()
    assert set(alice.get(tags).ok()["tags"]) == set(names)


def test_tag_replaces_account_data_that_holds_none(alice: User) -> None:
    alice.put(own(alice, f"rooms/{ROOM}/account_data/m.tag"), {"tags": "odd"}).ok()
    assert alice.get(own(alice, f"rooms/{ROOM}/tags")).ok() == {"tags": {}}
    alice.delete(own(alice, f"rooms/{ROOM}/tags/x")).ok()
    alice.put(own(alice, f"rooms/{ROOM}/tags/x"), {}).ok()
    assert alice.get(own(alice, f"rooms/{ROOM}/tags")).ok() == {"tags": {"x": {}}}


@pytest.mark.parametrize(
    ("tag", "body", "errcode"),
    [
        ("x" * 256, {}, "M_INVALID_PARAM"),
        ("x", {"order": 1.5}, "M_BAD_JSON"),
        ("x", {"order": "0.5"}, "M_BAD_JSON"),
        ("x", {"order": True}, "M_BAD_JSON"),
        ("x", {"note": "\0"}, "M_BAD_JSON"),
    ],
)
def test_impossible_tag_is_refused(alice: User, tag: str, body: Any, errcode: str) -> None:
    alice.put(own(alice, f"rooms/{ROOM}/tags/{tag}"), body).refused(400, errcode)


def test_tags_put_as_account_data_hold_no_nul(alice: User) -> None:
    path = own(alice, f"rooms/{ROOM}/account_data/m.tag")
    alice.put(path, {"tags": {"a\0": {}}}).refused(400, "M_BAD_JSON")


# Filters


def test_same_filter_has_the_same_id(alice: User, bob: User) -> None:
    definition = {"room": {"timeline": {"limit": 10, "types": ["m.room.*"]}}}
    first = alice.post(own(alice, "filter"), definition).ok()["filter_id"]
    second = alice.post(own(alice, "filter"), definition).ok()["filter_id"]
    assert first == second
    assert not first.startswith("{")
    assert alice.get(own(alice, f"filter/{first}")).ok() == definition
    bob.get(own(bob, f"filter/{first}")).refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "definition",
    [
        {"room": []},
        {"room": {"timeline": {"limit": "10"}}},
        {"room": {"timeline": {"types": "m.room.message"}}},
        {"event_format": "xml"},
        {"event_fields": [5]},
        {"presence": {"senders": [1]}},
    ],
)
def test_what_is_no_filter_is_refused(alice: User, definition: Any) -> None:
    alice.post(own(alice, "filter"), definition).refused(400, "M_BAD_JSON")


def test_filter_with_unknown_keys_is_kept(alice: User) -> None:
    definition = {"org.example.future": {"x": 0.5}}
    filter_id = alice.post(own(alice, "filter"), definition).ok()["filter_id"]
    assert alice.get(own(alice, f"filter/{filter_id}")).ok() == definition


# Push rules


def test_push_rules_are_the_predefined_ones(server: Server, alice: User) -> None:
    ruleset = alice.get("/pushrules/").ok()["global"]
    assert alice.get("/pushrules/global/").ok() == ruleset
    assert alice.get(own(alice, "account_data/m.push_rules")).ok() == {"global": ruleset}
    path = "/pushrules/global/override/.m.rule.invite_for_me"
    rule = alice.get(path).ok()
    assert rule in ruleset["override"]
    assert {"kind": "event_match", "key": "state_key", "pattern": alice.user_id} in (
        rule["conditions"]
    )
    assert alice.get(path + "/actions").ok() == {"actions": rule["actions"]}
    assert alice.get("/pushrules/global/override/.m.rule.master/enabled").ok() == {
        "enabled": False
    }
    alice.get("/pushrules/global/underride/nope").refused(404, "M_NOT_FOUND")
    alice.get("/pushrules/global/nokind/x").refused(400, "M_INVALID_PARAM")
    server.request("GET", "/pushrules/").refused(401, "M_MISSING_TOKEN")
