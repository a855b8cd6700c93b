"""People with several devices each, who talk encrypted: matrix-nio with vodozemac, unmodified."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import nio  # type: ignore[import-untyped]  # it has no types

PASSWORD: Final = "correct horse battery staple"
_ENCRYPTION: Final = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}
_LOST: Final = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class PatientClient(nio.AsyncClient):  # type: ignore[misc]  # it has no types
    """matrix-nio over a connection that repeats requests until there is an answer to them.

    Attributes:
        claimed: the one-time keys it was given: user, device, name.
        repeated: how many requests it had to send again.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.claimed: list[tuple[str, str, str]] = []
        self.repeated = 0

    async def send(self, *args: Any, **more: Any) -> Any:
        """See AsyncClient: one request."""
        while True:
            try:
                answer = await super().send(*args, **more)
                if answer.status < 500:
                    await answer.read()
                    return answer
            except _LOST:
                pass
            self.repeated += 1
            await asyncio.sleep(0.2)

    async def keys_claim(self, *args: Any, **more: Any) -> Any:
        """See AsyncClient: claim one-time keys."""
        answer = await super().keys_claim(*args, **more)
        for user_id, devices in getattr(answer, "one_time_keys", {}).items():
            for device_id, keys in devices.items():
                self.claimed += [(user_id, device_id, name) for name in keys]
        return answer


@dataclass(eq=False)
class Device:
    """One device of somebody.

    Attributes:
        heard: event ID → what it said.
        undecryptable: event IDs of what it could not read.
        verified: transactions of verifications that came to their end.
    """

    client: PatientClient
    heard: dict[str, str] = field(default_factory=dict)
    undecryptable: list[str] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client.add_event_callback(self._on_text, nio.RoomMessageText)
        self.client.add_event_callback(self._on_undecryptable, nio.MegolmEvent)
        self.client.add_to_device_callback(self._on_verification, nio.KeyVerificationEvent)

    @property
    def user_id(self) -> str:
        """Whose it is."""
        return str(self.client.user_id)

    @property
    def device_id(self) -> str:
        """Its name."""
        return str(self.client.device_id)

    async def sync(self) -> None:
        """One /sync, and whatever the client then wants to do about keys.

        Raises AssertionError for a refusal; what a lost connection raises.
        """
        _ok(await self.client.sync(timeout=0, sync_filter={"room": {"timeline": {"limit": 500}}}))
        await self.tend_keys()

    async def tend_keys(self) -> None:
        """Upload, ask for and claim keys, and send what waits, as an ordinary client does."""
        client = self.client
        await client.send_to_device_messages()
        if client.should_upload_keys:
            _ok(await client.keys_upload())
        if client.should_query_keys:
            _ok(await client.keys_query())
        if client.should_claim_keys:
            _ok(await client.keys_claim(client.get_users_for_key_claiming()))

    async def say(self, room_id: str, body: str) -> None:
        """Send an encrypted text."""
        content = {"msgtype": "m.text", "body": body}
        sent = await self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        _ok(sent)
        self.heard[sent.event_id] = body

    async def log_out(self) -> None:
        """End the device."""
        _ok(await self.client.logout())
        await self.client.close()

    # ---- what the client tells

    async def _on_text(self, room: Any, event: Any) -> None:
        if event.decrypted:
            self.heard[event.event_id] = event.body

    async def _on_undecryptable(self, room: Any, event: Any) -> None:
        self.undecryptable.append(event.event_id)

    async def _on_verification(self, event: Any) -> None:
        client, txn = self.client, event.transaction_id
        if isinstance(event, nio.KeyVerificationStart):
            _ok(await client.accept_key_verification(txn))
        elif isinstance(event, nio.KeyVerificationKey):
            await client.send_to_device_messages()  # our own key goes before what follows it
            # The people compare what they see, and find it equal.
            _ok(await client.confirm_short_auth_string(txn))
        elif isinstance(event, nio.KeyVerificationMac):
            sas = client.key_verifications[txn]
            if sas.verified:
                self.verified.append(txn)


def _ok(answer: Any) -> None:
    assert not isinstance(answer, nio.ErrorResponse), answer


@dataclass(frozen=True)
class Place:
    """A homeserver, whichever program it is.

    Attributes:
        tls: whom to trust there; None for plain HTTP.
    """

    url: str
    tls: ssl.SSLContext | None = None


async def register(place: Place, name: str) -> str:
    """Make an account; gives its ID."""
    body = {
        "username": name,
        "password": PASSWORD,
        "auth": {"type": "m.login.dummy"},
        "inhibit_login": True,
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{place.url}/_matrix/client/v3/register", json=body, ssl=place.tls or True
        ) as answer,
    ):
        told = await answer.json()
        assert answer.status == 200, told
        return str(told["user_id"])


async def log_in(place: Place, user_id: str, directory: Path, name: str) -> Device:
    """A new device of somebody, with a store of its own."""
    store = directory / name
    store.mkdir()
    config = nio.AsyncClientConfig(encryption_enabled=True)
    client = PatientClient(place.url, user_id, store_path=str(store), config=config, ssl=place.tls)
    _ok(await client.login(PASSWORD, device_name=name))
    device = Device(client)
    await device.sync()
    return device


@asynccontextmanager
async def logged_in(
    places: dict[str, Place], directory: Path, devices: int
) -> AsyncIterator[dict[str, list[Device]]]:
    """Accounts at some places by name, with a number of devices each."""
    people: dict[str, list[Device]] = {}
    try:
        for name, place in places.items():
            user_id = await register(place, name)
            people[name] = []
            for index in range(devices):
                people[name].append(await log_in(place, user_id, directory, f"{name}{index}"))
        yield people
    finally:
        for person in people.values():
            for device in person:
                await device.client.close()


async def create_encrypted_room(owner: Device, *others: Device) -> str:
    """A room that is encrypted from its beginning, with all of them in it."""
    created = await owner.client.room_create(
        initial_state=[_ENCRYPTION], invite=[other.user_id for other in others]
    )
    _ok(created)
    for other in others:
        _ok(await other.client.join(created.room_id))
    return str(created.room_id)


async def sync_all(devices: Sequence[Device], times: int = 1) -> None:
    """All devices look what is new."""
    for _ in range(times):
        await asyncio.gather(*(device.sync() for device in devices))
