"""Fresh databases for tests: made ahead of who wants them, dropped behind who had them."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import psycopg

# A test of federation wants several at once.
_AHEAD: Final = 3


class DatabaseSupply:
    """Copies of one template in a cluster; a thread makes and drops them while tests run.

    Nothing else may be connected to the template.
    """

    def __init__(self, conninfo: str, template: str) -> None:
        """Begin to make some.

        Args:
            conninfo: of a database that is no copy, for who creates and drops the others.
        """
        self._admin = psycopg.connect(conninfo, autocommit=True)
        self._template = template
        self._names = (f"{template}_{number}" for number in itertools.count())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="databases")
        self._ready: deque[Future[str]] = deque()
        self._order()

    def take(self) -> str:
        """The name of a database that nobody has used."""
        name = self._ready.popleft()
        self._order()
        return name.result()

    def give_back(self, name: str) -> None:
        """Have a database dropped; whoever is connected to it is cut off."""
        self._thread.submit(self._admin.execute, f"DROP DATABASE {name} WITH (FORCE)".encode())

    def close(self) -> None:
        """Make and drop no more."""
        self._thread.shutdown(cancel_futures=True)
        self._admin.close()

    def _order(self) -> None:
        while len(self._ready) < _AHEAD:
            self._ready.append(self._thread.submit(self._create))

    def _create(self) -> str:
        name = next(self._names)
        # Copying files is quicker than logging them: nobody writes to the template.
        self._admin.execute(
            f"CREATE DATABASE {name} TEMPLATE {self._template} STRATEGY FILE_COPY".encode()
        )
        return name
