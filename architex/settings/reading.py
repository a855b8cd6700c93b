"""Reading the settings: a TOML file and the environment become one frozen object."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from architex.domain.errors import InvalidParam
from architex.domain.identifiers import is_server_name, parse_server_name
from architex.domain.unpadded_base64 import decode_base64
from architex.settings.environment import ENVIRONMENT_PREFIX, override
from architex.settings.keys import FederationSettings, Settings, name_of, sections
from architex.storage.start_refusal import StartRefused

DEFAULT_CONFIG_FILE = Path("architex.toml")

_KINDS: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def find_config_file(given: str | Path | None = None) -> Path | None:
    """The file to read: the given one, else $ARCHITEX_CONFIG, else ./architex.toml if it is there.

    None: no file was asked for and there is none; the defaults and the environment hold.
    """
    named = given or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if named:
        return Path(named).absolute()
    return DEFAULT_CONFIG_FILE.absolute() if DEFAULT_CONFIG_FILE.exists() else None


def load_settings(
    given: str | Path | None = None, *, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings.

    Args:
        given: the file; see `find_config_file` for what holds without one.
        environment: by default the process's. ARCHITEX_SERVER_NAME,
            ARCHITEX_ROOMS__DEFAULT_VERSION and so on override the file.

    Raises StartRefused: A001 no such file, A002 no TOML, A003 unknown key, A004 wrong value.
    """
    path = find_config_file(given)
    table: dict[str, Any] = {}
    if path is not None:
        table = _read_toml(path)
    source = str(path) if path is not None else "the defaults"
    override(table, os.environ if environment is None else environment)
    base = path.parent if path is not None else Path.cwd()
    settings: Settings = _Reader(source, base).read(Settings, table, ())
    return _completed(settings, table, base)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartRefused(
            "A001",
            f"cannot read {path}: {error.strerror}",
            mend=f"architex generate-config --config {path}",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartRefused("A002", f"{path} is not TOML: {error}", mend=f"edit {path}") from error


def _completed(settings: Settings, table: Mapping[str, Any], base: Path) -> Settings:
    """Fill in the defaults that depend on other settings, and check what spans several."""
    changes: dict[str, Any] = {}
    if "signing_key_path" not in table:
        beside = base / "keys" / "id_ed25519"
        if "data_dir" in table and not beside.exists():
            changes["signing_key_path"] = settings.data_dir / "keys" / "id_ed25519"
    for listener in settings.listeners:
        if (listener.tls_certificate is None) != (listener.tls_key is None):
            raise _wrong("listeners", "tls_certificate and tls_key belong together")
    if not settings.listeners:
        raise _wrong("listeners", "at least one [[listeners]] is needed")
    if not settings.public_base_url:
        first = settings.listeners[0]
        scheme = "http" if first.tls_certificate is None else "https"
        host = "localhost" if first.host in ("0.0.0.0", "::") else first.host  # noqa: S104 - compared
        host = f"[{host}]" if ":" in host else host
        changes["public_base_url"] = f"{scheme}://{host}:{first.port}"
    elif not settings.public_base_url.startswith(("http://", "https://")):
        raise _wrong("public_base_url", "it begins with https:// (or http://)")
    else:
        changes["public_base_url"] = settings.public_base_url.rstrip("/")
    try:
        parse_server_name(settings.server_name)
    except InvalidParam as error:
        raise _wrong("server_name", error.message) from error
    _check_federation(settings.federation)
    if settings.registration.email_required and settings.email is None:
        raise _wrong("registration.email_required", "needs an [email] section")
    return dataclasses.replace(settings, **changes)


def _check_federation(federation: FederationSettings) -> None:
    for notary in federation.notaries:
        if not is_server_name(notary):
            raise _wrong("federation.notaries", f"{notary} is no server name")
    for old in federation.old_keys:
        try:
            is_key = len(decode_base64(old.key)) == 32
        except ValueError:
            is_key = False
        if not is_key or not old.key_id.startswith("ed25519:"):
            raise _wrong("federation.old_keys", f"{old.key_id} is no ed25519 key in base64")


def _wrong(key: str, problem: str) -> StartRefused:
    return StartRefused(
        "A004",
        f"{key}: {problem}",
        mend="edit it in architex.toml; `architex generate-config -`"
        " prints each key with what it means",
    )


class _Reader:
    """Turns tables of TOML into the dataclasses of settings."""

    def __init__(self, source: str, base: Path) -> None:
        self._source = source
        self._base = base

    def read(self, cls: type[Any], table: Any, at: tuple[str, ...], default: Any = None) -> Any:
        """A table as an instance of a dataclass.

        `at` is where it stands in the file; `default` the instance that gives what it leaves out.
        """
        if not isinstance(table, dict):
            raise _wrong(".".join(at), f"a table, not {table!r}")
        hints = typing.get_type_hints(cls)
        fields = {name_of(f): f for f in dataclasses.fields(cls)}
        for name in table:
            if name not in fields:
                raise self._unknown(name, at, fields)
        values: dict[str, Any] = {}
        for name, f in fields.items():
            here = (*at, name)
            fallback = f.default if default is None else getattr(default, f.name)
            if name in table:
                values[f.name] = self._value(hints[f.name], table[name], here, f, fallback)
            elif fallback is dataclasses.MISSING:
                raise _wrong(".".join(here), "is missing, and has no default")
            else:
                is_path = isinstance(fallback, Path)
                values[f.name] = self._absolute(fallback) if is_path else fallback
        return cls(**values)

    def _value(
        self, kind: Any, value: Any, at: tuple[str, ...], f: dataclasses.Field[Any], default: Any
    ) -> Any:
        if isinstance(kind, types.UnionType):  # X | None: absence is the None
            kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self.read(kind, value, at, default)
        if typing.get_origin(kind) is tuple:
            if not isinstance(value, list | tuple):
                raise _wrong(".".join(at), f"a list, not {value!r}")
            item = typing.get_args(kind)[0]
            return tuple(self._value(item, v, (*at, str(i)), f, None) for i, v in enumerate(value))
        return self._scalar(kind, value, at, f)

    def _scalar(
        self, kind: Any, value: Any, at: tuple[str, ...], f: dataclasses.Field[Any]
    ) -> Any:
        where = ".".join(at)
        if kind is Path:
            if not isinstance(value, str) or not value:
                raise _wrong(where, f"a path, not {value!r}")
            return self._absolute(Path(value))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise _wrong(where, f"{_KINDS[kind]}, not {value!r}")
        choices, at_least = f.metadata["choices"], f.metadata["at_least"]
        if choices is not None and value not in choices:
            raise _wrong(where, f"one of {', '.join(choices)}, not {value!r}")
        if at_least is not None and value < at_least:
            raise _wrong(where, f"at least {at_least}, not {value}")
        if f.metadata["is_network"]:
            try:
                ipaddress.ip_network(value)
            except ValueError as error:
                raise _wrong(where, str(error)) from error
        return value

    def _absolute(self, path: Path) -> Path:
        return Path(os.path.normpath(self._base / path.expanduser()))

    def _unknown(self, name: str, at: tuple[str, ...], fields: Mapping[str, Any]) -> StartRefused:
        where = f"[{'.'.join(at)}]" if at else "the top level"
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
        place = f"`{near[0]}` in {where}" if near else None
        if place is None or not difflib.get_close_matches(name, fields, n=1, cutoff=0.8):
            # Perhaps the right key, in the wrong section.
            place = _find_elsewhere(name) or place
        hint = f"; did you mean {place}?" if place else ""
        return StartRefused(
            "A003",
            f"unknown key `{name}` in {where} of {self._source}{hint}",
            mend=f"correct or remove `{name}`; `architex generate-config -` prints all keys",
        )


def _find_elsewhere(name: str) -> str | None:
    keys = {
        (name_of(f)): section
        for section, kind in sections().items()
        for f in dataclasses.fields(kind)
    }
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.8)
    if not near:
        return None
    return f"`{near[0]}` in {f'[{keys[near[0]]}]' if keys[near[0]] else 'the top level'}"
