"""Templates of other servers: what we sign is ours but for where it stands.

The lies that templates can tell are in tests/federation/test_told_rooms.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.errors import InvalidPdu
from architex.domain.pdu import parse_pdu
from architex.domain.room.handshakes import AUTHORISED_VIA, complete_template
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import sign_event
from tests.builders import ALICE, BOB, TEST_KEY, RoomBuilder


def template(room: RoomBuilder, **changes: Any) -> dict[str, Any]:
    """What Alice's server proposes for Bob's join."""
    pdu = room.compose(BOB, "m.room.member", {"membership": "join"}, state_key=BOB)
    left_out = ("event_id", "hashes", "signatures")
    event = {key: value for key, value in pdu.event.items() if key not in left_out}
    return {**event, **changes}


def complete(room: RoomBuilder, proposed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "room_id": room.room_id,
        "user_id": BOB,
        "content": {"membership": "join", "displayname": "Bob"},
        "resident": "a.example",
        "origin_server_ts": 1_800_000_000_000,
        "opaque_id": "abc",
    }
    return complete_template(room.rules, proposed, **{**arguments, **changes})


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_completed_template_is_an_event_that_the_room_allows(version: str) -> None:
    room = RoomBuilder(version)
    event, _ = sign_event(room.rules, complete(room, template(room)), "b.example", TEST_KEY)
    join = parse_pdu(room.rules, event)
    room.check(join)
    assert join.content == {"membership": "join", "displayname": "Bob"}
    assert join.prev_events == room.heads
    assert join.origin_server_ts == 1_800_000_000_000


@pytest.mark.parametrize("version", ["8", "12"])
def test_user_of_the_resident_may_authorise_a_join(version: str) -> None:
    room = RoomBuilder(version)
    proposed = template(room, content={"membership": "join", AUTHORISED_VIA: ALICE})
    assert complete(room, proposed)["content"][AUTHORISED_VIA] == ALICE
    with pytest.raises(InvalidPdu):
        complete(room, proposed, resident="c.example")


def test_nobody_authorises_joins_in_room_versions_without_restricted_rooms() -> None:
    room = RoomBuilder("7")
    proposed = template(room, content={"membership": "join", AUTHORISED_VIA: ALICE})
    assert AUTHORISED_VIA not in complete(room, proposed)["content"]


@pytest.mark.parametrize("membership", ["leave", "knock"])
def test_template_of_another_membership_is_refused(membership: str) -> None:
    room = RoomBuilder("11")
    with pytest.raises(InvalidPdu):
        complete(room, template(room), content={"membership": membership})


def test_depth_of_a_template_is_bounded_by_the_room_version() -> None:
    room = RoomBuilder("6")
    assert complete(room, template(room, depth=2**62))["depth"] == 2**53 - 1


@pytest.mark.parametrize("proposed", [None, [], "event", 5])
def test_template_is_an_object(proposed: Any) -> None:
    with pytest.raises(InvalidPdu):
        complete(RoomBuilder("11"), proposed)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "m.room.message"},
        {"room_id": "!other:a.example"},
        {"sender": ALICE},
        {"state_key": ALICE},
        {"state_key": None},
        {"content": None},
        {"content": {}},
        {"depth": None},
        {"depth": -1},
        {"depth": 1.5},
        {"depth": True},
        {"depth": "5"},
        {"prev_events": None},
        {"prev_events": []},
        {"prev_events": ["event"]},
        {"prev_events": [5]},
        {"prev_events": [["$a", {}]]},
        {"prev_events": [f"${n}" for n in range(21)]},
        {"auth_events": None},
        {"auth_events": {}},
        {"auth_events": [f"${n}" for n in range(11)]},
    ],
)
def test_template_of_another_form_is_refused(change: dict[str, Any]) -> None:
    room = RoomBuilder("11")
    with pytest.raises(InvalidPdu):
        complete(room, template(room, **change))


@pytest.mark.parametrize(
    "reference",
    [
        "$event:a.example",
        ["$event:a.example"],
        ["$event:a.example", None],
        ["$event:a.example", {"sha256": "not base64!"}],
        ["$event:a.example", {"sha256": "AAAA"}],
        ["$event:a.example", {"sha256": 5}],
        ["$event:a.example", {"md5": "AAAA"}],
        [5, {}],
        ["event", {}],
    ],
)
@pytest.mark.parametrize("field", ["prev_events", "auth_events"])
def test_references_of_old_rooms_quote_a_hash_or_none(field: str, reference: Any) -> None:
    room = RoomBuilder("2")
    with pytest.raises(InvalidPdu):
        complete(room, template(room, **{field: [reference]}))
    # Synapse leaves the hash out.
    good = ["$event:a.example", {}]
    assert complete(room, template(room, **{field: [good]}))[field] == [good]


@pytest.mark.parametrize("authoriser", [5, "carol", {}, "@carol:c.example"])
def test_whoever_authorises_a_join_is_a_user_of_the_resident(authoriser: Any) -> None:
    room = RoomBuilder("11")
    content = {"membership": "join", AUTHORISED_VIA: authoriser}
    with pytest.raises(InvalidPdu):
        complete(room, template(room, content=content))


def test_nobody_authorises_a_leave_or_a_plain_join() -> None:
    room = RoomBuilder("11")
    leave = {"membership": "leave", AUTHORISED_VIA: "@carol:c.example"}
    completed = complete(room, template(room, content=leave), content={"membership": "leave"})
    assert completed["content"] == {"membership": "leave"}
    assert AUTHORISED_VIA not in complete(room, template(room))["content"]
