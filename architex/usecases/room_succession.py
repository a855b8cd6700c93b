"""Succession: what moves along when people go on in the room that replaces another.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-upgrades
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.identifiers import RoomId, UserId
from architex.domain.push_rules import about_other_room
from architex.projections.room_upgrade_reads import RoomUpgradeReads
from architex.storage.account_data import (
    GLOBAL,
    AccountDataStore,
    copy_room_account_data,
    replace_account_data,
)
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Execute
from architex.storage.push_rules import PushRuleStore, copy_push_rule
from architex.usecases.directory import Directory


@dataclass(frozen=True)
class RoomSuccession:
    """Hands on what the server keeps about a room to the room that replaces it."""

    reads: RoomUpgradeReads
    account_data: AccountDataStore
    push_rules: PushRuleStore
    commits: CommitQueue
    directory: Directory

    def follow(self, user_id: UserId, predecessor: RoomId, room_id: RoomId) -> None:
        """Let a user who joined a room find there what they had set for its predecessor.

        The tags, the push rules, and whether it is a direct chat; and the aliases of this server,
        and the place in its list of rooms, go with the first who follows. Nothing happens unless
        the predecessor's own tombstone points to the room: anybody can claim a predecessor.
        """
        if self.reads.find_replacement(predecessor) != room_id:
            return
        hand_over = self.directory.hand_over(predecessor, room_id)
        direct_before = self.account_data.find_content(user_id, GLOBAL, "m.direct")
        direct_after = (
            None if direct_before is None else _add_direct(direct_before, predecessor, room_id)
        )
        rules = [
            about_other_room(rule, predecessor, room_id)
            for rule in self.push_rules.list_about_room(user_id, predecessor)
        ]

        def write(execute: Execute, position: int) -> None:
            hand_over(execute, position)
            for rule in rules:
                copy_push_rule(execute, position, user_id, rule)
            copy_room_account_data(
                execute,
                position,
                user_id=user_id,
                from_room=predecessor,
                to_room=room_id,
                type="m.tag",
            )
            if direct_before is not None and direct_after is not None:
                replace_account_data(
                    execute,
                    position,
                    user_id=user_id,
                    type="m.direct",
                    before=direct_before,
                    after=direct_after,
                )

        self.commits.write_rows(write, wake_users=[user_id])


def find_predecessor(create_content: Mapping[str, Any]) -> RoomId | None:
    """The room that a room says it replaces, in its m.room.create; None when it says none.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomcreate
    """
    predecessor = create_content.get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, Mapping) else None
    return room_id if isinstance(room_id, str) else None


def _add_direct(content_json: str, predecessor: RoomId, room_id: RoomId) -> str | None:
    """m.direct with a room beside its predecessor; None when that is no direct chat.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mdirect
    """
    content = orjson.loads(content_json)
    changed = False
    for room_ids in content.values():
        if isinstance(room_ids, list) and predecessor in room_ids and room_id not in room_ids:
            room_ids.append(room_id)
            changed = True
    return encode_lenient_json(content).decode() if changed else None
