"""Inviting somebody of whom only an e-mail address is known, by way of an identity server.

Spec: https://spec.matrix.org/v1.19/client-server-api/#third-party-invites
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import Forbidden
from architex.domain.identifiers import RoomId, ServerName, UserId
from architex.domain.pdu import StateKey
from architex.domain.room.aggregate import EventDraft
from architex.domain.third_party import ThirdPartyAddress, parse_address
from architex.gateways.identity_server import StoredInvite
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import unknown_rooms_forbidden
from architex.usecases.identity_servers import IdentityServers
from architex.usecases.inviting import Inviting
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester
from architex.usecases.unredacted import content_of

_OFFER: Final = "m.room.third_party_invite"

# What an identity server may tell the invited person: its name for it → where it is in the room.
_TOLD: Final[Mapping[str, tuple[str, str]]] = {
    "room_alias": ("m.room.canonical_alias", "alias"),
    "room_avatar_url": ("m.room.avatar", "url"),
    "room_join_rules": ("m.room.join_rules", "join_rule"),
    "room_name": ("m.room.name", "name"),
    "room_type": ("m.room.create", "type"),
}


@dataclass(frozen=True, slots=True)
class AddressWish:
    """Whom somebody wants to invite.

    Attributes:
        identity_server: who shall know whose the address is.
        access_token: the inviter's, for that server.
    """

    address: ThirdPartyAddress
    identity_server: ServerName
    access_token: str


@dataclass(frozen=True)
class AddressInvites:
    """Invites by address: whoever has it, or will have it."""

    commits: CommitQueue
    inviting: Inviting
    identity_servers: IdentityServers
    rate_limits: RateLimits

    def read_wish(
        self, *, medium: str, address: str, identity_server: str, access_token: str | None
    ) -> AddressWish:
        """What somebody asks for, checked as far as that needs nobody else.

        Raises:
            InvalidParam: it is no address, or there is no access token.
            ServerNotTrusted: this server does not talk to that identity server.
        """
        return AddressWish(
            parse_address(medium, address),
            self.identity_servers.check_trusted(identity_server),
            self.identity_servers.check_access_token(access_token),
        )

    def invite(
        self,
        requester: Requester,
        room_id: RoomId,
        wish: AddressWish,
        *,
        reason: str | None = None,
        is_direct: bool = False,
    ) -> None:
        """Invite the user whose the address is; or whoever will show later that it is theirs.

        Raises:
            Forbidden: the inviter may not; the user is a member or banned, or wants no invite.
            NotFound: the identity server names a user who does not exist.
            RefusedElsewhere, RemoteFailed: the identity server does not help, or the user's.
            LimitExceeded: too many questions to identity servers.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#third-party-invites
        """
        inviter = requester.user_id
        # First, so that nobody outside hears of what is forbidden anyway.
        about = self._check_may_invite(inviter, room_id)
        self.rate_limits.spend("identity_servers", inviter)
        client = self.identity_servers.client
        with self.identity_servers.refusals_passed_on():
            user_id = client.look_up(wish.identity_server, wish.access_token, wish.address)
        if user_id is not None:
            content = self.inviting.invite_content(user_id, reason=reason, is_direct=is_direct)
            self.inviting.invite_with(requester, room_id, user_id, content)
            return
        told = {
            "medium": wish.address.medium,
            "address": wish.address.address,
            "room_id": room_id,
            "sender": inviter,
            **about,
        }
        with self.identity_servers.refusals_passed_on():
            stored = client.store_invite(wish.identity_server, wish.access_token, told)
        self._offer(inviter, room_id, stored)

    # Within

    def _check_may_invite(self, inviter: UserId, room_id: RoomId) -> dict[str, str]:
        """What the invited person may be told of the room and of who invites them.

        Raises:
            Forbidden: the inviter is not in the room, or may not invite.
        """
        draft = _draft(inviter, "0", {})
        keys: set[StateKey] = {
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", inviter),
            *((type_, "") for type_, _ in _TOLD.values()),
        }

        def decide(session: RoomSession) -> dict[str, str]:
            found = {key: session.find_state(*key) for key in keys}
            member = found["m.room.member", inviter]
            if member is None or member.membership != "join":
                raise Forbidden("You are not in this room.")
            session.compose(draft)
            return _about(
                {key: content_of(session, pdu) for key, pdu in found.items() if pdu is not None},
                content_of(session, member),
            )

        with unknown_rooms_forbidden():
            return self.commits.write_room(RoomCommand(room_id, decide, frozenset(keys)))

    def _offer(self, inviter: UserId, room_id: RoomId, stored: StoredInvite) -> None:
        """Let the room know of the invite."""
        first = stored.public_keys[0]
        content = {
            "display_name": stored.display_name,
            "public_keys": [dict(key) for key in stored.public_keys],
            "public_key": first["public_key"],
            "key_validity_url": first["key_validity_url"],
        }
        draft = _draft(inviter, stored.token, content)

        def decide(session: RoomSession) -> None:
            before = session.find_state(_OFFER, stored.token)
            if before is not None and before.sender == inviter and before.content == content:
                return
            # An identity server has no business replacing what somebody else offered.
            if before is not None:
                raise Forbidden("There is such an invite already.")
            session.append(draft)

        key: StateKey = (_OFFER, stored.token)
        self.commits.write_room(RoomCommand(room_id, decide, frozenset({key})))


def _about(
    found: Mapping[StateKey, Mapping[str, Any]], member: Mapping[str, Any]
) -> dict[str, str]:
    values: dict[str, Any] = {
        "sender_display_name": member.get("displayname"),
        "sender_avatar_url": member.get("avatar_url"),
    }
    for name, (type_, field) in _TOLD.items():
        values[name] = found.get((type_, ""), {}).get(field)
    return {name: value for name, value in values.items() if isinstance(value, str) and value}


def _draft(inviter: UserId, token: str, content: Mapping[str, Any]) -> EventDraft:
    return EventDraft(type=_OFFER, sender=inviter, content=content, state_key=token)
