"""Waiting for what happens by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 45.0
"""A server that is killed and starts anew on a busy machine takes a while."""


def eventually(look: Callable[[], T], what: str = "", patience_s: float = PATIENCE_S) -> T:
    """What `look` gives once it is something true; AssertionError after too long.

    Args:
        what: is wrong then.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, what or "it does not happen"
        time.sleep(0.05)
