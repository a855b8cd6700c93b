"""Events that the server makes itself look as the specification's event schemas say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from architex.domain.room_versions import ROOM_VERSIONS
from tests.api.client import Server, User, segment
from tests.house.conformity import NotConforming, check_answer, check_event, find_operation

Json = dict[str, Any]

PRESETS: Final = ("private_chat", "trusted_private_chat", "public_chat")
MADE: Final = {
    "m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility",
    "m.room.guest_access", "m.room.name", "m.room.topic", "m.room.canonical_alias",
    "m.room.member",
}  # fmt: skip
"""What a room made with a name, a topic and an alias has."""


def state_of(user: User, room_id: str) -> dict[str, Json]:
    """Type and state key in one → event."""
    events = user.get(f"/rooms/{segment(room_id)}/state").ok()
    return {f"{e['type']}|{e['state_key']}".removesuffix("|"): e for e in events}


def check_state(user: User, room_id: str) -> set[str]:
    """Check every event of a room's state; gives their types."""
    events = state_of(user, room_id).values()
    for event in events:
        check_event(event)
    return {event["type"] for event in events}


@pytest.mark.parametrize("version", ROOM_VERSIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_state_of_a_new_room(alice: User, bob: User, preset: str, version: str) -> None:
    room_id = alice.create_room(
        preset=preset,
        room_version=version,
        name="Tea",
        topic="Green or black",
        room_alias_name=f"tea{next(alice.server.numbers)}",
        invite=[bob.user_id],
    )
    # A room that does not speak of guests has none.
    made = MADE - {"m.room.guest_access"} if preset == "public_chat" else MADE
    assert check_state(alice, room_id) >= made
    bob.post(f"/rooms/{segment(room_id)}/join").ok()
    bob.post(f"/rooms/{segment(room_id)}/leave", {"reason": "Coffee"}).ok()
    check_state(alice, room_id)


@pytest.mark.parametrize("version", ["10", "12"])
def test_state_of_an_upgraded_room_and_of_its_successor(alice: User, version: str) -> None:
    old = alice.create_room(
        preset="public_chat",
        room_version="9",
        name="Tea",
        topic="Green",
        creation_content={"type": "m.space"},
        initial_state=[
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        ],
    )
    answer = alice.post(f"/rooms/{segment(old)}/upgrade", {"new_version": version}).ok()
    assert "m.room.tombstone" in check_state(alice, old)
    assert check_state(alice, answer["replacement_room"]) >= MADE - {"m.room.canonical_alias"}
    create = state_of(alice, answer["replacement_room"])["m.room.create"]
    assert create["content"]["predecessor"]["room_id"] == old


def events_in(value: Any) -> Iterator[Json]:
    """Everything in an answer that looks like an event."""
    if isinstance(value, dict):
        if "type" in value and "content" in value:
            yield value
        for inner in value.values():
            yield from events_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from events_in(inner)


def test_everything_that_sync_tells_beside_timelines(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat", name="Tea")
    room = f"/rooms/{segment(room_id)}"
    bob.post(room + "/join").ok()
    message = {"msgtype": "m.text", "body": "hello"}
    event_id = alice.put(f"{room}/send/m.room.message/1", message).ok()["event_id"]
    markers = {"m.fully_read": event_id, "m.read": event_id}
    bob.post(f"{room}/read_markers", markers).ok()
    bob.post(f"{room}/receipt/m.read.private/{segment(event_id)}").ok()
    bob.put(f"{room}/typing/{bob.path}", {"typing": True, "timeout": 30_000}).ok()
    bob.put(f"/presence/{bob.path}/status", {"presence": "online", "status_msg": "tea"}).ok()
    bob.put(f"/user/{bob.path}{room}/tags/m.favourite", {"order": 0.5}).ok()
    invited = alice.create_room(invite=[bob.user_id], is_direct=True, name="Two")
    knocked = alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    bob.post(f"/knock/{segment(knocked)}").ok()
    told = bob.get("/sync").ok()
    by_type: dict[str, Json] = {}
    for event in events_in(told):
        by_type[event["type"]] = event
        if "state_key" not in event:
            event = {"room_id": room_id, **event}
            check_event(event)
    assert set(by_type) >= {
        "m.fully_read", "m.receipt", "m.typing", "m.presence", "m.tag", "m.push_rules",
    }  # fmt: skip
    for kind, room_of, name in (("invite", invited, "invite"), ("knock", knocked, "knock")):
        stripped = told["rooms"][kind][room_of][f"{name}_state"]["events"]
        assert {"m.room.create", "m.room.join_rules", "m.room.member"} <= {
            event["type"] for event in stripped
        }
        for event in stripped:
            whole = {"event_id": "$x", "origin_server_ts": 1, "room_id": room_of, **event}
            check_event(whole)


def test_redacted_events_and_redactions(alice: User) -> None:
    for version in ("10", "11", "12"):
        room = f"/rooms/{segment(alice.create_room(room_version=version))}"
        message = {"msgtype": "m.text", "body": "hello"}
        event_id = alice.put(f"{room}/send/m.room.message/1", message).ok()["event_id"]
        path = f"{room}/redact/{segment(event_id)}/2"
        redaction = alice.put(path, {"reason": "spam"}).ok()["event_id"]
        event = alice.get(f"{room}/event/{segment(event_id)}").ok()
        assert event["content"] == {}
        check_event(event["unsigned"]["redacted_because"])
        check_event(alice.get(f"{room}/event/{segment(redaction)}").ok())


# ---- what checks, notices


def test_what_differs_is_noticed(server: Server) -> None:
    assert find_operation("GET", "/_matrix/client/v3/sync?x") == "GET /_matrix/client/v3/sync"
    assert find_operation("GET", "/_matrix/client/v3/nothing") is None
    check_answer("GET", "/_matrix/client/v3/sync", 200, {"next_batch": "s1"})
    with pytest.raises(NotConforming, match="next_batch"):
        check_answer("GET", "/_matrix/client/v3/sync", 200, {"rooms": {}})
    with pytest.raises(NotConforming, match="creator"):
        check_event(
            {
                "type": "m.room.create",
                "state_key": "",
                "event_id": "$x",
                "room_id": "!x",
                "sender": "@x:y",
                "origin_server_ts": 1,
                "content": {"creator": 5},
            }
        )
