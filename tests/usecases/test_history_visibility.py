"""History visibility: on branches by the state before each event, and in what was backfilled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - seeded, and the seed is the test's parameter
from typing import Any

import orjson
import pytest

from architex.bootstrap import Core
from architex.domain.errors import Forbidden, NotFound
from architex.domain.event_filter import parse_sync_filter
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.pdu import Pdu
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room.visibility import is_allowed
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.sync_token import parse_pagination_token
from architex.storage.pool import Database
from architex.usecases.event_rendering import EventRendering
from architex.usecases.requester import Requester
from architex.usecases.room_reading import RoomReading
from architex.usecases.sync_parts import SyncRequest
from tests.builders import ALICE, BOB, CAROL, RoomBuilder
from tests.conftest import DatabaseFactory
from tests.core import make_core
from tests.differential.random_rooms import USERS, RandomRoom
from tests.statements import noted_statements
from tests.usecases.test_importing import (
    enter,
    find_key,
    importing,
    judging,
    state_events,
    timeline,
)
from tests.usecases.test_judging import Reference, found_room, judge, signed_by_all
from tests.usecases.test_sync_model import make_syncing

Json = dict[str, Any]

OUTSIDER = "@mallory:elsewhere.example"
VISIBILITIES = ("joined", "invited", "shared", "world_readable", "nonsense", 7)


class ReadRoom(RandomRoom):
    """A random room in which people talk and change what others may read."""

    def step(self, branch: RoomBuilder) -> None:
        if self.chance(0.15):
            content = {"history_visibility": self.pick(VISIBILITIES)}
            sender = self.likely_sender(branch)
            self.attempt(branch, sender, "m.room.history_visibility", content, "")
        elif self.chance(0.4):
            self.try_message(branch)
        else:
            super().step(branch)


def random_room(version: str, seed: int, steps: int) -> list[Pdu]:
    """The events of such a room, parents before children."""
    random = Random(seed)  # noqa: S311 - seeded, so that a failure can be repeated
    room = ReadRoom(version, random, lambda *_: None)
    room.grow(steps)
    return [signed_by_all(room.room.rules, pdu) for pdu in room.room.pdus.values()]


@dataclass
class Expected:
    """What people may see, by whole states held in memory."""

    reference: Reference
    timeline: list[Pdu] = field(default_factory=list)
    turns: dict[UserId, list[int]] = field(default_factory=dict)

    def judge(self, pdu: Pdu) -> None:
        """Add an event."""
        were_in = {
            user for user in USERS if self._membership(self.reference.current, user) == "join"
        }
        if self.reference.judge(pdu) is not Outcome.ACCEPTED:
            return
        self.timeline.append(pdu)
        for user in self._joined() - were_in:
            self.turns.setdefault(user, []).append(len(self.timeline) - 1)

    def _joined(self) -> set[UserId]:
        current = self.reference.current
        return {user for user in USERS if self._membership(current, user) == "join"}

    def is_visible(self, user: UserId, place: int, known_until: int) -> bool:
        """Whether the state at an event lets a user see it.

        Args:
            place: of the event in the timeline.
            known_until: the place of the last event that its state takes notice of.
        """
        event_id = self.timeline[place].event_id
        later = any(turn > known_until for turn in self.turns.get(user, ()))
        return any(
            is_allowed(self._visibility(state), self._membership(state, user), joins_later=later)
            for state in self._states_that_count(user, event_id)
        )

    def membership(self, user: UserId, event_id: EventId) -> str:
        """The user's membership at an event, with what the event changes."""
        pdu = self.reference.pdus[event_id]
        if pdu.type == "m.room.member" and pdu.state_key == user:
            return str(pdu.content.get("membership"))
        return self._membership(self.reference.before[event_id], user)

    def _states_that_count(self, user: UserId, event_id: EventId) -> Iterator[Any]:
        yield self.reference.before[event_id]
        pdu = self.reference.pdus[event_id]
        if pdu.state_key is not None and pdu.key in (
            ("m.room.history_visibility", ""),
            ("m.room.member", user),
        ):
            yield self.reference.after[event_id]

    def _membership(self, state: Any, user: UserId) -> str:
        event_id = state.get(("m.room.member", user))
        return "leave" if event_id is None else str(self.reference.pdus[event_id].membership)

    def _visibility(self, state: Any) -> str:
        event_id = state.get(("m.room.history_visibility", ""))
        if event_id is None:
            return "shared"
        return str(self.reference.pdus[event_id].content.get("history_visibility"))


def reading_of(core: Core) -> RoomReading:
    return RoomReading(core.database, EventRendering(), core.clock)


def read_all(
    reading: RoomReading, user: UserId, room_id: RoomId, *, backwards: bool, limit: int = 3
) -> list[Json]:
    """All events of a room that a user may page through, in the order in which they come."""
    events: list[Json] = []
    begin: int | None = None
    for _ in range(1000):
        page = reading.get_messages(
            Requester(user), room_id, backwards=backwards, begin=begin, limit=limit
        )
        events += orjson.loads(orjson.dumps(page["chunk"]))
        if "end" not in page or (not page["chunk"] and not backwards):
            return events
        begin = parse_pagination_token(page["end"])
    raise AssertionError("the pages do not end")


def places_of_states(core: Core, timeline: Sequence[Pdu]) -> dict[EventId, int]:
    """Event ID → the place in the timeline of the last event that its state takes notice of."""
    rows = core.database.fetch_all(
        "SELECT event_id, position, state_at FROM event_graph ORDER BY position"
    )
    positions = {event_id: position for event_id, position, _ in rows}
    placed = [positions[pdu.event_id] for pdu in timeline]
    return {
        event_id: sum(1 for one in placed if one <= (position if at is None else at)) - 1
        for event_id, position, at in rows
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("version", ["1", "6", "12"])
def test_everybody_sees_what_the_state_at_each_event_allows(
    core: Core, version: str, seed: int
) -> None:
    create, *pdus = random_room(version, seed, steps=90)
    rules = ROOM_VERSIONS[version]
    found_room(core, create, rules)
    expected = Expected(Reference(rules, create), [create])
    for pdu in pdus:
        expected.judge(pdu)
    for start in range(0, len(pdus), 10):
        judge(core, create.room_id, pdus[start : start + 10])
    known_until = places_of_states(core, expected.timeline)
    # Redactions are kept from everybody as long as they redact nothing.
    told = set(timeline(core))
    reading = reading_of(core)
    for user in (*USERS, OUTSIDER):
        visible = [
            pdu.event_id
            for place, pdu in enumerate(expected.timeline)
            if pdu.event_id in told and expected.is_visible(user, place, known_until[pdu.event_id])
        ]
        try:
            events = read_all(reading, user, create.room_id, backwards=True)
        except Forbidden:
            continue
        assert [event["event_id"] for event in events] == visible[::-1]
        forwards = read_all(reading, user, create.room_id, backwards=False)
        assert [event["event_id"] for event in forwards] == visible
        for event in events:
            event_id = event["event_id"]
            assert event["unsigned"]["membership"] == expected.membership(user, event_id)
        for pdu in expected.timeline:
            if pdu.event_id not in told:
                continue
            assert can_get(reading, user, pdu) == (pdu.event_id in visible)


def can_get(reading: RoomReading, user: UserId, pdu: Pdu) -> bool:
    try:
        reading.get_event(Requester(user), pdu.room_id, pdu.event_id)
    except NotFound:
        return False
    return True


# ---- backfilled history


class Entered:
    """A room of other servers that Bob, of this one, joined after some of it had happened."""

    def __init__(self, core: Core, *visibilities: str, version: str = "11") -> None:
        """Each visibility is set in turn, and a message follows; then Bob joins."""
        self.core = core
        self.builder = RoomBuilder(version)
        self.builder.join(CAROL)
        self.say("first")
        for visibility in visibilities:
            self.builder.send_state(
                ALICE, "m.room.history_visibility", {"history_visibility": visibility}
            )
            self.say(visibility)
        self.past = list(self.builder.pdus.values())
        state = state_events(self.builder)
        self.join = self.builder.join(BOB)
        enter(core, self.builder, self.join, state)
        self.reading = reading_of(core)

    def say(self, body: str) -> Pdu:
        """A message of Carol's."""
        return self.builder.send(CAROL, "m.room.message", {"msgtype": "m.text", "body": body})

    def backfill(self, count: int | None = None) -> None:
        """Take in the last events from before the join (None: all)."""
        newest_first = self.past[::-1][:count]
        verdicts = importing(self.core).import_history(
            self.builder.room_id, [pdu.event for pdu in newest_first], find_key
        )
        assert {verdict.outcome for verdict in verdicts} <= {Outcome.ACCEPTED, Outcome.KNOWN}

    def bodies(self, user: UserId = BOB) -> list[str]:
        """What the messages say that a user may read, oldest first."""
        events = read_all(self.reading, user, self.builder.room_id, backwards=False)
        return [e["content"]["body"] for e in events if e["type"] == "m.room.message"]


def quiet_room(random: Random, steps: int) -> RoomBuilder:
    """A room without branches, in which Bob comes and goes; at the end he is not there."""
    builder = RoomBuilder("11")

    def change_visibility() -> None:
        content = {"history_visibility": random.choice(VISIBILITIES)}
        builder.send_state(ALICE, "m.room.history_visibility", content)

    def say() -> None:
        builder.message(ALICE)

    def move_bob() -> None:
        member = builder.find_state("m.room.member", BOB)
        if member is not None and member.membership == "join":
            builder.leave(BOB) if random.random() < 0.5 else builder.kick(ALICE, BOB)
        else:
            builder.join(BOB) if random.random() < 0.5 else builder.invite(ALICE, BOB)

    for _ in range(steps):
        random.choice([change_visibility, move_bob, say])()
    member = builder.find_state("m.room.member", BOB)
    if member is not None and member.membership == "join":
        builder.leave(BOB)
    return builder


def truly_visible(builder: RoomBuilder, events: Sequence[Pdu], user: UserId) -> list[EventId]:
    """What somebody who joined after them may see of events that follow each other."""

    def values(state: Any) -> tuple[str, str]:
        found = [state.get(("m.room.history_visibility", "")), state.get(("m.room.member", user))]
        visibility, membership = (None if e is None else builder.pdus[e].content for e in found)
        return (
            "shared" if visibility is None else str(visibility.get("history_visibility")),
            "leave" if membership is None else str(membership.get("membership")),
        )

    visible = []
    before: Any = {}
    for pdu in events:
        after = builder.state_after[pdu.event_id]
        own = (("m.room.history_visibility", ""), ("m.room.member", user))
        states = [before, after] if pdu.is_state and pdu.key in own else [before]
        if any(is_allowed(*values(state), joins_later=True) for state in states):
            visible.append(pdu.event_id)
        before = after
    return visible


@pytest.mark.parametrize("seed", range(12))
def test_of_backfilled_history_nothing_is_shown_that_its_state_forbids(
    core: Core, seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - seeded, so that a failure can be repeated
    builder = quiet_room(random, 50)
    past = list(builder.pdus.values())
    state = state_events(builder)
    join = builder.join(BOB)
    state_ids = {pdu.event_id for pdu in state}
    chain = builder.auth_chain([*state_ids, join.event_id])
    told = [builder.pdus[event_id] for event_id in sorted(chain | state_ids)]
    importing(core).record_state(builder.room_id, told, as_state=state_ids, creates=builder.rules)
    importing(core).record_join(builder.room_id, join, state_ids)
    visible = truly_visible(builder, past, BOB)
    reading = reading_of(core)
    for count in (5, 10, 20, 40, len(past)):
        newest_first = past[::-1][:count]
        importing(core).import_history(
            builder.room_id, [pdu.event for pdu in newest_first], find_key
        )
        events = read_all(reading, BOB, builder.room_id, backwards=False, limit=7)
        shown = [event["event_id"] for event in events]
        assert shown[-1] == join.event_id
        assert set(shown[:-1]) <= set(visible)
    assert shown[:-1] == visible


@pytest.mark.parametrize(
    ("visibility", "visible"),
    [("shared", ["shared"]), ("world_readable", ["world_readable"]), ("joined", [])],
)
def test_told_visibility_holds_for_what_is_backfilled(
    core: Core, visibility: str, visible: list[str]
) -> None:
    room = Entered(core, visibility)
    room.backfill(1)
    assert room.bodies() == visible


def test_room_without_visibility_shares_what_is_backfilled(core: Core) -> None:
    room = Entered(core)
    room.backfill(1)
    assert room.bodies() == ["first"]


def test_what_came_before_a_backfilled_change_is_hidden_until_it_is_known_what_held(
    core: Core,
) -> None:
    room = Entered(core, "world_readable", "shared")
    room.backfill(3)
    assert room.bodies() == ["shared"]
    room.backfill()
    assert room.bodies() == ["first", "world_readable", "shared"]


def test_backfilled_change_hides_what_it_always_hid(core: Core) -> None:
    room = Entered(core, "joined", "shared", "joined", "shared")
    room.backfill(4)
    assert room.bodies() == ["shared"]
    room.backfill()
    assert room.bodies() == ["first", "shared", "shared"]


def test_both_directions_tell_backfilled_events_in_their_order(core: Core) -> None:
    room = Entered(core, "shared")
    room.backfill()
    expected = [pdu.event_id for pdu in room.builder.pdus.values()]
    forwards = read_all(room.reading, BOB, room.builder.room_id, backwards=False, limit=2)
    assert [event["event_id"] for event in forwards] == expected
    backwards = read_all(room.reading, BOB, room.builder.room_id, backwards=True, limit=2)
    assert [event["event_id"] for event in backwards] == expected[::-1]
    memberships = [event["unsigned"]["membership"] for event in forwards]
    assert memberships == ["leave"] * (len(expected) - 1) + ["join"]


def test_what_was_missed_in_a_gap_is_visible_to_who_was_in_the_room(core: Core) -> None:
    room = Entered(core, "joined")
    builder = room.builder
    missed = [room.say("missed"), room.say("missed, too")]
    changed = builder.send_state(
        ALICE, "m.room.history_visibility", {"history_visibility": "invited"}
    )
    missed.append(room.say("missed under another visibility"))
    state = [pdu.event_id for pdu in state_events(builder)]
    seen = room.say("seen")
    importing(core).import_state(builder.room_id, [changed.event], find_key)
    judging(core).judge(builder.room_id, [seen.event], find_key, told={seen.event_id: state})
    assert room.bodies() == ["seen"]
    gap = [missed[2], changed, missed[1], missed[0]]
    importing(core).import_history(builder.room_id, [pdu.event for pdu in gap], find_key)
    assert room.bodies() == [
        "missed",
        "missed, too",
        "missed under another visibility",
        "seen",
    ]


def test_context_of_a_backfilled_event_has_what_stands_around_it(core: Core) -> None:
    room = Entered(core, "shared")
    room.backfill()
    message = room.past[-3]
    context = room.reading.get_context(
        Requester(BOB), room.builder.room_id, message.event_id, limit=4
    )
    told = orjson.loads(orjson.dumps(context))
    expected = [pdu.event_id for pdu in room.builder.pdus.values()]
    place = expected.index(message.event_id)
    assert told["event"]["event_id"] == message.event_id
    assert [e["event_id"] for e in told["events_before"]] == expected[place - 2 : place][::-1]
    assert [e["event_id"] for e in told["events_after"]] == expected[place + 1 : place + 3]
    # Nobody here knows the state at that time: the nearest known one is told.
    members = {e["state_key"] for e in told["state"] if e["type"] == "m.room.member"}
    assert members >= {ALICE, CAROL}
    page = room.reading.get_messages(
        Requester(BOB),
        room.builder.room_id,
        backwards=True,
        begin=parse_pagination_token(told["start"]),
        limit=1,
    )
    assert orjson.loads(orjson.dumps(page["chunk"]))[0]["event_id"] == expected[place - 3]


def test_told_state_can_be_read_though_it_has_no_place(core: Core) -> None:
    room = Entered(core, "joined")
    rules = next(pdu for pdu in room.past if pdu.type == "m.room.join_rules")
    assert can_get(room.reading, BOB, rules)
    with pytest.raises(NotFound):
        room.reading.get_context(Requester(BOB), room.builder.room_id, rules.event_id)
    assert not can_get(room.reading, CAROL, room.past[-1])


# ---- /sync


def sync(core: Core, user: UserId, since: int | None = None, **filter_: Any) -> tuple[Json, int]:
    """A response for a user, and the position it leads to."""
    request = SyncRequest(
        requester=Requester(user),
        since=since,
        set_presence="offline",
        filter=parse_sync_filter({"room": {"timeline": filter_}}),
    )
    response = orjson.loads(orjson.dumps(make_syncing(core, EventRendering()).sync(request)))
    return response, int(response["next_batch"][1:])


def test_first_sync_shows_what_was_backfilled_in_its_order(core: Core) -> None:
    room = Entered(core, "shared")
    room.backfill()
    response, _ = sync(core, BOB, limit=5)
    told = response["rooms"]["join"][room.builder.room_id]
    expected = list(room.builder.pdus)
    assert [e["event_id"] for e in told["timeline"]["events"]] == expected[-5:]
    assert told["timeline"]["limited"]
    in_state = {e["event_id"] for e in told["state"]["events"]}
    assert in_state | set(expected[-5:]) >= set(room.builder.state.values())
    page = room.reading.get_messages(
        Requester(BOB),
        room.builder.room_id,
        backwards=True,
        begin=parse_pagination_token(told["timeline"]["prev_batch"]),
        limit=1,
    )
    assert orjson.loads(orjson.dumps(page["chunk"]))[0]["event_id"] == expected[-6]


def test_sync_tells_what_was_missed_only_if_it_came_before_the_client_went_on(core: Core) -> None:
    room = Entered(core, "shared")
    _, since = sync(core, BOB)
    missed = room.say("missed")
    state = [pdu.event_id for pdu in state_events(room.builder)]
    seen = room.say("seen")
    judging(core).judge(seen.room_id, [seen.event], find_key, told={seen.event_id: state})
    response, after_gap = sync(core, BOB, since)
    (told,) = response["rooms"]["join"].values()
    assert [e["content"]["body"] for e in told["timeline"]["events"]] == ["seen"]
    assert told["timeline"]["limited"]
    importing(core).import_history(missed.room_id, [missed.event], find_key)
    response, _ = sync(core, BOB, since)
    (told,) = response["rooms"]["join"].values()
    assert [e["content"]["body"] for e in told["timeline"]["events"]] == ["missed", "seen"]
    assert not told["timeline"]["limited"]
    assert sync(core, BOB, after_gap)[0]["rooms"]["join"] == {}


def test_timeline_begins_after_a_gap_in_what_we_have(core: Core) -> None:
    room = Entered(core, "shared")
    room.backfill()
    _, since = sync(core, BOB)
    before = room.say("before the gap")
    judging(core).judge(before.room_id, [before.event], find_key)
    room.say("missed")
    state = [pdu.event_id for pdu in state_events(room.builder)]
    after = [room.say("after the gap"), room.say("and more")]
    told_state = {after[0].event_id: state}
    events = [pdu.event for pdu in after]
    judging(core).judge(before.room_id, events, find_key, told=told_state)
    (told,) = sync(core, BOB, since)[0]["rooms"]["join"].values()
    bodies = [e["content"]["body"] for e in told["timeline"]["events"]]
    assert bodies == ["after the gap", "and more"]
    assert told["timeline"]["limited"]
    begin = parse_pagination_token(told["timeline"]["prev_batch"])
    page = room.reading.get_messages(
        Requester(BOB), before.room_id, backwards=True, begin=begin, limit=1
    )
    chunk = orjson.loads(orjson.dumps(page["chunk"]))
    assert [e["event_id"] for e in chunk] == [before.event_id]


def test_outlier_that_comes_as_an_event_is_news(core: Core) -> None:
    room = Entered(core, "shared")
    topic = room.builder.send_state(ALICE, "m.room.topic", {"topic": "t"})
    importing(core).import_state(topic.room_id, [topic.event], find_key)
    _, since = sync(core, BOB)
    judging(core).judge(topic.room_id, [topic.event], find_key)
    response, _ = sync(core, BOB, since)
    (told,) = response["rooms"]["join"].values()
    assert [e["event_id"] for e in told["timeline"]["events"]] == [topic.event_id]


def test_sync_hides_what_stands_on_a_branch_where_the_user_was_not(core: Core) -> None:
    builder = RoomBuilder("11")
    builder.send_state(ALICE, "m.room.history_visibility", {"history_visibility": "joined"})
    builder.join(BOB)
    branch = builder.fork()
    builder.join(CAROL)
    create, *pdus = builder.pdus.values()
    found_room(core, create, builder.rules)
    judge(core, create.room_id, pdus)
    _, since = sync(core, CAROL)
    late = [branch.message(BOB, f"beside the join {n}") for n in range(4)]
    seen = [builder.message(BOB, f"after the join {n}") for n in range(2)]
    judge(core, create.room_id, [*seen, *late])
    response, _ = sync(core, CAROL, since)
    timeline = response["rooms"]["join"][create.room_id]["timeline"]
    assert [e["event_id"] for e in timeline["events"]] == [pdu.event_id for pdu in seen]
    assert not timeline["limited"]
    # What was looked at ends before what may be seen: the client has to ask for that.
    response, _ = sync(core, CAROL, since, limit=2)
    timeline = response["rooms"]["join"][create.room_id]["timeline"]
    assert timeline["events"] == []
    assert timeline["limited"]
    page = reading_of(core).get_messages(
        Requester(CAROL),
        create.room_id,
        backwards=True,
        begin=parse_pagination_token(timeline["prev_batch"]),
        limit=2,
    )
    told = orjson.loads(orjson.dumps(page["chunk"]))
    assert [e["event_id"] for e in told] == [pdu.event_id for pdu in seen[::-1]]


# ---- cost


def statements_of_a_page(core: Core, user: UserId, room_id: RoomId) -> int:
    reading = reading_of(core)
    with noted_statements(core.database.conninfo) as statements:
        page = reading.get_messages(Requester(user), room_id, backwards=True, limit=50)
    assert len(page["chunk"]) >= 20
    return len(statements)


def room_with_branches(core: Core, branches: int, *, with_kicks: bool) -> RoomBuilder:
    """A room of some forty events, with so many branches, each perhaps with a kick of Carol."""
    builder = RoomBuilder("11")
    builder.join(BOB)
    builder.join(CAROL)
    for _ in range(40 - 3 * branches):
        builder.message(BOB)
    for _ in range(branches):
        branch = builder.fork()
        if with_kicks:
            branch.kick(ALICE, CAROL)
        branch.message(BOB)
        builder.message(BOB)
        builder.merge(branch)
    create, *pdus = builder.pdus.values()
    found_room(core, create, builder.rules)
    assert set(judge(core, create.room_id, pdus)) <= {Outcome.ACCEPTED, Outcome.SOFT_FAILED}
    return builder


@pytest.mark.parametrize("user", [BOB, CAROL])
@pytest.mark.parametrize("with_kicks", [False, True])
def test_page_costs_the_same_however_many_of_its_events_stand_on_branches(
    make_database: DatabaseFactory, user: UserId, with_kicks: bool
) -> None:
    counts = []
    for branches in (0, 1, 8):
        database = Database(make_database())
        core = make_core(database)
        builder = room_with_branches(core, branches, with_kicks=with_kicks)
        counts.append(statements_of_a_page(core, user, builder.room_id))
        database.close()
    none, one, many = counts
    if not with_kicks:
        # Who stayed in the room sees what stands beside them, too: nothing is asked.
        assert none == one == many
    else:
        # What the branches say of the reader; who said it; what the room says otherwise.
        assert max(one, many) <= none + 5


def test_event_on_a_branch_replaces_what_stood_there(core: Core) -> None:
    builder = RoomBuilder("11")
    first = builder.send_state(ALICE, "m.room.topic", {"topic": "first"})
    branch = builder.fork()
    main = builder.send_state(ALICE, "m.room.topic", {"topic": "main line"})
    beside = branch.send_state(ALICE, "m.room.topic", {"topic": "beside it"})
    create, *pdus = builder.pdus.values()
    found_room(core, create, builder.rules)
    judge(core, create.room_id, pdus)
    reading = reading_of(core)
    for pdu in (main, beside):
        told = reading.get_event(Requester(ALICE), create.room_id, pdu.event_id)
        unsigned = orjson.loads(orjson.dumps(told))["unsigned"]
        assert unsigned["replaces_state"] == first.event_id
        assert unsigned["prev_content"] == {"topic": "first"}


def test_replaced_content_that_the_reader_may_not_see_is_left_out(core: Core) -> None:
    builder = RoomBuilder("11")
    builder.send_state(ALICE, "m.room.history_visibility", {"history_visibility": "joined"})
    builder.send_state(ALICE, "m.room.topic", {"topic": "before bob"})
    builder.join(BOB)
    topic = builder.send_state(ALICE, "m.room.topic", {"topic": "with bob"})
    create, *pdus = builder.pdus.values()
    found_room(core, create, builder.rules)
    judge(core, create.room_id, pdus)
    told = reading_of(core).get_event(Requester(BOB), create.room_id, topic.event_id)
    assert "prev_content" not in orjson.loads(orjson.dumps(told))["unsigned"]


def test_redaction_of_a_hidden_event_shows_nothing_of_it(core: Core) -> None:
    builder = RoomBuilder("11")
    builder.send_state(ALICE, "m.room.history_visibility", {"history_visibility": "joined"})
    hidden = builder.message(ALICE, "before bob")
    builder.join(BOB)
    seen = builder.message(ALICE, "with bob")
    redactions = [
        builder.send(ALICE, "m.room.redaction", {"redacts": pdu.event_id}, redacts=None)
        for pdu in (hidden, seen)
    ]
    create, *pdus = builder.pdus.values()
    found_room(core, create, builder.rules)
    judge(core, create.room_id, pdus)
    reading = reading_of(core)
    events = read_all(reading, BOB, create.room_id, backwards=False)
    told = {event["event_id"]: event for event in events}
    assert {pdu.event_id for pdu in redactions} <= told.keys()
    assert hidden.event_id not in told
    assert not can_get(reading, BOB, hidden)
    assert told[seen.event_id]["content"] == {}
    assert told[seen.event_id]["unsigned"]["redacted_because"]["event_id"] == (
        redactions[1].event_id
    )


def test_redacted_history_visibility_still_decides(core: Core) -> None:
    builder = RoomBuilder("11")
    hiding = builder.send_state(
        ALICE, "m.room.history_visibility", {"history_visibility": "joined"}
    )
    builder.message(ALICE, "hidden")
    builder.send(ALICE, "m.room.redaction", {"redacts": hiding.event_id})
    builder.join(BOB)
    create, *pdus = builder.pdus.values()
    found_room(core, create, builder.rules)
    judge(core, create.room_id, pdus)
    events = read_all(reading_of(core), BOB, create.room_id, backwards=False)
    assert "m.room.message" not in [event["type"] for event in events]
