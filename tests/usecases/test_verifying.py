"""Verifying: what was damaged is found and named; what was not is left in peace."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random  # noqa: TID251 - seeded
from typing import Any

import orjson
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from architex.bootstrap import Core, all_projections
from architex.domain.identifiers import RoomId
from architex.domain.room.aggregate import EventDraft
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import FindVerifyKey
from architex.storage.embedded_postgres import EmbeddedPostgres
from architex.storage.pool import Database
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.server_keys import ServerKey, ServerKeyStore
from architex.storage.to_device import put_messages
from architex.storage.transactions import TransactionKey
from architex.usecases.verifying import RememberedKeys, Report, Verifying
from tests.builders import ALICE as BUILDERS_ALICE
from tests.builders import BOB as BUILDERS_BOB
from tests.builders import TEST_KEY, RoomBuilder
from tests.core import (
    ALICE,
    BOB,
    SERVER_NAME,
    append,
    create_room,
    make_core,
    member_draft,
    message_draft,
    send_message,
)
from tests.following import follow_to_the_end
from tests.usecases.test_judging import found_room, judge, random_room


def find_key(core: Core) -> FindVerifyKey:
    """Our own key, and the one with which every server of the builders signs."""

    def find(server_name: str, key_id: str) -> bytes | None:
        if server_name == SERVER_NAME and key_id == core.signing_key.key_id:
            return core.signing_key.verify_key
        return TEST_KEY.verify_key if key_id == TEST_KEY.key_id else None

    return find


def verify(core: Core, room_id: RoomId | None = None, key: FindVerifyKey | None = None) -> Report:
    return Verifying(core.database, all_projections, key or find_key(core)).verify(room_id)


def room_with_a_fork(core: Core) -> RoomId:
    """A room in which two topics were set at once, and people went on talking on both sides."""
    room = RoomBuilder("11")
    room.join(BUILDERS_BOB)
    room.set_power_levels(BUILDERS_ALICE, users={BUILDERS_ALICE: 100, BUILDERS_BOB: 50})
    branch = room.fork()
    room.send_state(BUILDERS_ALICE, "m.room.topic", {"topic": "one"})
    branch.send_state(BUILDERS_BOB, "m.room.topic", {"topic": "another"})
    branch.message(BUILDERS_BOB)
    branch.send_state(BUILDERS_BOB, "m.room.name", {"name": "a name"})
    branch.message(BUILDERS_BOB)
    room.message(BUILDERS_ALICE)
    room.merge(branch)
    room.message(BUILDERS_ALICE)
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus)
    return create.room_id


def branched_room(core: Core, version: str, seed: int, steps: int = 60) -> RoomId:
    """A random room of other servers, judged here."""
    create, *pdus = random_room(version, seed, steps)
    found_room(core, create, ROOM_VERSIONS[version])
    judge(core, create.room_id, pdus)
    return create.room_id


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_log_as_it_was_written_is_clean(core: Core, version: str) -> None:
    branched_room(core, version, seed=int(version))
    room_id = create_room(core, version=version)
    append(core, room_id, member_draft(BOB, BOB, "join"))
    for number in range(120):  # beyond a snapshot
        send_message(core, room_id, BOB, f"message {number}", txn_id=f"txn{number}")
    follow_to_the_end(core.database)
    report = verify(core)
    assert report.problems == []
    assert report.rooms == 2
    assert report.facts > 120
    assert report.unknown_signatures == 0
    assert report.not_looked_at == []


def test_messages_to_devices_need_no_event(core: Core) -> None:
    create_room(core)
    key = TransactionKey(ALICE, "PHONE", "m.room_key", "txn")
    core.commits.write_rows(
        lambda execute, position: put_messages(execute, position, key, ALICE, "x", [], [], 0)
    )
    follow_to_the_end(core.database)
    assert verify(core).problems == []


@dataclass(frozen=True)
class Damaged:
    """A server with a quiet room, a room with branches, and everything followed."""

    core: Core
    quiet: RoomId
    branched: RoomId

    def execute(self, sql: str) -> None:
        """Damage rows."""
        assert self.core.database.execute(expand(sql), self._ids) >= 1, "nothing was damaged"

    def find_position(self, query: str | None) -> int | None:
        """The position that a query names."""
        row = None
        if query is not None:
            row = self.core.database.fetch_one("SELECT " + expand(query), self._ids)
        return None if row is None else row[0]

    @property
    def _ids(self) -> dict[str, RoomId]:
        return {"quiet": self.quiet, "branched": self.branched}


@dataclass(frozen=True)
class Corruption:
    """What is damaged, and what verify says then.

    Attributes:
        sql: the damage.
        what: a part of the first problem's text.
        where: the position of the first problem, as a query; None when it has none.
        mend: a part of the advice.
    """

    sql: str
    what: str
    where: str | None
    mend: str


def rewrite(room: str, version: int, old: str, new: str) -> str:
    """The damage of changed bytes in a fact."""
    changed = f"convert_to(replace(convert_from(state, 'UTF8'), '{old}', '{new}'), 'UTF8')"
    return f"UPDATE stored_events SET state = {changed} WHERE notification_id = <{room} {version}>"  # noqa: S608 - constants


# What the queries above mean by <room version>, <room nid> and <overlay>: a position, a number,
# and the newest event of the branched room whose state before it is an overlay.
PARTS = [
    (
        r"<overlay>",
        "(SELECT max(e.overlay) FROM overlay_entries e"
        " JOIN event_graph g ON g.position = e.overlay WHERE room_nid = <branched nid>)",
    ),
    (r"<(\w+) nid>", r"(SELECT room_nid FROM rooms WHERE room_id = %(\1)s)"),
    (
        r"<(\w+) (\d+)>",
        r"(SELECT notification_id FROM stored_events WHERE originator_id = %(\1)s"
        r" AND originator_version = \2)",
    ),
]


def expand(sql: str) -> str:
    """A query with its parts written out."""
    for part, meaning in PARTS:
        sql = re.sub(part, meaning, sql)
    return sql


LOG, GRAPH, STATE = "#the-log", "rebuild event_graph", "rebuild current_state"

CORRUPTIONS = {
    "a byte of an event's content changed": Corruption(
        rewrite("quiet", 9, "message 2", "message X"),
        "content does not match its hash",
        "<quiet 9>",
        LOG,
    ),
    "a byte of an event's essence changed": Corruption(
        rewrite("quiet", 9, '"depth":9', '"depth":8'), "was changed", "<quiet 9>", LOG
    ),
    "a byte of a signature changed": Corruption(
        "UPDATE stored_events SET state = convert_to(regexp_replace(convert_from(state, 'UTF8'),"
        " '\"ed25519:test\":\"...', '\"ed25519:test\":\"AAA'), 'UTF8')"
        " WHERE originator_id = %(quiet)s AND originator_version = 9",
        "signature does not verify",
        "<quiet 9>",
        LOG,
    ),
    "a signature gone": Corruption(
        rewrite("quiet", 9, '"signatures":{"architex.test"', '"signatures":{"elsewhere"'),
        "no signature of architex.test",
        "<quiet 9>",
        LOG,
    ),
    "a fact cut short": Corruption(
        "UPDATE stored_events SET state = substr(state, 1, 100)"
        " WHERE originator_id = %(quiet)s AND originator_version = 9",
        "cannot be read",
        "<quiet 9>",
        LOG,
    ),
    "a fact gone": Corruption(
        "DELETE FROM stored_events WHERE notification_id = <quiet 9>",
        "Version 9 of the room is missing",
        "<quiet 10>",
        LOG,
    ),
    "the last fact gone": Corruption(
        "DELETE FROM stored_events WHERE notification_id ="
        " (SELECT last_position FROM rooms WHERE room_id = %(quiet)s)",
        "the log ends with version",
        "<quiet 115>",
        "#the-row-of-a-room",
    ),
    "a fact moved to another position": Corruption(
        "UPDATE stored_events SET notification_id = 1000000000 WHERE notification_id = <quiet 9>",
        "does not come after 1000000000",
        "<quiet 10>",
        LOG,
    ),
    "a fact recorded twice": Corruption(
        "INSERT INTO stored_events SELECT originator_id,"
        " (SELECT version + 1 FROM rooms WHERE room_id = %(quiet)s), topic, state, 1000000000"
        " FROM stored_events WHERE notification_id = <quiet 9>",
        "recorded a second time",
        "(SELECT 1000000000::int8)",
        LOG,
    ),
    "a verdict changed": Corruption(
        "UPDATE stored_events SET topic = 'PduRejected' WHERE notification_id = <quiet 9>",
        "recorded as rejected, but by the rules it is accepted",
        "<quiet 9>",
        LOG,
    ),
    "a change of state that nothing explains": Corruption(
        "UPDATE stored_events SET state = convert_to(replace(convert_from(state, 'UTF8'),"
        ' \',"pdu":\', \',"delta":[["m.room.join_rules","",null]],"pdu":\'), \'UTF8\')'
        " WHERE notification_id = <quiet 9>",
        "State reset",
        "<quiet 9>",
        LOG,
    ),
    "what an event replaced changed": Corruption(
        rewrite("quiet", 6, '"replaces":"', '"replaces":"$none'),
        "It is recorded that it replaced $none$",
        "<quiet 6>",
        LOG,
    ),
    "a redaction given another reach": Corruption(
        rewrite("quiet", 9, '"pdu":', '"redaction_server":"elsewhere","pdu":'),
        "It is recorded that it redacts events of elsewhere",
        "<quiet 9>",
        LOG,
    ),
    "a field of a fact misspelt": Corruption(
        rewrite("quiet", 6, '"replaces":', '"replaced":'),
        "it has a field 'replaced'",
        "<quiet 6>",
        LOG,
    ),
    "the state before an event on a branch changed": Corruption(
        "UPDATE stored_events SET state = convert_to(regexp_replace(convert_from(state, 'UTF8'),"
        " '\"before\":\\[[0-9]+,[0-9a-z]+,', '\"before\":[1,null,'), 'UTF8')"
        " WHERE notification_id = <overlay>",
        "The state before it is recorded with",
        "<overlay>",
        LOG,
    ),
    "the head of a room wrong": Corruption(
        "UPDATE rooms SET version = version - 1 WHERE room_id = %(quiet)s",
        "The table rooms says version",
        "(SELECT last_position FROM rooms WHERE room_id = %(quiet)s)",
        "#the-row-of-a-room",
    ),
    "the version of a room wrong": Corruption(
        "UPDATE rooms SET room_version = '9' WHERE room_id = %(quiet)s",
        "names version 11",
        "<quiet 1>",
        "#the-row-of-a-room",
    ),
    "a room's row gone": Corruption(
        "DELETE FROM rooms WHERE room_id = %(quiet)s", "without a row", None, "#the-row-of-a-room"
    ),
    "the end of the log behind its facts": Corruption(
        "UPDATE log_position SET position = position - 1000",
        "beyond the end of the log",
        None,
        "#the-end-of-the-log",
    ),
    "a byte of a snapshot changed": Corruption(
        "UPDATE snapshots SET state = set_byte(state, 50, 1) WHERE originator_id = %(quiet)s",
        "snapshot is wrong: its bytes were changed",
        None,
        "#a-snapshot",
    ),
    "a snapshot of another room": Corruption(
        "UPDATE snapshots s SET state = o.state FROM snapshots o"
        " WHERE s.originator_id = %(quiet)s AND o.originator_id <> %(quiet)s"
        " AND o.originator_version = s.originator_version",
        "snapshot is wrong: it is of",
        None,
        "#a-snapshot",
    ),
    "a row of event_graph gone": Corruption(
        "DELETE FROM event_graph WHERE position = <quiet 9>",
        "event_graph lacks the row",
        "<quiet 9>",
        GRAPH,
    ),
    "a row of event_graph too many": Corruption(
        "INSERT INTO event_graph (position, room_nid, event_id, verdict, depth, prev_events,"
        " auth_events) VALUES (1000000000, 1, '$none', 0, 1, '{}', '{}'),"
        " (0, 1, '$zero', 0, 1, '{}', '{}')",
        "event_graph has a row of position 0",
        None,
        GRAPH,
    ),
    "an edge wrong": Corruption(
        "UPDATE event_graph SET prev_events = ARRAY[1::int8] WHERE position = <quiet 9>",
        "prev_events is [1] and should be",
        "<quiet 9>",
        GRAPH,
    ),
    "a redaction of the wrong event": Corruption(
        "UPDATE event_graph SET redacted_by = <quiet 12> WHERE position = <quiet 9>",
        "redacted_by is",
        "<quiet 9>",
        GRAPH,
    ),
    "an entry of an overlay changed": Corruption(
        "UPDATE overlay_entries SET position = 1 WHERE overlay = <overlay>",
        "overlay_entries",
        "<overlay>",
        GRAPH,
    ),
    "an overlay gone": Corruption(
        "DELETE FROM state_overlays WHERE overlay = <overlay>",
        "state_overlays lacks",
        "<overlay>",
        GRAPH,
    ),
    "a redaction that nobody sent": Corruption(
        "INSERT INTO redactions (room_nid, event_id, position) VALUES (<quiet nid>, '$x', 9)",
        "redactions has a row too many",
        None,
        GRAPH,
    ),
    "two events of a timeline exchanged": Corruption(
        "UPDATE timeline SET position = CASE position"
        " WHEN <quiet 9> THEN <quiet 10> ELSE <quiet 9> END"
        " WHERE position IN (<quiet 9>, <quiet 10>)",
        "in timeline",
        "<quiet 9>",
        "rebuild timeline",
    ),
    "a row of a timeline gone": Corruption(
        "DELETE FROM timeline WHERE position = <quiet 9>",
        "timeline lacks",
        "<quiet 9>",
        "rebuild timeline",
    ),
    "an entry of the state exchanged for another": Corruption(
        "UPDATE current_state SET position = <quiet 9> WHERE room_nid = <quiet nid>"
        " AND type = 'm.room.join_rules'",
        "in current_state",
        "<quiet 4>",
        STATE,
    ),
    "an entry of the state gone": Corruption(
        "DELETE FROM current_state WHERE room_nid = <quiet nid> AND type = 'm.room.join_rules'",
        "current_state lacks",
        "<quiet 4>",
        STATE,
    ),
    "a state entry of the past given another end": Corruption(
        "UPDATE current_state SET valid_to = valid_to + 1"
        " WHERE room_nid = <quiet nid> AND position = <quiet 5>",
        "valid_to is",
        "<quiet 5>",
        STATE,
    ),
    "a membership wrong": Corruption(
        "UPDATE memberships SET membership = 'ban' WHERE room_nid = <quiet nid>"
        " AND user_id = '@bob:architex.test'",
        "membership is 'ban' and should be 'join'",
        "<quiet 6>",
        "rebuild memberships",
    ),
    "a count of members wrong": Corruption(
        "UPDATE room_counts SET joined = joined + 1 WHERE room_nid = <quiet nid>",
        "joined is 3 and should be 2",
        None,
        "rebuild memberships",
    ),
    "a row of the directory wrong": Corruption(
        "UPDATE room_directory SET join_rule = 'invite' WHERE room_nid = <quiet nid>",
        "join_rule is 'invite' and should be 'public'",
        None,
        "rebuild room_directory",
    ),
    "a profile gone": Corruption(
        "DELETE FROM user_profiles WHERE user_id = '@bob:architex.test'",
        "user_profiles lacks",
        "<quiet 6>",
        "rebuild user_profiles",
    ),
    "rows of a room that is not there": Corruption(
        "INSERT INTO room_counts VALUES (999, 1, 1)",
        "room_counts has rows of a room 999",
        None,
        "rebuild memberships",
    ),
    "an answer that is no event": Corruption(
        "UPDATE transactions SET event_id = '$nowhere' WHERE txn_id = 'txn5'",
        "there is no such event",
        None,
        "#an-answer",
    ),
    "an answer that is another request's": Corruption(
        "UPDATE transactions t SET event_id = o.event_id FROM transactions o"
        " WHERE t.txn_id = 'txn5' AND o.txn_id = 'txn6'",
        "another request made",
        "<quiet 13>",
        "#an-answer",
    ),
}


@pytest.fixture(scope="module")
def template(module_database_url: str) -> Damaged:
    """An undamaged server, of which each test takes a copy."""
    pool = Database(module_database_url, max_size=4)
    core = make_core(pool)
    branched = room_with_a_fork(core)
    quiet = create_room(core)
    append(core, quiet, member_draft(BOB, BOB, "join"))
    append(core, quiet, EventDraft("m.room.member", BOB, {"membership": "join"}, BOB))
    for number in range(110):  # beyond a snapshot
        send_message(core, quiet, BOB, f"message {number}", txn_id=f"txn{number}")
    other = create_room(core)
    for _ in range(112):
        send_message(core, other, ALICE, "hello")
    follow_to_the_end(pool)
    pool.close()
    return Damaged(core, quiet, branched)


@pytest.fixture
def server(
    template: Damaged, postgres: EmbeddedPostgres, admin: psycopg.Connection
) -> Iterator[Damaged]:
    """A copy of it, to be damaged."""
    original = conninfo_to_dict(template.core.database.conninfo)["dbname"]
    copy = f"{original}_copy"
    admin.execute(f"CREATE DATABASE {copy} TEMPLATE {original}".encode())
    pool = Database(postgres.conninfo(copy), max_size=4)
    yield Damaged(make_core(pool), template.quiet, template.branched)
    pool.close()
    admin.execute(f"DROP DATABASE {copy} WITH (FORCE)".encode())


@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corruption_is_found_and_named(server: Damaged, corruption: Corruption) -> None:
    position = server.find_position(corruption.where)
    server.execute(corruption.sql)
    position = position or server.find_position(corruption.where)
    report = verify(server.core)
    assert not report.is_clean
    first = report.problems[0]
    assert corruption.what in first.what, report.problems[:3]
    assert corruption.mend in first.mend, first
    assert first.position == position or corruption.where is None, first


def test_verification_beside_a_busy_server_is_clean(core: Core) -> None:
    rooms = [create_room(core) for _ in range(3)]
    stop = threading.Event()
    failures: list[BaseException] = []

    def send() -> None:
        number = 0
        try:
            while not stop.is_set():
                for room_id in rooms:
                    number += 1
                    send_message(core, room_id, ALICE, "hello", txn_id=f"txn{number}")
                if number % 60 == 0:
                    rooms.append(create_room(core))
                    follow_to_the_end(core.database)
        except BaseException as error:  # noqa: BLE001 - the test fails of it
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        reports = [verify(core) for _ in range(4)]
    finally:
        stop.set()
        sender.join(30)
    assert not failures
    assert [report.problems for report in reports] == [[]] * 4
    assert reports[-1].facts > reports[0].facts
    assert verify(core, rooms[0]).facts > 4


def test_verification_leaves_nothing_behind(core: Core) -> None:
    create_room(core)
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    before = sorted(core.database.fetch_all(tables))
    position = core.event_log.position()
    verify(core)
    assert sorted(core.database.fetch_all(tables)) == before
    assert core.event_log.position() == position


def test_one_room_is_verified_alone(core: Core) -> None:
    room_id, other = create_room(core), create_room(core)
    core.database.execute(
        "DELETE FROM timeline USING rooms WHERE rooms.room_nid = timeline.room_nid"
        " AND room_id = %s",
        (other,),
    )
    report = verify(core, room_id)
    assert report.is_clean
    assert (report.rooms, report.facts) == (1, 4)
    assert report.not_looked_at == ["followed projections: they are compared for all rooms"]
    assert not verify(core, other).is_clean


def test_signatures_by_unknown_keys_are_counted(core: Core) -> None:
    room_with_a_fork(core)
    follow_to_the_end(core.database)
    report = verify(core, key=lambda server_name, key_id: None)
    assert report.is_clean
    assert report.unknown_signatures == report.facts


def test_state_reset_that_the_rules_gave_is_shown(core: Core) -> None:
    """In room version 8, this random room falls back to earlier join rules with a topic."""
    branched_room(core, "8", seed=103, steps=120)
    follow_to_the_end(core.database)
    report = verify(core)
    assert report.is_clean
    assert {(reset.type, reset.state_key) for reset in report.resets} == {
        ("m.room.join_rules", "")
    }
    for reset in report.resets:
        (since,) = core.database.fetch_all(
            "SELECT g.event_id FROM current_state c JOIN event_graph g USING (position)"
            " WHERE valid_from = %s AND type = %s AND c.position < c.valid_from",
            (reset.position, reset.type),
        )
        assert since == (reset.event_id,)


def test_state_reset_is_told_when_it_is_recorded(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    room_id = branched_room(core, "8", seed=103, steps=120)
    told = [record.getMessage() for record in caplog.records if "State reset" in record.msg]
    assert len(told) == 2
    assert all(room_id in line and "m.room.join_rules" in line for line in told)


def test_more_problems_than_asked_for_are_counted(core: Core) -> None:
    create_room(core)
    core.database.execute("DELETE FROM timeline")
    verifying = Verifying(core.database, all_projections, find_key(core))
    report = verifying.verify(max_problems=1)
    assert (len(report.problems), report.more_problems) == (1, 3)


def changed_somewhere(state: bytes, random: Random) -> bytes:
    """A fact's bytes with a bit flipped, some lost, or a value exchanged for a strange one."""
    kind = random.choice(["flip", "cut", "exchange"])
    if kind == "exchange":
        envelope = orjson.loads(state)
        part: Any = envelope
        while True:
            key = random.choice(list(part) if isinstance(part, dict) else range(len(part)))
            if isinstance(part[key], (dict, list)) and part[key] and random.random() < 0.6:
                part = part[key]
                continue
            part[key] = random.choice([None, -5, "x", [], {}, [None], True, 2**62])
            return orjson.dumps(envelope)
    place = random.randrange(len(state))
    if kind == "cut":
        return state[:place] + state[place + random.randrange(1, 20) :]
    return state[:place] + bytes([state[place] ^ 1 << random.randrange(8)]) + state[place + 1 :]


def test_whatever_bytes_change_the_verification_goes_on(core: Core) -> None:
    random = Random(11)  # noqa: S311 - seeded, so that a failure can be repeated
    room_with_a_fork(core)
    send_message(core, create_room(core), ALICE, "hello", txn_id="txn")
    facts = core.database.fetch_all("SELECT notification_id, state FROM stored_events")
    put = "UPDATE stored_events SET state = %s WHERE notification_id = %s"
    clean = 0
    for _ in range(30):
        position, state = random.choice(facts)
        core.database.execute(put, (changed_somewhere(state, random), position))
        clean += verify(core).is_clean
        core.database.execute(put, (state, position))
    # Times of receipt and names of keys are nobody's business: nothing vouches for them.
    assert clean <= 3
    assert verify(core).is_clean


def test_remembered_keys_of_other_servers_are_used(core: Core) -> None:
    store = ServerKeyStore(core.database)
    key = ServerKey("a.example", "ed25519:1", b"k" * 32, 10**15, None, 1, b"{}")
    store.record_keys([key, replace(key, key_id="ed25519:2")])
    store.record_keys([replace(key, key_id="ed25519:2", verify_key=b"l" * 32)])
    keys = RememberedKeys(SERVER_NAME, "ed25519:own", b"o" * 32, store)
    assert keys.find(SERVER_NAME, "ed25519:own") == b"o" * 32
    assert keys.find("a.example", "ed25519:1") == b"k" * 32
    assert keys.find("a.example", "ed25519:2") is None
    assert keys.find("b.example", "ed25519:1") is None


def test_change_of_state_that_no_branches_brought_is_told_when_it_is_recorded(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    room_id = create_room(core)

    def decide(session: RoomSession) -> None:
        for key in (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", ALICE)):
            session.find_state(*key)
        draft = message_draft(ALICE, "nothing to do with it")
        pdu = session.room.compose(draft, core.commits.signer, session.now_ms)
        fact = session.room.accepted(pdu, session.now_ms)
        session.record(replace(fact, delta={("m.room.join_rules", ""): None}))

    core.commits.write_room(RoomCommand(room_id, decide))
    (told,) = [r.getMessage() for r in caplog.records if "State reset" in r.msg]
    assert room_id in told
    assert "m.room.join_rules" in told
    report = verify(core, room_id)
    assert report.problems[0].what.startswith("State reset: it is recorded that since this event")
