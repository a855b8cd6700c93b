"""The rooms of a /sync response: joined, invited, knocked and left.

What is to be sent of each room is planned first; then every kind of thing (timelines, state,
members, summaries) is asked for all rooms at once.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architex.domain.client_event import (
    STRIPPED_STATE_TYPES,
    ClientEvent,
    RecordedEvent,
    Viewer,
    render_stripped_state,
)
from architex.domain.event_filter import RoomEventFilter, SyncFilter
from architex.domain.identifiers import UserId
from architex.domain.room.visibility import EVER
from architex.domain.sync_token import format_pagination_token
from architex.projections.event_reads import Reference
from architex.projections.gaps import list_followers_of_missing
from architex.projections.plain_news import PlainNews
from architex.projections.room_reads import (
    MAX_SCANNED,
    RoomView,
    StateRow,
    StateSpan,
    Stretch,
    TimelineRow,
    find_scan_end,
    is_hiding,
    list_events_of_state,
    list_heroes,
    list_member_counts,
    list_state,
    list_state_changes,
    list_state_entries,
    list_timeline,
)
from architex.projections.sync_reads import blocks_invites
from architex.storage.lazy_members import Member, list_known_members
from architex.storage.pool import PgConnection
from architex.storage.stripped_states import list_stripped_states
from architex.usecases.event_rendering import EventRendering, Shown
from architex.usecases.standing import Standing

DEFAULT_TIMELINE_LIMIT: Final = 10
MAX_TIMELINE_LIMIT: Final = 500
_MEMBER: Final = "m.room.member"
_NAME_KEYS: Final = {"m.room.name": "name", "m.room.canonical_alias": "alias"}
"""What a room without heroes has: type of its event → key of its content."""


@dataclass(frozen=True, slots=True)
class RoomsRequest:
    """What the rooms of a response depend on.

    Attributes:
        since: the position up to which the client knows everything; None for a fresh start.
        now: the position up to which the response tells.
        full_state: tell all state of joined rooms, also of unchanged ones.
        use_state_after: tell state as of the end of the timeline.
        ignored: users whose messages and invites are not shown.
    """

    viewer: Viewer
    since: int | None
    now: int
    filter: SyncFilter
    full_state: bool = False
    use_state_after: bool = False
    ignored: frozenset[UserId] = frozenset()

    @property
    def timeline_limit(self) -> int:
        """How many events of a room's timeline at most."""
        limit = self.filter.room.timeline.limit
        return min(DEFAULT_TIMELINE_LIMIT if limit is None else limit, MAX_TIMELINE_LIMIT)

    @property
    def lazy_load_members(self) -> bool:
        """Whether only those members are told of whom the client needs to know."""
        return self.filter.room.state.lazy_load_members


@dataclass(slots=True)
class RoomPlan:
    """What is to be sent of a joined or left room, and what was found.

    Attributes:
        low: the timeline begins after this ordering.
        end: the position whose state is the newest to tell; None to tell no state.
        state_since: tell only state that changed after this position; None for all of it.
        extra: stretches of the timeline shown whatever the history visibility.
        is_new: the user joined since the client's last sync.
    """

    view: RoomView
    standing: Standing
    low: int
    high: int
    end: int | None
    state_since: int | None
    extra: tuple[Stretch, ...] = ()
    is_new: bool = False
    rows: list[TimelineRow] = field(default_factory=list)
    limited: bool = False
    prev_batch: int = 0
    state: list[StateRow] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def room_nid(self) -> int:
        """The room's number."""
        return self.view.room_nid

    @property
    def start(self) -> int:
        """The position just before the timeline."""
        return self.rows[0].ordering - 1 if self.rows else self.high

    def put_timeline(
        self, found: Sequence[TimelineRow], limit: int, floor: int | None = None
    ) -> None:
        """Show the newest events of those found, ascending.

        Args:
            floor: below which ordering nobody looked.
        """
        # Whoever joined since the last sync was not told of what happened before.
        self.limited = len(found) > limit or self.is_new or floor is not None
        self.rows = list(found[-limit:]) if limit else []
        end = self.high if floor is None else floor - 1
        self.prev_batch = self.rows[0].ordering - 1 if self.rows else end

    def span(self) -> StateSpan:
        """The moments whose state matters."""
        end = self.high if self.end is None else self.end
        return StateSpan(self.room_nid, min(self.start, end), end, self.state_since or 0)


@dataclass(frozen=True, slots=True)
class RoomsResponse:
    """The rooms of a response.

    Attributes:
        joined, left: room number → the room's object, for rooms of which there is anything.
        invited, knocked: room ID → the room's object.
        new_rooms: numbers of rooms the user joined since.
        newcomers: users who joined the user's rooms since.
        told_members: members that were told, with the positions of their events.
        known_members: members of whom it is remembered that the client knows them by now.
    """

    joined: dict[int, dict[str, Any]]
    left: dict[int, dict[str, Any]]
    invited: dict[str, dict[str, Any]]
    knocked: dict[str, dict[str, Any]]
    new_rooms: frozenset[int]
    newcomers: frozenset[UserId]
    told_members: list[tuple[Member, int]]
    known_members: list[Member]


@dataclass(frozen=True)
class SyncRooms:
    """Collects the rooms of a response."""

    rendering: EventRendering

    def collect(
        self, connection: PgConnection, request: RoomsRequest, views: Collection[RoomView]
    ) -> RoomsResponse:
        """What is to be told of rooms.

        Args:
            connection: inside a snapshot at `request.now`.
            views: the rooms in which something may be new; all rooms for a fresh start.
        """
        room_filter = request.filter.room
        views = [
            v
            for v in views
            if room_filter.is_room_included(v.room_id) and _is_shown(v, request.since)
        ]
        joined = [self._plan_joined(request, v) for v in views if v.membership == "join"]
        gone = [v for v in views if v.membership in ("leave", "ban")]
        left = self._plan_left(connection, request, gone)
        plans = joined + left
        self._find_timelines(connection, request, plans)
        self._find_state(connection, request, plans)
        newcomers = _newcomers(plans)
        heroes = self._find_summaries(connection, request, joined)
        told, known = self._find_lazy_members(connection, request, plans, heroes)
        bodies = self._render(connection, request, plans)
        return RoomsResponse(
            joined={
                plan.room_nid: body
                for plan in joined
                if (body := bodies[plan.room_nid]) is not None
            },
            left={
                plan.room_nid: body for plan in left if (body := bodies[plan.room_nid]) is not None
            },
            invited=self._stripped(connection, request, views, "invite"),
            knocked=self._stripped(connection, request, views, "knock"),
            new_rooms=frozenset(plan.room_nid for plan in joined if plan.is_new),
            newcomers=newcomers - {request.viewer.user_id},
            told_members=told,
            known_members=known,
        )

    def collect_plain(
        self, connection: PgConnection, request: RoomsRequest, news: PlainNews
    ) -> tuple[dict[str, Any] | None, Mapping[UserId, int]] | None:
        """A room in which nothing is new but plain events: what `collect` would tell of it.

        The client is taken to know none of the members.

        Returns the room's object, None when there is nothing to tell; and of the members that are
        told: user ID → position of the event. Nothing of it when there are more events than fit:
        what is told beside such a timeline is not the same for everybody.
        """
        plan = self._plan_joined(request, news.view)
        event_filter = request.filter.room.timeline
        shown = [
            event
            for event in news.events
            if event_filter.is_room_included(plan.view.room_id)
            and event_filter.includes(event.type, event.sender)
            and event_filter.contains_url in (None, event.has_url)
        ]
        plan.put_timeline([event.row for event in shown], request.timeline_limit)
        if plan.limited:
            return None
        if request.lazy_load_members:
            members = {event.sender: event.member for event in shown if event.member is not None}
            plan.state = list(members.values())
        for event in shown:
            if event.stored is not None:
                self.rendering.event_reads.take(
                    event.reference, event.stored, plan.view.room_version
                )
        body = self._render(connection, request, [plan])[plan.room_nid]
        return body, {member.state_key: member.position for member in plan.state}

    # ---- planning

    def _plan_joined(self, request: RoomsRequest, view: RoomView) -> RoomPlan:
        joined_since = view.join_position or view.position
        standing = Standing(view.room_nid, joined_since)
        since = request.since
        is_new = since is not None and joined_since > since
        low = -EVER
        if since is not None and (not is_new or view.left_position is not None):
            # Who comes back was told what happened before; what they missed is a gap.
            low = since
        return RoomPlan(
            view=view,
            standing=standing,
            low=low,
            high=request.now,
            end=request.now,
            state_since=None if is_new or request.full_state else since,
            is_new=is_new,
        )

    def _plan_left(
        self, connection: PgConnection, request: RoomsRequest, views: Collection[RoomView]
    ) -> list[RoomPlan]:
        since = request.since
        standings = {v.room_nid: Standing(v.room_nid) for v in views}
        self.rendering.standings.load_access(
            connection, request.viewer.user_id, standings.values()
        )
        plans = []
        for view in views:
            standing = standings[view.room_nid]
            low = -EVER if since is None else since
            # One's own leaving is always told, whatever the history visibility.
            own_event = Stretch(view.room_nid, view.position - 1, view.position)
            extra = (own_event,) if view.position > low else ()
            state_since = since
            access = standing.access
            if since is not None and access is not None and view.left_position is not None:
                if view.left_position <= since:
                    # Told before; only the own event is news.
                    end = view.left_position if request.full_state else None
                elif access.membership_at(since) == "join":
                    end = view.left_position
                else:
                    # Joined and left again since the last sync: all of it is news.
                    end, state_since, low = view.left_position, None, -EVER
            else:
                end = view.left_position
            if view.left_position is None:
                # Who never was in the room is told that they are not, and nothing else: to view
                # events one needs to join, also where invited people will see them then.
                low = max(low, view.position - 1)
            plans.append(
                RoomPlan(
                    view=view,
                    standing=standing,
                    low=low,
                    high=view.position,
                    end=end,
                    state_since=None if request.full_state else state_since,
                    extra=extra,
                )
            )
        return plans

    # ---- timelines

    def _find_timelines(
        self, connection: PgConnection, request: RoomsRequest, plans: Sequence[RoomPlan]
    ) -> None:
        event_filter = request.filter.room.timeline
        limit = request.timeline_limit
        shown = [plan for plan in plans if event_filter.is_room_included(plan.view.room_id)]
        if event_filter.passes_nothing:
            shown = []
        self.rendering.standings.load_access(
            connection,
            request.viewer.user_id,
            [p.standing for p in shown if p.low + 1 < (p.standing.joined_since or EVER)],
        )
        stretches = [s for p in shown for s in _merge(_visible(p), p.extra)]
        branches = [s for p in shown for s in p.standing.hidden_stretches(p.low, p.high)]
        rows = list_timeline(
            connection,
            stretches,
            limit=limit + 1,
            event_filter=event_filter,
            ignored=request.ignored,
            branches=branches,
        )
        hidden = self._find_hidden(connection, request, shown, rows)
        floors = _floors([*stretches, *branches], rows, hidden, limit) if hidden else {}
        rows = [
            row
            for row in rows
            if row.position not in hidden and row.ordering >= floors.get(row.room_nid, -EVER)
        ]
        rows += self._find_missed_state(connection, request, shown, limit)
        if limit:
            rows += _own_events_outside(request, shown, {(r.room_nid, r.position) for r in rows})
        by_room: dict[int, dict[int, TimelineRow]] = {}
        for row in rows:
            by_room.setdefault(row.room_nid, {})[row.ordering] = row
        hiding = is_hiding(event_filter, request.ignored)
        for plan in plans:
            found = sorted(by_room.get(plan.room_nid, {}).values(), key=lambda row: row.ordering)
            plan.put_timeline(found, limit, floors.get(plan.room_nid))
            if hiding and len(found) <= limit and plan.view.fact_count > MAX_SCANNED:
                self._look_for_scan_end(connection, plan)
        self._cut_at_gaps(connection, plans)

    def _cut_at_gaps(self, connection: PgConnection, plans: Iterable[RoomPlan]) -> None:
        """Let timelines begin after the last gap in what this server has of their rooms."""
        # What follows a gap does not follow the end of the room as we knew it; but for the joins
        # by which this server came (back), with the state of the room imported before.
        suspects = {
            (row.room_nid, row.position): plan
            for plan in plans
            for row in plan.rows
            if row.state_at is not None or row.type == _MEMBER
        }
        if not suspects:
            return
        gaps = list_followers_of_missing(connection, suspects)
        for plan in {room_nid: suspects[room_nid, at] for room_nid, at in gaps}.values():
            first = max(
                place
                for place, row in enumerate(plan.rows)
                if (row.room_nid, row.position) in gaps
            )
            plan.rows = plan.rows[first:]
            plan.limited = True
            plan.prev_batch = plan.rows[0].ordering - 1

    def _find_hidden(
        self,
        connection: PgConnection,
        request: RoomsRequest,
        plans: Iterable[RoomPlan],
        rows: Collection[TimelineRow],
    ) -> set[int]:
        """The positions of those events on branches that the user may not see."""
        standings = {plan.room_nid: plan.standing for plan in plans}
        own_events = {(s.room_nid, s.high) for plan in plans for s in plan.extra}
        pairs = [
            (standings[row.room_nid], row)
            for row in rows
            if row.state_at is not None and (row.room_nid, row.ordering) not in own_events
        ]
        self.rendering.standings.decide(connection, request.viewer.user_id, pairs)
        return {row.position for standing, row in pairs if not standing.is_visible(row)}

    def _look_for_scan_end(self, connection: PgConnection, plan: RoomPlan) -> None:
        """A filter that hides nearly everything: say where the search ended."""
        for stretch in reversed(_visible(plan)):
            scan_end = find_scan_end(connection, stretch, newest_first=True)
            if scan_end is not None:
                plan.limited = True
                plan.prev_batch = scan_end - 1
                return

    def _find_missed_state(
        self,
        connection: PgConnection,
        request: RoomsRequest,
        plans: Collection[RoomPlan],
        limit: int,
    ) -> list[TimelineRow]:
        """For who was away for a time: state set meanwhile that still holds, though hidden.

        It is part of the state that they may see now; it stands in the timeline where it happened,
        or else something older there would seem to come after it.
        """
        event_filter = request.filter.room.timeline
        gaps = [
            (gap, plan.end)
            for plan in plans
            if plan.end is not None and plan.standing.access is not None
            for gap in _gaps(_visible(plan), plan.room_nid, plan.low, plan.end)
        ]
        return [
            row
            for row in list_events_of_state(connection, gaps, limit=limit + 1)
            if event_filter.includes(row.type, row.sender) and event_filter.contains_url is None
        ]

    # ---- state

    def _find_state(
        self, connection: PgConnection, request: RoomsRequest, plans: Iterable[RoomPlan]
    ) -> None:
        by_room = {plan.room_nid: plan for plan in plans if plan.end is not None}
        changed = [p.span() for p in by_room.values() if p.state_since is not None]
        full = [p.span() for p in by_room.values() if p.state_since is None]
        rows = list_state_changes(connection, changed)
        rows += list_state(connection, full, with_members=not request.lazy_load_members)
        for row in rows:
            by_room[row.room_nid].state.append(row)

    def _find_summaries(
        self, connection: PgConnection, request: RoomsRequest, plans: Iterable[RoomPlan]
    ) -> dict[int, list[UserId]]:
        """Summaries of rooms whose membership changed; returns their heroes, if they need any.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
        """
        by_room = {p.room_nid: p for p in plans if _needs_summary(p) or _may_lose_name(p)}
        if not by_room:
            return {}
        named = self._named_rooms(connection, request, by_room.values())
        by_room = {nid: p for nid, p in by_room.items() if nid not in named or _needs_summary(p)}
        counts = list_member_counts(connection, by_room)
        heroes = list_heroes(connection, request.viewer.user_id, set(by_room) - named)
        for room_nid, plan in by_room.items():
            joined, invited = counts.get(room_nid, (0, 0))
            plan.summary = {"m.joined_member_count": joined, "m.invited_member_count": invited}
            if room_nid in heroes:
                plan.summary["m.heroes"] = heroes[room_nid]
        return heroes

    def _named_rooms(
        self, connection: PgConnection, request: RoomsRequest, plans: Iterable[RoomPlan]
    ) -> set[int]:
        """The rooms that have a name or a canonical alias that is not empty."""
        rows = list_state_entries(
            connection,
            [
                (StateSpan(plan.room_nid, request.now, request.now), type_, "")
                for plan in plans
                for type_ in _NAME_KEYS
            ],
        )
        events = self.rendering.load(connection, [row.reference for row in rows])
        return {
            row.room_nid
            for row in rows
            if row.position in events and events[row.position].content.get(_NAME_KEYS[row.type])
        }

    def _find_lazy_members(
        self,
        connection: PgConnection,
        request: RoomsRequest,
        plans: Iterable[RoomPlan],
        heroes: Mapping[int, Collection[UserId]],
    ) -> tuple[list[tuple[Member, int]], list[Member]]:
        """Add the members whom the client needs to know.

        Returns all that the client is told, and those of whom it is remembered that it knows them.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members
        """
        if not request.lazy_load_members:
            return [], []
        by_room = {plan.room_nid: plan for plan in plans if plan.end is not None}
        wanted: list[Member] = []
        for room_nid, plan in by_room.items():
            start = plan.span().start
            found_keys = {
                row.state_key
                for row in plan.state
                if row.type == _MEMBER and row.is_valid_at(start)
            }
            needed = {row.sender for row in plan.rows} | set(heroes.get(room_nid, ()))
            if plan.state_since is None:
                needed.add(request.viewer.user_id)
            wanted.extend((room_nid, user_id) for user_id in sorted(needed - found_keys))
        found = list_state_entries(
            connection,
            [(by_room[room_nid].span(), _MEMBER, user_id) for room_nid, user_id in wanted],
        )
        known: dict[Member, int] = {}
        if request.since is not None and not request.filter.room.state.include_redundant_members:
            known = list_known_members(
                connection,
                request.viewer.user_id,
                request.viewer.device_id or "",
                wanted,
                request.since,
            )
        held = {(plan.room_nid, row.position) for plan in by_room.values() for row in plan.state}
        for row in found:
            plan = by_room[row.room_nid]
            if (row.room_nid, row.position) in held:
                continue
            # A fresh copy of a room's state is whole, whatever was told before.
            if (
                plan.state_since is None
                or known.get((row.room_nid, row.state_key)) != row.position
            ):
                plan.state.append(row)
        told = {
            (plan.room_nid, row.state_key): row.position
            for plan in by_room.values()
            for row in _chosen_state(plan, use_state_after=request.use_state_after)
            if row.type == _MEMBER
        }
        as_before = [
            member
            for row in found
            if known.get(member := (row.room_nid, row.state_key)) == row.position
        ]
        news = [(m, position) for m, position in told.items() if known.get(m) != position]
        return news, [*told, *as_before]

    # ---- rendering

    def _render(
        self, connection: PgConnection, request: RoomsRequest, plans: Sequence[RoomPlan]
    ) -> dict[int, dict[str, Any] | None]:
        """Room number → the room's object; None when there is nothing to tell."""
        state_filter = request.filter.room.state
        chosen: dict[int, list[StateRow]] = {}
        references: list[Reference] = []
        for plan in plans:
            references.extend(row.reference for row in plan.rows)
            rows = [
                row
                for row in _chosen_state(plan, use_state_after=request.use_state_after)
                if state_filter.is_type_included(row.type)
            ]
            if state_filter.passes_nothing or not state_filter.is_room_included(plan.view.room_id):
                rows = []
            chosen[plan.room_nid] = rows
            references.extend(row.reference for row in rows)
        events = self.rendering.load(connection, references)
        shown: list[Shown] = []
        for plan in plans:
            standing = plan.standing
            shown.extend(
                Shown(standing, events[row.position], row, plan.limited)
                for row in plan.rows
                if row.position in events
            )
            rows = [
                row
                for row in chosen[plan.room_nid]
                if row.position in events and _passes(state_filter, events[row.position])
            ]
            chosen[plan.room_nid] = rows
            timeline_positions = {row.position for row in plan.rows}
            shown.extend(
                Shown(standing, events[row.position])
                for row in rows
                if row.position not in timeline_positions
            )
        rendered = self.rendering.render(connection, request.viewer, shown)
        return {
            plan.room_nid: self._body(request, plan, chosen[plan.room_nid], rendered)
            for plan in plans
        }

    def _body(
        self,
        request: RoomsRequest,
        plan: RoomPlan,
        state: Sequence[StateRow],
        rendered: Mapping[int, ClientEvent],
    ) -> dict[str, Any] | None:
        timeline = [rendered[row.position] for row in plan.rows if row.position in rendered]
        state_events = [rendered[row.position] for row in state]
        is_asked_for = request.since is None or request.full_state or plan.is_new
        # An invite ends for the client also where its filter shows no event that says so.
        has_gone = not plan.view.is_joined and plan.view.position > (request.since or 0)
        is_news = plan.limited or plan.summary or is_asked_for or has_gone
        if not (timeline or state_events or is_news):
            return None
        body: dict[str, Any] = {
            "timeline": {
                "events": timeline,
                "limited": plan.limited,
                "prev_batch": format_pagination_token(plan.prev_batch),
            },
            "state_after" if request.use_state_after else "state": {"events": state_events},
            "account_data": {"events": []},
        }
        if plan.view.is_joined:
            body["summary"] = plan.summary
            body["ephemeral"] = {"events": []}
        return body

    # ---- invites and knocks

    def _stripped(
        self,
        connection: PgConnection,
        request: RoomsRequest,
        views: Iterable[RoomView],
        membership: str,
    ) -> dict[str, dict[str, Any]]:
        """The rooms the user is invited to or has knocked on, by room ID.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
        """
        pending = {
            view.room_nid: view
            for view in views
            if view.membership == membership
            and not (membership == "invite" and view.sender in request.ignored)
        }
        if not pending:
            return {}
        if membership == "invite" and blocks_invites(connection, request.viewer.user_id):
            return {}
        rows = list_state_entries(
            connection,
            [
                entry
                for view in pending.values()
                for entry in _stripped_entries(view, request.viewer.user_id)
            ],
        )
        events = self.rendering.load(connection, [row.reference for row in rows])
        told = list_stripped_states(connection, request.viewer.user_id, list(pending))
        stripped: dict[int, list[dict[str, Any]]] = {room_nid: [] for room_nid in pending}
        for row in rows:
            event = events.get(row.position)
            if event is not None:
                stripped[row.room_nid].append(render_stripped_state(event))
        result = {}
        for room_nid, view in pending.items():
            state: list[Mapping[str, Any]] = [*stripped[room_nid]]
            if room_nid in told and told[room_nid].position == view.position:
                # It came from outside the room: what was told with it is newer than what we have.
                keys = {(entry["type"], entry["state_key"]) for entry in told[room_nid].events}
                state = [e for e in state if (e["type"], e["state_key"]) not in keys]
                state += told[room_nid].events
            result[view.room_id] = {f"{membership}_state": {"events": state}}
        return result


def _is_shown(view: RoomView, since: int | None) -> bool:
    """Whether a room is told of: a forgotten one is, to say that the user has left it."""
    if not view.is_forgotten:
        return True
    return since is not None and view.membership in ("leave", "ban") and view.position > since


def _stripped_entries(view: RoomView, user_id: UserId) -> list[tuple[StateSpan, str, str]]:
    span = StateSpan(view.room_nid, view.position, view.position)
    members = dict.fromkeys((user_id, view.sender))
    return [(span, type_, "") for type_ in STRIPPED_STATE_TYPES] + [
        (span, _MEMBER, member) for member in members
    ]


def _visible(plan: RoomPlan) -> list[Stretch]:
    return plan.standing.visible_stretches(plan.low, plan.high)


def _merge(stretches: Sequence[Stretch], extra: Sequence[Stretch]) -> list[Stretch]:
    """The stretches, and those extra ones that lie outside them."""
    return [*stretches] + [
        e for e in extra if not any(s.low <= e.low and e.high <= s.high for s in stretches)
    ]


def _floors(
    stretches: Collection[Stretch],
    rows: Collection[TimelineRow],
    hidden: Collection[int],
    limit: int,
) -> dict[int, int]:
    """Room number → below which ordering nobody looked for what stands in for hidden events."""
    floors: dict[int, int] = {}
    rooms = {row.room_nid for row in rows if row.position in hidden}
    for stretch in stretches:
        room_nid = stretch.room_nid
        if room_nid in rooms:
            orderings = [
                row.ordering
                for row in rows
                if row.room_nid == room_nid and stretch.low < row.ordering <= stretch.high
            ]
            if len(orderings) > limit:
                floors[room_nid] = max(min(orderings), floors.get(room_nid, -EVER))
    return floors


def _gaps(stretches: Sequence[Stretch], room_nid: int, low: int, high: int) -> list[Stretch]:
    """What `low < position <= high` has beside ascending stretches of it.

    When `low` is before everything, what comes before the first stretch is left out.
    """
    gaps = []
    at = low
    if low == -EVER:
        at = stretches[0].low if stretches else high
    for stretch in stretches:
        if stretch.low > at:
            gaps.append(Stretch(room_nid, at, min(stretch.low, high)))
        at = max(at, stretch.high)
    if at < high:
        gaps.append(Stretch(room_nid, at, high))
    return gaps


def _chosen_state(plan: RoomPlan, *, use_state_after: bool) -> list[StateRow]:
    """Which of the found entries go into `state` (or `state_after`).

    `state` is what held at the start of the timeline. An entry that changed later, by an event
    that the timeline does not show, is told as it is at the end: the client would miss it.
    """
    span = plan.span()
    if use_state_after:
        return [row for row in plan.state if row.is_valid_at(span.end)]
    in_timeline = {row.position for row in plan.rows}
    newest = {
        (row.type, row.state_key)
        for row in plan.state
        if row.is_valid_at(span.end) and row.position not in in_timeline
    }
    return [
        row
        for row in plan.state
        if row.position not in in_timeline
        and row.is_valid_at(span.end if (row.type, row.state_key) in newest else span.start)
    ]


def _passes(event_filter: RoomEventFilter, event: RecordedEvent) -> bool:
    return event_filter.is_sender_included(event.sender) and (
        event_filter.contains_url is None or event_filter.contains_url == event.has_url
    )


def _needs_summary(plan: RoomPlan) -> bool:
    """Whether members came or went, or a name did, without which heroes are needed."""
    return plan.state_since is None or any(
        row.is_valid_at(plan.high)
        and (
            row.type in _NAME_KEYS
            or (row.type == _MEMBER and row.membership != row.membership_before)
        )
        for row in plan.state
    )


def _may_lose_name(plan: RoomPlan) -> bool:
    """Whether the event that gave the room its name may have been redacted."""
    return plan.limited or any(row.type == "m.room.redaction" for row in plan.rows)


def _own_events_outside(
    request: RoomsRequest, plans: Iterable[RoomPlan], found: Collection[tuple[int, int]]
) -> list[TimelineRow]:
    """The user's own leaving of rooms that this server is not in: it is in no timeline here.

    So are invites rejected, or taken back, and knocks; also of those who were in the room before.
    """
    event_filter = request.filter.room.timeline
    return [
        TimelineRow(
            room_nid=view.room_nid,
            ordering=view.position,
            position=view.position,
            sender=view.sender,
            is_state=True,
            type="m.room.member",
            resumes_at=None,
            redacted_by=None,
            state_at=None,
            overlay=None,
        )
        for plan in plans
        if (view := plan.view).membership in ("leave", "ban")
        and view.position > plan.low
        and (view.room_nid, view.position) not in found
        and event_filter.includes("m.room.member", view.sender)
        and event_filter.contains_url is None
    ]


def _newcomers(plans: Iterable[RoomPlan]) -> frozenset[UserId]:
    return frozenset(
        row.state_key
        for plan in plans
        if plan.view.is_joined and plan.state_since is not None
        for row in plan.state
        if row.type == _MEMBER and row.membership == "join" and row.membership_before != "join"
    )
