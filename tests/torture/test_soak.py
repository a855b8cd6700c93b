"""Mixed traffic for a long time: nothing grows that the traffic itself does not make grow.

People talk, sync, join and leave, log in and out, send to devices and claim keys, are present,
type and read, on two servers, while a web worker is killed every minute. A few seconds by default;
`make torture` soaks for an hour and writes plots:

    ARCHITEX_SOAK_S=3600 ARCHITEX_SOAK_PLOTS=docs/figures pytest -s tests/torture/test_soak.py
"""

from __future__ import annotations

import itertools
import os
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil
import pytest

from architex.domain.errors import DatabaseUnavailable
from architex.storage.pool import Database
from tests.federation.authority import Authority
from tests.federation.homeserver import PASSWORD, Homeserver, Person, architex
from tests.server import RunningServer
from tests.torture.inspection import assert_well, conninfo_of
from tests.torture.plots import Point, slope_per_hour, write_plot
from tests.torture.witnesses import Company, Witness, gather

pytestmark = pytest.mark.slow

SOAK_S: Final = float(os.environ.get("ARCHITEX_SOAK_S", "8"))
PLOTS: Final = os.environ.get("ARCHITEX_SOAK_PLOTS")
IS_LONG: Final = SOAK_S >= 600
WORKERS: Final = 2
SAMPLE_EVERY_S: Final = 5.0 if IS_LONG else 1.0
KILL_EVERY_S: Final = 60.0 if IS_LONG else 4.0
PACE: Final = 10.0
MAX_MEMORY_GROWTH: Final = 0.10
"""In an hour, as a part of what it was; memory that leaks shows more."""

_SIZES: Final = """
SELECT relname, pg_total_relation_size(oid) / 1048576.0 FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"""
_QUEUES: Final = """
SELECT 'to_device_messages', count(*) FROM to_device_messages
UNION ALL SELECT 'to_device_outbox', count(*) FROM to_device_outbox
UNION ALL SELECT 'outgoing_events', count(*) FROM outgoing_events
UNION ALL SELECT 'device_list_updates', count(*) FROM device_list_updates
UNION ALL SELECT 'waiting_pdus', count(*) FROM waiting_pdus
UNION ALL SELECT 'early_receipts', count(*) FROM early_receipts
UNION ALL SELECT 'typing', count(*) FROM typing
UNION ALL SELECT 'presence', count(*) FROM presence"""
_CONNECTIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"


class Guest(Witness):
    """Comes and goes: logs in, joins, is there, reads, leaves, forgets, logs out."""

    def __init__(
        self, person: Person, tls: ssl.SSLContext, room_id: str, via: Homeserver, pause_s: float
    ) -> None:
        super().__init__(person, tls, pause_s)
        self._room_id = room_id
        self._via = via.name

    def act(self) -> None:
        """See Witness."""
        do, room = self.client.do, quote(self._room_id, safe="")
        user = quote(self.person.user_id)
        identifier = {"type": "m.id.user", "user": self.person.user_id}
        login = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        device = do("POST", "/login", login)["device_id"]
        do("POST", f"/join/{room}", {}, via=self._via, server_name=self._via)
        do("PUT", f"/presence/{user}/status", {"presence": "online"})
        do("PUT", f"/rooms/{room}/typing/{user}", {"typing": True, "timeout": 3000})
        newest = do("GET", f"/rooms/{room}/messages", dir="b", limit=1)["chunk"][0]["event_id"]
        do("POST", f"/rooms/{room}/receipt/m.read/{quote(newest, safe='')}", {})
        do("POST", f"/rooms/{room}/leave", {})
        do("POST", f"/rooms/{room}/forget", {})
        do("PUT", f"/presence/{user}/status", {"presence": "unavailable"})
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        do("POST", "/delete_devices", {"devices": [device], "auth": auth})


class Gauge:
    """Looks at a server now and then.

    Attributes:
        lines: group → name → values over time.
    """

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._database = Database(conninfo_of(server), max_size=1)
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.lines: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))

    def __enter__(self) -> Gauge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._database.close()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            # A worker that is being killed, and PostgreSQL when it is busy, are missed once.
            with suppress(psutil.Error, DatabaseUnavailable, OSError):
                self._look()

    def _look(self) -> None:
        memory: dict[str, float] = defaultdict(float)
        files: dict[str, float] = defaultdict(float)
        for process in self._server.processes():
            kind = self._kind_of(process)
            memory[kind] += process.memory_full_info().pss / 2**20
            files[kind] += process.num_fds()
        self._note("memory, MB", memory)
        self._note("file descriptors", files)
        (connections,) = self._database.fetch_all(_CONNECTIONS)
        self._note("connections to PostgreSQL", {"all": float(connections[0])})
        self._note("rows of queues", dict(self._database.fetch_all(_QUEUES)))
        self._note("tables, MB", {n: float(s) for n, s in self._database.fetch_all(_SIZES)})

    def _note(self, group: str, values: Mapping[str, Any]) -> None:
        now = time.monotonic() - self._began
        for name, value in values.items():
            self.lines[group][name].append((now, float(value)))

    def _kind_of(self, process: psutil.Process) -> str:
        words = process.cmdline()
        for word, kind in (("gunicorn", "web"), ("follow", "followers"), ("serve", "supervisor")):
            if word in words:
                return kind
        return "PostgreSQL"


def test_traffic_leaves_nothing_behind_but_itself(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = ssl.create_default_context(cafile=authority.ca_file)
    with (
        architex(tmp_path, authority, web_workers=WORKERS) as here,
        architex(tmp_path, authority, web_workers=1) as there,
    ):
        company = gather(here, there, tls, pace=PACE)
        company.others += [
            Guest(server.register(), tls, company.room_id, here, 0.2 * PACE)
            for server in (here, there)
        ]
        with Gauge(here.running) as gauge:
            with company.at_work():
                _soak(company, here.running)
            company.compare_books()
            assert_well(here.running)
            assert_well(there.running)
        _report(company, gauge.lines)
        if IS_LONG:
            _assert_flat(gauge.lines)


def _soak(company: Company, server: RunningServer) -> None:
    end = time.monotonic() + SOAK_S
    for number in itertools.count():
        pause = min(KILL_EVERY_S, end - time.monotonic())
        if pause <= 0:
            return
        time.sleep(pause)
        company.check()
        workers = server.find("gunicorn")[1:]
        if workers:
            with suppress(psutil.NoSuchProcess):
                workers[number % len(workers)].kill()


def _settled(points: Sequence[Point]) -> list[Point]:
    """Without the beginning, while caches fill, and what is looked at after the traffic."""
    return [point for point in points if SOAK_S / 4 < point[0] <= SOAK_S]


def _assert_flat(lines: Mapping[str, Mapping[str, Sequence[Point]]]) -> None:
    for kind, points in lines["memory, MB"].items():
        if kind != "PostgreSQL":  # its processes touch shared memory one after the other
            settled = _settled(points)
            mean = sum(value for _, value in settled) / len(settled)
            assert slope_per_hour(settled) < max(MAX_MEMORY_GROWTH * mean, 5), (kind, mean)
    for group in ("file descriptors", "connections to PostgreSQL"):
        for name, points in lines[group].items():
            assert slope_per_hour(_settled(points)) < 10, (group, name)


def _report(company: Company, lines: Mapping[str, Mapping[str, Sequence[Point]]]) -> None:
    print(  # noqa: T201 - for longer runs
        f"\n{SOAK_S:.0f} s, {company.acknowledged} writes acknowledged,"
        f" {company.repeated} requests repeated,"
        f" {sum(guest.deeds for guest in company.others)} visits"
    )
    for group, by_name in lines.items():
        for name, points in by_name.items():
            last, slope = points[-1][1], slope_per_hour(_settled(points))
            if last >= 0.5 or slope >= 0.5:
                print(f"{group}: {name}: {last:,.1f} at the end, {slope:+,.1f} an hour")  # noqa: T201 - as above
        if PLOTS is not None:
            largest = sorted(by_name, key=lambda name: -max(v for _, v in by_name[name]))[:10]
            file = "soak-" + group.partition(",")[0].replace(" ", "-") + ".svg"
            write_plot(Path(PLOTS) / file, group, {name: by_name[name] for name in largest})
