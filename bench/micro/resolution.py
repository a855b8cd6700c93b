"""State resolution in memory, beside that of Synapse's library, on the same rooms.

    python -m bench.micro.resolution [CONFLICTS …]

Two branches of one room set the same entries: memberships, power levels and state of other types.
Both resolutions are given the auth difference and find every event in memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from architex.domain.state_resolution import auth_difference, resolve_state
from bench.micro.rooms import table
from tests.builders import ALICE, RoomBuilder
from tests.differential.synapse_rules import Events, resolve

CONFLICTS = (50, 1_000)
MEMBERS = 2_000
VERSION = "11"
TIMES = 5
LEAST_RATIO = 3.0
AT = 1_000


def main() -> None:
    """Print the table; fail when we are not fast enough at 1,000 conflicts."""
    rows = []
    for conflicts in [int(argument) for argument in sys.argv[1:]] or CONFLICTS:
        rows.append(compare(conflicts))
        print(table(["conflicts", "ours ms", "Synapse ms", "times faster"], rows), flush=True)
    if any(row[0] >= AT and row[-1] < LEAST_RATIO for row in rows):
        sys.exit(f"Less than {LEAST_RATIO} times faster.")


def compare(conflicts: int) -> list[Any]:
    """The best times of both on one room, milliseconds."""
    room = RoomBuilder(VERSION)
    for number in range(MEMBERS):
        room.join(f"@user{number}:a.example")
    one, two = room.fork(), room.fork()
    for number in range(conflicts):
        user = f"@user{number}:a.example"
        if number % 2:
            one.ban(ALICE, user)
            two.join(user, displayname="still here")
        else:
            for branch, value in ((one, "one"), (two, "two")):
                branch.send_state(ALICE, "com.example.entry", {"value": value}, f"{number}")
        if number % 100 == 0:
            for branch in (one, two):
                branch.set_power_levels(ALICE, users={ALICE: 100}, kick=50 + number // 100)
    states = [one.state, two.state]
    chains = [room.auth_chain(state.values()) for state in states]
    difference = auth_difference(states, chains, room.pdus.get)
    events = Events(room.rules)
    for pdu in room.pdus.values():
        events.convert(pdu)

    def ours() -> dict[Any, Any]:
        return resolve_state(room.rules, states, chains, room.pdus.get)

    def synapses() -> dict[Any, Any]:
        return resolve(events, room.room_id, states, difference, room.pdus.get)

    assert ours() == synapses()
    ours_ms, synapse_ms = best_ms(ours), best_ms(synapses)
    return [conflicts, ours_ms, synapse_ms, synapse_ms / ours_ms]


def best_ms(function: Callable[[], Any]) -> float:
    """The least time it takes, in milliseconds of this process's CPU."""
    best = float("inf")
    for _ in range(TIMES):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best * 1000


if __name__ == "__main__":
    main()
