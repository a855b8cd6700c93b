"""PDUs: format and size by room version, hashes and event IDs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from architex.domain.errors import InvalidPdu, TooLarge
from architex.domain.pdu import (
    MAX_PDU_BYTES,
    build_event,
    check_field_sizes,
    check_pdu_format,
    compute_event_id,
    encode_event_json,
    has_valid_content_hash,
    parse_pdu,
    signed_event_json,
)
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import sign_event
from tests.builders import ALICE, TEST_KEY, RoomBuilder

Change = Callable[[dict[str, Any]], object]


def message_event(version: str) -> dict[str, Any]:
    return dict(RoomBuilder(version).message(ALICE).event)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_room_of_every_version_can_be_read_back(version: str) -> None:
    room = RoomBuilder(version)
    room.message(ALICE)
    for pdu in room.pdus.values():
        again = parse_pdu(room.rules, dict(pdu.event))
        assert again == pdu
        assert (again.room_id, again.prev_events) == (room.room_id, pdu.prev_events)
        known = parse_pdu(room.rules, pdu.event, event_id=pdu.event_id)
        assert (known, known.auth_events) == (pdu, pdu.auth_events)


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.pop("sender"),
        lambda event: event.update(sender="alice"),
        lambda event: event.update(sender=5),
        lambda event: event.update(sender="@alice:bad server"),
        lambda event: event.pop("type"),
        lambda event: event.update(type=None),
        lambda event: event.update(state_key=None),
        lambda event: event.update(state_key=5),
        lambda event: event.pop("room_id"),
        lambda event: event.update(room_id="!nowhere"),
        lambda event: event.update(room_id=[]),
        lambda event: event.pop("content"),
        lambda event: event.update(content=[]),
        lambda event: event.update(content="text"),
        lambda event: event.pop("depth"),
        lambda event: event.update(depth="1"),
        lambda event: event.update(depth=True),
        lambda event: event.update(depth=-1),
        lambda event: event.update(depth=2**63),
        lambda event: event.pop("origin_server_ts"),
        lambda event: event.update(origin_server_ts="now"),
        lambda event: event.update(origin_server_ts=1.5),
        lambda event: event.update(origin_server_ts=2**63),
        lambda event: event.update(type="m.room\0message"),
        lambda event: event.update(state_key="\0"),
        lambda event: event.pop("hashes"),
        lambda event: event.update(hashes={}),
        lambda event: event.update(hashes={"sha256": 5}),
        lambda event: event.update(hashes=[]),
        lambda event: event.pop("signatures"),
        lambda event: event.update(signatures=[]),
        lambda event: event.update(signatures={"x": "y"}),
        lambda event: event.update(signatures={"x": {"ed25519:1": 5}}),
        lambda event: event.pop("prev_events"),
        lambda event: event.update(prev_events={}),
        lambda event: event.update(prev_events=[5]),
        lambda event: event.update(prev_events=["no event ID"]),
        lambda event: event.update(prev_events=event["auth_events"] * 20),
        lambda event: event.pop("auth_events"),
        lambda event: event.update(auth_events=[None]),
        lambda event: event.update(auth_events=event["prev_events"] * 11),
        lambda event: event.update(unsigned=[]),
        lambda event: event.update(content={"body": "\ud800"}),
    ],
)
@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
def test_an_event_of_the_wrong_format_is_invalid(version: str, change: Change) -> None:
    event = message_event(version)
    check_pdu_format(ROOM_VERSIONS[version], event)
    change(event)
    with pytest.raises(InvalidPdu):
        parse_pdu(ROOM_VERSIONS[version], event)


@pytest.mark.parametrize("field", ["type", "state_key"])
def test_a_field_has_at_most_255_bytes(field: str) -> None:
    event = message_event("11") | {field: "é" * 127}
    check_field_sizes(event)
    for too_long in ("é" * 128, "é" * 255):
        check_pdu_format(ROOM_VERSIONS["11"], event | {field: too_long})
        with pytest.raises(TooLarge):
            check_field_sizes(event | {field: too_long})
    with pytest.raises(TooLarge):
        check_pdu_format(ROOM_VERSIONS["11"], event | {field: "é" * 256})


@pytest.mark.parametrize("version", ["1", "11"])
def test_an_event_has_at_most_65536_bytes(version: str) -> None:
    event = message_event(version)
    rules = ROOM_VERSIONS[version]
    event["content"] = {"body": ""}
    room = MAX_PDU_BYTES - len(encode_event_json(rules, event))
    event["content"] = {"body": "x" * room}
    check_pdu_format(rules, event)
    event["content"] = {"body": "x" * (room + 1)}
    with pytest.raises(TooLarge):
        check_pdu_format(rules, event)


@pytest.mark.parametrize("number", [1.5, 1.0, 2**53])
def test_canonical_json_is_enforced_since_v6(number: float) -> None:
    for version, rules in ROOM_VERSIONS.items():
        event = message_event(version) | {"content": {"number": number}}
        if int(version) < 6:
            check_pdu_format(rules, event)
        else:
            with pytest.raises(InvalidPdu):
                check_pdu_format(rules, event)


def test_depth_may_be_greater_before_v6() -> None:
    check_pdu_format(ROOM_VERSIONS["5"], message_event("5") | {"depth": 2**63 - 1})
    check_pdu_format(ROOM_VERSIONS["6"], message_event("6") | {"depth": 2**53 - 1})
    with pytest.raises(InvalidPdu):
        check_pdu_format(ROOM_VERSIONS["6"], message_event("6") | {"depth": 2**53})


def test_old_rooms_name_events_with_their_hashes() -> None:
    event = message_event("2")
    (event_id, hashes), *_ = event["prev_events"]
    assert event_id.startswith("$")
    assert set(hashes) == {"sha256"}
    for wrong in ([event_id], [[event_id]], [[event_id, "hash"]], [[event_id, {}, {}]], [[5, {}]]):
        with pytest.raises(InvalidPdu):
            check_pdu_format(ROOM_VERSIONS["2"], event | {"prev_events": wrong})
    with pytest.raises(InvalidPdu):
        check_pdu_format(ROOM_VERSIONS["3"], event)


@pytest.mark.parametrize("event_id", [None, 5, "x", "$nodomain", "$a\0:x.org"])
def test_old_events_carry_their_id(event_id: Any) -> None:
    event = message_event("1") | {"event_id": event_id}
    with pytest.raises(InvalidPdu):
        parse_pdu(ROOM_VERSIONS["1"], event)


def test_event_ids_are_reference_hashes_since_v3() -> None:
    lengths = {}
    for version, rules in ROOM_VERSIONS.items():
        event = message_event(version)
        event_id = compute_event_id(rules, event)
        signed_json = signed_event_json(rules, event)
        assert compute_event_id(rules, event, signed_json=signed_json) == event_id
        lengths[version] = len(event_id)
        assert compute_event_id(rules, event | {"unsigned": {"age": 5}}) == event_id
        changed = compute_event_id(rules, event | {"depth": 77})
        assert (changed == event_id) == (int(version) < 3)
    assert {lengths[version] for version in ROOM_VERSIONS if int(version) >= 3} == {44}


def test_event_ids_are_url_safe_since_v4() -> None:
    ids = {}
    for version in ("3", "4"):
        room = RoomBuilder(version)
        ids[version] = "".join(room.message(ALICE, str(n)).event_id for n in range(30))
    assert set("+/") & set(ids["3"])
    assert not set("-_") & set(ids["3"])
    assert set("-_") & set(ids["4"])
    assert not set("+/") & set(ids["4"])


def test_the_room_id_is_the_create_events_hash_since_v12() -> None:
    room = RoomBuilder("12")
    create = room.find_state("m.room.create")
    assert create is not None
    assert create.room_id == room.room_id == "!" + create.event_id[1:]
    assert "room_id" not in create.event
    with pytest.raises(InvalidPdu):
        parse_pdu(room.rules, dict(create.event) | {"room_id": room.room_id})
    message = room.message(ALICE)
    assert create.event_id not in message.auth_events
    with pytest.raises(InvalidPdu):
        parse_pdu(room.rules, dict(message.event) | {"room_id": "!room:a.example"})


def test_a_redaction_names_its_target_in_content_since_v11() -> None:
    for version in ROOM_VERSIONS:
        room = RoomBuilder(version)
        target = room.message(ALICE).event_id
        redaction = room.send(ALICE, "m.room.redaction", {"reason": "x"}, redacts=target)
        assert redaction.redacts == target
        assert ("redacts" in redaction.event) == (int(version) < 11)
        assert ("redacts" in redaction.content) == (int(version) >= 11)


def test_redacts_elsewhere_than_the_version_wants_it_does_not_count() -> None:
    room = RoomBuilder("11")
    event = dict(room.send(ALICE, "m.room.redaction", {}).event) | {"redacts": "$x"}
    assert parse_pdu(room.rules, event).redacts is None
    room = RoomBuilder("10")
    redaction = room.send(ALICE, "m.room.redaction", {"redacts": "$x"})
    assert redaction.redacts is None
    odd = parse_pdu(room.rules, dict(redaction.event) | {"redacts": "no event ID"})
    assert odd.redacts is None
    with pytest.raises(InvalidPdu):
        parse_pdu(room.rules, dict(redaction.event) | {"redacts": 5})


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_the_content_hash_covers_content_but_not_signatures(version: str) -> None:
    rules = ROOM_VERSIONS[version]
    event = message_event(version)
    assert has_valid_content_hash(rules, event)
    assert has_valid_content_hash(rules, event | {"unsigned": {}, "signatures": {}})
    assert not has_valid_content_hash(rules, event | {"content": {}})
    assert not has_valid_content_hash(rules, event | {"hashes": {"sha256": "!"}})


def test_building_an_event_cuts_its_depth_to_the_limit() -> None:
    fields: dict[str, Any] = {
        "room_id": "!r:a.example",
        "sender": ALICE,
        "type": "m.room.message",
        "content": {},
        "prev_events": ["$p"],
        "auth_events": ["$a"],
        "origin_server_ts": 1,
    }
    event = build_event(ROOM_VERSIONS["11"], depth=2**60, **fields)
    assert event["depth"] == 2**53 - 1
    assert "origin" not in event
    event = build_event(ROOM_VERSIONS["11"], depth=1, origin="a.example", **fields)
    assert event["origin"] == "a.example"
    with pytest.raises(ValueError, match="event ID"):
        build_event(ROOM_VERSIONS["2"], depth=1, **fields)
    with pytest.raises(ValueError, match="room ID"):
        build_event(ROOM_VERSIONS["12"], depth=1, **fields | {"room_id": None})


def test_pdus_are_equal_by_event_id_and_message_events_have_no_key() -> None:
    room = RoomBuilder("11")
    first, second = room.message(ALICE), room.message(ALICE)
    assert first != second
    assert len({first, parse_pdu(room.rules, first.event), second}) == 2
    assert first != first.event_id
    assert not first.is_state
    with pytest.raises(ValueError, match="not a state event"):
        _ = first.key


def test_an_unsigned_event_built_and_signed_passes_its_own_checks() -> None:
    rules = ROOM_VERSIONS["12"]
    event = build_event(
        rules,
        room_id=None,
        sender=ALICE,
        type="m.room.create",
        content={"room_version": "12"},
        state_key="",
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=1,
    )
    signed, event_id = sign_event(rules, event, "a.example", TEST_KEY)
    assert parse_pdu(rules, signed).event_id == event_id
