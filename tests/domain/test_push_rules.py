"""The predefined push rules."""

from __future__ import annotations

from architex.domain.push_rules import PUSH_RULE_KINDS, default_push_rules, find_push_rule


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
