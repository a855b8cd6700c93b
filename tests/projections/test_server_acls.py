"""Server ACLs: a room's current list says which servers may take part."""

from __future__ import annotations

from architex.bootstrap import Core
from architex.domain.identifiers import RoomId
from architex.domain.room.aggregate import EventDraft
from architex.projections.server_acls import ServerAcls
from tests.core import ALICE, append, create_room


def room_nid(core: Core, room_id: RoomId) -> int:
    head = core.event_log.find_head(room_id)
    assert head is not None
    return head.room_nid


def set_acl(core: Core, room_id: RoomId, **content: object) -> None:
    append(core, room_id, EventDraft("m.room.server_acl", ALICE, content, ""))


def test_without_a_list_every_server_may_take_part(core: Core) -> None:
    acls = ServerAcls(core.database)
    assert acls.allows(room_nid(core, create_room(core)), "anyone.example")


def test_a_denied_server_may_not_take_part_whatever_its_case_and_port(core: Core) -> None:
    room_id = create_room(core)
    set_acl(core, room_id, allow=["*"], deny=["evil.example"])
    acls, nid = ServerAcls(core.database), room_nid(core, room_id)
    assert not acls.allows(nid, "evil.example")
    assert not acls.allows(nid, "EVIL.example:8448")
    assert acls.allows(nid, "good.example")


def test_only_the_current_list_counts(core: Core) -> None:
    room_id = create_room(core)
    acls, nid = ServerAcls(core.database), room_nid(core, room_id)
    set_acl(core, room_id, allow=["*"], deny=["evil.example"])
    assert not acls.allows(nid, "evil.example")
    set_acl(core, room_id, allow=["*"], deny=[])
    assert acls.allows(nid, "evil.example")


def test_a_list_of_another_room_does_not_count(core: Core) -> None:
    guarded, other = create_room(core), create_room(core)
    set_acl(core, guarded, allow=["*"], deny=["evil.example"])
    assert ServerAcls(core.database).allows(room_nid(core, other), "evil.example")
