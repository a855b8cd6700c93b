"""Dot-separated property paths: every key can be named, and every text names some.

Spec: https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.property_paths import parse_property_path


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", "m\\foo")),
        (r"content.m\foo", ("content", "m\\foo")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\\\.b", ("a\\.b",)),
        ("a\\", ("a\\",)),
        ("", ("",)),
        ("a..b", ("a", "", "b")),
        (".", ("", "")),
    ],
)
def test_dots_and_backslashes_are_escaped_in_paths(path: str, keys: tuple[str, ...]) -> None:
    assert parse_property_path(path) == keys


@given(st.lists(st.text("a.\\b", max_size=3), min_size=1, max_size=3))
def test_every_key_can_be_named(keys: list[str]) -> None:
    path = ".".join(key.replace("\\", "\\\\").replace(".", r"\.") for key in keys)
    assert parse_property_path(path) == tuple(keys)
