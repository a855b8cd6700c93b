"""EventSpool: events on their way into the log, in a temporary file instead of in memory."""

from __future__ import annotations

import os
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
        self._is_flushed = True

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
        self._file.write(raw)
        self._is_flushed = False
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
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
        start = self._ends[number - 1] if number else 0
        return os.pread(self._file.fileno(), self._ends[number] - start, start)
