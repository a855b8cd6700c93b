"""Graphs made to hurt: what one room's foes send costs little, and other rooms nothing.

Costs are counted in statements and parsed events, not in seconds.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import EventId, RoomId, server_name_of
from architex.domain.pdu import (
    MAX_AUTH_EVENTS,
    MAX_PREV_EVENTS,
    Pdu,
    StateKey,
    build_event,
    compute_reference_hash,
    parse_pdu,
)
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.events import StateBefore
from architex.domain.room.pdu_checks import Outcome, Verdict
from architex.domain.signing import sign_event
from architex.projections import branch_states
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.judging import MAX_AT_ONCE, Judging
from tests.builders import TEST_KEY
from tests.core import ALICE, append, create_room, member_draft, send_message
from tests.statements import noted_statements

MALLORY: Final = "@mallory:foe.example"
NOBODY_FOUND: Final = "$nobody-has-seen-this-event-at-all-aaaaaaaaaaaaa"

_numbers = itertools.count(1_700_000_000_000)


class Foe:
    """Another server, on which Mallory makes what events she likes in one room.

    Attributes:
        ends: the room's forward extremities when she last looked.
    """

    def __init__(self, core: Core, room_id: RoomId) -> None:
        self.core = core
        self.room_id = room_id
        self.rules = core.event_log.rules_of(room_id)
        self.judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
        self.pdus: dict[EventId, Pdu] = {}
        self._numbers = _numbers
        self.look()

    def look(self) -> None:
        """Learn the end of the room and the state that authorises Mallory."""

        def decide(session: RoomSession) -> tuple[dict[StateKey, Pdu], list[EventId], int]:
            keys = [
                ("m.room.create", ""),
                ("m.room.power_levels", ""),
                ("m.room.join_rules", ""),
                ("m.room.member", MALLORY),
            ]
            found = {key: pdu for key in keys if (pdu := session.find_state(*key)) is not None}
            return found, list(session.room.extremities), session.room.depth

        self.state, self.ends, self.depth = self.core.commits.write_room(
            RoomCommand(self.room_id, decide)
        )
        self.pdus.update((pdu.event_id, pdu) for pdu in self.state.values())
        self._remember(self.ends)

    def _remember(self, event_ids: Sequence[EventId]) -> None:
        with self.core.database.connection() as connection:
            self.pdus.update(BranchStates().find_pdus(connection, self.rules, event_ids))

    def make(
        self,
        type: str = "m.room.message",
        content: Mapping[str, Any] | None = None,
        state_key: str | None = None,
        *,
        prev: Sequence[EventId] | None = None,
        auth: Sequence[EventId] | None = None,
        depth: int | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """A signed event; by default an ordinary one at the end of the room."""
        number = next(self._numbers)
        if auth is None:
            auth = [
                pdu.event_id
                for key, pdu in self.state.items()
                if not (key[0] == "m.room.create" and self.rules.room_id_is_create_hash)
                and (key[0] != "m.room.join_rules" or type == "m.room.member")
            ]
        event = build_event(
            self.rules,
            room_id=self.room_id,
            sender=MALLORY,
            type=type,
            content={"body": "hello"} if content is None else content,
            state_key=state_key,
            redacts=more.pop("redacts", None),
            prev_events=self.ends if prev is None else prev,
            auth_events=auth,
            depth=1,
            origin_server_ts=number,
            event_id=f"${number}:foe.example",
            reference_hashes=_Hashes(self) if self.rules.event_id_format == "domain" else None,
        )
        event["depth"] = self.depth + 1 if depth is None else depth
        event.update(more)
        signed, event_id = sign_event(self.rules, event, server_name_of(MALLORY), TEST_KEY)
        self.pdus[event_id] = parse_pdu(self.rules, signed, event_id=event_id)
        return signed

    def make_pdu(self, *args: Any, **kwargs: Any) -> Pdu:
        """As `make`; read."""
        self.make(*args, **kwargs)
        return next(reversed(self.pdus.values()))

    def send(self, *events: Mapping[str, Any] | Pdu) -> list[Verdict]:
        """Send events to the server."""
        return self.judging.judge(
            self.room_id,
            [event.event if isinstance(event, Pdu) else event for event in events],
            lambda *_: TEST_KEY.verify_key,
        )

    def outcomes(self, *events: Mapping[str, Any] | Pdu) -> list[Outcome]:
        """Send events; what became of them."""
        return [verdict.outcome for verdict in self.send(*events)]


class _Hashes(dict[EventId, bytes]):
    """What events of room versions 1 and 2 quote of others: of unknown ones, anything."""

    def __init__(self, foe: Foe) -> None:
        self._foe = foe

    def __missing__(self, event_id: EventId) -> bytes:
        pdu = self._foe.pdus.get(event_id)
        return b"?" * 32 if pdu is None else compute_reference_hash(self._foe.rules, pdu.event)


def make_foe(core: Core, *, version: str = "11", power: int = 90) -> Foe:
    """A room of Alice's in which Mallory has nearly all power, and Mallory."""
    room_id = create_room(core, version=version)
    rules = core.event_log.rules_of(room_id)
    users = {MALLORY: power} if rules.privileged_creators else {ALICE: 100, MALLORY: power}
    append(
        core,
        room_id,
        EventDraft("m.room.power_levels", ALICE, {"users": users}, ""),
    )
    foe = Foe(core, room_id)
    (outcome,) = foe.outcomes(foe.make("m.room.member", {"membership": "join"}, MALLORY))
    assert outcome is Outcome.ACCEPTED
    foe.look()
    return foe


def grow(core: Core, room_id: RoomId, drafts: Sequence[EventDraft]) -> None:
    """Add a great many state events, hundreds in each decision."""
    for start in range(0, len(drafts), 500):
        chunk = drafts[start : start + 500]
        keys = frozenset((draft.type, draft.state_key or "") for draft in chunk)

        def decide(session: RoomSession, chunk: Sequence[EventDraft] = chunk) -> None:
            for draft in chunk:
                session.append(draft)

        core.commits.write_room(RoomCommand(room_id, decide, prefetch=keys))


def stored(core: Core, event_id: EventId) -> bool:
    rows = core.database.fetch_all("SELECT 1 FROM event_graph WHERE event_id = %s", (event_id,))
    return bool(rows)


def extremities(core: Core, room_id: RoomId) -> int:
    return len(core.event_log.get_room(room_id).extremities)


class Counter:
    """Notes the statements sent to the database, and counts events parsed for resolutions."""

    def __init__(self, statements: list[str]) -> None:
        self.statements = statements
        self.parsed = 0

    def restart(self) -> None:
        self.statements.clear()
        self.parsed = 0


@pytest.fixture
def counter(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    with noted_statements(core.database.conninfo) as statements:
        counter = Counter(statements)

        def counted_parse(*args: Any, **kwargs: Any) -> Pdu:
            counter.parsed += 1
            return parse_pdu(*args, **kwargs)

        monkeypatch.setattr(branch_states, "parse_pdu", counted_parse)
        yield counter


def _named(field: str, event_ids: Sequence[EventId]) -> dict[str, Any]:
    return {field: list(event_ids)}


# Malformed references and numbers


@pytest.mark.parametrize("field", ["prev", "auth"])
@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_event_that_refers_to_another_room_is_not_kept(
    core: Core, version: str, field: str
) -> None:
    other = make_foe(core, version=version)
    foe = make_foe(core, version=version)
    theirs = foe.make(**_named(field, other.ends))
    (verdict,) = foe.send(theirs)
    assert verdict.outcome is Outcome.MISSING
    assert verdict.missing == frozenset(other.ends)
    assert verdict.pdu is not None
    assert not stored(core, verdict.pdu.event_id)


@pytest.mark.parametrize("version", ["1", "2"])
def test_event_with_the_id_of_another_rooms_event_is_dropped(core: Core, version: str) -> None:
    other, foe = make_foe(core, version=version), make_foe(core, version=version)
    event_id = "$taken:foe.example"
    assert other.outcomes(other.make(event_id=event_id)) == [Outcome.ACCEPTED]
    good = foe.make()
    assert foe.outcomes(foe.make(event_id=event_id), good) == [
        Outcome.DROPPED,
        Outcome.ACCEPTED,
    ]


def test_event_of_another_room_is_dropped(core: Core) -> None:
    other, foe = make_foe(core), make_foe(core)
    assert foe.outcomes(other.make()) == [Outcome.DROPPED]
    assert foe.outcomes(foe.make(room_id=other.room_id)) == [Outcome.DROPPED]


@pytest.mark.parametrize("field", ["prev", "auth"])
@pytest.mark.parametrize("version", ["1", "2"])
def test_event_that_names_itself_is_dropped(core: Core, version: str, field: str) -> None:
    foe = make_foe(core, version=version)
    own_id = "$itself:foe.example"
    before = {"prev": foe.ends, "auth": [pdu.event_id for pdu in foe.state.values()]}
    event = foe.make(**_named(field, [*before[field], own_id]), event_id=own_id)
    assert foe.outcomes(event) == [Outcome.DROPPED]
    assert not stored(core, own_id)


@pytest.mark.parametrize("version", ["1", "2"])
def test_events_that_follow_each_other_are_never_kept(core: Core, version: str) -> None:
    foe = make_foe(core, version=version)
    one = foe.make(prev=["$two:foe.example"], event_id="$one:foe.example")
    two = foe.make(prev=["$one:foe.example"], event_id="$two:foe.example")
    assert foe.outcomes(one, two, one) == [Outcome.MISSING] * 3
    assert not stored(core, "$one:foe.example")


def test_too_many_references_are_refused_and_the_most_allowed_are_not(core: Core) -> None:
    foe = make_foe(core)
    forks = [foe.make_pdu() for _ in range(MAX_PREV_EVENTS + 1)]
    foe.send(*forks)
    ids = [pdu.event_id for pdu in forks]
    assert foe.outcomes(foe.make(prev=ids)) == [Outcome.DROPPED]
    assert foe.outcomes(foe.make(auth=ids[: MAX_AUTH_EVENTS + 1])) == [Outcome.DROPPED]
    assert foe.outcomes(foe.make(prev=ids[:MAX_PREV_EVENTS])) == [Outcome.ACCEPTED]
    assert foe.outcomes(foe.make(auth=ids[:MAX_AUTH_EVENTS])) == [Outcome.REJECTED]


def test_the_same_reference_twice_counts_once_or_is_rejected(core: Core) -> None:
    foe = make_foe(core)
    auth = [pdu.event_id for pdu in foe.state.values() if pdu.type != "m.room.join_rules"]
    assert foe.outcomes(foe.make(auth=[*auth, auth[0]])) == [Outcome.REJECTED]
    assert foe.outcomes(foe.make(prev=[*foe.ends, *foe.ends])) == [Outcome.ACCEPTED]
    assert extremities(core, foe.room_id) == 1


@pytest.mark.parametrize(
    ("version", "depth", "outcome"),
    [
        ("1", 2**63 - 1, Outcome.ACCEPTED),
        ("1", 2**63, Outcome.DROPPED),
        ("5", 2**63 - 1, Outcome.ACCEPTED),
        ("6", 2**53 - 1, Outcome.ACCEPTED),
        ("6", 2**53, Outcome.DROPPED),
        ("11", 2**63 - 1, Outcome.DROPPED),
        ("12", 2**53 - 1, Outcome.ACCEPTED),
        ("12", -1, Outcome.DROPPED),
    ],
)
def test_room_goes_on_after_an_event_of_the_greatest_depth(
    core: Core, version: str, depth: int, outcome: Outcome
) -> None:
    foe = make_foe(core, version=version)
    assert _outcome_of_depth(foe, depth) is outcome
    first = send_message(core, foe.room_id, ALICE, "we go on")
    second = send_message(core, foe.room_id, ALICE, "and on")
    assert [stored(core, first), stored(core, second)] == [True, True]
    foe.look()
    assert foe.outcomes(foe.make(depth=foe.depth)) == [Outcome.ACCEPTED]


def _outcome_of_depth(foe: Foe, depth: int) -> Outcome:
    try:
        event = foe.make(depth=depth)
    except Exception:  # noqa: BLE001 - we cannot even write it: the sender wrote plain JSON
        event = {**foe.make(depth=1), "depth": depth}
    return foe.outcomes(event)[0]


# Redactions


@pytest.mark.parametrize("version", ["1", "2"])
def test_redactions_that_redact_each_other_are_read_as_ever(core: Core, version: str) -> None:
    foe = make_foe(core, version=version)
    ids = ["$r1:foe.example", "$r2:foe.example", "$r3:foe.example"]
    for place, event_id in enumerate(ids):
        event = foe.make(
            "m.room.redaction",
            {"reason": "round and round"},
            redacts=ids[(place + 1) % len(ids)],
            event_id=event_id,
        )
        assert foe.outcomes(event) == [Outcome.ACCEPTED]
        foe.look()
    itself = "$r0:foe.example"
    event = foe.make("m.room.redaction", {}, redacts=itself, event_id=itself)
    assert foe.outcomes(event) == [Outcome.ACCEPTED]
    send_message(core, foe.room_id, ALICE, "still here")
    shown = core.database.fetch_all(
        "SELECT count(*) FROM timeline t JOIN event_graph g USING (position)"
        " WHERE g.event_id = ANY(%s)",
        ([*ids, itself],),
    )
    assert shown == [(4,)]


# Extremities


@pytest.mark.slow
def test_sixteen_hundred_forward_extremities_are_merged(core: Core, counter: Counter) -> None:
    foe = make_foe(core)
    forks = [foe.make_pdu() for _ in range(1600)]
    counter.restart()
    assert set(foe.outcomes(*forks)) == {Outcome.ACCEPTED}
    assert extremities(core, foe.room_id) <= MAX_PREV_EVENTS
    assert len(counter.statements) / len(forks) < 30
    send_message(core, foe.room_id, ALICE, "hello")


def test_hundreds_of_extremities_that_nobody_of_ours_may_merge_stay_cheap(
    core: Core, counter: Counter
) -> None:
    foe = make_foe(core)
    append(core, foe.room_id, member_draft(ALICE, ALICE, "leave"))
    foe.look()
    forks = [foe.make_pdu("com.example.entry", {"value": number}, "same") for number in range(200)]
    counter.restart()
    assert set(foe.outcomes(*forks)) == {Outcome.ACCEPTED}
    assert extremities(core, foe.room_id) == len(forks)
    assert len(counter.statements) / len(forks) < 40
    # Each fork is read once, and not again for each that comes after it.
    assert counter.parsed < 5 * len(forks)


# Resolutions


def state_of(core: Core, room_id: RoomId, type: str) -> dict[str, EventId]:
    rows = core.database.fetch_all(
        "SELECT c.state_key, g.event_id FROM current_state c JOIN rooms USING (room_nid)"
        " JOIN event_graph g USING (position)"
        " WHERE room_id = %s AND c.type = %s AND c.valid_to = 9223372036854775807",
        (room_id, type),
    )
    return dict(rows)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["11", "12"])
def test_ten_thousand_conflicted_keys_take_a_handful_of_statements(
    core: Core, counter: Counter, version: str
) -> None:
    foe = make_foe(core, version=version)
    fork = foe.make_pdu("com.example.entry", {"value": "old"}, "7")
    drafts = [EventDraft("com.example.entry", ALICE, {"value": n}, f"{n}") for n in range(10_000)]
    grow(core, foe.room_id, drafts)
    before = state_of(core, foe.room_id, "com.example.entry")
    assert len(before) == 10_000
    counter.restart()
    assert foe.outcomes(fork) == [Outcome.ACCEPTED]
    assert len(counter.statements) < 40
    after = state_of(core, foe.room_id, "com.example.entry")
    assert {key: after[key] for key in after if key != "7"} == {
        key: before[key] for key in before if key != "7"
    }
    assert after["7"] in {before["7"], fork.event_id}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["11", "12"])
def test_long_history_of_power_levels_is_not_read_for_a_small_conflict(
    core: Core, counter: Counter, version: str
) -> None:
    foe = make_foe(core, version=version)
    rules = core.event_log.rules_of(foe.room_id)
    alice = {} if rules.privileged_creators else {ALICE: 100}
    drafts = [
        EventDraft(
            "m.room.power_levels",
            ALICE,
            {"users": {**alice, MALLORY: 90}, "events": {"com.example": number % 50}},
            "",
        )
        for number in range(3000)
    ]
    grow(core, foe.room_id, drafts)
    foe.look()
    forks = [foe.make_pdu("com.example.entry", {"value": n}, "same") for n in range(3)]
    assert set(foe.outcomes(*forks)) == {Outcome.ACCEPTED}
    counter.restart()
    merge = foe.make(prev=[pdu.event_id for pdu in forks], depth=forks[0].depth + 1)
    assert foe.outcomes(merge) == [Outcome.ACCEPTED]
    assert len(counter.statements) < 40
    assert counter.parsed < 20


@pytest.mark.slow
def test_event_that_follows_the_first_one_of_a_long_room_costs_its_difference(
    core: Core, counter: Counter
) -> None:
    foe = make_foe(core)
    fork = foe.make_pdu()
    members = [f"@user{number}:architex.test" for number in range(3000)]
    grow(core, foe.room_id, [member_draft(user, user, "join") for user in members])
    # All of them left: nobody's membership in the state names the join rules they came by.
    grow(core, foe.room_id, [member_draft(user, user, "leave") for user in members])
    append(core, foe.room_id, EventDraft("m.room.join_rules", ALICE, {"join_rule": "invite"}, ""))
    before = state_of(core, foe.room_id, "m.room.member")
    counter.restart()
    assert foe.outcomes(fork) == [Outcome.ACCEPTED]
    assert len(counter.statements) < 40
    assert state_of(core, foe.room_id, "m.room.member") == before


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_branch_of_hundreds_of_power_levels_costs_its_length(
    core: Core, counter: Counter, version: str
) -> None:
    foe = make_foe(core, version=version)
    rules = core.event_log.rules_of(foe.room_id)
    alice = {} if rules.privileged_creators else {ALICE: 100}
    prev, others = foe.ends, [foe.state["m.room.member", MALLORY].event_id]
    if not rules.room_id_is_create_hash:
        others.append(foe.state["m.room.create", ""].event_id)
    last = foe.state["m.room.power_levels", ""].event_id
    send_message(core, foe.room_id, ALICE, "so that what follows is a branch")
    length = 100
    branch = []
    for number in range(length):
        content = {"users": {**alice, MALLORY: 90}, "events": {"com.example": number % 50}}
        pdu = foe.make_pdu(
            "m.room.power_levels",
            content,
            "",
            prev=prev,
            auth=[*others, last],
            depth=foe.depth + number + 1,
        )
        prev, last = [pdu.event_id], pdu.event_id
        branch.append(pdu)
    counter.restart()
    assert set(foe.outcomes(*branch)) == {Outcome.ACCEPTED}
    assert state_of(core, foe.room_id, "m.room.power_levels") == {"": last}
    assert len(counter.statements) / length < 40
    assert counter.parsed < 5 * length


def test_overlays_five_thousand_deep_are_read_once(core: Core, counter: Counter) -> None:
    foe = make_foe(core)
    head = core.event_log.find_head(foe.room_id)
    assert head is not None
    depth = 5000
    core.database.execute(
        "INSERT INTO state_overlays SELECT n, CASE WHEN n > 1 THEN n - 1 END"
        " FROM generate_series(1, %s) n",
        (depth,),
    )
    core.database.execute(
        "INSERT INTO overlay_entries SELECT n, 'com.example', n::text, %s"
        " FROM generate_series(1, %s) n",
        (head.last_position, depth),
    )
    branches = BranchStates()
    counter.restart()
    keys = [("com.example", "1"), ("com.example", "5000"), ("com.example", "5001")]
    with core.database.connection() as connection:
        state = StateBefore(head.last_position, depth)
        found = branches.find_entries(connection, head.room_nid, state, keys)
        assert set(found) == set(keys[:2])
        assert len(counter.statements) <= 3
        counter.restart()
        core.database.execute("INSERT INTO state_overlays VALUES (5001, 5000)")
        core.database.execute(
            "INSERT INTO overlay_entries VALUES (5001, 'com.example', '5001', %s)",
            (head.last_position,),
        )
        state = StateBefore(head.last_position, depth + 1)
        found = branches.find_entries(connection, head.room_nid, state, keys)
        assert set(found) == set(keys)
        assert len(counter.statements) <= 4


# The canary


@pytest.fixture
def canary(core: Core) -> Iterator[_Canary]:
    canary = _Canary(core)
    yield canary
    canary.stop()


class _Canary:
    """A room of the same server in which somebody sends all the time."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.room_id = create_room(core)
        self.sent: list[EventId] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sing)
        self._thread.start()

    def _sing(self) -> None:
        while not self._stop.is_set():
            self.sent.append(send_message(self.core, self.room_id, ALICE, f"{len(self.sent)}"))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_room_beside_an_attacked_one_goes_on(core: Core, canary: _Canary) -> None:
    foe = make_foe(core)
    rounds = 6
    forks = [
        foe.make_pdu("com.example.entry", {"value": n}, f"{n % 40}")
        for n in range(rounds * MAX_AT_ONCE)
    ]
    before = core.event_log.position()
    assert set(foe.outcomes(*forks)) == {Outcome.ACCEPTED}
    after = core.event_log.position()
    canary.stop()
    rows = core.database.fetch_all(
        "SELECT g.event_id, g.position FROM event_graph g JOIN rooms USING (room_nid)"
        " WHERE room_id = %s ORDER BY g.position",
        (canary.room_id,),
    )
    assert [event_id for event_id, _ in rows][4:] == canary.sent
    meanwhile = [position for _, position in rows if before < position < after]
    assert len(meanwhile) >= rounds
