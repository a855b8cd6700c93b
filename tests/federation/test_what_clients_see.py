"""What clients were told by and by is what there is, whatever happened between servers.

`ARCHITEX_SEEDS=1000` runs as many seeds, `ARCHITEX_SEED=17` repeats one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import User, segment
from tests.conftest import DatabaseFactory
from tests.federation.simulation import Simulation, simulation
from tests.federation.test_convergence import seeds

_STEPS = 80

Json = dict[str, Any]
State = dict[tuple[str, str], str]


@dataclass
class Client:
    """A client that syncs now and then, and believes what it is told.

    Attributes:
        sections: room ID → where the room was told last: join, invite, knock or leave.
        states: of joined rooms, as of the end of the timeline.
        timelines: event IDs since the last gap that was declared.
    """

    user: User
    since: str | None = None
    sections: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    timelines: dict[str, list[str]] = field(default_factory=dict)

    def sync(self) -> None:
        """Hear the news."""
        params: Json = {"use_state_after": "true"}
        if self.since is not None:
            params["since"] = self.since
        told = self.user.get("/sync", **params).ok()
        self.since = told["next_batch"]
        for section, rooms in told.get("rooms", {}).items():
            for room_id, room in rooms.items():
                if section in ("join", "leave"):
                    self._hear(room_id, room, is_new=self.sections.get(room_id) != section)
                self.sections[room_id] = section

    def _hear(self, room_id: str, room: Json, *, is_new: bool) -> None:
        timeline = self.timelines.setdefault(room_id, [])
        if room["timeline"].get("limited"):
            timeline.clear()
        came = [event["event_id"] for event in room["timeline"]["events"]]
        assert set(came).isdisjoint(timeline), f"{self.user.user_id} was told something twice"
        timeline += came
        state = self.states.setdefault(room_id, {})
        if is_new:
            state.clear()
        for event in room.get("state_after", {}).get("events", []):
            state[event["type"], event["state_key"]] = event["event_id"]

    def rooms_in(self, *sections: str) -> dict[str, str]:
        """Those of the rooms that are in one of some sections."""
        return {room: section for room, section in self.sections.items() if section in sections}


@pytest.mark.parametrize("seed", seeds("2"))
def test_what_clients_were_told_is_what_there_is(
    seed: str, make_database: DatabaseFactory, tmp_path: Path
) -> None:
    with simulation(f"clients {seed}", make_database, tmp_path, count=2) as run:
        run.are_restless = True
        try:
            clients = _live(run)
            for client in clients:
                _check(client)
        except BaseException as error:
            error.add_note("\n".join(run.actions))
            error.add_note(f"ARCHITEX_SEED={seed} repeats it: room version {run.room_version}")
            raise


def _live(run: Simulation) -> list[Client]:
    clients = [Client(user) for user in run.users]
    run.begin()
    for _ in range(_STEPS):
        run.step()
        if run.chance.random() < 0.3:
            run.chance.choice(clients).sync()
    run.settle()
    for client in clients:
        if run.chance.random() < 0.5:
            client.sync()
    run.speak_everywhere()
    return clients


def _check(client: Client) -> None:
    """Compare what a client heard by and by with what it would hear today, and can read."""
    client.sync()
    fresh = Client(client.user)
    fresh.sync()
    inside = client.rooms_in("join", "invite", "knock")
    assert inside == fresh.rooms_in("join", "invite", "knock"), client.user.user_id
    for room_id in client.rooms_in("join"):
        path = f"/rooms/{segment(room_id)}"
        state = {
            (event["type"], event["state_key"]): event["event_id"]
            for event in client.user.get(f"{path}/state").ok()
        }
        for one in (client, fresh):
            # That an entry is gone altogether, as resets of version 1 have it, cannot be told.
            told = {key: one.states[room_id].get(key) for key in state}
            assert told == state, client.user.user_id
            heard = one.timelines[room_id]
            assert heard == _read_back(client.user, path, heard), client.user.user_id


def _read_back(user: User, path: str, heard: list[str]) -> list[str]:
    """As many of the newest events of a room as were heard of, the oldest first.

    A redaction is shown once it redacts something: that may be after it was to be told.
    """
    read: list[str] = []
    params: Json = {}
    while len(read) < len(heard):
        page = user.get(f"{path}/messages", dir="b", limit=50, **params).ok()
        read += [
            event["event_id"]
            for event in page["chunk"]
            if event["type"] != "m.room.redaction" or event["event_id"] in heard
        ]
        if "end" not in page:
            break
        params = {"from": page["end"]}
    return read[: len(heard)][::-1]
