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
