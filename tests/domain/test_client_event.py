"""Events as clients see them."""

from typing import Any

import orjson
import pytest

from architex.domain.client_event import (
    RecordedEvent,
    Viewer,
    read_recorded_event,
    render_client_event,
    render_stripped_state,
    without_content,
)
from architex.domain.room_versions import get_room_version

V10 = get_room_version("10")
V11 = get_room_version("11")


def recorded(
    event_id: str = "$e", position: int = 5, redacted_by: int | None = None, **changes: Any
) -> RecordedEvent:
    pdu = {
        "type": "m.room.message",
        "sender": "@a:x",
        "room_id": "!r:x",
        "content": {"body": "hi"},
        "origin_server_ts": 1000,
        "depth": 3,
        "prev_events": ["$p"],
        "auth_events": [],
        "hashes": {"sha256": "x"},
        "signatures": {},
        **changes.pop("pdu", {}),
    }
    envelope = {"event_id": event_id, "received_ts": 1001, "pdu": pdu, **changes}
    return read_recorded_event(position, orjson.dumps(envelope), redacted_by, V11)


def render(event: RecordedEvent, viewer: Viewer, **more: Any) -> dict[str, Any]:
    rendered: dict[str, Any] = orjson.loads(
        orjson.dumps(render_client_event(event, viewer, **more))
    )
    return rendered


ALICE = Viewer("@a:x", "PHONE", now_ms=1500)


def test_client_sees_no_federation_fields() -> None:
    assert render(recorded(), ALICE) == {
        "type": "m.room.message",
        "sender": "@a:x",
        "content": {"body": "hi"},
        "event_id": "$e",
        "origin_server_ts": 1000,
        "unsigned": {"age": 500},
    }


def test_room_id_is_there_only_when_asked_for() -> None:
    viewer = Viewer("@a:x", "PHONE", 1500, room_id="!r:x")
    assert render(recorded(), viewer)["room_id"] == "!r:x"


def test_only_the_sending_device_sees_the_transaction_id() -> None:
    event = recorded(sender_device=["PHONE", "txn1"])
    assert render(event, ALICE)["unsigned"]["transaction_id"] == "txn1"
    for viewer in (Viewer("@a:x", "LAPTOP", 0), Viewer("@b:x", "PHONE", 0)):
        assert "transaction_id" not in render(event, viewer)["unsigned"]


def test_state_event_tells_what_it_replaced() -> None:
    old = recorded("$old", pdu={"type": "m.room.name", "state_key": "", "content": {"name": "A"}})
    new = recorded(
        "$new",
        replaces="$old",
        pdu={"type": "m.room.name", "state_key": "", "content": {"name": "B"}},
    )
    seen = render(new, ALICE, replaced=old, membership="join")
    assert seen["state_key"] == ""
    assert seen["unsigned"] == {
        "age": 500,
        "membership": "join",
        "replaces_state": "$old",
        "prev_content": {"name": "A"},
    }
    # Without permission to see the previous event only its ID is told.
    assert "prev_content" not in render(new, ALICE)["unsigned"]


def test_redacted_event_is_pruned_and_tells_by_what() -> None:
    event = recorded(redacted_by=9)
    redaction = recorded(
        "$r",
        9,
        pdu={"type": "m.room.redaction", "content": {"redacts": "$e", "reason": "spam"}},
    )
    seen = render(event, ALICE, redaction=redaction)
    assert seen["content"] == {}
    because = seen["unsigned"]["redacted_because"]
    assert because["content"] == {"redacts": "$e", "reason": "spam"}
    # For clients that know older room versions.
    assert because["redacts"] == "$e"


def test_redaction_of_an_old_room_version_has_redacts_in_its_content_too() -> None:
    event = recorded("$r", pdu={"type": "m.room.redaction", "content": {}, "redacts": "$e"})
    seen = render(event, ALICE)
    assert seen["redacts"] == "$e"
    assert seen["content"] == {"redacts": "$e"}


def test_federation_format_is_the_event_as_servers_exchange_it() -> None:
    viewer = Viewer("@a:x", "PHONE", 1500, federation_format=True)
    seen = render(recorded(), viewer)
    assert {"event_id", "hashes", "signatures", "depth", "prev_events", "auth_events"} <= set(seen)


def test_event_fields_cut_the_event_down() -> None:
    viewer = Viewer("@a:x", "PHONE", 1500, event_fields=(("content", "body"), ("unsigned", "age")))
    assert render(recorded(), viewer) == {"content": {"body": "hi"}, "unsigned": {"age": 500}}


def test_stripped_state_has_four_fields_only() -> None:
    event = recorded(pdu={"type": "m.room.name", "state_key": "", "content": {"name": "A"}})
    assert render_stripped_state(event) == {
        "type": "m.room.name",
        "state_key": "",
        "sender": "@a:x",
        "content": {"name": "A"},
    }


def test_event_says_what_it_is() -> None:
    state = recorded(pdu={"type": "m.room.name", "state_key": "", "content": {"url": "mxc://x/y"}})
    assert (state.type, state.state_key, state.sender) == ("m.room.name", "", "@a:x")
    assert state.content == {"url": "mxc://x/y"}
    assert recorded().state_key is None


# https://spec.matrix.org/v1.19/client-server-api/#filtering
@pytest.mark.parametrize(
    ("content", "has_url"),
    [
        ({"url": "mxc://x/y"}, True),
        ({}, False),
        ({"url": 5}, False),
        ({"info": {"url": ""}}, False),
    ],
)
def test_event_has_a_url_when_its_content_does(content: dict[str, Any], has_url: bool) -> None:
    assert recorded(pdu={"content": content}).has_url is has_url


# https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
def test_event_of_an_erased_user_has_no_content() -> None:
    event = without_content(recorded())
    assert event.content == {}
    assert render(event, ALICE)["content"] == {}
    redaction = recorded(pdu={"type": "m.room.redaction", "content": {"redacts": "$e", "x": 1}})
    assert render(without_content(redaction), ALICE)["content"] == {"redacts": "$e"}
    old = recorded(pdu={"type": "m.room.redaction", "content": {"x": 1}, "redacts": "$e"})
    assert render(without_content(old), ALICE)["redacts"] == "$e"


def test_redaction_that_says_not_what_it_redacts_is_shown_as_it_is() -> None:
    event = recorded(pdu={"type": "m.room.redaction", "content": {"reason": "x"}})
    assert render(event, ALICE)["content"] == {"reason": "x"}
    assert "redacts" not in render(event, ALICE)


def test_relations_are_told_among_unsigned_data() -> None:
    relations = {"m.thread": {"count": 2}}
    assert render(recorded(), ALICE, relations=relations)["unsigned"]["m.relations"] == relations
    assert "m.relations" not in render(recorded(), ALICE, relations={})["unsigned"]


@pytest.mark.parametrize("federation_format", [False, True])
def test_room_id_is_there_in_every_format_when_asked_for(federation_format: bool) -> None:
    fields = (("room_id",), ("type",))
    viewer = Viewer("@a:x", None, 0, "!r:x", fields, federation_format)
    assert render(recorded(), viewer) == {"room_id": "!r:x", "type": "m.room.message"}


def test_stripped_state_is_four_fields() -> None:
    event = recorded(pdu={"type": "m.room.name", "state_key": "", "content": {"name": "A"}})
    assert render_stripped_state(event) == {
        "type": "m.room.name",
        "state_key": "",
        "sender": "@a:x",
        "content": {"name": "A"},
    }
