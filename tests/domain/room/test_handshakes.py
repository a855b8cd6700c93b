"""Handshakes: of what another server proposes, only the place in the room is believed."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.errors import InvalidPdu
from architex.domain.room.handshakes import complete_template
from architex.domain.room_versions import get_room_version
from architex.domain.unpadded_base64 import encode_base64

ALICE = "@alice:ours.example"
ROOM = "!room:theirs.example"
EVENT = "$" + "e" * 43
OLD_EVENT = "$event:theirs.example"
HASH = {"sha256": encode_base64(b"h" * 32)}


def template(**changes: Any) -> dict[str, Any]:
    return {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": ALICE,
        "state_key": ALICE,
        "content": {"membership": "join"},
        "depth": 7,
        "prev_events": [EVENT],
        "auth_events": [EVENT],
        **changes,
    }


def complete(proposed: object, version: str = "11", **content: Any) -> dict[str, Any]:
    return complete_template(
        get_room_version(version),
        proposed,
        room_id=ROOM,
        user_id=ALICE,
        content={"membership": "join", **content},
        resident="theirs.example",
        origin_server_ts=1,
        opaque_id="opaque",
    )


def test_only_the_place_in_the_room_is_taken() -> None:
    proposed = template(
        content={"membership": "join", "displayname": "Mallory"},
        origin_server_ts=99,
        redacts=EVENT,
        unsigned={"a": 1},
        hashes={"sha256": "x"},
        signatures={"ours.example": {"ed25519:1": "x"}},
    )
    assert complete(proposed, displayname="Alice") == {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": ALICE,
        "state_key": ALICE,
        "content": {"membership": "join", "displayname": "Alice"},
        "depth": 7,
        "prev_events": [EVENT],
        "auth_events": [EVENT],
        "origin_server_ts": 1,
        "origin": "ours.example",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "m.room.power_levels"},
        {"room_id": "!other:theirs.example"},
        {"sender": "@bob:ours.example"},
        {"state_key": "@bob:ours.example"},
        {"content": {"membership": "ban"}},
        {"content": None},
        {"depth": -1},
        {"depth": True},
        {"depth": "7"},
        {"prev_events": []},
        {"prev_events": [EVENT] * 21},
        {"prev_events": ["no event"]},
        {"auth_events": [EVENT] * 11},
        {"auth_events": [[EVENT, HASH]]},
        {"auth_events": None},
    ],
    ids=str,
)
def test_what_was_not_asked_for_is_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidPdu):
        complete(template(**changes))


@pytest.mark.parametrize("hashes", [HASH, {}], ids=str)
def test_old_versions_quote_hashes_and_synapse_leaves_them_out(hashes: Any) -> None:
    references = [[OLD_EVENT, hashes]]
    event = complete(template(prev_events=references, auth_events=references), "1")
    assert event["prev_events"] == event["auth_events"] == references
    assert event["event_id"] == "$opaque:ours.example"


@pytest.mark.parametrize(
    "reference", [OLD_EVENT, [OLD_EVENT], [OLD_EVENT, {"sha256": "x"}], [OLD_EVENT, {"md5": "x"}]]
)
def test_old_versions_quote_nothing_else(reference: object) -> None:
    with pytest.raises(InvalidPdu):
        complete(template(prev_events=[reference], auth_events=[]), "1")


@pytest.mark.parametrize(
    "authoriser", ["@carol:elsewhere.example", "carol", 1, "@alice:ours.example"]
)
def test_only_a_user_of_the_resident_server_may_authorise_a_join(authoriser: object) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": authoriser}
    with pytest.raises(InvalidPdu):
        complete(template(content=content))
