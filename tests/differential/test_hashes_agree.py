"""Redaction, hashes and event IDs come out as matrix-synapse has them, in every room version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.pdu import compute_content_hash, compute_reference_hash
from architex.domain.redaction import redact_event
from architex.domain.room_versions import ROOM_VERSIONS

synapse_rules = pytest.importorskip("tests.differential.synapse_rules")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), text, st.just("m.room.member")
)
json_values = st.recursive(
    scalars,
    lambda children: st.one_of(
        st.lists(children, max_size=3), st.dictionaries(text, children, max_size=3)
    ),
    max_leaves=8,
)
content_keys = st.sampled_from(
    [
        "membership",
        "join_authorised_via_users_server",
        "creator",
        "room_version",
        "join_rule",
        "allow",
        "ban",
        "invite",
        "kick",
        "events",
        "users",
        "users_default",
        "notifications",
        "aliases",
        "history_visibility",
        "redacts",
        "body",
    ]
)
third_party_invite = st.one_of(
    json_values,
    st.fixed_dictionaries({}, optional={"signed": json_values, "display_name": text}),
)


@st.composite
def events(draw: st.DrawFn, version: str) -> dict[str, Any]:
    """Draw an event with all the keys that redaction knows, and some that it does not."""
    content = draw(st.dictionaries(st.one_of(content_keys, text), json_values, max_size=5))
    if draw(st.booleans()):
        content["third_party_invite"] = draw(third_party_invite)
    event = {
        "type": draw(
            st.sampled_from(
                [
                    "m.room.member",
                    "m.room.create",
                    "m.room.join_rules",
                    "m.room.power_levels",
                    "m.room.aliases",
                    "m.room.history_visibility",
                    "m.room.redaction",
                    "m.room.message",
                ]
            )
        ),
        "sender": "@a:domain",
        "room_id": "!r:domain" if version != "12" else "!" + "r" * 43,
        "content": content,
        "depth": draw(st.integers(0, 2**53 - 1)),
        "origin_server_ts": draw(st.integers(0, 2**53 - 1)),
        "prev_events": [],
        "auth_events": [],
        "hashes": {"sha256": "aGFzaA"},
        "signatures": {"domain": {"ed25519:1": "c2ln"}},
    }
    if version in ("1", "2"):
        event["event_id"] = "$1:domain"
    optional = {"state_key": "", "origin": "domain", "redacts": "$2:domain", "other": 1}
    optional |= {"unsigned": {"age_ts": 1}, "membership": "join", "prev_state": []}
    for key in draw(st.sets(st.sampled_from(sorted(optional)))):
        event[key] = optional[key]
    if event["type"] == "m.room.create" and version == "12":
        event["state_key"] = ""
        del event["room_id"]
    return event


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_redaction_agrees_with_synapse(version: str, data: st.DataObject) -> None:
    event = data.draw(events(version))
    rules = ROOM_VERSIONS[version]
    theirs = synapse_rules.redact(rules, event)
    theirs.pop("unsigned", None)
    ours = redact_event(rules, event)
    assert encode_canonical_json(ours) == encode_canonical_json(theirs)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hashes_agree_with_synapse(version: str, data: st.DataObject) -> None:
    event = data.draw(events(version))
    rules = ROOM_VERSIONS[version]
    assert compute_reference_hash(rules, event) == synapse_rules.reference_hash(rules, event)
    assert compute_content_hash(rules, event) == synapse_rules.content_hash(rules, event)
