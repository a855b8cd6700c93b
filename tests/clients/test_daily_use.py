"""What people do all day, by the methods that client libraries have for it.

matrix-nio and mautrix talk; simplematrixbotlib answers.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import nio  # type: ignore[import-untyped]  # it has no types
import pytest
from mautrix.api import HTTPAPI
from mautrix.client import Client as MautrixClient
from mautrix.errors import MUnknownToken
from mautrix.types import EventType, ReceiptType
from nio.api import RelationshipType  # type: ignore[import-untyped]  # as above

from tests.clients.people import PASSWORD, Person, two_people
from tests.server import RunningServer, start_server

BOT_PYTHON: Final = Path(os.environ.get("BOT_PYTHON", "/nonexistent"))

pytestmark = [
    pytest.mark.slow,
    # The libraries' own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with start_server(tmp_path, web_workers=2) as running:
        yield running


@asynccontextmanager
async def _libraries(alice: Person, bob: Person) -> AsyncIterator[tuple[Any, Any]]:
    """The clients of two people, already logged in: Alice's of matrix-nio, Bob's of mautrix."""
    first = nio.AsyncClient(alice.url, alice.user_id)
    first.restore_login(alice.user_id, "any", alice.token)
    api = HTTPAPI(bob.url, token=bob.token, default_retry_count=0)
    try:
        yield first, MautrixClient(mxid=bob.user_id, api=api)
    finally:
        await first.close()
        await api.session.close()


def test_edits_reactions_threads_and_receipts_arrive(server: RunningServer) -> None:
    asyncio.run(_talk(server))


async def _talk(server: RunningServer) -> None:
    async with two_people(server.url) as (alice, bob), _libraries(alice, bob) as (one, other):
        room_id = await alice.create_room(invite=bob.user_id)
        await bob.join(room_id)
        root = await alice.send(room_id, "Shall we have tea?", "1")

        edit = await other.send_text(room_id, "With mlk")
        await other.send_message_event(
            room_id, EventType.ROOM_MESSAGE, _edit_of(edit, "With milk")
        )
        await other.react(room_id, root, "🍵")
        await other.send_message_event(room_id, EventType.ROOM_MESSAGE, _in_thread(root, "When?"))

        edited = (await one.room_get_event(room_id, edit)).event.source
        replacing = edited["unsigned"]["m.relations"]["m.replace"]["content"]
        assert replacing["m.new_content"]["body"] == "With milk"
        reactions = [
            event.source["content"]["m.relates_to"]["key"]
            async for event in one.room_get_event_relations(
                room_id, root, RelationshipType.annotation
            )
        ]
        assert reactions == ["🍵"]
        threads = [event.event_id async for event in one.room_get_threads(room_id)]
        assert threads == [root]

        answered = await one.room_read_markers(room_id, root, root)
        assert isinstance(answered, nio.RoomReadMarkersResponse), answered
        told = await other.sync(timeout=0)
        receipts = [
            event["content"]
            for event in told["rooms"]["join"][room_id]["ephemeral"]["events"]
            if event["type"] == "m.receipt"
        ]
        assert any(alice.user_id in told[root]["m.read"] for told in receipts)
        await other.send_receipt(room_id, root, receipt_type=ReceiptType.READ)

        found = server.request(  # neither library has a method for it
            "POST", "/_matrix/client/v3/search", _search_for("tea"), token=alice.token
        )[1]["search_categories"]["room_events"]
        assert [result["result"]["event_id"] for result in found["results"]] == [root]

        assert isinstance(await one.logout(), nio.LogoutResponse)
        assert isinstance(await one.whoami(), nio.WhoamiError)
        await other.logout(clear_access_token=False)
        with pytest.raises(MUnknownToken):
            await other.whoami()


def _edit_of(event_id: str, body: str) -> dict[str, Any]:
    text = {"msgtype": "m.text", "body": body}
    relation = {"rel_type": "m.replace", "event_id": event_id}
    return {**text, "m.new_content": text, "m.relates_to": relation}


def _in_thread(event_id: str, body: str) -> dict[str, Any]:
    relation = {"rel_type": "m.thread", "event_id": event_id}
    return {"msgtype": "m.text", "body": body, "m.relates_to": relation}


def _search_for(term: str) -> dict[str, Any]:
    return {"search_categories": {"room_events": {"search_term": term}}}


@pytest.mark.skipif(
    not BOT_PYTHON.exists(),
    reason="no simplematrixbotlib; see docs/howto/run-the-tests.md",
)
def test_a_bot_comes_when_invited_and_answers(server: RunningServer, tmp_path: Path) -> None:
    asyncio.run(_ask_the_bot(server, tmp_path))


async def _ask_the_bot(server: RunningServer, directory: Path) -> None:
    async with two_people(server.url) as (alice, bob):
        script = Path(__file__).with_name("bot.py")
        bot = subprocess.Popen(
            [BOT_PYTHON.absolute(), "-u", script, server.url, bob.name, PASSWORD],
            cwd=directory,  # where it keeps its session
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert bot.stdout is not None
        try:
            # It looks away from what was before its first /sync, invites too.
            assert "Connected" in await asyncio.to_thread(bot.stdout.readline)
            room_id = await alice.create_room(invite=bob.user_id)
            await _until(lambda: _is_joined(server, room_id, alice, bob))
            await alice.send(room_id, "!echo tea is ready", "1")

            async def answered() -> bool:
                story = await alice.read_backwards(room_id)
                return [seen.body for seen in story if seen.sender == bob.user_id] == [
                    "tea is ready"
                ]

            await _until(answered)
        finally:
            bot.kill()
            bot.communicate()


async def _is_joined(server: RunningServer, room_id: str, asker: Person, who: Person) -> bool:
    path = f"/_matrix/client/v3/rooms/{room_id}/joined_members"
    joined = await asyncio.to_thread(server.request, "GET", path, token=asker.token)
    return who.user_id in joined[1]["joined"]


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    """Return when it is so; TimeoutError when it never is."""
    async with asyncio.timeout(60):
        while not await look():
            await asyncio.sleep(0.2)
