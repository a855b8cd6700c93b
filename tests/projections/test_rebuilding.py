"""A rebuilt projection is the followed one, row for row, and nobody notices the rebuild."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from architex.bootstrap import Core, all_projections, inline_projections
from architex.projections import rebuilding
from architex.projections.rebuilding import RebuildFailed, rebuild_projection
from architex.projections.room_directory import RoomDirectory
from architex.storage.pool import Database
from tests.core import (
    ALICE,
    BOB,
    append,
    create_room,
    make_core,
    member_draft,
    message_draft,
    send_message,
)
from tests.following import follow_to_the_end
from tests.projections.traffic import RandomTraffic, rows_of


@pytest.mark.parametrize("seed", [1, 2])
def test_rebuilding_equals_following_row_for_row(
    core: Core, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "CHUNK_SIZE", 7 if seed == 1 else 500)
    traffic = RandomTraffic(core, seed)
    for _ in range(10):
        traffic.run(25)
        follow_to_the_end(core.database)
    for projection in all_projections():
        before = {table: rows_of(core.database, table) for table in projection.tables}
        result = rebuild_projection(core.database, projection)
        after = {table: rows_of(core.database, table) for table in projection.tables}
        assert after == before, projection.name
        assert before[projection.tables[0]], projection.name
        assert result.facts > 0


def test_facts_without_a_projections_marks_are_no_concern_of_it(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    RandomTraffic(core, seed=4).run(250)
    marked = [projection for projection in all_projections() if projection.marks]
    assert len(marked) >= 6
    for projection in marked:
        few = rebuild_projection(core.database, projection).facts
        rows = {table: rows_of(core.database, table) for table in projection.tables}
        monkeypatch.setattr(type(projection), "marks", ())
        assert rebuild_projection(core.database, projection).facts > few > 0, projection.name
        for table in projection.tables:
            assert rows_of(core.database, table) == rows[table], projection.name


def test_rebuilt_tables_have_the_indexes_options_and_rights_of_the_old(core: Core) -> None:
    create_room(core)
    core.database.execute("GRANT SELECT ON current_state TO PUBLIC")
    before = _schema(core.database)
    for projection in all_projections():
        rebuild_projection(core.database, projection)
    assert _schema(core.database) == before
    assert any("current_state_now" in line for line in before)
    assert any("fillfactor" in line for line in before)


def _schema(database: Database) -> list[str]:
    rows = database.fetch_all(
        "SELECT 'table ' || c.relname || coalesce(c.reloptions::text, '')"
        " || (SELECT count(*) FROM aclexplode(c.relacl) a WHERE a.grantee = 0)::text"
        " FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
        " UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'rebuild%%'"
        " UNION ALL SELECT pg_get_indexdef(i.indexrelid) || ' ' || i.indrelid::regclass::text"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " WHERE c.relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT k.conname || ' ' || pg_get_constraintdef(k.oid) FROM pg_constraint k"
        " UNION ALL SELECT a.attrelid::regclass::text || a.attname || a.attnum"
        " || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || a.attnotnull"
        " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0"
    )
    return sorted(row[0] for row in rows)


def test_rebuild_mends_lost_and_altered_rows(core: Core) -> None:
    room_id = create_room(core)
    send_message(core, room_id, ALICE, "hello")
    wanted = rows_of(core.database, "timeline")
    core.database.execute("DELETE FROM timeline WHERE type = 'm.room.message'")
    core.database.execute("UPDATE timeline SET sender = 'mallory' WHERE is_state")
    timeline = next(p for p in inline_projections() if p.name == "timeline")
    rebuild_projection(core.database, timeline)
    assert rows_of(core.database, "timeline") == wanted


def test_rebuild_tells_how_far_it_is(core: Core) -> None:
    create_room(core)
    told: list[tuple[int, int]] = []
    rebuild_projection(
        core.database, RoomDirectory(), on_progress=lambda done, end: told.append((done, end))
    )
    assert told[-1][0] == told[-1][1] == core.event_log.position()


def test_second_rebuild_of_the_same_projection_is_refused(core: Core) -> None:
    create_room(core)
    refusals: list[RebuildFailed] = []

    def try_another(done: int, end: int) -> None:
        with pytest.raises(RebuildFailed) as refusal:
            rebuild_projection(core.database, RoomDirectory())
        refusals.append(refusal.value)

    rebuild_projection(core.database, RoomDirectory(), on_progress=try_another)
    assert refusals


def test_what_a_killed_rebuild_left_is_cleared_away(core: Core) -> None:
    create_room(core)
    core.database.execute("CREATE SCHEMA rebuild_room_directory")
    core.database.execute("CREATE TABLE rebuild_room_directory.room_directory (old int)")
    rebuild_projection(core.database, RoomDirectory())
    assert len(rows_of(core.database, "room_directory")) == 1


def test_rebuild_gives_up_for_an_open_transaction_and_leaves_all_as_it_was(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "MAX_TRIES", 2)
    monkeypatch.setattr(rebuilding, "HOLD_OFF_S", 0.1)
    monkeypatch.setattr(rebuilding, "PAUSE_S", 0.0)
    room_id = create_room(core)
    before = rows_of(core.database, "timeline")
    timeline = next(p for p in inline_projections() if p.name == "timeline")
    with psycopg.connect(core.database.conninfo, application_name="a backup") as backup:
        backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        backup.execute("SELECT 1 FROM rooms")
        with pytest.raises(RebuildFailed, match="a backup"):
            rebuild_projection(core.database, timeline)
    assert rows_of(core.database, "timeline") == before
    send_message(core, room_id, ALICE, "and on it goes")
    assert len(rows_of(core.database, "timeline")) == len(before) + 1


@contextmanager
def _running(*jobs: threading.Thread) -> Iterator[None]:
    for job in jobs:
        job.start()
    yield
    for job in jobs:
        job.join(30)


def test_nobody_notices_a_rebuild(core: Core, database_url: str) -> None:
    """Two processes send and readers look while all projections are rebuilt, twice."""
    other_pool = Database(database_url, max_size=8)
    cores = [core, make_core(other_pool)]
    rooms = [create_room(core) for _ in range(4)]
    stop = threading.Event()
    failures: list[BaseException | str] = []
    sent = [0, 0]

    def send(number: int) -> None:
        try:
            while not stop.is_set():
                for room_id in rooms:
                    drafts = [message_draft(ALICE, "hello"), message_draft(ALICE, "again")]
                    append(cores[number], room_id, *drafts)
                    sent[number] += 2
                joined = create_room(cores[number])
                append(cores[number], joined, member_draft(BOB, BOB, "join"))
        except BaseException as error:  # noqa: BLE001 - the test fails of it
            failures.append(error)

    def read() -> None:
        try:
            while not stop.is_set():
                with core.database.snapshot() as connection:
                    facts = connection.execute("SELECT count(*) FROM stored_events").fetchone()
                    time.sleep(0.01)
                    shown = connection.execute(
                        "SELECT (SELECT count(*) FROM event_graph),"
                        " (SELECT count(*) FROM timeline)"
                    ).fetchone()
                assert facts is not None
                assert shown is not None
                if not facts[0] == shown[0] == shown[1]:
                    failures.append(f"{facts[0]} facts, but {shown} in the projections")
        except BaseException as error:  # noqa: BLE001 - the test fails of it
            failures.append(error)

    jobs = [threading.Thread(target=send, args=(n,)) for n in (0, 1)]
    jobs += [threading.Thread(target=read) for _ in range(2)]
    with _running(*jobs):
        try:
            for projection in (*all_projections(), *all_projections()):
                rebuild_projection(core.database, projection)
        finally:
            stop.set()
    other_pool.close()
    assert not failures
    assert sum(sent) > 0
    messages = core.database.fetch_one(
        "SELECT count(*) FROM timeline WHERE type = 'm.room.message'"
    )
    assert messages == (sum(sent),)
    follow_to_the_end(core.database)
    for projection in all_projections():
        before = [rows_of(core.database, table) for table in projection.tables]
        rebuild_projection(core.database, projection)
        assert [rows_of(core.database, table) for table in projection.tables] == before
