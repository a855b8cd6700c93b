"""Filters: which events, and which parts of them, a client wants to be sent.

Spec: https://spec.matrix.org/v1.19/client-server-api/#filtering
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from architex.domain.errors import BadJson
from architex.domain.property_paths import PropertyPath, parse_property_path

MAX_FILTER_ENTRIES: Final = 1000
"""Types, senders, rooms or fields one list of a filter may name."""

EventFields: TypeAlias = tuple[PropertyPath, ...]
"""The parts of an event that are wanted."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to include; None means that everything passes.

    Attributes:
        limit: how many events at most; None for the endpoint's default.
        types, not_types: event types; `*` in them stands for any characters.
    """

    limit: int | None = None
    types: tuple[str, ...] | None = None
    not_types: tuple[str, ...] = ()
    senders: tuple[str, ...] | None = None
    not_senders: tuple[str, ...] = ()

    @property
    def passes_nothing(self) -> bool:
        """Whether no event at all can pass."""
        return self.types == () or self.senders == ()

    @property
    def passes_everything(self) -> bool:
        """Whether every event passes."""
        return (
            self.types is None
            and self.senders is None
            and not (self.not_types or self.not_senders)
        )

    def is_type_included(self, type: str) -> bool:
        """Whether events of this type pass."""
        return not any(matches_type(pattern, type) for pattern in self.not_types) and (
            self.types is None or any(matches_type(pattern, type) for pattern in self.types)
        )

    def is_sender_included(self, sender: str) -> bool:
        """Whether events of this sender pass."""
        return sender not in self.not_senders and (self.senders is None or sender in self.senders)

    def includes(self, type: str, sender: str | None = None) -> bool:
        """Whether an event passes; a sender of None is not looked at."""
        return self.is_type_included(type) and (sender is None or self.is_sender_included(sender))


@dataclass(frozen=True, slots=True)
class RoomEventFilter(EventFilter):
    """Which events of rooms to include.

    Attributes:
        contains_url: True for events with a `url` in their content only, False for those without.
    """

    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    contains_url: bool | None = None
    rooms: tuple[str, ...] | None = None
    not_rooms: tuple[str, ...] = ()

    @property
    def passes_everything(self) -> bool:
        """Whether every event of every room passes."""
        return (
            self.types is None
            and self.senders is None
            and self.contains_url is None
            and self.rooms is None
            and not (self.not_types or self.not_senders or self.not_rooms)
        )

    def is_room_included(self, room_id: str) -> bool:
        """Whether events of this room pass."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """What of rooms to include in a /sync."""

    rooms: tuple[str, ...] | None = None
    not_rooms: tuple[str, ...] = ()
    include_leave: bool = False
    ephemeral: RoomEventFilter = field(default_factory=RoomEventFilter)
    state: RoomEventFilter = field(default_factory=RoomEventFilter)
    timeline: RoomEventFilter = field(default_factory=RoomEventFilter)
    account_data: RoomEventFilter = field(default_factory=RoomEventFilter)

    def is_room_included(self, room_id: str) -> bool:
        """Whether anything of this room is to be sent."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


@dataclass(frozen=True, slots=True)
class SyncFilter:
    """What to include in a /sync, and in which format.

    Attributes:
        event_fields: the parts of events to include; None for all.
        federation_format: events as servers exchange them.
    """

    event_fields: EventFields | None = None
    federation_format: bool = False
    presence: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    room: RoomFilter = field(default_factory=RoomFilter)
    # It has fifty parts, and each /sync looks things up by it several times.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the hash, once."""
        parts = (
            self.event_fields,
            self.federation_format,
            self.presence,
            self.account_data,
            self.room,
        )
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """The hash."""
        return self._hash


def matches_type(pattern: str, type: str) -> bool:
    """Whether an event type matches a pattern of a filter, in linear time.

    `*` stands for any sequence of characters; everything else stands for itself.
    """
    if "*" not in pattern:
        return pattern == type
    first, *middle, last = pattern.split("*")
    if len(type) < len(first) + len(last) or not type.startswith(first):
        return False
    place = len(first)
    end = len(type) - len(last)
    for part in middle:
        found = type.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return type.endswith(last)


def parse_sync_filter(content: Mapping[str, Any]) -> SyncFilter:
    """The filter of a /sync.

    Raises:
        BadJson: a field is not of its type. Unknown fields are ignored.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter
    """
    event_fields = _strings(content, "event_fields")
    event_format = content.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise BadJson("event_format must be client or federation.")
    room = _object(content, "room")
    return SyncFilter(
        event_fields=None
        if event_fields is None
        else tuple(map(parse_property_path, event_fields)),
        federation_format=event_format == "federation",
        presence=_parse_event_filter(_object(content, "presence")),
        account_data=_parse_event_filter(_object(content, "account_data")),
        room=RoomFilter(
            rooms=_strings(room, "rooms", "!"),
            not_rooms=_strings(room, "not_rooms", "!") or (),
            include_leave=_boolean(room, "include_leave") or False,
            ephemeral=parse_room_event_filter(_object(room, "ephemeral")),
            state=parse_room_event_filter(_object(room, "state")),
            timeline=parse_room_event_filter(_object(room, "timeline")),
            account_data=parse_room_event_filter(_object(room, "account_data")),
        ),
    )


def parse_room_event_filter(content: Mapping[str, Any]) -> RoomEventFilter:
    """The filter of one room's events, as /messages and /context take it.

    Raises:
        BadJson: a field is not of its type. Unknown fields are ignored.
    """
    return RoomEventFilter(
        limit=_limit(content),
        types=_strings(content, "types"),
        not_types=_strings(content, "not_types") or (),
        senders=_strings(content, "senders", "@"),
        not_senders=_strings(content, "not_senders", "@") or (),
        lazy_load_members=_boolean(content, "lazy_load_members") or False,
        include_redundant_members=_boolean(content, "include_redundant_members") or False,
        unread_thread_notifications=_boolean(content, "unread_thread_notifications") or False,
        contains_url=_boolean(content, "contains_url"),
        rooms=_strings(content, "rooms", "!"),
        not_rooms=_strings(content, "not_rooms", "!") or (),
    )


def select_event_fields(event: Mapping[str, Any], fields: EventFields) -> dict[str, Any]:
    """Only those parts of an event that the paths name.

    Spec: https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths
    """
    selected: dict[str, Any] = {}
    named = set(fields)
    for path in fields:
        # What another path names whole needs no part named.
        if any(path[:length] in named for length in range(1, len(path))):
            continue
        value: Any = event
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                break
            value = value[key]
        else:
            target = selected
            for key in path[:-1]:
                target = target.setdefault(key, {})
            target[path[-1]] = value
    return selected


def _parse_event_filter(content: Mapping[str, Any]) -> EventFilter:
    return EventFilter(
        limit=_limit(content),
        types=_strings(content, "types"),
        not_types=_strings(content, "not_types") or (),
        senders=_strings(content, "senders", "@"),
        not_senders=_strings(content, "not_senders", "@") or (),
    )


def _limit(content: Mapping[str, Any]) -> int | None:
    limit = content.get("limit")
    if limit is None:
        return None
    # The specification says "greater than 0"; clients ask for 0 when they want no events.
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise BadJson("limit must be an integer that is not negative.")
    return limit


def _strings(content: Mapping[str, Any], key: str, sigil: str = "") -> tuple[str, ...] | None:
    """A list of strings that begin with `sigil`; None when there is no such list."""
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadJson(f"{key} must be a list of strings.")
    if not all(entry.startswith(sigil) for entry in value):
        raise BadJson(f"Every entry of {key} must begin with {sigil}.")
    if sigil == "@" and not all(":" in entry for entry in value):
        raise BadJson(f"Every entry of {key} must be a user ID.")
    if len(value) > MAX_FILTER_ENTRIES:
        raise BadJson(f"{key} must have at most {MAX_FILTER_ENTRIES} entries.")
    return tuple(value)


def _boolean(content: Mapping[str, Any], key: str) -> bool | None:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadJson(f"{key} must be true or false.")
    return value


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadJson(f"{key} must be an object.")
    return value
