"""Verifying: what was damaged is found and named; what was not is left in peace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from architex.bootstrap import Core, all_projections
from architex.domain.identifiers import RoomId
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import FindVerifyKey
from architex.projections.branch_states import BranchStates
from architex.projections.member_reads import MemberReads
from architex.usecases.judging import Judging
from architex.usecases.verifying import Report, Verifying
from tests.builders import TEST_KEY
from tests.core import ALICE, BOB, SERVER_NAME, append, create_room, member_draft, send_message
from tests.following import follow_to_the_end
from tests.usecases.test_judging import found_room, random_room


def find_key(core: Core) -> FindVerifyKey:
    """Our own key, and the one with which every server of the builders signs."""

    def find(server_name: str, key_id: str) -> bytes | None:
        if server_name == SERVER_NAME and key_id == core.signing_key.key_id:
            return core.signing_key.verify_key
        return TEST_KEY.verify_key if key_id == TEST_KEY.key_id else None

    return find


def verify(core: Core, room_id: RoomId | None = None, key: FindVerifyKey | None = None) -> Report:
    return Verifying(core.database, all_projections, key or find_key(core)).verify(room_id)


def branched_room(core: Core, version: str, seed: int, steps: int = 60) -> RoomId:
    """A random room of other servers, judged here."""
    create, *pdus = random_room(version, seed, steps)
    found_room(core, create, ROOM_VERSIONS[version])
    judging = Judging(core.commits, BranchStates(), MemberReads(core.database))
    judging.judge(create.room_id, [pdu.event for pdu in pdus], lambda *_: TEST_KEY.verify_key)
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
