"""The verify keys that this server has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from architex.domain.identifiers import ServerName
from architex.storage.server_keys import ServerKeyStore

MAX_REMEMBERED_SERVERS: Final = 10_000


class RememberedKeys:
    """The verify keys that this server has: its own, and those that other servers told it.

    Asks nobody. Where a server told two keys under one ID, neither is known.
    """

    def __init__(
        self, server_name: ServerName, own_key_id: str, own_key: bytes, store: ServerKeyStore
    ) -> None:
        self._own = {own_key_id: own_key}
        self._server_name = server_name
        self._store = store
        self._told: OrderedDict[ServerName, Mapping[str, bytes | None]] = OrderedDict()

    def find(self, server_name: ServerName, key_id: str) -> bytes | None:
        """See `FindVerifyKey`."""
        if server_name == self._server_name:
            return self._own.get(key_id)
        keys = self._told.get(server_name)
        if keys is None:
            found: dict[str, bytes | None] = {}
            for key in self._store.find_keys([server_name]):
                known = found.setdefault(key.key_id, key.verify_key)
                if known != key.verify_key:
                    found[key.key_id] = None
            keys = self._told[server_name] = found
            while len(self._told) > MAX_REMEMBERED_SERVERS:
                self._told.popitem(last=False)
        return keys.get(key_id)
