"""Devices and messages to them: what a change costs, however much there is.

Rows read are what sequential scans and indexes gave, for one time; rows written are those
inserted, changed and deleted.

python -m bench.micro.encryption
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import psycopg

from architex.bootstrap import Core, build_device_lists
from architex.domain.encryption_keys import OneTimeKey
from architex.projections.device_list_reads import read_device_list_news
from architex.projections.outgoing_device_edus import DeviceListEdus
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.one_time_keys import OneTimeKeyStore, Wanted
from architex.storage.pool import Execute
from architex.storage.to_device import ToDeviceMessage, list_waiting, put_messages
from architex.storage.transactions import TransactionKey
from bench.micro.rooms import Meter, database, in_fresh_process, make_core, table

ROOMS = 500
USERS = 10_000
MEMBERS_PER_ROOM = 200
WAITING = 1_000_000
WAITING_DEVICES = 10
SERVERS_PER_ROOM = 20
TIMES = 50
WARM = 5
MOST_RATIO = 3.0
HEADERS = ["what", "size", "py µs", "pg µs", "queries", "rows read", "rows written"]

_USERS = """
INSERT INTO users (user_id, created_ts)
SELECT '@u' || n || ':a', 0 FROM generate_series(0, %s) n"""
_DEVICES = """
INSERT INTO devices (user_id, device_id, created_ts)
SELECT '@u' || n || ':a', 'D', 0 FROM generate_series(0, %s) n"""
_KEYS = """
INSERT INTO device_keys (user_id, device_id, keys) SELECT user_id, device_id, repeat('"', 2)
FROM devices"""
_ROOMS = """
INSERT INTO rooms (room_nid, room_id, room_version, version, last_position)
SELECT n, '!r' || n || ':a', '12', 1, 1 FROM generate_series(1, %s) n"""
# The first user is in all rooms, the others in as many as it takes to fill them.
_MEMBERS = """
INSERT INTO memberships (user_id, room_nid, membership, position, sender, join_position)
SELECT DISTINCT ON (1, 2)
    '@u' || CASE k WHEN 0 THEN 0 ELSE 1 + (r * 37 + k * 101) %% %s END || ':a', r, 'join', 1, '', 1
FROM generate_series(1, %s) r, generate_series(0, %s) k"""
_SERVERS = """
INSERT INTO room_servers (room_nid, server_name, joined, since)
SELECT r, 's' || k, 1, 1 FROM generate_series(1, %s) r, generate_series(1, %s) k"""
_ROWS = """
SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)
    + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes),
    (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables)"""
_MESSAGES = """
INSERT INTO to_device_messages (user_id, device_id, position, sender, type, content)
SELECT '@u' || n %% %s || ':a', 'D', n, '@x:a', 'm.room.encrypted', '{"n": 1}'
FROM generate_series(1, %s) n"""


def build(conninfo: str, rooms: int) -> None:
    """Users with devices, some of them in rooms, and messages that wait."""
    core = make_core(conninfo)
    run = core.database.execute
    run(_USERS, (USERS,))
    run(_DEVICES, (USERS,))
    run(_KEYS)
    run(_ROOMS, (rooms,))
    run(_MEMBERS, (USERS - 1, rooms, MEMBERS_PER_ROOM - 1))
    run(_SERVERS, (rooms, SERVERS_PER_ROOM))
    run("INSERT INTO device_list_changes (user_id, position) SELECT user_id, 1 FROM users")
    run("UPDATE log_position SET position = 10000000")
    run("ANALYZE")


def add_messages(conninfo: str, waiting: int) -> None:
    """Messages that wait for ten devices."""
    core = make_core(conninfo)
    core.database.execute(_MESSAGES, (WAITING_DEVICES, waiting))
    core.database.execute("ANALYZE to_device_messages")


def add_keys(conninfo: str) -> None:
    """One-time keys of a hundred devices."""
    one_time = OneTimeKeyStore(make_core(conninfo).database)
    for number in range(100):
        wanted = [OneTimeKey("c", f"{number}-{n}", "key") for n in range(50)]
        one_time.add_keys(f"@u{number}:a", "D", wanted, [], max_unclaimed=10_000)


# ---- what is measured: each gives what is done over and over


def add_device(core: Core) -> Callable[[], object]:
    """A user adds a device."""
    lists = build_device_lists(core)
    return lambda: lists.note_changed("@u0:a", ["D"])


def _news(core: Core, since: int) -> Callable[[], object]:
    def read() -> None:
        with core.database.snapshot() as connection:
            read_device_list_news(connection, "@u1:a", since, devices=True, rooms=True)

    return read


def hear_of_it(core: Core) -> Callable[[], object]:
    """Somebody who shares rooms with the user hears of it."""
    since = core.event_log.position()
    build_device_lists(core).note_changed("@u0:a", ["D"])
    return _news(core, since)


def nothing_new(core: Core) -> Callable[[], object]:
    """Somebody asks when nothing is new."""
    return _news(core, core.event_log.position())


def servers_hear_of_it(core: Core) -> Callable[[], object]:
    """The sender finds out which servers are to be told."""
    since = core.event_log.position()
    build_device_lists(core).note_changed("@u0:a", ["D"])
    edus, now = DeviceListEdus("a"), core.event_log.position()

    def find() -> None:
        with core.database.snapshot() as connection:
            edus.list_destinations(connection, since, now)

    return find


def send_message(core: Core) -> Callable[[], object]:
    """A message to a device that has many."""
    numbers = iter(range(1_000_000))

    def send() -> None:
        name = f"{core.clock.now_ms()}{next(numbers)}"
        key = TransactionKey("@u9:a", "D", "/sendToDevice/t", name)
        message = ToDeviceMessage("@u0:a", "D", "{}")

        def write(execute: Execute, position: int) -> None:
            put_messages(execute, position, key, "@u9:a", "t", [message], [], 0)

        core.commits.write_rows(write, wake_users=["@u0:a"])

    return send


def read_messages(core: Core) -> Callable[[], object]:
    """A piece of what waits for it is read."""

    def read() -> None:
        with core.database.snapshot() as connection:
            list_waiting(connection, "@u0:a", "D", 0)

    return read


def claim_key(core: Core) -> Callable[[], object]:
    """A one-time key is claimed."""
    one_time, numbers = OneTimeKeyStore(core.database), iter(range(10_000))
    return lambda: one_time.claim_keys([Wanted(f"@u{next(numbers) % 100}:a", "D", "c")], 1)


def ask_for_keys(core: Core) -> Callable[[], object]:
    """Keys of 200 users are asked for."""
    held = DeviceKeyStore(core.database)
    return lambda: held.list_device_keys([f"@u{n}:a" for n in range(200)])


STEPS = {
    "device added": (add_device, "rooms"),
    "others hear of it": (hear_of_it, "rooms"),
    "nothing new": (nothing_new, "rooms"),
    "servers to be told": (servers_hear_of_it, "rooms"),
    "message sent": (send_message, "waiting"),
    "100 messages read": (read_messages, "waiting"),
    "key claimed": (claim_key, "devices"),
    "keys of 200 asked": (ask_for_keys, "devices"),
}


def measure(conninfo: str, what: str) -> tuple[float, float, float]:
    """CPU of Python and PostgreSQL in microseconds, and statements; of one time each."""
    core = make_core(conninfo)
    meter, step = Meter(core), STEPS[what][0](core)
    for _ in range(WARM):
        step()
    cost = meter.cost(step, TIMES)
    core.close()
    return cost.python_us, cost.postgres_us, cost.queries


def measured(conninfo: str, what: str) -> list[float]:
    """The same, and rows read and written: PostgreSQL counts them when the connections end."""
    with psycopg.connect(conninfo, autocommit=True) as connection:

        def rows() -> tuple[int, int]:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            return connection.execute(_ROWS).fetchall()[0]

        before = rows()
        cost = in_fresh_process(measure, conninfo, what)
        after = rows()
    counted = [float(a - b) / (TIMES + WARM) for a, b in zip(after, before, strict=True)]
    return [*cost, *counted]


def main() -> None:
    """Print the table; fail when a change or a message costs by how much else there is."""
    rows: list[list[Any]] = []
    for rooms, waiting in ((5, 10_000), (ROOMS, WAITING)):
        sizes = {"rooms": rooms, "waiting": waiting, "devices": USERS}
        with database() as conninfo:
            in_fresh_process(build, conninfo, rooms)
            in_fresh_process(add_messages, conninfo, waiting)
            in_fresh_process(add_keys, conninfo)
            for what, (_, kind) in STEPS.items():
                rows.append([what, f"{sizes[kind]} {kind}", *measured(conninfo, what)])
    rows.sort(key=lambda row: list(STEPS).index(row[0]))
    print(table(HEADERS, rows), flush=True)
    costs: dict[str, list[float]] = {}
    for what, _, python_us, postgres_us, *_ in rows:
        costs.setdefault(what, []).append(python_us + postgres_us)
    for what in ("message sent", "100 messages read", "nothing new"):
        small, large = sorted(costs[what])
        if large > MOST_RATIO * small:
            sys.exit(f"{what}: grows with what is there.")


if __name__ == "__main__":
    main()
