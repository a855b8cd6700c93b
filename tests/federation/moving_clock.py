"""A clock that a test moves on, for servers in processes of their own, while they run.

They read how far it is ahead from a file (`moved_clock/sitecustomize.py`). What sleeps is not
woken: so time passes in steps, as an hour does of which little is slept through.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_STEP_S = 60
_PAUSE_S = 0.05


class MovingClock:
    """The time of day in all processes that are started with its `environment`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self._ahead_s = 0
        self._write()

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables of a process that goes by this clock."""
        hook = str(Path(__file__).parent / "moved_clock")
        path = os.environ.get("PYTHONPATH")
        return {
            "ARCHITEX_TESTS_CLOCK": str(self._file),
            "PYTHONPATH": hook if path is None else f"{hook}{os.pathsep}{path}",
        }

    @property
    def ahead_min(self) -> float:
        """How far it is ahead of ours."""
        return self._ahead_s / 60

    def pass_minutes(self, minutes: int) -> None:
        """Let time pass, minute by minute."""
        for _ in range(minutes * 60 // _STEP_S):
            self._ahead_s += _STEP_S
            self._write()
            time.sleep(_PAUSE_S)

    def _write(self) -> None:
        # In place: the processes have the file mapped.
        mode = "r+b" if self._file.exists() else "wb"
        with self._file.open(mode) as file:
            file.write(struct.pack("=q", self._ahead_s * 1_000_000_000))
