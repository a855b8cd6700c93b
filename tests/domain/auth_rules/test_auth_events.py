"""Rule 2: an event's auth events; and which they should be."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.auth_rules import auth_types_for_event, check_state_independent_auth_rules
from architex.domain.errors import Forbidden
from architex.domain.pdu import Pdu
from architex.domain.room_versions import ROOM_VERSIONS
from tests.builders import ALICE, BOB, CAROL, RoomBuilder, auth_events_allow

CREATE = ("m.room.create", "")
POWER_LEVELS = ("m.room.power_levels", "")
JOIN_RULES = ("m.room.join_rules", "")


def member(user_id: str) -> tuple[str, str]:
    return ("m.room.member", user_id)


def select(
    version: str, type: str, state_key: str | None = None, **content: Any
) -> frozenset[tuple[str, str]]:
    return auth_types_for_event(
        ROOM_VERSIONS[version], type=type, state_key=state_key, sender=ALICE, content=content
    )


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_create_event_has_no_auth_events(version: str) -> None:
    assert select(version, "m.room.create", "") == set()


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_every_event_needs_create_power_levels_and_the_senders_membership(version: str) -> None:
    expected = {POWER_LEVELS, member(ALICE)} | ({CREATE} if version != "12" else set())
    assert select(version, "m.room.message") == expected
    assert select(version, "m.room.topic", "") == expected
    # Not a membership, whatever it says.
    assert select(version, "m.room.topic", BOB, membership="join") == expected


@pytest.mark.parametrize("membership", ["join", "invite", "knock", "leave", "ban", "odd", None, 5])
def test_a_membership_needs_the_targets_and_perhaps_the_join_rule(membership: Any) -> None:
    keys = select("11", "m.room.member", BOB, membership=membership)
    assert {member(ALICE), member(BOB), CREATE, POWER_LEVELS} <= keys
    assert (JOIN_RULES in keys) == (membership in ("join", "invite", "knock"))


def test_a_third_party_invite_needs_the_offer_with_its_token() -> None:
    invite = {"signed": {"token": "t"}}
    offer = ("m.room.third_party_invite", "t")
    assert offer in select(
        "11", "m.room.member", BOB, membership="invite", third_party_invite=invite
    )
    assert offer not in select(
        "11", "m.room.member", BOB, membership="join", third_party_invite=invite
    )


@pytest.mark.parametrize("invite", [None, [], {}, {"signed": None}, {"signed": {"token": 5}}])
def test_a_malformed_third_party_invite_needs_nothing_more(invite: Any) -> None:
    keys = select("11", "m.room.member", BOB, membership="invite", third_party_invite=invite)
    assert keys == select("11", "m.room.member", BOB, membership="invite")


def test_a_restricted_join_needs_the_membership_of_who_authorised_it_since_v8() -> None:
    content: dict[str, Any] = {"membership": "join", "join_authorised_via_users_server": CAROL}
    assert member(CAROL) not in select("7", "m.room.member", ALICE, **content)
    assert member(CAROL) in select("8", "m.room.member", ALICE, **content)
    content["membership"] = "leave"
    assert member(CAROL) not in select("8", "m.room.member", ALICE, **content)
    content = {"membership": "join", "join_authorised_via_users_server": [CAROL]}
    assert member(CAROL) not in select("8", "m.room.member", ALICE, **content)


def check_with(
    room: RoomBuilder,
    *,
    without: str | None = None,
    extra: Pdu | None = None,
    rejected: str | None = None,
    create: Pdu | None = None,
) -> None:
    message = room.compose(ALICE, "m.room.message", {})
    auth_events = [
        pdu for event_id in message.auth_events if (pdu := room.pdus[event_id]).type != without
    ]
    if extra is not None:
        auth_events.append(extra)
    check_state_independent_auth_rules(
        room.rules,
        message,
        auth_events,
        create=create or room.find_state("m.room.create"),
        rejected=[pdu.event_id for pdu in room.pdus.values() if pdu.type == rejected],
    )


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_proper_auth_events_are_taken(version: str) -> None:
    room = RoomBuilder(version)
    check_with(room)
    auth_events_allow(room, room.compose(ALICE, "m.room.message", {}))
    # Which of them there are is the business of the rules that look at state.
    check_with(room, without="m.room.power_levels")
    check_with(room, without="m.room.member")


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_two_auth_events_for_one_place_are_refused(version: str) -> None:
    room = RoomBuilder(version)
    old = room.find_state("m.room.power_levels")
    room.set_power_levels(ALICE, **(old.content if old is not None else {}))
    with pytest.raises(Forbidden, match="two auth events"):
        check_with(room, extra=old)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_an_auth_event_that_is_not_selected_is_refused(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    for extra in (
        room.find_state("m.room.join_rules"),
        room.find_state("m.room.member", BOB),
        room.message(ALICE),
    ):
        with pytest.raises(Forbidden, match="too many"):
            check_with(room, extra=extra)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_rejected_auth_event_is_refused(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="rejected"):
        check_with(room, rejected="m.room.power_levels")


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_an_auth_event_of_another_room_is_refused(version: str) -> None:
    room = RoomBuilder(version)
    other = RoomBuilder(version, creator="@mallory:m.example")
    stranger = other.find_state("m.room.power_levels")
    with pytest.raises(Forbidden, match="another room"):
        check_with(room, without="m.room.power_levels", extra=stranger)


@pytest.mark.parametrize("version", [version for version in ROOM_VERSIONS if version != "12"])
def test_the_create_event_must_be_among_the_auth_events_until_v11(version: str) -> None:
    with pytest.raises(Forbidden, match=r"no m\.room\.create"):
        check_with(RoomBuilder(version), without="m.room.create")


def test_the_create_event_must_not_be_among_the_auth_events_since_v12() -> None:
    room = RoomBuilder("12")
    with pytest.raises(Forbidden, match="too many"):
        check_with(room, extra=room.find_state("m.room.create"))


def test_the_room_id_must_be_that_of_an_accepted_create_event_since_v12() -> None:
    room, other = RoomBuilder("12"), RoomBuilder("12", creator=BOB)
    message = room.compose(ALICE, "m.room.message", {})
    auth_events = [room.pdus[event_id] for event_id in message.auth_events]
    for create in (None, other.find_state("m.room.create"), auth_events[0]):
        with pytest.raises(Forbidden, match="room ID"):
            check_state_independent_auth_rules(room.rules, message, auth_events, create=create)
    with pytest.raises(Forbidden, match="room ID"):
        check_with(room, rejected="m.room.create")
