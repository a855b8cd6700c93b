"""Receipts and read markers: how far somebody has read.

Spec: https://spec.matrix.org/v1.19/client-server-api/#receipts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from architex.domain.client_event import RecordedEvent
from architex.domain.errors import Forbidden, InvalidParam, NotFound
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.gateways.clock import Clock
from architex.projections.event_reads import EventPlace, EventReads
from architex.projections.room_reads import find_room_view
from architex.projections.unread_reads import find_thread
from architex.storage.account_data import put_account_data
from architex.storage.commit_queue import CommitQueue
from architex.storage.early_receipts import EarlyReceipt, EarlyReceipts
from architex.storage.pool import Database, Execute, PgConnection
from architex.storage.receipts import UNTHREADED, Receipt, find_own_receipt, put_receipt
from architex.usecases.requester import Requester

FULLY_READ: Final = "m.fully_read"
PRIVATE: Final = "m.read.private"
RECEIPT_TYPES: Final = ("m.read", PRIVATE, FULLY_READ)

MAIN_THREAD: Final = "main"
EARLY_KEPT_MS: Final = 60 * 60 * 1000
"""How long a receipt waits for an event that is not here."""

EARLY_AT_ONCE: Final = 500
MAX_HOPS: Final = 3
"""Relations followed to find out in which thread an event is."""


@dataclass(frozen=True, slots=True)
class RemoteReceipt:
    """How far a user of another server has read a room, says that server.

    Attributes:
        event_ids: the newest of those that are here counts.
        ts: when, in milliseconds since 1970.
        thread_id: in which thread; None for the whole room.
    """

    user_id: UserId
    event_ids: Sequence[EventId]
    ts: int
    thread_id: str | None


@dataclass(frozen=True)
class Receipts:
    """Receipts of whoever asks."""

    database: Database
    event_reads: EventReads
    commits: CommitQueue
    early: EarlyReceipts
    clock: Clock

    def send_receipt(
        self,
        requester: Requester,
        room_id: RoomId,
        receipt_type: str,
        event_id: EventId,
        thread_id: str | None = None,
    ) -> None:
        """Note that the requester has read up to an event. A receipt never goes back.

        Args:
            thread_id: in which thread; None for the whole room.

        Raises:
            Forbidden: the requester is not in the room.
            NotFound: the room has no such event.
            InvalidParam: there is no such type, or the thread does not go with type or event.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
        """
        if receipt_type not in RECEIPT_TYPES:
            raise InvalidParam(f"receipt_type must be one of {', '.join(RECEIPT_TYPES)}.")
        if thread_id is not None and (
            not thread_id or "\0" in thread_id or receipt_type == FULLY_READ
        ):
            raise InvalidParam("thread_id must name a thread, and m.fully_read has none.")
        with self.database.connection() as connection:
            place = self._find_event(connection, requester, room_id, event_id)
            if thread_id is not None and thread_id not in self._threads_of(connection, place):
                raise InvalidParam("The event is not in this thread.")
            is_behind = receipt_type != FULLY_READ and self._is_behind(
                connection, requester.user_id, receipt_type, thread_id or UNTHREADED, place
            )
        if receipt_type == FULLY_READ:
            self._put_marker(requester, room_id, place)
        elif not is_behind:
            self._put_receipt(requester, receipt_type, thread_id or UNTHREADED, place)

    def receive_remote(self, room_id: RoomId, told: Sequence[RemoteReceipt]) -> None:
        """Note how far users of another server have read a room, says that server.

        What is about users who are not in the room is left out. What is about events that are not
        here waits for them a while.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#receipts
        """
        early: list[EarlyReceipt] = []
        held: list[tuple[Receipt, EventPlace]] = []
        with self.database.connection() as connection:
            for one in told:
                view = find_room_view(connection, one.user_id, room_id)
                if view is None or not view.is_joined:
                    continue
                places = self.event_reads.find_places(connection, one.event_ids).values()
                here = [p for p in places if p.room_nid == view.room_nid and p.verdict == 0]
                place = max(here, key=_ordering, default=None)
                if place is None:
                    if one.event_ids and not places:
                        early.append(_early(room_id, one))
                    continue
                threads = self._threads_of(connection, place)
                if one.thread_id is not None and one.thread_id not in threads:
                    continue
                held.append(
                    (
                        Receipt(
                            room_nid=place.room_nid,
                            receipt_type="m.read",
                            user_id=one.user_id,
                            thread_id=one.thread_id or UNTHREADED,
                            event_id=place.event_id,
                            ts=one.ts,
                        ),
                        place,
                    )
                )

        def write(execute: Execute, position: int) -> None:
            for receipt, place in held:
                put_receipt(execute, position, receipt, _ordering(place))

        if held:
            self.commits.write_rows(write, wake_rooms=[held[0][0].room_nid])
        if early:
            self.early.add(early, self.clock.now_ms() + EARLY_KEPT_MS)

    def receive_early(self) -> int:
        """Note the receipts that came before events which are here by now; gives their number."""
        come = self.early.take_come(EARLY_AT_ONCE)
        by_room: dict[RoomId, list[RemoteReceipt]] = {}
        for one in come:
            thread_id = None if one.thread_id == UNTHREADED else one.thread_id
            by_room.setdefault(one.room_id, []).append(
                RemoteReceipt(one.user_id, one.event_ids, one.ts, thread_id)
            )
        for room_id, told in by_room.items():
            self.receive_remote(room_id, told)
        return len(come)

    def set_read_markers(
        self, requester: Requester, room_id: RoomId, markers: Mapping[str, EventId]
    ) -> None:
        """Set several kinds of markers at once.

        Args:
            markers: type (`m.read`, `m.read.private`, `m.fully_read`) → event.

        Raises:
            Forbidden, NotFound: as `send_receipt`; nothing is set then.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidread_markers
        """
        with self.database.connection() as connection:
            self._check_joined(connection, requester, room_id)
            for event_id in markers.values():
                self._find_event(connection, requester, room_id, event_id)
        for receipt_type, event_id in markers.items():
            self.send_receipt(requester, room_id, receipt_type, event_id)

    def _check_joined(
        self, connection: PgConnection, requester: Requester, room_id: RoomId
    ) -> int:
        view = find_room_view(connection, requester.user_id, room_id)
        if view is None or not view.is_joined:
            raise Forbidden("You are not in this room.")
        return view.room_nid

    def _find_event(
        self, connection: PgConnection, requester: Requester, room_id: RoomId, event_id: EventId
    ) -> EventPlace:
        room_nid = self._check_joined(connection, requester, room_id)
        place = self.event_reads.find_places(connection, [event_id]).get(event_id)
        if place is None or place.room_nid != room_nid or place.verdict != 0:
            raise NotFound("The room has no such event.")
        return place

    def _is_behind(
        self,
        connection: PgConnection,
        user_id: UserId,
        receipt_type: str,
        thread_id: str,
        place: EventPlace,
    ) -> bool:
        held = find_own_receipt(connection, place.room_nid, receipt_type, user_id, thread_id)
        return held is not None and held >= _ordering(place)

    def _threads_of(self, connection: PgConnection, place: EventPlace) -> set[str]:
        """The threads that an event may be read in.

        What is in no thread is in the main timeline; but who reads a thread from its beginning has
        read its root there, and what belongs to that: clients send receipts of both kinds. So they
        do of what was in a thread and was redacted: nothing says so any more.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts
        """
        threads = {MAIN_THREAD}
        came_in = find_thread(connection, place.room_nid, _ordering(place))
        if came_in is not None:
            threads.add(came_in)
        at: EventPlace | None = place
        for _ in range(MAX_HOPS + 1):
            if at is None or at.room_nid != place.room_nid:
                break
            event = self.event_reads.load_events(connection, [at.reference])[at.position]
            rel_type, target = _relation_of(event)
            if rel_type == "m.thread" and target is not None:
                return {target}
            threads.add(event.event_id)
            if target is None:
                break
            at = self.event_reads.find_places(connection, [target]).get(target)
        return threads

    def _put_receipt(
        self, requester: Requester, receipt_type: str, thread_id: str, place: EventPlace
    ) -> None:
        receipt = Receipt(
            room_nid=place.room_nid,
            receipt_type=receipt_type,
            user_id=requester.user_id,
            thread_id=thread_id,
            event_id=place.event_id,
            ts=self.clock.now_ms(),
        )
        # Nobody else is to notice private receipts.
        self.commits.write_rows(
            lambda execute, position: put_receipt(execute, position, receipt, _ordering(place)),
            wake_users=[requester.user_id],
            wake_rooms=[] if receipt_type == PRIVATE else [place.room_nid],
        )

    def _put_marker(self, requester: Requester, room_id: RoomId, place: EventPlace) -> None:
        content_json = orjson.dumps({"event_id": place.event_id}).decode()

        def write(execute: Execute, position: int) -> None:
            put_account_data(
                execute,
                position,
                user_id=requester.user_id,
                room_id=room_id,
                type=FULLY_READ,
                content_json=content_json,
            )

        self.commits.write_rows(write, wake_users=[requester.user_id])


def _early(room_id: RoomId, told: RemoteReceipt) -> EarlyReceipt:
    thread_id = told.thread_id or UNTHREADED
    return EarlyReceipt(room_id, told.user_id, thread_id, told.event_ids, told.ts)


def _ordering(place: EventPlace) -> int:
    """Where an event stands among those that people read; what has no place there is old."""
    return place.position if place.ordering is None else place.ordering


def _relation_of(event: RecordedEvent) -> tuple[str | None, EventId | None]:
    """The type and the target of an event's relation; None where it has none."""
    relation = event.content.get("m.relates_to")
    if not isinstance(relation, dict):
        return None, None
    rel_type, target = relation.get("rel_type"), relation.get("event_id")
    return (
        rel_type if isinstance(rel_type, str) else None,
        target if isinstance(target, str) else None,
    )
