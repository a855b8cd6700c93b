"""Changing push rules through the client API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import Server, User, segment

Json = dict[str, Any]
NOTIFY: Json = {"actions": ["notify"]}


def put(user: User, kind: str, rule_id: str, rule: Json, **params: Any) -> None:
    """Set a rule."""
    user.put(f"/pushrules/global/{kind}/{segment(rule_id)}", rule, **params).ok()


def own_ids(user: User, kind: str) -> list[str]:
    """The IDs of the user's own rules, the most important first."""
    rules = user.get(f"/pushrules/global/{kind}/").ok()
    return [rule["rule_id"] for rule in rules if not rule["default"]]


@pytest.mark.parametrize(
    ("kind", "rule_id", "more"),
    [
        ("room", "#spam:example.com", {}),
        ("sender", "@bob:example.com", {}),
        ("content", "тест", {"pattern": "тест"}),
        ("override", "mine", {"conditions": [{"kind": "room_member_count", "is": "2"}]}),
        ("underride", "mine", {"conditions": []}),
    ],
)
def test_rule_is_everywhere_once_it_is_set(
    alice: User, kind: str, rule_id: str, more: Json
) -> None:
    put(alice, kind, rule_id, {**NOTIFY, **more})
    path = f"/pushrules/global/{kind}/{segment(rule_id)}"
    rule = {"rule_id": rule_id, "default": False, "enabled": True, **NOTIFY, **more}
    assert alice.get(path).ok() == rule
    assert alice.get(f"{path}/enabled").ok() == {"enabled": True}
    assert alice.get(f"{path}/actions").ok() == NOTIFY
    ruleset = alice.get("/pushrules/").ok()["global"]
    assert rule in ruleset[kind]
    assert alice.get("/pushrules/global/").ok() == ruleset
    path = f"/user/{alice.path}/account_data/m.push_rules"
    assert alice.get(path).ok() == {"global": ruleset}


def test_new_rules_stand_first_or_where_they_are_put(alice: User) -> None:
    for rule_id in ("a", "b"):
        put(alice, "room", rule_id, NOTIFY)
    assert own_ids(alice, "room") == ["b", "a"]
    put(alice, "room", "c", NOTIFY, before="a")
    assert own_ids(alice, "room") == ["b", "c", "a"]
    put(alice, "room", "d", NOTIFY, after="b")
    assert own_ids(alice, "room") == ["b", "d", "c", "a"]
    put(alice, "room", "e", NOTIFY, before="d", after="a")
    assert own_ids(alice, "room") == ["b", "e", "d", "c", "a"]
    put(alice, "room", "b", NOTIFY, after="a")
    assert own_ids(alice, "room") == ["e", "d", "c", "a", "b"]
    put(alice, "room", "c", {"actions": []})
    assert own_ids(alice, "room") == ["e", "d", "c", "a", "b"]


def test_own_rules_stand_before_predefined_ones_but_after_the_master_rule(alice: User) -> None:
    put(alice, "override", "mine", {**NOTIFY, "conditions": []})
    ids = [rule["rule_id"] for rule in alice.get("/pushrules/global/override/").ok()]
    assert ids[:3] == [".m.rule.master", "mine", ".m.rule.suppress_notices"]


def test_changing_a_rule_leaves_it_disabled_and_deleting_forgets_that(alice: User) -> None:
    path = "/pushrules/global/sender/@bob:x"
    alice.put(path, NOTIFY).ok()
    alice.put(f"{path}/enabled", {"enabled": False}).ok()
    alice.put(path, {"actions": []}).ok()
    assert alice.get(path).ok()["enabled"] is False
    alice.delete(path).ok()
    alice.get(path).refused(404, "M_NOT_FOUND")
    alice.put(path, NOTIFY).ok()
    assert alice.get(path).ok()["enabled"] is True


def test_predefined_rules_change_for_one_user_only(alice: User, bob: User) -> None:
    path = "/pushrules/global/underride/.m.rule.message"
    alice.put(f"{path}/enabled", {"enabled": False}).ok()
    alice.put(f"{path}/actions", {"actions": ["dont_notify"]}).ok()
    changed = alice.get(path).ok()
    assert (changed["enabled"], changed["actions"]) == (False, ["dont_notify"])
    assert bob.get(path).ok()["enabled"] is True
    alice.delete(path).refused(404, "M_NOT_FOUND")


def test_sync_tells_the_rules_when_they_change(alice: User) -> None:
    def told(since: str | None) -> tuple[str, list[Json]]:
        params = {} if since is None else {"since": since}
        body = alice.get("/sync", **params).ok()
        events = body["account_data"]["events"]
        rules = [e["content"]["global"] for e in events if e["type"] == "m.push_rules"]
        return body["next_batch"], rules

    since, (first,) = told(None)
    assert first["room"] == []
    put(alice, "room", "!r:x", NOTIFY)
    since, (changed,) = told(since)
    assert [rule["rule_id"] for rule in changed["room"]] == ["!r:x"]
    assert told(since)[1] == []


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("override/.m.rule.own", {**NOTIFY, "conditions": []}, "M_INVALID_PARAM"),
        ("room/back%5Cslash", NOTIFY, "M_INVALID_PARAM"),
        ("room/" + "x" * 256, NOTIFY, "M_INVALID_PARAM"),
        ("nokind/x", NOTIFY, "M_INVALID_PARAM"),
        ("room/x", {}, "M_MISSING_PARAM"),
        ("room/x", {"actions": "notify"}, "M_BAD_JSON"),
        ("room/x", {"actions": ["not_an_action"]}, "M_BAD_JSON"),
        ("room/x", {"actions": [{"no": "tweak"}]}, "M_BAD_JSON"),
        ("room/x", {"actions": [["notify"]]}, "M_BAD_JSON"),
        ("content/x", NOTIFY, "M_MISSING_PARAM"),
        ("content/x", {**NOTIFY, "pattern": 5}, "M_BAD_JSON"),
        ("override/x", {**NOTIFY, "conditions": [{}]}, "M_BAD_JSON"),
        ("override/x", {**NOTIFY, "conditions": {}}, "M_BAD_JSON"),
        ("override/.m.rule.master/enabled", {"enabled": "yes"}, "M_BAD_JSON"),
        ("override/.m.rule.master/actions", {}, "M_MISSING_PARAM"),
        ("override/.m.rule.master/nonsense", {"enabled": True}, "M_INVALID_PARAM"),
        ("room", {}, "M_INVALID_PARAM"),
        ("room/", {}, "M_INVALID_PARAM"),
    ],
)
def test_what_is_no_rule_is_refused(alice: User, path: str, body: Json, errcode: str) -> None:
    alice.put(f"/pushrules/global/{path}", body).refused(400, errcode)


@pytest.mark.parametrize("path", ["/", "/global", "/device/room/x", "/device/"])
def test_paths_that_name_no_rule_are_refused(alice: User, path: str) -> None:
    alice.put(f"/pushrules{path}", {}).refused(400, "M_INVALID_PARAM")


def test_unknown_rules_are_not_found(alice: User) -> None:
    for path in ("override/.not.predefined", "sender/@nobody:x"):
        alice.get(f"/pushrules/global/{path}").refused(404, "M_NOT_FOUND")
        alice.delete(f"/pushrules/global/{path}").refused(404, "M_NOT_FOUND")
        enabled = alice.put(f"/pushrules/global/{path}/enabled", {"enabled": True})
        enabled.refused(404, "M_NOT_FOUND")
        alice.put(f"/pushrules/global/{path}/actions", NOTIFY).refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize("neighbour", [".m.rule.message", "unknown", "x"])
def test_rule_stands_only_beside_another_own_rule(alice: User, neighbour: str) -> None:
    path = "/pushrules/global/underride/x"
    body = {**NOTIFY, "conditions": []}
    alice.put(path, body, before=neighbour).refused(400, "M_UNKNOWN")
    alice.put(path, body, after=neighbour).refused(400, "M_UNKNOWN")


def test_push_rules_need_an_account(server: Server) -> None:
    server.request("PUT", "/pushrules/global/room/x", NOTIFY).refused(401, "M_MISSING_TOKEN")


def test_rules_about_a_room_follow_its_upgrade(alice: User, bob: User) -> None:
    old = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{old}/join").ok()
    put(bob, "room", old, {"actions": []})
    mute = {"kind": "event_match", "key": "room_id", "pattern": old}
    put(bob, "override", old, {"actions": [], "conditions": [mute]})
    bob.put(f"/pushrules/global/room/{old}/enabled", {"enabled": False}).ok()
    new = alice.post(f"/rooms/{old}/upgrade", {"new_version": "11"}).ok()["replacement_room"]
    bob.post(f"/rooms/{new}/join").ok()
    assert own_ids(bob, "room") == [new, old]
    assert bob.get(f"/pushrules/global/room/{new}").ok()["enabled"] is False
    (condition,) = bob.get(f"/pushrules/global/override/{new}").ok()["conditions"]
    assert condition == {**mute, "pattern": new}
