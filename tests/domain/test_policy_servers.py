"""Policy servers: whose signature a room wants, on which events, and when it counts.

Spec: https://spec.matrix.org/v1.19/server-server-api/#policy-servers
"""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.policy_servers import (
    POLICY_KEY_ID,
    PolicyServer,
    is_recommended,
    needs_recommendation,
    parse_policy,
    with_recommendation,
)
from architex.domain.redaction import redact_event
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import SigningKey, add_event_signature
from architex.domain.unpadded_base64 import encode_base64
from tests.builders import ALICE, RoomBuilder

KEY = SigningKey.from_seed(b"p" * 32, "policy_server")
POLICY = PolicyServer("policy.example", KEY.verify_key)


def content(**changes: Any) -> dict[str, Any]:
    """Of an m.room.policy event."""
    return {
        "via": "policy.example",
        "public_keys": {"ed25519": KEY.verify_key_base64},
        **changes,
    }


def answer(room: RoomBuilder, event: Any, key: SigningKey = KEY) -> dict[str, Any]:
    """What the policy server answers about an event: its signature alone."""
    signed = add_event_signature(room.rules, event, "policy.example", key)
    return {"policy.example": signed["signatures"]["policy.example"]}


def test_room_names_its_policy_server_and_the_key() -> None:
    assert parse_policy(content()) == POLICY
    more = {"ed25519": KEY.verify_key_base64, "org.example.other": "x"}
    assert parse_policy(content(public_keys=more)) == POLICY


@pytest.mark.parametrize(
    "named",
    [
        {},
        content(via=None),
        content(via=5),
        content(via="no server name"),
        content(public_keys=None),
        content(public_keys=[]),
        content(public_keys={}),
        content(public_keys={"ed25519": None}),
        content(public_keys={"ed25519": 5}),
        {"via": "policy.example"},
        {"public_keys": {"ed25519": KEY.verify_key_base64}},
    ],
)
def test_room_without_a_valid_policy_event_has_no_policy_server(named: dict[str, Any]) -> None:
    assert parse_policy(named) is None


@pytest.mark.parametrize("key", ["not base64!", "", encode_base64(b"short")])
def test_nothing_is_recommended_by_a_key_that_is_none(key: str) -> None:
    # The event is valid by the spec, so the room does use a policy server.
    policy = parse_policy(content(public_keys={"ed25519": key}))
    assert policy is not None
    room = RoomBuilder("11")
    event = room.message(ALICE).event
    signed = with_recommendation(event, policy, answer(room, event))
    assert not is_recommended(room.rules, policy, signed)


@pytest.mark.parametrize(
    ("type", "state_key", "needed"),
    [
        ("m.room.message", None, True),
        ("m.room.member", ALICE, True),
        ("m.room.power_levels", "", True),
        ("m.room.policy", "", False),
        ("m.room.policy", None, True),
        ("m.room.policy", "other", True),
        ("m.room.create", "", False),
        ("m.room.create", "other", True),
    ],
)
def test_all_but_the_policy_itself_needs_a_recommendation(
    type: str, state_key: str | None, needed: bool
) -> None:
    pdu = RoomBuilder("11").compose(ALICE, type, {}, state_key=state_key)
    assert needs_recommendation(pdu) is needed


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_signed_event_is_recommended_whole_and_redacted(version: str) -> None:
    room = RoomBuilder(version)
    event = room.message(ALICE).event
    assert not is_recommended(room.rules, POLICY, event)
    signed = with_recommendation(event, POLICY, answer(room, event))
    assert is_recommended(room.rules, POLICY, signed)
    assert is_recommended(room.rules, POLICY, redact_event(room.rules, signed))
    # The signatures it had are still there.
    assert signed["signatures"]["a.example"] == event["signatures"]["a.example"]
    assert "policy.example" not in event["signatures"]


def test_event_changed_in_what_matters_is_no_longer_recommended() -> None:
    room = RoomBuilder("11")
    event = room.message(ALICE).event
    signed = with_recommendation(event, POLICY, answer(room, event))
    assert not is_recommended(room.rules, POLICY, {**signed, "sender": "@mallory:x"})
    assert not is_recommended(room.rules, POLICY, {**signed, "depth": 1.5})


def test_only_the_key_that_the_room_names_counts() -> None:
    room = RoomBuilder("11")
    event = room.message(ALICE).event
    other = SigningKey.from_seed(b"o" * 32, "policy_server")
    signed = with_recommendation(event, POLICY, answer(room, event, other))
    assert not is_recommended(room.rules, POLICY, signed)
    # Nor does the key by which the policy server sends its own events.
    own = SigningKey.from_seed(b"p" * 32, "abc")
    as_server = add_event_signature(room.rules, event, "policy.example", own)
    assert not is_recommended(room.rules, POLICY, as_server)
    # Nor the right key under another server's name.
    elsewhere = add_event_signature(room.rules, event, "b.example", KEY)
    assert not is_recommended(room.rules, POLICY, elsewhere)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"policy.example": None},
        {"policy.example": {}},
        {"policy.example": {POLICY_KEY_ID: 5}},
        {"policy.example": {"ed25519:abc": "x"}},
        {"b.example": {POLICY_KEY_ID: "x"}},
    ],
)
def test_answer_without_a_signature_adds_nothing(told: dict[str, Any]) -> None:
    event = RoomBuilder("11").message(ALICE).event
    assert with_recommendation(event, POLICY, told) == event


def test_signatures_that_nobody_asked_for_are_left_out() -> None:
    room = RoomBuilder("11", creator="@alice:policy.example")
    event = room.message("@alice:policy.example").event
    told = answer(room, event)
    told["policy.example"]["ed25519:more"] = "x"
    told["b.example"] = {"ed25519:more": "x"}
    signed = with_recommendation(event, POLICY, told)
    assert set(signed["signatures"]) == {"policy.example"}
    # Beside the one by which the same server sent the event.
    assert set(signed["signatures"]["policy.example"]) == {"ed25519:test", POLICY_KEY_ID}
