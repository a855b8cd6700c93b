"""relations: which events belong to which, as edits, reactions, threads and references do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from architex.domain.identifiers import EventId
from architex.domain.relations import THREAD, Relation, find_relation, has_new_content
from architex.domain.room.events import ACCEPTED, RecordedFact
from architex.projections.base import Projection, Timing
from architex.storage.pool import Execute, Row

# The redaction may have come first; `redactions` is written before this.
_INSERT: Final = """
INSERT INTO relations (event_id, room_nid, parent, rel_type, type, sender, ordering, position,
    origin_server_ts, is_edit, annotation)
SELECT %(event)s, %(room)s, %(parent)s, %(rel_type)s, %(type)s, %(sender)s, %(ordering)s,
    %(position)s, %(origin_server_ts)s, %(is_edit)s, %(key)s
WHERE NOT EXISTS (SELECT FROM redactions d WHERE d.room_nid = %(room)s AND d.event_id = %(event)s
    AND (d.server IS NULL OR d.server = substr(%(sender)s, strpos(%(sender)s, ':') + 1)))
ON CONFLICT DO NOTHING"""

_INSERT_THREAD: Final = """
INSERT INTO threads (room_nid, root, latest)
SELECT r.room_nid, r.parent, r.ordering FROM relations r WHERE r.event_id = %s
ON CONFLICT (room_nid, root) DO UPDATE SET latest = greatest(threads.latest, excluded.latest)"""

_GONE: Final = """gone.event_id = %(event)s AND gone.room_nid = %(room)s
AND (%(server)s::text IS NULL
    OR %(server)s::text = substr(gone.sender, strpos(gone.sender, ':') + 1))"""

_UPDATE_THREAD: Final = f"""
UPDATE threads t SET latest = (SELECT max(r.ordering) FROM relations r
    WHERE r.room_nid = t.room_nid AND r.parent = t.root AND r.rel_type = 'm.thread'
    AND r.event_id <> %(event)s)
FROM relations gone WHERE {_GONE} AND gone.rel_type = 'm.thread'
AND t.room_nid = gone.room_nid AND t.root = gone.parent"""  # noqa: S608 - our own text

_DELETE: Final = f"DELETE FROM relations gone WHERE {_GONE}"  # noqa: S608 - our own text
_DELETE_THREAD: Final = "DELETE FROM threads WHERE room_nid = %(room)s AND latest IS NULL"


class Relations(Projection):
    """Writes `relations` and `threads`."""

    name: ClassVar[str] = "relations"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = ("relations", "threads")

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Add relations; end those of redacted events."""
        for r in recorded:
            target = r.pdu.redacts
            if r.fact.verdict == ACCEPTED and target is not None:
                self._redact(execute, r, target)
            if r.fact.is_in_timeline:
                relation = find_relation(r.content)
                if relation is not None:
                    _add(execute, r, relation)

    def _redact(self, execute: Execute, r: RecordedFact, target: EventId) -> None:
        params = {"event": target, "room": r.room_nid, "server": r.fact.redaction_server}
        for statement in (_UPDATE_THREAD, _DELETE, _DELETE_THREAD):
            execute(statement, params)


def _add(execute: Execute, r: RecordedFact, relation: Relation) -> None:
    pdu = r.pdu
    execute(
        _INSERT,
        {
            "event": pdu.event_id,
            "room": r.room_nid,
            "parent": relation.parent,
            "rel_type": relation.rel_type,
            "type": pdu.type,
            "sender": pdu.sender,
            "ordering": r.ordering,
            "position": r.event_position,
            "origin_server_ts": pdu.origin_server_ts,
            "is_edit": not pdu.is_state and has_new_content(pdu.type, r.content),
            "key": relation.key,
        },
    )
    if relation.rel_type == THREAD:
        execute(_INSERT_THREAD, (pdu.event_id,))
