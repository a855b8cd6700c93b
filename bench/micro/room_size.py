"""What it costs to send, to check a received event and to resolve, in rooms of 10 to 100,000.

    python -m bench.micro.room_size [SIZE …]

All rooms are on one server. Each is measured in processes of its own, some rounds in turn, and the
least of the rounds counts: other work on the machine only adds.
"""

from __future__ import annotations

import sys
from typing import Any

from bench.micro.rooms import (
    ALICE,
    Meter,
    RemoteServer,
    add_members,
    create_room,
    database,
    in_fresh_process,
    make_core,
    message_draft,
    peak_mb,
    rss_mb,
    send,
    table,
)

SIZES = (10, 1_000, 10_000, 100_000)
SENDS = 200
ROUNDS = 3
RESOLUTIONS = 8
CONFLICTS = 50
MOST_RATIO = 1.5
MOST_GROWTH_MB = 150.0


def build(conninfo: str, size: int) -> str:
    """A room of that many members."""
    core = make_core(conninfo)
    room_id = create_room(core, f"size{size}")
    add_members(core, room_id, size - 2)
    core.database.execute("ANALYZE")
    return room_id


def measure(conninfo: str, room_id: str) -> list[Any]:
    """The costs in one room, and how much memory the process needed for it."""
    core = make_core(conninfo)
    meter = Meter(core)
    small = create_room(core, f"warm{room_id[1:9]}")
    for _ in range(20):
        send(core, small, message_draft(ALICE, "warm"))
    work_in(core, small, meter, sends=30, resolutions=2)
    before = rss_mb()
    costs = work_in(core, room_id, meter, sends=SENDS, resolutions=RESOLUTIONS)
    return [*costs, peak_mb() - before, rss_mb() - before]


def work_in(core: Any, room_id: str, meter: Meter, *, sends: int, resolutions: int) -> list[Any]:
    """Send, receive and resolve in a room; what each cost."""
    bodies = iter(range(10**9))
    # The first of each meets a cold room, and is not counted.
    send(core, room_id, message_draft(ALICE, "first"))
    sent = meter.cost(
        lambda: send(core, room_id, message_draft(ALICE, f"message {next(bodies)}")), sends
    )
    remote = RemoteServer(core, room_id)
    pdus = []
    prev, depth = remote.end, remote.depth
    for number in range(sends + 1):
        depth += 1
        pdus.append(remote.make("m.room.message", {"body": f"{number}"}, prev=prev, depth=depth))
        prev = (pdus[-1].event_id,)
    incoming = iter(pdus)

    def receive() -> None:
        assert remote.receive([next(incoming)]) == ["ACCEPTED"]

    receive()
    received = meter.cost(receive, sends)
    merges = []
    for number in range(resolutions + 1):
        remote.refresh()
        first = remote.branch(CONFLICTS, f"one {number}")
        second = remote.branch(CONFLICTS, f"two {number}")
        assert set(remote.receive([*first, *second])) <= {"ACCEPTED"}
        merge = remote.make(
            "m.room.message",
            {"body": "merge"},
            prev=[first[-1].event_id, second[-1].event_id],
            depth=first[-1].depth + 1,
        )

        def resolve(merge: Any = merge) -> None:
            assert remote.receive([merge]) == ["ACCEPTED"]

        if number == 0:
            resolve()
        else:
            merges.append(meter.cost(resolve, 1))
    return [
        sent.python_us, sent.postgres_us, sent.queries,
        received.python_us, received.postgres_us, received.queries,
        sum(cost.python_us for cost in merges) / len(merges) / 1000,
        sum(cost.postgres_us for cost in merges) / len(merges) / 1000,
        sum(cost.queries for cost in merges) / len(merges),
    ]  # fmt: skip


HEADERS = [
    "members",
    "send py µs", "pg µs", "queries",
    "receive py µs", "pg µs", "queries",
    "resolve 50 py ms", "pg ms", "queries",
    "peak +MB", "RSS +MB",
]  # fmt: skip


def main() -> None:
    """Print the table; fail when a bound is broken."""
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    rows: list[list[Any]] = []
    with database() as conninfo:
        rooms = {size: in_fresh_process(build, conninfo, size) for size in sizes}
        rounds: dict[int, list[list[Any]]] = {size: [] for size in sizes}
        for _ in range(ROUNDS):
            for size in sizes:
                rounds[size].append(in_fresh_process(measure, conninfo, rooms[size]))
        for size in sizes:
            least = [min(values) for values in zip(*rounds[size], strict=True)]
            most = [max(values) for values in zip(*rounds[size], strict=True)]
            rows.append([size, *least[:-2], *most[-2:]])
    print(table(HEADERS, rows), flush=True)
    first, last = rows[0], rows[-1]
    ratios = [(last[n] + last[n + 1]) / (first[n] + first[n + 1]) for n in (1, 4, 7)]
    print("largest : smallest (CPU)", *(f"{ratio:.2f}" for ratio in ratios))
    if max(ratios) > MOST_RATIO or last[-2] > MOST_GROWTH_MB:
        sys.exit("The largest room costs too much.")


if __name__ == "__main__":
    main()
