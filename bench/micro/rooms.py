"""What the figures of rooms share: a server's core, rooms of any size, and what work costs."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from architex.bootstrap import Core
from architex.bootstrap.garbage import spare_the_program
from architex.domain.identifiers import EventId, RoomId, UserId, server_name_of
from architex.domain.pdu import Pdu, build_event, parse_pdu
from architex.domain.room.aggregate import EventDraft, compose_create_event
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.domain.signing import SigningKey, sign_event
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.migrations import migrate
from architex.storage.pool import Database
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.judging import Judging

SERVER_NAME = "bench.example"
ALICE = f"@alice:{SERVER_NAME}"
REMOTE = "@alice:remote.example"
KEY = SigningKey.from_seed(b"architex bench: not a secret key", "bench")
AT_ONCE = 500
"""Events per transaction while a room is built."""


@contextmanager
def database() -> Iterator[str]:
    """The conninfo of an empty, migrated database on a PostgreSQL of its own."""
    directory = Path(tempfile.mkdtemp(prefix="architex-bench-"))
    directory.chmod(0o711)  # as root, PostgreSQL runs as another user
    cluster = EmbeddedPostgres(directory / "postgres")
    try:
        cluster.ensure_running()
        migrate(cluster.conninfo())
        yield cluster.conninfo()
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


def make_core(conninfo: str) -> Core:
    """A server's core over a database."""
    return Core(
        database=Database(conninfo, max_size=4),
        server_name=SERVER_NAME,
        signing_key=KEY,
        clock=SystemClock(),
        randomness=SystemRandomness(),
    )


def create_room(core: Core, name: str, *, version: str = "12") -> RoomId:
    """A public room of Alice's, in which the remote Alice has power, too."""
    rules = get_room_version(version)
    create = compose_create_event(
        rules,
        EventDraft("m.room.create", ALICE, {"room_version": version}, ""),
        core.commits.signer,
        core.clock.now_ms(),
        opaque_id=name,
    )
    users = {REMOTE: 90} if rules.privileged_creators else {ALICE: 100, REMOTE: 90}

    def decide(session: RoomSession) -> RoomId:
        session.append_composed(create)
        session.append(member_draft(ALICE))
        session.append(EventDraft("m.room.power_levels", ALICE, {"users": users}, ""))
        session.append(EventDraft("m.room.join_rules", ALICE, {"join_rule": "public"}, ""))
        session.append(member_draft(REMOTE))
        return create.room_id

    return core.commits.write_room(RoomCommand(create.room_id, decide, creates=rules))


def member_draft(user_id: UserId, **content: Any) -> EventDraft:
    """Somebody joins, or joins again with another profile."""
    return EventDraft("m.room.member", user_id, {"membership": "join", **content}, user_id)


def message_draft(sender: UserId, body: str) -> EventDraft:
    """A message."""
    return EventDraft("m.room.message", sender, {"msgtype": "m.text", "body": body})


def add_members(core: Core, room_id: RoomId, count: int) -> None:
    """Let that many more users join."""
    append(core, room_id, (member_draft(f"@user{n}:{SERVER_NAME}") for n in range(count)))


def append(core: Core, room_id: RoomId, drafts: Iterator[EventDraft]) -> None:
    """Add many events, many in each transaction."""
    while chunk := list(itertools.islice(drafts, AT_ONCE)):
        keys = frozenset(
            (draft.type, draft.state_key) for draft in chunk if draft.state_key is not None
        )

        def decide(session: RoomSession, chunk: list[EventDraft] = chunk) -> None:
            for draft in chunk:
                session.append(draft)

        core.commits.write_room(RoomCommand(room_id, decide, prefetch=keys))


def send(core: Core, room_id: RoomId, draft: EventDraft) -> None:
    """Send one event, as a client would."""
    core.commits.write_room(RoomCommand(room_id, lambda session: session.append(draft)))


class RemoteServer:
    """Makes events of a room as another server would."""

    def __init__(self, core: Core, room_id: RoomId) -> None:
        self.room_id = room_id
        self.rules: RoomVersionRules = core.event_log.rules_of(room_id)
        self._core = core
        self._judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
        self._auth: dict[str, EventId] = {}
        self._clock = itertools.count(core.clock.now_ms())
        self.end: tuple[EventId, ...] = ()
        self.depth = 0
        self.refresh()

    def refresh(self) -> None:
        """Look at the end of the room and at what authorises the remote Alice."""
        keys = {
            "create": ("m.room.create", ""),
            "power": ("m.room.power_levels", ""),
            "rules": ("m.room.join_rules", ""),
            "member": ("m.room.member", REMOTE),
        }

        def decide(session: RoomSession) -> tuple[Any, ...]:
            found = {name: session.find_state(*key) for name, key in keys.items()}
            return found, tuple(session.room.extremities), session.room.depth

        found, self.end, self.depth = self._core.commits.write_room(
            RoomCommand(self.room_id, decide)
        )
        self._auth = {name: pdu.event_id for name, pdu in found.items() if pdu is not None}

    def make(
        self,
        type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[EventId],
        depth: int,
        more_auth: Sequence[EventId] = (),
    ) -> Pdu:
        """A signed event of the remote Alice's."""
        names = ["power", "member"]
        if not self.rules.room_id_is_create_hash:
            names.append("create")
        if type == "m.room.member":
            names.append("rules")
        event = build_event(
            self.rules,
            room_id=self.room_id,
            sender=REMOTE,
            type=type,
            content=content,
            state_key=state_key,
            redacts=None,
            prev_events=list(prev),
            auth_events=[*(self._auth[name] for name in names), *more_auth],
            depth=depth,
            origin_server_ts=next(self._clock),
            event_id=None,
            reference_hashes=None,
        )
        signed, event_id = sign_event(self.rules, event, server_name_of(REMOTE), KEY)
        return parse_pdu(self.rules, signed, event_id=event_id)

    def receive(self, pdus: Sequence[Pdu]) -> list[str]:
        """Let the server judge events; the names of the outcomes."""
        verdicts = self._judging.judge(
            self.room_id, [pdu.event for pdu in pdus], lambda *_: KEY.verify_key
        )
        return [verdict.outcome.name for verdict in verdicts]

    def branch(self, count: int, value: str) -> list[Pdu]:
        """State events one after another, from the end of the room on."""
        pdus: list[Pdu] = []
        prev, depth = self.end, self.depth
        for number in range(count):
            depth += 1
            pdu = self.make(
                "com.example.entry", {"value": value}, f"{number}", prev=prev, depth=depth
            )
            pdus.append(pdu)
            prev = (pdu.event_id,)
        return pdus


@dataclass
class Cost:
    """What some work cost.

    Attributes:
        python_us, postgres_us: CPU, microseconds each.
        queries: statements sent.
    """

    python_us: float
    postgres_us: float
    queries: float

    @property
    def cpu_us(self) -> float:
        """CPU of both."""
        return self.python_us + self.postgres_us


class Meter:
    """Counts CPU and queries of this process, and CPU of its PostgreSQL's."""

    def __init__(self, core: Core) -> None:
        core.database.fetch_one("SELECT 1")
        row = core.database.fetch_one("SELECT pg_backend_pid()")
        assert row is not None
        backend = psutil.Process(row[0])
        postmaster = backend.parent()
        assert postmaster is not None
        self._postmaster = postmaster
        self._queries = 0
        execute = psycopg.Connection.execute

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._queries += 1
            return execute(*args, **kwargs)

        psycopg.Connection.execute = counted  # type: ignore[method-assign]  # to count them

    def cost(self, work: Callable[[], object], times: int) -> Cost:
        """Do something `times` times; what it cost each time."""
        spare_the_program()  # as architex.wsgi does
        python, postgres, queries = self._python(), self._postgres(), self._queries
        for _ in range(times):
            work()
        return Cost(
            (self._python() - python) / times * 1e6,
            sum(seconds - postgres.get(pid, 0.0) for pid, seconds in self._postgres().items())
            / times
            * 1e6,
            (self._queries - queries) / times,
        )

    @staticmethod
    def _python() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def _postgres(self) -> dict[int, float]:
        """CPU seconds of the backends that serve us, not of what goes on in the background."""
        seconds = {}
        for child in self._postmaster.children():
            try:
                if any("architex" in part for part in child.cmdline()):
                    schedstat = Path(f"/proc/{child.pid}/schedstat").read_text()
                    seconds[child.pid] = int(schedstat.split()[0]) / 1e9
            except (psutil.Error, OSError):
                continue
        return seconds


def rss_mb() -> float:
    """Resident memory of this process, MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


def peak_mb() -> float:
    """The most resident memory this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a script in a new process, whose memory nothing else has grown."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, args)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of text, and the same as JSON when $BENCH_JSON names a file to add it to."""
    cells = [list(headers), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(headers))]
    path = os.environ.get("BENCH_JSON")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps({"headers": list(headers), "rows": [list(r) for r in rows]}))
            file.write("\n")
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
