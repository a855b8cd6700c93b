"""Showing events to a user: what they may see of a room, and how each event looks to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from architex.domain.client_event import (
    ClientEvent,
    RecordedEvent,
    Viewer,
    render_client_event,
    without_content,
)
from architex.domain.identifiers import UserId
from architex.domain.relations import REFERENCE, REPLACE, THREAD
from architex.projections.event_reads import Companions, EventReads, Placed, Reference
from architex.storage.accounts import list_erased_users
from architex.storage.pool import PgConnection
from architex.usecases.bundling import Bundle, load_bundles
from architex.usecases.standing import Standing, Standings

# Memberships that their user is told of, however little of the room's history they may see.
_TOLD_TO_USER: Final = frozenset({"invite", "join", "knock"})


@dataclass(frozen=True, slots=True)
class Shown:
    """An event to render, in which room's light, and where it stands.

    Attributes:
        place: None for what is not shown as part of the timeline.
        with_relations: whether to tell, too, what its children add up to.
    """

    standing: Standing
    event: RecordedEvent
    place: Placed | None = None
    with_relations: bool = False


@dataclass(frozen=True)
class EventRendering:
    """Loads what renderings need, for many events at once."""

    event_reads: EventReads = field(default_factory=EventReads)

    @property
    def standings(self) -> Standings:
        """Decides what may be seen."""
        return Standings(self.event_reads)

    def load(
        self, connection: PgConnection, references: Iterable[Reference]
    ) -> dict[int, RecordedEvent]:
        """Events by position."""
        return self.event_reads.load_events(connection, references)

    def render(
        self, connection: PgConnection, viewer: Viewer, shown: Collection[Shown]
    ) -> dict[int, ClientEvent]:
        """Events as the viewer sees them, by position."""
        companions = self.event_reads.load_companions(connection, [s.event for s in shown])
        self._decide(connection, viewer, shown, companions)
        erased = _find_erased(connection, shown)
        relations = self._render_relations(connection, viewer, shown)
        rendered = {}
        for s in shown:
            event = s.event
            if event.sender in erased and _is_from_outside(s):
                event = without_content(event)
            rendered[event.position] = render_client_event(
                event,
                viewer,
                membership=_membership(s, viewer),
                replaced=_find_replaced(s, viewer, companions),
                redaction=companions.redactions.get(event.redacted_by or 0),
                relations=relations.get(event.position),
            )
        return rendered

    def _render_relations(
        self, connection: PgConnection, viewer: Viewer, shown: Collection[Shown]
    ) -> dict[int, dict[str, Any]]:
        """Position → what the children of the event add up to, as the viewer sees it."""
        parents = [(s.standing, s.event) for s in shown if s.with_relations]
        if not parents:
            return {}
        bundles = load_bundles(connection, self.standings, viewer.user_id, parents)
        told = [(bundle.standing, place) for bundle in bundles.values() for place in bundle.places]
        events = self.load(connection, [place.reference for _, place in told])
        # What is told of a thread's latest event has no thread of its own: this ends.
        latest = {b.thread.latest.position for b in bundles.values() if b.thread is not None}
        children = self.render(
            connection,
            viewer,
            [
                Shown(standing, events[place.position], place, place.position in latest)
                for standing, place in told
                if place.position in events
            ],
        )
        return {
            event.position: _relations(bundles[event.event_id], children)
            for _, event in parents
            if event.event_id in bundles
        }

    def _decide(
        self,
        connection: PgConnection,
        viewer: Viewer,
        shown: Collection[Shown],
        companions: Companions,
    ) -> None:
        """Make sure that it is known how the viewer stands to events and to what they replaced."""
        pairs = [(s.standing, s.place) for s in shown if s.place is not None]
        pairs += [
            (s.standing, companions.places[s.event.replaces])
            for s in shown
            if s.event.replaces is not None and s.event.replaces in companions.places
        ]
        self.standings.decide(connection, viewer.user_id, pairs)


def _relations(bundle: Bundle, children: Mapping[int, ClientEvent]) -> dict[str, Any]:
    relations: dict[str, Any] = {}
    if bundle.edit is not None and bundle.edit.position in children:
        relations[REPLACE] = children[bundle.edit.position]
    thread = bundle.thread
    if thread is not None and thread.latest.position in children:
        relations[THREAD] = {
            "latest_event": children[thread.latest.position],
            "count": thread.count,
            "current_user_participated": thread.has_participated,
        }
    if bundle.references:
        chunk = [{"event_id": event_id} for event_id in bundle.references]
        relations[REFERENCE] = {"chunk": chunk}
    return relations


def _membership(shown: Shown, viewer: Viewer) -> str | None:
    """The viewer's membership at an event, "including any changes caused by the event"."""
    if shown.place is None:
        return None
    if _is_about(shown.event, viewer):
        membership = shown.event.content.get("membership")
        return membership if isinstance(membership, str) else None
    return shown.standing.membership_at(shown.place)


def _is_about(event: RecordedEvent, viewer: Viewer) -> bool:
    """Whether it is the viewer's own membership."""
    return event.type == "m.room.member" and event.state_key == viewer.user_id


def _find_replaced(shown: Shown, viewer: Viewer, companions: Companions) -> RecordedEvent | None:
    """The state event that an event replaced, if the viewer may see it."""
    replaces = shown.event.replaces
    if replaces is None or shown.event.redacted_by is not None:
        return None
    place, replaced = companions.places.get(replaces), companions.events.get(replaces)
    if place is None or replaced is None:
        return None
    if _is_about(shown.event, viewer) and replaced.content.get("membership") in _TOLD_TO_USER:
        return replaced
    if place.ordering is None:
        # It was part of the state before the viewer's eyes, though not of the timeline.
        at = shown.place
        is_visible = at is not None and shown.standing.membership_at(at) == "join"
    else:
        is_visible = bool(shown.standing.is_visible(place))
    return replaced if is_visible else None


def _find_erased(connection: PgConnection, shown: Collection[Shown]) -> Collection[UserId]:
    """Those of the senders who wanted to be forgotten when their account ended.

    Who was in the room when an event was sent goes on seeing it; for them nothing is looked up.
    """
    senders = {s.event.sender for s in shown if _is_from_outside(s)}
    return list_erased_users(connection, senders) if senders else ()


def _is_from_outside(shown: Shown) -> bool:
    """Whether this is a message that was sent when the viewer was not in the room."""
    event, place = shown.event, shown.place
    if event.state_key is not None:
        return False
    return place is None or shown.standing.membership_at(place) != "join"
