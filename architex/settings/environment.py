"""The environment: ARCHITEX_SECTION__KEY variables go before the file."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from architex.settings.keys import Settings, name_of, sections
from architex.storage.start_refusal import StartRefused

ENVIRONMENT_PREFIX = "ARCHITEX_"
# Named ARCHITEX_… but no settings: the file to read, marks between our own processes, test points.
_OTHER_VARIABLES = frozenset({"CONFIG", "SUPERVISED", "CRASH_AT", "BIN"})


def override(table: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put ARCHITEX_SECTION__KEY variables over the table. Unknown names refuse the start."""
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        if rest in _OTHER_VARIABLES:
            continue
        path = rest.lower().split("__")
        kind = _kind_at(path)
        if kind is None:
            _refuse_unknown_variable(variable, path)
            continue
        value = _parse_variable(variable, kind, environment[variable])
        inner = table
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value


def _kind_at(path: Sequence[str]) -> Any:
    """The type of the key at a path, or None when there is none."""
    kind: Any = Settings
    for part in path:
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        if not (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
            return None
        names = {name_of(f): f.name for f in dataclasses.fields(kind)}
        if part not in names:
            return None
        kind = typing.get_type_hints(kind)[names[part]]
    return kind


def _refuse_unknown_variable(variable: str, path: Sequence[str]) -> None:
    """Refuse a name that is none of ours; without __ (it may be another program's) if near one."""
    known = [
        ENVIRONMENT_PREFIX + "__".join(filter(None, (section, name_of(f)))).upper()
        for section, kind in sections().items()
        for f in dataclasses.fields(kind)
        if section or f.name not in sections()
    ]
    near = difflib.get_close_matches(variable, known, n=1, cutoff=0.6)
    if len(path) == 1 and not difflib.get_close_matches(variable, known, n=1, cutoff=0.87):
        return
    hint = f"; did you mean {near[0]}?" if near else ""
    raise StartRefused(
        "A003",
        f"unknown setting in the environment: {variable}{hint}",
        mend=f"unset {variable}",
    )


def _parse_variable(variable: str, kind: Any, text: str) -> Any:
    """A variable's text as the value that TOML would have given."""
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    if kind in (str, Path):
        return text
    if kind is bool and text.lower() in ("1", "yes", "on", "0", "no", "off"):
        return text.lower() in ("1", "yes", "on")
    if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] in (str, Path):
        stripped = text.strip()
        if not stripped.startswith("["):
            return [part.strip() for part in stripped.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text.lower() if kind is bool else text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise StartRefused(
            "A004",
            f"{variable} is {text!r}, which is no value for it",
            mend=f"unset {variable}   (or write it as in architex.toml)",
        ) from error
