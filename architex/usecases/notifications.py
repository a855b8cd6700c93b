"""Notifications: the events a user was notified about, the newest first.

Spec: https://spec.matrix.org/v1.19/client-server-api/#listing-notifications
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.client_event import Viewer
from architex.domain.identifiers import UserId
from architex.domain.push_evaluation import Notifying, PushEvaluator, PushOutcome
from architex.domain.push_rules import effective_push_rules
from architex.gateways.clock import Clock
from architex.projections.room_reads import find_position, list_room_views
from architex.projections.sync_reads import list_ignored_users
from architex.projections.unread_reads import (
    NotifyingEvent,
    SpecialEvent,
    Stay,
    UnreadSpan,
    list_newest,
    list_spoken_up_to,
    list_stays,
)
from architex.storage.pool import Database, PgConnection
from architex.storage.push_rules import list_changed_push_rules
from architex.usecases.event_rendering import EventRendering, Shown
from architex.usecases.requester import Requester
from architex.usecases.standing import Standing
from architex.usecases.unread_counts import LookedAt, RoomToCount

MAX_LOOKED_AT: Final = 1000
"""Events that one request looks at, when few of them notify."""


@dataclass(frozen=True, slots=True)
class NotificationsPage:
    """Some notifications.

    Attributes:
        notifications: as clients are told them.
        next: the ordering from which to go on; None when there are no more.
    """

    notifications: Sequence[dict[str, Any]]
    next: int | None


@dataclass(frozen=True)
class Notifications:
    """Lists what notified a user."""

    database: Database
    rendering: EventRendering
    clock: Clock

    def list_notifications(
        self,
        requester: Requester,
        *,
        before: int | None = None,
        limit: int = 20,
        only_highlights: bool = False,
    ) -> NotificationsPage:
        """The newest notifications.

        Args:
            before: only of events up to this ordering.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications
        """
        with self.database.snapshot() as connection:
            return self._list(connection, requester, before, limit, only_highlights)

    def _list(
        self,
        connection: PgConnection,
        requester: Requester,
        before: int | None,
        limit: int,
        only_highlights: bool,
    ) -> NotificationsPage:
        user_id = requester.user_id
        rooms = {
            v.room_nid: RoomToCount(v.room_nid, v.room_id, v.room_version, v.position)
            for v in list_room_views(connection, user_id, ["join", "leave", "ban", "invite"])
            if not v.is_forgotten
        }
        stays = list_stays(connection, user_id, list(rooms))
        evaluator = PushEvaluator(
            effective_push_rules(user_id, list_changed_push_rules(connection, user_id))
        )
        ignored = list_ignored_users(connection, user_id)
        looked_at = LookedAt(
            self.rendering.event_reads, connection, evaluator, rooms.values(), user_id
        )
        classes = [Notifying.ALL, Notifying.SOME]
        if only_highlights and evaluator.goes_by_type_alone:
            classes = [Notifying.SOME]
        elif not evaluator.goes_by_type_alone:
            classes = [Notifying.NOBODY, *classes]
        high = find_position(connection) if before is None else before
        found: list[tuple[NotifyingEvent, PushOutcome]] = []
        looked = 0
        following: int | None = high
        while following is not None and len(found) < limit and looked < MAX_LOOKED_AT:
            spans = [span for stay in stays if (span := _span_of(stay, following)) is not None]
            size = min(MAX_LOOKED_AT, limit * 2)
            candidates = list_newest(connection, user_id, spans, classes, ignored, size)
            looked += len(candidates)
            following = candidates[-1].ordering - 1 if len(candidates) == size else None
            outcomes = looked_at.evaluate(
                [SpecialEvent(c.room_nid, c.thread, c.position, c.redacted_by) for c in candidates]
            )
            by_position = {event.position: outcome for event, outcome in outcomes}
            for candidate in candidates:
                outcome = by_position.get(candidate.position)
                if outcome is None or not outcome.notifies:
                    continue
                if only_highlights and not outcome.highlights:
                    continue
                if len(found) == limit:
                    following = found[-1][0].ordering - 1
                    break
                found.append((candidate, outcome))
        rendered = self._render(connection, requester, rooms, stays, found, ignored)
        return NotificationsPage(rendered, following)

    def _render(
        self,
        connection: PgConnection,
        requester: Requester,
        rooms: Mapping[int, RoomToCount],
        stays: Sequence[Stay],
        found: Sequence[tuple[NotifyingEvent, PushOutcome]],
        ignored: Collection[UserId],
    ) -> list[dict[str, Any]]:
        events = {
            position: event
            for position, event in self.rendering.load(
                connection, [(event.position, event.redacted_by) for event, _ in found]
            ).items()
            if event.type != "m.room.member" or event.sender not in ignored
        }
        places = self.rendering.event_reads.find_places(
            connection, [event.event_id for event in events.values()]
        )
        spoken = _find_spoken(connection, requester.user_id, [event for event, _ in found])
        standings = _Standings(stays)
        viewer = Viewer(requester.user_id, requester.device_id, self.clock.now_ms())
        rendered = self.rendering.render(
            connection,
            viewer,
            [
                Shown(standings.find(event), events[event.position], place)
                for event, _ in found
                if event.position in events
                and (place := places.get(events[event.position].event_id)) is not None
            ],
        )
        return [
            {
                "actions": list(outcome.actions),
                "event": rendered[event.position],
                # Rules have had none since profiles went out of the specification.
                "profile_tag": "",
                "read": event.is_read
                or event.ordering
                <= spoken.get((event.room_nid, event.thread), event.ordering - 1),
                "room_id": rooms[event.room_nid].room_id,
                "ts": events[event.position].pdu["origin_server_ts"],
            }
            for event, outcome in found
            if event.position in rendered
        ]


class _Standings:
    """How a user stood to rooms in each of their stays."""

    def __init__(self, stays: Sequence[Stay]) -> None:
        self._of_rooms: dict[int, list[Standing]] = {}
        self._outside: dict[int, Standing] = {}
        for stay in stays:
            if not stay.is_invite:
                standing = Standing(stay.room_nid, stay.since, stay.until)
                self._of_rooms.setdefault(stay.room_nid, []).append(standing)

    def find(self, event: NotifyingEvent) -> Standing:
        """In the stay that an event belongs to; of who is not in the room, outside of all."""
        for standing in self._of_rooms.get(event.room_nid, ()):
            if standing.is_in_stay(event.ordering):
                return standing
        return self._outside.setdefault(event.room_nid, Standing(event.room_nid))


def _span_of(stay: Stay, high: int) -> UnreadSpan | None:
    """The part of the timeline in which a stay's notifications are, up to an ordering."""
    # An invite notifies by itself; of a stay everything after its beginning may.
    low = stay.since - 1 if stay.is_invite else stay.since
    high = min(high, stay.until)
    return UnreadSpan(stay.room_nid, low, high) if low < high else None


def _find_spoken(
    connection: PgConnection, user_id: UserId, events: Sequence[NotifyingEvent]
) -> dict[tuple[int, str], int]:
    """Room number and thread → how far the user has read it by having spoken there."""
    lows: dict[int, int] = {}
    for event in events:
        lows[event.room_nid] = min(event.ordering, lows.get(event.room_nid, event.ordering))
    now = find_position(connection)
    spans = [UnreadSpan(room_nid, low, now) for room_nid, low in lows.items()]
    return {
        (spoken.room_nid, spoken.thread): spoken.ordering
        for spoken in list_spoken_up_to(connection, user_id, spans)
    }
