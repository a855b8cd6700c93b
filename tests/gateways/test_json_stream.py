"""JSON read while it arrives is the JSON that was sent, however it was cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.gateways.json_stream import BrokenJson, read_members

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


def cut(raw: bytes, *places: int) -> Iterator[bytes]:
    ends = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    pieces = (raw[start:end] for start, end in itertools.pairwise(ends))
    return (piece for piece in pieces if piece)


def read(pieces: Iterable[bytes], **bounds: int) -> list[tuple[str, Any]]:
    return [(name, orjson.loads(raw)) for name, raw in read_members(pieces, **bounds)]


def flattened(value: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (name, item)
        for name, member in value.items()
        for item in (member if isinstance(member, list) else [member])
    ]


@settings(max_examples=50)
@given(
    st.dictionaries(st.text(), VALUES),
    st.lists(st.integers(0, 10_000), max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_object_is_read_whole_however_it_is_cut(
    value: dict[str, Any], places: list[int], is_wide: bool, is_wrapped: bool
) -> None:
    sent: Any = [200, value] if is_wrapped else value
    raw = orjson.dumps(sent, option=orjson.OPT_INDENT_2 if is_wide else None)
    assert read(cut(raw, *places)) == flattened(value)


def test_number_that_is_cut_is_one_number() -> None:
    assert read([b'{"a":12', b'34,"b":[1', b"2,3", b"4]}"]) == [("a", 1234), ("b", 12), ("b", 34)]


def test_letter_that_is_cut_is_one_letter() -> None:
    raw = '{"a":"Tee für zwei 🍵"}'.encode()
    assert read(bytes([byte]) for byte in raw) == [("a", "Tee für zwei 🍵")]


def test_items_are_given_before_the_rest_has_come() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"state":[{"n":1},{"n":2},'
        raise AssertionError("nobody needs the rest yet")

    members = read_members(pieces())
    assert next(members) == ("state", b'{"n":1}')
    assert next(members) == ("state", b'{"n":2}')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"7",
        b"[]",
        b"[200]",
        b"[404,{}]",
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1,',
        b'{"a":1,}',
        b'{"a":[1,]}',
        b'{"a":[1 2]}',
        b'{"a":[1}',
        b"{1:2}",
        b'{"a":tru}',
        b'{"a":"\xff"}',
        b'{"a":"\xc3',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' + b'{"a":' * 5000,
    ],
)
def test_what_is_no_object_is_broken(raw: bytes) -> None:
    for pieces in ([raw], [bytes([byte]) for byte in raw]):
        with pytest.raises(BrokenJson):
            list(read_members(iter(pieces), max_value_chars=20_000))


def test_value_beyond_the_bound_is_broken_before_it_has_come() -> None:
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        yield b'{"a":"'
        while True:
            taken += 1
            yield b"x" * 100

    with pytest.raises(BrokenJson):
        list(read_members(pieces(), max_value_chars=1000))
    assert taken < 100


def test_slow_value_is_looked_at_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    class Decoder:
        def raw_decode(self, text: str, place: int) -> tuple[Any, int]:
            nonlocal looked
            looked += 1
            raise ValueError

    monkeypatch.setattr("architex.gateways.json_stream._DECODER", Decoder())
    with pytest.raises(BrokenJson):
        list(
            read_members(itertools.chain([b"{"], itertools.repeat(b'"')), max_value_chars=100_000)
        )
    assert looked < 30
