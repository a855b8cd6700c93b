"""Filters: kept for clients, so that a /sync can name one.

Spec: https://spec.matrix.org/v1.19/client-server-api/#filtering
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_lenient_json
from architex.domain.errors import NotFound, TooLarge
from architex.domain.event_filter import parse_sync_filter
from architex.domain.identifiers import UserId
from architex.storage.filters import FilterStore

MAX_FILTER_BYTES: Final = 65_536
MAX_FILTERS: Final = 1_000
"""Of one user; clients make the same few again and again."""


@dataclass(frozen=True)
class Filters:
    """The filters of whoever asks."""

    filters: FilterStore

    def create_filter(self, user_id: UserId, definition: Mapping[str, Any]) -> str:
        """Keep a filter; returns its ID, the same for the same filter.

        Raises:
            BadJson: this is not a filter.
            TooLarge: it is larger than 64 KiB, or the user has MAX_FILTERS.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter
        """
        parse_sync_filter(definition)
        filter_json = encode_lenient_json(definition)
        if len(filter_json) > MAX_FILTER_BYTES:
            raise TooLarge("A filter has at most 64 KiB.")
        # Base64 begins with no "{", which marks filters given inline.
        filter_id = urlsafe_b64encode(hashlib.sha256(filter_json).digest()[:12]).decode()
        if not self.filters.put_filter(user_id, filter_id, filter_json.decode(), most=MAX_FILTERS):
            raise TooLarge(f"You have {MAX_FILTERS} filters; give further ones with each /sync.")
        return filter_id

    def get_filter(self, user_id: UserId, filter_id: str) -> str:
        """A filter as JSON.

        Raises:
            NotFound: the user has no filter of this ID.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridfilterfilterid
        """
        filter_json = None if "\0" in filter_id else self.filters.find_filter(user_id, filter_id)
        if filter_json is None:
            raise NotFound("You have no such filter.")
        return filter_json
