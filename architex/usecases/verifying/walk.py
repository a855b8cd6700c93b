"""Walking through all rooms, or through one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from architex.domain.identifiers import RoomId
from architex.domain.signing import (
    FindVerifyKey,
)
from architex.projections.branch_states import BranchStates
from architex.projections.verification import Answer, Difference, Replay
from architex.storage.event_log import RoomHead
from architex.storage.transactions import TransactionKey
from architex.usecases.verifying.pace import Pace, Progress
from architex.usecases.verifying.reports import (
    MEND_ANSWER,
    MEND_HEAD,
    MEND_POSITION,
    Problem,
    Report,
    event_id_of,
)
from architex.usecases.verifying.room_walk import CHUNK_SIZE, RoomWalk
from architex.usecases.verifying.verified_room import VerifiedRoom

GROUP_FACTS: Final = 5_000
GROUP_ROOMS: Final = 100
"""Rooms are compared in groups, of about so many facts and at most so many rooms."""

MAX_CATCHING_UP: Final = 20
"""How often a group reads on before it is compared, while its rooms go on."""

MAX_STRAYS: Final = 20


class Walk:
    """One walk through the rooms.

    Attributes:
        has_unreadable: whether there is something that cannot be replayed.
    """

    def __init__(
        self,
        replay: Replay,
        find_verify_key: FindVerifyKey,
        report: Report,
        pace: Pace,
        on_progress: Progress,
    ) -> None:
        self.has_unreadable = False
        self._replay = replay
        self._report = report
        self._pace = pace
        self._branches = BranchStates()
        self._find_verify_key = find_verify_key
        self._on_progress = on_progress
        self._total = 0

    def run(self, room_id: RoomId | None) -> None:
        """Look at all rooms, or at one."""
        self._total = self._replay.count_facts(room_id)
        for group in self._groups(room_id):
            self._verify_group(group)
            self._replay.clear()
        self._verify_answers(room_id)
        if room_id is None:
            self._verify_whole()

    def _walk_of(self, head: RoomHead) -> RoomWalk:
        at = VerifiedRoom(head, self._replay, self._branches, self._report, self._find_verify_key)
        return RoomWalk(head, at, self._pace, self._progress)

    def _progress(self, facts: int, what: str) -> None:
        self._report.facts += facts
        self._total = max(self._total, self._report.facts)
        self._on_progress(self._report.facts, self._total, what)

    def _groups(self, room_id: RoomId | None) -> Iterator[list[RoomHead]]:
        group: list[RoomHead] = []
        after = -(2**63)
        while heads := self._replay.list_heads(room_id, after, GROUP_ROOMS):
            for head in heads:
                group.append(head)
                if (
                    len(group) >= GROUP_ROOMS
                    or sum(member.version for member in group) >= GROUP_FACTS
                ):
                    yield group
                    group = []
            after = heads[-1].room_nid
        if group:
            yield group

    def _verify_group(self, heads: Sequence[RoomHead]) -> None:
        rooms = {head.room_nid: self._walk_of(head) for head in heads}
        # Mostly outside of any transaction: only the last step needs one moment for everything.
        for _ in range(MAX_CATCHING_UP):
            moved = sum(room.read_on(pause=True) for room in rooms.values())
            if moved < CHUNK_SIZE:
                break
        with self._replay.moment():
            now = self._replay.find_heads(rooms)
            end = self._replay.find_log_position()
            for room_nid, room in rooms.items():
                room.read_on(pause=False)
                room.verify_end(now.get(room_nid), end)
            differences = list(self._replay.compare_rooms([room.head for room in rooms.values()]))
        broken = {room.head.room_id for room in rooms.values() if room.is_broken}
        homes = {nid: room.head.room_id for nid, room in rooms.items()}
        for difference in differences:
            problem = self._problem_of(difference, homes)
            # Of a broken room nothing was replayed after what is broken.
            if problem.room_id not in broken:
                self._report.add(problem)
        self.has_unreadable = self.has_unreadable or bool(broken)
        self._report.rooms += len(rooms)

    def _problem_of(self, difference: Difference, homes: Mapping[int, RoomId]) -> Problem:
        position = difference.position
        fact = None if position is None else self._replay.find_fact_at(position)
        room_id = homes.get(difference.room_nid or -1)
        return Problem(
            f"Projection {difference.table.projection}: {difference}",
            f"architex projections rebuild {difference.table.projection}",
            room_id=room_id if fact is None else str(fact.stored.originator_id),
            version=None if fact is None else fact.stored.originator_version,
            position=position,
            event_id=None if fact is None else event_id_of(fact),
        )

    def _verify_answers(self, room_id: RoomId | None) -> None:
        """Each answer to a client's transaction is the event that the transaction made."""
        last: TransactionKey | None = None
        while answers := self._replay.list_answers(room_id, last, CHUNK_SIZE):
            for answer in answers:
                problem = _find_wrong_in_answer(answer)
                if problem is None:
                    continue
                key = answer.transaction
                self._report.add(
                    Problem(
                        f"The transaction {key.txn_id!r} of {key.user_id} ({key.device_id}) at"
                        f" {key.path} was answered with {answer.event_id}: {problem}",
                        MEND_ANSWER,
                        room_id=room_id,
                        position=answer.position,
                        event_id=answer.event_id,
                    )
                )
            last = answers[-1].transaction
            self._pace.rest()

    def _verify_whole(self) -> None:
        """What belongs to no room."""
        newest = self._replay.find_newest_position()
        end = self._replay.find_log_position()
        if newest > end:
            self._report.add(
                Problem(
                    f"log_position is {end}, but there is a fact at position {newest}",
                    MEND_POSITION,
                    position=newest,
                )
            )
        for room_id in self._replay.list_rooms_without_head(MAX_STRAYS):
            self._report.add(
                Problem(
                    "The log has facts of a room without a row in the table rooms",
                    MEND_HEAD,
                    room_id=room_id,
                )
            )
            self.has_unreadable = True
        for table, what in self._replay.list_strays(MAX_STRAYS):
            self._report.add(
                Problem(
                    f"Projection {table.projection}: {what}",
                    f"architex projections rebuild {table.projection}",
                )
            )


def _find_wrong_in_answer(answer: Answer) -> str | None:
    if answer.fact is None:
        return "there is no such event"
    try:
        envelope = orjson.loads(answer.fact)
        sender, device = envelope["pdu"]["sender"], envelope.get("sender_device")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # told already: the fact cannot be read
    key = answer.transaction
    if sender != key.user_id or (device and device != [key.device_id, key.txn_id]):
        return "that is what another request made"
    return None
