"""What the server needs to run, with everything that those packages need themselves."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

CHECKOUT: Final = Path(__file__).parents[2]


@cache
def list_dependencies() -> Mapping[str, metadata.Distribution]:
    """Name → the installed distribution, of all that pyproject.toml names, and so on.

    What is not installed here (it is for other systems) is left out.
    """
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, metadata.Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        key = (requirement.name.lower(), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        found[distribution.metadata["Name"]] = distribution
        for line in distribution.requires or ():
            inner = Requirement(line)
            extras = ("", *requirement.extras)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                wanted.append(inner)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
