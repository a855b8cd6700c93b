"""Doing something a little later."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

log = logging.getLogger(__name__)

CallLater: TypeAlias = Callable[[float, Callable[[], None]], None]
"""Calls a function in a number of seconds."""


def call_later(delay_s: float, callback: Callable[[], None]) -> None:
    """Call a function in a number of seconds, from a thread (under gevent: a greenlet) of its own.

    What it raises is logged. What is still waiting when the process ends is not called.
    """
    timer = threading.Timer(delay_s, _call, (callback,))
    timer.daemon = True
    timer.start()


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("What was to be done later failed")
