"""Bundling: what the children of events add up to, told together with the events.

Spec: https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from architex.domain.client_event import RecordedEvent
from architex.domain.identifiers import EventId, UserId
from architex.domain.relations import REPLACE, find_relation
from architex.domain.room.visibility import EVER
from architex.projections.event_reads import EventPlace
from architex.projections.relation_reads import (
    Parent,
    ThreadSummary,
    find_edits,
    find_threads,
    list_references,
    list_related,
)
from architex.projections.room_reads import Stretch
from architex.projections.sync_reads import list_ignored_users
from architex.storage.pool import PgConnection
from architex.usecases.standing import Standing, Standings


@dataclass(slots=True)
class Bundle:
    """What the children of an event add up to, as far as one reader may see them."""

    standing: Standing
    edit: EventPlace | None = None
    thread: ThreadSummary | None = None
    references: list[EventId] = field(default_factory=list)

    @property
    def places(self) -> list[EventPlace]:
        """The events that are told within it."""
        told = [self.edit, None if self.thread is None else self.thread.latest]
        return [place for place in told if place is not None]


def load_bundles(
    connection: PgConnection,
    standings: Standings,
    user_id: UserId,
    told: Sequence[tuple[Standing, RecordedEvent]],
) -> dict[EventId, Bundle]:
    """What belongs to events that are told; those without children are missing.

    One statement if there are none; else a few, however many there are.
    """
    parents = {
        event.event_id: (standing, event) for standing, event in told if event.state_key is None
    }
    related = list_related(connection, list(_as_parents(parents.values())))
    if not related:
        return {}
    parents = {event_id: parents[event_id] for event_id in related}
    ignored = list_ignored_users(connection, user_id)
    events = [event for _, event in parents.values()]
    bundles = {event_id: Bundle(standing) for event_id, (standing, _) in parents.items()}
    unedited = list(_as_parents(p for p in parents.values() if _may_be_edited(p[1])))
    edits = find_edits(connection, unedited, ignored)
    roots = list(_as_parents(p for p in parents.values() if _may_be_root(p[1])))
    threads = find_threads(connection, user_id, roots, ignored)
    references = list_references(connection, list(_as_parents(parents.values())), ignored)
    _decide(connection, standings, user_id, bundles, edits, threads, references)
    for event in events:
        bundle = bundles[event.event_id]
        edit, thread = edits.get(event.event_id), threads.get(event.event_id)
        if edit is not None and bundle.standing.is_visible(edit):
            bundle.edit = edit
        if thread is not None and bundle.standing.is_visible(thread.latest):
            bundle.thread = ThreadSummary(
                thread.count, thread.has_participated or event.sender == user_id, thread.latest
            )
        bundle.references = [
            place.event_id
            for place in references.get(event.event_id, [])
            if bundle.standing.is_visible(place)
        ]
    return bundles


def _decide(
    connection: PgConnection,
    standings: Standings,
    user_id: UserId,
    bundles: dict[EventId, Bundle],
    edits: dict[EventId, EventPlace],
    threads: dict[EventId, ThreadSummary],
    references: dict[EventId, list[EventPlace]],
) -> None:
    """Find out which of the children may be seen: those on branches are not decided yet."""
    children = [
        *edits.items(),
        *((root, thread.latest) for root, thread in threads.items()),
        *((parent, place) for parent, places in references.items() for place in places),
    ]
    pairs = [(bundles[parent].standing, place) for parent, place in children]
    standings.decide(connection, user_id, pairs)


def _as_parents(told: Iterable[tuple[Standing, RecordedEvent]]) -> Iterator[Parent]:
    visible: dict[int, list[Stretch]] = {}
    for standing, event in told:
        if standing.room_nid not in visible:
            visible[standing.room_nid] = _visible(standing)
        yield Parent(
            standing.room_nid, event.event_id, event.type, event.sender, visible[standing.room_nid]
        )


def _visible(standing: Standing) -> list[Stretch]:
    """What may be seen of a room, as far as anybody needed to know."""
    since = standing.joined_since
    if standing.access is None and since is not None:
        return [Stretch(standing.room_nid, since - 1, standing.joined_until)]
    return [] if standing.access is None else standing.visible_stretches(-EVER, EVER)


def _may_be_edited(event: RecordedEvent) -> bool:
    """Whether replacements of it may be valid, and are told."""
    relation = find_relation(event.content)
    is_edit = relation is not None and relation.rel_type == REPLACE
    return event.redacted_by is None and not is_edit


def _may_be_root(event: RecordedEvent) -> bool:
    """Whether it may be the root of a thread: it is itself no child."""
    return find_relation(event.content) is None
