"""Events that ask for state whose key holds U+0000: there is none, and nothing fails.

Spec: https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.api.client import User, segment
from tests.federation.visitors import Visitor, World

SIGNED: Final = {"mxid": "@x:test.example", "token": "a\0b", "signatures": {"a": {"b": "c"}}}
CONTENTS: Final[dict[str, dict[str, Any]]] = {
    "a member who authorised the join": {
        "membership": "join",
        "join_authorised_via_users_server": "@a\0b:test.example",
    },
    "the token of an invite": {
        "membership": "invite",
        "third_party_invite": {"display_name": "x", "signed": SIGNED},
    },
}


@pytest.fixture(scope="module")
def alice(world: World) -> User:
    return world.server.register()


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_our_users_events_are_refused(alice: User, content: dict[str, Any]) -> None:
    room = f"/rooms/{segment(alice.create_room(room_version='11'))}"
    for user_id in (alice.user_id, "@x:test.example"):
        answer = alice.put(f"{room}/state/m.room.member/{segment(user_id)}", content)
        assert answer.status in (200, 400, 403), answer.json
    alice.get(f"{room}/state").ok()


@pytest.fixture(scope="module")
def visitor(world: World) -> Visitor:
    return world.meet("odd.example")


@pytest.mark.parametrize("is_on_branch", [False, True])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_events_of_others_are_judged(
    alice: User, visitor: Visitor, content: dict[str, Any], is_on_branch: bool
) -> None:
    room_id = alice.create_room(preset="public_chat", room_version="11")
    carol = visitor.user("carol")
    visitor.join(room_id, carol)
    version, event = visitor.template("leave", room_id, carol)
    if is_on_branch:
        alice.put(f"/rooms/{segment(room_id)}/state/m.room.topic", {"topic": "later"}).ok()
    target = carol if content["membership"] == "join" else visitor.user("dave")
    signed, event_id = visitor.sign(
        version, event | {"content": content, "state_key": target, "origin_server_ts": 1}
    )
    transaction = {"origin": visitor.name, "origin_server_ts": 1, "pdus": [signed], "edus": []}
    number = str(next(alice.server.numbers))
    told = visitor.request("PUT", ["v1", "send", number], transaction).ok()
    # Rejected it is, but judged: no error is told.
    assert told == {"pdus": {event_id: {}}}
    # The room goes on.
    message = {"msgtype": "m.text", "body": "still here"}
    alice.put(f"/rooms/{segment(room_id)}/send/m.room.message/{number}", message).ok()
