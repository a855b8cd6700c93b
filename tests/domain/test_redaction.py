"""What survives a redaction, by room version."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from architex.domain.redaction import redact_event
from architex.domain.room_versions import ROOM_VERSIONS

SURVIVING_ALWAYS = {
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
}
SURVIVING_UNTIL_V10 = {"prev_state", "origin", "membership"}

CONTENT: dict[str, Any] = {
    "membership": "join",
    "join_authorised_via_users_server": "@a:x.org",
    "third_party_invite": {"display_name": "a…", "signed": {"token": "t"}},
    "creator": "@a:x.org",
    "room_version": "1",
    "join_rule": "public",
    "allow": [],
    "ban": 1,
    "events": {},
    "events_default": 1,
    "invite": 1,
    "kick": 1,
    "redact": 1,
    "state_default": 1,
    "users": {},
    "users_default": 1,
    "notifications": {},
    "aliases": [],
    "history_visibility": "shared",
    "redacts": "$x",
    "body": "hello",
}
POWER = {
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
}


def event(type: str, content: dict[str, Any]) -> dict[str, Any]:
    keys = [*SURVIVING_ALWAYS, *SURVIVING_UNTIL_V10, "unsigned", "redacts", "org.example.extra"]
    return {key: f"the {key}" for key in keys} | {"type": type, "content": content}


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_top_level_keys_that_survive(version: str) -> None:
    redacted = redact_event(ROOM_VERSIONS[version], event("m.room.message", {}))
    expected = SURVIVING_ALWAYS | (SURVIVING_UNTIL_V10 if int(version) < 11 else set())
    assert set(redacted) == expected


def surviving_content(version: int, type: str) -> set[str]:
    match type:
        case "m.room.member":
            keys = {"membership"}
            if version >= 9:
                keys |= {"join_authorised_via_users_server"}
            return keys | {"third_party_invite"} if version >= 11 else keys
        case "m.room.create":
            return set(CONTENT) if version >= 11 else {"creator"}
        case "m.room.join_rules":
            return {"join_rule", "allow"} if version >= 8 else {"join_rule"}
        case "m.room.power_levels":
            return POWER | {"invite"} if version >= 11 else POWER
        case "m.room.aliases":
            return {"aliases"} if version <= 5 else set()
        case "m.room.history_visibility":
            return {"history_visibility"}
        case "m.room.redaction":
            return {"redacts"} if version >= 11 else set()
        case _:
            return set()


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@pytest.mark.parametrize(
    "type",
    [
        "m.room.member",
        "m.room.create",
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.aliases",
        "m.room.history_visibility",
        "m.room.redaction",
        "m.room.message",
        "m.room.topic",
    ],
)
def test_content_keys_that_survive(version: str, type: str) -> None:
    redacted = redact_event(ROOM_VERSIONS[version], event(type, CONTENT))
    assert set(redacted["content"]) == surviving_content(int(version), type)


def test_of_a_third_party_invite_only_the_signed_part_survives() -> None:
    redacted = redact_event(ROOM_VERSIONS["11"], event("m.room.member", CONTENT))
    assert redacted["content"]["third_party_invite"] == {"signed": {"token": "t"}}


@pytest.mark.parametrize("invite", [None, 5, "x", []])
def test_a_third_party_invite_that_is_no_object_does_not_survive(invite: Any) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    redacted = redact_event(ROOM_VERSIONS["11"], event("m.room.member", content))
    assert redacted["content"] == {"membership": "invite"}


def test_redaction_leaves_the_event_alone() -> None:
    original = event("m.room.member", copy.deepcopy(CONTENT))
    before = copy.deepcopy(original)
    for rules in ROOM_VERSIONS.values():
        redact_event(rules, original)
    assert original == before


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_redacting_twice_changes_nothing_more(version: str) -> None:
    rules = ROOM_VERSIONS[version]
    for type in ("m.room.member", "m.room.create", "m.room.power_levels"):
        once = redact_event(rules, event(type, CONTENT))
        assert redact_event(rules, once) == once


@pytest.mark.parametrize("broken", [{"content": None}, {"content": []}, {"type": 5}, {"type": []}])
def test_a_malformed_event_is_redacted_without_harm(broken: dict[str, Any]) -> None:
    for rules in ROOM_VERSIONS.values():
        redacted = redact_event(rules, event("m.room.member", CONTENT) | broken)
        assert redacted["content"] == {}
