"""current_state: the state of each room, now and at every earlier position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from architex.domain.identifiers import RoomId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.room.events import RecordedFact
from architex.domain.room_versions import get_room_version
from architex.projections.base import Execute, Projection, Row, Timing
from architex.storage.event_log import RoomHead
from architex.storage.pool import PgConnection
from architex.storage.room_facts import decode_pdu

FOREVER: Final = 2**63 - 1
"""`valid_to` of what is current."""


class CurrentState(Projection):
    """Writes `current_state`: an entry begins with a fact and ends with the next one's."""

    name: ClassVar[str] = "current_state"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = ("current_state",)
    only_state: ClassVar[bool] = True

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """End the entries that the facts replace, begin those that they set."""
        for r in recorded:
            for (type_, state_key), event_id in r.fact.state_changes.items():
                execute(
                    "UPDATE current_state SET valid_to = %s WHERE room_nid = %s AND type = %s"
                    " AND state_key = %s AND valid_to = 9223372036854775807",
                    (r.position, r.room_nid, type_, state_key),
                )
                if event_id == r.pdu.event_id:
                    membership = r.content.get("membership") if type_ == "m.room.member" else None
                    execute(
                        "INSERT INTO current_state (room_nid, type, state_key, position,"
                        " valid_from, membership) VALUES (%s, %s, %s, %s, %s, %s)",
                        (r.room_nid, type_, state_key, r.position, r.position, membership),
                    )
                elif event_id is not None:
                    execute(
                        "INSERT INTO current_state (room_nid, type, state_key, position,"
                        " valid_from, membership) SELECT %(room)s, %(type)s, %(key)s, g.position,"
                        " %(from)s, CASE WHEN %(type)s = 'm.room.member' THEN"
                        " convert_from(s.state, 'UTF8')::jsonb #>> '{pdu,content,membership}' END"
                        " FROM event_graph g"
                        " JOIN stored_events s ON s.notification_id = g.position"
                        " WHERE g.event_id = %(event_id)s",
                        {
                            "room": r.room_nid,
                            "type": type_,
                            "key": state_key,
                            "from": r.position,
                            "event_id": event_id,
                        },
                    )


class CurrentStateFinder:
    """Looks up entries of current states for decisions."""

    def find_states(
        self, connection: PgConnection, keys: Sequence[tuple[RoomHead, StateKey]]
    ) -> Mapping[tuple[RoomId, StateKey], Pdu]:
        """The current events of those entries that exist; one query."""
        heads = {head.room_nid: head for head, _ in keys}
        rows = connection.execute(
            "SELECT c.room_nid, c.type, c.state_key, s.state"
            " FROM unnest(%s::int8[], %s::text[], %s::text[]) AS k (room_nid, type, state_key)"
            " JOIN current_state c USING (room_nid, type, state_key)"
            " JOIN stored_events s ON s.notification_id = c.position"
            " WHERE c.valid_to = 9223372036854775807",
            (
                [head.room_nid for head, _ in keys],
                [type_ for _, (type_, _) in keys],
                [state_key for _, (_, state_key) in keys],
            ),
        )
        return {
            (heads[room_nid].room_id, (type_, state_key)): decode_pdu(
                state, get_room_version(heads[room_nid].room_version)
            )
            for room_nid, type_, state_key, state in rows.fetchall()
        }
