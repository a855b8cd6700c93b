"""The same for each of several things, some of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def call_each(function: Callable[[T], object], items: Collection[T], *, at_once: int) -> None:
    """Call a function for each item, several at a time; raises what the first failing one raised.

    Args:
        at_once: how many, at most.
    """
    if len(items) <= 1:
        for item in items:
            function(item)
        return
    with ThreadPoolExecutor(min(len(items), at_once)) as threads:
        for outcome in [threads.submit(function, item) for item in items]:
            outcome.result()
