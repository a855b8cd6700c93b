"""m.room.power_levels: what level everybody has, what level everything needs, who may change it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from architex.domain.errors import Forbidden, MalformedEvent
from architex.domain.identifiers import UserId, is_user_id
from architex.domain.pdu import Pdu
from architex.domain.room_versions import RoomVersionRules

#: Stands for the infinite power level of a creator since v12: above every canonical integer.
CREATOR_POWER_LEVEL: Final = 2**53

_EMPTY: Final[Mapping[str, Any]] = {}
_DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
_NOTIFICATION_DEFAULT: Final = 50
_INTEGER_STRING: Final = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
# What int() reads without complaint, and more than any level can mean.
_MAX_LEVEL_DIGITS: Final = 400


class PowerLevels:
    """The power levels of a room: of its users, and those that actions need.

    Made in a microsecond; values are read when they are asked for. A value that is no level (which
    old room versions let into the room) counts as not given.

    Args:
        create: the room's create event.
        event: its m.room.power_levels event; None when the room has none.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels
    """

    __slots__ = ("_content", "_create", "_event", "_rules")

    def __init__(self, rules: RoomVersionRules, create: Pdu, event: Pdu | None) -> None:
        self._rules = rules
        self._create = create
        self._event = event
        self._content = _EMPTY if event is None else event.content

    def of_user(self, user_id: UserId) -> int:
        """Return a user's power level; CREATOR_POWER_LEVEL for a creator since v12."""
        if self._rules.privileged_creators:
            if user_id in creators_of(self._rules, self._create):
                return CREATOR_POWER_LEVEL
        elif self._event is None:
            # If the room contains no m.room.power_levels event, the room's creator has a power
            # level of 100, and all other users have a power level of 0.
            return 100 if user_id in creators_of(self._rules, self._create) else 0
        level = self._entry("users", user_id)
        return self.users_default if level is None else level

    def to_send(self, type: str, is_state: bool) -> int:
        """Return the required power level of an event type.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#definitions
        """
        level = self._entry("events", type)
        if level is not None:
            return level
        return self.state_default if is_state else self.events_default

    def notification(self, key: str) -> int:
        """Return the level needed to trigger a notification, such as `room`; by default 50.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels
        """
        level = self._entry("notifications", key)
        return _NOTIFICATION_DEFAULT if level is None else level

    @property
    def invite(self) -> int:
        """The invite level."""
        return self._named("invite")

    @property
    def kick(self) -> int:
        """The kick level."""
        return self._named("kick")

    @property
    def ban(self) -> int:
        """The ban level."""
        return self._named("ban")

    @property
    def redact(self) -> int:
        """The redact level."""
        return self._named("redact")

    @property
    def events_default(self) -> int:
        """The level that message events need when their type is not listed."""
        return self._named("events_default")

    @property
    def state_default(self) -> int:
        """The level that state events need when their type is not listed."""
        return self._named("state_default")

    @property
    def users_default(self) -> int:
        """The level of users who are not listed."""
        return self._named("users_default")

    def _named(self, name: str) -> int:
        level = parse_level(self._rules, self._content.get(name))
        return _DEFAULTS[name] if level is None else level

    def _entry(self, table_name: str, key: str) -> int | None:
        table = self._content.get(table_name)
        return parse_level(self._rules, table.get(key)) if isinstance(table, dict) else None


def creators_of(rules: RoomVersionRules, create: Pdu) -> frozenset[UserId]:
    """Return the creators of a room.

    Its create event's sender (v1 to v10: `content.creator`), and since v12 the additional ones.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#authorisation-rules
    """
    if not rules.creator_is_sender:
        creator = create.content.get("creator")
        return frozenset({creator}) if isinstance(creator, str) else frozenset()
    if not rules.privileged_creators:
        return frozenset({create.sender})
    additional = create.content.get("additional_creators")
    if not isinstance(additional, list):
        return frozenset({create.sender})
    return frozenset(
        {create.sender, *(creator for creator in additional if isinstance(creator, str))}
    )


def parse_level(rules: RoomVersionRules, value: Any) -> int | None:
    """Return the power level that a value stands for; None when it is no power level.

    Before v10 a level may be a string that is an integer, and before v6 (where events need not be
    canonical JSON) a float, which is cut at its point.

    Spec: https://spec.matrix.org/v1.19/rooms/v1/#mroompower_levels-events-accept-values-as-strings
    """
    kind = type(value)
    if kind is int:
        return value  # type: ignore[no-any-return]  # its type was just looked at
    if rules.integer_power_levels:
        return None
    if kind is str and len(value) <= _MAX_LEVEL_DIGITS and _INTEGER_STRING.fullmatch(value):
        return int(value)
    if kind is float and not rules.strict_canonical_json and math.isfinite(value):
        return int(value)
    return None


def check_power_levels_event(
    rules: RoomVersionRules, pdu: Pdu, *, create: Pdu, current: Pdu | None
) -> None:
    """Check an m.room.power_levels event: rule 9 (rule 10 in v1 to v5 and v12).

    Args:
        create: the room's create event.
        current: the room's m.room.power_levels event so far, None when it has none.

    Raises:
        MalformedEvent: nobody could send it.
        Forbidden: it changes what its sender is not above.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#authorisation-rules
    """
    content = pdu.content
    if rules.integer_power_levels:
        _check_levels_are_integers(content)
    _check_users(rules, content)
    # v12, 10.4 If the users property in content contains the sender of the m.room.create event or
    # any of the additional_creators, reject.
    if rules.privileged_creators:
        for creator in creators_of(rules, create):
            if creator in content.get("users", _EMPTY):
                raise MalformedEvent(f"{creator} is a creator of the room and has no power level.")
    # 9.4 If there is no previous m.room.power_levels event in the room, allow.
    if current is None:
        return
    sender_level = PowerLevels(rules, create, current).of_user(pdu.sender)
    # 9.5 For the properties users_default, events_default, state_default, ban, redact, kick,
    # invite check if they were added, changed or removed. For each found alteration: if the
    # current value, or the new value, is higher than the sender's current power level, reject.
    for name, old, new in _alterations(rules, current.content, content, _DEFAULTS):
        if _exceeds(old, sender_level) or _exceeds(new, sender_level):
            raise Forbidden(f"You don't have the power level to change {name}.")
    # 9.6, 9.7 For each entry being changed in, removed from or added to the events or (since v6)
    # notifications properties: if the current value, or the new value, is greater than the
    # sender's current power level, reject.
    tables = ("events", "notifications") if rules.notifications_power_levels else ("events",)
    for table in tables:
        for name, old, new in _table_alterations(rules, current.content, content, table):
            if _exceeds(old, sender_level) or _exceeds(new, sender_level):
                raise Forbidden(f"You don't have the power level to change that of {name}.")
    for user_id, old, new in _table_alterations(rules, current.content, content, "users"):
        # 9.8 For each entry being changed in, or removed from, the users property, other than the
        # sender's own entry: if the current value is greater than or equal to the sender's current
        # power level, reject.
        if user_id != pdu.sender and old is not None and old >= sender_level:
            raise Forbidden(f"You don't have the power level to change that of {user_id}.")
        # 9.9 For each entry being added to, or changed in, the users property: if the new value is
        # greater than the sender's current power level, reject.
        if _exceeds(new, sender_level):
            raise Forbidden("You cannot give a power level above your own.")


def _check_levels_are_integers(content: Mapping[str, Any]) -> None:
    # v10, 9.1 If any of the properties users_default, events_default, state_default, ban, redact,
    # kick, or invite in content are present and not an integer, reject.
    for name in _DEFAULTS:
        if name in content and type(content[name]) is not int:
            raise MalformedEvent(f"The power level {name} is not an integer.")
    # v10, 9.2 If either of the properties events or notifications in content are present and not
    # an object with values that are integers, reject.
    for name in ("events", "notifications"):
        if name in content:
            table = content[name]
            if not isinstance(table, dict) or any(
                type(level) is not int for level in table.values()
            ):
                raise MalformedEvent(f"The power levels of {name} are not integers.")


def _check_users(rules: RoomVersionRules, content: Mapping[str, Any]) -> None:
    # 9.3 If the users property in content is not an object with keys that are valid user IDs with
    # values that are integers (v1 to v9: or a string that is an integer), reject.
    users = content.get("users", _EMPTY)
    if not isinstance(users, Mapping):
        raise MalformedEvent("The power levels of users are not an object.")
    for user_id, level in users.items():
        if not is_user_id(user_id):
            raise MalformedEvent("The power levels name somebody who is not a user ID.")
        if parse_level(rules, level) is None:
            raise MalformedEvent(f"The power level of {user_id} is not an integer.")


def _table_alterations(
    rules: RoomVersionRules, current: Mapping[str, Any], new: Mapping[str, Any], table: str
) -> Iterator[tuple[str, int | None, int | None]]:
    old_table, new_table = current.get(table), new.get(table)
    old_entries = old_table if isinstance(old_table, dict) else _EMPTY
    new_entries = new_table if isinstance(new_table, dict) else _EMPTY
    return _alterations(rules, old_entries, new_entries, {**old_entries, **new_entries})


def _alterations(
    rules: RoomVersionRules,
    current: Mapping[str, Any],
    new: Mapping[str, Any],
    names: Mapping[str, Any],
) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield (name, current level, new level) where they differ; None for one that is not there.

    Raises:
        MalformedEvent: the new value is no level; only what was already there may be malformed.
    """
    for name in names:
        if name in new and name in current and _is_same(new[name], current[name]):
            continue
        old_level = parse_level(rules, current.get(name))
        new_level = parse_level(rules, new.get(name))
        if new_level is None and name in new:
            raise MalformedEvent(f"The power level of {name} is not an integer.")
        if old_level != new_level:
            yield name, old_level, new_level


def _is_same(value: Any, other: Any) -> bool:
    # To Python, true is one.
    return type(value) is type(other) and bool(value == other)


def _exceeds(level: int | None, limit: int) -> bool:
    return level is not None and level > limit
