"""memberships: who is in which room, since when; how many are, and from which servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from architex.domain.room.events import Fact, RecordedFact
from architex.projections.base import Projection, Timing
from architex.projections.earlier_members import (
    earlier_members,
    memberships_said,
)
from architex.projections.room_servers import Change, write_changes
from architex.storage.fact_feed import STATE_MARKS
from architex.storage.pool import Execute, Params, Row

# (LATERAL with a LIMIT has the planner look up member by member; else it may read all members of
# a room for each.)
_SELECT_MEMBERS: Final = """
SELECT m.user_id, m.room_nid, m.membership, m.join_position, m.left_position, NULL::bytea
FROM unnest(%b::text[], %b::text[]) AS k (room_id, user_id) JOIN rooms r USING (room_id), LATERAL
(SELECT * FROM memberships m WHERE m.user_id = k.user_id AND m.room_nid = r.room_nid LIMIT 1) m
UNION ALL
SELECT g.event_id, NULL, NULL, NULL, NULL, s.state FROM event_graph g
JOIN stored_events s ON s.notification_id = g.position WHERE g.event_id = ANY(%s)"""

_UPSERT: Final = """
INSERT INTO memberships
    (user_id, room_nid, membership, position, sender, join_position, left_position)
SELECT * FROM unnest(%b::text[], %b::int8[], %b::text[], %b::int8[], %b::text[], %b::int8[],
    %b::int8[])
ON CONFLICT (user_id, room_nid) DO UPDATE SET membership = excluded.membership,
    position = excluded.position, sender = excluded.sender,
    join_position = excluded.join_position, left_position = excluded.left_position"""

_COUNT: Final = """
INSERT INTO room_counts (room_nid, joined, invited) VALUES (%s, %s, %s)
ON CONFLICT (room_nid) DO UPDATE SET joined = room_counts.joined + excluded.joined,
    invited = room_counts.invited + excluded.invited"""


class Memberships(Projection):
    """Writes `memberships`, `room_counts` and `room_servers`."""

    name: ClassVar[str] = "memberships"
    timing: ClassVar[Timing] = Timing.INLINE
    tables: ClassVar[tuple[str, ...]] = ("memberships", "room_counts", "room_servers")
    marks: ClassVar[tuple[str, ...]] = STATE_MARKS

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """What is remembered of the members whom the facts concern."""
        pairs = {
            (fact.originator_id, state_key)
            for fact in facts
            for type_, state_key in fact.state_changes
            if type_ == "m.room.member"
        }
        if not pairs:
            return None
        return (
            _SELECT_MEMBERS,
            (
                [room_id for room_id, _ in pairs],
                [user_id for _, user_id in pairs],
                earlier_members(facts),
            ),
        )

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Move the members to their new memberships, and the counts with them."""
        before: dict[tuple[str, int], tuple[str | None, int | None, int | None]] = {
            (user_id, room_nid): (membership, joined, left)
            for user_id, room_nid, membership, joined, left, _ in answer
            if room_nid is not None
        }
        said = memberships_said(recorded, [(row[0], row[5]) for row in answer if row[1] is None])
        written: dict[tuple[str, int], tuple[Any, ...]] = {}
        counts: dict[int, list[int]] = {}
        servers: list[Change] = []
        for r in recorded:
            for (type_, user_id), event_id in r.fact.state_changes.items():
                if type_ != "m.room.member":
                    continue
                old, joined, left = before.get((user_id, r.room_nid), (None, None, None))
                told = None if event_id is None else said.get(event_id)
                new = "leave" if event_id is None else told and told.membership
                # Of a membership that stands again, or was told with another event, whose it is.
                sender = r.pdu.sender if told is None else told.sender
                if new == "join":
                    joined = joined if old == "join" else r.position
                else:
                    left = r.position if old == "join" else left
                    joined = None
                before[user_id, r.room_nid] = (new, joined, left)
                written[user_id, r.room_nid] = (
                    user_id, r.room_nid, new, r.position, sender, joined, left,
                )  # fmt: skip
                if (new == "join") != (old == "join"):
                    servers.append((r.room_nid, user_id, 1 if new == "join" else -1, r.position))
                count = counts.setdefault(r.room_nid, [0, 0])
                count[0] += (new == "join") - (old == "join")
                count[1] += (new == "invite") - (old == "invite")
        if written:
            execute(_UPSERT, [list(column) for column in zip(*written.values(), strict=True)])
        for room_nid, (joined_change, invited_change) in counts.items():
            execute(_COUNT, (room_nid, joined_change, invited_change))
        write_changes(execute, servers)
