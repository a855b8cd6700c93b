"""Media goes when the messages that showed it are redacted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from architex.bootstrap import build_use_cases
from architex.projections.media_references import MAX_PER_EVENT, find_media
from architex.settings import RateLimitSettings
from architex.usecases.media_care import MediaCare
from tests.api.client import User, settings_for, start_server, stop_server
from tests.following import follow_to_the_end
from tests.media_files import download, upload


@dataclass
class Scene:
    """Two people in a room, and what takes care of their media."""

    alice: User
    bob: User
    room_id: str
    care: MediaCare

    def send(self, user: User, media: str, **more: Any) -> str:
        content = {"msgtype": "m.image", "body": "x", "url": f"mxc://{media}", **more}
        txn_id = next(user.server.numbers)
        path = f"/rooms/{self.room_id}/send/m.room.message/{txn_id}"
        event_id: str = user.put(path, content).ok()["event_id"]
        return event_id

    def redact(self, user: User, event_id: str) -> None:
        txn_id = next(user.server.numbers)
        user.put(f"/rooms/{self.room_id}/redact/{event_id}/{txn_id}").ok()

    def is_there(self, media: str) -> bool:
        """Whether it survives the next turn of the chore."""
        follow_to_the_end(self.alice.server.core.database)
        self.care.remove_redacted()
        return download(self.alice, media).status_code == 200


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[Scene]:
    settings = settings_for(tmp_path, rate_limits=RateLimitSettings(enabled=False))
    server = start_server(database_url, settings)
    alice, bob = server.register(), server.register()
    room_id = alice.create_room(preset="public_chat")
    bob.post(f"/rooms/{room_id}/join").ok()
    yield Scene(alice, bob, room_id, build_use_cases(settings, server.core).media_care)
    stop_server(server)


def test_picture_goes_with_its_message(scene: Scene) -> None:
    media = upload(scene.alice, b"picture")
    event_id = scene.send(scene.alice, media)
    assert scene.is_there(media)
    scene.redact(scene.alice, event_id)
    assert not scene.is_there(media)


def test_moderator_takes_a_picture_away(scene: Scene) -> None:
    media = upload(scene.bob, b"picture")
    scene.redact(scene.alice, scene.send(scene.bob, media))
    assert not scene.is_there(media)


def test_picture_that_is_shown_elsewhere_stays(scene: Scene) -> None:
    media = upload(scene.alice, b"picture")
    event_id = scene.send(scene.alice, media)
    thumbnail = {"info": {"thumbnail_url": f"mxc://{media}"}}
    other = scene.send(scene.bob, media + "x", **thumbnail)
    scene.redact(scene.alice, event_id)
    assert scene.is_there(media)
    scene.redact(scene.bob, other)
    assert not scene.is_there(media)


def test_nobody_takes_away_what_others_uploaded(scene: Scene) -> None:
    media = upload(scene.alice, b"picture")
    scene.redact(scene.bob, scene.send(scene.bob, media))
    assert scene.is_there(media)


def test_media_that_no_event_named_stays(scene: Scene) -> None:
    media = upload(scene.alice, b"for an encrypted room")
    assert scene.is_there(media)


def test_protected_media_stays(scene: Scene) -> None:
    media = upload(scene.alice, b"picture")
    scene.alice.server.core.database.execute("UPDATE media SET protected = true")
    scene.redact(scene.alice, scene.send(scene.alice, media))
    assert scene.is_there(media)


def test_avatar_stays(scene: Scene) -> None:
    media = upload(scene.alice, b"me")
    path = f"/profile/{scene.alice.path}/avatar_url"
    scene.alice.put(path, {"avatar_url": f"mxc://{media}"}).ok()
    scene.redact(scene.alice, scene.send(scene.alice, media))
    assert scene.is_there(media)


def test_media_is_found_anywhere_in_bounds() -> None:
    content: dict[str, Any] = {
        "url": "mxc://a.b/c",
        "info": {"thumbnail_url": "mxc://a.b/d"},
        "list": ["mxc://a.b/c", {"x": "mxc://a.b/e"}, 7, None],
        "bad": ["mxc://a.b/../c", "mxc://", "mxc://a b/c", "text mxc://a.b/f"],
    }
    assert {str(uri) for uri in find_media(content)} == {f"mxc://a.b/{x}" for x in "cde"}
    assert len(find_media({"many": [f"mxc://a.b/{n}" for n in range(1000)]})) == MAX_PER_EVENT
    deep: Any = "mxc://a.b/c"
    for _ in range(10_000):
        deep = [deep]
    assert find_media({"deep": deep}) == []
