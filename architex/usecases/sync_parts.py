"""What every answer to /sync has: the question, and the plain parts.

Spec: https://spec.matrix.org/v1.19/client-server-api/#syncing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from architex.domain.event_filter import SyncFilter
from architex.domain.sync_token import format_pagination_token, format_sync_token
from architex.storage.receipts import UNTHREADED, Receipt
from architex.usecases.requester import Requester


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a client asks for.

    Attributes:
        since: the position of its last token; None for a fresh start.
        to_device_since: up to which position it has messages to the device; None: up to `since`.
        timeout_ms: how long to wait when nothing is new.
        full_state: tell all state of joined rooms, at once.
        set_presence: `online`, `unavailable`, or `offline` to leave the presence alone.
        use_state_after: tell state as of the end of the timeline instead of its start.
        keys_mark: how many changes of keys had been announced before the requester was found out;
            None: unknown.
        in_pieces: the answer may hold JSON (`orjson.Fragment`), or come as JSON in pieces.
    """

    requester: Requester
    since: int | None = None
    to_device_since: int | None = None
    timeout_ms: int = 0
    filter: SyncFilter = field(default_factory=SyncFilter)
    full_state: bool = False
    set_presence: str = "online"
    use_state_after: bool = False
    in_pieces: bool = False
    keys_mark: int | None = None

    @property
    def received(self) -> int:
        """Up to which position the device has messages to it."""
        if self.to_device_since is not None:
            return self.to_device_since
        return self.since or 0


def empty_response(position: int, to_device: int | None = None) -> dict[str, Any]:
    """A response that tells nothing but a new token.

    Args:
        to_device: up to where messages to the device are told, when more of them wait.
    """
    return {
        "next_batch": format_sync_token(position, to_device),
        "rooms": {"join": {}, "invite": {}, "knock": {}, "leave": {}},
        "presence": {"events": []},
        "account_data": {"events": []},
        "to_device": {"events": []},
        "device_one_time_keys_count": {},
        "device_unused_fallback_key_types": [],
    }


def receipt_events(receipts: Iterable[Receipt]) -> dict[int, list[dict[str, Any]]]:
    """One m.receipt event per room, as far as it can hold them.

    Who has read up to the same event in several threads, or in one and regardless of threads, has
    one place in it; the further receipts are told in a further event.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mreceipt
    """
    events: dict[int, list[dict[str, Any]]] = {}
    for receipt in sorted(receipts, key=lambda one: one.thread_id != UNTHREADED):
        data: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id:
            data["thread_id"] = receipt.thread_id
        of_room = events.setdefault(receipt.room_nid, [])
        for event in of_room:
            by_type = event["content"].setdefault(receipt.event_id, {})
            by_user = by_type.setdefault(receipt.receipt_type, {})
            if receipt.user_id not in by_user:
                by_user[receipt.user_id] = data
                break
        else:
            by_user = {receipt.user_id: data}
            content = {receipt.event_id: {receipt.receipt_type: by_user}}
            of_room.append({"type": "m.receipt", "content": content})
    return events


def quiet_room(position: int, *, use_state_after: bool) -> dict[str, Any]:
    """A joined room without new events up to a position."""
    return {
        "timeline": {
            "events": [],
            "limited": False,
            "prev_batch": format_pagination_token(position),
        },
        "state_after" if use_state_after else "state": {"events": []},
        "account_data": {"events": []},
        "ephemeral": {"events": []},
        "summary": {},
    }
