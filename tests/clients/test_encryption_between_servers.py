"""People on two servers talk encrypted: on two of ours, and on one of ours and Synapse."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.encrypting import (
    Device,
    Place,
    create_encrypted_room,
    log_in,
    logged_in,
    sync_all,
)
from tests.federation.authority import Authority
from tests.federation.homeserver import Homeserver, architex
from tests.federation.synapse import is_installed, synapse

pytestmark = [
    pytest.mark.slow,
    # The libraries' own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE_S = 30.0


def test_people_on_two_servers_of_ours_read_everything(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        architex(tmp_path, authority, web_workers=1) as one,
        architex(tmp_path, authority, web_workers=1) as other,
    ):
        asyncio.run(_converse(authority, tmp_path, one, other))


@pytest.mark.skipif(not is_installed(), reason="matrix-synapse is not installed")
@pytest.mark.parametrize("is_host", [True, False])
def test_people_here_and_on_synapse_read_everything(tmp_path: Path, is_host: bool) -> None:
    authority = Authority(tmp_path)
    with architex(tmp_path, authority) as ours, synapse(tmp_path, authority) as theirs:
        pair = (ours, theirs) if is_host else (theirs, ours)
        asyncio.run(_converse(authority, tmp_path, *pair))


async def _converse(
    authority: Authority, directory: Path, one: Homeserver, other: Homeserver
) -> None:
    tls = ssl.create_default_context(cafile=authority.ca_file)
    places = {"alice": Place(one.url, tls), "bob": Place(other.url, tls)}
    async with logged_in(places, directory, 2) as people:
        alice, bob = people["alice"], people["bob"]
        devices = [*alice, *bob]
        room_id = await create_encrypted_room(alice[0], bob[0])
        await _until_known(devices, room_id)
        said = {}
        for number in range(3):
            for device in devices:
                said[f"{number} of {device.device_id}"] = device
                await device.say(room_id, f"{number} of {device.device_id}")
        await _until_heard(devices, set(said))

        # Somebody on each side adds a device, and somebody loses one.
        for name, place in places.items():
            new = await log_in(place, people[name][0].user_id, directory, f"{name}-new")
            people[name].append(new)
            devices.append(new)
        gone = bob.pop(1)
        devices.remove(gone)
        await gone.log_out()
        await _until_known(devices, room_id)
        later = set()
        for device in devices:
            later.add(f"later of {device.device_id}")
            await device.say(room_id, f"later of {device.device_id}")
        await _until_heard(devices, later)


async def _until_known(devices: list[Device], room_id: str) -> None:
    """Until each device knows all of them as they are."""

    def is_known(device: Device) -> bool:
        room = device.client.rooms.get(room_id)
        if room is None or not room.encrypted or len(room.users) < 2:
            return False
        return all(
            {d.device_id for d in devices if d.user_id == user_id and d is not device}
            == {d.id for d in device.client.device_store.active_user_devices(user_id)}
            - {device.device_id}
            for user_id in {d.user_id for d in devices}
        )

    await _until(devices, lambda: all(is_known(device) for device in devices))


async def _until_heard(devices: list[Device], bodies: set[str]) -> None:
    """Until each device has read all of it, and nothing that it could not."""

    def is_heard(device: Device) -> bool:
        return bodies <= set(device.heard.values())

    await _until(devices, lambda: all(is_heard(device) for device in devices))


async def _until(devices: list[Device], is_done: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while not is_done():
        assert loop.time() < end, "it does not come"
        await sync_all(devices)
        await asyncio.sleep(0.1)
