"""Doing something a little later."""

from __future__ import annotations

import threading
from collections.abc import Callable


def call_later(delay_s: float, callback: Callable[[], None]) -> None:
    """Call a function in a number of seconds, from a thread (under gevent: a greenlet) of its own.

    What is still waiting when the process ends is not called.
    """
    timer = threading.Timer(delay_s, callback)
    timer.daemon = True
    timer.start()
