"""Clients that remember what the server acknowledged, and what it must therefore still know.

Each is a thread that does one thing over and over, repeats a request until it is answered, as
clients do, and writes down every answer. In the end the books are compared.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from tests.federation.homeserver import Homeserver, Person
from tests.waiting import eventually

PATIENCE_S: Final = 90.0
"""How long anything may take at last, with every process back: far more than it does."""
REPEATED_EVERY: Final = 10
"""One in so many requests is made again although it was answered."""
ALGORITHM: Final = "curve25519"
KEYS_AT_ONCE: Final = 10
TO_DEVICE_TYPE: Final = "org.example.witness"
_FILTER: Final = json.dumps({"room": {"timeline": {"limit": 20}}})


class Unanswered(Exception):
    """A request had no answer for far too long, or the wrong one."""


class PatientClient:
    """One connection of somebody; a request is repeated until there is an answer to it.

    Attributes:
        repeated: how many requests had to be sent again.
        slowest_s: how long the longest request took, with all its repetitions.
    """

    def __init__(self, person: Person, tls: ssl.SSLContext) -> None:
        self._person = person
        self._tls = tls
        self._connection: http.client.HTTPSConnection | None = None
        self.repeated = 0
        self.slowest_s = 0.0

    def do(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request below /_matrix/client/v3 that must succeed in the end; gives the JSON."""
        uri = "/_matrix/client/v3" + path + ("?" + urlencode(query) if query else "")
        data = None if body is None else json.dumps(body)
        began = time.monotonic()
        while True:
            try:
                status, told = self._ask(method, uri, data)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                status, told = 0, error
            if status == 200:
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                return told
            if 0 < status < 500 or time.monotonic() - began > PATIENCE_S:
                raise Unanswered(self._person.user_id, method, uri, status, told)
            self.repeated += 1
            time.sleep(0.05)

    def _ask(self, method: str, uri: str, data: str | None) -> tuple[int, Any]:
        if self._connection is None:
            host = self._person.server.name
            self._connection = http.client.HTTPSConnection(host, timeout=30, context=self._tls)
        headers = {"Authorization": f"Bearer {self._person.token}"}
        self._connection.request(method, uri, data, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        try:
            return answer.status, json.loads(body)
        except ValueError:
            return answer.status, body[:200]

    def close(self) -> None:
        """Hang up; the next request connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Witness(ABC):
    """Does one thing over and over until told to stop."""

    def __init__(self, person: Person, tls: ssl.SSLContext, pause_s: float) -> None:
        self.person = person
        self.client = PatientClient(person, tls)
        self.error: BaseException | None = None
        self.deeds = 0
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    def act(self) -> None:
        """Do it once."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Come to an end; raises what went wrong."""
        self._stop.set()
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive(), f"{type(self).__name__} does not come to an end"
        self.client.close()
        self.check()

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.act()
                self.deeds += 1
                self._stop.wait(self._pause_s)
        except BaseException as error:  # noqa: BLE001 - raised by check
            self.error = error


class Talker(Witness):
    """Sends texts into a room.

    Attributes:
        told: text → event ID, for what was acknowledged.
    """

    def __init__(self, person: Person, tls: ssl.SSLContext, room_id: str, pause_s: float) -> None:
        super().__init__(person, tls, pause_s)
        self.told: dict[str, str] = {}
        self._path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/"

    def act(self) -> None:
        """See Witness."""
        body = f"{self.person.user_id} {self.deeds}"
        self.told[body] = self._send(body)
        if self.deeds % REPEATED_EVERY == 0:
            # An answer that did not arrive: also of long ago.
            old = next(itertools.islice(self.told, self.deeds // 2, None))
            assert self._send(old) == self.told[old], "a transaction made a second event"

    def _send(self, body: str) -> str:
        content = {"msgtype": "m.text", "body": body}
        path = self._path + quote(body, safe="")
        event_id: str = self.client.do("PUT", path, content)["event_id"]
        return event_id


class Messenger(Witness):
    """Sends messages to a device.

    Attributes:
        told: what was acknowledged, in order.
    """

    def __init__(
        self, person: Person, tls: ssl.SSLContext, recipient: Person, pause_s: float
    ) -> None:
        super().__init__(person, tls, pause_s)
        self.recipient = recipient
        self.told: list[str] = []

    def act(self) -> None:
        """See Witness."""
        name = f"{self.person.user_id} {self.deeds}"
        self._send(name)
        self.told.append(name)
        if self.deeds % REPEATED_EVERY == 0:
            self._send(name)

    def _send(self, name: str) -> None:
        path = f"/sendToDevice/{TO_DEVICE_TYPE}/{quote(name, safe='')}"
        messages = {self.recipient.user_id: {"*": {"name": name}}}
        self.client.do("PUT", path, {"messages": messages})


@dataclass(frozen=True, slots=True)
class Gap:
    """What /sync said that it left out: between two tokens."""

    since: str
    prev_batch: str


class Listener(Witness):
    """Follows everything by /sync: the timeline with its gaps, and the messages to the device.

    Attributes:
        received: names of messages to the device, in order.
    """

    def __init__(self, person: Person, tls: ssl.SSLContext, room_id: str) -> None:
        super().__init__(person, tls, 0.0)
        self._room_id = room_id
        self._parts: list[tuple[str, str] | Gap] = []
        self._paging = PatientClient(person, tls)
        self.received: list[str] = []
        self._since: str = self._sync(None)["next_batch"]

    def act(self) -> None:
        """See Witness."""
        told = self._sync(self._since)
        room = told.get("rooms", {}).get("join", {}).get(self._room_id, {})
        timeline = room.get("timeline", {})
        if timeline.get("limited"):
            self._parts.append(Gap(self._since, timeline["prev_batch"]))
        self._parts += _texts(timeline.get("events", []))
        self.received += [
            event["content"]["name"]
            for event in told.get("to_device", {}).get("events", [])
            if event["type"] == TO_DEVICE_TYPE
        ]
        self._since = told["next_batch"]

    def read(self) -> list[tuple[str, str]]:
        """Text and event ID of what was said, in order, the gaps filled by /messages."""
        story: list[tuple[str, str]] = []
        for part in tuple(self._parts):
            if isinstance(part, Gap):
                story += reversed(_texts(self._page_back(part)))
            else:
                story.append(part)
        return story

    def _sync(self, since: str | None) -> Any:
        query = {"filter": _FILTER} if since is None else {"filter": _FILTER, "since": since}
        return self.client.do("GET", "/sync", timeout=1000, **query)

    def _page_back(self, gap: Gap) -> Sequence[Any]:
        """What /sync left out, newest first."""
        path = f"/rooms/{quote(self._room_id, safe='')}/messages"
        events: list[Any] = []
        at: str | None = gap.prev_batch
        while at is not None:
            query = {"dir": "b", "limit": 100, "to": gap.since, "from": at}
            page = self._paging.do("GET", path, **query)
            events += page["chunk"]
            at = page.get("end")
        return events


class KeyOwner(Witness):
    """Keeps a device supplied with one-time keys; uploads are repeated now and then."""

    def act(self) -> None:
        """See Witness."""
        told = self.client.do("POST", "/keys/upload", {})
        if told["one_time_key_counts"].get(ALGORITHM, 0) > KEYS_AT_ONCE:
            return
        keys = {
            f"{ALGORITHM}:{self.deeds}x{number}": f"key {self.deeds} {number}"
            for number in range(KEYS_AT_ONCE)
        }
        self.client.do("POST", "/keys/upload", {"one_time_keys": keys})
        if self.deeds % REPEATED_EVERY == 0:
            self.client.do("POST", "/keys/upload", {"one_time_keys": keys})


class KeyClaimer(Witness):
    """Claims one-time keys of somebody's device.

    Attributes:
        claimed: the keys that it was given.
    """

    def __init__(self, person: Person, tls: ssl.SSLContext, owner: Person, pause_s: float) -> None:
        super().__init__(person, tls, pause_s)
        self.claimed: list[str] = []
        self._owner = owner
        _, told = owner.ask("GET", "/account/whoami")
        self._device_id = told["device_id"]

    def act(self) -> None:
        """See Witness."""
        wanted = {self._owner.user_id: {self._device_id: ALGORITHM}}
        told = self.client.do("POST", "/keys/claim", {"one_time_keys": wanted})
        devices = told["one_time_keys"].get(self._owner.user_id, {})
        self.claimed += devices.get(self._device_id, {})


def _texts(events: Sequence[Any]) -> list[tuple[str, str]]:
    return [
        (event["content"]["body"], event["event_id"])
        for event in events
        if event["type"] == "m.room.message" and "body" in event["content"]
    ]


@dataclass
class Company:
    """People on two servers in one room, each with a task.

    Attributes:
        room_id: of the room where all of them are.
    """

    room_id: str
    talkers: Sequence[Talker]
    listeners: Sequence[Listener]
    messengers: Sequence[Messenger]
    owner: KeyOwner
    claimers: Sequence[KeyClaimer]
    others: list[Witness] = field(default_factory=list)

    @property
    def witnesses(self) -> Sequence[Witness]:
        """All of them; listeners last."""
        makers = (*self.talkers, *self.messengers, self.owner, *self.claimers, *self.others)
        return (*makers, *self.listeners)

    def check(self) -> None:
        """Raise what went wrong with any of them so far."""
        for witness in self.witnesses:
            witness.check()

    @property
    def acknowledged(self) -> int:
        """Writes that were answered with 200."""
        return sum(
            witness.deeds for witness in self.witnesses if not isinstance(witness, Listener)
        )

    @property
    def repeated(self) -> int:
        """Requests that were not answered and sent again."""
        return sum(witness.client.repeated for witness in self.witnesses)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Company]:
        """All of them, working; at the end the makers stop and the listeners hear the rest."""
        for witness in self.witnesses:
            witness.start()
        try:
            yield self
            for witness in self.witnesses[: -len(self.listeners)]:
                witness.stop()
            for listener in self.listeners:
                self._await_all(listener)
        finally:
            for witness in self.witnesses:
                with contextlib.suppress(Exception):
                    witness.stop()
        self.check()

    def compare_books(self) -> None:
        """Nothing acknowledged is lost, nothing doubled, no one-time key given twice."""
        said = {
            body: event_id for talker in self.talkers for body, event_id in talker.told.items()
        }
        for listener in self.listeners:
            heard = listener.read()
            _assert_once(heard)
            assert not _differences(dict(heard), said), listener.person.user_id
            self._check_order(listener, heard)
            self._check_devices_messages(listener)
            everything = listener.person.messages(self.room_id)
            read = {event["content"]["body"]: event_id for event_id, event in everything.items()}
            assert not _differences(read, said), listener.person.user_id
        _assert_once([key for claimer in self.claimers for key in claimer.claimed])

    def _check_order(self, listener: Listener, story: Sequence[tuple[str, str]]) -> None:
        """What somebody on the same server said stands in its order."""
        for talker in self.talkers:
            if talker.person.server is listener.person.server:
                heard = [body for body, _ in story if body in talker.told]
                assert heard == list(talker.told)

    def _check_devices_messages(self, listener: Listener) -> None:
        expected = [m for m in self.messengers if m.recipient is listener.person]
        _assert_once(listener.received)
        for messenger in expected:
            told = set(messenger.told)
            assert [name for name in listener.received if name in told] == messenger.told
        assert len(listener.received) == sum(len(m.told) for m in expected)

    def _await_all(self, listener: Listener) -> None:
        """Until somebody has heard as much as was said."""
        said = sum(len(talker.told) for talker in self.talkers)
        owed = sum(len(m.told) for m in self.messengers if m.recipient is listener.person)

        def is_complete() -> bool:
            listener.check()
            return len(listener.received) >= owed and len(listener.read()) >= said

        with contextlib.suppress(AssertionError):  # compare_books tells what is missing
            eventually(is_complete, patience_s=PATIENCE_S)


def gather(
    here: Homeserver, there: Homeserver, tls: ssl.SSLContext, *, pace: float = 1.0
) -> Company:
    """A company on two servers; everybody is in the room.

    Args:
        here: where most of them are.
        there: where the others are.
        tls: whom they trust.
        pace: their pauses are so many times as long.
    """
    alice, bob, carol = (here.register() for _ in range(3))
    dora, erik = (there.register() for _ in range(2))
    room_id = alice.create_room(preset="public_chat")
    for person in (bob, carol):
        person.join(room_id)
    for person in (dora, erik):
        person.join(room_id, via=here)
    return Company(
        room_id,
        talkers=[
            Talker(alice, tls, room_id, 0.02 * pace),
            Talker(bob, tls, room_id, 0.02 * pace),
            Talker(dora, tls, room_id, 0.1 * pace),
        ],
        listeners=[Listener(person, tls, room_id) for person in (carol, erik)],
        messengers=[
            Messenger(alice, tls, carol, 0.05 * pace),
            Messenger(dora, tls, carol, 0.2 * pace),
            Messenger(bob, tls, erik, 0.2 * pace),
        ],
        owner=KeyOwner(carol, tls, 0.1 * pace),
        claimers=[
            KeyClaimer(alice, tls, carol, 0.05 * pace),
            KeyClaimer(bob, tls, carol, 0.05 * pace),
            KeyClaimer(dora, tls, carol, 0.3 * pace),
        ],
    )


def wait_for_progress(company: Company, deeds: int, is_over: Callable[[], bool]) -> None:
    """Until so many more writes were acknowledged."""
    wanted = company.acknowledged + deeds

    def has_progressed() -> bool:
        company.check()
        return company.acknowledged >= wanted or is_over()

    eventually(has_progressed, "nothing is acknowledged any more", PATIENCE_S)


def _differences(heard: Mapping[str, str], said: Mapping[str, str]) -> str:
    """What is missing, and what nobody said, in words; empty when there is nothing."""
    missing = [body for body in said if body not in heard]
    others = [body for body in heard if heard[body] != said.get(body)]
    if not missing and not others:
        return ""
    return (
        f"{len(missing)} missing: {missing[:5]} … {missing[-5:]}; {len(others)} more: {others[:5]}"
    )


def _assert_once(things: Sequence[Any]) -> None:
    twice = [thing for thing, times in Counter(things).items() if times > 1]
    assert twice == [], f"{len(twice)} of {len(things)} came twice"
