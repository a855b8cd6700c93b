"""Push rules: what users changed about them, as rows with an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.identifiers import RoomId, UserId
from architex.domain.push_rules import ChangedPushRule
from architex.storage.account_data import GLOBAL, put_account_data
from architex.storage.pool import Database, Execute, PgConnection

_NEWER: Final = (
    " ON CONFLICT (user_id, kind, rule_id) DO UPDATE SET actions = excluded.actions,"
    " definition = excluded.definition"
)
_SET_RULE: Final = (
    "INSERT INTO push_rules (user_id, kind, rule_id, enabled, actions, definition, ordering)"
    " SELECT %(user_id)s, %(kind)s, %(rule_id)s, true, %(actions)s, %(definition)s, "
)
_FIRST: Final = (
    "(SELECT coalesce(min(ordering), 0) - 1 FROM push_rules"
    " WHERE user_id = %(user_id)s AND kind = %(kind)s)"
)
_MAKE_ROOM: Final = (
    "UPDATE push_rules SET ordering = ordering + 1"
    " WHERE user_id = %(user_id)s AND kind = %(kind)s AND rule_id <> %(rule_id)s AND ordering {}"
    " (SELECT ordering FROM push_rules WHERE user_id = %(user_id)s AND kind = %(kind)s"
    "  AND rule_id = %(neighbour)s)"
)
_BESIDE: Final = (
    "ordering {} 1 FROM push_rules"
    " WHERE user_id = %(user_id)s AND kind = %(kind)s AND rule_id = %(neighbour)s"
)
_ENABLE_PREDEFINED: Final = (
    "INSERT INTO push_rules (user_id, kind, rule_id, ordering, enabled) VALUES (%s, %s, %s, 0, %s)"
    " ON CONFLICT (user_id, kind, rule_id) DO UPDATE SET enabled = excluded.enabled"
)
_ENABLE_OWN: Final = (
    "UPDATE push_rules SET enabled = %s WHERE user_id = %s AND kind = %s AND rule_id = %s"
)
_ACT_PREDEFINED: Final = (
    "INSERT INTO push_rules (user_id, kind, rule_id, ordering, actions) VALUES (%s, %s, %s, 0, %s)"
    " ON CONFLICT (user_id, kind, rule_id) DO UPDATE SET actions = excluded.actions"
)
_ACT_OWN: Final = (
    "UPDATE push_rules SET actions = %s WHERE user_id = %s AND kind = %s AND rule_id = %s"
)


def put_push_rule(
    execute: Execute,
    position: int,
    user_id: UserId,
    rule: ChangedPushRule,
    *,
    before: str | None = None,
    after: str | None = None,
) -> None:
    """Set a rule of a user's own; a new one becomes the first of its kind, and is enabled.

    Args:
        before, after: the rule of the same kind beside which to put it; `before` counts when
            both are given.
    """
    neighbour = before if before is not None else after
    params = {
        "user_id": user_id,
        "kind": rule.kind,
        "rule_id": rule.rule_id,
        "actions": encode_lenient_json(rule.actions).decode(),
        "definition": encode_lenient_json(rule.definition).decode(),
        "neighbour": neighbour,
    }
    if neighbour is None:
        execute(_SET_RULE + _FIRST + _NEWER, params)
    else:
        execute(_MAKE_ROOM.format(">=" if before is not None else ">"), params)
        place = _BESIDE.format("-" if before is not None else "+")
        execute(_SET_RULE + place + _NEWER + ", ordering = excluded.ordering", params)
    _note_change(execute, position, user_id)


def copy_push_rule(
    execute: Execute, position: int, user_id: UserId, rule: ChangedPushRule
) -> None:
    """Add a rule of a user's own as the first of its kind, unless there is one of its ID."""
    params = {
        "user_id": user_id,
        "kind": rule.kind,
        "rule_id": rule.rule_id,
        "actions": encode_lenient_json(rule.actions).decode(),
        "definition": encode_lenient_json(rule.definition).decode(),
    }
    execute(_SET_RULE + _FIRST + " ON CONFLICT (user_id, kind, rule_id) DO NOTHING", params)
    if rule.enabled is False:
        set_push_rule_enabled(execute, position, user_id, rule.kind, rule.rule_id, False)
    _note_change(execute, position, user_id)


def set_push_rule_enabled(
    execute: Execute, position: int, user_id: UserId, kind: str, rule_id: str, enabled: bool
) -> None:
    """Switch a rule on or off; nothing happens to a user's own rule that is not there."""
    if rule_id.startswith("."):
        execute(_ENABLE_PREDEFINED, (user_id, kind, rule_id, enabled))
    else:
        execute(_ENABLE_OWN, (enabled, user_id, kind, rule_id))
    _note_change(execute, position, user_id)


def set_push_rule_actions(
    execute: Execute,
    position: int,
    user_id: UserId,
    kind: str,
    rule_id: str,
    actions: Sequence[object],
) -> None:
    """Set what a rule does; nothing happens to a user's own rule that is not there."""
    actions_json = encode_lenient_json(actions).decode()
    if rule_id.startswith("."):
        execute(_ACT_PREDEFINED, (user_id, kind, rule_id, actions_json))
    else:
        execute(_ACT_OWN, (actions_json, user_id, kind, rule_id))
    _note_change(execute, position, user_id)


def delete_push_rule(
    execute: Execute, position: int, user_id: UserId, kind: str, rule_id: str
) -> None:
    """Delete a rule of a user's own, if it is there."""
    execute(
        "DELETE FROM push_rules WHERE user_id = %s AND kind = %s AND rule_id = %s",
        (user_id, kind, rule_id),
    )
    _note_change(execute, position, user_id)


def list_changed_push_rules(connection: PgConnection, user_id: UserId) -> list[ChangedPushRule]:
    """What a user changed about the push rules, each kind in its order."""
    rows = connection.execute(
        "SELECT kind, rule_id, enabled, actions, definition FROM push_rules"
        " WHERE user_id = %s ORDER BY ordering, rule_id",
        (user_id,),
    ).fetchall()
    return [
        ChangedPushRule(
            kind=kind,
            rule_id=rule_id,
            enabled=enabled,
            actions=None if actions is None else orjson.loads(actions),
            definition=None if definition is None else orjson.loads(definition),
        )
        for kind, rule_id, enabled, actions, definition in rows
    ]


class PushRuleStore:
    """Questions to the push_rules table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_changed(self, user_id: UserId) -> list[ChangedPushRule]:
        """What a user changed about the push rules, each kind in its order."""
        with self._database.connection() as connection:
            return list_changed_push_rules(connection, user_id)

    def list_about_room(self, user_id: UserId, room_id: RoomId) -> list[ChangedPushRule]:
        """A user's own rules that are named after a room, the first of each kind last."""
        rules = [rule for rule in self.list_changed(user_id) if rule.rule_id == room_id]
        return rules[::-1]


def _note_change(execute: Execute, position: int, user_id: UserId) -> None:
    put_account_data(
        execute,
        position,
        user_id=user_id,
        room_id=GLOBAL,
        type="m.push_rules",
        content_json="{}",
    )
