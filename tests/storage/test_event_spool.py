"""EventSpool gives back what it was given, in whatever order it is asked."""

from __future__ import annotations

import pytest

from architex.storage.event_spool import EventSpool


def test_events_are_read_back_by_their_numbers() -> None:
    with EventSpool() as spool:
        numbers = {spool.add(raw): raw for raw in (b"one", b"", b"three", b"x" * 100_000)}
        assert len(spool) == 4
        for number in (2, 0, 3, 1, 2):
            assert spool.read(number) == numbers[number]
        # Reading does not disturb writing.
        late = spool.add(b"five")
        assert spool.read(late) == b"five"
        assert spool.read(3) == b"x" * 100_000


@pytest.mark.parametrize("number", [-1, 1])
def test_what_was_not_kept_cannot_be_read(number: int) -> None:
    with EventSpool() as spool:
        spool.add(b"one")
        with pytest.raises(IndexError):
            spool.read(number)
