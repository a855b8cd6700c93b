"""Letting a user of another server join a large room: CPU, time to the first byte, memory.

    python -m bench.micro.serve_join [MEMBERS …]

Three in ten members have changed their names, so their first joins are in the auth chain. What is
measured is the answer to send_join, whole and without members, from the signed event to the last
byte; the template before it is measured with it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

from architex.domain.identifiers import RoomId
from architex.domain.signing import sign_event
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.usecases.judging import Judging
from architex.usecases.rate_limits import RateLimits
from architex.usecases.resident import Resident
from architex.usecases.restricted_joins import RestrictedJoins
from architex.usecases.server_keys import KeyRing
from bench.micro.rooms import (
    KEY,
    SERVER_NAME,
    Meter,
    add_members,
    append,
    create_room,
    database,
    in_fresh_process,
    make_core,
    member_draft,
    peak_mb,
    rss_mb,
    table,
)

MEMBERS = (1_000, 10_000, 50_000)
JOINS = 3
MOST_MEMORY_MB = 50
VISITOR = "visitor.example"
HEADERS = ["members", "answer", "MB", "first byte ms", "py CPU ms", "pg CPU ms", "peak +MB"]


class KnownKey:
    """A key ring of one key, that everybody signs with."""

    def for_events(self, *_: Any, **__: Any) -> Any:
        """See KeyRing."""
        return lambda *_: KEY.verify_key


def build(conninfo: str, members: int) -> RoomId:
    """A room of that many members."""
    core = make_core(conninfo)
    room_id = create_room(core, f"room{members}", version="11")
    add_members(core, room_id, members - 2)
    renamed = range(0, members - 2, 10)
    append(
        core,
        room_id,
        (
            member_draft(f"@user{n + more}:{SERVER_NAME}", displayname=f"User {n}")
            for n in renamed
            for more in range(3)
            if n + more < members - 2
        ),
    )
    core.database.execute("ANALYZE")
    return room_id


def measure(conninfo: str, room_id: RoomId, omit_members: bool) -> list[Any]:
    """What one join costs."""
    core = make_core(conninfo)
    meter = Meter(core)
    members, branches = MemberReads(core.database), BranchStates()
    servers = RoomServers(core.database)
    resident = Resident(
        database=core.database,
        commits=core.commits,
        judging=Judging(core.commits, branches, members),
        branches=branches,
        key_ring=cast(KeyRing, KnownKey()),
        room_servers=servers,
        acls=ServerAcls(core.database),
        restricted=RestrictedJoins(members, servers, core.event_log, SERVER_NAME),
        rate_limits=RateLimits(core.clock, {}, enabled=False),
    )
    rules = core.event_log.rules_of(room_id)
    numbers = itertools.count(int(omit_members) * 1000)
    seen: list[tuple[float, int]] = []

    def join() -> None:
        user_id = f"@user{next(numbers)}:{VISITOR}"
        made = resident.make_template(VISITOR, room_id, user_id, "join", ["11"])
        event, event_id = sign_event(rules, made["event"], VISITOR, KEY)
        begin = time.perf_counter()
        pieces: Iterator[bytes] = resident.receive_join(
            VISITOR, room_id, event_id, event, omit_members=omit_members
        )
        size = len(next(pieces))
        first_ms = (time.perf_counter() - begin) * 1000
        seen.append((first_ms, size + sum(map(len, pieces))))

    small = create_room(core, f"warm{omit_members}{room_id[1:9]}", version="11")
    room_id, large = small, room_id
    join()
    room_id = large
    before = rss_mb()
    cost = meter.cost(join, JOINS)
    first_ms = min(first_ms for first_ms, _ in seen[1:])
    what = "without members" if omit_members else "whole"
    grown = max(0.0, peak_mb() - before)
    return [
        what, seen[-1][1] / 1e6, first_ms, cost.python_us / 1e3, cost.postgres_us / 1e3, grown
    ]  # fmt: skip


def main() -> None:
    """Print the table; fail when memory follows the room."""
    sizes = [int(argument) for argument in sys.argv[1:]] or MEMBERS
    rows: list[list[Any]] = []
    with database() as conninfo:
        for size in sizes:
            room_id = in_fresh_process(build, conninfo, size)
            for omit_members in (False, True):
                rows.append([size, *in_fresh_process(measure, conninfo, room_id, omit_members)])
    print(table(HEADERS, rows), flush=True)
    if max(row[-1] for row in rows) > MOST_MEMORY_MB:
        sys.exit("Serving a large room takes too much memory.")


if __name__ == "__main__":
    main()
