"""Each promise to those who run a server names tests, and these tests exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
PAGE: Final = (CHECKOUT / "docs" / "promises.md").read_text()
PROMISED: Final = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P10")

_HEADING: Final = re.compile(r"^## (P\d+)\. ", re.MULTILINE)
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_promise_names_tests() -> None:
    parts = _HEADING.split(PAGE)[1:]
    named = {name: _TEST.findall(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}
    assert tuple(named) == PROMISED
    assert all(named.values())


def test_tests_that_are_named_exist() -> None:
    missing = [
        f"{path}::{name}"
        for path, name in _TEST.findall(PAGE)
        if f"def {name}(" not in (CHECKOUT / path).read_text()
    ]
    assert missing == []
