"""Canonical JSON: the one way to write a value down, so that it can be hashed and signed.

Spec: https://spec.matrix.org/v1.19/appendices/#canonical-json
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeAlias

import orjson

from architex.domain.errors import InvalidCanonicalJson, NotJson

Json: TypeAlias = dict[str, Any]
"""A JSON object."""

MAX_CANONICAL_INTEGER: Final = 2**53 - 1

#: How deep arrays and objects may nest. No rule of Matrix needs ten; the bound keeps every later
#: walk through the value (and the writers of JSON) safe.
MAX_JSON_DEPTH: Final = 200

_WRITE_OPTIONS: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    # What is not JSON by itself (dates, dataclasses) is a mistake here, not something to convert.
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)
# Beyond this orjson refuses to write; nothing below needs to be looked at.
_DEEPEST: Final = 254
_SCALARS: Final = frozenset({str, int, bool, type(None)})
# An integer that orjson would have to turn into a float, or one that looks like it in a string.
_MAYBE_HUGE_INTEGER: Final = re.compile(rb"[0-9]{19}")


def encode_canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of a value.

    Raises:
        InvalidCanonicalJson: the value holds a float, an integer beyond ±(2^53 - 1), a lone
            surrogate, a key that is no string, something that is no JSON at all, or nests too
            deeply.

    Spec: https://spec.matrix.org/v1.19/appendices/#canonical-json
    """
    # Floats first: orjson would write them, and not-a-number as null.
    _, has_float = _survey(value)
    if has_float:
        raise InvalidCanonicalJson("Numbers must be integers, without fraction or exponent.")
    try:
        # Sorting by the bytes of UTF-8 is sorting by code point.
        return orjson.dumps(value, option=_WRITE_OPTIONS)
    except TypeError as error:
        raise InvalidCanonicalJson(f"This is not canonical JSON: {error}.") from error


def encode_lenient_json(value: Any) -> bytes:
    """Return the canonical JSON of a value, with any number written as Python writes it.

    Events of room versions 1 to 5 may hold floats and huge integers, and are hashed with them.

    Raises:
        InvalidCanonicalJson: the value cannot be JSON: a lone surrogate, infinity, a cycle.

    Spec: https://spec.matrix.org/v1.19/rooms/v1/#canonical-json
    """
    try:
        return encode_canonical_json(value)
    except InvalidCanonicalJson:
        pass
    try:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        )
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidCanonicalJson(f"This is not JSON: {error}.") from error


def encode_json(value: Any) -> bytes:
    """Return JSON of a value as it is, keys in their order: for answers, not for hashes.

    It may hold `orjson.Fragment`s, and numbers of any size, as events of old room versions do.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_unwrap)
        return text.encode()


def _unwrap(value: object) -> Any:
    """What a fragment of JSON says."""
    if isinstance(value, orjson.Fragment):
        return json.loads(orjson.dumps(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def parse_json(
    raw: bytes, *, max_depth: int = MAX_JSON_DEPTH, allow_duplicate_keys: bool = True
) -> Any:
    """Parse JSON from outside.

    Integers of any size stay integers; numbers with a fraction or an exponent become floats, which
    `encode_canonical_json` refuses later.

    Args:
        max_depth: how many arrays and objects may stand inside each other; at most 254.
        allow_duplicate_keys: take the last of equal keys (client bodies); else refuse them (PDUs,
            which in canonical JSON have none).

    Raises:
        NotJson: it is not JSON, not UTF-8, holds NaN, infinity or a lone surrogate, nests deeper
            than max_depth, or has duplicate keys that are not allowed.
    """
    max_depth = min(max_depth, _DEEPEST)
    try:
        value = orjson.loads(raw)
        depth, has_float = _survey(value)
        # orjson makes floats of integers that do not fit into a machine word. What the other
        # parser lets through and ought not (NaN, lone surrogates), orjson has refused by now.
        if has_float and depth <= max_depth and _MAYBE_HUGE_INTEGER.search(raw):
            value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"The body is not JSON: {error}.") from error
    if depth > max_depth:
        raise NotJson(f"The body nests more than {max_depth} levels of arrays and objects.")
    # Written back, a value is at most as long as what it was read from: strings and integers take
    # their shortest form. A key that was lost makes it shorter. So equal lengths prove that
    # nothing was lost, unless a float (whose written form may be longer) made up for it.
    if not allow_duplicate_keys and (has_float or len(orjson.dumps(value)) != len(raw)):
        try:
            json.loads(raw, object_pairs_hook=_refuse_duplicate_keys)
        except (ValueError, RecursionError) as error:
            raise NotJson(f"The body is not JSON: {error}.") from error
    return value


def _survey(value: Any) -> tuple[int, bool]:
    """Return how deep arrays and objects nest in value, and whether it holds a float.

    Goes level by level, never by recursion, and not further than anything can be written.
    """
    depth = 0
    has_float = False
    level = [value]
    while level and depth <= _DEEPEST:
        deeper: list[Any] = []
        containers = False
        for item in level:
            kind = type(item)
            if kind in _SCALARS:
                continue
            if kind is dict:
                containers = True
                deeper.extend(item.values())
            elif kind is list or kind is tuple:
                containers = True
                deeper.extend(item)
            elif isinstance(item, float):
                has_float = True
        if containers:
            depth += 1
        level = deeper
    return depth, has_float


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value
