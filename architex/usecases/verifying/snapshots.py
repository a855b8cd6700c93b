"""The snapshot of a room, compared with what the log says."""

from __future__ import annotations

from dataclasses import dataclass

from architex.domain.room.aggregate import (
    Room,
)
from architex.storage.room_snapshots import decode_snapshot, is_damaged
from architex.usecases.verifying.reports import MEND_SNAPSHOT, Problem
from architex.usecases.verifying.verified_room import VerifiedRoom


@dataclass(frozen=True, slots=True)
class Milestone:
    """What a snapshot of that version must say."""

    position: int
    room: Room


class SnapshotCheck:
    """Remembers what a snapshot of one room may have to say, and checks what it says."""

    def __init__(self, at: VerifiedRoom) -> None:
        self._at = at
        self._versions: set[int] = set()
        self._milestones: dict[int, Milestone] = {}

    def note_snapshot(self) -> None:
        """Look which version the snapshot is of.

        One that appears later than the facts that were just read is of a later version than they.
        """
        snapshot = self._at.replay.find_snapshot(self._at.room_id)
        if snapshot is not None:
            self._versions.add(snapshot.originator_version)

    def note_room(self, position: int, room: Room) -> None:
        """The room as it was after the fact at a position."""
        if room.version in self._versions:
            self._milestones[room.version] = Milestone(position, room)

    def verify(self) -> None:
        """Check the snapshot there is by now."""
        stored = self._at.replay.find_snapshot(self._at.room_id)
        if stored is None:
            return
        version = stored.originator_version
        milestone = self._milestones.get(version)
        problem: str | None
        if is_damaged(stored):
            problem = "its bytes were changed"
        elif milestone is None:
            problem = f"the log has no version {version}"
        else:
            room = decode_snapshot(stored)
            # None: of another schema; such a one is ignored and soon replaced.
            problem = None if room is None else self._find_wrong_part(room, milestone)
        if problem is not None:
            self._at.report.add(
                Problem(
                    f"The room's snapshot is wrong: {problem}",
                    MEND_SNAPSHOT,
                    room_id=self._at.room_id,
                    version=version,
                    position=None if milestone is None else milestone.position,
                )
            )

    def _find_wrong_part(self, room: Room, milestone: Milestone) -> str | None:
        right = milestone.room
        if (room.room_id, room.rules) != (right.room_id, right.rules):
            return f"it is of {room.room_id} in version {room.rules.version}"
        if (room.version, room.depth) != (right.version, right.depth):
            return f"it says version {room.version}, depth {room.depth}; not depth {right.depth}"
        if dict(room.extremities) != dict(right.extremities):
            return f"it says that the room ends with {', '.join(sorted(room.extremities))}"
        entries = self._at.replay.find_entries(
            self._at.room_nid, [(milestone.position, key) for key in room.state]
        )
        pdus = self._at.find_pdus(set(entries.values()))
        for key, pdu in room.state.items():
            event_id = entries.get((milestone.position, key))
            if event_id is None or pdu is None or dict(pdus[event_id].event) != dict(pdu.event):
                return f"it says that {key[0]} {key[1]!r} is {pdu and pdu.event_id}: {event_id} is"
        return None
