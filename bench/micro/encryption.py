"""Devices and messages to them: what a change costs, however much there is.

python -m bench.micro.encryption
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from architex.bootstrap import build_device_lists
from architex.domain.encryption_keys import OneTimeKey
from architex.projections.device_list_reads import read_device_list_news
from architex.storage.commit_queue import Execute
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.one_time_keys import OneTimeKeyStore, Wanted
from architex.storage.to_device import ToDeviceMessage, list_waiting, put_messages
from architex.storage.transactions import TransactionKey
from bench.micro.rooms import Meter, database, in_fresh_process, make_core, table

ROOMS = 500
USERS = 10_000
MEMBERS_PER_ROOM = 200
WAITING = 1_000_000
WAITING_DEVICES = 10
TIMES = 50
MOST_RATIO = 3.0
HEADERS = ["what", "size", "py µs", "pg µs", "queries"]

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
    run("INSERT INTO device_list_changes (user_id, position) SELECT user_id, 1 FROM users")
    run("UPDATE log_position SET position = 10000000")
    run("ANALYZE")


def add_messages(conninfo: str, waiting: int) -> None:
    """Messages that wait for ten devices."""
    core = make_core(conninfo)
    core.database.execute(_MESSAGES, (WAITING_DEVICES, waiting))
    core.database.execute("ANALYZE to_device_messages")


def changes(conninfo: str) -> list[list[Any]]:
    """A user adds a device; another one hears of it; somebody asks when nothing is new."""
    core = make_core(conninfo)
    meter, lists = Meter(core), build_device_lists(core)
    since = core.event_log.position()

    def announce() -> None:
        lists.note_changed("@u0:a", ["D"])

    def read(after: int) -> Callable[[], None]:
        def one() -> None:
            with core.database.snapshot() as connection:
                read_device_list_news(connection, "@u1:a", after, devices=True, rooms=True)

        return one

    rows = [_row("device changes", meter, announce), _row("others read it", meter, read(since))]
    return [*rows, _row("nothing new", meter, read(core.event_log.position()))]


def messages(conninfo: str) -> list[list[Any]]:
    """A message to a device that has many; a piece of them is read."""
    core = make_core(conninfo)
    meter = Meter(core)
    numbers = iter(range(1_000_000))

    def send() -> None:
        key = TransactionKey(
            "@u9:a", "D", "/sendToDevice/t", f"{core.clock.now_ms()}{next(numbers)}"
        )
        message = ToDeviceMessage("@u0:a", "D", "{}")

        def write(execute: Execute, position: int) -> None:
            put_messages(execute, position, key, "@u9:a", "t", [message], [], 0)

        core.commits.write_rows(write, wake_users=["@u0:a"])

    def read() -> None:
        with core.database.snapshot() as connection:
            list_waiting(connection, "@u0:a", "D", 500_000, 101)

    return [_row("message sent", meter, send), _row("100 messages read", meter, read)]


def keys(conninfo: str) -> list[list[Any]]:
    """Keys asked for and claimed."""
    core = make_core(conninfo)
    meter, one_time = Meter(core), OneTimeKeyStore(core.database)
    held = DeviceKeyStore(core.database)
    for number in range(100):
        wanted = [OneTimeKey("c", f"{number}-{n}", "key") for n in range(50)]
        one_time.add_keys(f"@u{number}:a", "D", wanted, [], max_unclaimed=10_000)
    numbers = iter(range(10_000))

    def claim() -> None:
        number = next(numbers) % 100
        one_time.claim_keys([Wanted(f"@u{number}:a", "D", "c")], 1)

    def ask() -> None:
        held.list_device_keys([f"@u{n}:a" for n in range(200)])

    return [_row("key claimed", meter, claim), _row("keys of 200 asked", meter, ask)]


def _row(what: str, meter: Any, function: Callable[[], None]) -> list[Any]:
    for _ in range(5):
        function()
    cost = meter.cost(function, TIMES)
    return [what, cost.python_us, cost.postgres_us, cost.queries]


def main() -> None:
    """Print the table; fail when a change or a message costs by how much else there is."""
    rows: list[list[Any]] = []
    for rooms, waiting in ((5, 10_000), (ROOMS, WAITING)):
        with database() as conninfo:
            in_fresh_process(build, conninfo, rooms)
            for row in in_fresh_process(changes, conninfo):
                rows.append([row[0], f"{rooms} rooms", *row[1:]])
            for row in in_fresh_process(keys, conninfo):
                rows.append([row[0], f"{USERS} devices", *row[1:]])
            in_fresh_process(add_messages, conninfo, waiting)
            for row in in_fresh_process(messages, conninfo):
                rows.append([row[0], f"{waiting} waiting", *row[1:]])
    rows.sort(key=lambda row: row[0])
    print(table(HEADERS, rows), flush=True)
    costs: dict[str, list[float]] = {}
    for what, _, python_us, postgres_us, _ in rows:
        costs.setdefault(what, []).append(python_us + postgres_us)
    for what in ("message sent", "100 messages read", "nothing new"):
        small, large = sorted(costs[what])
        if large > MOST_RATIO * small:
            sys.exit(f"{what}: grows with what is there.")


if __name__ == "__main__":
    main()
