"""Any process may be killed at any moment: what was answered with 200 is there, and once.

People on two servers send, sync, send to devices and claim keys while `kill -9` meets web
workers, the followers, gunicorn's master, processes of PostgreSQL, the supervisor, or all of them
at once. A short form by default; `make torture` kills 240 times:

    ARCHITEX_KILLS=240 pytest -s tests/torture/test_kills.py
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random  # noqa: TID251 - seeded, so that a run can be repeated
from typing import Final

import psutil
import pytest

from tests.federation.authority import Authority
from tests.federation.homeserver import Architex, Person, architex, assert_same_room
from tests.server import RunningServer
from tests.torture.inspection import assert_well
from tests.torture.witnesses import Company, gather, wait_for_progress
from tests.waiting import eventually

pytestmark = pytest.mark.slow

IS_LONG: Final = "ARCHITEX_KILLS" in os.environ
KILLS: Final = int(os.environ.get("ARCHITEX_KILLS", "7"))
BACK_WITHIN_S: Final = 5.0
WORKERS: Final = 2


def _some_of(processes: list[psutil.Process], chance: Random) -> None:
    """Kill one of them."""
    with suppress(psutil.NoSuchProcess):
        chance.choice(processes).kill()


def _kill_supervisor(server: RunningServer, chance: Random) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.start()  # as systemd does


def _kill_everything(server: RunningServer, chance: Random) -> None:
    server.kill9()
    server.start()


VICTIMS: Final[Mapping[str, Callable[[RunningServer, Random], None]]] = {
    "a web worker": lambda server, chance: _some_of(server.find("gunicorn")[1:], chance),
    "gunicorn's master": lambda server, chance: server.find("gunicorn")[0].kill(),
    "the followers": lambda server, chance: _some_of(server.find("follow"), chance),
    "a process of PostgreSQL": lambda server, chance: _some_of(
        server.postmaster.children(), chance
    ),
    "PostgreSQL's postmaster": lambda server, chance: server.postmaster.kill(),
    "the supervisor": _kill_supervisor,
    "every process at once": _kill_everything,
}


def test_nothing_acknowledged_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = ssl.create_default_context(cafile=authority.ca_file)
    slowdown = _measure_slowdown() if IS_LONG else 1.0
    with (
        architex(tmp_path, authority, web_workers=WORKERS) as here,
        architex(tmp_path, authority, web_workers=1) as there,
    ):
        company = gather(here, there, tls)
        with company.at_work():
            absences = _kill_again_and_again(company, here, there)
        _print_figures(company, absences)
        company.compare_books()
        persons = [listener.person for listener in company.listeners]
        assert_same_room(company.room_id, persons[0], persons[1])
        for server in (here, there):
            assert_well(server.running)
        if IS_LONG:
            longest = max(max(times) for times in absences.values())
            assert longest <= BACK_WITHIN_S * max(1.0, slowdown, _measure_slowdown())


def _kill_again_and_again(
    company: Company, here: Architex, there: Architex
) -> dict[str, list[float]]:
    """How long the server was away, by who was killed."""
    chance = Random(1)  # noqa: S311 - as above
    probe = here.register(), there.register()
    rooms = [person.create_room() for person in probe]
    absences: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    for number, victim in zip(range(KILLS), itertools.cycle(VICTIMS), strict=False):
        # Mostly the one where the people are.
        at = 1 if number % 5 == 4 else 0
        server = (here, there)[at]
        began = time.monotonic()
        VICTIMS[victim](server.running, chance)
        _await_answer(probe[at], rooms[at])
        absences[victim].append(time.monotonic() - began)
        _await_processes(server.running, (WORKERS, 1)[at])
        wait_for_progress(company, 60, lambda: False)
        time.sleep(chance.random() * 0.3)  # not always at the same point of their work
    return absences


def _await_answer(person: Person, room_id: str) -> None:
    """Until the server takes a message, as somebody who asks anew each time finds it."""

    def is_back() -> bool:
        with suppress(OSError):
            person.send(room_id, "Are you there?")
            return True
        return False

    eventually(is_back, "the server does not come back", 60)


def _await_processes(server: RunningServer, workers: int) -> None:
    """Until all processes are there, to be killed."""

    def are_there() -> bool:
        with suppress(IndexError, psutil.Error):
            return (
                len(server.find("gunicorn")) == workers + 1
                and len(server.find("follow")) >= 1
                and len(server.postmaster.children()) > 0
            )
        return False

    eventually(are_there, "a process does not come back", 60)


def _measure_slowdown() -> float:
    """How much longer the program takes to load than it works: what others take of the machine."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", "import architex.bootstrap"], check=True)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    slowdown = took / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"\nthe machine is {slowdown:.1f} times slower than alone")  # noqa: T201 - for longer runs
    return slowdown


def _print_figures(company: Company, absences: Mapping[str, list[float]]) -> None:
    kills = sum(len(times) for times in absences.values())
    print(  # noqa: T201 - for longer runs
        f"\n{kills} kills, {company.acknowledged} writes acknowledged,"
        f" {company.repeated} requests repeated,"
        f" {sum(len(claimer.claimed) for claimer in company.claimers)} keys claimed"
    )
    for victim, times in absences.items():
        if times:
            print(  # noqa: T201 - as above
                f"{victim}: back after {statistics.median(times):.2f} s,"
                f" at most {max(times):.2f} s, {len(times)} times"
            )
