"""Searching: messages, names and topics by their words, in the rooms of whoever asks.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-search
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architex.domain.client_event import RecordedEvent
from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import RoomId
from architex.domain.room.visibility import EVER
from architex.domain.sync_token import format_pagination_token
from architex.gateways.clock import Clock
from architex.projections.event_reads import EventPlace
from architex.projections.room_reads import (
    RoomView,
    StateSpan,
    find_position,
    list_room_views,
    list_state,
    list_state_entries,
)
from architex.projections.search_reads import (
    Match,
    Search,
    list_best_matches,
    list_encrypted_rooms,
    list_recent_matches,
    list_words,
)
from architex.storage.accounts import list_erased_users
from architex.storage.pool import Database, PgConnection
from architex.usecases.event_rendering import EventRendering
from architex.usecases.requester import Requester
from architex.usecases.room_reader import RoomReader
from architex.usecases.room_succession import find_predecessor

#: What can be searched → its label in `message_search`.
SEARCH_KEYS: Final[Mapping[str, str]] = {
    "content.body": "A",
    "content.name": "B",
    "content.topic": "C",
}
MAX_COUNTED: Final = 1000
"""How many matches are looked at for their number: it is approximate by the specification."""
MAX_PREDECESSORS: Final = 10
"""How far the rooms that a room replaced are followed back."""
MAX_ROUNDS: Final = 5
"""How often more matches are looked for when few of them may be seen."""


@dataclass(frozen=True, slots=True)
class ContextWanted:
    """How much of the surroundings of a result to tell."""

    before: int = 5
    after: int = 5
    with_profiles: bool = False


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is searched.

    Attributes:
        begin: where to go on: an ordering for the newest first, else how many to leave out.
        group_by: `room_id`, `sender`.
    """

    term: str
    keys: Collection[str] = tuple(SEARCH_KEYS)
    event_filter: RoomEventFilter = field(default_factory=RoomEventFilter)
    newest_first: bool = False
    limit: int = 10
    begin: int | None = None
    context: ContextWanted | None = None
    with_state: bool = False
    group_by: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    match: Match
    event: RecordedEvent
    reader: RoomReader


@dataclass(frozen=True)
class Searching:
    """Finds events by their words.

    Attributes:
        catch_up: brings the index to the end of the log.
    """

    catch_up: Callable[[], None]
    database: Database
    rendering: EventRendering
    clock: Clock

    def search(self, requester: Requester, request: SearchRequest) -> dict[str, Any]:
        """The results, as clients are told them under `room_events`, and `next`: where to go on.

        Rooms that the requester has left are searched up to their leaving.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3search
        """
        # What somebody has just been told is sent can be searched.
        self.catch_up()
        with self.database.snapshot() as connection:
            return self._search(connection, requester, request)

    def _search(
        self, connection: PgConnection, requester: Requester, request: SearchRequest
    ) -> dict[str, Any]:
        views = self._rooms(connection, requester, request.event_filter)
        words = list_words(connection, request.term)
        results: dict[str, Any] = {"count": 0, "highlights": words, "results": []}
        if not views or not words or request.event_filter.passes_nothing:
            return results
        search = Search(
            request.term,
            [SEARCH_KEYS[key] for key in request.keys],
            list(views),
            request.event_filter,
        )
        readers: dict[int, RoomReader] = {}
        found: list[_Found] = []
        begin = request.begin
        for _ in range(MAX_ROUNDS):
            matches, begin = self._look(connection, search, request, begin, len(found))
            self._add_readers(connection, requester, views, matches, readers)
            found += self._visible(connection, requester, matches, readers)
            if begin is None or len(found) >= request.limit:
                break
        results["count"] = len(found)
        if begin is not None or request.begin is not None:
            matches = list_recent_matches(connection, search, up_to=EVER, limit=MAX_COUNTED)
            self._add_readers(connection, requester, views, matches, readers)
            results["count"] = len(self._list_visible(connection, requester, matches, readers))
        results["results"] = [self._result(one, request) for one in found]
        if request.group_by:
            results["groups"] = _groups(found, request.group_by)
        if request.with_state:
            results["state"] = {one.reader.room_id: [] for one in found}
            for reader in {one.reader.room_nid: one.reader for one in found}.values():
                results["state"][reader.room_id] = _state(reader)
        if begin is not None:
            results["next"] = begin
        return results

    def _rooms(
        self, connection: PgConnection, requester: Requester, event_filter: RoomEventFilter
    ) -> dict[int, RoomView]:
        """The rooms that are searched, by number; encrypted ones are not.

        A room that is asked for goes on from the one that it replaced.
        """
        views = {
            view.room_id: view
            for view in list_room_views(connection, requester.user_id, ["join", "leave", "ban"])
            if (view.is_joined or view.left_position is not None) and not view.is_forgotten
        }
        wanted = {room_id for room_id in views if event_filter.is_room_included(room_id)}
        if event_filter.rooms is not None:
            new = wanted
            for _ in range(MAX_PREDECESSORS):
                nids = [views[room_id].room_nid for room_id in new]
                new = self._predecessors(connection, nids) & views.keys()
                new -= wanted | set(event_filter.not_rooms)
                wanted |= new
        nids = [views[room_id].room_nid for room_id in wanted]
        encrypted = list_encrypted_rooms(connection, nids)
        return {
            views[room_id].room_nid: views[room_id]
            for room_id in wanted
            if views[room_id].room_nid not in encrypted
        }

    def _predecessors(self, connection: PgConnection, room_nids: Sequence[int]) -> set[RoomId]:
        """The rooms that some rooms say they replaced."""
        spans = [StateSpan(room_nid, EVER, EVER) for room_nid in room_nids]
        rows = list_state_entries(connection, [(span, "m.room.create", "") for span in spans])
        events = self.rendering.load(connection, [row.reference for row in rows])
        found = {find_predecessor(event.content) for event in events.values()}
        return {room_id for room_id in found if room_id is not None}

    def _look(
        self,
        connection: PgConnection,
        search: Search,
        request: SearchRequest,
        begin: int | None,
        found: int,
    ) -> tuple[list[Match], int | None]:
        """Some more matches, and where to go on after them; None when there are no more."""
        limit = request.limit - found
        if request.newest_first:
            up_to = find_position(connection) if begin is None else begin
            matches = list_recent_matches(connection, search, up_to=up_to, limit=limit)
            return matches, matches[-1].ordering - 1 if len(matches) == limit else None
        offset = begin or 0
        matches = list_best_matches(connection, search, offset=offset, limit=limit)
        return matches, offset + limit if len(matches) == limit else None

    def _visible(
        self,
        connection: PgConnection,
        requester: Requester,
        matches: Sequence[Match],
        readers: Mapping[int, RoomReader],
    ) -> list[_Found]:
        """Those of the matches that the requester may see."""
        visible = self._list_visible(connection, requester, matches, readers)
        events = self.rendering.load(connection, [match.reference for match, _ in visible])
        found = []
        for match, place in visible:
            event = events.get(match.position)
            if event is not None:
                reader = readers[match.room_nid]
                reader.note_place(place)
                found.append(_Found(match, event, reader))
        return found

    def _list_visible(
        self,
        connection: PgConnection,
        requester: Requester,
        matches: Sequence[Match],
        readers: Mapping[int, RoomReader],
    ) -> list[tuple[Match, EventPlace]]:
        """Those of the matches that the requester may see, and where they stand.

        What others may see is not even counted: the number would tell whether it is there.
        """
        places = self.rendering.event_reads.find_places(
            connection, [match.event_id for match in matches]
        )
        pairs = [
            (readers[match.room_nid].standing, places[match.event_id])
            for match in matches
            if match.event_id in places
        ]
        self.rendering.standings.decide(connection, requester.user_id, pairs)
        visible = [
            (match, place)
            for match in matches
            if (place := places.get(match.event_id)) is not None
            and readers[match.room_nid].standing.is_visible(place)
        ]
        # Whose account ended with the wish to be forgotten is read by those only who were there:
        # others see that there was a message, and must not find out what it said.
        from_outside = {
            match.message_sender
            for match, place in visible
            if match.message_sender is not None
            and readers[match.room_nid].standing.membership_at(place) != "join"
        }
        erased = list_erased_users(connection, from_outside) if from_outside else frozenset()
        return [
            (match, place)
            for match, place in visible
            if match.message_sender not in erased
            or readers[match.room_nid].standing.membership_at(place) == "join"
        ]

    def _add_readers(
        self,
        connection: PgConnection,
        requester: Requester,
        views: Mapping[int, RoomView],
        matches: Sequence[Match],
        readers: dict[int, RoomReader],
    ) -> None:
        """Readers of the rooms of matches, as far as there are none yet."""
        for match in matches:
            if match.room_nid not in readers:
                room_id = views[match.room_nid].room_id
                readers[match.room_nid] = RoomReader(
                    connection, self.rendering, requester, room_id, self.clock.now_ms()
                )

    def _result(self, found: _Found, request: SearchRequest) -> dict[str, Any]:
        reader = found.reader
        result = {"rank": found.match.rank, "result": reader.render([found.event])[0]}
        if request.context is not None:
            result["context"] = _context(found, request.context)
        return result


def _context(found: _Found, wanted: ContextWanted) -> dict[str, Any]:
    reader, at = found.reader, found.match.ordering
    everything = RoomEventFilter()
    before = reader.list_page(
        -EVER, at - 1, limit=wanted.before, newest_first=True, event_filter=everything
    ).rows
    after = reader.list_page(
        at, EVER, limit=wanted.after, newest_first=False, event_filter=everything
    ).rows
    events_before, events_after = reader.load(before), reader.load(after)
    context: dict[str, Any] = {
        "start": format_pagination_token((before[-1].ordering if before else at) - 1),
        "end": format_pagination_token(after[-1].ordering if after else at),
        "events_before": reader.render(events_before),
        "events_after": reader.render(events_after),
    }
    if wanted.with_profiles:
        senders = {event.sender for event in (*events_before, found.event, *events_after)}
        members = reader.find_state(
            [("m.room.member", sender) for sender in sorted(senders)], reader.find_moment(at)
        )
        context["profile_info"] = {
            str(member.state_key): {
                key: value
                for key in ("displayname", "avatar_url")
                if isinstance(value := member.content.get(key), str)
            }
            for member in members
        }
    return context


def _state(reader: RoomReader) -> list[Any]:
    """The state of a room as the reader sees it."""
    span = StateSpan(reader.room_nid, reader.state_at, reader.state_at)
    rows = list_state(reader.connection, [span], with_members=True)
    return reader.render(reader.load(rows), with_membership=False)


def _groups(found: Sequence[_Found], group_by: Sequence[str]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for key in group_by:
        named: dict[str, Any] = {}
        for one in found:
            name = one.reader.room_id if key == "room_id" else one.event.sender
            group = named.setdefault(name, {"results": [], "order": len(named)})
            group["results"].append(one.match.event_id)
        groups[key] = named
    return groups
