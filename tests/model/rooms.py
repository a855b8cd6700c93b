"""A small model of rooms, written from the specification: who may do what, and who sees what.

Everything happens at one server and one after the other, so a room is a list of events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]
Key = tuple[str, str]

CREATE: Final = "m.room.create"
MEMBER: Final = "m.room.member"
POWER: Final = "m.room.power_levels"
VISIBILITY: Final = "m.room.history_visibility"
JOIN_RULES: Final = "m.room.join_rules"
MESSAGE: Final = "m.room.message"
REDACTION: Final = "m.room.redaction"

INFINITE: Final = 2**60
"""The power of creators since version 12."""

UNTHREADED: Final = ""
MAIN: Final = "main"


@dataclass(eq=False)
class Event:
    """An event of a room.

    Attributes:
        event_id: None until an answer told it; what it says tells events apart until then.
        state_key: None for what is no state.
        redacted_by: the event that redacted it.
    """

    sender: str
    type: str
    content: Json
    state_key: str | None = None
    event_id: str | None = None
    redacted_by: Event | None = None

    @property
    def key(self) -> Key | None:
        """Its place in the state."""
        return None if self.state_key is None else (self.type, self.state_key)

    @property
    def thread(self) -> str:
        """The root of its thread, or MAIN. (Redacted or not: it stays where it was.)"""
        relation = self.content.get("m.relates_to", {})
        is_threaded = relation.get("rel_type") == "m.thread"
        return str(relation["event_id"]) if is_threaded else MAIN

    @property
    def shown_content(self) -> Json:
        """What is left of its content."""
        return self.content if self.redacted_by is None else {}

    def is_told_by(self, told: Mapping[str, Any]) -> bool:
        """Whether this is the event that an answer tells."""
        if self.event_id is not None:
            return bool(told["event_id"] == self.event_id)
        same = (told["sender"], told["type"], told.get("state_key"))
        if same != (self.sender, self.type, self.state_key):
            return False
        # Every change of a membership has a reason of its own, every profile a name.
        return all(told["content"].get(key) == value for key, value in self.content.items())

    def __repr__(self) -> str:
        return f"{self.type}({self.sender}, {self.state_key}, {self.content}, {self.event_id})"


@dataclass(frozen=True)
class Receipt:
    """How far somebody has read: up to the event at an index."""

    user_id: str
    receipt_type: str
    thread: str
    index: int


@dataclass(eq=False)
class Room:
    """A room.

    Attributes:
        events: all that happened, in order.
        receipts: (user, type, thread) → how far.
        forgotten: who forgot the room, and did not join since.
    """

    room_id: str
    version: str
    creator: str
    events: list[Event] = field(default_factory=list)
    state: dict[Key, Event] = field(default_factory=dict)
    receipts: dict[tuple[str, str, str], Receipt] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    # For each event, (history visibility, memberships) before it.
    _before: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    _joins: dict[str, list[int]] = field(default_factory=dict)
    _members: Mapping[str, str] = field(default_factory=dict)

    def append(self, event: Event) -> Event:
        """Something happens."""
        self._before.append((self.visibility, self._members))
        self.events.append(event)
        if event.key is not None:
            self.state[event.key] = event
        if event.type == MEMBER and event.state_key is not None:
            membership = event.content["membership"]
            self._members = {**self._members, event.state_key: membership}
            if membership == "join":
                self._joins.setdefault(event.state_key, []).append(len(self.events) - 1)
                self.forgotten.discard(event.state_key)
        return event

    # ---- the state

    @property
    def visibility(self) -> str:
        """The history visibility now."""
        event = self.state.get((VISIBILITY, ""))
        return "shared" if event is None else str(event.content["history_visibility"])

    @property
    def join_rule(self) -> str:
        """Who may join now."""
        event = self.state.get((JOIN_RULES, ""))
        return "invite" if event is None else str(event.content["join_rule"])

    def membership(self, user_id: str) -> str:
        """Of a user, now."""
        return self._members.get(user_id, "leave")

    def is_known_to(self, user_id: str) -> bool:
        """Whether the user has a membership at all."""
        return user_id in self._members

    def members(self, *memberships: str) -> list[str]:
        """Who has one of these memberships now."""
        return [user for user, held in self._members.items() if held in memberships]

    def was_joined(self, user_id: str) -> bool:
        """Whether the user ever was in the room."""
        return user_id in self._joins

    # ---- who may do what

    @property
    def power(self) -> Json:
        """The power levels now."""
        return self.state[POWER, ""].content

    def level(self, user_id: str) -> int:
        """The power of a user."""
        if user_id == self.creator and self.version == "12":
            return INFINITE
        return int(self.power.get("users", {}).get(user_id, self.power.get("users_default", 0)))

    def needed(self, type: str, *, is_state: bool) -> int:
        """The power it takes to send events of a type."""
        name, default = ("state_default", 50) if is_state else ("events_default", 0)
        return int(self.power.get("events", {}).get(type, self.power.get(name, default)))

    def may_send(self, user_id: str, type: str, *, is_state: bool) -> bool:
        """Whether the user may send such an event."""
        is_joined = self.membership(user_id) == "join"
        return is_joined and self.level(user_id) >= self.needed(type, is_state=is_state)

    def may_invite(self, sender: str, target: str) -> bool:
        """Whether one may invite the other."""
        return (
            self.membership(sender) == "join"
            and self.membership(target) not in ("join", "ban")
            and self.level(sender) >= self.power.get("invite", 0)
        )

    def may_join(self, user_id: str) -> bool:
        """Whether the user may join."""
        held = self.membership(user_id)
        return held in ("join", "invite") or (held != "ban" and self.join_rule == "public")

    def may_knock(self, user_id: str) -> bool:
        """Whether the user may knock."""
        return self.join_rule == "knock" and self.membership(user_id) in ("leave", "knock")

    def may_remove(self, sender: str, target: str, deed: str) -> bool:
        """Whether one may kick or ban the other, who is there or at least known."""
        return (
            self.membership(sender) == "join"
            and self.level(sender) >= self.power.get(deed, 50)
            and self.level(target) < self.level(sender)
        )

    def may_unban(self, sender: str, target: str) -> bool:
        """Whether one may take back that the other is banned."""
        return self.may_remove(sender, target, "kick") and (
            self.level(sender) >= self.power.get("ban", 50)
        )

    def may_redact(self, user_id: str, event: Event) -> bool:
        """Whether the user may redact an event."""
        return self.may_send(user_id, REDACTION, is_state=False) and (
            event.sender == user_id or self.level(user_id) >= self.power.get("redact", 50)
        )

    def may_set_level(self, sender: str, target: str, level: int) -> bool:
        """Whether one may give the other a power level."""
        own = self.level(sender)
        users = self.power.get("users", {})
        return (
            self.may_send(sender, POWER, is_state=True)
            and level <= own
            and (target not in users or target == sender or users[target] < own)
        )

    # ---- who sees what

    def is_visible(self, user_id: str, index: int) -> bool:
        """Whether the user may see an event: by the state before it, or after it where it changes
        just that.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
        """
        event = self.events[index]
        visibility, members = self._before[index]
        membership = members.get(user_id, "leave")
        joins_later = any(joined > index for joined in self._joins.get(user_id, ()))
        visibilities, memberships = [visibility], [membership]
        if event.key == (VISIBILITY, ""):
            visibilities.append(event.content["history_visibility"])
        if event.key == (MEMBER, user_id):
            memberships.append(event.content["membership"])
        return any(
            _is_allowed(v, m, joins_later=joins_later) for v in visibilities for m in memberships
        )

    def visible(self, user_id: str) -> list[Event]:
        """What the user may see, in order."""
        return [
            event for index, event in enumerate(self.events) if self.is_visible(user_id, index)
        ]

    def may_read(self, user_id: str) -> bool:
        """Whether the room can be read by the user at all."""
        if self.visibility == "world_readable" or self.membership(user_id) == "join":
            return True
        return self.was_joined(user_id) and user_id not in self.forgotten

    def state_for(self, user_id: str) -> dict[Key, Event] | None:
        """The state as the user sees it: now, or as of when they left; None where that is open."""
        if self.membership(user_id) == "join":
            return self.state
        if not self.was_joined(user_id) or user_id in self.forgotten:
            return self.state if self.visibility == "world_readable" else None
        return self.state_when_left(user_id)

    def state_when_left(self, user_id: str) -> dict[Key, Event]:
        """The state as of when the user left; nothing when they never were in the room."""
        return self._state_at(self._left_at(user_id)) if self.was_joined(user_id) else {}

    def membership_at(self, user_id: str, event: Event) -> str:
        """The user's membership at an event, its own change included."""
        if event.key == (MEMBER, user_id):
            return str(event.content["membership"])
        return self._before[self.events.index(event)][1].get(user_id, "leave")

    def _left_at(self, user_id: str) -> int:
        """The index of the event by which the user last left."""
        last_join = self._joins[user_id][-1]
        for index in range(last_join + 1, len(self.events)):
            event = self.events[index]
            if event.key == (MEMBER, user_id) and event.content["membership"] != "join":
                return index
        raise AssertionError("they did not leave")

    def _state_at(self, index: int) -> dict[Key, Event]:
        return {e.key: e for e in self.events[: index + 1] if e.key is not None}

    # ---- what was read

    def read(self, receipt: Receipt) -> bool:
        """Somebody reads up to an event; a receipt never goes back. Whether it changed."""
        key = (receipt.user_id, receipt.receipt_type, receipt.thread)
        held = self.receipts.get(key)
        if held is not None and held.index >= receipt.index:
            return False
        self.receipts[key] = receipt
        return True

    def unread(self, user_id: str) -> dict[str, tuple[int, int]]:
        """Thread → how many events notify the user, and how many highlight."""
        begin = self._stay_since(user_id)
        counts: dict[str, tuple[int, int]] = {}
        for index in range(begin + 1, len(self.events)):
            event = self.events[index]
            notifies, highlights = _notifies(event, user_id)
            if not notifies or index <= self._read_up_to(user_id, event.thread):
                continue
            told = counts.get(event.thread, (0, 0))
            counts[event.thread] = (told[0] + 1, told[1] + highlights)
        return counts

    def _stay_since(self, user_id: str) -> int:
        joined = self._joins[user_id]
        since = joined[-1]
        for index in reversed(joined):
            # A profile that changes in between is no new stay.
            if self._before[index][1].get(user_id) != "join":
                since = index
                break
        return since

    def _read_up_to(self, user_id: str, thread: str) -> int:
        receipts = [
            r.index
            for r in self.receipts.values()
            if r.user_id == user_id and r.thread in (UNTHREADED, thread)
        ]
        # Who speaks has read what was said before.
        spoken = [
            index
            for index, event in enumerate(self.events)
            if event.sender == user_id and event.thread == thread and event.type == MESSAGE
        ]
        return max([-1, *receipts, *spoken])


def _is_allowed(visibility: str, membership: str, *, joins_later: bool) -> bool:
    if visibility == "world_readable" or membership == "join":
        return True
    if visibility == "shared":
        return joins_later
    return visibility == "invited" and membership == "invite"


def _notifies(event: Event, user_id: str) -> tuple[bool, bool]:
    """By the default push rules, for the few kinds of events that the model has."""
    if event.sender == user_id or event.redacted_by is not None or event.type != MESSAGE:
        return False, False
    if event.content["msgtype"] == "m.notice":
        return False, False
    return True, user_id in event.content.get("m.mentions", {}).get("user_ids", ())


def subset(small: Mapping[str, Any], large: Mapping[str, Any]) -> bool:
    """Whether everything of one is in the other."""
    return all(key in large and large[key] == value for key, value in small.items())


def is_suffix(part: Sequence[Event], whole: Sequence[Event]) -> bool:
    """Whether a part is the end of the whole."""
    return not part or list(part) == list(whole[-len(part) :])


def find_told(told: Mapping[str, Any], events: Iterable[Event]) -> Event | None:
    """The event that an answer tells; remembers its ID."""
    for event in events:
        if event.is_told_by(told):
            event.event_id = told["event_id"]
            return event
    return None
