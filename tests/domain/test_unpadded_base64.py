"""Unpadded base64."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.unpadded_base64 import decode_base64, encode_base64, encode_base64url


# https://spec.matrix.org/v1.19/appendices/#unpadded-base64
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"f", "Zg"),
        (b"fo", "Zm8"),
        (b"foo", "Zm9v"),
        (b"foob", "Zm9vYg"),
        (b"fooba", "Zm9vYmE"),
        (b"foobar", "Zm9vYmFy"),
    ],
)
def test_the_specs_examples_come_out_as_written(data: bytes, text: str) -> None:
    assert encode_base64(data) == text
    assert decode_base64(text) == data


@given(st.binary())
def test_both_alphabets_are_read_with_and_without_padding(data: bytes) -> None:
    padding = "=" * (-len(data) % 3)
    for text in (encode_base64(data), encode_base64url(data)):
        assert decode_base64(text) == data
        assert decode_base64(text + padding) == data


@pytest.mark.parametrize("text", ["Z", "Zg===", "Z g", "Zg\n", "Zé", "Z=g", "!!!!"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        decode_base64(text)
