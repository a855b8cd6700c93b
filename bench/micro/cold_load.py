"""Loading a room that no process remembers: flat in the number of its events.

python -m bench.micro.cold_load [EVENTS …]
"""

from __future__ import annotations

import sys
from typing import Any

from architex.storage.event_log import EventLog
from architex.storage.room_snapshots import INTERVAL
from bench.micro.rooms import (
    ALICE,
    Meter,
    append,
    create_room,
    database,
    in_fresh_process,
    make_core,
    message_draft,
    send,
    table,
)

EVENTS = (100, 1_000, 10_000, 50_000)
TIMES = 200
MOST_RATIO = 1.5
# Facts since the newest snapshot, the same for all rooms.
SINCE_SNAPSHOT = 50
HEADERS = ["events", "py µs", "pg µs", "queries"]


def build(conninfo: str, events: int) -> str:
    """A room of that many events."""
    core = make_core(conninfo)
    room_id = create_room(core, f"cold{events}")
    append(core, room_id, (message_draft(ALICE, f"{n}") for n in range(events - 5)))
    while core.event_log.get_room(room_id).version % INTERVAL != SINCE_SNAPSHOT:
        send(core, room_id, message_draft(ALICE, "one more"))
    core.database.execute("ANALYZE")
    return room_id


def measure(conninfo: str, room_id: str) -> list[Any]:
    """What it costs to load the room."""
    core = make_core(conninfo)
    meter = Meter(core)
    logs = iter([EventLog(core.database) for _ in range(TIMES + 5)])

    def load() -> None:
        next(logs).get_room(room_id)

    for _ in range(5):
        load()
    cost = meter.cost(load, TIMES)
    return [cost.python_us, cost.postgres_us, cost.queries]


def main() -> None:
    """Print the table; fail when a long room takes longer."""
    sizes = [int(argument) for argument in sys.argv[1:]] or EVENTS
    with database() as conninfo:
        rooms = {size: in_fresh_process(build, conninfo, size) for size in sizes}
        rounds: dict[int, list[list[Any]]] = {size: [] for size in sizes}
        for _ in range(3):
            for size in sizes:
                rounds[size].append(in_fresh_process(measure, conninfo, rooms[size]))
    rows = [[size, *(min(values) for values in zip(*rounds[size], strict=True))] for size in sizes]
    print(table(HEADERS, rows), flush=True)
    ratio = (rows[-1][1] + rows[-1][2]) / (rows[0][1] + rows[0][2])
    print(f"longest : shortest {ratio:.2f}")
    if ratio > MOST_RATIO:
        sys.exit("Long rooms take longer to load.")


if __name__ == "__main__":
    main()
