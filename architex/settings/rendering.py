"""Writing a config file that explains itself."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from architex.settings.keys import Settings, name_of, sections


def render_config(given: Mapping[str, Any]) -> str:
    """A commented architex.toml with every key; those of `given` are set, the others shown.

    Args:
        given: values by dotted key, like `{"registration.shared_secret": "…"}`.
    """
    lines = [
        "# Architex, a Matrix homeserver: everything you can choose, and what holds otherwise.",
        "# A key that is commented out shows its default. Any key can also be given in the",
        "# environment: ARCHITEX_SERVER_NAME, ARCHITEX_REGISTRATION__ENABLED and so on.",
        "# Relative paths are relative to this file.",
        "",
    ]
    tables = sections()
    for f in dataclasses.fields(Settings):
        if f.name not in tables and f.name != "listeners":
            lines += _render_key(f, f.name, given)
    lines += ["# Addresses to listen on; repeat the block for more. All APIs are on each.", ""]
    lines += ["[[listeners]]", 'host = "127.0.0.1"', "port = 8008"]
    lines += [
        '#tls_certificate = "tls.crt"   # with both, it is https',
        '#tls_key = "tls.key"',
        "",
    ]
    for section, kind in tables.items():
        if section:
            lines += _render_section(section, kind, given)
    return "\n".join(lines)


def _render_section(section: str, kind: type[Any], given: Mapping[str, Any]) -> list[str]:
    optional = all(not key.startswith(f"{section}.") for key in given) and any(
        f.default is dataclasses.MISSING for f in dataclasses.fields(kind)
    )
    lines = [f"# {(kind.__doc__ or '').strip()}", f"{'#' if optional else ''}[{section}]"]
    nested = []
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(f.default):
            values = dataclasses.asdict(f.default)  # type: ignore[arg-type] # instance, never a class
            inline = ", ".join(f"{k} = {json.dumps(v)}" for k, v in values.items())
            nested += [f"# {f.metadata['about']}", f"#{f.name} = {{ {inline} }}"]
        else:
            lines += _render_key(f, f"{section}.{name_of(f)}", given)
    return [*lines, *nested, ""]


def _render_key(f: dataclasses.Field[Any], key: str, given: Mapping[str, Any]) -> list[str]:
    name = key.rsplit(".", 1)[-1]
    lines = textwrap.wrap(f.metadata["about"], 95, initial_indent="# ", subsequent_indent="# ")
    if key in given:
        lines.append(f"{name} = {_toml(given[key])}")
    elif f.default is None or f.default is dataclasses.MISSING or f.default == "":
        lines.append(f"#{name} =")
    else:
        lines.append(f"#{name} = {_toml(f.default)}")
    if "." not in key:
        lines.append("")
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
