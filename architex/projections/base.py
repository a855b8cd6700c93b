"""Projection: the tables it owns, when it is written, what the facts change in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from architex.domain.room.events import Fact, RecordedFact
from architex.storage.pool import Execute, Params, Row


class Timing(Enum):
    """When a projection is written."""

    INLINE = "inline"
    """In the transaction that records the facts: the very next request sees it."""
    FOLLOWED = "followed"
    """Soon after, by a follower with a position of its own."""


class Projection(ABC):
    """A read model of the event log.

    Attributes:
        name: for people and for the tracking table.
        timing: INLINE or FOLLOWED.
        tables: the tables it owns; nobody else writes them, and a rebuild makes them anew.
        marks: a fact in whose canonical JSON none of these stands is no concern of it, and need
            not be read for it; none: every fact is. See `read_facts`.
    """

    name: ClassVar[str]
    timing: ClassVar[Timing]
    tables: ClassVar[tuple[str, ...]]
    marks: ClassVar[tuple[str, ...]] = ()

    def ask(self, facts: Sequence[Fact]) -> tuple[str, Params] | None:
        """A question to the database that `apply` needs answered; None for none."""
        return None

    @abstractmethod
    def apply(
        self, execute: Execute, recorded: Sequence[RecordedFact], answer: Sequence[Row]
    ) -> None:
        """Write what the facts change.

        The facts are given in order of position, each once. `execute` gives no results.
        """
