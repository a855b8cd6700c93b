"""Who left rooms, were kicked or banned, for what is written beside that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from architex.domain.identifiers import UserId
from architex.domain.room.events import ACCEPTED, RecordedFact


class Leaver(NamedTuple):
    """Somebody who left a room, and the position at which they last did."""

    user_id: UserId
    room_nid: int
    position: int


def list_leavers(recorded: Iterable[RecordedFact]) -> Sequence[Leaver]:
    """Those whom recorded facts take out of their rooms."""
    left = {
        (r.pdu.state_key, r.room_nid): Leaver(r.pdu.state_key, r.room_nid, r.position)
        for r in recorded
        if r.fact.verdict == ACCEPTED
        and r.pdu.membership in ("leave", "ban")
        and r.pdu.state_key is not None
    }
    return list(left.values())
