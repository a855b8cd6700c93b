"""Forgetting on leave: who leaves a room forgets it at once, where the operator wants that.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mforget_forced_upon_leave-capability
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from architex.domain.identifiers import ServerName
from architex.domain.room.events import Fact, RecordedFact
from architex.projections.leavers import list_leavers
from architex.storage.forgotten_rooms import ForgottenRooms
from architex.storage.pool import Execute, Params, Row


@dataclass(frozen=True)
class ForgettingOnLeave:
    """Writes `forgotten_rooms` in the transaction in which users of this server leave rooms.

    It is no projection: what users have forgotten stays so when read models are made anew.
    """

    server_name: ServerName
    forgotten: ForgottenRooms = field(default_factory=ForgottenRooms)

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """Nothing needs to be asked."""
        return None

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Forget rooms for those who left them, were kicked or banned."""
        left = [
            leaver
            for leaver in list_leavers(recorded)
            if leaver.user_id.partition(":")[2] == self.server_name
        ]
        if left:
            self.forgotten.forget_as_left(execute, left)
