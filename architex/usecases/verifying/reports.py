"""What a verification finds, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import orjson

from architex.domain.identifiers import EventId, RoomId
from architex.projections.verification import StoredFact

HOWTO: Final = "docs/howto/verify-a-server.md"
RESTORE: Final = (
    "The log is what everything else is made from: restore this fact from a backup of the database"
    f" ({HOWTO}#the-log)"
)
MEND_HEAD: Final = f"Set the room's row in the table rooms right: {HOWTO}#the-row-of-a-room"
MEND_POSITION: Final = f"Move the end of the log on: {HOWTO}#the-end-of-the-log"
MEND_SNAPSHOT: Final = f"Delete the snapshot, the room does without: {HOWTO}#a-snapshot"
MEND_ANSWER: Final = f"Delete the answer, the client tries again: {HOWTO}#an-answer"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        version: of the fact in its room: 1, 2, 3, …
        position: of the fact in the whole log.
        what: what is wrong.
        mend: what to do about it.
    """

    what: str
    mend: str
    room_id: RoomId | None = None
    version: int | None = None
    position: int | None = None
    event_id: EventId | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """A change of a room's current state that the event it came with does not explain.

    Attributes:
        event_id: what stands since; None when nothing does.
        came_with: the event that was recorded.
    """

    room_id: RoomId
    type: str
    state_key: str
    event_id: EventId | None
    position: int
    came_with: EventId


@dataclass
class Report:
    """What a verification found.

    Attributes:
        rooms, facts: how many were looked at.
        problems: the first ones of each room, at most `max_problems` in all.
        more_problems: how many are not listed.
        resets: changes of state that no event explains; it is the rules that gave them.
        unknown_signatures: signatures by keys that this server does not have.
        not_looked_at: what was left out, and why.
    """

    max_problems: int = 100
    rooms: int = 0
    facts: int = 0
    problems: list[Problem] = field(default_factory=list)
    more_problems: int = 0
    resets: list[Reset] = field(default_factory=list)
    unknown_signatures: int = 0
    not_looked_at: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, problem: Problem) -> None:
        """Take down a problem."""
        if len(self.problems) < self.max_problems:
            self.problems.append(problem)
        else:
            self.more_problems += 1


def event_id_of(stored: StoredFact) -> EventId | None:
    """The event ID that a fact names, if it can be read at all."""
    try:
        envelope = orjson.loads(stored.stored.state)
    except ValueError:
        return None
    event_id = envelope.get("event_id") if isinstance(envelope, dict) else None
    return event_id if isinstance(event_id, str) else None
