"""Filters of events."""

from typing import Any

import pytest

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
