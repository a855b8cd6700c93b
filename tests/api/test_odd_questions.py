"""Whatever another server asks, it gets an answer; never a failure of ours.

Spec: https://spec.matrix.org/v1.19/server-server-api/
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architex.domain.identifiers import RoomId
from tests.api.client import User, segment
from tests.federation.visitors import Visitor, World

few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_words = st.sampled_from(
    ["", "$", "$a", "!a:b.c", "@a:b.c", "#a:b.c", "0", "-1", "9" * 30, "true", "b", "f", "\0", "%"]
)
_value = _words | _text
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _value,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_value, inner, max_size=4),
    max_leaves=8,
)
_PARAMETERS = (
    "event_id", "v", "limit", "ts", "dir", "suggested_only", "user_id", "field", "room_alias",
    "since", "include_all_networks", "third_party_instance_id",
)  # fmt: skip
_KEYS = (
    "limit", "min_depth", "earliest_events", "latest_events", "filter", "since",
    "include_all_networks", "third_party_instance_id",
)  # fmt: skip


@pytest.fixture(scope="module")
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture(scope="module")
def room_id(alice: User) -> RoomId:
    return alice.create_room(preset="public_chat")


@pytest.fixture(scope="module")
def visitor(world: World, room_id: RoomId) -> Visitor:
    """A server in the room."""
    visiting = world.meet("odd.example")
    visiting.join(room_id, visiting.user("carol"))
    return visiting


def paths(room_id: RoomId, odd: str) -> list[list[str]]:
    """Everything that can be asked with GET, about a room of ours or something odd."""
    return [
        ["v1", "event", odd],
        ["v1", "state", room_id],
        ["v1", "state_ids", room_id],
        ["v1", "event_auth", room_id, odd],
        ["v1", "backfill", room_id],
        ["v1", "timestamp_to_event", room_id],
        ["v1", "hierarchy", room_id],
        ["v1", "state", odd],
        ["v1", "backfill", odd],
        ["v1", "hierarchy", odd],
        ["v1", "query", "profile"],
        ["v1", "query", "directory"],
        ["v1", "publicRooms"],
    ]


@few
@given(
    place=st.integers(0, 12),
    odd=_value.filter(bool),
    query=st.dictionaries(
        st.sampled_from(_PARAMETERS), _value | st.lists(_value, max_size=3), max_size=5
    ),
)
def test_odd_queries_are_answered(
    visitor: Visitor, room_id: RoomId, place: int, odd: str, query: dict[str, Any]
) -> None:
    answer = visitor.request("GET", paths(room_id, odd)[place], **query)
    assert answer.status < 500, answer.json
    if answer.status != 200:
        assert answer.json["errcode"].startswith("M_")


@few
@given(
    what=st.sampled_from(["get_missing_events", "publicRooms"]),
    content=st.dictionaries(st.sampled_from(_KEYS), _json, max_size=5)
    | st.dictionaries(_value, _json, max_size=3),
)
def test_odd_bodies_are_answered(
    visitor: Visitor, room_id: RoomId, what: str, content: dict[str, Any]
) -> None:
    path = ["v1", what] if what == "publicRooms" else ["v1", what, room_id]
    answer = visitor.request("POST", path, content)
    assert answer.status < 500, answer.json


@few
@given(
    what=st.sampled_from(["hierarchy", "timestamp_to_event", "room_summary"]),
    odd=_value.filter(bool),
    query=st.dictionaries(
        st.sampled_from(["suggested_only", "limit", "max_depth", "from", "ts", "dir", "via"]),
        _value | st.lists(_value, max_size=3),
        max_size=4,
    ),
    is_odd=st.booleans(),
)
def test_odd_questions_of_people_are_answered(
    alice: User, room_id: RoomId, what: str, odd: str, query: dict[str, Any], is_odd: bool
) -> None:
    room = segment(odd if is_odd else room_id)
    path = f"room_summary/{room}" if what == "room_summary" else f"rooms/{room}/{what}"
    answer = alice.get(f"/_matrix/client/v1/{path}", **query)
    # Another server that cannot be asked is said to be one.
    assert answer.status < 500 or answer.status == 502, answer.json
