"""Peeking: looking into a room, and following it, without being in it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-previews
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import RoomId
from architex.domain.room.visibility import EVER
from architex.domain.sync_token import format_pagination_token, format_sync_token
from architex.gateways.clock import Clock
from architex.projections.room_reads import StateSpan, list_state
from architex.projections.sync_reads import list_account_data
from architex.storage.notifier import Notifier
from architex.storage.pool import Database
from architex.storage.presence import list_changed_presence, list_present_users
from architex.storage.published_rooms import PublishedRoomStore
from architex.storage.receipts import list_receipts
from architex.usecases.event_rendering import EventRendering
from architex.usecases.old_sync import old_events, old_presence
from architex.usecases.presence import presence_event
from architex.usecases.requester import Requester
from architex.usecases.room_reader import RoomReader
from architex.usecases.sync_parts import receipt_events

MAX_EVENTS: Final = 100
MAX_TIMEOUT_MS: Final = 600_000
NO_FILTER: Final = RoomEventFilter()


@dataclass(frozen=True)
class Peeking:
    """What anybody may see of world-readable rooms, and members of theirs.

    Every method raises Forbidden for who may not read the room.
    """

    database: Database
    rendering: EventRendering
    notifier: Notifier
    published: PublishedRoomStore
    clock: Clock

    def get_room(
        self, requester: Requester, room_id: RoomId, *, limit: int = 20
    ) -> dict[str, Any]:
        """The room's state and its newest events.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync
        """
        with self.database.snapshot() as connection:
            reader = RoomReader(
                connection, self.rendering, requester, room_id, self.clock.now_ms()
            )
            page = reader.list_page(
                -EVER,
                reader.now,
                limit=min(limit, MAX_EVENTS),
                newest_first=True,
                event_filter=NO_FILTER,
            )
            span = StateSpan(reader.room_nid, reader.state_at, reader.state_at)
            state = reader.load(list_state(connection, [span], with_members=True))
            rows = page.rows[::-1]
            account_data = list_account_data(connection, requester.user_id, EVER, [room_id])
            receipts = list_receipts(connection, requester.user_id, [reader.room_nid])
            response: dict[str, Any] = {
                "room_id": room_id,
                "messages": {
                    "chunk": list(old_events(reader.render(reader.load(rows)), room_id)),
                    "end": format_sync_token(reader.now),
                },
                "state": list(old_events(reader.render(state, with_membership=False), room_id)),
                "presence": self._presence(reader),
                "receipts": [
                    {**event, "room_id": room_id}
                    for event in receipt_events(receipts).get(reader.room_nid, [])
                ],
                "account_data": [
                    {"type": entry.type, "content": entry.content} for entry in account_data
                ],
            }
            if rows:
                start = format_pagination_token(rows[0].ordering - 1)
                response["messages"]["start"] = start
            if reader.view is not None:
                response["membership"] = reader.view.membership
        is_public = self.published.is_published(room_id)
        return response | {"visibility": "public" if is_public else "private"}

    def _presence(self, reader: RoomReader) -> list[dict[str, Any]]:
        """The presence of the members, for one of them."""
        if not reader.is_joined:
            return []
        connection, own_id = reader.connection, reader.requester.user_id
        present = [
            shown
            for shown in list_present_users(connection, own_id)
            if shown.presence.user_id == own_id
        ]
        present += list_changed_presence(connection, own_id, EVER, new_rooms=[reader.room_nid])
        events = (presence_event(shown, self.clock.now_ms()) for shown in present)
        return list(old_presence(events))

    def listen(
        self, requester: Requester, room_id: RoomId, *, since: int | None, timeout_ms: int
    ) -> dict[str, Any]:
        """The room's events after a position; waits up to the timeout for one.

        Args:
            since: None for from now on.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events
        """
        deadline = self.clock.monotonic() + min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        while True:
            with self.database.snapshot() as connection:
                reader = RoomReader(
                    connection, self.rendering, requester, room_id, self.clock.now_ms()
                )
                start = reader.now if since is None else since
                page = reader.list_page(
                    start, EVER, limit=MAX_EVENTS, newest_first=False, event_filter=NO_FILTER
                )
                chunk = list(old_events(reader.render(reader.load(page.rows)), room_id))
            end = reader.now if page.next is None else page.next
            remaining = deadline - self.clock.monotonic()
            if chunk or remaining <= 0 or self.notifier.is_stopped:
                return {
                    "start": format_sync_token(start),
                    "end": format_sync_token(max(start, end)),
                    "chunk": chunk,
                }
            since = start
            # Under a name of its own: the user's /sync waits for other rooms.
            self.notifier.wait(
                f"peek {requester.user_id} {reader.room_nid}",
                [reader.room_nid],
                max(start, end),
                remaining,
            )
