"""What the documents say of each other and of the checkout is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]
INDEX: Final = CHECKOUT / "docs" / "README.md"
DOCUMENTS: Final = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])

_LINK: Final = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
_FLOORS: Final = "api|cli|domain|followers|gateways|projections|storage|usecases"
_FILE: Final = re.compile(rf"`((?:architex/)?(?:{_FLOORS})/[\w./]+\.py|(?:docs|tests)/[\w./]+)`")


def read_prose(document: Path) -> str:
    """A document without its examples."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_of(document: Path) -> set[str]:
    """The links that its headings offer, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", read_prose(document), flags=re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(CHECKOUT)))
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in _LINK.findall(read_prose(document)):
        target = (document.parent / path) if path else document
        assert target.exists(), path
        if anchor:
            assert anchor in anchors_of(target), f"{path}{anchor}"


@pytest.mark.parametrize(
    "document",
    [CHECKOUT / "README.md", CHECKOUT / "docs" / "architecture.md", CHECKOUT / "docs/glossary.md"],
    ids=lambda d: d.name,
)
def test_files_that_are_named_exist(document: Path) -> None:
    named = _FILE.findall(read_prose(document))
    missing = [
        n for n in named if not ((CHECKOUT / n).exists() or (CHECKOUT / f"architex/{n}").exists())
    ]
    assert missing == []


def test_every_document_is_in_the_index() -> None:
    linked = {(INDEX.parent / path).resolve() for path, _ in _LINK.findall(INDEX.read_text())}
    documents = {d.resolve() for d in CHECKOUT.glob("docs/**/*.md")} - {INDEX.resolve()}
    assert documents <= linked, sorted(str(d) for d in documents - linked)
