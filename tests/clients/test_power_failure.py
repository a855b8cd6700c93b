"""What was answered with 200 is there after every process was killed, and exactly once.

`kill -9` of the supervisor, both workers, the followers and every process of PostgreSQL at one
moment, in the middle of sending by two ordinary clients.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.clients.people import NoAnswer, Person, two_people
from tests.server import RunningServer, start_server

pytestmark = [
    pytest.mark.slow,
    # The libraries' own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KILLS: Final = 3
SENDERS_EACH: Final = 4
ANSWERS_BEFORE_KILL: Final = 60


@dataclass
class Ledger:
    """What the clients know: bodies (which are transaction IDs, too) and their answers."""

    answered: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, Person] = field(default_factory=dict)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: int = 0

    def note(self, body: str, event_id: str) -> None:
        """The server said 200."""
        self.answered[body] = event_id
        if len(self.answered) >= self.wanted:
            self.enough.set()

    def want_more(self) -> None:
        """Set `enough` after so many answers from now on."""
        self.enough.clear()
        self.wanted = len(self.answered) + ANSWERS_BEFORE_KILL


def test_every_answered_event_survives_exactly_once(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        asyncio.run(_send_and_kill(server))


async def _send_and_kill(server: RunningServer) -> None:
    async with two_people(server.url) as (alice, bob):
        room_id = await alice.create_room(invite=bob.user_id)
        await bob.join(room_id)
        _, token = await bob.read_by_syncing(room_id, None)
        ledger = Ledger()
        for round_number in range(KILLS):
            ledger.want_more()
            senders = [
                asyncio.create_task(
                    _send_until_lost(person, room_id, f"{round_number}-{person.name}-{n}", ledger)
                )
                for person in (alice, bob)
                for n in range(SENDERS_EACH)
            ]
            await asyncio.wait_for(ledger.enough.wait(), 60)
            await asyncio.to_thread(server.kill9)
            await asyncio.gather(*senders)
            assert ledger.unanswered, "the kill came between requests: nothing was tried"
            await asyncio.to_thread(server.start)

            # As a client does: the same request again, with its transaction ID.
            for body, person in ledger.unanswered.items():
                ledger.answered[body] = await person.send(room_id, body, body)
            ledger.unanswered.clear()
            for body in list(ledger.answered)[:: max(1, len(ledger.answered) // 10)]:
                person = alice if "alice" in body else bob
                assert await person.send(room_id, body, body) == ledger.answered[body]

            story = await alice.read_backwards(room_id)
            assert {seen.body: seen.event_id for seen in story} == ledger.answered
            assert Counter(seen.body for seen in story).most_common(1)[0][1] == 1
            assert await bob.read_forwards(room_id) == story
            # From a token of before all the kills: no gap, none twice.
            assert (await bob.read_by_syncing(room_id, token))[0] == story


async def _send_until_lost(person: Person, room_id: str, name: str, ledger: Ledger) -> None:
    """Send one text after the other until one gets no answer."""
    number = 0
    while True:
        body = f"{name}-{number}"
        try:
            event_id = await person.send(room_id, body, body)
        except NoAnswer:
            ledger.unanswered[body] = person
            return
        ledger.note(body, event_id)
        number += 1
