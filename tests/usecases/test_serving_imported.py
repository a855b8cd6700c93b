"""Serving what we were told ourselves: backfilled history, states of others, outliers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from architex.bootstrap import Core
from architex.domain.errors import NotFound
from architex.domain.identifiers import EventId, ServerName, server_name_of
from architex.domain.pdu import Pdu, compute_event_id
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room_versions import get_room_version
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.usecases.importing import Importing
from architex.usecases.judging import Judging
from architex.usecases.rate_limits import RateLimits
from architex.usecases.serving_history import ServingHistory
from tests.builders import ALICE, BOB, CAROL, TEST_KEY, RoomBuilder
from tests.statements import noted_statements

V11 = get_room_version("11")
DAVE = "@dave:d.example"
MEMBERS = (ALICE, CAROL, DAVE)


def serving(core: Core) -> ServingHistory:
    return ServingHistory(
        core.database,
        RoomServers(core.database),
        ServerAcls(core.database),
        core.clock,
        core.server_name,
        RateLimits(core.clock, {}, enabled=False),
    )


def find_key(server_name: str, key_id: str, made_ts: int) -> bytes | None:
    return TEST_KEY.verify_key


def room_of_others(visibility: str | None = None) -> tuple[RoomBuilder, list[Pdu]]:
    """A room that only others were in, and messages of each of them."""
    room = RoomBuilder("11")
    if visibility is not None:
        content = {"history_visibility": visibility}
        room.send_state(ALICE, "m.room.history_visibility", content)
    room.join(CAROL)
    said = [room.message(CAROL, f"{number}") for number in range(3)]
    room.join(DAVE)
    said += [room.message(member, "later") for member in MEMBERS]
    return room, said


def enter(core: Core, room: RoomBuilder) -> Pdu:
    """Join the room through another server."""
    state = [room.pdus[event_id] for event_id in room.state.values()]
    join = room.join(BOB)
    importing = Importing(core.commits, BranchStates())
    ids = [pdu.event_id for pdu in state]
    importing.record_state(room.room_id, state, as_state=set(ids), creates=room.rules)
    importing.record_join(room.room_id, join, ids)
    return join


def fill(core: Core, room: RoomBuilder, join: Pdu, *, down_to: Pdu | None = None) -> None:
    """Backfill what was before the join."""
    importing = Importing(core.commits, BranchStates())
    past = list(reversed([pdu for pdu in room.pdus.values() if pdu is not join]))
    if down_to is not None:
        past = past[: past.index(down_to) + 1]
    importing.import_history(room.room_id, [pdu.event for pdu in past], find_key)


def is_shown(core: Core, origin: ServerName, pdu: Pdu) -> bool:
    """Whether a server is told the content of an event."""
    told = serving(core).get_event(origin, pdu.event_id)["pdus"][0]
    return bool(orjson.loads(orjson.dumps(told))["content"])


def ids_of(told: Any) -> list[EventId]:
    return [compute_event_id(V11, pdu) for pdu in orjson.loads(orjson.dumps(told))]


def test_backfilled_history_is_passed_on(core: Core) -> None:
    room, said = room_of_others()
    join = enter(core, room)
    fill(core, room, join)
    with noted_statements(core.database.conninfo) as asked:
        told = serving(core).backfill("c.example", room.room_id, [join.event_id], 100)["pdus"]
    assert len(told) == len(room.pdus)
    assert len(asked) < 20
    assert ids_of(told)[1:4] == [pdu.event_id for pdu in said[:-4:-1]]


def test_walk_ends_where_history_is_not_here(core: Core) -> None:
    room, said = room_of_others()
    join = enter(core, room)
    fill(core, room, join, down_to=said[1])
    told = serving(core).backfill("c.example", room.room_id, [join.event_id], 100)["pdus"]
    assert ids_of(told)[-1] == said[1].event_id


def test_state_where_another_server_told_the_event_is_not_known(core: Core) -> None:
    room, said = room_of_others()
    join = enter(core, room)
    fill(core, room, join)
    history = serving(core)
    for event_id in (said[0].event_id, room.state["m.room.power_levels", ""]):
        with pytest.raises(NotFound):
            history.get_state_ids("c.example", room.room_id, event_id)
        with pytest.raises(NotFound):
            history.get_state("c.example", room.room_id, event_id)


def test_auth_chain_of_a_told_event_is_known(core: Core) -> None:
    room, said = room_of_others()
    join = enter(core, room)
    fill(core, room, join)
    pieces = serving(core).get_event_auth("c.example", room.room_id, said[-1].event_id)
    chain = orjson.loads(b"".join(pieces))["auth_chain"]
    assert len(chain) == len(room.auth_chain([said[-1].event_id]))


def test_state_before_our_join_is_what_we_were_told(core: Core) -> None:
    room, _ = room_of_others()
    told = set(room.state.values())
    join = enter(core, room)
    found = serving(core).get_state_ids("c.example", room.room_id, join.event_id)
    assert set(found["pdu_ids"]) == told
    assert set(found["auth_chain_ids"]) == room.auth_chain(told)


def test_state_of_an_outlier_that_came_again_is_the_one_where_it_stands(core: Core) -> None:
    room, _ = room_of_others()
    enter(core, room)
    topic = room.send_state(ALICE, "m.room.topic", {"topic": "first"})
    state_then = set(room.state.values()) - {topic.event_id}
    importing = Importing(core.commits, BranchStates())
    importing.import_state(room.room_id, [topic.event], find_key)
    history = serving(core)
    with pytest.raises(NotFound):
        history.get_state_ids("c.example", room.room_id, topic.event_id)
    judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
    (verdict,) = judging.judge(room.room_id, [topic.event], find_key)
    assert verdict.outcome is Outcome.ACCEPTED
    found = history.get_state_ids("c.example", room.room_id, topic.event_id)
    assert set(found["pdu_ids"]) == state_then


@pytest.mark.parametrize(
    ("visibility", "shown"),
    [("shared", True), ("world_readable", True), ("joined", False), ("invited", False)],
)
def test_restricted_history_goes_back_to_its_senders_only(
    core: Core, visibility: str, shown: bool
) -> None:
    room, said = room_of_others(visibility)
    join = enter(core, room)
    fill(core, room, join)
    for message in said:
        for member in MEMBERS:
            origin = server_name_of(member)
            own = server_name_of(message.sender) == origin
            assert is_shown(core, origin, message) is (own or shown)


@pytest.mark.parametrize(
    ("visibility", "shown"), [("shared", True), ("joined", False), (None, False)]
)
def test_what_was_told_of_the_visibility_counts_until_more_is_known(
    core: Core, visibility: str | None, shown: bool
) -> None:
    room, said = room_of_others(visibility)
    join = enter(core, room)
    fill(core, room, join, down_to=said[1])
    assert is_shown(core, "d.example", said[2]) is shown


def test_room_whose_beginning_says_nothing_has_a_shared_history(core: Core) -> None:
    room, said = room_of_others()
    join = enter(core, room)
    fill(core, room, join, down_to=said[1])
    assert not is_shown(core, "d.example", said[2])
    fill(core, room, join)
    assert is_shown(core, "d.example", said[2])


def test_visibility_counts_from_where_it_was_set(core: Core) -> None:
    room = RoomBuilder("11")
    room.join(CAROL)
    room.join(DAVE)
    said = []
    for visibility in ("joined", "shared", "invited", "world_readable"):
        content = {"history_visibility": visibility}
        room.send_state(ALICE, "m.room.history_visibility", content)
        said.append(room.message(CAROL))
    join = enter(core, room)
    fill(core, room, join)
    assert [is_shown(core, "d.example", message) for message in said] == [
        False,
        True,
        False,
        True,
    ]
