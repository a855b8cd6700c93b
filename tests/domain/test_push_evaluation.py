"""Push rules are evaluated as the specification says, and never slowly."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.push_evaluation import (
    MAX_PATTERN,
    Notifying,
    PushEvaluator,
    PushOutcome,
    RoomContext,
    contains_words,
    notifying_class,
)
from architex.domain.push_rules import (
    ChangedPushRule,
    default_push_rules,
    effective_push_rules,
    parse_push_rule,
)

ALICE = "@alice:a.example"
BOB = "@bob:a.example"
ROOM = "!room:a.example"
ABOUT_ROOM = {"kind": "event_match", "key": "room_id", "pattern": ROOM}
ABOUT_BODY = {"kind": "event_match", "key": "content.body", "pattern": "x"}


def context(members: int = 3, *, room_allowed: bool = False) -> RoomContext:
    return RoomContext(members, lambda key: room_allowed and key == "room")


def message(content: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "type": "m.room.message",
        "sender": BOB,
        "room_id": ROOM,
        "content": content or {"msgtype": "m.text", "body": "hello"},
        **fields,
    }


def evaluate(event: dict[str, Any], room: RoomContext | None = None, *rules: Any) -> Any:
    changed = [parse_push_rule(kind, rule_id, body) for kind, rule_id, body in rules]
    return PushEvaluator(effective_push_rules(ALICE, changed)).evaluate(event, room or context())


def test_message_notifies_without_highlight() -> None:
    outcome = evaluate(message())
    assert outcome.notifies
    assert not outcome.highlights


def test_notice_does_not_notify() -> None:
    assert not evaluate(message({"msgtype": "m.notice", "body": "x"})).notifies


def test_mention_highlights_for_whom_it_names_only() -> None:
    content = {"msgtype": "m.text", "body": "x", "m.mentions": {"user_ids": [ALICE]}}
    assert evaluate(message(content)).highlights
    content["m.mentions"] = {"user_ids": [BOB]}
    assert not evaluate(message(content)).highlights


@pytest.mark.parametrize("allowed", [True, False])
def test_room_mention_highlights_if_the_sender_may(allowed: bool) -> None:
    content = {"msgtype": "m.text", "body": "x", "m.mentions": {"room": True}}
    assert evaluate(message(content), context(room_allowed=allowed)).highlights is allowed


def test_edit_does_not_notify() -> None:
    content = {"body": "x", "m.relates_to": {"rel_type": "m.replace", "event_id": "$a"}}
    assert not evaluate(message(content)).notifies


def test_invite_notifies_the_invited_only() -> None:
    invite = {"type": "m.room.member", "sender": BOB, "content": {"membership": "invite"}}
    assert evaluate({**invite, "state_key": ALICE}).notifies
    assert not evaluate({**invite, "state_key": BOB}).notifies


def test_one_to_one_room_has_its_own_sound() -> None:
    assert len(evaluate(message(), context(2)).actions) == 2
    assert len(evaluate(message(), context(3)).actions) == 1


def test_room_rule_silences_a_room() -> None:
    silent: Any = ("room", ROOM, {"actions": []})
    assert not evaluate(message(), None, silent).notifies
    assert evaluate(message(room_id="!other:a.example"), None, silent).notifies


def test_sender_rule_goes_by_the_sender() -> None:
    rule: Any = ("sender", BOB, {"actions": []})
    assert not evaluate(message(), None, rule).notifies


def test_content_rule_highlights_a_keyword() -> None:
    rule = (
        "content",
        "cake",
        {"pattern": "c?ke", "actions": ["notify", {"set_tweak": "highlight"}]},
    )
    assert evaluate(message({"body": "There is CAKE!"}), None, rule).highlights
    assert not evaluate(message({"body": "pancakes"}), None, rule).highlights


@pytest.mark.parametrize(
    ("comparison", "count", "holds"),
    [
        ("2", 2, True),
        ("==2", 3, False),
        (">2", 3, True),
        ("<=2", 2, True),
        ("~2", 2, False),
        ("=>2", 2, False),
        (">=2", 2, True),
        ("<2", 2, False),
        ("<3", 2, True),
        ("> 1", 2, False),
        (">-1", 2, False),
        (">\N{ARABIC-INDIC DIGIT ZERO}", 2, False),
        # No room has so many members, and no integer of JSON so many digits.
        ("<" + "9" * 15, 2, True),
        ("<" + "9" * 16, 2, False),
        ("", 0, False),
    ],
)
def test_member_count_is_compared(comparison: str, count: int, holds: bool) -> None:
    rule = (
        "override",
        "count",
        {"conditions": [{"kind": "room_member_count", "is": comparison}], "actions": []},
    )
    assert evaluate(message(), context(count), rule).notifies is not holds


def test_unknown_condition_never_holds() -> None:
    rule = (
        "override",
        "x",
        {"conditions": [{"kind": "org.example", "key": "type"}], "actions": []},
    )
    assert evaluate(message(), None, rule).notifies


def test_property_is_told_true_from_one() -> None:
    condition = {"kind": "event_property_is", "key": r"content.a\.b", "value": True}
    rule = ("override", "x", {"conditions": [condition], "actions": []})
    assert not evaluate(message({"a.b": True, "body": "x"}), None, rule).notifies
    assert evaluate(message({"a.b": 1, "body": "x"}), None, rule).notifies


@pytest.mark.parametrize(
    ("pattern", "body", "matches"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "examples", False),
        ("ex*ple", "sexple", False),
        ("alice", "alice's", True),
        ("alice", "malice", False),
        ("alice", "ALICE", True),
        ("al ice", "al ice", True),
        ("?", "a b", True),
        # "ab" is in it, but not where a word begins.
        ("ab*", "bb-cab", False),
        ("*ab?", "ab bab", True),
        ("ab?c", "ab-ab", False),
        ("", "anything", False),
    ],
)
def test_body_is_matched_at_word_boundaries(pattern: str, body: str, matches: bool) -> None:
    assert contains_words(pattern, body) is matches


@given(st.text("ab*? ", max_size=6), st.text("abAB_ -", max_size=10))
@settings(max_examples=300)
def test_words_are_found_as_a_regular_expression_finds_them(pattern: str, body: str) -> None:
    glob = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    text = body.lower()
    boundary = r"(?:(?<![a-z0-9_])|(?![a-z0-9_]))"
    expected = bool(pattern) and re.search(boundary + glob + boundary, text, re.DOTALL) is not None
    assert contains_words(pattern, body) is expected


@pytest.mark.parametrize("pattern", ["a" * MAX_PATTERN, "?" * MAX_PATTERN])
def test_patterns_are_bounded_where_it_says(pattern: str) -> None:
    event = message({"body": "x", "key": "a" * len(pattern)})
    longer = {**event, "content": {"body": "x", "key": "a" * (len(pattern) + 1)}}
    for told, length in ((event, MAX_PATTERN), (longer, MAX_PATTERN + 1)):
        condition = {"kind": "event_match", "key": "content.key", "pattern": pattern[0] * length}
        rule = ("override", "x", {"conditions": [condition], "actions": []})
        assert evaluate(told, None, rule).notifies is (length > MAX_PATTERN)
        assert contains_words(pattern[0] * length, "a" * length) is (length <= MAX_PATTERN)


def test_hostile_pattern_costs_its_length_times_the_body() -> None:
    # A backtracking matcher would not come back from this.
    assert not contains_words("a*" * 200 + "b", "a" * 20_000)


@given(
    st.sampled_from(
        ["m.room.message", "m.room.encrypted", "m.reaction", "m.room.topic", "m.call.invite"]
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "msgtype": st.sampled_from(["m.text", "m.notice"]),
            "m.mentions": st.sampled_from([{}, {"user_ids": [ALICE]}, {"room": True}, None]),
            "m.relates_to": st.sampled_from(
                [{"rel_type": "m.replace"}, {"rel_type": "m.thread"}, "nonsense"]
            ),
        },
    ),
)
def test_class_of_an_event_foretells_the_predefined_outcome(type: str, content: Any) -> None:
    event = message(content, type=type)
    outcome = PushEvaluator(default_push_rules(ALICE)).evaluate(event, context(room_allowed=True))
    of_class = notifying_class(type, content, None)
    if of_class == Notifying.NOBODY:
        assert not outcome.notifies
    elif of_class == Notifying.ALL:
        assert outcome.notifies
        assert not outcome.highlights


@given(
    st.sampled_from(
        [
            "m.room.member",
            "m.room.tombstone",
            "m.room.topic",
            "m.room.server_acl",
            "m.room.message",
        ]
    ),
    st.sampled_from([None, "", ALICE, BOB]),
    st.fixed_dictionaries(
        {}, optional={"membership": st.sampled_from(["invite", "join", "ban", 5, None])}
    ),
)
def test_class_of_a_state_event_foretells_the_predefined_outcome(
    type: str, state_key: str | None, content: Any
) -> None:
    event = {"type": type, "sender": BOB, "room_id": ROOM, "content": content}
    if state_key is not None:
        event["state_key"] = state_key
    outcome = PushEvaluator(default_push_rules(ALICE)).evaluate(event, context(room_allowed=True))
    of_class = notifying_class(type, content, state_key)
    if of_class == Notifying.NOBODY:
        assert not outcome.notifies
    elif of_class == Notifying.ALL:
        assert outcome.notifies
        assert not outcome.highlights


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        # https://spec.matrix.org/v1.19/client-server-api/#conditions-1
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunc?*"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunch"}, False),
        ({"kind": "event_match", "key": "content.topic", "pattern": "LUNCH PLANS"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "*" * 600}, False),
        ({"kind": "event_match", "key": "content.nothing", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.number", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.null", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.topic.deeper", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.topic"}, False),
        ({"kind": "event_match", "key": "content.topic", "pattern": 5}, False),
        ({"kind": "event_match", "pattern": "*"}, False),
        ({"kind": "event_match", "key": 5, "pattern": "*"}, False),
        ({"kind": "event_match", "key": "state_key", "pattern": ""}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "word"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "or"}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "a*d"}, True),
        ({"kind": "event_match", "key": r"content.back\\slash", "pattern": "x"}, True),
        ({"kind": "event_match", "key": r"content.wild\card", "pattern": "x"}, True),
        ({"kind": "event_match", "key": "content.end\\", "pattern": "x"}, True),
        ({"kind": "event_property_is", "key": "content.number", "value": 5}, True),
        ({"kind": "event_property_is", "key": "content.number", "value": "5"}, False),
        ({"kind": "event_property_is", "key": "content.null", "value": None}, True),
        ({"kind": "event_property_is", "key": "content.null"}, False),
        ({"kind": "event_property_is", "key": "content.nothing", "value": None}, False),
        ({"kind": "event_property_is", "key": "content.topic", "value": "lunch plans"}, False),
        ({"kind": "event_property_is", "key": "content.list", "value": ["a", 1]}, False),
        ({"kind": "event_property_contains", "key": "content.list", "value": "a"}, True),
        ({"kind": "event_property_contains", "key": "content.list", "value": 1}, True),
        ({"kind": "event_property_contains", "key": "content.list", "value": True}, False),
        ({"kind": "event_property_contains", "key": "content.list", "value": {}}, False),
        ({"kind": "event_property_contains", "key": "content.list"}, False),
        ({"kind": "event_property_contains", "key": "content.topic", "value": "L"}, False),
        ({"kind": "sender_notification_permission", "key": "room"}, True),
        ({"kind": "sender_notification_permission", "key": "other"}, False),
        ({"kind": "sender_notification_permission"}, False),
        ({"kind": "room_member_count", "is": "3"}, True),
        ({"kind": "room_member_count", "is": 3}, False),
        ({"kind": "room_member_count"}, False),
        ({"kind": "contains_display_name"}, False),
        ({}, False),
    ],
)
def test_condition_holds_as_the_spec_says(condition: dict[str, Any], holds: bool) -> None:
    event = {
        "type": "m.room.topic",
        "sender": BOB,
        "room_id": ROOM,
        "state_key": "",
        "content": {
            "topic": "Lunch plans",
            "body": "A word.",
            "number": 5,
            "null": None,
            "list": ["a", 1, {}],
            "back\\slash": "x",
            "wild\\card": "x",
            "end\\": "x",
        },
    }
    ruleset = {"override": [{"rule_id": "x", "conditions": [condition], "actions": ["notify"]}]}
    outcome = PushEvaluator(ruleset).evaluate(event, context(room_allowed=True))
    assert outcome.notifies is holds


def test_rule_without_conditions_always_matches() -> None:
    ruleset = {"underride": [{"rule_id": "x", "actions": ["notify"]}]}
    assert PushEvaluator(ruleset).evaluate(message(), context()).notifies


def test_event_that_no_rule_matches_does_not_notify() -> None:
    outcome = PushEvaluator({}).evaluate(message(), context())
    assert not outcome.notifies
    assert outcome.actions == ()


@pytest.mark.parametrize(
    ("actions", "highlights"),
    [
        (["notify", {"set_tweak": "highlight"}], True),
        (["notify", {"set_tweak": "highlight", "value": True}], True),
        (["notify", {"set_tweak": "highlight", "value": False}], False),
        (["notify", {"set_tweak": "sound", "value": "default"}], False),
        ([{"set_tweak": "highlight"}], False),
    ],
)
def test_highlight_is_true_unless_it_says_otherwise(actions: list[Any], highlights: bool) -> None:
    assert PushOutcome(actions).highlights is highlights


@pytest.mark.parametrize(
    ("rule", "alike"),
    [
        (("room", ROOM, {"actions": []}), True),
        (("override", "x", {"actions": [], "conditions": []}), True),
        (("override", "x", {"actions": [], "conditions": [ABOUT_ROOM]}), True),
        (("underride", "x", {"actions": [], "conditions": [ABOUT_ROOM, ABOUT_ROOM]}), True),
        (("override", "x", {"actions": [], "conditions": [ABOUT_BODY]}), False),
        (("override", "x", {"actions": [], "conditions": [ABOUT_ROOM, ABOUT_BODY]}), False),
        (("sender", BOB, {"actions": []}), False),
        (("content", "x", {"actions": [], "pattern": "x"}), False),
    ],
)
def test_rules_that_look_at_more_than_type_and_room_are_told_apart(rule: Any, alike: bool) -> None:
    ruleset = effective_push_rules(ALICE, [parse_push_rule(*rule)])
    assert PushEvaluator(ruleset).goes_by_type_alone is alike
    assert PushEvaluator(ruleset).goes_by_type_alone_in(ROOM) is alike
    assert PushEvaluator(default_push_rules(ALICE)).goes_by_type_alone


@pytest.mark.parametrize(
    ("rule", "alike_elsewhere"),
    [
        (("room", ROOM, {"actions": ["notify"]}), True),
        (("override", "x", {"actions": ["notify"], "conditions": [ABOUT_ROOM]}), True),
        (("underride", "x", {"actions": ["notify"], "conditions": []}), False),
    ],
)
def test_rules_by_which_rooms_are_loud_need_a_closer_look_there(
    rule: Any, alike_elsewhere: bool
) -> None:
    evaluator = PushEvaluator(effective_push_rules(ALICE, [parse_push_rule(*rule)]))
    assert not evaluator.goes_by_type_alone
    assert not evaluator.goes_by_type_alone_in(ROOM)
    assert evaluator.goes_by_type_alone_in("!other:a.example") is alike_elsewhere


@pytest.mark.parametrize(
    ("kind", "rule_id", "enabled", "actions", "alike"),
    [
        ("override", ".m.rule.master", True, None, True),
        ("override", ".m.rule.master", True, ["notify"], False),
        ("override", ".m.rule.suppress_notices", False, None, False),
        ("override", ".m.rule.suppress_notices", None, ["notify"], False),
        ("override", ".m.rule.suppress_edits", False, None, False),
        ("override", ".m.rule.member_event", False, None, True),
        ("override", ".m.rule.member_event", None, ["notify"], False),
        ("override", ".m.rule.reaction", False, None, True),
        ("override", ".m.rule.reaction", None, ["notify"], False),
        ("override", ".m.rule.is_user_mention", False, None, True),
        ("override", ".m.rule.is_user_mention", None, ["notify"], True),
        ("underride", ".m.rule.message", False, None, True),
        ("underride", ".m.rule.message", None, [], True),
        ("underride", ".m.rule.message", None, ["notify", {"set_tweak": "highlight"}], False),
    ],
)
def test_predefined_rules_that_users_change_are_told_apart(
    kind: str, rule_id: str, enabled: bool | None, actions: list[Any] | None, alike: bool
) -> None:
    changed = ChangedPushRule(kind, rule_id, enabled, actions)
    evaluator = PushEvaluator(effective_push_rules(ALICE, [changed]))
    assert evaluator.goes_by_type_alone is alike
    assert evaluator.goes_by_type_alone_in(ROOM) is alike


@pytest.mark.parametrize(
    ("name", "body", "holds"),
    [
        ("Alice", "hello alice!", True),
        ("Alice", "hello malice", False),
        ("A*", "hello Alice", False),
        ("A*", "hello a*!", True),
        ("", "hello", False),
        (None, "None", False),
    ],
)
def test_display_name_is_found_as_it_is(name: str | None, body: str, holds: bool) -> None:
    rule = {"actions": ["notify"], "conditions": [{"kind": "contains_display_name"}]}
    room = RoomContext(3, lambda key: False, lambda: name)
    event = {**message({"body": body}), "type": "org.example"}
    assert evaluate(event, room, ("override", "x", rule)).notifies is holds


def test_classes_have_the_numbers_that_rows_of_the_timeline_hold() -> None:
    assert (Notifying.NOBODY, Notifying.ALL, Notifying.SOME) == (0, 1, 2)


@pytest.mark.parametrize(
    ("type", "state_key", "content", "of_class"),
    [
        ("m.room.message", None, {"body": "x"}, Notifying.ALL),
        ("m.room.encrypted", None, {}, Notifying.ALL),
        ("m.call.invite", None, {}, Notifying.ALL),
        ("m.reaction", None, {}, Notifying.NOBODY),
        ("org.example", None, {}, Notifying.NOBODY),
        ("m.room.message", None, {"msgtype": "m.notice"}, Notifying.NOBODY),
        ("m.room.message", None, {"m.mentions": {"user_ids": [ALICE]}}, Notifying.SOME),
        ("m.room.message", None, {"m.mentions": {"room": True}}, Notifying.SOME),
        ("m.room.message", None, {"m.mentions": {"user_ids": [], "room": False}}, Notifying.ALL),
        ("m.room.message", None, {"m.mentions": [ALICE]}, Notifying.ALL),
        # An edit that mentions somebody notifies them.
        (
            "m.room.message",
            None,
            {"m.mentions": {"user_ids": [ALICE]}, "m.relates_to": {"rel_type": "m.replace"}},
            Notifying.SOME,
        ),
        ("m.room.message", None, {"m.relates_to": {"rel_type": "m.replace"}}, Notifying.NOBODY),
        ("m.room.message", None, {"m.relates_to": {"rel_type": "m.thread"}}, Notifying.ALL),
        ("m.room.message", None, {"m.relates_to": ["m.replace"]}, Notifying.ALL),
        ("m.room.member", ALICE, {"membership": "invite"}, Notifying.SOME),
        ("m.room.member", ALICE, {"membership": "join"}, Notifying.NOBODY),
        ("m.room.tombstone", "", {}, Notifying.SOME),
        ("m.room.tombstone", "x", {}, Notifying.NOBODY),
        ("m.room.tombstone", None, {}, Notifying.NOBODY),
        ("m.room.topic", "", {}, Notifying.NOBODY),
    ],
)
def test_class_of_an_event_is_no_wider_than_it_must_be(
    type: str, state_key: str | None, content: dict[str, Any], of_class: int
) -> None:
    assert notifying_class(type, content, state_key) == of_class
