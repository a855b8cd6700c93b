"""Transactions: what another server has for us.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

import falcon

from architex.api.federation.authentication import (
    claimed_origin,
    require_server,
    signed_content,
)
from architex.usecases.receiving import Receiving


class TransactionResource:
    """PUT /send/{txn_id}"""

    def __init__(self, receiving: Receiving) -> None:
        self._receiving = receiving

    def on_put(self, req: falcon.Request, resp: falcon.Response, txn_id: str) -> None:
        """Take in events of rooms, and what is told beside them.

        Raises:
            LimitExceeded: the server sends too much; known before its signature is looked at.
            BadJson: there are too many of either.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid
        """
        claimed = claimed_origin(req)
        if claimed is not None:
            self._receiving.check_budget(claimed)
        origin = require_server(req)
        resp.media = self._receiving.receive_transaction(origin, txn_id, signed_content(req))
