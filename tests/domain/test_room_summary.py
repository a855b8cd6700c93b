"""Summaries: what a room looks like from outside, and who may be shown it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.room_summary import (
    MAX_CHILDREN,
    MAX_VIA,
    RoomSummary,
    can_enter,
    plain_topic,
    read_child,
    read_summary,
    summarise,
)

ROOM = "!room:a.example"

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def child(room_id: str = ROOM, **content: Any) -> dict[str, Any]:
    """An m.space.child event."""
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": "@alice:a.example",
        "origin_server_ts": 5,
        "content": {"via": ["a.example"], **content},
    }


def test_children_are_ordered_as_the_spec_shows() -> None:
    order_and_time = {
        "!b:e": (" ", 1640341000000),
        "!a:e": ("aaaa", 1640141000000),
        "!c:e": ("first", 1640841000000),
        "!e:e": (None, 1640641000000),
        "!d:e": (None, 1640741000000),
    }
    read = []
    for room_id, (order, ts) in sorted(order_and_time.items()):
        event = child(room_id, **({} if order is None else {"order": order}))
        read.append(read_child({**event, "origin_server_ts": ts}))
    children = [found for found in read if found is not None]
    for shuffled in itertools.permutations(children):
        summary = summarise("!s:e", "11", 1, {}, shuffled)
        assert [found.room_id for found in summary.children] == [*order_and_time]


@pytest.mark.parametrize("order", ["x" * 51, "", "\x7f", "é", "\n", 5, None, ["a"]])
def test_odd_order_is_none(order: Any) -> None:
    found = read_child(child(order=order))
    assert found is not None
    assert found.place[:2] == (True, "")


@pytest.mark.parametrize(
    "event",
    [
        {},
        {**child(), "type": "m.space.parent"},
        {**child(), "state_key": "nonsense"},
        {**child(), "state_key": None},
        {**child(), "sender": "alice"},
        {**child(), "origin_server_ts": "5"},
        {**child(), "origin_server_ts": True},
        {**child(), "content": None},
        child(via=None),
        child(via="a.example"),
        child(via=[]),
        child(via=["no server", 5]),
    ],
)
def test_event_that_names_no_child_is_none(event: dict[str, Any]) -> None:
    assert read_child(event) is None


def test_lists_of_others_are_bounded() -> None:
    found = read_child(child(via=[f"s{number}.example" for number in range(1000)]))
    assert found is not None
    assert len(found.via) == MAX_VIA
    told = {
        "room_id": ROOM,
        "room_type": "m.space",
        "children_state": [child(f"!{n}:a.example") for n in range(MAX_CHILDREN + 10)],
    }
    summary = read_summary(told)
    assert summary is not None
    assert len(summary.children) == MAX_CHILDREN


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "room_id",
                "name",
                "canonical_alias",
                "num_joined_members",
                "world_readable",
                "join_rule",
                "room_type",
                "allowed_room_ids",
                "children_state",
                "room_version",
            ]
        ),
        _json | st.just(ROOM) | st.just([ROOM]) | st.just([child()]),
    )
)
def test_whatever_others_tell_is_read_or_left(told: dict[str, Any]) -> None:
    summary = read_summary(told)
    assert (summary is None) == (told.get("room_id") != ROOM)
    if summary is not None:
        shown = summary.as_json()
        assert type(shown["num_joined_members"]) is int
        assert type(shown["world_readable"]) is bool


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*child()]), _json))
def test_whatever_is_in_a_child_event_is_read_or_left(changes: dict[str, Any]) -> None:
    found = read_child({**child(), **changes})
    assert found is None or found.via


@pytest.mark.parametrize(
    ("content", "topic"),
    [
        ({}, None),
        ({"topic": "plain"}, "plain"),
        ({"topic": 5}, None),
        ({"topic": "old", "m.topic": {"m.text": [{"body": "new"}]}}, "new"),
        ({"topic": "old", "m.topic": {"m.text": [{"mimetype": "text/html", "body": "x"}]}}, None),
        ({"topic": "old", "m.topic": {"m.text": []}}, "old"),
        ({"topic": "old", "m.topic": {"m.text": [5, {"body": "new"}]}}, "new"),
        ({"topic": "old", "m.topic": 5}, "old"),
    ],
)
def test_topic_is_shown_as_plain_text(content: dict[str, Any], topic: str | None) -> None:
    assert plain_topic(content) == topic


@pytest.mark.parametrize("membership", [None, "join", "invite", "knock", "leave", "ban"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("join_rule", "version", "open_to"),
    [
        ("public", "11", "all"),
        ("knock", "11", "all"),
        ("knock", "6", "none"),
        ("knock_restricted", "11", "all"),
        ("knock_restricted", "9", "none"),
        ("restricted", "11", "inside"),
        ("restricted", "7", "none"),
        ("invite", "11", "none"),
        ("private", "11", "none"),
        ("something_new", "11", "none"),
    ],
)
def test_room_is_shown_to_who_could_enter_it(
    join_rule: str, version: str, open_to: str, inside: bool, membership: str | None
) -> None:
    room = RoomSummary(ROOM, 1, room_version=version, join_rule=join_rule)
    expected = membership in ("join", "invite")
    if membership != "ban":
        expected = expected or open_to == "all" or (open_to == "inside" and inside)
    allowed = ["!club:a.example"] if inside else []
    assert can_enter(room, membership, allowed) is expected
    readable = RoomSummary(ROOM, 1, room_version=version, is_world_readable=True)
    assert can_enter(readable, membership, allowed)


@pytest.mark.parametrize(
    ("join_rule", "version", "knock", "restricted"),
    [
        ("public", "11", False, False),
        ("invite", "11", False, False),
        ("knock", "6", False, False),
        ("knock", "7", True, False),
        ("restricted", "7", False, False),
        ("restricted", "8", False, True),
        ("knock_restricted", "9", False, False),
        ("knock_restricted", "10", True, True),
        # Of a version that we do not know we believe what is told.
        ("knock", "org.example", True, False),
        ("knock_restricted", None, True, True),
    ],
)
def test_join_rule_means_what_the_room_version_lets_it_mean(
    join_rule: str, version: str | None, knock: bool, restricted: bool
) -> None:
    # https://spec.matrix.org/v1.19/rooms/#feature-matrix
    summary = RoomSummary(
        ROOM, 1, room_version=version, join_rule=join_rule, allowed_room_ids=("!other:x",)
    )
    assert summary.can_be_knocked_at is knock
    assert summary.is_restricted is restricted
    assert summary.is_open is (knock or join_rule == "public")
    assert ("allowed_room_ids" in summary.as_json()) is restricted
    readable = RoomSummary(ROOM, 1, join_rule="invite", is_world_readable=True)
    assert readable.is_open


def test_space_is_a_room_of_its_type() -> None:
    assert RoomSummary(ROOM, 1, room_type="m.space").is_space
    assert not RoomSummary(ROOM, 1, room_type="org.example").is_space
    assert not RoomSummary(ROOM, 1).is_space


def test_summary_leaves_out_what_the_room_does_not_have() -> None:
    assert RoomSummary(ROOM, 2).as_json() == {
        "room_id": ROOM,
        "num_joined_members": 2,
        "world_readable": False,
        "guest_can_join": False,
    }
