"""Every reason not to start has a code of its own kind, and the page about them knows it."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
CODE = re.compile(r"\bA0[0-9A-F]{2}\b")


def test_page_names_exactly_the_codes_of_the_program() -> None:
    used = {
        code
        for path in (CHECKOUT / "architex").rglob("*.py")
        for code in re.findall(r'"(A0[0-9A-F]{2})"', path.read_text())
    }
    page = (CHECKOUT / "docs" / "start-refusals.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| A0")]
    listed = [code for row in rows for code in CODE.findall(row.split("|")[1])]
    assert listed == sorted(used)
