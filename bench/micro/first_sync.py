"""The first sync of accounts in few and in many rooms: CPU, time to the first byte, memory.

python -m bench.micro.first_sync [ROOMS …]

Each room has ten members, twenty messages and no name. Requests go straight into the WSGI
application; the body is thrown away as it comes, as if a client read it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import falcon.testing

from bench.micro.join_remote import Peak
from bench.micro.requests import running_server
from bench.micro.rooms import (
    Meter,
    append,
    create_room,
    in_fresh_process,
    member_draft,
    message_draft,
    table,
)
from tests.api.client import Server, User

ROOMS = (50, 200, 2000)
MEMBERS = 10
MESSAGES = 20
MOST_MEMORY_MB = 50
HEADERS = ["rooms", "MB", "py CPU ms", "pg CPU ms", "first byte ms", "all ms", "memory MB"]


def build(server: Server, user: User, rooms: int) -> None:
    """Let a user be in that many rooms."""
    names = [f"@member{number}:bench.example" for number in range(MEMBERS - 1)]
    for number in range(rooms):
        room_id = create_room(server.core, f"room {number}")
        drafts = [member_draft(name) for name in (*names, user.user_id)]
        drafts += [message_draft(names[n % len(names)], f"message {n}") for n in range(MESSAGES)]
        append(server.core, room_id, iter(drafts))


def measure(rooms: int) -> list[Any]:
    """What a first sync costs."""
    with running_server() as server:
        user = server.register()
        build(server, user, rooms)
        meter, peak = Meter(server.core), Peak()
        sizes: list[int] = []
        times: list[float] = []

        def sync() -> None:
            started = time.perf_counter()
            environ = falcon.testing.create_environ(
                "/_matrix/client/v3/sync",
                query_string="set_presence=offline",
                headers={"Authorization": f"Bearer {user.token}"},
            )
            size, first = 0, 0.0
            for piece in server.app(environ, lambda *_: None):
                first = first or time.perf_counter() - started
                size += len(piece)
            sizes.append(size)
            times[:] = [first * 1000, (time.perf_counter() - started) * 1000]

        grew = peak.of(sync)
        cost = meter.cost(sync, 3)
        size = sizes[-1] / 1e6
        return [rooms, size, cost.python_us / 1e3, cost.postgres_us / 1e3, *times, grew]


def main() -> None:
    """Print the table; fail when memory grows with the account."""
    wanted = [int(argument) for argument in sys.argv[1:]] or ROOMS
    rows = [in_fresh_process(measure, rooms) for rooms in wanted]
    print(table(HEADERS, rows), flush=True)
    if max(row[-1] for row in rows) > MOST_MEMORY_MB:
        sys.exit("Memory grows with the account.")


if __name__ == "__main__":
    main()
