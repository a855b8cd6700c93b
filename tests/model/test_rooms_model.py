"""What people see of rooms is what a small model says: random deeds over HTTP, two workers.

`ARCHITEX_MODEL_STEPS=50000 pytest -s tests/model` takes as many steps, `ARCHITEX_MODEL_SEED=…`
others; it prints how far it is.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architex.domain.canonical_json import Json
from tests.model.http import Wire, at
from tests.model.rooms import (
    CREATE,
    JOIN_RULES,
    MAIN,
    MEMBER,
    MESSAGE,
    POWER,
    REDACTION,
    UNTHREADED,
    VISIBILITY,
    Event,
    Receipt,
    Room,
)
from tests.model.views import View, check_told, shown
from tests.server import RunningServer, start_server

T = TypeVar("T")

STEPS: Final = int(os.environ.get("ARCHITEX_MODEL_STEPS", "200"))
SEED: Final = int(os.environ.get("ARCHITEX_MODEL_SEED", "1"))
IS_LONG: Final = STEPS > 1000
STEPS_EACH: Final = 200 if IS_LONG else 100
"""In a world of its own: people who know nobody else."""

PEOPLE: Final = 4
MAX_ROOMS: Final = 4
MAX_DEVICES: Final = 3
VISIBILITIES: Final = ("shared", "joined", "invited", "world_readable")
RULES_OF_JOINING: Final = ("public", "public", "invite", "knock")
VERSIONS: Final = ("12", "10", "11")
PRESETS: Final = ("public_chat", "private_chat", "trusted_private_chat")
LIMITS: Final = (1, 3, 10, 100)

ANY: Final = st.integers(0, 4095)

_numbers = itertools.count()
_words = itertools.count()


@dataclass
class Progress:
    """How far all worlds together are."""

    steps: int = 0
    syncs: int = 0
    counted: int = 0
    redacted: int = 0
    begun: float = field(default_factory=time.monotonic)

    def step(self) -> None:
        """One more."""
        self.steps += 1
        if IS_LONG and self.steps % 1000 == 0:
            took = time.monotonic() - self.begun
            print(  # noqa: T201 - long runs tell how far they are
                f"{self.steps} steps, {self.syncs} syncs, {self.counted} rooms with something"
                f" unread, {self.redacted} redactions, {took:.0f} s, seed {SEED}",
                flush=True,
            )


@dataclass(eq=False)
class Device:
    """Somebody logged in.

    Attributes:
        inbox: messages sent to it that it did not confirm.
    """

    user_id: str
    device_id: str
    token: str
    view: View
    inbox: list[Json] = field(default_factory=list)


def pick(among: Sequence[T], number: int) -> T:
    """One of them."""
    return among[number % len(among)]


class Rooms(RuleBasedStateMachine):
    """People, their devices and their rooms: each deed is done at the server and in the model."""

    wire: Wire
    progress: Progress

    @initialize()
    def people_come(self) -> None:
        self.users: dict[str, str | None] = {}
        self.devices: list[Device] = []
        self.rooms: dict[str, Room] = {}
        self.aliases: dict[str, tuple[str, str]] = {}
        self.account_data: dict[str, dict[str, Json]] = {}
        self.room_data: dict[tuple[str, str], dict[str, Json]] = {}
        for _ in range(PEOPLE):
            name = f"u{SEED}x{next(_numbers)}"
            body = {"auth": {"type": "m.login.dummy"}, "username": name, "password": "a b c d e f"}
            status, told = self.wire.request("POST", "/register", body)
            assert status == 200, told
            # What the server gives a new account as a name is its own affair.
            path = at("profile", told["user_id"], "displayname")
            self.wire.request("PUT", path, {"displayname": name}, token=told["access_token"])
            self.users[told["user_id"]] = name
            self.account_data[told["user_id"]] = {}
            self._add_device(told, by_thread=False)
        # Most of what there is to see needs several people in a room.
        self.create_room(0, next(_numbers), 0)
        for number in range(1, PEOPLE):
            self.join(number, 0, 0)

    def _add_device(self, told: Json, *, by_thread: bool) -> Device:
        device = Device(
            told["user_id"],
            told["device_id"],
            told["access_token"],
            View(told["user_id"], by_thread),
        )
        self.devices.append(device)
        return device

    # ---- asking

    def ask(
        self, user_id: str, method: str, path: str, body: Any = None, **query: Any
    ) -> tuple[int, Any]:
        """As whichever device of a user."""
        device = pick([d for d in self.devices if d.user_id == user_id], self.progress.steps)
        return self.wire.request(method, path, body, token=device.token, query=query)

    def do(self, user_id: str, method: str, path: str, body: Any, *, allowed: bool) -> Any:
        """A deed that the model says is allowed or not; None when it is not."""
        self.progress.step()
        status, told = self.ask(user_id, method, path, body)
        if allowed:
            assert status == 200, (method, path, body, status, told)
            return told
        assert (status, told["errcode"]) == (403, "M_FORBIDDEN"), (path, body, status, told)
        return None

    def user(self, number: int) -> str:
        """One of the people."""
        return pick(list(self.users), number)

    def room(self, number: int) -> Room:
        """One of the rooms."""
        return pick(list(self.rooms.values()), number)

    @property
    def has_rooms(self) -> bool:
        """Whether there is a room."""
        return bool(self.rooms)

    def word(self) -> str:
        """A word never said before."""
        return f"word{next(_words)}"

    # ---- rooms

    @precondition(lambda self: len(self.rooms) < MAX_ROOMS)
    @rule(who=ANY, how=ANY, seen=ANY)
    def create_room(self, who: int, how: int, seen: int) -> None:
        self.progress.step()
        user_id, version = self.user(who), pick(VERSIONS, how // 3)
        visibility = {"history_visibility": pick(VISIBILITIES, seen)}
        body = {
            "preset": pick(PRESETS, how % 3) if self.rooms else "public_chat",
            "room_version": version,
            "name": self.word(),
            "initial_state": [{"type": VISIBILITY, "state_key": "", "content": visibility}],
        }
        status, told = self.ask(user_id, "POST", "/createRoom", body)
        assert status == 200, told
        room = self.rooms[told["room_id"]] = Room(told["room_id"], version, user_id)
        # How a room begins is the server's to say.
        path = at("rooms", room.room_id, "messages")
        status, told = self.ask(user_id, "GET", path, dir="f", limit=100)
        for event in told["chunk"]:
            room.append(
                Event(
                    event["sender"],
                    event["type"],
                    event["content"],
                    event["state_key"],
                    event["event_id"],
                )
            )
        assert room.events[0].type == CREATE
        assert room.visibility == visibility["history_visibility"]

    def change_membership(self, room: Room, sender: str, deed: str, target: str, to: str) -> Event:
        """Note that a membership changed, for a reason never given before."""
        content: Json = {"membership": to, "reason": deed}
        if to == "join":
            content["displayname"] = self.users[target]
        return room.append(Event(sender, MEMBER, content, target))

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, by_alias=ANY)
    def join(self, who: int, where: int, by_alias: int) -> None:
        user_id, room, reason = self.user(who), self.room(where), self.word()
        open_rooms = [
            r
            for r in self.rooms.values()
            if r.may_join(user_id) and user_id not in r.members("join")
        ]
        if open_rooms and by_alias % 4:
            room = pick(open_rooms, where)
        allowed, was_joined = room.may_join(user_id), room.membership(user_id) == "join"
        aliases = [
            alias for alias, (room_id, _) in self.aliases.items() if room_id == room.room_id
        ]
        name = pick([room.room_id, *aliases], by_alias)
        path = at("join", name) if by_alias % 2 else at("rooms", room.room_id, "join")
        body = {"reason": reason}
        if self.do(user_id, "POST", path, body, allowed=allowed) and not was_joined:
            self.change_membership(room, user_id, reason, user_id, "join")

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, wavers=ANY)
    def leave(self, who: int, where: int, wavers: int) -> None:
        user_id, room, reason = self.user(who), self.room(where), self.word()
        if wavers % 2 or room.membership(user_id) not in ("join", "invite", "knock"):
            return
        path = at("rooms", room.room_id, "leave")
        self.do(user_id, "POST", path, {"reason": reason}, allowed=True)
        self.change_membership(room, user_id, reason, user_id, "leave")

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY)
    def knock(self, who: int, where: int) -> None:
        user_id, room, reason = self.user(who), self.room(where), self.word()
        if room.membership(user_id) == "knock":
            return
        path = at("knock", room.room_id)
        allowed = room.may_knock(user_id)
        if self.do(user_id, "POST", path, {"reason": reason}, allowed=allowed):
            self.change_membership(room, user_id, reason, user_id, "knock")

    @precondition(lambda self: self.has_rooms)
    @rule(
        who=ANY,
        where=ANY,
        whom=ANY,
        deed=st.sampled_from(["invite", "invite", "unban", "unban", "kick", "ban"]),
    )
    def change_another(self, who: int, where: int, whom: int, deed: str) -> None:
        sender, target, room, reason = (
            self.user(who),
            self.user(whom),
            self.room(where),
            self.word(),
        )
        held = room.membership(target)
        if sender == target:
            return
        if deed == "invite":
            allowed, to = room.may_invite(sender, target), "invite"
            if held == "invite":
                return
        elif deed == "unban":
            allowed, to = room.may_unban(sender, target), "leave"
            if held != "ban":
                return
        else:
            allowed, to = room.may_remove(sender, target, deed), "leave"
            if deed == "ban":
                to = "ban"
            if held == "ban" or (deed == "kick" and held == "leave"):
                return
        path = at("rooms", room.room_id, deed)
        body = {"user_id": target, "reason": reason}
        if self.do(sender, "POST", path, body, allowed=allowed) is not None:
            self.change_membership(room, sender, reason, target, to)

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY)
    def forget(self, who: int, where: int) -> None:
        user_id, room = self.user(who), self.room(where)
        if not room.is_known_to(user_id):
            return
        self.progress.step()
        path = at("rooms", room.room_id, "forget")
        status, told = self.ask(user_id, "POST", path)
        if room.membership(user_id) in ("leave", "ban"):
            assert status == 200, told
            room.forgotten.add(user_id)
        else:
            assert (status, told["errcode"]) == (400, "M_UNKNOWN"), told

    # ---- events

    def say(self, user_id: str, room: Room, content: Json) -> None:
        """Send a message; the same request again makes no second one."""
        path = at("rooms", room.room_id, "send", MESSAGE, self.word())
        device = pick([d for d in self.devices if d.user_id == user_id], self.progress.steps)
        self.progress.step()
        status, told = self.wire.request("PUT", path, content, token=device.token)
        if not room.may_send(user_id, MESSAGE, is_state=False):
            assert (status, told["errcode"]) == (403, "M_FORBIDDEN"), (status, told)
            return
        assert status == 200, told
        room.append(Event(user_id, MESSAGE, content, event_id=told["event_id"]))
        if self.progress.steps % 5 == 0:
            assert self.wire.request("PUT", path, content, token=device.token) == (200, told)

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, whom=ANY, how=st.sampled_from(["text", "text", "notice", "mention"]))
    def send(self, who: int, where: int, whom: int, how: str) -> None:
        content: Json = {"msgtype": "m.text", "body": self.word()}
        if how == "notice":
            content["msgtype"] = "m.notice"
        elif how == "mention":
            content["m.mentions"] = {"user_ids": [self.user(whom)]}
        self.say(self.user(who), self.room(where), content)

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, whom=ANY)
    def send_more(self, who: int, where: int, whom: int) -> None:
        user_id = self.user(who)
        joined = [room for room in self.rooms.values() if room.membership(user_id) == "join"]
        if joined:
            content: Json = {"msgtype": "m.text", "body": self.word()}
            if whom % 3 == 0:
                content["m.mentions"] = {"user_ids": [self.user(whom)]}
            self.say(user_id, pick(joined, where), content)

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, which=ANY)
    def send_in_thread(self, who: int, where: int, which: int) -> None:
        user_id, room = self.user(who), self.room(where)
        roots = [
            e for e in room.visible(user_id)
            if e.type == MESSAGE and e.thread == MAIN and e.redacted_by is None
        ]  # fmt: skip
        if roots and room.membership(user_id) == "join":
            root = roots[-1 - which % min(3, len(roots))]
            relation = {"rel_type": "m.thread", "event_id": root.event_id}
            content = {"msgtype": "m.text", "body": self.word(), "m.relates_to": relation}
            self.say(user_id, room, content)

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, which=ANY)
    def redact(self, who: int, where: int, which: int) -> None:
        user_id = self.user(who)
        joined = [room for room in self.rooms.values() if room.membership(user_id) == "join"]
        if not joined:
            return
        room = pick(joined, where)
        events = [e for e in room.visible(user_id) if e.type == MESSAGE and e.redacted_by is None]
        if which % 4:
            # Those that one surely may.
            events = [event for event in events if room.may_redact(user_id, event)]
        if not events:
            return
        event = pick(events[::-1], which // 4)
        assert event.event_id is not None
        path = at("rooms", room.room_id, "redact", event.event_id, self.word())
        content = {"reason": self.word()}
        told = self.do(user_id, "PUT", path, content, allowed=room.may_redact(user_id, event))
        if told:
            redaction = Event(user_id, REDACTION, content, event_id=told["event_id"])
            event.redacted_by = room.append(redaction)
            self.progress.redacted += 1

    def set_state(self, user_id: str, room: Room, type: str, content: Json, key: str = "") -> None:
        """Set an entry of the state."""
        path = at("rooms", room.room_id, "state", type, key)
        allowed = room.may_send(user_id, type, is_state=True)
        held = room.state.get((type, key))
        if held is not None and held.content == content:
            return
        if told := self.do(user_id, "PUT", path, content, allowed=allowed):
            room.append(Event(user_id, type, content, key, told["event_id"]))

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, what=st.sampled_from(["m.room.name", "m.room.topic", "org.x"]))
    def change_state(self, who: int, where: int, what: str) -> None:
        name = what.removeprefix("m.room.")
        self.set_state(self.user(who), self.room(where), what, {name: self.word()})

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, value=st.sampled_from(VISIBILITIES))
    def change_visibility(self, who: int, where: int, value: str) -> None:
        content = {"history_visibility": value}
        self.set_state(self.user(who), self.room(where), VISIBILITY, content)

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, value=st.sampled_from(RULES_OF_JOINING))
    def change_join_rule(self, who: int, where: int, value: str) -> None:
        self.set_state(self.user(who), self.room(where), JOIN_RULES, {"join_rule": value})

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, whom=ANY, level=st.sampled_from([50, 100, 0, 25]))
    def change_level(self, who: int, where: int, whom: int, level: int) -> None:
        sender, target, room = self.user(who), self.user(whom), self.room(where)
        users = room.power.get("users", {})
        if users.get(target) == level or (room.version == "12" and target == room.creator):
            return
        content = {**room.power, "users": {**users, target: level}}
        path = at("rooms", room.room_id, "state", POWER)
        allowed = room.may_set_level(sender, target, level)
        if told := self.do(sender, "PUT", path, content, allowed=allowed):
            room.append(Event(sender, POWER, content, "", told["event_id"]))

    @rule(who=ANY)
    def change_name(self, who: int) -> None:
        user_id, name = self.user(who), self.word()
        path = at("profile", user_id, "displayname")
        self.do(user_id, "PUT", path, {"displayname": name}, allowed=True)
        self.users[user_id] = name
        for room in self.rooms.values():
            if room.membership(user_id) == "join":
                content = {"membership": "join", "displayname": name}
                room.append(Event(user_id, MEMBER, content, user_id))
        assert self.ask(self.user(who + 1), "GET", path) == (200, {"displayname": name})

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, which=ANY)
    def change_aliases(self, who: int, where: int, which: int) -> None:
        user_id, room = self.user(who), self.room(where)
        own = [alias for alias, (_, owner) in self.aliases.items() if owner == user_id]
        if own and which % 3 == 0:
            alias = pick(own, which)
            self.do(user_id, "DELETE", at("directory", "room", alias), None, allowed=True)
            del self.aliases[alias]
        elif room.membership(user_id) == "join":
            alias = f"#{self.word()}s{SEED}:localhost"
            body = {"room_id": room.room_id}
            self.do(user_id, "PUT", at("directory", "room", alias), body, allowed=True)
            self.aliases[alias] = (room.room_id, user_id)
        for alias, (room_id, _) in self.aliases.items():
            status, told = self.ask(user_id, "GET", at("directory", "room", alias))
            assert (status, told["room_id"]) == (200, room_id)

    # ---- what belongs to people

    @precondition(lambda self: self.has_rooms)
    @rule(
        who=ANY,
        where=ANY,
        which=ANY,
        receipt_type=st.sampled_from(["m.read", "m.read.private"]),
        in_thread=st.booleans(),
    )
    def read(self, who: int, where: int, which: int, receipt_type: str, in_thread: bool) -> None:
        user_id, room = self.user(who), self.room(where)
        if room.membership(user_id) != "join":
            return
        visible = [e for e in room.visible(user_id) if e.event_id is not None]
        event = visible[-1 - which % min(len(visible), 8)]
        if event.redacted_by is not None:
            return
        assert event.event_id is not None
        body = {"thread_id": event.thread} if in_thread else {}
        path = at("rooms", room.room_id, "receipt", receipt_type, event.event_id)
        self.do(user_id, "POST", path, body, allowed=True)
        thread = event.thread if in_thread else UNTHREADED
        room.read(Receipt(user_id, receipt_type, thread, room.events.index(event)))

    @rule(who=ANY, where=ANY, what=st.sampled_from(["org.a", "org.b"]))
    def change_account_data(self, who: int, where: int, what: str) -> None:
        user_id, content = self.user(who), {"is": self.word()}
        path = ["user", user_id, "account_data", what]
        held = self.account_data[user_id]
        if where % 2 and self.rooms:
            room = self.room(where // 2)
            path[2:2] = ["rooms", room.room_id]
            held = self.room_data.setdefault((user_id, room.room_id), {})
        self.do(user_id, "PUT", at(*path), content, allowed=True)
        held[what] = content
        assert self.ask(user_id, "GET", at(*path)) == (200, content)

    @rule(who=ANY, whom=ANY, to_all=st.booleans())
    def send_to_device(self, who: int, whom: int, to_all: bool) -> None:
        sender, target = self.user(who), pick(self.devices, whom)
        content = {"is": self.word()}
        name = "*" if to_all else target.device_id
        body = {"messages": {target.user_id: {name: content}}}
        self.do(sender, "PUT", at("sendToDevice", "org.x", self.word()), body, allowed=True)
        for device in self.devices:
            if device is target or (to_all and device.user_id == target.user_id):
                device.inbox.append(content)

    # ---- devices

    @rule(who=ANY, by_thread=st.booleans())
    def log_in(self, who: int, by_thread: bool) -> None:
        user_id = self.user(who)
        if sum(device.user_id == user_id for device in self.devices) >= MAX_DEVICES:
            return
        self.progress.step()
        identifier = {"type": "m.id.user", "user": user_id}
        body = {"type": "m.login.password", "identifier": identifier, "password": "a b c d e f"}
        status, told = self.wire.request("POST", "/login", body)
        assert status == 200, told
        self._add_device(told, by_thread=by_thread)
        self._check_devices(user_id)

    @rule(which=ANY)
    def log_out(self, which: int) -> None:
        device = pick(self.devices, which)
        if sum(other.user_id == device.user_id for other in self.devices) == 1:
            return
        self.progress.step()
        assert self.wire.request("POST", "/logout", token=device.token) == (200, {})
        self.devices.remove(device)
        for _ in range(2):
            status, told = self.wire.request("GET", "/account/whoami", token=device.token)
            assert (status, told["errcode"]) == (401, "M_UNKNOWN_TOKEN")
        self._check_devices(device.user_id)

    def _check_devices(self, user_id: str) -> None:
        status, told = self.ask(user_id, "GET", "/devices")
        assert status == 200
        known = {device["device_id"] for device in told["devices"]}
        assert known == {d.device_id for d in self.devices if d.user_id == user_id}

    # ---- reading

    @rule(which=ANY, limit=st.sampled_from(LIMITS), how=ANY)
    def sync(self, which: int, limit: int, how: int) -> None:
        self._sync(pick(self.devices, which), limit, how)

    @invariant()
    def somebody_looks(self) -> None:
        steps = self.progress.steps
        if steps % 4 == 0 and self.devices:
            limit, how = pick(LIMITS, steps // 4), steps // 16
            self._sync(pick(self.devices, steps // 4 + steps // 64), limit, how)

    @rule(limit=st.sampled_from(LIMITS), how=ANY)
    def all_sync(self, limit: int, how: int) -> None:
        for number, device in enumerate(self.devices):
            self._sync(device, limit, how + number)

    def _sync(self, device: Device, limit: int, how: int) -> None:
        self.progress.step()
        self.progress.syncs += 1
        timeline = {"limit": limit, "unread_thread_notifications": device.view.by_thread}
        full_state = how % 7 == 1
        query = {
            "filter": json.dumps({"room": {"timeline": timeline}}),
            "set_presence": "offline",
            "full_state": str(full_state).lower(),
        }
        if device.view.since is not None:
            query["since"] = device.view.since
        status, told = self.wire.request("GET", "/sync", token=device.token, query=query)
        assert status == 200, told
        view = copy.copy(device.view)
        view.joined = {room_id: copy.copy(held) for room_id, held in device.view.joined.items()}
        for held in view.joined.values():
            held.state, held.timeline = dict(held.state), list(held.timeline)
            held.receipts, held.summary = dict(held.receipts), dict(held.summary)
            held.account_data = dict(held.account_data)
        view.invited, view.knocked = set(view.invited), set(view.knocked)
        view.account_data = dict(view.account_data)
        view.take_in(told, self.rooms, full_state=full_state)
        view.check(self.rooms, self.account_data[device.user_id])
        self.progress.counted += sum(bool(held.counts) for held in view.joined.values())
        for room_id, held in view.joined.items():
            expected = self.room_data.get((device.user_id, room_id), {})
            assert held.account_data == expected, (held.account_data, expected)
        # What came before with the token that it shows now, is confirmed.
        confirmed = len(device.view.inbox) if device.view.since is not None else 0
        assert view.inbox == device.inbox[confirmed:], (view.inbox, device.inbox)
        device.inbox = device.inbox[confirmed:]
        device.view.inbox = []
        if how % 4 != 3:
            # Otherwise the answer is lost on its way, and the same is asked again.
            device.view = view

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, limit=st.sampled_from(LIMITS), backwards=st.booleans())
    def page_through(self, who: int, where: int, limit: int, backwards: bool) -> None:
        user_id, room = self.user(who), self.room(where)
        may_read = room.may_read(user_id)
        events = self._page(user_id, room, limit, "b" if backwards else "f", may_read=may_read)
        if may_read:
            visible = room.visible(user_id)
            expected = visible[::-1] if backwards else visible
            assert events == expected, shown(events, expected)

    @rule(which=ANY, limit=st.sampled_from(LIMITS))
    def scroll_back(self, which: int, limit: int) -> None:
        device = pick(self.devices, which)
        for room_id, view in device.view.joined.items():
            room = self.rooms[room_id]
            if view.reaches_back is None or not room.may_read(device.user_id):
                continue
            begin = view.reaches_back
            events = self._page(device.user_id, room, limit, "b", begin, may_read=True)
            visible = room.visible(device.user_id)
            before = visible[: visible.index(view.timeline[0])] if view.timeline else visible
            assert events == before[::-1], shown(events, before[::-1])

    def _page(
        self,
        user_id: str,
        room: Room,
        limit: int,
        direction: str,
        begin: str | None = None,
        *,
        may_read: bool,
    ) -> list[Event]:
        self.progress.step()
        events: list[Event] = []
        for _ in range(100):
            query: Json = {"dir": direction, "limit": max(limit, 3)}
            if begin is not None:
                query["from"] = begin
            path = at("rooms", room.room_id, "messages")
            status, told = self.ask(user_id, "GET", path, **query)
            if not may_read:
                assert (status, told["errcode"]) == (403, "M_FORBIDDEN"), (status, told)
                return []
            assert status == 200, told
            events += [check_told(room, user_id, event) for event in told["chunk"]]
            begin = told.get("end")
            if begin is None or (direction == "f" and not told["chunk"]):
                return events
        raise AssertionError("no end of pages")

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY)
    def read_state(self, who: int, where: int) -> None:
        self.progress.step()
        user_id, room = self.user(who), self.room(where)
        expected = room.state_for(user_id)
        for name in ("state", "members"):
            status, told = self.ask(user_id, "GET", at("rooms", room.room_id, name))
            if expected is None:
                assert (status, told["errcode"]) == (403, "M_FORBIDDEN"), (name, status, told)
                continue
            assert status == 200, (name, told)
            events = [
                check_told(room, user_id, event)
                for event in (told if name == "state" else told["chunk"])
            ]
            found = {event.key: event for event in events}
            wanted = {
                key: event
                for key, event in expected.items()
                if name == "state" or key[0] == MEMBER
            }
            assert found == wanted, (name, found, wanted)
        status, told = self.ask(user_id, "GET", at("rooms", room.room_id, "joined_members"))
        if room.membership(user_id) == "join":
            names = {user: told["joined"][user]["display_name"] for user in told["joined"]}
            assert names == {user: self.users[user] for user in room.members("join")}
        else:
            assert (status, told["errcode"]) == (403, "M_FORBIDDEN")

    @precondition(lambda self: self.has_rooms)
    @rule(who=ANY, where=ANY, which=ANY)
    def read_event(self, who: int, where: int, which: int) -> None:
        self.progress.step()
        user_id, room = self.user(who), self.room(where)
        index = len(room.events) - 1 - which % min(len(room.events), 16)
        event = room.events[index]
        if event.event_id is None:
            return
        is_seen = room.may_read(user_id) and room.is_visible(user_id, index)
        for name in ("event", "context"):
            path = at("rooms", room.room_id, name, event.event_id)
            status, told = self.ask(user_id, "GET", path)
            if is_seen:
                assert status == 200, told
                assert check_told(room, user_id, told if name == "event" else told["event"])
            else:
                assert status in (403, 404), (name, event, told)

    @rule(who=ANY)
    def list_joined_rooms(self, who: int) -> None:
        self.progress.step()
        user_id = self.user(who)
        status, told = self.ask(user_id, "GET", "/joined_rooms")
        assert status == 200
        expected = {r.room_id for r in self.rooms.values() if r.membership(user_id) == "join"}
        assert set(told["joined_rooms"]) == expected

    def teardown(self) -> None:
        """At the end, each device learns what it does not know yet."""
        if sys.exc_info()[0] is not None:
            return
        for device in self.devices:
            self._sync(device, 10, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory: Path = tmp_path_factory.mktemp("model")
    with start_server(directory, web_workers=2) as running:
        yield running


def test_what_people_see_is_what_the_model_says(server: RunningServer) -> None:
    wire, progress = Wire(server.url), Progress()
    machine = type("People", (Rooms,), {"wire": wire, "progress": progress})
    chosen = settings(
        max_examples=3,
        stateful_step_count=STEPS_EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        for number in itertools.count(SEED * 1_000_000):
            seed(number)(machine)
            run_state_machine_as_test(machine, settings=chosen)
            if progress.steps >= STEPS:
                break
    finally:
        wire.close()
