"""Two people with ordinary Matrix clients: one with matrix-nio, one with mautrix, unmodified.

Both libraries are used by their public methods only; what differs between them is levelled out
here, so that the tests read the same for both.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import nio  # type: ignore[import-untyped]  # it has no types
from mautrix.api import HTTPAPI, Method, Path
from mautrix.client import Client as MautrixClient
from mautrix.types import EventType, Filter, PaginationDirection, RoomEventFilter, RoomFilter

PASSWORD: Final = "correct horse battery staple"
TIMELINE_LIMIT: Final = 50
PAGE: Final = 37  # does not divide the number of messages

_TIMELINE: Final = {"room": {"timeline": {"limit": TIMELINE_LIMIT}}}


class NoAnswer(Exception):
    """The server did not answer, or not with success: what became of the request is unknown."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as a client sees it."""

    event_id: str
    sender: str
    body: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A room's part of one /sync."""

    events: list[Seen]
    limited: bool
    prev_batch: str | None


@dataclass(eq=False)
class Person(ABC):
    """Somebody who talks through a client library."""

    url: str
    name: str
    user_id: str = ""
    token: str = field(default="", repr=False)

    # What each library does in its own words

    @abstractmethod
    async def register(self) -> None:
        """Make the account and log in."""

    @abstractmethod
    async def create_room(self, invite: str) -> str:
        """Create a room and invite somebody; gives its ID."""

    @abstractmethod
    async def join(self, room_id: str) -> None:
        """Accept an invite."""

    @abstractmethod
    async def invites(self) -> list[str]:
        """The rooms one is invited to, as a first /sync tells."""

    @abstractmethod
    async def send(self, room_id: str, body: str, txn_id: str) -> str:
        """Send a text; gives the event ID. Raises NoAnswer."""

    @abstractmethod
    async def page(
        self, room_id: str, start: str | None, direction: str, end: str | None = None
    ) -> tuple[list[Seen], str | None]:
        """A page of /messages and the token of the next; None after the last."""

    @abstractmethod
    async def sync(
        self, room_id: str, since: str | None, timeout_ms: int = 0
    ) -> tuple[str, Timeline | None]:
        """One /sync: its next_batch, and what it says about the room."""

    @abstractmethod
    async def close(self) -> None:
        """Close the library's connections."""

    # What follows from it

    async def read_backwards(self, room_id: str) -> list[Seen]:
        """All texts of the room by /messages from its end, oldest first."""
        return (await self._read(room_id, None, "b"))[::-1]

    async def read_forwards(self, room_id: str) -> list[Seen]:
        """All texts of the room by /messages from its beginning."""
        return await self._read(room_id, None, "f")

    async def _read(
        self, room_id: str, start: str | None, direction: str, end: str | None = None
    ) -> list[Seen]:
        texts: list[Seen] = []
        while True:
            seen, start = await self.page(room_id, start, direction, end)
            texts += seen
            if start is None:
                return texts

    async def read_by_syncing(
        self, room_id: str, since: str | None, until: asyncio.Event | None = None
    ) -> tuple[list[Seen], str]:
        """All texts since a token, by /sync, gaps filled by /messages; and the last token.

        Args:
            until: go on waiting for more until it is set, and then until nothing comes.
        """
        texts: list[Seen] = []
        while True:
            is_last = until is None or until.is_set()
            before = since
            since, timeline = await self.sync(room_id, since, 0 if is_last else 1000)
            if timeline is not None:
                if timeline.limited:
                    gap = await self._read(room_id, timeline.prev_batch, "b", before)
                    texts += gap[::-1]
                texts += timeline.events
            elif is_last:
                return texts, since


class NioPerson(Person):
    """Somebody with matrix-nio."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        config = nio.AsyncClientConfig(
            max_timeouts=1, max_limit_exceeded=1, encryption_enabled=False
        )
        self._client = nio.AsyncClient(url, name, config=config)

    async def register(self) -> None:
        """Make the account and log in."""
        told = await self._client.register(self.name, PASSWORD)
        assert isinstance(told, nio.RegisterResponse), told
        self.user_id, self.token = told.user_id, told.access_token

    async def create_room(self, invite: str) -> str:
        """Create a room and invite somebody; gives its ID."""
        told = await self._client.room_create(name="Two people")
        assert isinstance(told, nio.RoomCreateResponse), told
        invited = await self._client.room_invite(told.room_id, invite)
        assert isinstance(invited, nio.RoomInviteResponse), invited
        return str(told.room_id)

    async def join(self, room_id: str) -> None:
        """Accept an invite."""
        told = await self._client.join(room_id)
        assert isinstance(told, nio.JoinResponse), told

    async def invites(self) -> list[str]:
        """The rooms one is invited to, as a first /sync tells."""
        told = await self._synced(None, 0)
        return list(told.rooms.invite)

    async def send(self, room_id: str, body: str, txn_id: str) -> str:
        """Send a text; gives the event ID. Raises NoAnswer."""
        content = {"msgtype": "m.text", "body": body}
        try:
            async with asyncio.timeout(20):
                told = await self._client.room_send(
                    room_id, "m.room.message", content, tx_id=txn_id
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NoAnswer from error
        if not isinstance(told, nio.RoomSendResponse):
            raise NoAnswer(str(told))
        return str(told.event_id)

    async def page(
        self, room_id: str, start: str | None, direction: str, end: str | None = None
    ) -> tuple[list[Seen], str | None]:
        """A page of /messages and the token of the next; None after the last."""
        told = await self._client.room_messages(
            room_id, start, end, nio.MessageDirection(direction), PAGE
        )
        assert isinstance(told, nio.RoomMessagesResponse), told
        return _texts(event.source for event in told.chunk), told.end or None

    async def sync(
        self, room_id: str, since: str | None, timeout_ms: int = 0
    ) -> tuple[str, Timeline | None]:
        """One /sync: its next_batch, and what it says about the room."""
        told = await self._synced(since, timeout_ms)
        room = told.rooms.join.get(room_id)
        if room is None or not room.timeline.events:
            return told.next_batch, None
        seen = _texts(event.source for event in room.timeline.events)
        return told.next_batch, Timeline(seen, room.timeline.limited, room.timeline.prev_batch)

    async def _synced(self, since: str | None, timeout_ms: int) -> Any:
        if since is None:
            self._client.next_batch = ""  # else it goes on where it was
        told = await self._client.sync(timeout_ms, sync_filter=_TIMELINE, since=since)
        assert isinstance(told, nio.SyncResponse), told
        return told

    async def close(self) -> None:
        """Close the library's connections."""
        await self._client.close()


class MautrixPerson(Person):
    """Somebody with mautrix."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self._api = HTTPAPI(url, default_retry_count=0)
        # Any: the library's names for strings would have to be said at every call.
        self._client: Any = MautrixClient(api=self._api)
        self._filter_id: str | None = None

    async def register(self) -> None:
        """Make the account and log in."""
        told = await self._api.request(
            Method.POST,
            Path.v3.register,
            {"auth": {"type": "m.login.dummy"}, "username": self.name, "password": PASSWORD},
        )
        self.user_id = told["user_id"]
        # Again, by password, as the library does it.
        logged_in = await self._client.login(self.name, password=PASSWORD)
        assert logged_in.user_id == self.user_id
        self.token = logged_in.access_token

    async def create_room(self, invite: str) -> str:
        """Create a room and invite somebody; gives its ID."""
        room_id = await self._client.create_room(name="Two people")
        await self._client.invite_user(room_id, invite)
        return str(room_id)

    async def join(self, room_id: str) -> None:
        """Accept an invite."""
        assert await self._client.join_room(room_id) == room_id

    async def invites(self) -> list[str]:
        """The rooms one is invited to, as a first /sync tells."""
        told = await self._client.sync(timeout=0)
        return list(told.get("rooms", {}).get("invite", {}))

    async def send(self, room_id: str, body: str, txn_id: str) -> str:
        """Send a text; gives the event ID. Raises NoAnswer."""
        content = {"msgtype": "m.text", "body": body}
        try:
            async with asyncio.timeout(20):
                event_id = await self._client.send_message_event(
                    room_id, EventType.ROOM_MESSAGE, content, txn_id=txn_id
                )
        except Exception as error:
            # The library has a class per errcode and its own for lost connections.
            raise NoAnswer from error
        return str(event_id)

    async def page(
        self, room_id: str, start: str | None, direction: str, end: str | None = None
    ) -> tuple[list[Seen], str | None]:
        """A page of /messages and the token of the next; None after the last."""
        told = await self._client.get_messages(
            room_id, PaginationDirection(direction), start, end, limit=PAGE
        )
        return _texts(event.serialize() for event in told.events), told.end or None

    async def sync(
        self, room_id: str, since: str | None, timeout_ms: int = 0
    ) -> tuple[str, Timeline | None]:
        """One /sync: its next_batch, and what it says about the room."""
        if self._filter_id is None:
            limited = RoomFilter(timeline=RoomEventFilter(limit=TIMELINE_LIMIT))
            self._filter_id = await self._client.create_filter(Filter(room=limited))
        told = await self._client.sync(since, timeout_ms, self._filter_id)
        room = told.get("rooms", {}).get("join", {}).get(room_id, {})
        timeline = room.get("timeline", {})
        if not timeline.get("events"):
            return told["next_batch"], None
        seen = _texts(timeline["events"])
        limited_now = timeline.get("limited", False)
        return told["next_batch"], Timeline(seen, limited_now, timeline.get("prev_batch"))

    async def close(self) -> None:
        """Close the library's connections."""
        await self._api.session.close()


@asynccontextmanager
async def two_people(url: str) -> AsyncIterator[tuple[NioPerson, MautrixPerson]]:
    """Alice, who uses matrix-nio, and Bob, who uses mautrix; registered."""
    alice, bob = NioPerson(url, "alice"), MautrixPerson(url, "bob")
    try:
        await alice.register()
        await bob.register()
        yield alice, bob
    finally:
        await alice.close()
        await bob.close()


def _texts(events: Any) -> list[Seen]:
    """The texts among events."""
    return [
        Seen(event["event_id"], event["sender"], event["content"]["body"])
        for event in events
        if event["type"] == "m.room.message"
    ]
