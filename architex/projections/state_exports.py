"""States of rooms and their auth chains as other servers are told them: event by event, as JSON.

Which events belong to a state is a list of numbers; their JSON is read piece by piece, so that
telling a large room takes no memory. The events are not parsed: what was stored is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from architex.domain.canonical_json import encode_lenient_json, parse_json
from architex.domain.client_event import STRIPPED_STATE_TYPES
from architex.domain.pdu import StateKey
from architex.domain.redaction import redact_event
from architex.domain.room.events import StateBefore
from architex.domain.room_versions import RoomVersionRules
from architex.storage.pool import Database, PgConnection

PIECE: Final = 500
"""Events read at once."""

_PDU_KEY: Final = b',"pdu":'

# The state at a position, changed by an overlay and those below it; what lies above counts.
_STATE: Final = """
WITH RECURSIVE stack (overlay, parent, above) AS (
    SELECT overlay, parent, 0 FROM state_overlays WHERE overlay = %(overlay)s
    UNION ALL SELECT o.overlay, o.parent, s.above + 1 FROM stack s
    JOIN state_overlays o ON o.overlay = s.parent),
changes AS MATERIALIZED (
    SELECT DISTINCT ON (e.type, e.state_key) e.type, e.state_key, e.position
    FROM stack JOIN overlay_entries e USING (overlay)
    ORDER BY e.type, e.state_key, stack.above),
stands AS (
    SELECT type, state_key, position FROM current_state
    WHERE room_nid = %(room)s AND valid_to = 9223372036854775807 AND valid_from <= %(at)s
    UNION ALL SELECT type, state_key, position FROM current_state
    WHERE room_nid = %(room)s AND valid_to < 9223372036854775807
    AND valid_to > %(at)s AND valid_from <= %(at)s),
entries AS (
    SELECT type, state_key, position FROM stands WHERE NOT EXISTS (
        SELECT FROM changes c WHERE c.type = stands.type AND c.state_key = stands.state_key)
    UNION ALL SELECT type, state_key, position FROM changes WHERE position IS NOT NULL)
SELECT position FROM entries"""

_WITHOUT_MEMBERS: Final = " WHERE type <> 'm.room.member' OR state_key = ANY(%(members)s)"

_UNDER_KEYS: Final = """ WHERE (type, state_key) IN (
    SELECT * FROM unnest(%(types)s::text[], %(keys)s::text[]))"""

_AUTH_CHAIN: Final = """
WITH RECURSIVE chain (position) AS (
    SELECT unnest(auth_events) FROM event_graph WHERE position = ANY(%s)
    UNION SELECT unnest(g.auth_events) FROM chain JOIN event_graph g USING (position))
SELECT position FROM chain ORDER BY position"""

_EVENTS: Final = """
SELECT s.state, g.redacted_by FROM event_graph g JOIN stored_events s
ON s.notification_id = g.position WHERE g.position = ANY(%s) ORDER BY g.position"""


def list_state(connection: PgConnection, room_nid: int, state: StateBefore) -> list[int]:
    """The positions of all events of a state that has no further entries, ascending."""
    rows = connection.execute(_STATE.encode(), _params(room_nid, state)).fetchall()
    return sorted(position for (position,) in rows)


def list_state_without_members(
    connection: PgConnection, room_nid: int, state: StateBefore, members: Collection[str] = ()
) -> list[int]:
    """The positions of the events of a state but the m.room.member events.

    Args:
        members: users whose member events are listed nevertheless.
    """
    params = {**_params(room_nid, state), "members": list(members)}
    rows = connection.execute((_STATE + _WITHOUT_MEMBERS).encode(), params).fetchall()
    return [position for (position,) in rows]


def list_state_under(
    connection: PgConnection, room_nid: int, state: StateBefore, keys: Collection[StateKey]
) -> list[int]:
    """The positions of the events of a state under `keys`."""
    params = {
        **_params(room_nid, state),
        "types": [type_ for type_, _ in keys],
        "keys": [state_key for _, state_key in keys],
    }
    rows = connection.execute((_STATE + _UNDER_KEYS).encode(), params).fetchall()
    return [position for (position,) in rows]


def list_auth_chain(connection: PgConnection, positions: Sequence[int]) -> list[int]:
    """The positions of all events that authorise those at `positions`, parents first.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#definitions
    """
    rows = connection.execute(_AUTH_CHAIN.encode(), (list(positions),)).fetchall()
    return [position for (position,) in rows]


def load_events(
    connection: PgConnection, rules: RoomVersionRules, positions: Sequence[int]
) -> list[bytes]:
    """The events at `positions` as JSON, as servers exchange them; redacted ones pruned."""
    rows = connection.execute(_EVENTS.encode(), (list(positions),), binary=True).fetchall()
    return [
        event_json(rules, state, redacted=redacted_by is not None) for state, redacted_by in rows
    ]


def iterate_events(
    database: Database, rules: RoomVersionRules, positions: Sequence[int]
) -> Iterator[bytes]:
    """The events at `positions`, read piece by piece; see `load_events`.

    No connection is held while whoever reads them is slow: events never change.
    """
    for start in range(0, len(positions), PIECE):
        with database.connection() as connection:
            events = load_events(connection, rules, positions[start : start + PIECE])
        yield from events


def stream_events(
    database: Database, rules: RoomVersionRules, positions: Sequence[int]
) -> Iterator[bytes]:
    """The elements of a JSON array of the events at `positions`, with commas between."""
    events = iterate_events(database, rules, positions)
    separator = b""
    while piece := list(islice(events, PIECE)):
        yield separator + b",".join(piece)
        separator = b","


def load_stripped_state(
    connection: PgConnection, rules: RoomVersionRules, room_nid: int, keys: Iterable[StateKey] = ()
) -> list[bytes]:
    """What of a room's current state those may know who are not in it: whole events, as JSON.

    Args:
        keys: further entries of the state, such as the member event of who invites.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
    """
    wanted = {*((type_, "") for type_ in STRIPPED_STATE_TYPES), *keys}
    now = StateBefore(2**63 - 2)
    return load_events(connection, rules, list_state_under(connection, room_nid, now, wanted))


def _params(room_nid: int, state: StateBefore) -> dict[str, object]:
    return {"room": room_nid, "at": state.at, "overlay": state.overlay}


def event_json(rules: RoomVersionRules, state: bytes, *, redacted: bool = False) -> bytes:
    """The event in a fact's bytes, as servers exchange it.

    Args:
        state: as storage.room_facts writes them.
        redacted: prune it.
    """
    # Nothing in the envelope before it has such a key, and no string holds a bare quote.
    stored = bytes(state[state.index(_PDU_KEY) + len(_PDU_KEY) : -1])
    if not redacted and b'"unsigned"' not in stored:
        return stored
    event = parse_json(stored)
    event.pop("unsigned", None)
    return encode_lenient_json(redact_event(rules, event) if redacted else event)
