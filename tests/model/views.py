"""What a client makes of the /sync responses of one device, held against the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from architex.domain.canonical_json import Json
from tests.model.rooms import (
    MAIN,
    MEMBER,
    REDACTION,
    UNTHREADED,
    Event,
    Key,
    Room,
    find_told,
    is_suffix,
    subset,
)


@dataclass
class RoomView:
    """A joined room, as a device knows it.

    Attributes:
        timeline: the newest events, without gaps.
        counts: thread → (notifications, highlights).
        receipts: (user, type, thread) → event ID.
        reaches_back: the token for what was before the timeline.
    """

    state: dict[Key, Event] = field(default_factory=dict)
    timeline: list[Event] = field(default_factory=list)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    receipts: dict[tuple[str, str, str], str] = field(default_factory=dict)
    account_data: dict[str, Json] = field(default_factory=dict)
    summary: dict[str, int] = field(default_factory=dict)
    reaches_back: str | None = None


@dataclass
class View:
    """What a device knows after its syncs.

    Attributes:
        since: the token of the last one.
        inbox: the messages to the device that came with the last sync.
        by_thread: whether unread events are counted by thread.
    """

    user_id: str
    by_thread: bool = False
    since: str | None = None
    joined: dict[str, RoomView] = field(default_factory=dict)
    invited: set[str] = field(default_factory=set)
    knocked: set[str] = field(default_factory=set)
    account_data: dict[str, Json] = field(default_factory=dict)
    inbox: list[Json] = field(default_factory=list)

    def take_in(
        self, told: Mapping[str, Any], rooms: Mapping[str, Room], *, full_state: bool
    ) -> None:
        """Take a response in; checks what it says of itself, and what it says of the past."""
        is_first = self.since is None
        self.since = told["next_batch"]
        self.inbox = [event["content"] for event in told.get("to_device", {}).get("events", ())]
        for event in told.get("account_data", {}).get("events", ()):
            self.account_data[event["type"]] = event["content"]
        sections = told.get("rooms", {})
        for room_id, section in sections.get("leave", {}).items():
            self._take_in_left(rooms[room_id], section)
        for kind, held in (("invite", self.invited), ("knock", self.knocked)):
            for room_id, section in sections.get(kind, {}).items():
                self._forget(room_id)
                held.add(room_id)
                self._check_stripped(rooms[room_id], section[f"{kind}_state"]["events"], kind)
        for room_id, section in sections.get("join", {}).items():
            self.invited.discard(room_id)
            self.knocked.discard(room_id)
            is_new = room_id not in self.joined
            view = self.joined.setdefault(room_id, RoomView())
            self._take_in_joined(view, rooms[room_id], section, is_whole=is_new or full_state)
        if is_first:
            assert not sections.get("leave"), "rooms left before the first sync are not asked for"

    # ---- within

    def _forget(self, room_id: str) -> None:
        self.joined.pop(room_id, None)
        self.invited.discard(room_id)
        self.knocked.discard(room_id)

    def _take_in_left(self, room: Room, section: Mapping[str, Any]) -> None:
        was_joined = room.room_id in self.joined
        self._forget(room.room_id)
        events = self._known(room, section["timeline"]["events"])
        visible = room.visible(self.user_id)
        left_with = room.state_when_left(self.user_id)
        for event in events:
            # One's own leaving is told to whoever may see nothing else.
            assert (
                event in visible
                or event.key == (MEMBER, self.user_id)
                or left_with.get(event.key or ("", "")) is event
            ), event
        self._check_order([event for event in events if event in visible], visible)
        if was_joined:
            own = [event for event in events if event.key == (MEMBER, self.user_id)]
            assert own, "the timeline of a room that was left does not tell of leaving"
            assert own[-1].content["membership"] in ("leave", "ban"), own

    def _take_in_joined(
        self, view: RoomView, room: Room, section: Mapping[str, Any], *, is_whole: bool
    ) -> None:
        state = self._known(room, section.get("state", {}).get("events", ()))
        timeline = section.get("timeline", {"events": []})
        events = self._known(room, timeline["events"])
        assert not set(events) & set(view.timeline), "told twice"
        if is_whole:
            view.state = {}
        for event in (*state, *events):
            if event.key is not None:
                view.state[event.key] = event
        if timeline.get("limited"):
            view.timeline = []
        if not view.timeline:
            view.reaches_back = timeline.get("prev_batch")
        visible = room.visible(self.user_id)
        for event in events:
            # State that was set where the user may not look is told where it stands.
            assert event in visible or room.state.get(event.key or ("", "")) is event, event
        view.timeline += [event for event in events if event in visible]
        for told in section.get("ephemeral", {}).get("events", ()):
            if told["type"] == "m.receipt":
                self._take_in_receipts(view, told["content"])
        for told in section.get("account_data", {}).get("events", ()):
            view.account_data[told["type"]] = told["content"]
        if "unread_notifications" in section:
            threads = section.get("unread_thread_notifications", {})
            counted = {MAIN: section["unread_notifications"], **threads}
            view.counts = {
                thread: (count["notification_count"], count["highlight_count"])
                for thread, count in counted.items()
                if count["notification_count"]
            }
        view.summary |= {
            name: count for name, count in section.get("summary", {}).items() if name != "m.heroes"
        }

    def _take_in_receipts(self, view: RoomView, content: Mapping[str, Any]) -> None:
        for event_id, types in content.items():
            for receipt_type, users in types.items():
                for user_id, receipt in users.items():
                    key = (user_id, receipt_type, receipt.get("thread_id", UNTHREADED))
                    view.receipts[key] = event_id

    def _known(self, room: Room, told: Sequence[Mapping[str, Any]]) -> list[Event]:
        return [check_told(room, self.user_id, event) for event in told]

    def _check_order(self, events: Sequence[Event], visible: Sequence[Event]) -> None:
        places = [visible.index(event) for event in events]
        assert places == sorted(places), "events in another order"
        assert places == list(range(places[0], places[0] + len(places))) if places else True, (
            "a gap in a timeline"
        )

    def _check_stripped(
        self, room: Room, events: Sequence[Mapping[str, Any]], membership: str
    ) -> None:
        told = {(event["type"], event["state_key"]): event for event in events}
        assert ("m.room.create", "") in told
        own = told[MEMBER, self.user_id]
        assert own["content"]["membership"] == membership
        assert own["content"] == {**own["content"], **self._own_event(room, membership)}

    def _own_event(self, room: Room, membership: str) -> Json:
        event = room.state[MEMBER, self.user_id]
        return event.content if event.content["membership"] == membership else {}

    # ---- against the model

    def check(self, rooms: Mapping[str, Room], account_data: Mapping[str, Json]) -> None:
        """Fail unless the device knows what the model does."""
        held = {room_id: room.membership(self.user_id) for room_id, room in rooms.items()}
        for membership, known in (
            ("join", set(self.joined)),
            ("invite", self.invited),
            ("knock", self.knocked),
        ):
            expected = {room_id for room_id, m in held.items() if m == membership}
            assert known == expected, (membership, known, expected)
        assert subset(account_data, self.account_data), (account_data, self.account_data)
        for room_id, view in self.joined.items():
            self._check_room(view, rooms[room_id])

    def _check_room(self, view: RoomView, room: Room) -> None:
        assert view.state == room.state, _difference(view.state, room.state)
        visible = room.visible(self.user_id)
        assert is_suffix(view.timeline, visible), shown(view.timeline, visible)
        unread = room.unread(self.user_id)
        if not self.by_thread and unread:
            notifying, highlighting = zip(*unread.values(), strict=True)
            unread = {MAIN: (sum(notifying), sum(highlighting))}
        assert view.counts == unread, (view.counts, unread)
        receipts = {
            key: room.events[receipt.index].event_id
            for key, receipt in room.receipts.items()
            if self._is_told_of(receipt.receipt_type, receipt.user_id)
        }
        assert view.receipts == receipts, (view.receipts, receipts)
        expected = {
            "m.joined_member_count": len(room.members("join")),
            "m.invited_member_count": len(room.members("invite")),
        }
        assert view.summary == expected, (view.summary, expected)

    def _is_told_of(self, receipt_type: str, user_id: str) -> bool:
        return receipt_type == "m.read" or user_id == self.user_id


def check_told(room: Room, user_id: str, told: Mapping[str, Any]) -> Event:
    """The event that an answer tells to a user; fails where it tells it otherwise."""
    event = find_told(told, room.events)
    assert event is not None, f"the model has no such event: {told}"
    content = event.shown_content
    check: Callable[[], bool] = (
        (lambda: subset(content, told["content"]))
        if event.type in (MEMBER, REDACTION)
        else (lambda: content == told["content"])
    )
    assert check(), (content, told)
    assert told["sender"] == event.sender
    assert told.get("state_key") == event.state_key
    unsigned = told.get("unsigned", {})
    assert ("redacted_because" in unsigned) == (event.redacted_by is not None), told
    if "membership" in unsigned:
        assert unsigned["membership"] == room.membership_at(user_id, event), told
    return event


def shown(told: Sequence[Event], expected: Sequence[Event]) -> str:
    """Two lists of events, one below the other."""
    lines = ["", "told:", *map(repr, told[-20:]), "expected:", *map(repr, expected[-20:])]
    return "\n".join(line[:200] for line in lines)


def _difference(known: Mapping[Key, Event], expected: Mapping[Key, Event]) -> Any:
    keys = {*known, *expected}
    return {
        key: (known.get(key), expected.get(key))
        for key in keys
        if known.get(key) is not expected.get(key)
    }
