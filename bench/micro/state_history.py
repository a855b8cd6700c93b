"""What a long room takes on disk: rows of state history, bytes per message event.

python -m bench.micro.state_history [EVENTS [CHANGES]]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from architex.bootstrap import Core
from architex.domain.room.aggregate import EventDraft
from bench.micro.rooms import ALICE, append, create_room, database, make_core, message_draft, table

EVENTS = 200_000
CHANGES = 2_000
KEYS = 400
MOST_ROWS_PER_CHANGE = 1.25
MOST_BYTES = 2_500
BODY = "A message of ordinary length, as people write them to each other all day long. "


def drafts(events: int, changes: int) -> Iterator[EventDraft]:
    """Messages, and every now and then a change of state."""
    for number in range(events):
        if number % (events // changes) == 0:
            yield EventDraft("com.example.entry", ALICE, {"value": number}, f"{number % KEYS}")
        else:
            yield message_draft(ALICE, f"{BODY}{number}")


def sizes(core: Core) -> dict[str, int]:
    """Table → bytes with all indexes and TOAST."""
    rows = core.database.fetch_all(
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return dict(rows)


def main() -> None:
    """Print the table; fail when a bound is broken."""
    arguments = [int(argument) for argument in sys.argv[1:]]
    events = arguments[0] if arguments else EVENTS
    changes = arguments[1] if len(arguments) > 1 else CHANGES
    with database() as conninfo:
        core = make_core(conninfo)
        room_id = create_room(core, "history")
        before = sizes(core)
        append(core, room_id, drafts(events, changes))
        core.database.execute("VACUUM ANALYZE")
        grown = {name: size - before.get(name, 0) for name, size in sizes(core).items()}
        (states,) = core.database.fetch_one("SELECT count(*) FROM current_state") or (0,)
        (overlays,) = core.database.fetch_one("SELECT count(*) FROM overlay_entries") or (0,)
        core.close()
    rows = [
        [name, size, size / events]
        for name, size in sorted(grown.items(), key=lambda item: -item[1])
        if size / events >= 1
    ]
    each = sum(grown.values()) / events
    print(table(["table", "bytes", "per event"], [*rows, ["all", sum(grown.values()), each]]))
    print(
        f"{events:,} events, {changes:,} changes of state: {states + overlays:,} rows of history"
    )
    if states + overlays > changes * MOST_ROWS_PER_CHANGE or each > MOST_BYTES:
        sys.exit("The room takes too much.")


if __name__ == "__main__":
    main()
