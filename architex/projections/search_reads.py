"""Questions about the words of events.

The words of a search are ANDed; "quoted" ones stand together, and -words must not be there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from architex.domain.event_filter import RoomEventFilter
from architex.domain.identifiers import EventId, UserId
from architex.projections.event_reads import Reference
from architex.projections.room_reads import like_pattern, sendable
from architex.storage.pool import PgConnection


@dataclass(frozen=True, slots=True)
class Match:
    """An event whose words are those that were searched.

    Attributes:
        rank: how well it matches; more is better.
        message_sender: who sent it, if it is no state event.
    """

    room_nid: int
    event_id: EventId
    position: int
    redacted_by: int | None
    ordering: int
    rank: float
    message_sender: UserId | None

    @property
    def reference(self) -> Reference:
        """By which it is loaded."""
        return (self.position, self.redacted_by)


_MATCHES: Final = """
FROM websearch_to_tsquery('simple', %(term)s) q, message_search m
JOIN event_graph g ON g.position = m.position
JOIN timeline t ON t.room_nid = m.room_nid AND t.position = m.position
    AND t.ordering = coalesce(g.ordering, m.position)
WHERE m.words @@ q AND ts_filter(m.words, %(labels)s::"char"[]) @@ q
    AND m.room_nid = ANY(%(rooms)s) AND g.redacted_by IS NULL
    AND (%(types)s::text[] IS NULL OR t.type LIKE ANY(%(types)s))
    AND NOT t.type LIKE ANY(%(not_types)s)
    AND (%(senders)s::text[] IS NULL OR t.sender = ANY(%(senders)s))
    AND NOT t.sender = ANY(%(not_senders)s)
    AND (%(contains_url)s::boolean IS NULL OR t.has_url = %(contains_url)s) """

_SELECT: Final = """
SELECT m.room_nid, g.event_id, m.position, g.redacted_by, t.ordering, ts_rank(m.words, q),
    CASE WHEN NOT t.is_state THEN t.sender END"""

_RECENT: Final = (
    _SELECT + _MATCHES + "AND t.ordering <= %(at)s ORDER BY t.ordering DESC LIMIT %(limit)s"
)
_RANKED: Final = (
    _SELECT + _MATCHES + "ORDER BY 6 DESC, t.ordering DESC OFFSET %(at)s LIMIT %(limit)s"
)
_WORDS: Final = """
SELECT DISTINCT lexeme FROM unnest(to_tsvector('simple', %s)) AS w (lexeme, places, labels)
ORDER BY lexeme"""


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, and where.

    Attributes:
        labels: of `message_search.words`: A, B, C.
    """

    term: str
    labels: Collection[str]
    room_nids: Collection[int]
    event_filter: RoomEventFilter

    def params(self, limit: int, at: int = 0) -> dict[str, object]:
        """For the statements."""
        types, senders = self.event_filter.types, self.event_filter.senders
        return {
            "term": self.term.replace("\0", " "),
            "labels": list(self.labels),
            "rooms": list(self.room_nids),
            "types": None if types is None else [like_pattern(t) for t in sendable(types)],
            "not_types": [like_pattern(t) for t in sendable(self.event_filter.not_types)],
            "senders": None if senders is None else sendable(senders),
            "not_senders": sendable(self.event_filter.not_senders),
            "contains_url": self.event_filter.contains_url,
            "limit": limit,
            "at": at,
        }


def list_recent_matches(
    connection: PgConnection, search: Search, *, up_to: int, limit: int
) -> list[Match]:
    """The newest matches at or before an ordering."""
    rows = connection.execute(_RECENT, search.params(limit, up_to)).fetchall()
    return [Match(*row) for row in rows]


def list_best_matches(
    connection: PgConnection, search: Search, *, offset: int, limit: int
) -> list[Match]:
    """The best matches, after so many."""
    rows = connection.execute(_RANKED, search.params(limit, offset)).fetchall()
    return [Match(*row) for row in rows]


def list_words(connection: PgConnection, term: str) -> list[str]:
    """The words of a search as they are compared."""
    return [word for (word,) in connection.execute(_WORDS, (term.replace("\0", " "),)).fetchall()]


def list_encrypted_rooms(connection: PgConnection, room_nids: Collection[int]) -> set[int]:
    """The numbers of those of the rooms that are encrypted."""
    rows = connection.execute(
        "SELECT room_nid FROM current_state WHERE room_nid = ANY(%s)"
        " AND type = 'm.room.encryption' AND state_key = '' AND valid_to = 9223372036854775807",
        (list(room_nids),),
    ).fetchall()
    return {room_nid for (room_nid,) in rows}
