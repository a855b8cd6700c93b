"""Push rules: the ones every user has from the beginning.

Spec: https://spec.matrix.org/v1.19/client-server-api/#push-rules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from architex.domain.identifiers import UserId

PushRule: TypeAlias = dict[str, Any]
Ruleset: TypeAlias = dict[str, list[PushRule]]

#: The kinds of rules, in the order in which they are tried.
PUSH_RULE_KINDS: Final = ("override", "content", "room", "sender", "underride")

_SOUND: Final = {"set_tweak": "sound", "value": "default"}
_RING: Final = {"set_tweak": "sound", "value": "ring"}
_HIGHLIGHT: Final = {"set_tweak": "highlight"}


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
