"""One room under verification."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from architex.domain.identifiers import EventId
from architex.domain.pdu import (
    Pdu,
)
from architex.domain.room.events import (
    RecordedFact,
)
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.domain.signing import (
    FindVerifyKey,
)
from architex.projections.branch_states import BranchStates, KnownEvent
from architex.projections.verification import Replay, StoredFact
from architex.storage.event_log import RoomHead
from architex.usecases.resolving import Resolving
from architex.usecases.verifying.reports import Problem, Report, event_id_of


class VerifiedRoom:
    """What every look at one room needs: where it is read from, and where problems are told.

    Attributes:
        find_verify_key: the keys that are known; signatures by others are counted, not checked.
    """

    def __init__(
        self,
        head: RoomHead,
        replay: Replay,
        branches: BranchStates,
        report: Report,
        find_verify_key: FindVerifyKey,
    ) -> None:
        self.room_id = head.room_id
        self.room_nid = head.room_nid
        self.rules: RoomVersionRules = get_room_version(head.room_version)
        self.replay = replay
        self.report = report
        self.find_verify_key = find_verify_key
        self.resolving = Resolving(branches, replay.connection, head.room_nid, self.rules)
        self._branches = branches

    def find_events(self, event_ids: Collection[EventId]) -> dict[EventId, KnownEvent]:
        """Those of the events that the replay has by now."""
        return self._branches.find_events(
            self.replay.connection, self.room_nid, self.rules, event_ids
        )

    def find_pdus(self, event_ids: Collection[EventId]) -> Mapping[EventId, Pdu]:
        """The events themselves."""
        return self._branches.find_pdus(self.replay.connection, self.rules, event_ids)

    def problem(self, stored: StoredFact, what: str, mend: str) -> None:
        """Tell what is wrong with a fact, which perhaps cannot be read."""
        self.report.add(
            Problem(
                what,
                mend,
                room_id=self.room_id,
                version=stored.stored.originator_version,
                position=stored.position,
                event_id=event_id_of(stored),
            )
        )

    def problem_at(self, recorded: RecordedFact, what: str, mend: str) -> None:
        """Tell what is wrong with a fact."""
        self.report.add(
            Problem(
                what,
                mend,
                room_id=self.room_id,
                version=recorded.fact.originator_version,
                position=recorded.position,
                event_id=recorded.pdu.event_id,
            )
        )
