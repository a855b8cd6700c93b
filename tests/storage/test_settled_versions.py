"""What somebody says about the version of a room counts until we know its m.room.create event."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.domain.errors import IncompatibleRoomVersion
from architex.domain.pdu import Pdu
from architex.domain.room.events import StateImported
from architex.domain.room_versions import RoomVersionRules
from architex.projections.branch_states import BranchStates
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.importing import Importing
from tests.builders import ALICE, RoomBuilder
from tests.core import BOB, make_core


def learn_invite(core: Core, rules: RoomVersionRules, invite: Pdu) -> None:
    """As when another server invites a user of ours."""

    def decide(session: RoomSession) -> None:
        session.record(
            StateImported(
                originator_id=invite.room_id,
                originator_version=session.room.version + 1,
                pdu=invite,
                received_ts=session.now_ms,
            )
        )

    core.commits.write_room(RoomCommand(invite.room_id, decide, creates=rules))


def enter(core: Core, room: RoomBuilder) -> Pdu:
    """As when our user joins through another server."""
    importing = Importing(core.commits, BranchStates())
    state = [room.pdus[event_id] for event_id in room.state.values()]
    join = room.join(BOB)
    importing.record_state(
        room.room_id,
        list(room.pdus.values())[:-1],
        as_state={pdu.event_id for pdu in state},
        creates=room.rules,
    )
    importing.record_join(room.room_id, join, [pdu.event_id for pdu in state])
    return join


@pytest.mark.parametrize(("lie", "truth"), [("1", "11"), ("11", "2"), ("10", "9")])
def test_who_joins_learns_the_true_version(core: Core, lie: str, truth: str) -> None:
    lying, room = RoomBuilder(lie, creator=ALICE), RoomBuilder(truth, creator=ALICE)
    learn_invite(core, lying.rules, lying.invite(ALICE, BOB))
    elsewhere = make_core(core.database)  # another process, which remembers things
    assert elsewhere.event_log.rules_of(room.room_id).version == lie
    assert elsewhere.event_log.get_room(room.room_id).rules.version == lie
    join = enter(core, room)
    for one in (core, elsewhere):
        assert one.event_log.rules_of(room.room_id) is room.rules
        known = one.event_log.get_room(room.room_id)
        assert known.rules is room.rules
        assert list(known.extremities) == [join.event_id]


def test_version_is_settled_by_the_create_event(core: Core) -> None:
    lying, room = RoomBuilder("1", creator=ALICE), RoomBuilder("11", creator=ALICE)
    enter(core, room)
    with pytest.raises(IncompatibleRoomVersion):
        learn_invite(core, lying.rules, lying.invite(ALICE, BOB))
    assert core.event_log.rules_of(room.room_id) is room.rules


def test_invites_alone_settle_nothing(core: Core) -> None:
    rooms = [RoomBuilder(version, creator=ALICE) for version in ("1", "11", "6", "10")]
    for number, room in enumerate(rooms):
        invite = room.invite(ALICE, f"@user{number}:architex.test")
        learn_invite(core, room.rules, invite)
        assert core.event_log.rules_of(room.room_id) is room.rules
    # All facts can still be read, by whichever rules.
    facts = core.event_log.facts_after(0, 100)
    assert [fact.pdu.state_key for fact in facts] == [
        f"@user{number}:architex.test" for number in range(4)
    ]
