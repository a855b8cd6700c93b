"""Everything that the server runs with may be used by software under the Apache License 2.0."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

import pytest

from tests.audit.dependencies import list_dependencies

#: By SPDX, and by the names that packages without SPDX expressions use.
COMPATIBLE: Final = frozenset(
    {
        "Apache License, Version 2.0",
        "Apache Software License",
        "Apache-2.0",
        "BSD License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "MIT License",
        "MIT-0",
        "MIT-CMU",
        "Unlicense",
        "PSF-2.0",
        "ZPL-2.1",
        # Of the file and no further: we change none of theirs.
        "MPL-2.0",
        "Mozilla Public License 2.0 (MPL 2.0)",
        # A library that is installed beside ours, and that anybody may replace.
        "LGPL-3.0-only",
    }
)
#: Whose metadata says nothing; looked up in their repositories.
KNOWN: Final = {"signedjson": "Apache-2.0"}


def licences_of(distribution: metadata.Distribution) -> set[str]:
    """The licences that a package names, by its best source."""
    about = distribution.metadata
    name = about["Name"]
    if name in KNOWN:
        return {KNOWN[name]}
    expression = " ".join(about.get_all("License-Expression") or [])
    if expression:
        return set(re.split(r"\s+(?:AND|OR)\s+|[()]+", expression)) - {""}
    classifiers = about.get_all("Classifier") or []
    named = {c.rsplit("::", 1)[1].strip() for c in classifiers if c.startswith("License ::")}
    return named or set(about.get_all("License") or [])


@pytest.mark.parametrize("name", list_dependencies())
def test_licence_goes_with_ours(name: str) -> None:
    licences = licences_of(list_dependencies()[name])
    assert licences
    assert licences <= COMPATIBLE, licences - COMPATIBLE


def test_all_of_pyproject_is_looked_at() -> None:
    assert {"falcon", "gevent", "psycopg", "PyNaCl", "signedjson"} <= list_dependencies().keys()
