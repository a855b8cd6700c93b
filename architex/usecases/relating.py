"""Relating: the events that belong to an event, the threads of a room, and what may not relate.

Spec: https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.client_event import RecordedEvent, without_content
from architex.domain.errors import DuplicateAnnotation, Forbidden, InvalidRelation, NotFound
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.relations import ANNOTATION, THREAD, Relation, find_relation
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.visibility import EVER
from architex.domain.sync_token import format_pagination_token
from architex.gateways.clock import Clock
from architex.projections.event_reads import EventPlace
from architex.projections.relation_reads import (
    MAX_DEPTH,
    ThreadRow,
    has_annotation,
    is_child,
    list_children,
    list_threads,
)
from architex.projections.sync_reads import list_ignored_users
from architex.storage.pool import Database, PgConnection
from architex.usecases.event_rendering import EventRendering
from architex.usecases.requester import Requester
from architex.usecases.room_reader import MAX_LOOKS, RoomReader

MAX_PAGE: Final = 100


@dataclass(frozen=True)
class Relating:
    """What people may read of relations."""

    database: Database
    rendering: EventRendering
    clock: Clock

    def list_children(
        self,
        requester: Requester,
        room_id: RoomId,
        parent: EventId,
        *,
        rel_type: str | None = None,
        type: str | None = None,
        begin: int | None = None,
        end: int | None = None,
        backwards: bool = True,
        recurse: bool | None = None,
        limit: int = MAX_PAGE,
    ) -> dict[str, Any]:
        """The events that relate to an event.

        Args:
            rel_type, type: only such relations, and such events; None for any.
            begin: the ordering at which to start; None for the end that lies behind.
            end: the ordering at which to stop.
            recurse: also indirect children; None when nobody asked about that.

        Raises:
            NotFound: there is no such event that the requester may see.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid
        """
        with self.database.snapshot() as connection:
            try:
                reader = RoomReader(
                    connection, self.rendering, requester, room_id, self.clock.now_ms()
                )
            except Forbidden:
                raise NotFound("There is no such event, or you may not see it.") from None
            reader.find_visible(parent)
            reader.load_access()
            start = begin if begin is not None else (reader.now if backwards else -EVER)
            stop = end if end is not None else (-EVER if backwards else reader.now)
            low, high = (stop, start) if backwards else (start, stop)
            ignored = list_ignored_users(connection, requester.user_id)
            found: list[EventPlace] = []
            following: int | None = None
            for _ in range(MAX_LOOKS):
                rows = list_children(
                    connection,
                    reader.room_nid,
                    parent,
                    reader.standing.visible_stretches(low, high),
                    rel_type=rel_type,
                    type=type,
                    ignored=ignored,
                    recurse=bool(recurse),
                    newest_first=backwards,
                    limit=limit - len(found) + 1,
                )
                following = None
                if len(rows) > limit - len(found):
                    rows = rows[: limit - len(found)]
                    following = _after(rows, backwards)
                visible = reader.only_visible(rows)
                found += visible
                if following is None or len(visible) == len(rows):
                    break
                low, high = (low, following) if backwards else (following, high)
            response: dict[str, Any] = {"chunk": reader.render(reader.load(found))}
        if following is not None:
            response["next_batch"] = format_pagination_token(following)
        if begin is not None:
            response["prev_batch"] = format_pagination_token(begin)
        if recurse is not None:
            response["recursion_depth"] = MAX_DEPTH if recurse else 1
        return response

    def list_threads(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        only_participated: bool = False,
        begin: int | None = None,
        limit: int = MAX_PAGE,
    ) -> dict[str, Any]:
        """The roots of a room's threads, those first in which something was said last.

        Args:
            only_participated: only threads that the requester began or wrote in.
            begin: the ordering at which to start; None for the newest.

        Raises:
            Forbidden: the requester may not look into the room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads
        """
        with self.database.snapshot() as connection:
            reader = RoomReader(
                connection, self.rendering, requester, room_id, self.clock.now_ms()
            )
            reader.load_access()
            ignored = list_ignored_users(connection, requester.user_id)
            high = reader.now if begin is None else begin
            found: list[RecordedEvent] = []
            following: int | None = None
            for _ in range(MAX_LOOKS):
                rows = list_threads(
                    connection,
                    reader.room_nid,
                    high,
                    participated_by=requester.user_id if only_participated else None,
                    limit=limit - len(found) + 1,
                )
                following = None
                if len(rows) > limit - len(found):
                    rows = rows[: limit - len(found)]
                    following = high = rows[-1].latest - 1
                found += self._roots(reader, rows, ignored)
                if following is None or len(found) >= limit:
                    break
            chunk = reader.render(found)
        response: dict[str, Any] = {"chunk": chunk}
        if following is not None:
            response["next_batch"] = format_pagination_token(following)
        return response

    def _roots(
        self, reader: RoomReader, threads: Sequence[ThreadRow], ignored: Collection[UserId]
    ) -> list[RecordedEvent]:
        """Those of the roots that the requester may see, with something in their threads."""
        places = self.rendering.event_reads.find_places(
            reader.connection, [thread.root for thread in threads]
        )
        here = [
            places[thread.root]
            for thread in threads
            if thread.root in places
            and places[thread.root].room_nid == reader.room_nid
            and places[thread.root].verdict == 0
        ]
        roots = [
            event
            for event in reader.load(reader.only_visible(here))
            if event.state_key is None and find_relation(event.content) is None
        ]
        threaded = reader.find_threaded(roots, ignored)
        return [
            without_content(event) if event.sender in ignored else event
            for event in roots
            if event.event_id in threaded
        ]


def check_relation(
    connection: PgConnection, room_nid: int, draft: EventDraft, relation: Relation
) -> None:
    """Check what somebody here is about to relate to an event.

    Raises:
        InvalidRelation: a thread was to begin at an event that itself relates to another.
        DuplicateAnnotation: the sender has annotated the event in this way before.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#validation-of-mthread-relationships
    """
    if relation.rel_type == THREAD and is_child(connection, room_nid, relation.parent):
        raise InvalidRelation("No thread can begin at an event that relates to another.")
    if (
        relation.rel_type == ANNOTATION
        and relation.key is not None
        and has_annotation(
            connection, room_nid, relation.parent, draft.sender, draft.type, relation.key
        )
    ):
        raise DuplicateAnnotation("You have annotated this event like that before.")


def _after(rows: Sequence[EventPlace], backwards: bool) -> int | None:
    """The place after the last of some rows, in the direction of reading."""
    ordering = rows[-1].ordering if rows else None
    if ordering is None:
        return None
    return ordering - 1 if backwards else ordering
