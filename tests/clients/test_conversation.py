"""Two people with ordinary clients talk, leave, come back after a restart and read it again.

matrix-nio and mautrix, unmodified, over HTTP against `architex serve` with two workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.clients.people import Person, Seen, two_people
from tests.server import RunningServer, start_server

pytestmark = [
    pytest.mark.slow,
    # The libraries' own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MESSAGES_EACH: Final = 200


def test_both_read_what_both_said(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        asyncio.run(_talk_and_read(server))


async def _talk_and_read(server: RunningServer) -> None:
    async with two_people(server.url) as (alice, bob):
        room_id = await alice.create_room(invite=bob.user_id)
        assert await bob.invites() == [room_id]
        await bob.join(room_id)

        first_tokens = {person: await _token(person, room_id) for person in (alice, bob)}
        finished = asyncio.Event()
        reading = [
            asyncio.create_task(person.read_by_syncing(room_id, first_tokens[person], finished))
            for person in (alice, bob)
        ]
        said = await asyncio.gather(_say_all(alice, room_id), _say_all(bob, room_id))
        finished.set()
        heard = [(await task)[0] for task in reading]

        story = await alice.read_backwards(room_id)
        _assert_everything_once(story, said[0] | said[1])
        assert _bodies(story, alice.user_id) == [f"alice {n}" for n in range(MESSAGES_EACH)]
        assert _bodies(story, bob.user_id) == [f"bob {n}" for n in range(MESSAGES_EACH)]
        assert heard == [story, story], "what /sync told is not what /messages tells"
        await _assert_read_alike(alice, bob, room_id, story)

        server.stop()
        server.start()
        await _assert_read_alike(alice, bob, room_id, story)
        for person in (alice, bob):
            # A token from before the restart is still good.
            again, _ = await person.read_by_syncing(room_id, first_tokens[person])
            assert again == story

        more = await bob.send(room_id, "still there?", "after the restart")
        assert (await alice.read_backwards(room_id))[-1].event_id == more


async def _say_all(person: Person, room_id: str) -> dict[str, str]:
    """Send the messages one after the other; event ID → body."""
    said = {}
    for number in range(MESSAGES_EACH):
        body = f"{person.name} {number}"
        said[await person.send(room_id, body, f"t{number}")] = body
    return said


async def _token(person: Person, room_id: str) -> str:
    return (await person.read_by_syncing(room_id, None))[1]


async def _assert_read_alike(
    alice: Person, bob: Person, room_id: str, story: Sequence[Seen]
) -> None:
    """Every way to read the room gives the same events in the same order, none twice."""
    for person in (alice, bob):
        assert await person.read_backwards(room_id) == story
        assert await person.read_forwards(room_id) == story
        from_nothing, token = await person.read_by_syncing(room_id, None)
        assert from_nothing == story
        assert await person.read_by_syncing(room_id, token) == ([], token)


def _assert_everything_once(story: Sequence[Seen], said: dict[str, str]) -> None:
    assert len({seen.event_id for seen in story}) == len(story)
    assert {seen.event_id: seen.body for seen in story} == said


def _bodies(story: Sequence[Seen], user_id: str) -> list[str]:
    return [seen.body for seen in story if seen.sender == user_id]
