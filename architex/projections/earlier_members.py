"""What member events say that stand again where branches met, though they came earlier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from architex.domain.identifiers import EventId, UserId
from architex.domain.room.events import Fact, RecordedFact
from architex.storage.pool import Row

SELECT_FACTS: Final = """
SELECT g.event_id, s.state FROM event_graph g
JOIN stored_events s ON s.notification_id = g.position WHERE g.event_id = ANY(%s)"""


def earlier_members(facts: Iterable[Fact]) -> list[EventId]:
    """The member events that the facts set into the state, other than themselves."""
    return [
        event_id
        for fact in facts
        for (type_, _), event_id in fact.state_changes.items()
        if type_ == "m.room.member" and event_id is not None and event_id != fact.pdu.event_id
    ]


class SaidMember(NamedTuple):
    """What a member event says."""

    membership: str | None
    sender: UserId


def memberships_said(
    recorded: Iterable[RecordedFact], rows: Sequence[Row]
) -> Mapping[EventId, SaidMember]:
    """What member events say, of the recorded facts and of those that SELECT_FACTS found."""
    said = {
        r.pdu.event_id: SaidMember(r.content.get("membership"), r.pdu.sender)
        for r in recorded
        if r.pdu.type == "m.room.member"
    }
    for event_id, state in rows:
        pdu = orjson.loads(state)["pdu"]
        said[event_id] = SaidMember(pdu["content"].get("membership"), pdu["sender"])
    return said
