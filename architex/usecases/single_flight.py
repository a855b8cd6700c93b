"""SingleFlight: what several want at once is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from architex.domain.errors import MatrixError, RemoteFailed

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass
class _Flight(Generic[Result]):
    """Something under way, and those who wait for it."""

    landed: threading.Event = field(default_factory=threading.Event)
    results: list[Result] = field(default_factory=list)
    error: MatrixError | None = None


class SingleFlight(Generic[Key, Result]):
    """Does for each key one thing at a time, in one process; who comes meanwhile gets the same."""

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight[Result]] = {}

    def do(self, key: Key, work: Callable[[], Result], wait_s: float) -> Result:
        """The result of `work`, or of somebody else's work for the same key that is under way.

        Args:
            wait_s: how long to wait for somebody else's.

        Raises:
            MatrixError: what that raised.
            RemoteFailed: it takes too long, or broke.
        """
        flight = self._flights.get(key)
        if flight is not None:
            if not flight.landed.wait(wait_s):
                raise RemoteFailed("It takes too long.")
            if flight.error is not None:
                raise flight.error
            return flight.results[0]
        flight = self._flights[key] = _Flight()
        try:
            flight.results.append(work())
        except MatrixError as error:
            flight.error = error
            raise
        except BaseException:
            flight.error = RemoteFailed("It could not be fetched.")
            raise
        finally:
            del self._flights[key]
            flight.landed.set()
        return flight.results[0]
