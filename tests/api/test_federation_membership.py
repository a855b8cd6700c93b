"""Users of other servers join, knock and leave through ours, and nothing else gets in that way.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from architex.domain.room_versions import ROOM_VERSIONS
from tests.api.client import SERVER_NAME, User, stop_server
from tests.federation.visitors import Visitor, World, event_id_of

_numbers = itertools.count()


@pytest.fixture(scope="module")
def world(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    started = World(module_database_url, tmp_path_factory.mktemp("server"))
    yield started
    stop_server(started.server)


@pytest.fixture(scope="module")
def visitor(world: World) -> Visitor:
    return world.meet("visitor.example")


@pytest.fixture(scope="module")
def alice(world: World) -> User:
    return world.server.register()


@pytest.fixture
def bob(visitor: Visitor) -> str:
    return visitor.user(f"bob{next(_numbers)}")


def public_room(user: User, version: str = "11") -> str:
    return user.create_room(preset="public_chat", room_version=version)


def membership(user: User, room_id: str, member: str) -> Any:
    answer = user.get(f"/rooms/{room_id}/state/m.room.member/{member}")
    return answer.json.get("membership")


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_user_of_another_server_joins_a_public_room(
    alice: User, visitor: Visitor, bob: str, version: str
) -> None:
    room_id = public_room(alice, version)
    answer = visitor.join(room_id, bob)
    assert membership(alice, room_id, bob) == "join"
    assert answer["members_omitted"] is False
    assert answer["servers_in_room"] == [SERVER_NAME]
    types = {(event["type"], event["state_key"]) for event in answer["state"]}
    assert ("m.room.create", "") in types
    assert ("m.room.member", alice.user_id) in types
    assert ("m.room.member", bob) not in types
    ids = {event_id_of(version, e) for e in [*answer["auth_chain"], *answer["state"]]}
    for event in [*answer["state"], *answer["auth_chain"], answer["event"]]:
        auth_ids = [e if isinstance(e, str) else e[0] for e in event["auth_events"]]
        assert ids.issuperset(auth_ids)
