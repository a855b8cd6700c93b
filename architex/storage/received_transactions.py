"""Transactions of other servers: (origin, transaction ID) → the answer that was given.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

from typing import Any

import orjson

from architex.domain.identifiers import ServerName
from architex.storage.pool import Database


class ReceivedTransactions:
    """The received_transactions table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_answer(self, origin: ServerName, txn_id: str) -> dict[str, Any] | None:
        """What a server was answered to a transaction; None when it was not, or long ago."""
        row = self._database.fetch_one(
            "SELECT answer FROM received_transactions WHERE origin = %s AND txn_id = %s",
            (origin, txn_id),
        )
        if row is None:
            return None
        answer: dict[str, Any] = orjson.loads(row[0])
        return answer

    def record_answer(
        self, origin: ServerName, txn_id: str, answer: dict[str, Any], now_ms: int
    ) -> None:
        """Remember an answer. If another process gave one meanwhile, that one stays.

        A crash of the database may forget it: what the transaction held is known then all the
        same, so this waits for no disk.
        """
        self._database.execute(
            "WITH quickly AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))"
            " INSERT INTO received_transactions (origin, txn_id, answer, received_ts)"
            " SELECT %s, %s, %s, %s FROM quickly ON CONFLICT DO NOTHING",
            (origin, txn_id, orjson.dumps(answer), now_ms),
        )

    def delete_before(self, received_ts: int, limit: int = 10_000) -> int:
        """Forget answers older than a moment (milliseconds since 1970); returns how many."""
        return self._database.execute(
            "DELETE FROM received_transactions WHERE ctid = ANY (ARRAY("
            " SELECT ctid FROM received_transactions WHERE received_ts < %s LIMIT %s))",
            (received_ts, limit),
        )
