"""Canonical JSON: the spec's vectors, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.canonical_json import (
    MAX_JSON_DEPTH,
    encode_canonical_json,
    encode_json,
    encode_lenient_json,
    parse_json,
)
from architex.domain.errors import InvalidCanonicalJson, NotJson

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), text),
    lambda children: st.one_of(st.lists(children), st.dictionaries(text, children)),
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# https://spec.matrix.org/v1.19/appendices/#examples
@pytest.mark.parametrize(
    ("source", "canonical"),
    [
        ("{}", "{}"),
        ('{ "one": 1, "two": "Two" }', '{"one":1,"two":"Two"}'),
        ('{ "b": "2", "a": "1" }', '{"a":"1","b":"2"}'),
        ('{"b":"2","a":"1"}', '{"a":"1","b":"2"}'),
        (
            '{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": '
            '{"display_name": "John Doe", "three_pids": [{"medium": "email", "address": '
            '"john.doe@example.org"}, {"medium": "msisdn", "address": "123456789"}]}}}',
            '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe",'
            '"three_pids":[{"address":"john.doe@example.org","medium":"email"},'
            '{"address":"123456789","medium":"msisdn"}]},"success":true}}',
        ),
        ('{"a": "日本語"}', '{"a":"日本語"}'),
        ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
        ('{"a": "\\u65E5"}', '{"a":"日"}'),
        ('{"a": null}', '{"a":null}'),
        ('{"a": -0, "b": 10000000000}', '{"a":0,"b":10000000000}'),
    ],
)
def test_the_specs_examples_come_out_as_written(source: str, canonical: str) -> None:
    assert encode_canonical_json(parse_json(source.encode())) == canonical.encode()


@given(values)
def test_canonical_json_is_the_specs_reference_code(value: Any) -> None:
    reference = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert encode_canonical_json(value) == reference.encode()
    assert encode_lenient_json(value) == reference.encode()


@given(values)
def test_what_was_written_is_read_again(value: Any) -> None:
    raw = encode_canonical_json(value)
    assert parse_json(raw) == value
    assert parse_json(raw, allow_duplicate_keys=False) == value


def test_keys_are_sorted_by_code_point() -> None:
    # By UTF-16 the last two would change places.
    assert encode_canonical_json({"\U0001f600": 1, "\uffff": 2, "z": 3}) == (
        b'{"z":3,"\xef\xbf\xbf":2,"\xf0\x9f\x98\x80":1}'
    )


def test_only_what_must_be_escaped_is_escaped() -> None:
    assert encode_canonical_json('\b\t\n\f\r"\\\x01/\x7f\u2028') == (
        '"\\b\\t\\n\\f\\r\\"\\\\\\u0001/\x7f\u2028"'.encode()
    )


@pytest.mark.parametrize("number", [2**53 - 1, -(2**53) + 1, 0])
def test_integers_up_to_53_bits_are_canonical(number: int) -> None:
    assert encode_canonical_json(number) == str(number).encode()


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        1.5,
        float("nan"),
        float("inf"),
        {"a": [{"b": 1e10}]},
        (1, (2.5,)),
        2**53,
        -(2**53),
        10**30,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {None: 1},
        b"bytes",
        {1, 2},
        object(),
        nested(300),
    ],
)
def test_what_canonical_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidCanonicalJson):
        encode_canonical_json(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for encode in (encode_canonical_json, encode_lenient_json):
        with pytest.raises(InvalidCanonicalJson):
            encode(loop)


def test_old_room_versions_write_floats_and_huge_integers() -> None:
    assert encode_lenient_json({"b": 1.5, "a": 10**30}) == b'{"a":1' + b"0" * 30 + b',"b":1.5}'


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), object(), nested(10**5)])
def test_old_room_versions_cannot_write_everything_either(value: Any) -> None:
    with pytest.raises(InvalidCanonicalJson):
        encode_lenient_json(value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1e999",
        b"[1e999, 123456789012345678901234567890]",
        b'"\\ud800"',
        b'["\\udc00", 1.5, 123456789012345678901234567890]',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"[1,]",
        b"{'a': 1}",
        b"[01]",
        b"[" + b"9" * 5000 + b"]",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ],
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(NotJson):
        parse_json(raw)


def test_nesting_is_bounded_where_it_says() -> None:
    assert parse_json(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH) == nested(MAX_JSON_DEPTH)
    with pytest.raises(NotJson):
        parse_json(b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1))
    assert parse_json(b"[[1]]", max_depth=2) == [[1]]
    with pytest.raises(NotJson):
        parse_json(b'[[{"a":[]}]]', max_depth=3)


def test_integers_of_any_size_are_read_exactly() -> None:
    assert parse_json(b"[123456789012345678901234567890, -9223372036854775809]") == [
        123456789012345678901234567890,
        -9223372036854775809,
    ]


def test_duplicate_keys_are_taken_from_clients_only() -> None:
    assert parse_json(b'{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":[{"a":1,"a":1}]}',
        # A float whose written form is as much longer as the lost key was long.
        b'{"a":1,"a":1,"b":1e8,"c":1}',
        b'{"a":1,"a":1,"b":1e5}',
    ],
)
def test_duplicate_keys_are_refused_in_pdus(raw: bytes) -> None:
    with pytest.raises(NotJson):
        parse_json(raw, allow_duplicate_keys=False)


def test_space_and_escapes_are_not_taken_for_duplicate_keys() -> None:
    raw = b'{ "a" : 1.5, "b" : "\\u0022:\\u0061" }'
    assert parse_json(raw, allow_duplicate_keys=False) == {"a": 1.5, "b": '":a'}


@given(values)
def test_answers_say_what_canonical_json_says(value: Any) -> None:
    assert json.loads(encode_json(value)) == json.loads(encode_canonical_json(value))


def test_answers_keep_the_order_of_keys_and_hold_prepared_parts() -> None:
    prepared = orjson.Fragment(b'{"z":1,"a":[1]}')
    assert encode_json({"b": prepared, "a": 1.5}) == b'{"b":{"z":1,"a":[1]},"a":1.5}'


def test_answers_hold_the_huge_integers_of_old_rooms() -> None:
    prepared = orjson.Fragment(b'{"z":1,"a":"\xc3\xa9"}')
    huge = 10**30
    assert encode_json({"b": prepared, "a": [huge]}) == (
        b'{"b":{"z":1,"a":"\xc3\xa9"},"a":[1' + b"0" * 30 + b"]}"
    )


def test_answers_hold_nothing_but_json() -> None:
    with pytest.raises(TypeError, match="set is not JSON"):
        encode_json({"a": {1}})
