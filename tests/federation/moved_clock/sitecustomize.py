"""Python imports this first in the processes whose clock a test moves; see `moving_clock`."""

from __future__ import annotations

import mmap
import os
import struct
import time

_time, _time_ns = time.time, time.time_ns  # noqa: TID251 - what is moved
_NANOSECONDS = struct.Struct("=q")


def _move(path: str) -> None:
    with open(path, "rb") as file:
        ahead_ns = mmap.mmap(file.fileno(), _NANOSECONDS.size, access=mmap.ACCESS_READ)
    time.time_ns = lambda: _time_ns() + _NANOSECONDS.unpack_from(ahead_ns)[0]
    time.time = lambda: _time() + _NANOSECONDS.unpack_from(ahead_ns)[0] / 1e9  # noqa: TID251


if "ARCHITEX_TESTS_CLOCK" in os.environ:
    _move(os.environ["ARCHITEX_TESTS_CLOCK"])
