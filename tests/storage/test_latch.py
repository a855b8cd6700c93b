"""A latch lets one go on who waits, or comes later."""

from __future__ import annotations

import threading

from architex.storage.latch import Latch

LONG = 20.0


def test_who_waits_goes_on_when_it_is_opened() -> None:
    latch = Latch()
    told: list[bool] = []
    waiting = threading.Thread(target=lambda: told.append(latch.wait(LONG)))
    waiting.start()
    assert not told
    latch.open()
    waiting.join(LONG)
    assert told == [True]


def test_who_comes_when_it_is_open_goes_on_however_often_it_was_opened() -> None:
    latch = Latch()
    latch.open()
    latch.open()
    assert latch.wait(LONG)
    latch.open()


def test_nobody_waits_for_ever() -> None:
    assert not Latch().wait(0.01)
