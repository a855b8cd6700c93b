"""What other servers fetch of large rooms: whole states by the piece, history at a fixed price.

python -m bench.micro.serving [MEMBERS …]
"""

from __future__ import annotations

import sys
from typing import Any

from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.usecases.rate_limits import RateLimits
from architex.usecases.serving_history import ServingHistory
from bench.micro.rooms import (
    ALICE,
    Meter,
    add_members,
    create_room,
    database,
    in_fresh_process,
    make_core,
    message_draft,
    peak_mb,
    send,
    table,
)

MEMBERS = (100, 1_000, 10_000, 50_000)
TIMES = 5
MESSAGES = 120
MOST_GROWTH_MB = 30
# History may not cost more in a large room.
MOST_RATIO = 1.5
HEADERS = [
    "members",
    "state_ids ms", "queries",
    "state ms", "MB", "peak +MB",
    "backfill 100 ms", "queries",
]  # fmt: skip


def build(conninfo: str, members: int) -> str:
    """A room of that many members, and some messages."""
    core = make_core(conninfo)
    room_id = create_room(core, f"serving{members}")
    add_members(core, room_id, members)
    for number in range(MESSAGES):
        send(core, room_id, message_draft(ALICE, f"{number}"))
    core.database.execute("ANALYZE")
    return room_id


def measure(conninfo: str, room_id: str) -> list[Any]:
    """What it costs to serve the room."""
    core = make_core(conninfo)
    servers = RoomServers(core.database)
    serving = ServingHistory(
        core.database,
        servers,
        ServerAcls(core.database),
        core.clock,
        core.server_name,
        RateLimits(core.clock, {}, enabled=False),
    )
    origin = servers.list_servers_of_room(room_id)[0]
    end = core.event_log.get_room(room_id).extremities
    (event_id,) = end
    meter = Meter(core)
    sizes: list[int] = []

    def read_state() -> None:
        sizes.append(sum(map(len, serving.get_state(origin, room_id, event_id))))

    def read_ids() -> None:
        serving.get_state_ids(origin, room_id, event_id)

    def read_history() -> None:
        serving.backfill(origin, room_id, [event_id], 100)

    read_ids()
    read_history()
    history = meter.cost(read_history, TIMES)
    ids = meter.cost(read_ids, TIMES)
    before_mb = peak_mb()
    state = meter.cost(read_state, TIMES)
    return [
        (ids.python_us + ids.postgres_us) / 1000, ids.queries,
        (state.python_us + state.postgres_us) / 1000, sizes[0] / 1e6, peak_mb() - before_mb,
        (history.python_us + history.postgres_us) / 1000, history.queries,
    ]  # fmt: skip


def main() -> None:
    """Print the table; fail when a bound is broken."""
    sizes = [int(argument) for argument in sys.argv[1:]] or MEMBERS
    with database() as conninfo:
        rooms = {size: in_fresh_process(build, conninfo, size) for size in sizes}
        rows = [[size, *in_fresh_process(measure, conninfo, rooms[size])] for size in sizes]
    print(table(HEADERS, rows), flush=True)
    ratio = rows[-1][6] / rows[0][6]
    print(f"history, largest : smallest {ratio:.2f}")
    if rows[-1][5] > MOST_GROWTH_MB or ratio > MOST_RATIO:
        sys.exit("Large rooms cost too much to serve.")


if __name__ == "__main__":
    main()
