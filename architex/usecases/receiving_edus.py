"""What other servers tell beside events: typing, receipts, presence, and whatever is registered.

Each of these is about users, and a server may speak for its own users only. What is of another
form, or about users or rooms that are not here, is left out without a word: so says the spec.

Spec: https://spec.matrix.org/v1.19/server-server-api/#edus
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

from architex.domain.canonical_json import Json
from architex.domain.errors import DatabaseUnavailable, MatrixError
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    is_event_id,
    is_room_id,
    is_user_id,
    server_name_of,
)
from architex.projections.server_acls import ServerAcls
from architex.storage.event_log import EventLog
from architex.usecases.presence import MAX_STATUS_BYTES, STATES, PresenceUpdates, RemotePresence
from architex.usecases.receipts import Receipts, RemoteReceipt
from architex.usecases.typing import Typing

log = logging.getLogger(__name__)

MAX_RECEIPTS: Final = 500
"""Of one EDU; what is beyond is left out."""

MAX_RECEIPT_EVENTS: Final = 10
"""Event IDs of one receipt that are looked at."""

MAX_PRESENCES: Final = 500
"""Of one EDU; what is beyond is left out."""

MAX_TS: Final = 2**53 - 1

EduHandler: TypeAlias = Callable[[ServerName, Json], None]
"""Takes in the content of an EDU of its type: the proven origin, and the content, an object.

It checks whatever is in the content, and that each user there belongs to the origin. It raises
MatrixError to leave the EDU out; DatabaseUnavailable lets the other server send it again.
"""


@dataclass(frozen=True)
class ReceivingEdus:
    """Hands EDUs to who is responsible for their type.

    Attributes:
        handlers: type → handler.
    """

    handlers: Mapping[str, EduHandler]

    def receive(self, origin: ServerName, edu: object) -> None:
        """Take in one EDU; one that fails hurts nobody.

        Raises:
            DatabaseUnavailable: it must come again.
        """
        if not isinstance(edu, dict):
            return
        type_, content = edu.get("edu_type"), edu.get("content")
        handler = self.handlers.get(type_) if isinstance(type_, str) else None
        if handler is None or not isinstance(content, dict):
            log.debug("left out an EDU of %s: unknown, or without content", origin)
            return
        try:
            handler(origin, content)
        except DatabaseUnavailable:
            raise
        except MatrixError as error:
            log.debug("left out %s of %s: %s", type_, origin, error.message)
        except Exception:
            log.exception("Taking in %s of %s failed", type_, origin)


@dataclass(frozen=True)
class RoomEdus:
    """Typing, receipts and presence of users of other servers."""

    typing: Typing
    receipts: Receipts
    presence: PresenceUpdates
    event_log: EventLog
    acls: ServerAcls

    def handlers(self) -> dict[str, EduHandler]:
        """By type."""
        return {
            "m.typing": self.receive_typing,
            "m.receipt": self.receive_receipts,
            "m.presence": self.receive_presence,
        }

    def receive_typing(self, origin: ServerName, content: Json) -> None:
        """Somebody began or stopped typing.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#typing-notifications
        """
        user_id, room_id = content.get("user_id"), content.get("room_id")
        typing = content.get("typing")
        if (
            _is_user_of(user_id, origin)
            and isinstance(typing, bool)
            and self._is_open(room_id, origin)
        ):
            self.typing.set_remote_typing(user_id, room_id, typing=typing)

    def receive_receipts(self, origin: ServerName, content: Json) -> None:
        """Users have read up to some events.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#receipts
        """
        left = MAX_RECEIPTS
        for room_id, kinds in content.items():
            public = kinds.get("m.read") if isinstance(kinds, dict) else None
            if left <= 0 or not isinstance(public, dict) or not self._is_open(room_id, origin):
                continue
            told = list(_read_receipts(origin, public))[:left]
            left -= len(told)
            self.receipts.receive_remote(room_id, told)

    def receive_presence(self, origin: ServerName, content: Json) -> None:
        """Users are there, or no more.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#presence
        """
        push = content.get("push")
        if isinstance(push, list):
            self.presence.receive_remote(list(_read_presences(origin, push[:MAX_PRESENCES])))

    def _is_open(self, room_id: object, origin: ServerName) -> TypeGuard[RoomId]:
        """Whether it is a room that we know and whose ACL lets the server take part."""
        if not isinstance(room_id, str) or not is_room_id(room_id) or not _is_storable(room_id):
            return False
        head = self.event_log.find_head(room_id)
        return head is not None and self.acls.allows(head.room_nid, origin)


def _read_receipts(origin: ServerName, receipts: Json) -> Iterator[RemoteReceipt]:
    for user_id, receipt in receipts.items():
        if not _is_user_of(user_id, origin) or not isinstance(receipt, dict):
            continue
        data, event_ids = receipt.get("data"), receipt.get("event_ids")
        if not isinstance(data, dict) or not isinstance(event_ids, list):
            continue
        thread_id = data.get("thread_id")
        if thread_id is not None and not isinstance(thread_id, str):
            continue
        yield RemoteReceipt(
            user_id,
            [event_id for event_id in event_ids[:MAX_RECEIPT_EVENTS] if _is_event_id(event_id)],
            _bounded(data.get("ts"), 0),
            thread_id,
        )


def _read_presences(origin: ServerName, push: list[Any]) -> Iterator[RemotePresence]:
    for one in push:
        if not isinstance(one, dict) or not _is_user_of(one.get("user_id"), origin):
            continue
        presence, status_msg = one.get("presence"), one.get("status_msg")
        if presence not in STATES:
            continue
        if (
            not isinstance(status_msg, str)
            or not _is_storable(status_msg)
            or len(status_msg.encode()) > MAX_STATUS_BYTES
        ):
            status_msg = None
        # Who says that a user is active now need not say since when.
        active_now = one.get("currently_active") is True
        ago_ms = 0 if active_now else _bounded(one.get("last_active_ago"), 0)
        yield RemotePresence(one["user_id"], presence, status_msg, ago_ms)


def _is_user_of(user_id: object, origin: ServerName) -> TypeGuard[UserId]:
    return (
        isinstance(user_id, str)
        and is_user_id(user_id)
        and _is_storable(user_id)
        and server_name_of(user_id) == origin
    )


def _is_event_id(value: object) -> TypeGuard[EventId]:
    return isinstance(value, str) and is_event_id(value) and _is_storable(value)


def _is_storable(text: str) -> bool:
    """Whether a database can keep a text."""
    return "\0" not in text


def _bounded(value: object, otherwise: int) -> int:
    """A number of milliseconds from outside."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TS:
        return value
    return otherwise
