"""Every link to the specification in the code leads to an anchor that exists.

It needs a copy of the specification's sources beside the checkout (`../shared/spec`) or where
`$MATRIX_SPEC` says; without one it is skipped.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]
SPEC: Final = Path(
    os.environ.get("MATRIX_SPEC", CHECKOUT.parent / "shared" / "spec" / "matrix-spec")
)
VERSION: Final = "v1.19"

_LINK: Final = re.compile(
    r"https://spec\.matrix\.org/([^/\s]+)/([^#\s)`\"']*)(?:#([^\s)`\"',]*))?"
)
_HEADING: Final = re.compile(r"^#{1,6}\s+(.*?)\s*(?:\{(?:#|id=\")([^}\"]+)\"?\})?\s*$")
_FRAGMENT: Final = re.compile(r"{{[%<]\s*rver-fragment\s+name=\"([^\"]+)\"")
_FENCE: Final = re.compile(r"^\s*```")

Link = tuple[str, str, str]


def find_links() -> dict[Link, list[str]]:
    """(version, page, anchor) → the places in our sources that link there."""
    links: dict[Link, list[str]] = {}
    for path in sorted((CHECKOUT / "architex").rglob("*.py")):
        # A long link may go on in the next line only in theory: the linter lets links be long.
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for match in _LINK.finditer(line):
                version, page, anchor = match[1], match[2].strip("/"), match[3] or ""
                place = f"{path.relative_to(CHECKOUT)}:{number}"
                links.setdefault((version, page, anchor.rstrip(".")), []).append(place)
    return links


def test_links_name_the_same_version() -> None:
    others = {link: places for link, places in find_links().items() if link[0] != VERSION}
    assert others == {}


def test_links_lead_somewhere() -> None:
    if not SPEC.is_dir():
        pytest.skip(f"the specification's sources are not at {SPEC}")
    broken = {
        f"{page}/#{anchor}": places
        for (_, page, anchor), places in find_links().items()
        if not _exists(page, anchor)
    }
    assert broken == {}, "\n".join(f"{link}: {places}" for link, places in broken.items())


def _exists(page: str, anchor: str) -> bool:
    if page in ("", "rooms", "changelog"):  # tables of contents, written by the site
        return True
    files = _files_of(page)
    return bool(files) and (not anchor or anchor in _anchors_of(page))


def _files_of(page: str) -> list[Path]:
    content = SPEC / "content"
    single = content / f"{page}.md"
    if single.exists():
        return [single]
    index = content / page / "_index.md"
    return [index, *sorted((content / page / "modules").glob("*.md"))] if index.exists() else []


@cache
def _anchors_of(page: str) -> frozenset[str]:
    counts = Counter(anchor for path in _files_of(page) for anchor in _headings(path))
    anchors = set(counts)
    # The second heading of the same words gets -1, the third -2.
    for anchor, number in counts.items():
        anchors.update(f"{anchor}-{n}" for n in range(1, number))
    if page == "client-server-api":
        anchors |= {_slug(path.stem) for path in _event_schemas()}
    anchors |= set(_operations())
    return frozenset(anchors)


def _headings(path: Path) -> Iterator[str]:
    """The anchors of a page's headings, and of the fragments it includes."""
    in_fence = False
    for line in path.read_text().splitlines():
        if _FENCE.match(line):
            in_fence = not in_fence
        if in_fence:
            continue
        if heading := _HEADING.match(line):
            yield heading[2] or _slug(heading[1])
        for name in _FRAGMENT.findall(line):
            yield from _headings(SPEC / "content" / "rooms" / "fragments" / f"{name}.md")


def _event_schemas() -> Iterator[Path]:
    return (SPEC / "data" / "event-schemas" / "schema").glob("*.yaml")


@cache
def _operations() -> frozenset[str]:
    """The anchors of HTTP operations: method and path without punctuation."""
    with (Path(__file__).parent / "spec_endpoints.csv").open(newline="") as file:
        return frozenset(_slug(row["method"] + row["path"]) for row in csv.DictReader(file))


def _slug(heading: str) -> str:
    """The anchor that the site makes of a heading."""
    text = re.sub(r"<[^>]+>|[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
