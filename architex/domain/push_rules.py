"""Push rules: the ones every user has from the beginning, and what users make of them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from architex.domain.errors import BadJson, InvalidParam, MissingParam
from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, RoomId, UserId

PushRule: TypeAlias = dict[str, Any]
Ruleset: TypeAlias = dict[str, list[PushRule]]

#: The kinds of rules, in the order in which they are tried.
PUSH_RULE_KINDS: Final = ("override", "content", "room", "sender", "underride")

_CONDITIONAL_KINDS: Final = ("override", "underride")
# `dont_notify` and `coalesce` are of the past, and mean nothing; clients still send them.
_NAMED_ACTIONS: Final = ("notify", "dont_notify", "coalesce")
_HIGHEST_RULE: Final = ".m.rule.master"

_SOUND: Final = {"set_tweak": "sound", "value": "default"}
_RING: Final = {"set_tweak": "sound", "value": "ring"}
_HIGHLIGHT: Final = {"set_tweak": "highlight"}


@dataclass(frozen=True, slots=True)
class ChangedPushRule:
    """What a user says about a rule: one of their own, or one that is predefined.

    Attributes:
        enabled, actions: None for what is predefined.
        definition: `conditions` or `pattern` of a rule of the user's own.
    """

    kind: str
    rule_id: str
    enabled: bool | None = None
    actions: Sequence[Any] | None = None
    definition: Mapping[str, Any] | None = None


def default_push_rules(user_id: UserId) -> Ruleset:
    """The server-default rules of a user: kind → rules, the first match decides.

    Each call returns a new value that the caller may change.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#predefined-rules
    """
    return {
        "override": [
            _rule(".m.rule.master", [], [], enabled=False),
            _rule(".m.rule.suppress_notices", [_match("content.msgtype", "m.notice")], []),
            _rule(
                ".m.rule.invite_for_me",
                [
                    _match("type", "m.room.member"),
                    _match("content.membership", "invite"),
                    _match("state_key", user_id),
                ],
                ["notify", _SOUND],
            ),
            _rule(".m.rule.member_event", [_match("type", "m.room.member")], []),
            _rule(
                ".m.rule.is_user_mention",
                [
                    {
                        "kind": "event_property_contains",
                        "key": r"content.m\.mentions.user_ids",
                        "value": user_id,
                    }
                ],
                ["notify", _SOUND, _HIGHLIGHT],
            ),
            _rule(
                ".m.rule.is_room_mention",
                [
                    {
                        "kind": "event_property_is",
                        "key": r"content.m\.mentions.room",
                        "value": True,
                    },
                    {"kind": "sender_notification_permission", "key": "room"},
                ],
                ["notify", _HIGHLIGHT],
            ),
            _rule(
                ".m.rule.tombstone",
                [_match("type", "m.room.tombstone"), _match("state_key", "")],
                ["notify", _HIGHLIGHT],
            ),
            _rule(".m.rule.reaction", [_match("type", "m.reaction")], []),
            _rule(
                ".m.rule.room.server_acl",
                [_match("type", "m.room.server_acl"), _match("state_key", "")],
                [],
            ),
            _rule(
                ".m.rule.suppress_edits",
                [
                    {
                        "kind": "event_property_is",
                        "key": r"content.m\.relates_to.rel_type",
                        "value": "m.replace",
                    }
                ],
                [],
            ),
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            _rule(".m.rule.call", [_match("type", "m.call.invite")], ["notify", _RING]),
            _rule(
                ".m.rule.encrypted_room_one_to_one",
                [_TWO_MEMBERS, _match("type", "m.room.encrypted")],
                ["notify", _SOUND],
            ),
            _rule(
                ".m.rule.room_one_to_one",
                [_TWO_MEMBERS, _match("type", "m.room.message")],
                ["notify", _SOUND],
            ),
            _rule(".m.rule.message", [_match("type", "m.room.message")], ["notify"]),
            _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], ["notify"]),
        ],
    }


def effective_push_rules(user_id: UserId, changed: Iterable[ChangedPushRule]) -> Ruleset:
    """The ruleset of a user: their own rules before the predefined ones of the same kind.

    Args:
        changed: what the user says about rules, each kind in its order.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules
    """
    ruleset = default_push_rules(user_id)
    own: dict[str, list[PushRule]] = {}
    for change in changed:
        if not is_predefined(change.rule_id):
            own.setdefault(change.kind, []).append(
                {
                    "rule_id": change.rule_id,
                    "default": False,
                    "enabled": change.enabled is not False,
                    "actions": list(change.actions or ()),
                    **(change.definition or {}),
                }
            )
        elif (rule := find_push_rule(ruleset, change.kind, change.rule_id)) is not None:
            if change.enabled is not None:
                rule["enabled"] = change.enabled
            if change.actions is not None:
                rule["actions"] = list(change.actions)
    for kind, rules in own.items():
        # The master rule switches everything off, so it stands above the user's own too.
        first = ruleset[kind][:1]
        place = 1 if first and first[0]["rule_id"] == _HIGHEST_RULE else 0
        ruleset[kind][place:place] = rules
    return ruleset


def is_predefined(rule_id: str) -> bool:
    """Whether this is the ID of a rule that servers define."""
    return rule_id.startswith(".")


def parse_push_rule(kind: str, rule_id: str, body: Mapping[str, Any]) -> ChangedPushRule:
    """A rule of a user's own, as a client sets it.

    Raises:
        InvalidParam: nobody can have a rule of this ID.
        MissingParam, BadJson: the body is not that of a rule of this kind.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleid
    """
    if is_predefined(rule_id):
        raise InvalidParam("Rules whose ID begins with a dot are the server's.")
    if any(character in rule_id for character in "/\\\0"):
        raise InvalidParam("The ID of a rule has no slashes, backslashes or NULs.")
    if not 0 < len(rule_id.encode()) <= MAX_IDENTIFIER_BYTES:
        raise InvalidParam(f"The ID of a rule has 1 to {MAX_IDENTIFIER_BYTES} bytes.")
    definition: dict[str, Any] = {}
    if kind in _CONDITIONAL_KINDS:
        definition["conditions"] = _parse_conditions(body.get("conditions", []))
    elif kind == "content":
        if "pattern" not in body:
            raise MissingParam("A content rule needs a pattern.")
        if not isinstance(body["pattern"], str):
            raise BadJson("The pattern of a rule is a string.")
        definition["pattern"] = body["pattern"]
    return ChangedPushRule(kind, rule_id, True, parse_push_actions(body), definition)


def parse_push_actions(body: Mapping[str, Any]) -> list[Any]:
    """The `actions` of a rule.

    Raises:
        MissingParam: there are none.
        BadJson: they are no list of actions.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#actions
    """
    if "actions" not in body:
        raise MissingParam("A rule has actions.")
    actions = body["actions"]
    if not isinstance(actions, list):
        raise BadJson("The actions of a rule are a list.")
    for action in actions:
        is_tweak = isinstance(action, Mapping) and isinstance(action.get("set_tweak"), str)
        if not is_tweak and action not in _NAMED_ACTIONS:
            raise BadJson("An action is notify, or an object with a set_tweak.")
    return actions


def about_other_room(
    rule: ChangedPushRule, room_id: RoomId, replacement: RoomId
) -> ChangedPushRule:
    """A rule named after a room, for the room that replaces it."""
    definition = None if rule.definition is None else dict(rule.definition)
    if definition is not None and "conditions" in definition:
        definition["conditions"] = [
            {**condition, "pattern": replacement}
            if condition.get("key") == "room_id" and condition.get("pattern") == room_id
            else condition
            for condition in definition["conditions"]
        ]
    return replace(rule, rule_id=replacement, definition=definition)


def _parse_conditions(conditions: Any) -> list[Mapping[str, Any]]:
    if not isinstance(conditions, list):
        raise BadJson("The conditions of a rule are a list.")
    for condition in conditions:
        if not isinstance(condition, Mapping) or not isinstance(condition.get("kind"), str):
            raise BadJson("A condition of a rule is an object with a kind.")
    return conditions


def find_push_rule(ruleset: Ruleset, kind: str, rule_id: str) -> PushRule | None:
    """The rule of this kind and ID, or None."""
    return next((rule for rule in ruleset.get(kind, ()) if rule["rule_id"] == rule_id), None)


_TWO_MEMBERS: Final = {"kind": "room_member_count", "is": "2"}


def _match(key: str, pattern: str) -> dict[str, str]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _rule(
    rule_id: str,
    conditions: Sequence[Mapping[str, Any]],
    actions: Sequence[str | Mapping[str, Any]],
    *,
    enabled: bool = True,
) -> PushRule:
    return {
        "rule_id": rule_id,
        "default": True,
        "enabled": enabled,
        "conditions": [dict(condition) for condition in conditions],
        "actions": [a if isinstance(a, str) else dict(a) for a in actions],
    }
