"""Account data: what clients keep here for their user; tags; push rules.

Spec: https://spec.matrix.org/v1.19/client-server-api/#client-config
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import (
    BadJson,
    InvalidParam,
    NotFound,
    ServerManagedAccountData,
    TooLarge,
)
from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, RoomId, UserId
from architex.storage.account_data import (
    GLOBAL,
    AccountDataStore,
    delete_tag,
    put_account_data,
    put_tag,
)
from architex.storage.commit_queue import CommitQueue
from architex.storage.pool import Execute
from architex.usecases.push_rules import PushRules

MAX_CONTENT_BYTES: Final = 65_536 * 4
"""Of one entry: m.direct and the like grow with their user's rooms."""

MAX_ENTRIES: Final = 20_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of all entries of a user: a client that begins afresh is told them at once."""

# What is smaller may be changed without counting.
_SMALL_BYTES: Final = 1024

_SERVER_MANAGED: Final = frozenset({"m.fully_read", "m.push_rules"})


@dataclass(frozen=True)
class AccountData:
    """The account data of whoever asks."""

    entries: AccountDataStore
    commits: CommitQueue
    push_rules: PushRules

    def get_content(self, user_id: UserId, type: str, room_id: RoomId = GLOBAL) -> str:
        """The content of one entry, as JSON.

        Args:
            room_id: GLOBAL for the entry that belongs to no room.

        Raises:
            NotFound: there is no such entry.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridaccount_datatype
        """
        if type == "m.push_rules" and room_id == GLOBAL:
            rules = {"global": self.push_rules.get_ruleset(user_id)}
            return encode_lenient_json(rules).decode()
        content = self.entries.find_content(user_id, room_id, type)
        if content is None:
            raise NotFound("There is no such account data.")
        return content

    def set_content(
        self, user_id: UserId, type: str, content: Mapping[str, Any], room_id: RoomId = GLOBAL
    ) -> None:
        """Replace the content of one entry.

        Raises:
            ServerManagedAccountData: the server keeps this type itself.
            InvalidParam: the type is too long.
            TooLarge: the content is too large, or the user has too much of it.
            BadJson: the content is not what this type holds.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridaccount_datatype
        """
        if type in _SERVER_MANAGED:
            raise ServerManagedAccountData(f"{type} cannot be set here.")
        if not type or len(type.encode()) > MAX_IDENTIFIER_BYTES:
            raise InvalidParam("A type has 1 to 255 bytes.")
        content_json = encode_lenient_json(content).decode()
        if type == "m.tag":
            _check_tags(content_json)
        self._check_room_for(user_id, room_id, type, len(content_json))

        def write(execute: Execute, position: int) -> None:
            put_account_data(
                execute,
                position,
                user_id=user_id,
                room_id=room_id,
                type=type,
                content_json=content_json,
            )

        self.commits.write_rows(write, wake_users=[user_id])

    # Tags

    def get_tags(self, user_id: UserId, room_id: RoomId) -> Mapping[str, Any]:
        """The tags of a room: name → what is said about it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidtags
        """
        content = self.entries.find_content(user_id, room_id, "m.tag")
        tags = {} if content is None else orjson.loads(content).get("tags")
        return tags if isinstance(tags, dict) else {}

    def set_tag(
        self, user_id: UserId, room_id: RoomId, tag: str, about: Mapping[str, Any]
    ) -> None:
        """Set one tag of a room.

        Args:
            about: what is said about the tag: its `order`, a number from 0 to 1.

        Raises:
            InvalidParam: the tag's name is too long.
            BadJson: the order is no number from 0 to 1.
            TooLarge: too much is said.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag
        """
        _check_tag_name(tag)
        order = about.get("order")
        if order is not None and (
            isinstance(order, bool) or not isinstance(order, int | float) or not 0 <= order <= 1
        ):
            raise BadJson("The order of a tag is a number from 0 to 1.")
        tag_json = encode_lenient_json(about).decode()
        if len(tag_json) > MAX_IDENTIFIER_BYTES * 16:
            raise TooLarge("There is too much said about this tag.")
        _check_tags(tag_json)
        self._check_room_for(user_id, room_id, "m.tag", len(tag) + len(tag_json), added=True)

        def write(execute: Execute, position: int) -> None:
            put_tag(
                execute, position, user_id=user_id, room_id=room_id, tag=tag, tag_json=tag_json
            )

        self.commits.write_rows(write, wake_users=[user_id])

    def delete_tag(self, user_id: UserId, room_id: RoomId, tag: str) -> None:
        """Remove one tag of a room, if it is there.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag
        """
        _check_tag_name(tag)

        def write(execute: Execute, position: int) -> None:
            delete_tag(execute, position, user_id=user_id, room_id=room_id, tag=tag)

        self.commits.write_rows(write, wake_users=[user_id])

    def _check_room_for(
        self, user_id: UserId, room_id: RoomId, type: str, size: int, *, added: bool = False
    ) -> None:
        """Check that a user may keep an entry of this size, or one larger by as much.

        Raises:
            TooLarge: it would be too large, or all of the user's entries together.
        """
        held = self.entries.find_content(user_id, room_id, type)
        size += len(held) if added and held is not None else 0
        if size > MAX_CONTENT_BYTES:
            raise TooLarge(f"Account data has at most {MAX_CONTENT_BYTES} bytes.")
        if held is not None and size <= _SMALL_BYTES:
            return
        number, others_bytes = self.entries.measure_others(user_id, room_id, type)
        if number >= MAX_ENTRIES or others_bytes + size > MAX_BYTES:
            raise TooLarge("You have too much account data.")


def _check_tag_name(tag: str) -> None:
    if not tag or len(tag.encode()) > MAX_IDENTIFIER_BYTES:
        raise InvalidParam("The name of a tag has 1 to 255 bytes.")


def _check_tags(content_json: str) -> None:
    """Tags are changed one by one inside the database, whose jsonb cannot hold U+0000."""
    if "\\u0000" in content_json:
        raise BadJson("Tags hold no NUL.")
