"""Filters of events."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.errors import BadJson
from architex.domain.event_filter import (
    matches_type,
    parse_room_event_filter,
    parse_sync_filter,
    select_event_fields,
)


@pytest.mark.parametrize(
    ("pattern", "type_", "expected"),
    [
        ("m.room.message", "m.room.message", True),
        ("m.room.message", "m.room.messages", False),
        ("m.room.*", "m.room.member", True),
        ("m.room.*", "m.roommember", False),
        ("*", "", True),
        ("*.call.*", "m.call.invite", True),
        ("a*a", "a", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("m.%", "m.x", False),
        ("m._", "m.x", False),
    ],
)
def test_star_stands_for_any_characters(pattern: str, type_: str, expected: bool) -> None:
    assert matches_type(pattern, type_) is expected


def test_excluded_types_and_senders_win_over_included_ones() -> None:
    event_filter = parse_room_event_filter(
        {
            "types": ["m.*"],
            "not_types": ["m.room.member"],
            "senders": ["@a:x", "@b:x"],
            "not_senders": ["@b:x"],
        }
    )
    assert event_filter.includes("m.room.name", "@a:x")
    assert not event_filter.includes("m.room.member", "@a:x")
    assert not event_filter.includes("m.room.name", "@b:x")
    assert not event_filter.includes("org.x", "@a:x")


def test_empty_list_of_types_passes_nothing_and_absent_list_everything() -> None:
    assert parse_room_event_filter({"types": []}).passes_nothing
    assert parse_room_event_filter({}).passes_everything
    assert not parse_room_event_filter({"contains_url": False}).passes_everything
    assert not parse_room_event_filter({"not_rooms": ["!a:x"]}).passes_everything


@pytest.mark.parametrize(
    "content",
    [
        {"room": {"state": {"lazy_load_members": "true"}}},
        {"room": {"state": {"lazy_load_members": 1}}},
        {"room": {"state": {"include_redundant_members": 1}}},
        {"room": {"timeline": {"limit": "10"}}},
        {"room": {"timeline": {"limit": True}}},
        {"room": {"timeline": {"limit": -1}}},
        {"room": {"timeline": {"limit": 1.5}}},
        {"room": {"timeline": {"types": "m.room.message"}}},
        {"room": {"rooms": [1]}},
        {"room": []},
        {"presence": "x"},
        {"event_format": "other"},
        {"event_fields": [None]},
    ],
)
def test_filter_with_a_field_of_the_wrong_type_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        parse_sync_filter(content)


def test_unknown_fields_of_a_filter_are_ignored() -> None:
    assert parse_sync_filter({"org.example": 1, "room": {"x": 2}}) == parse_sync_filter({})


def test_only_named_event_fields_are_selected() -> None:
    event = {
        "type": "m.x",
        "content": {"body": "hi", "a.b": 1, "o": {"p": 2, "q": 3}},
        "sender": 1,
    }
    fields = parse_sync_filter(
        {"event_fields": ["type", "content.body", r"content.a\.b", "content.o.p", "nothing.here"]}
    ).event_fields
    assert fields is not None
    assert select_event_fields(event, fields) == {
        "type": "m.x",
        "content": {"body": "hi", "a.b": 1, "o": {"p": 2}},
    }


def test_field_inside_an_object_that_is_selected_whole_changes_nothing() -> None:
    event = {"content": {"o": {"p": 2, "q": 3}}}
    whole = {"content": {"o": {"p": 2, "q": 3}}}
    assert select_event_fields(event, (("content",), ("content", "o", "p"))) == whole
    assert select_event_fields(event, (("content", "o", "p"), ("content",))) == whole


@pytest.mark.parametrize(
    ("part", "included"), [({}, True), ({"types": []}, False), ({"senders": []}, False)]
)
def test_presence_and_account_data_have_filters_too(part: dict[str, Any], included: bool) -> None:
    sync_filter = parse_sync_filter({"presence": part, "account_data": {**part, "limit": 0}})
    assert sync_filter.presence.includes("m.presence", "@a:x") is included
    assert sync_filter.presence.passes_everything is included
    assert sync_filter.presence.passes_nothing is not included
    assert sync_filter.account_data.limit == 0


def test_sender_that_is_not_known_is_not_looked_at() -> None:
    event_filter = parse_room_event_filter({"types": ["m.*"], "senders": ["@a:x"]})
    assert event_filter.includes("m.tag")
    assert not event_filter.includes("org.x")


def test_excluded_rooms_win_over_included_ones() -> None:
    lists = {"rooms": ["!a:x", "!b:x"], "not_rooms": ["!b:x"]}
    rooms = parse_sync_filter({"room": lists}).room
    events = parse_room_event_filter(lists)
    for room_filter in (rooms, events):
        assert room_filter.is_room_included("!a:x")
        assert not room_filter.is_room_included("!b:x")
        assert not room_filter.is_room_included("!c:x")
    assert parse_room_event_filter({}).is_room_included("!c:x")
    assert not parse_room_event_filter({"rooms": []}).is_room_included("!c:x")


@pytest.mark.parametrize(
    "content",
    [
        {"room": {"rooms": ["a"]}},
        {"room": {"not_rooms": ["#a:x"]}},
        {"room": {"timeline": {"senders": ["a"]}}},
        {"presence": {"not_senders": ["!a:x"]}},
        {"presence": {"senders": ["@a;x"]}},
        {"presence": {"types": ["x"] * 1001}},
        {"event_fields": ["x"] * 1001},
    ],
)
def test_filter_with_an_entry_of_the_wrong_form_or_too_many_is_refused(
    content: dict[str, Any],
) -> None:
    with pytest.raises(BadJson):
        parse_sync_filter(content)


def test_null_counts_as_absent() -> None:
    nulls = {"limit": None, "types": None, "contains_url": None}
    content = {"room": {"timeline": nulls, "state": None}, "event_fields": None}
    assert parse_sync_filter(content) == parse_sync_filter({})


@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_types_match_as_a_regular_expression_matches(pattern: str, type_: str) -> None:
    expected = re.fullmatch(pattern.replace("*", ".*"), type_) is not None
    assert matches_type(pattern, type_) is expected


@given(st.lists(st.text("ab", max_size=1), min_size=1, max_size=3))
def test_selected_field_stands_where_it_stood(path: list[str]) -> None:
    event: Any = 1
    for key in reversed(path):
        event = {key: event, "other": 2}
    selected: Any = select_event_fields(event, (tuple(path),))
    for key in path:
        assert list(selected) == [key]
        selected = selected[key]
    assert selected == 1


def test_filters_that_say_the_same_are_found_by_each_other() -> None:
    def parse(limit: int) -> Any:
        timeline = {"limit": limit, "types": ["m.room.message"]}
        return parse_sync_filter({"room": {"timeline": timeline}, "event_format": "federation"})

    known = {parse(5): "five", parse(6): "six"}
    assert [known.get(parse(limit)) for limit in (5, 6, 7)] == ["five", "six", None]
