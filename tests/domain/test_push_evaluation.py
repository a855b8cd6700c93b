"""Push rules are evaluated as the specification says, and never slowly."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.push_evaluation import (
    Notifying,
    PushEvaluator,
    RoomContext,
    contains_words,
    notifying_class,
)
from architex.domain.push_rules import default_push_rules, effective_push_rules, parse_push_rule

ALICE = "@alice:a.example"
BOB = "@bob:a.example"
ROOM = "!room:a.example"


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
