"""Showing events to a user: what they may see of a room, and how each event looks to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from architex.domain.client_event import (
    ClientEvent,
    RecordedEvent,
    Viewer,
    render_client_event,
    without_content,
)
from architex.domain.identifiers import UserId
from architex.projections.event_reads import Companions, EventReads, Placed, Reference
from architex.storage.accounts import list_erased_users
from architex.storage.pool import PgConnection
from architex.usecases.standing import Standing, Standings


@dataclass(frozen=True, slots=True)
class Shown:
    """An event to render, in which room's light, and where it stands.

    Attributes:
        place: None for what is not shown as part of the timeline.
    """

    standing: Standing
    event: RecordedEvent
    place: Placed | None = None


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
        rendered = {}
        for s in shown:
            event = s.event
            if event.sender in erased and _is_from_outside(s):
                event = without_content(event)
            rendered[event.position] = render_client_event(
                event,
                viewer,
                membership=_membership(s, viewer),
                replaced=_find_replaced(s, companions),
                redaction=companions.redactions.get(event.redacted_by or 0),
            )
        return rendered

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


def _membership(shown: Shown, viewer: Viewer) -> str | None:
    """The viewer's membership at an event, "including any changes caused by the event"."""
    if shown.place is None:
        return None
    event = shown.event
    if event.type == "m.room.member" and event.state_key == viewer.user_id:
        membership = event.content.get("membership")
        return membership if isinstance(membership, str) else None
    return shown.standing.membership_at(shown.place)


def _find_replaced(shown: Shown, companions: Companions) -> RecordedEvent | None:
    """The state event that an event replaced, if the viewer may see it."""
    replaces = shown.event.replaces
    if replaces is None or shown.event.redacted_by is not None:
        return None
    place = companions.places.get(replaces)
    if place is None:
        return None
    if place.ordering is None:
        # It was part of the state before the viewer's eyes, though not of the timeline.
        at = shown.place
        is_visible = at is not None and shown.standing.membership_at(at) == "join"
    else:
        is_visible = bool(shown.standing.is_visible(place))
    return companions.events.get(replaces) if is_visible else None


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
