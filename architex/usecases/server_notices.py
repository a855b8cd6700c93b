"""Server notices: what those who run the server tell a user, in a room of its own.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-notices
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import InvalidParam, NotFound
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId
from architex.domain.room.aggregate import EventDraft
from architex.gateways.clock import Randomness
from architex.projections.notice_reads import NoticeReads
from architex.storage.accounts import AccountStore
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand
from architex.usecases.account_data import AccountData
from architex.usecases.profiles import Profiles
from architex.usecases.registration import Registration
from architex.usecases.requester import Requester
from architex.usecases.room_creation import RoomCreation, RoomRequest
from architex.usecases.sending import Sending

NOTICE_TAG: Final = "m.server_notice"
NOTICE_TYPE: Final = "architex.operator"
"""The `server_notice_type` of what an operator writes; the spec names none for it."""

_READERS_LEVEL: Final = -10
"""Of the power levels: whoever gets notices has nobody to answer there."""


@dataclass(frozen=True)
class ServerNotices:
    """Sends notices to users of this server.

    Attributes:
        localpart: of the user whom notices are from. Nobody can log in as this user.
        name: of that user, and of the rooms.
    """

    accounts: AccountStore
    registration: Registration
    profiles: Profiles
    account_data: AccountData
    rooms: RoomCreation
    sending: Sending
    commits: CommitQueue
    reads: NoticeReads
    randomness: Randomness
    server_name: ServerName
    localpart: str
    name: str

    @property
    def sender(self) -> UserId:
        """The user whom notices are from."""
        return f"@{self.localpart}:{self.server_name}"

    def send(self, user_id: UserId, body: str) -> EventId:
        """Tell a user something; invites them to their notice room, if they are not in it.

        Raises:
            NotFound: there is no such active user.
            InvalidParam: there is nothing to say; or somebody has registered with the name of
                whom notices are from.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#server-notices
        """
        if not body.strip():
            raise InvalidParam("A notice needs a text.")
        account = self.accounts.find_account(user_id)
        if account is None or account.deactivated_ts is not None or user_id == self.sender:
            raise NotFound(f"There is no active user {user_id}.")
        sender = self._provide_sender()
        room_id = self._provide_room(sender, user_id)
        content: dict[str, Any] = {
            "msgtype": "m.server_notice",
            "body": body,
            "server_notice_type": NOTICE_TYPE,
        }
        txn_id = self.randomness.token_urlsafe(12)
        return self.sending.send_message(sender, room_id, "m.room.message", content, txn_id)

    def _provide_sender(self) -> Requester:
        account = self.accounts.find_account(self.sender)
        requester = Requester(self.sender)
        if account is None:
            self.registration.create_user(self.localpart, None)
            self.profiles.set_field(requester, self.sender, "displayname", self.name)
        elif account.password_hash is not None or account.deactivated_ts is not None:
            raise InvalidParam(
                f"{self.sender} is somebody's account. Choose another [server_notices] localpart."
            )
        return requester

    def _provide_room(self, sender: Requester, user_id: UserId) -> RoomId:
        """The user's notice room, with the user in it or invited."""
        found = self.reads.find_room(sender.user_id, user_id)
        if found is None:
            room_id, membership = self._create_room(sender), None
        else:
            room_id, membership = found
        if membership not in ("join", "invite"):
            draft = EventDraft(
                "m.room.member", sender.user_id, {"membership": "invite"}, state_key=user_id
            )
            # Not as people invite each other: nobody can block the server.
            self.commits.write_room(RoomCommand(room_id, lambda session: session.append(draft)))
            self.account_data.set_tag(user_id, room_id, NOTICE_TAG, {})
        return room_id

    def _create_room(self, sender: Requester) -> RoomId:
        return self.rooms.create_room(
            sender,
            RoomRequest(
                preset="private_chat",
                name=self.name,
                creation_content={"m.federate": False},
                power_level_content_override={"users_default": _READERS_LEVEL},
            ),
        )
