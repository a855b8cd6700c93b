"""Push rules: the predefined ones, and what users make of them."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.errors import BadJson, InvalidParam, MatrixError, MissingParam
from architex.domain.push_rules import (
    PUSH_RULE_KINDS,
    ChangedPushRule,
    about_other_room,
    default_push_rules,
    effective_push_rules,
    find_push_rule,
    parse_push_actions,
    parse_push_rule,
)

ALICE = "@alice:example.org"
ROOM = "!room:example.org"
MATCH = {"kind": "event_match", "key": "type", "pattern": "m.room.*"}


def test_rules_are_those_of_the_spec_in_its_order() -> None:
    ruleset = default_push_rules("@alice:example.org")
    assert set(ruleset) == set(PUSH_RULE_KINDS)
    assert [rule["rule_id"] for rule in ruleset["override"]] == [
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
    ]
    assert [rule["rule_id"] for rule in ruleset["underride"]] == [
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    ]
    assert ruleset["content"] == ruleset["room"] == ruleset["sender"] == []


def test_only_the_master_rule_is_off() -> None:
    rules = [r for rules in default_push_rules("@a:b").values() for r in rules]
    assert all(rule["default"] for rule in rules)
    assert [rule["rule_id"] for rule in rules if not rule["enabled"]] == [".m.rule.master"]


def test_mentions_are_of_the_user_itself() -> None:
    rule = find_push_rule(
        default_push_rules("@alice:example.org"), "override", ".m.rule.is_user_mention"
    )
    assert rule is not None
    assert rule["conditions"] == [
        {
            "kind": "event_property_contains",
            "key": r"content.m\.mentions.user_ids",
            "value": "@alice:example.org",
        }
    ]
    assert rule["actions"] == [
        "notify",
        {"set_tweak": "sound", "value": "default"},
        {"set_tweak": "highlight"},
    ]


def test_each_user_has_rules_of_their_own_to_change() -> None:
    ruleset = default_push_rules("@a:b")
    ruleset["underride"][0]["actions"].append("x")
    ruleset["override"][0]["conditions"].append({})
    assert default_push_rules("@a:b") != ruleset
    assert find_push_rule(ruleset, "override", ".m.rule.nothing") is None
    assert find_push_rule(ruleset, "nothing", ".m.rule.master") is None


# ---- what users make of them


def test_own_rules_stand_before_the_predefined_ones_of_their_kind() -> None:
    changed = [
        ChangedPushRule("override", "one", True, ["notify"], {"conditions": []}),
        ChangedPushRule("override", "two", False, [], {"conditions": []}),
        ChangedPushRule("underride", "three", None, None, {"conditions": []}),
        ChangedPushRule("room", ROOM, True, []),
    ]
    ruleset = effective_push_rules(ALICE, changed)
    override = [rule["rule_id"] for rule in ruleset["override"]]
    # But for the master rule, which stands above all.
    assert override[:4] == [".m.rule.master", "one", "two", ".m.rule.suppress_notices"]
    assert ruleset["override"][1] == {
        "rule_id": "one",
        "default": False,
        "enabled": True,
        "actions": ["notify"],
        "conditions": [],
    }
    assert not ruleset["override"][2]["enabled"]
    assert [rule["rule_id"] for rule in ruleset["underride"]][:2] == ["three", ".m.rule.call"]
    assert ruleset["room"] == [{"rule_id": ROOM, "default": False, "enabled": True, "actions": []}]


def test_predefined_rule_keeps_what_a_user_does_not_change() -> None:
    before = default_push_rules(ALICE)
    changed = [
        ChangedPushRule("underride", ".m.rule.message", enabled=False),
        ChangedPushRule("underride", ".m.rule.call", actions=[]),
        # Of a kind that it is not, or of the past.
        ChangedPushRule("override", ".m.rule.call", enabled=False),
        ChangedPushRule("content", ".m.rule.contains_user_name", enabled=False),
    ]
    ruleset = effective_push_rules(ALICE, changed)
    message = find_push_rule(ruleset, "underride", ".m.rule.message")
    assert message == {
        **(find_push_rule(before, "underride", ".m.rule.message") or {}),
        "enabled": False,
    }
    call = find_push_rule(ruleset, "underride", ".m.rule.call")
    assert call == {**(find_push_rule(before, "underride", ".m.rule.call") or {}), "actions": []}
    assert ruleset["override"] == before["override"]
    assert ruleset["content"] == []


@pytest.mark.parametrize(
    ("kind", "body", "definition"),
    [
        ("override", {"actions": []}, {"conditions": []}),
        ("underride", {"actions": [], "conditions": [MATCH]}, {"conditions": [MATCH]}),
        ("content", {"actions": ["notify"], "pattern": "c?ke"}, {"pattern": "c?ke"}),
        ("room", {"actions": ["notify"], "pattern": "x", "conditions": 5}, {}),
        ("sender", {"actions": [{"set_tweak": "sound", "value": "x"}]}, {}),
    ],
)
def test_rule_is_kept_with_what_its_kind_has(
    kind: str, body: dict[str, Any], definition: dict[str, Any]
) -> None:
    rule = parse_push_rule(kind, "id", body)
    assert rule == ChangedPushRule(kind, "id", True, body["actions"], definition)


@pytest.mark.parametrize(
    "actions",
    [
        [],
        ["notify"],
        ["dont_notify"],
        ["coalesce"],
        ["notify", {"set_tweak": "highlight"}, {"set_tweak": "org.example", "value": [1]}],
    ],
)
def test_actions_are_told_back_as_they_were_set(actions: list[Any]) -> None:
    assert parse_push_actions({"actions": actions}) == actions


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "refusal"),
    [
        ("override", ".m.rule.own", {"actions": []}, InvalidParam),
        ("override", "a/b", {"actions": []}, InvalidParam),
        ("override", "a\\b", {"actions": []}, InvalidParam),
        ("override", "a\0b", {"actions": []}, InvalidParam),
        ("override", "", {"actions": []}, InvalidParam),
        ("override", "é" * 128, {"actions": []}, InvalidParam),
        ("override", "id", {}, MissingParam),
        ("override", "id", {"actions": "notify"}, BadJson),
        ("override", "id", {"actions": ["sing"]}, BadJson),
        ("override", "id", {"actions": [{}]}, BadJson),
        ("override", "id", {"actions": [{"set_tweak": 5}]}, BadJson),
        ("override", "id", {"actions": [["notify"]]}, BadJson),
        ("override", "id", {"actions": [None]}, BadJson),
        ("override", "id", {"actions": [], "conditions": None}, BadJson),
        ("override", "id", {"actions": [], "conditions": {}}, BadJson),
        ("underride", "id", {"actions": [], "conditions": ["event_match"]}, BadJson),
        ("underride", "id", {"actions": [], "conditions": [{}]}, BadJson),
        ("underride", "id", {"actions": [], "conditions": [{"kind": 5}]}, BadJson),
        ("content", "id", {"actions": []}, MissingParam),
        ("content", "id", {"actions": [], "pattern": 5}, BadJson),
        ("content", "id", {"actions": [], "pattern": None}, BadJson),
    ],
)
def test_rule_of_another_form_is_refused(
    kind: str, rule_id: str, body: dict[str, Any], refusal: type[MatrixError]
) -> None:
    with pytest.raises(refusal):
        parse_push_rule(kind, rule_id, body)


def test_rule_about_a_room_follows_it_to_its_replacement() -> None:
    rule = ChangedPushRule("room", ROOM, True, ["notify"])
    assert about_other_room(rule, ROOM, "!new:x") == ChangedPushRule(
        "room", "!new:x", True, ["notify"]
    )
    about = {"kind": "event_match", "key": "room_id", "pattern": ROOM}
    kept = [MATCH, {**about, "pattern": "!third:x"}, {"kind": "room_member_count", "is": "2"}]
    rule = ChangedPushRule("override", ROOM, True, [], {"conditions": [about, *kept]})
    moved = about_other_room(rule, ROOM, "!new:x")
    assert moved.rule_id == "!new:x"
    assert moved.definition == {"conditions": [{**about, "pattern": "!new:x"}, *kept]}
    assert rule.definition == {"conditions": [about, *kept]}
    assert about_other_room(ChangedPushRule("room", ROOM, definition={}), ROOM, "!new:x") == (
        ChangedPushRule("room", "!new:x", definition={})
    )
