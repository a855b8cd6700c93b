"""Mutation testing of the rules of rooms, and of what is done about their events: `make mutate`.

One process collects the tests once. For each mutant it forks: the child puts the changed code in
place of the functions' own, runs tests until the first fails, and ends. No file is written. Tests
that killed a mutant come first for the next, which makes most mutants a matter of milliseconds.

    python -m tests.mutation.run                            all of it
    python -m tests.mutation.run power_levels.py:2          mutants whose name contains that
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.mutants import Mutant, list_mutants

CHECKOUT: Final = Path(__file__).parents[2]
DOMAIN: Final = CHECKOUT / "architex" / "domain"
RECORDED: Final = "tests/domain/test_recorded_verdicts.py"
SUBJECTS: Final = {
    "auth_rules": ("tests/domain/auth_rules/", RECORDED),
    "state_resolution": ("tests/domain/state_resolution/", RECORDED),
    "room/pdu_checks.py": ("tests/domain/room/test_pdu_checks.py",),
    "push_evaluation.py": ("tests/domain/test_push_evaluation.py",),
    "third_party_offers.py": (
        "tests/domain/test_third_party_offers.py",
        "tests/domain/auth_rules/test_membership.py",
    ),
    "redaction.py": ("tests/domain/test_redaction.py",),
}
"""What is changed, packages and modules of the domain, and the tests that have to notice."""
ENOUGH_KILLED: Final = 0.95
"""Of each subject: the share of mutants that some test must notice."""

_LONG_SECONDS: Final = 0.05
"""Tests that take longer than that come last."""
_MAX_CPU_SECONDS: Final = 30
_MAX_BYTES: Final = 2 << 30
_SURVIVED: Final = "survived"
_UNLOADABLE: Final = "the module does not load"
_ENDLESS: Final = "time or memory ran out"


@dataclass(slots=True)
class Mutation:
    """A pytest plugin that runs the collected tests once per mutant.

    Attributes:
        fates: each mutant and the test that killed it, or what else became of it.
    """

    mutants: list[Mutant]
    fates: dict[Mutant, str] = field(default_factory=dict)
    _killers: list[str] = field(default_factory=list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        gc.freeze()
        # With the modules' own code put in place the way a mutant's is.
        paths = {mutant.path for mutant in self.mutants}
        seconds = _time_tests(session.items, paths)
        # The first parameters of each test, then the second of each, and so on.
        rounds = Counter[str]()
        turns = {}
        for item in session.items:
            function = item.nodeid.partition("[")[0]
            turns[item.nodeid] = rounds[function]
            rounds[function] += 1
        for number, mutant in enumerate(self.mutants, start=1):
            ranks = {name: rank for rank, name in enumerate(reversed(self._killers))}
            told = SUBJECTS[_subject_of(mutant)]
            suite = sorted(
                (item for item in session.items if item.nodeid.startswith(told)),
                key=lambda item: (
                    seconds[item.nodeid] > _LONG_SECONDS,
                    ranks.get(item.nodeid, len(ranks)),
                    turns[item.nodeid],
                ),
            )
            fate = _run_in_child(partial(_fate_of, mutant, suite))
            self.fates[mutant] = fate
            if fate == _SURVIVED:
                print(f"{number}/{len(self.mutants)} survived  {mutant.name}", flush=True)
                continue
            if fate in self._killers:
                self._killers.remove(fate)
            self._killers.append(fate)
        return True


def _time_tests(items: list[pytest.Item], paths: set[Path]) -> dict[str, float]:
    """Return the seconds that each test takes when there is no mutant.

    Raises:
        pytest.UsageError: one fails.
    """

    def run_all() -> str:
        for path in paths:
            install(path, compile(path.read_text(), str(path), "exec"))
        seconds = {}
        for item in items:
            started = time.perf_counter()
            if _find_failing([item]) != _SURVIVED:
                return json.dumps(item.nodeid)
            seconds[item.nodeid] = time.perf_counter() - started
        return json.dumps(seconds)

    seconds = json.loads(_run_in_child(run_all))
    if not isinstance(seconds, dict):
        raise pytest.UsageError(f"without any mutant there fails {seconds}")
    return seconds


def _run_in_child(work: Callable[[], str]) -> str:
    """Return what a function says in a process of its own, or that it did not come to an end.

    Raises:
        RuntimeError: the function did.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_SECONDS, _MAX_CPU_SECONDS))
            resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
            with open(writer, "w") as answer:
                answer.write(work())
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with open(reader) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("the run of a mutant failed, see above")
    return said or _ENDLESS


def _fate_of(mutant: Mutant, suite: list[pytest.Item]) -> str:
    try:
        install(mutant.path, mutant.compile())
    except Exception:  # noqa: BLE001 -- no test could begin with it
        return _UNLOADABLE
    return _find_failing(suite)


def _find_failing(items: list[pytest.Item]) -> str:
    """Return the first test that fails, or `survived`."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
            return item.nodeid
    return _SURVIVED


def install(path: Path, changed: CodeType) -> None:
    """Put changed code into the functions of the module that is already loaded.

    A change outside functions is made by running the module anew and handing the values that
    differ to all who have imported them.
    """
    module = _module_of(path)
    codes = dict(_codes_in(changed))
    replaced = 0
    for function in _functions_of(module):
        code = codes.get(function.__qualname__)
        if code is None:  # written by the library, as the methods of dataclasses are
            continue
        replaced += function.__code__ != code
        function.__code__ = code
    if replaced == 0:
        _install_values(module, changed)


def _install_values(module: ModuleType, changed: CodeType) -> None:
    fresh = ModuleType(module.__name__)
    fresh.__dict__.update({"__file__": module.__file__, "__package__": module.__package__})
    # Dataclasses and the like look their module up.
    exec(changed, fresh.__dict__)  # noqa: S102 -- our own source, changed in one place
    for name, value in vars(fresh).items():
        old = getattr(module, name, None)
        if isinstance(value, type) and isinstance(old, type):
            _install_constants(old, value)
        if isinstance(value, FunctionType) and isinstance(old, FunctionType):
            old.__defaults__, old.__kwdefaults__ = value.__defaults__, value.__kwdefaults__
        if name.startswith("__") or isinstance(value, FunctionType | type) or value == old:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            old.clear()
            old.update(value)
            continue
        for other in list(sys.modules.values()):
            if getattr(other, "__dict__", {}).get(name) is old:
                setattr(other, name, value)


def _install_constants(old: type, fresh: type) -> None:
    """Hand the numbers that a class body names to the class that is already in use."""
    for name, value in vars(fresh).items():
        if isinstance(value, int) and vars(old).get(name) != value:
            setattr(old, name, value)


def _codes_in(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_qualname, constant
            # Classes hold their methods; what a function holds comes with it.
            if not constant.co_flags & 1:
                yield from _codes_in(constant)


def _functions_of(module: ModuleType) -> Iterator[FunctionType]:
    values: list[Any] = list(vars(module).values())
    for value in list(values):
        if isinstance(value, type) and value.__module__ == module.__name__:
            values.extend(vars(value).values())
    for value in values:
        function = value.fget if isinstance(value, property) else value
        if isinstance(function, FunctionType) and function.__module__ == module.__name__:
            yield function


def _module_of(path: Path) -> ModuleType:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return importlib.import_module(".".join(part for part in parts if part != "__init__"))


def main(wanted: list[str]) -> int:
    """Run the mutants whose name contains one of the texts, or all; return the exit code."""
    paths = [
        path
        for subject in SUBJECTS
        for path in (
            [DOMAIN / subject] if ".py" in subject else sorted((DOMAIN / subject).glob("*.py"))
        )
    ]
    mutants = [
        mutant
        for path in paths
        for mutant in list_mutants(path)
        if not wanted or any(text in mutant.name for text in wanted)
    ]
    # The same examples each time, and no search for the smallest that fails.
    hypothesis.settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        deadline=None,
    )
    hypothesis.settings.load_profile("mutation")
    started = time.monotonic()
    mutation = Mutation(mutants)
    options = ["-q", "-s", "-p", "no:randomly", "-p", "no:cacheprovider"]
    # Hypothesis is imported already, and rightly so.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    tests = dict.fromkeys(test for told in SUBJECTS.values() for test in told)
    status = pytest.main([*options, *tests], plugins=[mutation])
    if len(mutation.fates) != len(mutants):
        return int(status) or 1
    return _report(mutation.fates, time.monotonic() - started)


def _subject_of(mutant: Mutant) -> str:
    return next(subject for subject in SUBJECTS if mutant.path.is_relative_to(DOMAIN / subject))


def _report(fates: dict[Mutant, str], seconds: float) -> int:
    all_of, killed = Counter[str](), Counter[str]()
    for mutant, fate in fates.items():
        for name in {str(mutant.path.relative_to(DOMAIN)), _subject_of(mutant)}:
            all_of[name] += 1
            killed[name] += fate != _SURVIVED
    print("\nsurvivors:")
    for mutant, fate in fates.items():
        if fate == _SURVIVED:
            print(f"  {mutant.name}")
    print(f"\n{'':40} mutants  killed  survived")
    for name in sorted(all_of):
        share = killed[name] / all_of[name]
        survived = all_of[name] - killed[name]
        print(f"{name:40} {all_of[name]:7} {killed[name]:7} {survived:9}  {share:.1%}")
    timed_out = sum(fate == _ENDLESS for fate in fates.values())
    print(f"{seconds:.0f} s; {timed_out} of the killed never came to an end")
    return int(any(killed[name] < ENOUGH_KILLED * all_of[name] for name in SUBJECTS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
