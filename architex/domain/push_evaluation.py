"""Evaluating push rules: what an event means to one user.

Nothing here goes back over what it has read: patterns are users' own, and bodies are others'.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules
"""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from architex.domain.identifiers import RoomId
from architex.domain.property_paths import parse_property_path
from architex.domain.push_rules import PUSH_RULE_KINDS, PushRule, Ruleset
from architex.domain.server_acl import glob_matches

Event: TypeAlias = dict[str, Any]
"""The event as clients see it: type, sender, room_id, content, and state_key of state events."""

MAX_PATTERN: Final = 512
"""Characters; longer patterns match nothing. Work is the pattern's length times the body's."""

_WORD: Final = frozenset(string.ascii_letters + string.digits + "_")
_NOTHING: Final = object()
_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class RoomContext:
    """What rules ask about a room and a sender.

    Attributes:
        member_count: how many users are joined.
        may_notify_room: whether the sender's power level suffices for a notification, by the
            key under `notifications` in m.room.power_levels.
        display_name: what the owner of the rules is called in the room, if anything.
    """

    member_count: int
    may_notify_room: Callable[[str], bool]
    display_name: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class PushOutcome:
    """What is to be done about an event for a user.

    Attributes:
        actions: of the rule that matched; empty when none did.
    """

    actions: Sequence[Any] = ()

    @property
    def notifies(self) -> bool:
        """Whether the user is to be told."""
        return "notify" in self.actions

    @property
    def highlights(self) -> bool:
        """Whether it is to stand out. Only what notifies does."""
        return self.notifies and any(
            isinstance(action, Mapping)
            and action.get("set_tweak") == "highlight"
            and action.get("value", True) is not False
            for action in self.actions
        )


class PushEvaluator:
    """The rules of one user, ready to be asked."""

    def __init__(self, ruleset: Ruleset) -> None:
        """Keep the rules that are enabled, in the order in which they are tried."""
        rules = [(kind, rule) for kind in PUSH_RULE_KINDS for rule in ruleset.get(kind, ())]
        self._rules = [(kind, rule) for kind, rule in rules if rule.get("enabled", True)]
        self._looks_closely = any(
            not _keeps_classes(rule)
            if rule.get("default")
            else rule.get("enabled", True) and not _is_about_room(kind, rule)
            for kind, rule in rules
        )
        self._loud_about_rooms = [
            (kind, rule)
            for kind, rule in self._rules
            if not rule.get("default") and PushOutcome(rule.get("actions", ())).notifies
        ]

    def evaluate(self, event: Event, room: RoomContext) -> PushOutcome:
        """The outcome of the first rule that matches."""
        for kind, rule in self._rules:
            if _matches(kind, rule, event, room):
                return PushOutcome(rule.get("actions", ()))
        return PushOutcome()

    @property
    def goes_by_type_alone(self) -> bool:
        """Whether in every room events have the outcomes that their `Notifying` class foretells.

        That is: of NOBODY none notifies, of ALL those that are alike in type and room have one
        outcome, and do not stand out. So it is for the predefined rules, and for rules by which
        rooms are silent.
        """
        return not (self._looks_closely or self._loud_about_rooms)

    def goes_by_type_alone_in(self, room_id: RoomId) -> bool:
        """Whether that is so in a room."""
        here: Event = {"room_id": room_id}
        return not self._looks_closely and not any(
            _matches(kind, rule, here, _NO_ROOM) for kind, rule in self._loud_about_rooms
        )


class Notifying:
    """Whom an event may notify under the predefined rules."""

    NOBODY: Final = 0
    ALL: Final = 1
    """Everybody, or nobody, by the event's type and the room."""
    SOME: Final = 2
    """That depends on the user: it mentions somebody, or invites them, or stands out."""


_ALL_TYPES: Final = frozenset({"m.room.message", "m.room.encrypted", "m.call.invite"})


def notifying_class(type: str, content: Mapping[str, Any], state_key: str | None) -> int:
    """Whom an event may notify, as far as nobody's own rules say otherwise: see Notifying."""
    if type == "m.room.member":
        return Notifying.SOME if content.get("membership") == "invite" else Notifying.NOBODY
    if type == "m.room.tombstone" and state_key == "":
        return Notifying.SOME
    if content.get("msgtype") == "m.notice":
        return Notifying.NOBODY
    mentions = content.get("m.mentions")
    if isinstance(mentions, Mapping) and (mentions.get("user_ids") or mentions.get("room")):
        return Notifying.SOME
    relation = content.get("m.relates_to")
    if isinstance(relation, Mapping) and relation.get("rel_type") == "m.replace":
        return Notifying.NOBODY
    return Notifying.ALL if type in _ALL_TYPES else Notifying.NOBODY


# Rules without which events of `Notifying.NOBODY` would notify.
_SILENCING_RULES: Final = frozenset({".m.rule.suppress_notices", ".m.rule.suppress_edits"})
# Rules that match single events of `Notifying.SOME` only: those are looked at in any case.
_SINGLING_RULES: Final = frozenset(
    {
        ".m.rule.invite_for_me",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
    }
)
# Rules by which events of `Notifying.ALL` notify, or do not.
_TYPE_RULES: Final = frozenset(
    {
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    }
)


def _keeps_classes(rule: PushRule) -> bool:
    """Whether a predefined rule, as its user wants it, still does what `Notifying` foretells."""
    rule_id = rule["rule_id"]
    if not rule.get("enabled", True):
        return rule_id not in _SILENCING_RULES
    outcome = PushOutcome(rule.get("actions", ()))
    if rule_id in _SINGLING_RULES:
        return True
    return not outcome.highlights and (rule_id in _TYPE_RULES or not outcome.notifies)


_NO_ROOM: Final = RoomContext(0, lambda key: False)


def _is_about_room(kind: str, rule: PushRule) -> bool:
    """Whether nothing but the room decides whether a rule matches."""
    return kind == "room" or (
        kind in ("override", "underride")
        and all(
            condition.get("kind") == "event_match" and condition.get("key") == "room_id"
            for condition in rule.get("conditions") or ()
        )
    )


def _matches(kind: str, rule: PushRule, event: Event, room: RoomContext) -> bool:
    if kind == "room":
        return bool(event.get("room_id") == rule["rule_id"])
    if kind == "sender":
        return bool(event.get("sender") == rule["rule_id"])
    if kind == "content":
        body = _property(event, "content.body")
        return isinstance(body, str) and contains_words(rule.get("pattern", ""), body)
    return all(_holds(condition, event, room) for condition in rule.get("conditions") or ())


def _holds(condition: Mapping[str, Any], event: Event, room: RoomContext) -> bool:
    """Whether a condition holds; one that nobody knows never does."""
    kind, key = condition.get("kind"), condition.get("key")
    if kind == "room_member_count":
        return _compares(condition.get("is"), room.member_count)
    if kind == "contains_display_name":
        return _contains_name(event, room.display_name())
    if not isinstance(key, str):
        return False
    if kind == "sender_notification_permission":
        return room.may_notify_room(key)
    value = _property(event, key)
    if kind == "event_match":
        pattern = condition.get("pattern")
        if not isinstance(pattern, str) or not isinstance(value, str):
            return False
        if key == "content.body":
            return contains_words(pattern, value)
        return len(pattern) <= MAX_PATTERN and glob_matches(pattern.lower(), value.lower())
    if kind == "event_property_is":
        return _is_same(condition.get("value", _NOTHING), value)
    if kind == "event_property_contains":
        wanted = condition.get("value", _NOTHING)
        return isinstance(value, list | tuple) and any(_is_same(wanted, one) for one in value)
    return False


def _is_same(wanted: Any, value: Any) -> bool:
    """Whether two simple values are the same; true is not 1, and _NOTHING is not simple."""
    if not (value is None or isinstance(value, str | int | bool)):
        return False
    return type(wanted) is type(value) and bool(wanted == value)


def _compares(text: Any, count: int) -> bool:
    """Whether a count is as `is` says: a number, with ==, <, >, <= or >= before it."""
    if not isinstance(text, str):
        return False
    number = text.lstrip("<>=")
    prefix = text[: len(text) - len(number)] or "=="
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        return False
    compare = _COMPARISONS.get(prefix)
    return compare is not None and compare(count, int(number))


def _property(event: Event, path: str) -> Any:
    """The property at a dot-separated path; _NOTHING when there is none."""
    value: Any = event
    for name in parse_property_path(path):
        # What was parsed from JSON is a dict; to ask for any Mapping takes five times as long.
        if not isinstance(value, dict) or name not in value:
            return _NOTHING
        value = value[name]
    return value


def contains_words(pattern: str, text: str) -> bool:
    """Whether a glob matches a part of a text that begins and ends at word boundaries."""
    if not pattern or len(pattern) > MAX_PATTERN:
        return False
    pattern, text = pattern.lower(), text.lower()
    if "*" not in pattern and "?" not in pattern:
        return _contains_plainly(pattern, text)
    matcher = _matcher(pattern)
    return matcher(text)


def _contains_name(event: Event, name: str | None) -> bool:
    """Whether the body of an event holds a name, as it is: in a name, * means just that."""
    body = _property(event, "content.body")
    if not name or not isinstance(body, str):
        return False
    return _contains_plainly(name.lower(), body.lower())


def _contains_plainly(words: str, text: str) -> bool:
    here = text.find(words)
    while here >= 0:
        if _is_boundary(text, here) and _is_boundary(text, here + len(words)):
            return True
        here = text.find(words, here + 1)
    return False


def _is_boundary(text: str, at: int) -> bool:
    """Whether a word may begin or end before the character at a place."""
    if at == 0 or at == len(text):
        return True
    return text[at - 1] not in _WORD or text[at] not in _WORD


@lru_cache(maxsize=256)
def _matcher(glob: str) -> Callable[[str], bool]:
    """Follows all ways to read a text by a glob at once: bit n stands for n characters read."""
    while "**" in glob:
        glob = glob.replace("**", "*")
    any_one = stars = 0
    places: dict[str, int] = {}
    for n, character in enumerate(glob):
        if character == "*":
            stars |= 1 << n
        elif character == "?":
            any_one |= 1 << n
        else:
            places[character] = places.get(character, 0) | 1 << n
    complete = 1 << len(glob)
    # Most texts lack a part of the pattern that stands for itself: seen at once.
    parts = re.split(r"[*?]", glob)

    def matches(text: str) -> bool:
        if not all(part in text for part in parts):
            return False
        ways = 0
        for at in range(len(text) + 1):
            boundary = _is_boundary(text, at)
            if boundary:
                ways |= 1
            ways |= (ways & stars) << 1
            if boundary and ways & complete:
                return True
            if at < len(text):
                read = places.get(text[at], 0) | any_one
                ways = ((ways & read) << 1) | (ways & stars)
        return False

    return matches
