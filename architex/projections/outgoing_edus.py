"""EDUs that other servers get beside events: what a source of them is; typing, receipts, presence.

A source reads rows that carry positions. What changed twice before it was sent goes out once, as
it is then.

Spec: https://spec.matrix.org/v1.19/server-server-api/#edus
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from architex.domain.canonical_json import Json
from architex.domain.identifiers import ServerName
from architex.storage.pool import PgConnection
from architex.storage.presence import Presence
from architex.storage.receipts import UNTHREADED


@dataclass(frozen=True, slots=True)
class EduBatch:
    """Some EDUs.

    Attributes:
        edus: with `edu_type` and `content`.
        up_to: everything up to this position is among them.
    """

    edus: Sequence[Json]
    up_to: int


class EduSource(Protocol):
    """A kind of EDU, made from rows that carry positions.

    Positions of ranges: `after < position <= up_to`; all that has such a position is committed.
    """

    @property
    def name(self) -> str:
        """Unique among the sources."""

    @property
    def is_durable(self) -> bool:
        """Whether it must arrive: also when the sender is restarted, or the other server away.

        What is not durable may be lost in a restart of ours.
        """

    @property
    def is_perishable(self) -> bool:
        """Whether it is not worth sending any more once a try has failed."""

    @property
    def traces(self) -> Sequence[str]:
        """Where its news leaves traces; without one `list_destinations` has nothing to say.

        Each is SQL: what stands behind FROM, with a column `at` that holds positions.
        """

    @property
    def servers_per_second(self) -> float | None:
        """To how many servers a second it may occasion a transaction; None for any number.

        Others get it later, or with what else is sent to them.
        """

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        """Which servers are to hear of what changed; server → the position of the first of it.

        Never our own. One statement, whatever the number of servers.
        """

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        """What a server is to hear of a range of positions, in order; about `limit` EDUs.

        What has one position comes together: a few more, rather than half of it. Asked again
        with the same range, a durable source answers the same.
        """

    def note_delivered(
        self, connection: PgConnection, destination: ServerName, up_to: int
    ) -> None:
        """A server has everything up to a position: rows kept for it alone may go.

        Called in the sender's transaction, and now and then twice.
        """


@dataclass(frozen=True, slots=True)
class Heard:
    """What a look at the log shows.

    Attributes:
        position: how far the log has come.
        has_nudges: whether a server is to be tried earlier than planned.
        sources: names of those with news.
    """

    position: int
    has_nudges: bool
    sources: frozenset[str]


EVENTS: Final = "events"
"""The name under which the events that servers are owed stand among the sources."""

# That every event has a position has the index by positions taken, also while the queue is empty.
_OUTGOING_EVENTS: Final = "(SELECT position AS at FROM outgoing_events WHERE event_position > 0)"
_HEARD: Final = """
SELECT l.position, EXISTS (SELECT FROM destinations WHERE nudge > 0){more} FROM log_position l"""
_TRACE: Final = (
    "EXISTS (SELECT FROM {trace} t WHERE t.at > (SELECT %(after)s) AND t.at <= l.position)"
)


class Listening:
    """Asks all sources at once whether anything is new; mostly nothing is."""

    def __init__(self, sources: Iterable[EduSource]) -> None:
        """Remember the sources."""
        traces = {EVENTS: [_OUTGOING_EVENTS], **{s.name: s.traces for s in sources}}
        self._names = list(traces)
        more = [
            ", " + (" OR ".join(_TRACE.format(trace=one) for one in some) or "false")
            for some in traces.values()
        ]
        self._question = _HEARD.format(more="".join(more)).encode()

    def listen(self, connection: PgConnection, after: int) -> Heard:
        """What is new after a position. One statement, whatever the number of sources."""
        row = connection.execute(self._question, {"after": after}).fetchone()
        if row is None:
            return Heard(0, has_nudges=False, sources=frozenset())
        position, has_nudges, *are_new = row
        heard = [name for name, is_new in zip(self._names, are_new, strict=True) if is_new]
        return Heard(position, has_nudges, frozenset(heard))


_RANGE: Final = "x.position > %(after)s AND x.position <= %(up_to)s"
_OWN: Final = "substring(x.user_id FROM position(':' IN x.user_id) + 1) = %(own)s"

# Of rows that belong to a room, for the servers in it.
_SERVERS_OF_ROOMS: Final = """
SELECT s.server_name, min(x.position) FROM {table} x JOIN room_servers s USING (room_nid)
WHERE {range} AND {own} AND s.joined > 0 AND s.server_name <> %(own)s{more}
GROUP BY s.server_name"""
# What has one position comes together.
_OF_ROOMS: Final = """
SELECT {columns} FROM {table} x JOIN rooms r USING (room_nid) JOIN room_servers s USING (room_nid)
WHERE {range} AND {own} AND s.joined > 0 AND s.server_name = %(to)s{more}
ORDER BY x.position FETCH FIRST %(limit)s ROWS WITH TIES"""
_PUBLIC: Final = " AND x.receipt_type = 'm.read'"

_SERVERS_OF_TYPING: Final = _SERVERS_OF_ROOMS.format(
    table="typing", range=_RANGE, own=_OWN, more=""
)
_TYPING: Final = _OF_ROOMS.format(
    columns="x.position, r.room_id, x.user_id, x.expires_ts > %(now)s",
    table="typing",
    range=_RANGE,
    own=_OWN,
    more="",
)
_SERVERS_OF_RECEIPTS: Final = _SERVERS_OF_ROOMS.format(
    table="receipts", range=_RANGE, own=_OWN, more=_PUBLIC
)
_RECEIPTS: Final = _OF_ROOMS.format(
    columns="x.position, r.room_id, x.user_id, x.thread_id, x.event_id, x.ts",
    table="receipts",
    range=_RANGE,
    own=_OWN,
    more=_PUBLIC,
)
# Who is to hear of whose presence, from which position on: when it changes; when another server
# or ours comes into a room (`c`); when a further user of ours does, whose join is an event that
# the others are owed. Our users in such rooms are looked for first: rooms may be very large.
_PRESENCE_NEWS_TEMPLATE: Final = """
SELECT s.server_name, x.user_id, x.position AS at FROM presence x
    JOIN memberships m USING (user_id) JOIN room_servers s USING (room_nid)
WHERE {range} AND {own} AND m.membership = 'join' AND s.joined > 0{to}
UNION ALL
(WITH rooms AS MATERIALIZED (
    SELECT DISTINCT room_nid FROM room_servers WHERE since > %(after)s AND since <= %(up_to)s
), users AS MATERIALIZED (
    SELECT rooms.room_nid, x.user_id FROM rooms CROSS JOIN presence x
    WHERE {own} AND x.presence <> 'offline' AND EXISTS (SELECT 1 FROM memberships m
        WHERE m.user_id = x.user_id AND m.room_nid = rooms.room_nid AND m.membership = 'join')
)
SELECT s.server_name, u.user_id, c.since FROM users u
    JOIN room_servers s USING (room_nid) JOIN room_servers c USING (room_nid)
WHERE s.joined > 0{to} AND c.server_name IN (s.server_name, %(own)s)
    AND c.since > %(after)s AND c.since <= %(up_to)s)
UNION ALL
SELECT s.server_name, x.user_id, e.position FROM outgoing_events e
    JOIN memberships m ON m.room_nid = e.room_nid AND m.join_position = e.position
    JOIN presence x USING (user_id) JOIN room_servers s ON s.room_nid = e.room_nid
WHERE e.position > %(after)s AND e.position <= %(up_to)s AND s.joined > 0{to}
    AND {own} AND x.presence <> 'offline'"""

_SERVERS_OF_PRESENCE_TEMPLATE: Final = """
SELECT server_name, min(at) FROM ({news}) n WHERE server_name <> %(own)s GROUP BY server_name"""
_SERVERS_OF_PRESENCE: Final = _SERVERS_OF_PRESENCE_TEMPLATE.format(
    news=_PRESENCE_NEWS_TEMPLATE.format(range=_RANGE, own=_OWN, to="")
)
_PRESENCE_TEMPLATE: Final = """
SELECT n.at, p.user_id, p.presence, p.status_msg, p.last_active_ts, p.last_sync_ts
FROM (SELECT user_id, max(at) AS at FROM ({news}) u GROUP BY user_id) n
JOIN presence p USING (user_id) ORDER BY n.at FETCH FIRST %(limit)s ROWS WITH TIES"""
_PRESENCE: Final = _PRESENCE_TEMPLATE.format(
    news=_PRESENCE_NEWS_TEMPLATE.format(range=_RANGE, own=_OWN, to=" AND s.server_name = %(to)s")
)

_PRESENCES_PER_EDU: Final = 20


@dataclass(frozen=True)
class _Rows:
    """What the sources below have in common.

    Attributes:
        own: our server name; only users of ours are told about.
    """

    own: ServerName

    def _servers(
        self, connection: PgConnection, sql: str, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        params = {"own": self.own, "after": after, "up_to": up_to}
        return dict(connection.execute(sql.encode(), params).fetchall())

    def _rows(
        self,
        connection: PgConnection,
        sql: str,
        destination: ServerName,
        after: int,
        up_to: int,
        limit: int,
        **more: Any,
    ) -> tuple[list[tuple[Any, ...]], int]:
        """Rows that begin with their position; and up to where they are all."""
        rows = connection.execute(
            sql.encode(),
            {
                "own": self.own,
                "to": destination,
                "after": after,
                "up_to": up_to,
                "limit": limit,
                **more,
            },
        ).fetchall()
        return rows, up_to if len(rows) < limit else rows[-1][0]

    def note_delivered(
        self, connection: PgConnection, destination: ServerName, up_to: int
    ) -> None:
        """See EduSource: nothing is kept for a server alone."""


@dataclass(frozen=True)
class TypingEdus(_Rows):
    """m.typing: who began or stopped typing, for the servers in the room.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#typing-notifications
    """

    now_ms: Callable[[], int]
    name: str = "typing"
    traces: Sequence[str] = ("(SELECT position AS at FROM typing)",)
    is_durable: bool = False
    is_perishable: bool = True
    servers_per_second: float | None = None

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        """See EduSource."""
        return self._servers(connection, _SERVERS_OF_TYPING, after, up_to)

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        """See EduSource."""
        rows, reached = self._rows(
            connection, _TYPING, destination, after, up_to, limit, now=self.now_ms()
        )
        edus = [
            {
                "edu_type": "m.typing",
                "content": {"room_id": room_id, "user_id": user_id, "typing": typing},
            }
            for _, room_id, user_id, typing in rows
        ]
        return EduBatch(edus, reached)


@dataclass(frozen=True)
class ReceiptEdus(_Rows):
    """m.receipt: how far users have read, as far as they let others know.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#receipts
    """

    name: str = "receipts"
    traces: Sequence[str] = ("(SELECT position AS at FROM receipts)",)
    is_durable: bool = False
    is_perishable: bool = False
    servers_per_second: float | None = None

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        """See EduSource."""
        return self._servers(connection, _SERVERS_OF_RECEIPTS, after, up_to)

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        """See EduSource."""
        rows, reached = self._rows(connection, _RECEIPTS, destination, after, up_to, limit)
        # An EDU has room for one receipt of a user in a room: one for each thread makes another.
        contents: list[Json] = []
        for _, room_id, user_id, thread_id, event_id, ts in rows:
            data = {"ts": ts} if thread_id == UNTHREADED else {"ts": ts, "thread_id": thread_id}
            receipt = {"event_ids": [event_id], "data": data}
            for content in contents:
                users = content.setdefault(room_id, {"m.read": {}})["m.read"]
                if user_id not in users:
                    users[user_id] = receipt
                    break
            else:
                contents.append({room_id: {"m.read": {user_id: receipt}}})
        return EduBatch(
            [{"edu_type": "m.receipt", "content": content} for content in contents], reached
        )


@dataclass(frozen=True)
class PresenceEdus(_Rows):
    """m.presence: how users are there, for the servers that share rooms with them.

    Attributes:
        content_of: the content of an m.presence event, by the presence and the time.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#presence
    """

    now_ms: Callable[[], int]
    content_of: Callable[[Presence, int], Json]
    name: str = "presence"
    traces: Sequence[str] = (
        "(SELECT position AS at FROM presence)",
        "(SELECT since AS at FROM room_servers)",
        _OUTGOING_EVENTS,
    )
    is_durable: bool = False
    is_perishable: bool = True
    servers_per_second: float | None = 50.0

    def list_destinations(
        self, connection: PgConnection, after: int, up_to: int
    ) -> Mapping[ServerName, int]:
        """See EduSource."""
        return self._servers(connection, _SERVERS_OF_PRESENCE, after, up_to)

    def list_edus(
        self, connection: PgConnection, destination: ServerName, after: int, up_to: int, limit: int
    ) -> EduBatch:
        """See EduSource."""
        rows, reached = self._rows(
            connection, _PRESENCE, destination, after, up_to, limit * _PRESENCES_PER_EDU
        )
        now_ms = self.now_ms()
        push = [
            {
                "user_id": row[1],
                "last_active_ago": 0,
                **self.content_of(Presence(*row[1:]), now_ms),
            }
            for row in rows
        ]
        edus = [
            {
                "edu_type": "m.presence",
                "content": {"push": push[start : start + _PRESENCES_PER_EDU]},
            }
            for start in range(0, len(push), _PRESENCES_PER_EDU)
        ]
        return EduBatch(edus, reached)
