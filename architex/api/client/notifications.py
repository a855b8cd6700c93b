"""Listing notifications.

Spec: https://spec.matrix.org/v1.19/client-server-api/#listing-notifications
"""

from __future__ import annotations

import falcon

from architex.api.requests import int_param, require_user, string_param
from architex.domain.sync_token import format_pagination_token, parse_pagination_token
from architex.usecases.notifications import Notifications

MAX_LIMIT = 100


class NotificationsResource:
    """GET /notifications."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_path: str) -> None:
        """The newest notifications.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications
        """
        requester = require_user(req)
        begin = string_param(req, "from")
        page = self._notifications.list_notifications(
            requester,
            before=None if begin is None else parse_pagination_token(begin),
            limit=int_param(req, "limit", 20, at_least=1, at_most=MAX_LIMIT),
            only_highlights=string_param(req, "only") == "highlight",
        )
        resp.media = {"notifications": page.notifications}
        if page.next is not None:
            resp.media["next_token"] = format_pagination_token(page.next)
