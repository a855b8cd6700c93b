"""Reading the facts of all rooms, or those of a kind, batch by batch."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.domain.room.aggregate import EventDraft
from architex.storage.fact_feed import FactBatch, count_facts, read_facts
from tests.core import ALICE, append, create_room, send_message

NAMES = ('"type":"m.room.name"', '"type":"m.room.canonical_alias"')


@pytest.fixture
def start(core: Core) -> int:
    """A position, behind which come a message, a name, three messages, a name, a message."""
    room_id = create_room(core)
    with core.database.connection() as connection:
        start = read_facts(connection, 0, 1000).up_to
    for body in ("1", "name 2", '"type":"m.room.name"', "4", "5", "name 6", "7"):
        if body.startswith("name"):
            append(core, room_id, EventDraft("m.room.name", ALICE, {"name": body}, ""))
        else:
            send_message(core, room_id, ALICE, body)
    return start


def read(core: Core, after: int, limit: int, *, marks: tuple[str, ...] = ()) -> FactBatch:
    with core.database.connection() as connection:
        return read_facts(connection, after, limit, marks=marks)


def bodies_of(batch: FactBatch) -> list[str]:
    contents = [recorded.fact.pdu.content for recorded in batch.facts]
    return [str(content.get("body", content.get("name"))) for content in contents]


def test_all_facts_are_read_when_nothing_is_asked_for(core: Core, start: int) -> None:
    batch = read(core, start, 100)
    assert len(bodies_of(batch)) == 7
    assert (batch.up_to, batch.more) == (start + 7, False)


def test_only_facts_with_a_mark_are_read(core: Core, start: int) -> None:
    batch = read(core, start, 100, marks=NAMES)
    assert bodies_of(batch) == ["name 2", "name 6"]
    # What bears no mark counts as read.
    assert (batch.up_to, batch.more) == (start + 7, False)


@pytest.mark.parametrize(("limit", "reads"), [(1, 8), (3, 3), (7, 2), (8, 1)])
def test_batches_end_by_what_was_looked_at(core: Core, start: int, limit: int, reads: int) -> None:
    found, after, more, asked = [], start, True, 0
    while more:
        batch = read(core, after, limit, marks=NAMES)
        found += bodies_of(batch)
        assert batch.up_to == min(after + limit, start + 7)
        after, more, asked = batch.up_to, batch.more, asked + 1
    assert found == ["name 2", "name 6"]
    assert asked == reads


def test_end_is_known_where_nothing_follows(core: Core, start: int) -> None:
    batch = read(core, start + 7, 100, marks=NAMES)
    assert (batch.facts, batch.up_to, batch.more) == ([], start + 7, False)


def test_count_is_of_what_would_be_read(core: Core, start: int) -> None:
    with core.database.connection() as connection:
        assert count_facts(connection, start) == 7
        assert count_facts(connection, start, marks=NAMES) == 2
        assert count_facts(connection, start + 2, marks=NAMES) == 1
        assert count_facts(connection, start + 7, marks=NAMES) == 0
