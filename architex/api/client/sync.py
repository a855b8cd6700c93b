"""GET /sync.

Spec: https://spec.matrix.org/v1.19/client-server-api/#syncing
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import falcon

from architex.api.requests import bool_param, int_param, require_user, string_param
from architex.api.streams import send_stream
from architex.domain.canonical_json import parse_json
from architex.domain.errors import InvalidParam, MatrixError
from architex.domain.event_filter import SyncFilter, parse_sync_filter
from architex.domain.identifiers import UserId
from architex.domain.sync_token import parse_sync_token, parse_to_device_position
from architex.usecases.filters import Filters
from architex.usecases.presence import STATES
from architex.usecases.sync_parts import SyncRequest
from architex.usecases.syncing import MAX_TIMEOUT_MS, Syncing

NO_FILTER: Final = SyncFilter()
MAX_REMEMBERED_CHARS: Final = 1000
"""Of filters that are written in the query."""


class SyncResource:
    """GET /sync"""

    def __init__(self, syncing: Syncing, filters: Filters) -> None:
        self._syncing = syncing
        self._filters = filters
        # Filters never change once they have an ID.
        self._stored_filter = lru_cache(maxsize=2000)(self._load_stored_filter)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer what is new, or wait for it."""
        keys_mark = self._syncing.mark_keys()
        requester = require_user(req, guests=True, with_news=True)
        since = string_param(req, "since")
        set_presence = string_param(req, "set_presence") or "online"
        if set_presence not in STATES:
            raise InvalidParam("set_presence must be online, offline or unavailable.")
        answer = self._syncing.answer(
            SyncRequest(
                requester=requester,
                since=parse_sync_token(since) if since else None,
                to_device_since=parse_to_device_position(since) if since else None,
                timeout_ms=int_param(req, "timeout", 0, at_most=MAX_TIMEOUT_MS),
                filter=self._filter(requester.user_id, string_param(req, "filter")),
                full_state=bool_param(req, "full_state"),
                set_presence=set_presence,
                use_state_after=bool_param(req, "use_state_after"),
                in_pieces=True,
                keys_mark=keys_mark,
            )
        )
        if isinstance(answer, dict):
            resp.media = answer
        else:
            send_stream(resp, answer)

    def _filter(self, user_id: UserId, given: str | None) -> SyncFilter:
        """The filter of a request: JSON if it begins with a brace, else the ID of a stored one."""
        if not given:
            return NO_FILTER
        if given.startswith("{"):
            parse = _parse_again if len(given) <= MAX_REMEMBERED_CHARS else _parse_inline_filter
            return parse(given)
        return self._stored_filter(user_id, given)

    def _load_stored_filter(self, user_id: UserId, filter_id: str) -> SyncFilter:
        try:
            filter_json = self._filters.get_filter(user_id, filter_id)
        except MatrixError:
            raise InvalidParam("There is no such filter.") from None
        return _parse_inline_filter(filter_json)


def _parse_inline_filter(text: str) -> SyncFilter:
    content = parse_json(text.encode("utf-8", "surrogatepass"))
    if not isinstance(content, dict):
        raise InvalidParam("A filter must be a JSON object.")
    return parse_sync_filter(content)


# Clients come with the same filter again and again.
_parse_again = lru_cache(maxsize=1000)(_parse_inline_filter)
