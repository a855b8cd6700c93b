"""The core of a server for tests: the log and the commit queue over a test's database."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from architex.bootstrap import Core
from architex.domain.identifiers import EventId, RoomId, UserId
from architex.domain.pdu import Pdu
from architex.domain.room.aggregate import EventDraft, compose_create_event
from architex.domain.room.events import SenderDevice
from architex.domain.room_versions import get_room_version
from architex.domain.signing import SigningKey
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.storage.pool import Database
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.transactions import TransactionKey

SERVER_NAME = "architex.test"
ALICE = f"@alice:{SERVER_NAME}"
BOB = f"@bob:{SERVER_NAME}"

_rooms = count(1)


def make_core(database: Database) -> Core:
    """A core over a migrated database."""
    return Core(
        database=database,
        server_name=SERVER_NAME,
        signing_key=SigningKey.from_seed(b"s" * 32, "test"),
        clock=SystemClock(),
        randomness=SystemRandomness(),
    )


def create_room(
    core: Core, creator: UserId = ALICE, *, version: str = "11", join_rule: str = "public"
) -> RoomId:
    """A room with its creator in it, whom alone its power levels name."""
    rules = get_room_version(version)
    content = {"room_version": version}
    if not rules.creator_is_sender:
        content["creator"] = creator
    create = compose_create_event(
        rules,
        EventDraft("m.room.create", creator, content, ""),
        core.commits.signer,
        core.clock.now_ms(),
        opaque_id=f"room{next(_rooms)}",
    )
    users = {} if rules.privileged_creators else {creator: 100}

    def decide(session: RoomSession) -> RoomId:
        session.append_composed(create)
        session.append(member_draft(creator, creator, "join"))
        session.append(EventDraft("m.room.power_levels", creator, {"users": users}, ""))
        session.append(EventDraft("m.room.join_rules", creator, {"join_rule": join_rule}, ""))
        return create.room_id

    return core.commits.write_room(RoomCommand(create.room_id, decide, creates=rules))


def member_draft(sender: UserId, user_id: UserId, membership: str) -> EventDraft:
    """Somebody's change of a membership."""
    return EventDraft("m.room.member", sender, {"membership": membership}, user_id)


def message_draft(sender: UserId, body: str, txn_id: str | None = None) -> EventDraft:
    """A message."""
    device = None if txn_id is None else SenderDevice("DEVICE", txn_id)
    return EventDraft("m.room.message", sender, {"msgtype": "m.text", "body": body}, device=device)


def append(core: Core, room_id: RoomId, *drafts: EventDraft) -> Sequence[Pdu]:
    """Add events to a room, all in one decision."""
    return core.commits.write_room(
        RoomCommand(room_id, lambda session: [session.append(draft) for draft in drafts])
    )


def send_message(
    core: Core, room_id: RoomId, sender: UserId, body: str, txn_id: str | None = None
) -> EventId:
    """Send a message as a client would, with a transaction ID if one is given."""
    key = (
        None
        if txn_id is None
        else TransactionKey(sender, "DEVICE", f"/rooms/{room_id}/send/m.room.message", txn_id)
    )
    draft = message_draft(sender, body, txn_id)
    return core.commits.write_room(
        RoomCommand(room_id, lambda session: session.append(draft).event_id, transaction=key)
    )
