"""Who leaves a room stops typing there.

Spec: https://spec.matrix.org/v1.19/client-server-api/#typing-notifications
"""

from __future__ import annotations

from collections.abc import Sequence

from architex.domain.room.events import Fact, RecordedFact
from architex.projections.leavers import list_leavers
from architex.storage.pool import Execute, Params, Row
from architex.storage.typing import stop_typing_of_leavers


class TypingEnds:
    """Writes `typing` in the transaction in which somebody leaves, is kicked or banned.

    It is no projection: who types is in no log.
    """

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """Nothing needs to be asked."""
        return None

    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Let those who left have stopped at the position of their leaving."""
        left = list_leavers(recorded)
        if left:
            stop_typing_of_leavers(execute, left)
