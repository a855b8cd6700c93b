"""Other servers invite our users into rooms that we are not in; nothing else gets our signature.

Spec: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from architex.domain.room_versions import ROOM_VERSIONS, get_room_version
from architex.domain.signing import verify_event_signatures
from architex.settings import RateLimitSettings
from tests.api.client import SERVER_NAME, User, stop_server
from tests.builders import TEST_KEY, RoomBuilder
from tests.federation.visitors import Json, Visitor, World

_numbers = itertools.count()


@pytest.fixture(scope="module")
def world(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("server")
    started = World(module_database_url, directory, rate_limits=RateLimitSettings(enabled=False))
    yield started
    stop_server(started.server)


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(f"visitor{next(_numbers)}.example", TEST_KEY)


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


class TheirRoom(RoomBuilder):
    """A room of another server's, as far as it goes."""

    def __init__(self, visitor: Visitor, version: str = "11", **options: Any) -> None:
        super().__init__(version, creator=visitor.user("carol"), **options)
        self.set_name("Over there")

    def set_name(self, name: str) -> None:
        self.send_state(self.creator, "m.room.name", {"name": name})

    def told(self) -> list[Json]:
        """What the inviting server tells: whole events."""
        keys = ["m.room.create", "m.room.join_rules", "m.room.name"]
        found = [self.find_state(key) for key in keys]
        return [dict(pdu.event) for pdu in found if pdu is not None]

    def invitation(self, user_id: str, **fields: Any) -> Json:
        """An invite of a user, not in the room yet."""
        content = {"membership": "invite"}
        pdu = self.compose(
            self.creator, "m.room.member", content, **{"state_key": user_id, **fields}
        )
        return dict(pdu.event)


def invited_rooms(user: User) -> Mapping[str, Any]:
    rooms: Mapping[str, Any] = user.get("/sync").ok()["rooms"].get("invite", {})
    return rooms


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_invite_gets_our_signature_and_is_shown(
    visitor: Visitor, alice: User, world: World, version: str
) -> None:
    room = TheirRoom(visitor, version)
    event = room.invitation(alice.user_id)
    signed = visitor.invite(version, event, room.told()).ok()["event"]
    assert {**signed, "signatures": None} == {**event, "signatures": None}
    key = world.server.core.signing_key
    verify_event_signatures(
        get_room_version(version), signed, [SERVER_NAME], lambda *_: key.verify_key
    )
    shown = invited_rooms(alice)[room.room_id]["invite_state"]["events"]
    contents = {entry["type"]: entry["content"] for entry in shown}
    assert contents["m.room.name"] == {"name": "Over there"}
    assert contents["m.room.member"] == {"membership": "invite"}
