"""The page about attacks names tests that exist, and one or a reason for each attack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]
PAGE: Final = (CHECKOUT / "docs" / "security.md").read_text()
TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROWS: Final = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.partition("\n## Rules")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| seen as")
]
#: Lines of the list that we were given: from other servers, from users, media.
LINES: Final = 33 + 22 + 12


@pytest.mark.parametrize("path", sorted({path for path, _ in TEST.findall(PAGE)}))
def test_tests_that_are_named_exist(path: str) -> None:
    source = (CHECKOUT / path).read_text()
    named = {test for where, test in TEST.findall(PAGE) if where == path}
    missing = {test for test in named if f"def {test}(" not in source}
    assert missing == set()


def test_each_attack_has_a_test_or_a_reason() -> None:
    assert len(ROWS) == LINES
    for seen_as, what, how in ROWS:
        assert what, seen_as
        assert TEST.search(how) or len(how) > 40, seen_as
