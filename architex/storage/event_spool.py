"""EventSpool: events on their way into the log, in a temporary file instead of in memory."""

from __future__ import annotations

import tempfile
from array import array
from types import TracebackType
from typing import Self


class EventSpool:
    """Byte strings, numbered from 0, in an unnamed file that vanishes with its last user."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="architex-")  # noqa: SIM115 - __exit__ closes it
        self._ends = array("Q")
        self._end = 0
        self._is_at_end = True

    def __len__(self) -> int:
        return len(self._ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, raw: bytes) -> int:
        """Keep an event's JSON; gives its number."""
        if not self._is_at_end:
            self._file.seek(self._end)
            self._is_at_end = True
        self._file.write(raw)
        self._end += len(raw)
        self._ends.append(self._end)
        return len(self._ends) - 1

    def read(self, number: int) -> bytes:
        """What was kept under a number.

        Raises:
            IndexError: nothing was.
        """
        if not 0 <= number < len(self._ends):
            raise IndexError(number)
        start = self._ends[number - 1] if number else 0
        self._is_at_end = False
        self._file.seek(start)
        return self._file.read(self._ends[number] - start)
