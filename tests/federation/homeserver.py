"""Homeservers over HTTPS, whichever program they are, and people who have accounts there."""

from __future__ import annotations

import itertools
import json
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.federation.authority import Authority
from tests.ports import free_port
from tests.server import RunningServer, send_request, start_server
from tests.waiting import PATIENCE_S, eventually

PASSWORD = "correct horse battery staple"
_numbers = itertools.count(1)


class Homeserver(ABC):
    """A homeserver named by its address and port.

    Attributes:
        name: the server name.
        url: without a slash at the end.
    """

    def __init__(self, name: str, ca_file: Path) -> None:
        self.name = name
        self.url = f"https://{name}"
        self._tls = ssl.create_default_context(cafile=ca_file)

    @abstractmethod
    def start(self) -> None:
        """Start it (again) on the same data; returns when it serves."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it; it can be started again."""

    @abstractmethod
    def kill9(self) -> None:
        """Kill it, as a power failure would."""

    @abstractmethod
    def log(self) -> str:
        """What it wrote so far."""

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
    ) -> tuple[int, Any]:
        """One request; gives the status and the JSON. Raises OSError when there is no answer."""
        status, _, content = send_request(
            method, self.url + path, body, token=token, timeout_s=timeout_s, tls=self._tls
        )
        return status, _parse(content)

    def register(self, name: str | None = None) -> Person:
        """A new user, logged in."""
        username = name or f"user{next(_numbers)}"
        body = {
            "auth": {"type": "m.login.dummy"},
            "username": username,
            "password": PASSWORD,
        }
        status, told = self.request("POST", "/_matrix/client/v3/register", body)
        assert status == 200, told
        return Person(self, told["user_id"], told["access_token"])


class Architex(Homeserver):
    """An `architex serve` with two web workers."""

    def __init__(self, running: RunningServer, name: str, ca_file: Path) -> None:
        super().__init__(name, ca_file)
        self.running = running

    def start(self) -> None:
        """See Homeserver."""
        self.running.start()

    def stop(self) -> None:
        """See Homeserver."""
        self.running.stop()

    def kill9(self) -> None:
        """See Homeserver."""
        self.running.kill9()

    def log(self) -> str:
        """See Homeserver."""
        return self.running.log()


@contextmanager
def architex(
    directory: Path, authority: Authority, *, web_workers: int = 2, **config: Any
) -> Iterator[Architex]:
    """A server of ours, started; `config` as for `start_server`."""
    certificate = authority.issue("127.0.0.1")
    port = free_port()
    name = f"127.0.0.1:{port}"
    listener = {
        "host": "127.0.0.1",
        "port": port,
        "tls_certificate": certificate.certificate,
        "tls_key": certificate.key,
    }
    with start_server(
        directory,
        web_workers=web_workers,
        ca_file=authority.ca_file,
        server_name=name,
        listeners=[listener],
        federation={"ca_file": authority.ca_file, "ip_blocklist": []},
        **config,
    ) as running:
        yield Architex(running, name, authority.ca_file)


@dataclass
class Person:
    """Somebody with an account."""

    server: Homeserver
    user_id: str
    token: str
    txn_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # ---- requests

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, Any]:
        """One request below /_matrix/client/v3: status and JSON."""
        uri = "/_matrix/client/v3" + path
        if query:
            uri += ("&" if "?" in uri else "?") + urlencode(query, doseq=True)
        return self.server.request(method, uri, body, token=self.token)

    def do(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """As `ask`, of what must succeed; gives the JSON."""
        status, told = self.ask(method, path, body, **query)
        assert status == 200, (self.user_id, method, path, status, told)
        return told

    # ---- rooms

    def create_room(self, **options: Any) -> str:
        """A new room; its ID."""
        room_id: str = self.do("POST", "/createRoom", options)["room_id"]
        return room_id

    def join(self, room: str, via: Homeserver | None = None) -> None:
        """Join by ID or alias."""
        query = {} if via is None else {"via": via.name, "server_name": via.name}
        self.do("POST", f"/join/{quote(room, safe='')}", {}, **query)

    def knock(self, room: str, via: Homeserver) -> None:
        """Knock."""
        query = {"via": via.name, "server_name": via.name}
        self.do("POST", f"/knock/{quote(room, safe='')}", {"reason": "Hello"}, **query)

    def act(self, room_id: str, deed: str, whom: Person | None = None) -> None:
        """Leave; invite, kick, ban, unban somebody."""
        body = {} if whom is None else {"user_id": whom.user_id}
        self.do("POST", f"/rooms/{quote(room_id, safe='')}/{deed}", body)

    def send(self, room_id: str, body: str) -> str:
        """Send a text; gives the event ID."""
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{next(self.txn_ids)}"
        event_id: str = self.do("PUT", path, {"msgtype": "m.text", "body": body})["event_id"]
        return event_id

    def redact(self, room_id: str, event_id: str) -> str:
        """Redact; gives the redaction's event ID."""
        room, event = quote(room_id, safe=""), quote(event_id, safe="")
        told = self.do("PUT", f"/rooms/{room}/redact/{event}/{next(self.txn_ids)}", {})
        redaction_id: str = told["event_id"]
        return redaction_id

    def set_state(self, room_id: str, type: str, content: Any, state_key: str = "") -> str:
        """Change an entry of the state; gives the event ID."""
        path = f"/rooms/{quote(room_id, safe='')}/state/{type}/{quote(state_key, safe='')}"
        event_id: str = self.do("PUT", path, content)["event_id"]
        return event_id

    def state(self, room_id: str) -> Mapping[tuple[str, str], Any]:
        """(type, state key) → the whole event, without what differs between servers."""
        events = self.do("GET", f"/rooms/{quote(room_id, safe='')}/state")
        return {(event["type"], event["state_key"]): event for event in events}

    def state_ids(self, room_id: str) -> Mapping[tuple[str, str], str]:
        """(type, state key) → event ID."""
        return {key: event["event_id"] for key, event in self.state(room_id).items()}

    def membership(self, room_id: str, whom: Person) -> str | None:
        """Somebody's membership; None when there is none, or we may not know."""
        path = f"/rooms/{quote(room_id, safe='')}/state/m.room.member/{quote(whom.user_id)}"
        status, told = self.ask("GET", path)
        return told.get("membership") if status == 200 else None

    def messages(self, room_id: str) -> Mapping[str, Any]:
        """Every message back to the room's beginning: event ID → event."""
        found: dict[str, Any] = {}
        query: dict[str, Any] = {"dir": "b", "limit": 100}
        for _ in range(1000):
            page = self.do("GET", f"/rooms/{quote(room_id, safe='')}/messages", **query)
            for event in page["chunk"]:
                if event["type"] == "m.room.message":
                    found[event["event_id"]] = event
            # The same again: there is more, and nobody has it.
            if page.get("end") in (None, page["start"]):
                return found
            query["from"] = page["end"]
        raise AssertionError("history has no beginning")

    def await_membership(self, room_id: str, whom: Person, membership: str) -> None:
        """Return when this person sees it."""
        eventually(
            lambda: self.membership(room_id, whom) == membership,
            f"{self.user_id} does not see that {whom.user_id} is at {membership}",
        )

    def await_messages(
        self,
        room_id: str,
        enough: Callable[[Mapping[str, Any]], bool],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Return when the messages this person can read are `enough`."""
        deadline = time.monotonic() + patience_s
        while not enough(seen := self.messages(room_id)):
            assert time.monotonic() < deadline, f"{self.user_id} sees {len(seen)} messages"
            time.sleep(0.2)

    def sync(self, since: str | None = None, **query: Any) -> Any:
        """One /sync."""
        if since is not None:
            query["since"] = since
        return self.do("GET", "/sync", **{"timeout": 0, **query})

    def room_sections(self, section: str) -> set[str]:
        """The rooms in a section of a first /sync: join, invite, knock, leave."""
        return set(self.sync().get("rooms", {}).get(section, {}))


def until_same(
    look: Callable[[Person], Any], one: Person, other: Person, patience_s: float = PATIENCE_S
) -> Any:
    """What both see once it is the same; AssertionError with the difference after too long."""
    deadline = time.monotonic() + patience_s
    while True:
        seen, seen_elsewhere = look(one), look(other)
        if seen == seen_elsewhere:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(_difference(seen, seen_elsewhere))
        time.sleep(0.2)


def assert_same_room(
    room_id: str, one: Person, other: Person, patience_s: float = PATIENCE_S
) -> None:
    """Both see the same state and the same messages."""
    until_same(lambda person: dict(person.state_ids(room_id)), one, other, patience_s)
    until_same(lambda person: _bodies(person.messages(room_id)), one, other, patience_s)


def _bodies(messages: Mapping[str, Any]) -> dict[str, Any]:
    return {event_id: event["content"].get("body") for event_id, event in messages.items()}


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
        rows = [f"{key}: {one.get(key)} / {other.get(key)}" for key in sorted(keys, key=str)]
        return f"{len(keys)} differ: " + "; ".join(rows[:20])
    return f"{one} / {other}"


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return {"not json": body[:500].decode(errors="replace")}
