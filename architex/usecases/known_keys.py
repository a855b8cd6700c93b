"""The signing keys of other servers that we know: in this process's memory and in the database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from architex.domain.identifiers import ServerName
from architex.gateways.clock import Clock
from architex.storage.server_keys import ServerKey, ServerKeyStore

_REMEMBERED_SERVERS: Final = 20_000
# Another process may have learnt that a key is an old one.
_MEMORY_S: Final = 600.0


class KnownKeys:
    """Remembers keys; any number of threads may ask and record."""

    def __init__(self, store: ServerKeyStore, clock: Clock) -> None:
        self._store = store
        self._memory = _Memory(clock)
        # Told, and not recorded yet; who records takes what the others have told meanwhile along.
        self._told: list[ServerKey] = []
        self._lock = threading.Lock()
        self._recording = threading.Lock()

    def list_keys(self, server_names: Sequence[ServerName]) -> list[ServerKey]:
        """All keys that are known of some servers, old ones too."""
        found: list[ServerKey] = []
        unknown: list[ServerName] = []
        for server_name in server_names:
            keys = self._memory.find(server_name)
            if keys is None:
                unknown.append(server_name)
            else:
                found += keys
        if unknown:
            loaded: dict[ServerName, list[ServerKey]] = {name: [] for name in unknown}
            for key in self._store.find_keys(unknown):
                loaded[key.server_name].append(key)
            for server_name, keys_of_server in loaded.items():
                found += keys_of_server
                if keys_of_server:
                    self._memory.remember(server_name, keys_of_server)
        return found

    def record(self, keys: Sequence[ServerKey]) -> None:
        """Record keys, those that others wait to record among them."""
        with self._lock:
            self._told += keys
        with self._recording:
            with self._lock:
                told, self._told = self._told, []
            if told:
                self._store.record_keys(told)
                for key in told:
                    self._memory.forget(key.server_name)


class _Memory:
    """Keys in this process's memory: most requests come from servers that were here before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys: OrderedDict[ServerName, tuple[float, list[ServerKey]]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, server_name: ServerName) -> list[ServerKey] | None:
        with self._lock:
            found = self._keys.get(server_name)
            if found is None or self._clock.monotonic() - found[0] > _MEMORY_S:
                return None
            self._keys.move_to_end(server_name)
            return found[1]

    def remember(self, server_name: ServerName, keys: list[ServerKey]) -> None:
        with self._lock:
            self._keys[server_name] = (self._clock.monotonic(), keys)
            if len(self._keys) > _REMEMBERED_SERVERS:
                self._keys.popitem(last=False)

    def forget(self, server_name: ServerName) -> None:
        with self._lock:
            self._keys.pop(server_name, None)
