"""(user, device, path, transaction ID) → the event ID already answered.

Spec: https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.identifiers import EventId, UserId
from architex.storage.pool import Database


@dataclass(frozen=True, slots=True)
class TransactionKey:
    """What makes two requests the same: who, with which device, to which path, and the ID.

    Attributes:
        path: the endpoint with its parameters, without the transaction ID.
    """

    user_id: UserId
    device_id: str
    path: str
    txn_id: str


FIND_ANSWERS: Final = """
SELECT t.user_id, t.device_id, t.path, t.txn_id, t.event_id
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS k (user_id, device_id, path, txn_id)
JOIN transactions t USING (user_id, device_id, path, txn_id)"""

INSERT_ANSWERS: Final = """
INSERT INTO transactions (user_id, device_id, path, txn_id, event_id, created_ts)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int8[])"""


def key_columns(keys: Sequence[TransactionKey]) -> tuple[list[str], ...]:
    """The parameters of FIND_ANSWERS."""
    return (
        [key.user_id for key in keys],
        [key.device_id for key in keys],
        [key.path for key in keys],
        [key.txn_id for key in keys],
    )


def answer_columns(
    answers: Sequence[tuple[TransactionKey, EventId]], now_ms: int
) -> tuple[list[Any], ...]:
    """The parameters of INSERT_ANSWERS."""
    return (
        *key_columns([key for key, _ in answers]),
        [event_id for _, event_id in answers],
        [now_ms] * len(answers),
    )


class Transactions:
    """Answers given before; kept for a day or so after they were given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def delete_before(self, created_ts: int, limit: int = 10_000) -> int:
        """Forget answers older than a moment (milliseconds since 1970); returns how many."""
        return self._database.execute(
            "DELETE FROM transactions WHERE ctid = ANY (ARRAY("
            " SELECT ctid FROM transactions WHERE created_ts < %s LIMIT %s))",
            (created_ts, limit),
        )
