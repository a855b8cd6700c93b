"""What was redacted is read nowhere any more, by members and by other servers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#redactions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest

from architex.domain.identifiers import EventId, RoomId
from tests.api.client import User, segment
from tests.federation.visitors import Visitor, World
from tests.following import follow_to_the_end

REDACTED: Final = "hush"
KEPT: Final = "aloud"


@dataclass
class Scene:
    """A room in which everything that held a word was redacted, and what was not.

    Attributes:
        redacted: a message, its edit, a reply in its thread, a reaction, a topic.
    """

    world: World
    alice: User
    bob: User
    visitor: Visitor
    room_id: RoomId
    redacted: list[EventId]
    kept: EventId

    @property
    def room(self) -> str:
        return f"/rooms/{segment(self.room_id)}"

    def send(self, content: dict[str, Any], type: str = "m.room.message") -> EventId:
        """An event of Alice's."""
        number = next(self.alice.server.numbers)
        told = self.alice.put(f"{self.room}/send/{type}/{number}", content).ok()
        return str(told["event_id"])

    def relate(self, to: EventId, rel_type: str, **more: Any) -> EventId:
        """A message that relates to another."""
        relation = {"rel_type": rel_type, "event_id": to}
        return self.send(text(REDACTED) | {"m.relates_to": relation} | more)


def text(word: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": f"Bob, {word}"}


@pytest.fixture(scope="module")
def scene(world: World) -> Scene:
    alice, bob = world.server.register("alice"), world.server.register("bob")
    room_id = alice.create_room(preset="public_chat", room_version="11")
    bob.post(f"/rooms/{segment(room_id)}/join").ok()
    visitor = world.meet("inside.example")
    visitor.join(room_id, visitor.user("carol"))
    scene = Scene(world, alice, bob, visitor, room_id, [], "")
    scene.kept = scene.send(text(KEPT))
    message = scene.send(text(REDACTED))
    scene.redacted = [
        message,
        scene.relate(message, "m.replace", **{"m.new_content": text(REDACTED)}),
        scene.relate(scene.kept, "m.replace", **{"m.new_content": text(REDACTED)}),
        scene.relate(message, "m.thread"),
        scene.relate(scene.kept, "m.thread"),
        scene.send(
            {"m.relates_to": {"rel_type": "m.annotation", "event_id": message, "key": REDACTED}},
            "m.reaction",
        ),
        set_topic(scene, REDACTED),
    ]
    follow_to_the_end(world.server.core.database)
    # Everything can be read before: else nothing would be shown below.
    assert REDACTED in read_everything(scene)["/messages"]
    for event_id in scene.redacted:
        number = next(alice.server.numbers)
        alice.put(f"{scene.room}/redact/{segment(event_id)}/{number}", {}).ok()
    follow_to_the_end(world.server.core.database)
    return scene


def set_topic(scene: Scene, topic: str) -> EventId:
    told = scene.alice.put(f"{scene.room}/state/m.room.topic", {"topic": topic}).ok()
    return str(told["event_id"])


def read_everything(scene: Scene) -> dict[str, str]:
    """Every way to read → what it tells."""
    bob, room = scene.bob, scene.room
    v1 = f"/_matrix/client/v1{room}"
    told: dict[str, Any] = {
        "/messages": bob.get(f"{room}/messages", dir="b", limit=100),
        "/messages forwards": bob.get(f"{room}/messages", dir="f", limit=100),
        "/state": bob.get(f"{room}/state"),
        "/topic": bob.get(f"{room}/state/m.room.topic"),
        "/initialSync of the room": bob.get(f"{room}/initialSync", limit=100),
        "/initialSync": bob.get("/initialSync", limit=100),
        "/sync": bob.get("/sync", filter='{"room":{"timeline":{"limit":100}}}'),
        "/events": bob.get("/events", timeout=0, **{"from": "s0"}),
        "/notifications": bob.get("/notifications", limit=100),
        "/threads": bob.get(f"{v1}/threads"),
        "/hierarchy": bob.get(f"{v1}/hierarchy"),
        "/room_summary": bob.get(f"/_matrix/client/v1/room_summary/{segment(scene.room_id)}"),
        "/publicRooms": bob.post("/publicRooms", {}),
    }
    for word in (REDACTED, KEPT):
        wanted = {"search_term": word, "event_context": {"before_limit": 9, "after_limit": 9}}
        body = {"search_categories": {"room_events": wanted}}
        found = bob.post("/search", body).ok()["search_categories"]["room_events"]
        told[f"/search {word}"] = found["results"]
        if word == REDACTED and scene.redacted:
            told["/search count"] = [found["count"]]
    for event_id in (scene.kept, *scene.redacted):
        event = segment(event_id)
        told[f"/event {event_id}"] = bob.get(f"{room}/event/{event}")
        told[f"/events/ {event_id}"] = bob.get(f"/events/{event}")
        told[f"/context {event_id}"] = bob.get(f"{room}/context/{event}", limit=100)
        told[f"/relations {event_id}"] = bob.get(f"{v1}/relations/{event}", recurse="true")
        ask = scene.visitor.request
        told[f"event {event_id}"] = ask("GET", ["v1", "event", event_id])
        told[f"state {event_id}"] = ask("GET", ["v1", "state", scene.room_id], event_id=event_id)
        told[f"auth {event_id}"] = ask("GET", ["v1", "event_auth", scene.room_id, event_id])
        told[f"backfill {event_id}"] = ask(
            "GET", ["v1", "backfill", scene.room_id], v=event_id, limit=100
        )
    return {
        way: orjson.dumps(answer if isinstance(answer, list) else answer.json).decode()
        for way, answer in told.items()
    }


def test_nothing_tells_what_was_redacted(scene: Scene) -> None:
    telling = [way for way, told in read_everything(scene).items() if REDACTED in told]
    assert telling == []


def test_nothing_else_is_lost(scene: Scene) -> None:
    told = read_everything(scene)
    ways = ("/messages", "/sync", f"/event {scene.kept}", f"/search {KEPT}", "/notifications")
    assert [way for way in ways if KEPT not in told[way]] == []


def test_redacted_words_are_not_even_counted(scene: Scene) -> None:
    assert read_everything(scene)["/search count"] == "[0]"
