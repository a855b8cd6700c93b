"""How much another server may see of events: whole, or only what a redaction leaves.

The specification leaves this to servers. Ours is the rule for people, asked for a whole server:
`shared` and `world_readable` history is for every server in the room; other history for those who
had somebody there by the state at the event.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from architex.domain.identifiers import EventId, ServerName, server_name_of
from architex.domain.room.events import StateBefore
from architex.domain.room.server_visibility import is_restricted, is_visible_to_server
from architex.projections.serving_reads import (
    OverlayView,
    ServedEvent,
    Stays,
    find_overlay_views,
    find_stays,
    has_other_members,
    list_placed_visibilities,
    list_visibilities,
    membership_in,
    visibility_in,
)
from architex.storage.accounts import list_erased_users
from architex.storage.pool import PgConnection


def list_hidden(
    connection: PgConnection, room_nid: int, server: ServerName, events: Collection[ServedEvent]
) -> set[EventId]:
    """Those events of a room of which a server in it may not see the content.

    Messages of users who wanted to be forgotten are among them.
    """
    seen = [event for event in events if server_name_of(event.sender) != server]
    hidden = _list_erased(connection, seen)
    in_line = [(event, before) for event in seen if (before := event.before) is not None]
    told = [event for event in seen if event.is_outlier and event.is_placed]
    if in_line:
        hidden |= _Looker(connection, room_nid, server).list_hidden(in_line)
    if told:
        hidden |= _list_hidden_history(connection, room_nid, told)
    # Events without any place are the states and auth chains that every server in the room gets.
    return hidden


def _list_erased(connection: PgConnection, events: Collection[ServedEvent]) -> set[EventId]:
    """Messages of people whose account ended with the wish to be forgotten.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
    """
    messages = [event for event in events if not event.is_state]
    if not messages:
        return set()
    erased = list_erased_users(connection, {event.sender for event in messages})
    return {event.event_id for event in messages if event.sender in erased}


def _list_hidden_history(
    connection: PgConnection, room_nid: int, events: Collection[ServedEvent]
) -> set[EventId]:
    """Of events from before our time in the room those that are not everybody's.

    The state where they stand is not known, and so not who was there: what was not `shared` goes
    to nobody but its sender's server. Where even the visibility is not known, it counts as
    `joined`.
    """
    placed, told, is_beginning_known = list_placed_visibilities(connection, room_nid)
    orderings = [ordering for ordering, _ in placed]
    hidden = set()
    for event in events:
        at = bisect_right(orderings, event.ordering)
        if at > 0:
            # The event that changes it may be seen if what was before *or* after allows it.
            is_change = orderings[at - 1] == event.ordering and at > 1
            values = [value for _, value in placed[at - 2 if is_change else at - 1 : at]]
            is_hidden = all(map(is_restricted, values))
        elif told:
            is_hidden = any(map(is_restricted, told))
        else:
            is_hidden = not is_beginning_known
        if is_hidden:
            hidden.add(event.event_id)
    return hidden


@dataclass(frozen=True, slots=True)
class _Moment:
    """What decides about an event, before it or after it."""

    visibility: str
    has_joined: bool
    has_invited: bool

    @property
    def allows(self) -> bool:
        return is_visible_to_server(
            self.visibility, has_joined=self.has_joined, has_invited=self.has_invited
        )


class _Looker:
    """Looks up the moments of events that stand where the state is known."""

    def __init__(self, connection: PgConnection, room_nid: int, server: ServerName) -> None:
        self._connection = connection
        self._room_nid = room_nid
        self._server = server

    def list_hidden(self, events: Sequence[tuple[ServedEvent, StateBefore]]) -> set[EventId]:
        low = min(before.at for _, before in events)
        high = max(before.at for _, before in events)
        visibilities = list_visibilities(self._connection, self._room_nid, low, high)
        overlays = {before.overlay for _, before in events if before.overlay is not None}
        views = find_overlay_views(self._connection, self._server, overlays)

        def visibility_before(before: StateBefore) -> str:
            view = None if before.overlay is None else views.get(before.overlay)
            if view is not None and view.has_visibility:
                return view.visibility or ""
            return _value_at(visibilities, before.at)

        wanting = [
            (event, before, visibility)
            for event, before in events
            if is_restricted(visibility := visibility_before(before))
        ]
        if not wanting:
            return set()
        stays = find_stays(self._connection, self._room_nid, self._server, low, high)
        hidden = set()
        for event, before, visibility in wanting:
            view = None if before.overlay is None else views.get(before.overlay)
            moment = _Moment(visibility, *self._has_members(before, view, stays))
            if not (moment.allows or self._after(moment, event).allows):
                hidden.add(event.event_id)
        return hidden

    def _has_members(
        self, before: StateBefore, view: OverlayView | None, stays: Stays
    ) -> tuple[bool, bool]:
        """Whether the server has joined members in a state, and whether invited ones."""
        joined = _covers(stays.joined, before.at)
        invited = _covers(stays.invited, before.at)
        if view is None or not view.members:
            return joined, invited
        memberships = set(view.members.values())
        if "join" in memberships or not (joined or invited):
            return "join" in memberships, "invite" in memberships
        # The overlay may have changed the only ones.
        joined, invited = has_other_members(
            self._connection, self._room_nid, self._server, before.at, view.members
        )
        return joined, invited or "invite" in memberships

    def _after(self, moment: _Moment, event: ServedEvent) -> _Moment:
        """The moment after an event: what it changes itself."""
        type_, state_key = event.pdu["type"], event.pdu.get("state_key")
        if type_ == "m.room.history_visibility" and state_key == "":
            return _Moment(visibility_in(event.pdu), moment.has_joined, moment.has_invited)
        if type_ == "m.room.member" and state_key and ":" in state_key:
            membership = membership_in(event.pdu)
            if server_name_of(state_key) == self._server:
                return _Moment(
                    moment.visibility,
                    moment.has_joined or membership == "join",
                    moment.has_invited or membership == "invite",
                )
        return moment


def _value_at(changes: Sequence[tuple[int, int, str]], at: int) -> str:
    """What is valid at a position; "" when nothing is."""
    place = bisect_right(changes, at, key=lambda change: change[0]) - 1
    return changes[place][2] if place >= 0 and at < changes[place][1] else ""


def _covers(stretches: Sequence[tuple[int, int]], at: int) -> bool:
    place = bisect_right(stretches, at, key=lambda stretch: stretch[0]) - 1
    return place >= 0 and at < stretches[place][1]
