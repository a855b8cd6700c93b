"""The checks on receipt of a PDU: dropped, redacted, rejected, soft-failed or accepted.

Spec: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from architex.domain.pdu import Pdu, parse_pdu, signed_event_json
from architex.domain.redaction import redact_event
from architex.domain.room.pdu_checks import (
    Outcome,
    Verdict,
    WorkedOut,
    check_authorisation,
    check_form,
    check_imported,
    check_signed_and_whole,
)
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import SigningKey
from tests.builders import ALICE, BOB, TEST_KEY, RoomBuilder

every_version = pytest.mark.parametrize("version", ROOM_VERSIONS)


def find_test_key(server_name: str, key_id: str, made_ts: int) -> bytes | None:
    return TEST_KEY.verify_key if key_id == TEST_KEY.key_id else None


def received(room: RoomBuilder, event: Any, find: Any = find_test_key) -> Verdict | Pdu:
    return check_form(room.rules, room.room_id, event, find)


def judge(
    room: RoomBuilder,
    pdu: Pdu,
    *,
    before: RoomBuilder | None = None,
    current: RoomBuilder | None = None,
    rejected: frozenset[str] = frozenset(),
) -> Verdict:
    return check_authorisation(
        room.rules,
        pdu,
        [room.pdus[event_id] for event_id in pdu.auth_events],
        create=room.find_state("m.room.create"),
        rejected=rejected,
        find_before=(before or room).find_state,
        find_current=(current or room).find_state,
    )


# ---- 1 to 3: is it an event of this room, signed, and whole?


@every_version
def test_signed_and_whole_event_of_the_room_is_one(version: str) -> None:
    room = RoomBuilder(version)
    message = room.message(ALICE)
    pdu = received(room, message.event)
    assert isinstance(pdu, Pdu)
    assert pdu == message
    assert pdu.event is message.event


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.pop("sender"),
        lambda event: event.pop("signatures"),
        lambda event: event.update(signatures={}),
        lambda event: event.update(room_id="!elsewhere:a.example"),
        lambda event: event.update(origin_server_ts=1),
        lambda event: event.update(sender="@mallory:b.example"),
        lambda event: event.update(content={"body": "x" * 70_000}),
        lambda event: event.update(content={"body": 1.5}),
    ],
)
def test_what_is_malformed_unsigned_or_of_another_room_is_dropped(
    change: Callable[[dict[str, Any]], object],
) -> None:
    room = RoomBuilder("11")
    event = dict(room.message(ALICE).event)
    change(event)
    verdict = received(room, event)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.DROPPED
    assert verdict.pdu is None
    assert verdict.reason


def test_whole_event_of_another_room_is_dropped() -> None:
    room, other = RoomBuilder("11"), RoomBuilder("11", creator=BOB)
    verdict = received(room, other.message(BOB).event)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.DROPPED


def test_signature_by_a_key_that_did_not_count_then_is_none() -> None:
    room = RoomBuilder("11")
    message = room.message(ALICE)
    asked = []

    def find_key(server_name: str, key_id: str, made_ts: int) -> bytes | None:
        asked.append((server_name, key_id, made_ts))
        return None

    verdict = received(room, message.event, find_key)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.lacks_key) == (Outcome.DROPPED, True)
    assert set(asked) == {("a.example", TEST_KEY.key_id, message.origin_server_ts)}


def test_signature_by_another_key_drops_the_event() -> None:
    room = RoomBuilder("11")
    other = SigningKey.from_seed(b"o" * 32, "test")
    verdict = received(room, room.message(ALICE).event, lambda *_: other.verify_key)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.lacks_key) == (Outcome.DROPPED, False)


@every_version
@pytest.mark.parametrize("sha256", ["", "not base64!", "AAAA"])
def test_event_whose_hash_does_not_match_goes_on_redacted(version: str, sha256: str) -> None:
    room = RoomBuilder(version)
    message = room.message(ALICE)
    changed = {**message.event, "content": {"body": "another"}, "unsigned": {"x": 1}}
    pdu = received(room, changed)
    assert isinstance(pdu, Pdu)
    assert pdu.event == redact_event(room.rules, message.event)
    assert pdu.content == {}
    # It is the same event still, and known to be what it was sent as.
    assert pdu.event_id == message.event_id
    # The hash itself is signed.
    told_otherwise = received(room, {**changed, "hashes": {"sha256": sha256}})
    assert isinstance(told_otherwise, Verdict)
    assert told_otherwise.outcome is Outcome.DROPPED


def test_what_was_worked_out_of_an_event_is_not_worked_out_again() -> None:
    room = RoomBuilder("11")
    message = room.message(ALICE)
    changed = parse_pdu(
        room.rules, {**message.event, "content": {"body": "b"}}, event_id=message.event_id
    )
    signed_json = signed_event_json(room.rules, message.event)
    is_whole = WorkedOut(is_whole=True, signed_json=signed_json)
    assert check_signed_and_whole(room.rules, changed, find_test_key, is_whole) is changed
    other = WorkedOut(is_whole=True, signed_json=signed_json[:-1])
    assert isinstance(check_signed_and_whole(room.rules, changed, find_test_key, other), Verdict)
    pdu = check_signed_and_whole(room.rules, changed, find_test_key)
    assert isinstance(pdu, Pdu)
    assert pdu.content == {}


# ---- 4 to 6: do the authorization rules allow it?


@every_version
def test_event_that_the_rules_allow_everywhere_is_accepted(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    pdu = room.compose(BOB, "m.room.message", {"body": "x"})
    assert judge(room, pdu) == Verdict(Outcome.ACCEPTED, pdu)


@every_version
def test_create_event_is_judged_by_itself(version: str) -> None:
    room = RoomBuilder(version)
    create = room.find_state("m.room.create")
    assert create is not None
    empty: Callable[[str, str], Pdu | None] = lambda type, state_key: None  # noqa: E731 -- a lookup
    verdict = check_authorisation(
        room.rules,
        create,
        [],
        create=None,
        rejected=(),
        find_before=empty,
        find_current=empty,
    )
    assert verdict.outcome is Outcome.ACCEPTED
    assert check_imported(room.rules, create, [], create=None, rejected=()) is None


@every_version
def test_event_of_somebody_who_is_not_there_is_rejected(version: str) -> None:
    room = RoomBuilder(version)
    verdict = judge(room, room.compose(BOB, "m.room.message", {"body": "x"}))
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.pdu is not None
    assert verdict.reason


@every_version
def test_event_that_its_auth_events_allow_and_the_state_before_it_forbids_is_rejected(
    version: str,
) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    pdu = room.compose(BOB, "m.room.message", {"body": "x"})
    banned = room.fork()
    banned.ban(ALICE, BOB)
    # By the current state it would be allowed: that does not help it.
    verdict = judge(room, pdu, before=banned)
    assert verdict.outcome is Outcome.REJECTED


@every_version
def test_event_that_its_auth_events_do_not_allow_is_rejected(version: str) -> None:
    room = RoomBuilder(version)
    join = room.join(BOB)
    auth_events = room.compose(BOB, "m.room.message", {}).auth_events
    pdu = room.compose(
        BOB,
        "m.room.message",
        {"body": "x"},
        auth_events=[event_id for event_id in auth_events if event_id != join.event_id],
    )
    # Wherever else he is a member: that is not what the event says.
    assert judge(room, pdu).outcome is Outcome.REJECTED


@every_version
def test_event_that_the_current_state_alone_forbids_is_soft_failed(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    pdu = room.compose(BOB, "m.room.message", {"body": "x"})
    banned = room.fork()
    banned.ban(ALICE, BOB)
    verdict = judge(room, pdu, current=banned)
    assert verdict.outcome is Outcome.SOFT_FAILED
    assert verdict.pdu is pdu
    assert verdict.reason


@every_version
def test_event_that_relies_on_a_rejected_one_is_rejected(version: str) -> None:
    room = RoomBuilder(version)
    join = room.join(BOB)
    pdu = room.compose(BOB, "m.room.message", {"body": "x"})
    assert judge(room, pdu, rejected=frozenset({join.event_id})).outcome is Outcome.REJECTED


@every_version
def test_event_of_the_past_is_judged_by_its_auth_events_alone(version: str) -> None:
    room = RoomBuilder(version)
    join = room.join(BOB)
    pdu = room.compose(BOB, "m.room.message", {"body": "x"})
    create = room.find_state("m.room.create")
    auth_events = [room.pdus[event_id] for event_id in pdu.auth_events]
    room.ban(ALICE, BOB)
    assert check_imported(room.rules, pdu, auth_events, create=create, rejected=()) is None
    rejected = {join.event_id}
    assert check_imported(room.rules, pdu, auth_events, create=create, rejected=rejected)
    without_join = [auth for auth in auth_events if auth != join]
    assert check_imported(room.rules, pdu, without_join, create=create, rejected=())
