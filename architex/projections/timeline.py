"""timeline: the accepted events of each room in the order in which clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from architex.domain.room.aggregate import DUMMY_EVENT_TYPE
from architex.domain.room.events import RecordedFact
from architex.projections.base import Execute, Projection, Row, Timing


class Timeline(Projection):
    """Writes `timeline`."""

    name: ClassVar[str] = "timeline"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = ("timeline",)

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Add the accepted events: at the end, those that were backfilled where they belong."""
        for r in recorded:
            if not r.fact.is_in_timeline or r.pdu.type == DUMMY_EVENT_TYPE:
                continue
            execute(
                "INSERT INTO timeline (room_nid, ordering, position, type, sender, is_state,"
                " has_url) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (
                    r.room_nid,
                    r.position if r.fact.ordering is None else r.fact.ordering,
                    r.event_position,
                    r.pdu.type,
                    r.pdu.sender,
                    r.pdu.is_state,
                    isinstance(r.content.get("url"), str),
                ),
            )
