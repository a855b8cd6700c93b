"""EDUs to other servers: typing, receipts, presence; of our users, to who may know, once."""

from __future__ import annotations

from typing import Any

import pytest

from architex.bootstrap import Core
from architex.domain.identifiers import RoomId, UserId
from architex.domain.room.events import JoinImported
from architex.followers.federation_sender import FederationSender
from architex.projections.outgoing_edus import EduSource, PresenceEdus, ReceiptEdus, TypingEdus
from architex.storage.presence import Presence, put_presence
from architex.storage.receipts import Receipt, put_receipt
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.typing import STOPPED, put_typing
from architex.usecases.presence import presence_content
from tests.core import ALICE, BOB, SERVER_NAME, append, create_room, member_draft, send_message
from tests.fakes.clock import FakeClock
from tests.followers.test_federation_sender import Others, make_sender, run

CAROL = "@carol:c.example"
DAVE = "@dave:d.example"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def sender(core: Core, others: Others, clock: FakeClock) -> FederationSender:
    """A sender that has sent everything so far."""
    sources: list[EduSource] = [
        TypingEdus(SERVER_NAME, clock.now_ms),
        ReceiptEdus(SERVER_NAME),
        PresenceEdus(SERVER_NAME, clock.now_ms, presence_content),
    ]
    sender = make_sender(core, others, clock, sources)
    run(sender)
    return sender


@pytest.fixture
def room_id(core: Core) -> RoomId:
    """A room with Alice and Bob of ours and Carol of c.example."""
    room_id = create_room(core)
    append(core, room_id, member_draft(BOB, BOB, "join"), member_draft(CAROL, CAROL, "join"))
    return room_id


def settle(sender: FederationSender, clock: FakeClock) -> None:
    """Send, and a moment later what waits for more to come."""
    run(sender)
    clock.pass_seconds(1)
    run(sender)


def nid_of(core: Core, room_id: RoomId) -> int:
    head = core.event_log.find_head(room_id)
    assert head is not None
    return head.room_nid


def write_typing(core: Core, room_id: RoomId, user_id: UserId, expires_ts: int) -> None:
    nid = nid_of(core, room_id)
    core.commits.write_rows(
        lambda execute, position: put_typing(
            execute, position, room_nid=nid, user_id=user_id, expires_ts=expires_ts
        )
    )


def write_receipt(
    core: Core,
    room_id: RoomId,
    user_id: UserId,
    event_id: str,
    ordering: int,
    *,
    receipt_type: str = "m.read",
    thread_id: str = "",
) -> None:
    receipt = Receipt(nid_of(core, room_id), receipt_type, user_id, thread_id, event_id, 17)
    core.commits.write_rows(
        lambda execute, position: put_receipt(execute, position, receipt, ordering)
    )


def write_presence(core: Core, user_id: UserId, presence: str, **more: Any) -> None:
    held = Presence(user_id, presence, more.get("status_msg"), more.get("last_active_ts", 0), 0)
    core.commits.write_rows(lambda execute, position: put_presence(execute, position, held))


# ---- typing


def test_typing_goes_to_the_servers_in_the_room(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    create_room(core)
    write_typing(core, room_id, ALICE, clock.now_ms() + 20_000)
    run(sender)
    assert others.edus("c.example", "m.typing") == [
        {"room_id": room_id, "user_id": ALICE, "typing": True}
    ]
    write_typing(core, room_id, ALICE, STOPPED)
    run(sender)
    assert others.edus("c.example", "m.typing")[1:] == [
        {"room_id": room_id, "user_id": ALICE, "typing": False}
    ]


def test_what_changed_twice_goes_out_once(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    write_typing(core, room_id, ALICE, clock.now_ms() + 20_000)
    write_typing(core, room_id, ALICE, STOPPED)
    write_receipt(core, room_id, ALICE, "$one", 1)
    write_receipt(core, room_id, ALICE, "$two", 2)
    write_presence(core, ALICE, "online")
    write_presence(core, ALICE, "unavailable")
    settle(sender, clock)
    sent = [edu for _, content in others.transactions["c.example"] for edu in content["edus"]]
    assert sorted(edu["edu_type"] for edu in sent) == ["m.presence", "m.receipt", "m.typing"]
    assert others.edus("c.example", "m.typing")[0]["typing"] is False
    (receipt,) = others.edus("c.example", "m.receipt")
    assert receipt[room_id]["m.read"][ALICE]["event_ids"] == ["$two"]


def test_nobody_speaks_for_users_of_other_servers(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    write_typing(core, room_id, DAVE, clock.now_ms() + 20_000)
    write_receipt(core, room_id, DAVE, "$one", 1)
    write_presence(core, DAVE, "online")
    settle(sender, clock)
    assert others.transactions == {}


def test_typing_and_presence_do_not_wait_for_servers_that_are_away_but_receipts_do(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    others.breaks("c.example")
    write_typing(core, room_id, ALICE, clock.now_ms() + 20_000)
    write_presence(core, ALICE, "online")
    write_receipt(core, room_id, ALICE, "$one", 1)
    run(sender)
    write_typing(core, room_id, BOB, clock.now_ms() + 20_000)
    write_receipt(core, room_id, ALICE, "$two", 2)
    run(sender)
    others.mends("c.example")
    clock.pass_seconds(100)
    run(sender)
    assert others.edus("c.example", "m.typing") == []
    assert others.edus("c.example", "m.presence") == []
    (receipt,) = others.edus("c.example", "m.receipt")
    assert receipt[room_id]["m.read"][ALICE]["event_ids"] == ["$two"]


# ---- receipts


def test_receipt_has_time_and_thread(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    write_receipt(core, room_id, ALICE, "$one", 1)
    write_receipt(core, room_id, BOB, "$one", 1)
    write_receipt(core, room_id, ALICE, "$two", 2, thread_id="$root")
    write_receipt(core, room_id, ALICE, "$two", 2, thread_id="main")
    run(sender)
    told = others.edus("c.example", "m.receipt")
    assert len(told) == 3
    assert told[0][room_id]["m.read"] == {
        ALICE: {"event_ids": ["$one"], "data": {"ts": 17}},
        BOB: {"event_ids": ["$one"], "data": {"ts": 17}},
    }
    threads = [one[room_id]["m.read"][ALICE]["data"].get("thread_id") for one in told]
    assert threads == [None, "$root", "main"]


def test_private_receipts_stay_here(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    write_receipt(core, room_id, ALICE, "$one", 1, receipt_type="m.read.private")
    run(sender)
    assert others.transactions == {}


def test_receipt_comes_with_or_after_its_event(
    core: Core, sender: FederationSender, others: Others, room_id: RoomId
) -> None:
    for number in range(70):
        event_id = send_message(core, room_id, ALICE, str(number))
    write_receipt(core, room_id, BOB, event_id, 70)
    run(sender)
    first, second = (content for _, content in others.transactions["c.example"])
    assert "edus" not in first
    assert second["edus"][0]["content"][room_id]["m.read"][BOB]["event_ids"] == [event_id]


# ---- presence


def test_presence_goes_to_servers_that_share_a_room(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    elsewhere = create_room(core, BOB)
    append(core, elsewhere, member_draft(DAVE, DAVE, "join"))
    active_ts = clock.now_ms() - 5000
    write_presence(core, ALICE, "online", status_msg="Here", last_active_ts=active_ts)
    settle(sender, clock)
    assert others.edus("c.example", "m.presence") == [
        {
            "push": [
                {
                    "user_id": ALICE,
                    "presence": "online",
                    "status_msg": "Here",
                    "last_active_ago": 6000,
                    "currently_active": True,
                }
            ]
        }
    ]
    assert "d.example" not in others.transactions


def test_presence_alone_reaches_so_many_servers_a_second(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    users = [f"@user:s{number}.example" for number in range(120)]
    append(core, room_id, *(member_draft(user, user, "join") for user in users))
    settle(sender, clock)
    write_presence(core, ALICE, "online")
    run(sender)
    assert others.transactions == {}
    clock.pass_seconds(1)
    run(sender)
    assert len(others.transactions) == 50
    clock.pass_seconds(1)
    run(sender)
    assert len(others.transactions) == 100
    send_message(core, room_id, ALICE, "this goes to all, and presence with it")
    run(sender)
    assert len(others.transactions) == 121
    assert all(len(others.edus(server, "m.presence")) == 1 for server in others.transactions)
    clock.pass_seconds(10)
    run(sender)
    assert sum(map(len, others.transactions.values())) == 100 + 121


def test_server_that_comes_into_a_room_hears_who_is_there(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock, room_id: RoomId
) -> None:
    write_presence(core, ALICE, "online")
    write_presence(core, BOB, "offline")
    settle(sender, clock)
    append(core, room_id, member_draft(DAVE, DAVE, "join"))
    settle(sender, clock)
    (told,) = others.edus("d.example", "m.presence")
    assert [one["user_id"] for one in told["push"]] == [ALICE]
    append(core, room_id, member_draft("@dora:d.example", "@dora:d.example", "join"))
    settle(sender, clock)
    assert len(others.edus("d.example", "m.presence")) == 1


def test_servers_hear_of_the_presence_of_who_of_ours_comes_into_their_room(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock
) -> None:
    room_id = create_room(core)
    write_presence(core, BOB, "online")
    append(core, room_id, member_draft(CAROL, CAROL, "join"))
    settle(sender, clock)
    assert others.edus("c.example", "m.presence") == []
    append(core, room_id, member_draft(BOB, BOB, "join"))
    settle(sender, clock)
    (told,) = others.edus("c.example", "m.presence")
    assert [one["user_id"] for one in told["push"]] == [BOB]


def test_our_server_coming_into_a_room_tells_the_servers_there_who_came(
    core: Core, sender: FederationSender, others: Others, clock: FakeClock
) -> None:
    """As when the state of a room of others was imported, and then the join by which we enter."""
    write_presence(core, BOB, "online")
    room_id = create_room(core, CAROL, version="12")
    settle(sender, clock)
    others.transactions.clear()

    def enter(session: RoomSession) -> None:
        for key in [("m.room.create", ""), ("m.room.join_rules", ""), ("m.room.member", BOB)]:
            session.find_state(*key)
        join = session.compose(member_draft(BOB, BOB, "join"))
        session.record(
            JoinImported(
                originator_id=room_id,
                originator_version=session.room.version + 1,
                pdu=join,
                received_ts=session.now_ms,
                delta={join.key: join.event_id},
            )
        )

    core.commits.write_room(RoomCommand(room_id, enter))
    settle(sender, clock)
    (told,) = others.edus("c.example", "m.presence")
    assert [one["user_id"] for one in told["push"]] == [BOB]
    assert others.events["c.example"] == []  # the join itself went with send_join
