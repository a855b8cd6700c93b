"""What a room looks like from outside: its summary, by which people choose whether to enter.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from architex.domain.identifiers import (
    RoomId,
    ServerName,
    is_room_alias,
    is_room_id,
    is_server_name,
    is_user_id,
)
from architex.domain.room_versions import ROOM_VERSIONS

Content: TypeAlias = Mapping[str, Any]

SPACE: Final = "m.space"
"""The room type of spaces."""

CHILD: Final = "m.space.child"

SUMMARY_TYPES: Final = (
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.join_rules",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.encryption",
)
"""The state events that a summary shows."""

MAX_ALLOWED_ROOMS: Final = 100
MAX_VIA: Final = 20
MAX_CHILDREN: Final = 500
"""Children of one space that anybody looks at."""

_ORDER: Final = re.compile(r"[\x20-\x7e]{1,50}")
_MAX_TEXT: Final = 65_536


@dataclass(frozen=True, slots=True)
class SpaceChild:
    """A room that a space names as part of it.

    Attributes:
        via: servers that may know the room.
        is_suggested: the space recommends it.
        event: the m.space.child event, stripped, with its `origin_server_ts`.
    """

    room_id: RoomId
    via: tuple[ServerName, ...]
    is_suggested: bool
    event: Mapping[str, Any]

    @property
    def place(self) -> tuple[bool, str, int, RoomId]:
        """Sorts children as clients show them.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#ordering-of-children-within-a-space
        """
        order = self.event["content"].get("order")
        is_valid = isinstance(order, str) and _ORDER.fullmatch(order) is not None
        return (
            not is_valid,
            order if is_valid else "",
            self.event["origin_server_ts"],
            self.room_id,
        )


@dataclass(frozen=True, slots=True)
class RoomSummary:
    """A room from outside.

    Attributes:
        room_version: None when nobody says.
        allowed_room_ids: members of these may join where the join rule is restricted.
        children: of a space.
    """

    room_id: RoomId
    joined_members: int
    room_version: str | None = None
    name: str | None = None
    topic: str | None = None
    canonical_alias: str | None = None
    avatar_url: str | None = None
    room_type: str | None = None
    join_rule: str | None = None
    encryption: str | None = None
    is_guest_allowed: bool = False
    is_world_readable: bool = False
    allowed_room_ids: tuple[RoomId, ...] = ()
    children: tuple[SpaceChild, ...] = field(default=())

    @property
    def is_space(self) -> bool:
        """Whether the room groups others."""
        return self.room_type == SPACE

    @property
    def can_be_knocked_at(self) -> bool:
        """Whether anybody may ask to be let in."""
        rules = ROOM_VERSIONS.get(self.room_version or "")
        if self.join_rule == "knock":
            return rules is None or rules.knocking
        return self.join_rule == "knock_restricted" and (rules is None or rules.knock_restricted)

    @property
    def is_open(self) -> bool:
        """Whether anybody may join, knock, or read without either."""
        return self.join_rule == "public" or self.can_be_knocked_at or self.is_world_readable

    @property
    def is_restricted(self) -> bool:
        """Whether members of certain rooms may join."""
        rules = ROOM_VERSIONS.get(self.room_version or "")
        if self.join_rule == "restricted":
            return rules is None or rules.restricted_joins
        return self.join_rule == "knock_restricted" and (rules is None or rules.knock_restricted)

    def as_json(self) -> dict[str, Any]:
        """In the spec's form, without children; what the room does not have is absent."""
        optional = {
            "name": self.name,
            "topic": self.topic,
            "canonical_alias": self.canonical_alias,
            "avatar_url": self.avatar_url,
            "room_type": self.room_type,
            "join_rule": self.join_rule,
            "encryption": self.encryption,
            "room_version": self.room_version,
        }
        told: dict[str, Any] = {
            "room_id": self.room_id,
            "num_joined_members": self.joined_members,
            "world_readable": self.is_world_readable,
            "guest_can_join": self.is_guest_allowed,
            **{key: value for key, value in optional.items() if value is not None},
        }
        if self.is_restricted:
            told["allowed_room_ids"] = list(self.allowed_room_ids)
        return told


def summarise(
    room_id: RoomId,
    room_version: str,
    joined_members: int,
    contents: Mapping[str, Content],
    children: Iterable[SpaceChild] = (),
) -> RoomSummary:
    """The summary of a room whose state is known.

    Args:
        contents: event type → content of the state event with an empty state key, of
            SUMMARY_TYPES; pruned where the event was redacted.
        children: in any order.
    """

    def content(type_: str) -> Content:
        return contents.get(type_, {})

    join_rules = content("m.room.join_rules")
    return RoomSummary(
        room_id=room_id,
        joined_members=joined_members,
        room_version=room_version,
        name=text_in(content("m.room.name"), "name"),
        topic=plain_topic(content("m.room.topic")),
        canonical_alias=text_in(content("m.room.canonical_alias"), "alias"),
        avatar_url=text_in(content("m.room.avatar"), "url"),
        room_type=text_in(content("m.room.create"), "type"),
        # Without the event nobody but the invited may join.
        join_rule=text_in(join_rules, "join_rule") or "invite",
        encryption=text_in(content("m.room.encryption"), "algorithm"),
        is_guest_allowed=content("m.room.guest_access").get("guest_access") == "can_join",
        is_world_readable=content("m.room.history_visibility").get("history_visibility")
        == "world_readable",
        allowed_room_ids=allowed_rooms(join_rules),
        children=tuple(sorted(children, key=lambda child: child.place)),
    )


def read_summary(told: Mapping[str, Any]) -> RoomSummary | None:
    """A summary that another server told, with what makes sense of it; None for what is none."""
    room_id = told.get("room_id")
    if not isinstance(room_id, str) or not is_room_id(room_id):
        return None
    members, alias = told.get("num_joined_members"), _short_text(told, "canonical_alias")
    listed, allowed = told.get("children_state"), told.get("allowed_room_ids")
    children = [
        child
        for event in (listed if isinstance(listed, list) else ())[:MAX_CHILDREN]
        if isinstance(event, dict) and (child := read_child(event)) is not None
    ]
    room_type = _short_text(told, "room_type")
    return RoomSummary(
        room_id=room_id,
        joined_members=members if type(members) is int and members >= 0 else 0,
        room_version=_short_text(told, "room_version"),
        name=_short_text(told, "name"),
        topic=_short_text(told, "topic"),
        canonical_alias=alias if alias is not None and is_room_alias(alias) else None,
        avatar_url=_short_text(told, "avatar_url"),
        room_type=room_type,
        # "When not present, the room is assumed to be public."
        join_rule=_short_text(told, "join_rule") or "public",
        encryption=_short_text(told, "encryption"),
        is_guest_allowed=told.get("guest_can_join") is True,
        is_world_readable=told.get("world_readable") is True,
        allowed_room_ids=_room_ids(allowed if isinstance(allowed, list) else ()),
        children=tuple(sorted(children, key=lambda child: child.place))
        if room_type == SPACE
        else (),
    )


def read_child(event: Mapping[str, Any]) -> SpaceChild | None:
    """The child that an m.space.child event names; None when it names none (any more).

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mspacechild-relationship
    """
    room_id, content, sender = event.get("state_key"), event.get("content"), event.get("sender")
    made_ts = event.get("origin_server_ts")
    if event.get("type") != CHILD or not isinstance(content, dict) or type(made_ts) is not int:
        return None
    if not isinstance(room_id, str) or not is_room_id(room_id):
        return None
    if not isinstance(sender, str) or not is_user_id(sender):
        return None
    named = content.get("via")
    via = [
        server
        for server in (named if isinstance(named, list) else ())
        if isinstance(server, str) and is_server_name(server)
    ]
    if not via:
        return None
    return SpaceChild(
        room_id,
        tuple(via[:MAX_VIA]),
        content.get("suggested") is True,
        {
            "type": CHILD,
            "state_key": room_id,
            "content": content,
            "sender": sender,
            "origin_server_ts": made_ts,
        },
    )


def allowed_rooms(join_rules: Content) -> tuple[RoomId, ...]:
    """The rooms whose members may join, as an m.room.join_rules says.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms
    """
    allow = join_rules.get("allow")
    return _room_ids(
        condition.get("room_id")
        for condition in (allow if isinstance(allow, list) else ())
        if isinstance(condition, dict) and condition.get("type") == "m.room_membership"
    )


def can_enter(
    summary: RoomSummary, membership: str | None, is_member_of: Iterable[RoomId]
) -> bool:
    """Whether somebody may be shown a room: who is in it, and who could get in or read it.

    Args:
        membership: in the room.
        is_member_of: those of its `allowed_room_ids` that they are in.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy
    """
    if membership in ("join", "invite") or summary.is_world_readable:
        return True
    if membership == "ban":
        return False
    return summary.is_open or (summary.is_restricted and any(True for _ in is_member_of))


def text_in(content: Content, key: str) -> str | None:
    """A string that says something; PostgreSQL's text cannot hold U+0000."""
    value = content.get(key)
    return value.replace("\0", "") or None if isinstance(value, str) else None


def plain_topic(content: Content) -> str | None:
    """The topic as plain text: of m.topic where that has it.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomtopic
    """
    block = content.get("m.topic")
    texts = block.get("m.text") if isinstance(block, dict) else None
    if isinstance(texts, list):
        for text in texts:
            if isinstance(text, dict) and text.get("mimetype", "text/plain") == "text/plain":
                return text_in(text, "body")
        if texts:  # there is a topic, and no plain text of it
            return None
    return text_in(content, "topic")


def _short_text(told: Mapping[str, Any], key: str) -> str | None:
    text = text_in(told, key)
    return None if text is None or len(text) > _MAX_TEXT else text


def _room_ids(values: Iterable[Any]) -> tuple[RoomId, ...]:
    rooms = [value for value in values if isinstance(value, str) and is_room_id(value)]
    return tuple(dict.fromkeys(rooms))[:MAX_ALLOWED_ROOMS]
