"""The route table serves what the specification lists; what is missing is a number.

`spec_endpoints.csv` holds every operation that a homeserver serves in Matrix v1.19.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import falcon
import falcon.inspect
import pytest

from architex.api.routing import CLIENT_VERSIONS
from architex.bootstrap import build_core
from architex.bootstrap.web import build_app
from tests.api.client import settings_for

SPEC_ENDPOINTS: Final = Path(__file__).parent / "spec_endpoints.csv"

SERVED_AT_LEAST: Final = 193
"""How many of them are served. It only grows: raise it when you add endpoints."""

_VARIABLE: Final = re.compile(r"{[^}]+}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path template of the specification."""

    api: str
    module: str
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Served:
    """A path template of ours and the methods that answer there."""

    path: str
    methods: frozenset[str]

    def answers(self, operation: Operation) -> bool:
        """Whether requests of that operation come here."""
        pattern = "[^/]+".join(re.escape(part) for part in _VARIABLE.split(self.path))
        sample = _VARIABLE.sub("x", operation.path)
        return operation.method in self.methods and re.fullmatch(pattern, sample) is not None


def read_operations() -> list[Operation]:
    """What the specification lists."""
    with SPEC_ENDPOINTS.open(newline="") as file:
        return [Operation(**row) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> list[Served]:
    """What the application serves. It needs no database as long as nobody asks it anything."""
    settings = settings_for(tmp_path_factory.mktemp("routes"))
    app = build_app(settings, build_core(settings, conninfo="host=/nonexistent"))
    return list(_routes(cast(Any, app)._app))


def _routes(app: falcon.App[Any, Any]) -> Iterator[Served]:
    for route in falcon.inspect.inspect_routes(app):
        # Internal methods are Falcon's own answers: 405 and OPTIONS.
        methods = frozenset(m.method for m in route.methods if not m.internal)
        yield Served(route.path, methods)


def test_no_endpoint_of_the_spec_is_lost(
    served: list[Served], capsys: pytest.CaptureFixture[str]
) -> None:
    operations = read_operations()
    missing = [o for o in operations if not any(route.answers(o) for route in served)]
    count = len(operations) - len(missing)
    with capsys.disabled():
        print(f"\n{count} of {len(operations)} endpoints are served, {len(missing)} missing:")  # noqa: T201 - the number is what this test is for
        for (api, module), number in sorted(Counter((o.api, o.module) for o in missing).items()):
            print(f"  {number:3} {api}: {module}")  # noqa: T201 - as above
    lines = "\n".join(f"{o.method} {o.path}" for o in missing)
    assert count >= SERVED_AT_LEAST, f"fewer endpoints are served than before. Missing:\n{lines}"


@pytest.mark.parametrize("version", CLIENT_VERSIONS)
def test_client_endpoints_are_alike_under_every_version_prefix(
    served: list[Served], version: str
) -> None:
    def below(name: str) -> set[tuple[str, frozenset[str]]]:
        prefix = f"/_matrix/client/{name}/"
        return {
            (route.path.removeprefix(prefix), route.methods)
            for route in served
            # Proposals and their old names have prefixes of their own, with a dot.
            if re.match(re.escape(prefix) + r"[^/.]+(/|$)", route.path)
        }

    assert below(version) == below("v3")


def test_no_two_routes_answer_the_same_path(served: list[Served]) -> None:
    shapes = Counter(_VARIABLE.sub("{}", route.path) for route in served)
    assert [shape for shape, number in shapes.items() if number > 1] == []
