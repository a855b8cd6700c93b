"""Whether answers look as the specification's OpenAPI says, and events as its event schemas."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema

from architex.domain.errors import MatrixError
from architex.domain.identifiers import is_server_name, parse_room_alias, parse_user_id
from tests.house.digest import SPEC_ANSWERS

_VARIABLE: Final = re.compile(r"{[^}]+}")
_FORMATS: Final = jsonschema.FormatChecker(formats=())
_FORMATS.checks("mx-server-name")(is_server_name)


@_FORMATS.checks("mx-user-id", MatrixError)
def _is_user_id(text: object) -> bool:
    return not isinstance(text, str) or bool(parse_user_id(text))


@_FORMATS.checks("mx-room-alias", MatrixError)
def _is_room_alias(text: object) -> bool:
    return not isinstance(text, str) or bool(parse_room_alias(text))


_OTHERWISE: Final = tuple(
    (re.compile(operation), re.compile(problem))
    for operation, problem in (
        # Clients and SyTest expect both names of every member: null stands for none.
        (r"GET .*/joined_members answers 200", r"None is not of type 'string'"),
        # An invite is given back as it came, and servers of today send none.
        (r"PUT .*/v2/invite/.* answers 200", r"'origin' is a required property"),
        (r"PUT .*/v1/invite/.* answers 200", r"^\$\[1\]: "),
        # Who must authenticate once more is told of flows; who has no token is not.
        (r" answers 401", r"'flows' is a required property"),
        # An object without servers is what clients understand: they take an empty list of URIs
        # for a server without any.
        (r"GET .*/voip/turnServer answers 200", r"is a required property"),
        # From before /sync: besides events of rooms these tell ephemeral ones, and of invites
        # no more than is known, which is stripped state.
        (r"GET .*/v3/events answers 200", r"^\$\.chunk.*is a required property"),
        (
            r"GET .*/v3/initialSync answers 200",
            r"^\$\.rooms\[\d+\]\.(invite|state).*is a required",
        ),
        # The names of algorithms are clients' affair, and there will be more.
        (r" answers 200", r"(algorithm|encryption): .* is not one of \['m\.megolm"),
        # A backup is told as its client described it; SyTest's clients do so by a string.
        (
            r"GET .*/room_keys/version.* answers 200",
            r"^\$\.auth_data: '.*' is not of type 'object'",
        ),
        # And so are its keys.
        (
            r"GET .*/room_keys/keys.* answers 200",
            r"^\$\.(.*\.)?session_data: '.*' is not of type 'object'",
        ),
        # "Either an object or a state event": a state event is both.
        (
            r"GET .*/state/\{eventType\}/\{stateKey\} answers 200",
            r"^\$: \{'content': ",
        ),
        # There was no knocking then.
        (r"GET .*/initialSync answers 200", r"^\$\..*membership: 'knock' is not one of"),
    )
)
"""Where we answer otherwise than the description, and why: in which answer, and in what."""


class NotConforming(AssertionError):
    """An answer or an event that the specification says looks otherwise."""


@functools.cache
def _digest() -> Mapping[str, Any]:
    digest: Mapping[str, Any] = json.loads(SPEC_ANSWERS.read_text())
    return digest


@functools.cache
def _operations() -> list[tuple[str, re.Pattern[str], str, Mapping[str, Any]]]:
    found = []
    for operations in _digest()["answers"].values():
        for name, answers in operations.items():
            method, _, path = name.partition(" ")
            # What names no variable is the better match.
            pattern = "[^/]+".join(re.escape(part) for part in _VARIABLE.split(path))
            found.append((method, re.compile(pattern), name, answers))
    return sorted(found, key=lambda row: row[2].count("{"))


@functools.lru_cache(maxsize=10_000)
def find_operation(method: str, path: str) -> str | None:
    """The name of the operation that a request is one of; None for what is not specified.

    Args:
        path: without a query. A trailing slash of an empty state key does not matter.
    """
    path = path.partition("?")[0]
    for candidate, pattern, name, _ in _operations():
        if candidate == method and pattern.fullmatch(path.rstrip("/")):
            return name
    return None


@functools.cache
def _validator(operation: str, status: str) -> jsonschema.Draft202012Validator | None:
    """None when the specification does not say how an answer of that status looks."""
    answers: Mapping[str, Any] = next(row[3] for row in _operations() if row[2] == operation)
    schema = answers.get(status)
    if schema is None:
        return None
    return _validating(schema)


@functools.cache
def _event_validator(type: str) -> jsonschema.Draft202012Validator | None:
    schema = _digest()["events"].get(type)
    return None if schema is None else _validating(schema)


def _validating(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    whole = {**schema, "$defs": _digest()["$defs"]}
    return jsonschema.Draft202012Validator(whole, format_checker=_FORMATS)


def check_answer(method: str, path: str, status: int, body: Any) -> None:
    """Fail unless an answer looks as its operation's description says.

    Args:
        body: parsed; None when it is not JSON.

    Raises NotConforming.
    """
    operation = find_operation(method, path)
    if operation is None or body is None:
        return
    validator = _validator(operation, str(status))
    if validator is not None:
        _raise(_problems(validator, body), f"{operation} answers {status}", body)


def check_event(event: Mapping[str, Any]) -> None:
    """Fail unless an event looks as the specification describes its type.

    Raises NotConforming.
    """
    validator = _event_validator(event["type"])
    assert validator is not None, f"the specification has no {event['type']}"
    _raise(_problems(validator, event), f"an event {event['type']}", event)


def _problems(validator: jsonschema.Draft202012Validator, value: Any) -> Iterator[str]:
    for problem in validator.iter_errors(value):
        yield f"{problem.json_path}: {problem.message[:300]}"


def _raise(problems: Iterator[str], what: str, value: Any) -> None:
    known = [problem for operation, problem in _OTHERWISE if operation.search(what)]
    found = [line for line in problems if not any(reason.search(line) for reason in known)]
    if found:
        lines = "\n".join(found)
        raise NotConforming(f"{what} otherwise than specified:\n{lines}\n{str(value)[:2000]}")
