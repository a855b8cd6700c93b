"""Gathering: who asks at the same moment is asked for together, and gets what is their own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest

from architex.storage.gathering import Gathering

LONG = 20.0


class Slow:
    """Answers when it is let go on."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.broken: set[int] = set()

    def ask(self, keys: Sequence[int]) -> Mapping[int, str]:
        """Words of the keys below 100."""
        self.asked.append(list(keys))
        self.is_asked.set()
        assert self.may_answer.wait(LONG)
        if self.broken & set(keys):
            raise ConnectionError
        return {key: str(key) for key in keys if key < 100}


def start(
    gathering: Gathering[int, str], keys: Sequence[int]
) -> tuple[list[threading.Thread], dict[int, object]]:
    """Somebody asks for each of the keys; what they get."""
    found: dict[int, object] = {}

    def find(key: int) -> None:
        try:
            found[key] = gathering.find(key)
        except ConnectionError as error:
            found[key] = error

    threads = [threading.Thread(target=find, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    return threads, found


def wait_for_others(gathering: Gathering[int, str], count: int) -> None:
    """Return when so many wait."""
    pause = threading.Event()
    for _ in range(2000):
        if len(gathering._waiting) == count:
            return
        pause.wait(0.01)
    raise AssertionError(f"{len(gathering._waiting)} wait")


def test_alone_nobody_waits() -> None:
    slow = Slow()
    slow.may_answer.set()
    gathering = Gathering(slow.ask)
    assert [gathering.find(1), gathering.find(100), gathering.find(2)] == ["1", None, "2"]
    assert slow.asked == [[1], [100], [2]]


def test_who_comes_meanwhile_is_asked_for_together() -> None:
    slow = Slow()
    gathering = Gathering(slow.ask)
    first, found_first = start(gathering, [0])
    assert slow.is_asked.wait(LONG)
    keys = [*range(1, 50), 100, 101]
    others, found = start(gathering, keys)
    wait_for_others(gathering, len(keys))
    slow.may_answer.set()
    for thread in first + others:
        thread.join(LONG)
    assert found_first == {0: "0"}
    assert found == {key: str(key) if key < 100 else None for key in keys}
    # And nobody is told what was known before they asked.
    assert [len(asked) for asked in slow.asked] == [1, len(keys)]


def test_who_is_asked_for_together_does_not_fail_together() -> None:
    slow = Slow()
    slow.broken = {3}
    gathering = Gathering(slow.ask)
    first, _ = start(gathering, [0])
    assert slow.is_asked.wait(LONG)
    others, found = start(gathering, [1, 2, 3, 4])
    wait_for_others(gathering, 4)
    slow.may_answer.set()
    for thread in first + others:
        thread.join(LONG)
    # Who asked for all of them saw it fail; the others asked again.
    failed = {key for key, told in found.items() if isinstance(told, ConnectionError)}
    assert 3 in failed
    assert len(failed) <= 2
    assert all(found[key] == str(key) for key in {1, 2, 4} - failed)
    # It goes on after that.
    slow.broken = set()
    assert gathering.find(5) == "5"


def test_who_never_takes_their_turn_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("architex.storage.gathering.PATIENCE_S", 0.05)
    slow = Slow()
    slow.may_answer.set()
    gathering = Gathering(slow.ask)
    # As if the one who was to ask had died.
    gathering._is_busy = True
    assert gathering.find(1) == "1"
    assert gathering.find(2) == "2"
