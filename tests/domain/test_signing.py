"""Signatures: the spec's vectors, and what does not verify."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import signedjson.key
import signedjson.sign

from architex.domain.errors import InvalidSignature
from architex.domain.pdu import compute_event_id, has_valid_content_hash, parse_pdu
from architex.domain.redaction import redact_event
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import (
    SigningKey,
    add_event_signature,
    servers_that_must_sign,
    sign_event,
    sign_json,
    verify_event_signatures,
    verify_signature,
    verify_signed_json,
)
from tests.builders import ALICE, BOB, CAROL, TEST_KEY, RoomBuilder

# https://spec.matrix.org/v1.19/appendices/#cryptographic-test-vectors
SEED = base64.b64decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1=")
KEY = SigningKey.from_seed(SEED, "1")
OTHER_KEY = SigningKey.from_seed(b"x" * 32, "1")


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        (
            {},
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
        ),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_the_specs_signed_json_comes_out_as_written(value: Any, signature: str) -> None:
    signed = sign_json(value, "domain", KEY)
    assert signed == {**value, "signatures": {"domain": {"ed25519:1": signature}}}
    verify_signed_json(signed, "domain", "ed25519:1", KEY.verify_key)


MINIMAL_EVENT = {
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "signatures": {},
    "hashes": {},
    "type": "X",
    "content": {},
    "prev_events": [],
    "auth_events": [],
    "depth": 3,
    "unsigned": {"age_ts": 1000000},
}
REDACTABLE_EVENT = {
    "content": {"body": "Here is the message content"},
    "event_id": "$0:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "type": "m.room.message",
    "room_id": "!r:domain",
    "sender": "@u:domain",
    "signatures": {},
    "unsigned": {"age_ts": 1000000},
}


@pytest.mark.parametrize(
    ("event", "content_hash", "signature"),
    [
        (
            MINIMAL_EVENT,
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            REDACTABLE_EVENT,
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_the_specs_signed_events_come_out_as_written(
    event: dict[str, Any], content_hash: str, signature: str
) -> None:
    rules = ROOM_VERSIONS["1"]
    signed, _ = sign_event(rules, {"event_id": "$x:domain", **event}, "domain", KEY)
    if "event_id" not in event:
        # The vector has no event ID: of a version that makes it of the event.
        signed, _ = sign_event(ROOM_VERSIONS["3"], event, "domain", KEY)
    assert signed["hashes"] == {"sha256": content_hash}
    assert signed["signatures"] == {"domain": {"ed25519:1": signature}}
    assert signed["unsigned"] == event["unsigned"]


def test_signedjson_takes_our_signatures_and_we_take_its() -> None:
    theirs = signedjson.key.decode_signing_key_base64(
        "ed25519", "1", base64.b64encode(SEED).decode().rstrip("=")
    )
    value = {"b": [1, {"é": None}], "a": "x", "unsigned": {"age": 1}}
    ours = sign_json(value, "domain", KEY)
    signedjson.sign.verify_signed_json(ours, "domain", signedjson.key.get_verify_key(theirs))
    assert signedjson.sign.sign_json(dict(value), "domain", theirs) == ours


def test_signing_keeps_other_signatures_and_the_original() -> None:
    once = sign_json({"a": 1}, "first", KEY)
    twice = sign_json(once, "second", OTHER_KEY)
    assert set(once["signatures"]) == {"first"}
    assert set(twice["signatures"]) == {"first", "second"}
    verify_signed_json(twice, "first", "ed25519:1", KEY.verify_key)
    verify_signed_json(twice, "second", "ed25519:1", OTHER_KEY.verify_key)


def test_unsigned_data_is_not_covered() -> None:
    signed = sign_json({"a": 1}, "domain", KEY) | {"unsigned": {"age": 5}}
    verify_signed_json(signed, "domain", "ed25519:1", KEY.verify_key)


@pytest.mark.parametrize(
    "change",
    [
        {"a": 2},
        {"b": 1},
        {"signatures": {}},
        {"signatures": None},
        {"signatures": {"domain": []}},
        {"signatures": {"domain": {"ed25519:1": 5}}},
        {"signatures": {"domain": {"ed25519:1": "not base64!"}}},
        {"signatures": {"domain": {"ed25519:1": "c2hvcnQ"}}},
        {"signatures": {"other": {"ed25519:1": "x"}}},
        {"float": 1.5},
    ],
)
def test_what_was_not_signed_like_this_does_not_verify(change: dict[str, Any]) -> None:
    signed = sign_json({"a": 1}, "domain", KEY)
    with pytest.raises(InvalidSignature):
        verify_signed_json(signed | change, "domain", "ed25519:1", KEY.verify_key)


def test_another_key_or_algorithm_does_not_verify() -> None:
    signed = sign_json({"a": 1}, "domain", KEY)
    with pytest.raises(InvalidSignature):
        verify_signed_json(signed, "domain", "ed25519:1", OTHER_KEY.verify_key)
    with pytest.raises(InvalidSignature):
        verify_signed_json(signed, "domain", "ed25519:1", b"short")
    with pytest.raises(InvalidSignature):
        verify_signature(b"", KEY.sign(b""), "rot13:1", KEY.verify_key)


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        SigningKey.from_seed(b"short", "1")


def test_a_key_does_not_show_its_secret() -> None:
    assert "test" in repr(TEST_KEY)
    assert "secret" not in repr(TEST_KEY)
    assert TEST_KEY.key_id == "ed25519:test"


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_a_signed_event_verifies_full_and_redacted(version: str) -> None:
    room = RoomBuilder(version)
    for pdu in room.pdus.values():
        event = dict(pdu.event)
        assert has_valid_content_hash(room.rules, event)
        redacted = redact_event(room.rules, event)
        for form in (event, redacted, event | {"unsigned": {"age": 1}}):
            verify_event_signatures(
                room.rules,
                form,
                servers_that_must_sign(room.rules, pdu),
                lambda server_name, key_id: TEST_KEY.verify_key,
            )
            assert compute_event_id(room.rules, form) == pdu.event_id


def test_an_event_changed_in_what_matters_does_not_verify() -> None:
    room = RoomBuilder("11")
    event = dict(room.message(ALICE).event) | {"depth": 99}
    with pytest.raises(InvalidSignature):
        verify_event_signatures(room.rules, event, ["a.example"], lambda *_: TEST_KEY.verify_key)


def test_a_signature_with_an_unknown_key_is_passed_over() -> None:
    room = RoomBuilder("11")
    event = dict(room.message(ALICE).event)
    event["signatures"] = {
        "a.example": {**event["signatures"]["a.example"], "ed25519:policy_server": "garbage"}
    }

    def find_verify_key(server_name: str, key_id: str) -> bytes | None:
        return TEST_KEY.verify_key if key_id == TEST_KEY.key_id else None

    verify_event_signatures(room.rules, event, ["a.example"], find_verify_key)
    with pytest.raises(InvalidSignature):
        verify_event_signatures(room.rules, event, ["a.example"], lambda *_: None)


def test_a_bad_signature_with_a_known_key_spoils_a_good_one() -> None:
    room = RoomBuilder("11")
    event = dict(room.message(ALICE).event)
    event["signatures"] = {
        "a.example": {**event["signatures"]["a.example"], "ed25519:other": TEST_KEY.sign(b"?")}
    }
    with pytest.raises(InvalidSignature):
        verify_event_signatures(room.rules, event, ["a.example"], lambda *_: TEST_KEY.verify_key)


def test_every_server_that_must_sign_is_asked() -> None:
    room = RoomBuilder("11")
    event = room.message(ALICE).event
    with pytest.raises(InvalidSignature, match=r"b\.example"):
        verify_event_signatures(
            room.rules, event, ["a.example", "b.example"], lambda *_: TEST_KEY.verify_key
        )
    both = add_event_signature(room.rules, event, "b.example", TEST_KEY)
    verify_event_signatures(
        room.rules, both, ["a.example", "b.example"], lambda *_: TEST_KEY.verify_key
    )


def test_the_senders_server_must_sign() -> None:
    room = RoomBuilder("11")
    assert servers_that_must_sign(room.rules, room.message(ALICE)) == {"a.example"}


def test_in_old_rooms_the_event_ids_server_must_sign_too() -> None:
    for version, servers in (("2", {"a.example", "z.example"}), ("3", {"a.example"})):
        room = RoomBuilder(version)
        event = dict(room.message(ALICE).event) | {"event_id": "$1:z.example"}
        pdu = parse_pdu(room.rules, event)
        assert servers_that_must_sign(room.rules, pdu) == servers


def test_the_server_that_authorised_a_restricted_join_must_sign() -> None:
    content = {"membership": "join", "join_authorised_via_users_server": CAROL}
    for version, servers in (("7", {"b.example"}), ("8", {"b.example", "c.example"})):
        room = RoomBuilder(version)
        pdu = room.compose(BOB, "m.room.member", content, state_key=BOB)
        assert servers_that_must_sign(room.rules, pdu) == servers


def test_a_third_party_invite_is_signed_by_the_identity_server_instead() -> None:
    room = RoomBuilder("11")
    content = {"membership": "invite", "third_party_invite": {}}
    pdu = room.compose(ALICE, "m.room.member", content, state_key=BOB)
    assert servers_that_must_sign(room.rules, pdu) == set()
    content = {"membership": "leave", "third_party_invite": {}}
    pdu = room.compose(ALICE, "m.room.member", content, state_key=BOB)
    assert servers_that_must_sign(room.rules, pdu) == {"a.example"}


def test_event_that_no_server_must_sign_needs_no_signature() -> None:
    room = RoomBuilder("11")
    event = {**room.message(ALICE).event, "signatures": {}}
    verify_event_signatures(room.rules, event, [], lambda *_: None)


def test_a_signature_of_an_unknown_algorithm_is_passed_over() -> None:
    room = RoomBuilder("11")
    event = dict(room.message(ALICE).event)
    signature = event["signatures"]["a.example"][TEST_KEY.key_id]
    # Even one that would verify is none.
    event["signatures"] = {"a.example": {"rot13:test": signature}}
    with pytest.raises(InvalidSignature):
        verify_event_signatures(room.rules, event, ["a.example"], lambda *_: TEST_KEY.verify_key)
    event["signatures"] = {"a.example": {"rot13:x": "?", TEST_KEY.key_id: signature}}
    verify_event_signatures(room.rules, event, ["a.example"], lambda *_: TEST_KEY.verify_key)
