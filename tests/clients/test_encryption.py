"""People with several devices talk encrypted: everybody reads everything, whatever happens."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated
from typing import Final

import psutil
import pytest

from tests.clients.encrypting import (
    Device,
    Place,
    create_encrypted_room,
    log_in,
    logged_in,
    sync_all,
)
from tests.server import RunningServer, start_server

pytestmark = [
    pytest.mark.slow,
    # The libraries' own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# A longer run: ARCHITEX_TORTURE_S=600 pytest tests/clients/test_encryption.py
KILLING_S: Final = float(os.environ.get("ARCHITEX_TORTURE_S", "15"))
KILL_EVERY_S: Final = (0.5, 4.0)


def test_all_devices_read_everything(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        asyncio.run(_converse(server, tmp_path))


async def _converse(server: RunningServer, directory: Path) -> None:
    place = Place(server.url)
    async with logged_in({"alice": place, "bob": place}, directory, 3) as people:
        alice, bob = people["alice"], people["bob"]
        room_id = await create_encrypted_room(alice[0], bob[0])
        devices = [*alice, *bob]
        await sync_all(devices, 2)
        said = await _say_all(devices, room_id, "first")

        # One device goes in the middle of the conversation, another one comes.
        await bob[2].log_out()
        devices.remove(bob[2])
        new = await log_in(place, alice[0].user_id, directory, "alice-new")
        alice.append(new)
        devices.append(new)
        await sync_all(devices, 2)
        before = set(said)
        said |= await _say_all(devices, room_id, "second")
        for device in devices:
            expected = {s: b for s, b in said.items() if device is not new or s not in before}
            assert expected.items() <= device.heard.items()
            missed = [e for e in device.undecryptable if device is not new or e not in before]
            assert missed == [], f"{device.device_id} of {device.user_id} cannot read"
        await _verify(alice[0], bob[0], devices)


async def _say_all(devices: Sequence[Device], room_id: str, what: str) -> dict[str, str]:
    """Everybody says something, several times; gives all of it by event ID."""
    for number in range(3):
        for device in devices:
            await device.say(room_id, f"{what} {number} of {device.device_id}")
        await sync_all(devices)
    await sync_all(devices, 2)
    return {e: body for device in devices for e, body in device.heard.items() if what in body}


async def _verify(one: Device, other: Device, devices: Sequence[Device]) -> None:
    """Two people compare emoji, and trust each other's devices afterwards."""
    theirs = one.client.device_store[other.user_id][other.device_id]
    assert not one.client.olm.is_device_verified(theirs)
    await one.client.start_key_verification(theirs)
    for _ in range(6):
        await sync_all(devices)
    assert len(one.verified) == len(other.verified) == 1
    assert one.client.olm.is_device_verified(theirs)


def test_nothing_becomes_unreadable_while_processes_are_killed(tmp_path: Path) -> None:
    with start_server(tmp_path, web_workers=2) as server:
        asyncio.run(_converse_while_killed(server, tmp_path))


async def _converse_while_killed(server: RunningServer, directory: Path) -> None:
    place = Place(server.url)
    async with logged_in({"alice": place, "bob": place}, directory, 2) as people:
        devices = [*people["alice"], *people["bob"]]
        room_id = await create_encrypted_room(people["alice"][0], people["bob"][0])
        await sync_all(devices, 2)
        killing = asyncio.create_task(_kill_at_random(server))
        number = 0
        while not killing.done():
            # New sessions again and again: new keys to claim and to send.
            for device in devices:
                device.client.invalidate_outbound_session(room_id)
            await asyncio.gather(
                *(device.say(room_id, f"{number} of {device.device_id}") for device in devices)
            )
            await sync_all(devices)
            number += 1
        kills = await killing
        await asyncio.to_thread(server.wait_until_healthy)
        await sync_all(devices, 3)
        said = {event_id: body for device in devices for event_id, body in device.heard.items()}
        for device in devices:
            assert device.undecryptable == []
            assert device.heard == said
        assert len(said) == number * len(devices)
        claimed = Counter(key for device in devices for key in device.client.claimed)
        assert [key for key, times in claimed.items() if times > 1] == []
        assert kills > 0
        repeated = sum(device.client.repeated for device in devices)
        print(f"{kills} kills, {len(said)} messages, {repeated} requests repeated")  # noqa: T201 - for longer runs


async def _kill_at_random(server: RunningServer) -> int:
    """Kill workers, followers and processes of PostgreSQL; gives how many."""
    chance = Random(1)  # noqa: S311 - as above
    kills = 0
    loop = asyncio.get_running_loop()
    end = loop.time() + KILLING_S
    while loop.time() < end:
        await asyncio.sleep(chance.uniform(*KILL_EVERY_S))
        victims = [process for process in server.processes() if process.pid != server.pid]
        if victims:
            with suppress(psutil.NoSuchProcess):
                chance.choice(victims).kill()
                kills += 1
    return kills
