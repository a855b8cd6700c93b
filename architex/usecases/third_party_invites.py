"""Invites by e-mail address that became somebody's: an identity server has told whose it is.

The server of the invited user asks the inviter's for the invite; or makes it, where it is in the
room. What the identity server signed proves who is meant; the auth rules check that.

Spec: https://spec.matrix.org/v1.19/server-server-api/#third-party-invites
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from architex.domain.errors import Forbidden, InvalidParam, MatrixError, NotFound, UnknownRoom
from architex.domain.identifiers import (
    EventId,
    RoomId,
    ServerName,
    UserId,
    is_room_id,
    is_user_id,
    parse_user_id,
    server_name_of,
)
from architex.domain.room.aggregate import EventDraft
from architex.domain.third_party_offers import list_signing_keys
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError
from architex.gateways.federation_client import FederationClient, federation_path
from architex.projections.federation_outbox import forward
from architex.projections.room_servers import RoomServers
from architex.projections.server_acls import ServerAcls
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.invite_permission import InvitePermission
from architex.usecases.member_events import ProfileFinder
from architex.usecases.rate_limits import RateLimits

log = logging.getLogger(__name__)

MAX_INVITES: Final = 20
"""Of one notice by an identity server."""

MAX_KEYS_ASKED: Final = 3
"""Of one offer, whether they are valid."""

MAX_SIGNED_BYTES: Final = 8192
_OFFER: Final = "m.room.third_party_invite"
_EXCHANGE_TIMEOUT_S: Final = 10.0
_EXCHANGE_FOR_S: Final = 30.0


class Inviter(Protocol):
    """Invites users of other servers."""

    def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Have the invited user's server sign an invite, and add it to the room."""


class KeyChecker(Protocol):
    """Asks identity servers about their keys."""

    def is_key_valid(self, validity_url: str, public_key: str) -> bool:
        """Whether an identity server still vouches for a key; may raise RemoteError."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """An invite that waited for somebody.

    Attributes:
        signed: by the identity server: `mxid`, `token`, `signatures`.
    """

    room_id: RoomId
    sender: UserId
    user_id: UserId
    signed: Mapping[str, Any]

    @property
    def token(self) -> str:
        """By which the room knows of it."""
        return str(self.signed["token"])


@dataclass(frozen=True)
class ThirdPartyInvites:
    """Makes invites of offers."""

    commits: CommitQueue
    inviter: Inviter
    client: FederationClient
    identity: KeyChecker
    room_servers: RoomServers
    acls: ServerAcls
    profiles: ProfileFinder
    invite_permission: InvitePermission
    rate_limits: RateLimits
    clock: Clock

    @property
    def server_name(self) -> ServerName:
        """Ours."""
        return self.commits.signer.server_name

    def exchange(self, origin: ServerName, room_id: RoomId, event: Mapping[str, Any]) -> None:
        """Invite a user of another server to whom an offer of a user of ours became bound.

        Args:
            event: a partial m.room.member event. Only who invites whom, and what the identity
                server signed, is taken from it.

        Raises:
            InvalidParam: it is no such event.
            Forbidden: nobody offered this; the user is in the room or banned; or the other server
                may not ask.
            UnknownRoom: this server is not in the room.
            LimitExceeded: the other server asks too often, or the inviter invited too many lately.
            RemoteFailed: the other server does not sign the invite.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
        """
        self.rate_limits.spend("federation", origin)
        content = event.get("content")
        if (
            event.get("type") != "m.room.member"
            or event.get("room_id") != room_id
            or not isinstance(content, dict)
            or content.get("membership") != "invite"
        ):
            raise InvalidParam("This is no m.room.member event of the room for an invite.")
        third_party = content.get("third_party_invite")
        signed = third_party.get("signed") if isinstance(third_party, dict) else None
        bound = _read_bound(room_id, event.get("sender"), event.get("state_key"), signed)
        if bound is None:
            raise InvalidParam("The third-party invite is not of its form.")
        if server_name_of(bound.user_id) != origin:
            raise Forbidden(f"{bound.user_id} is no user of {origin}.")
        if server_name_of(bound.sender) != self.server_name:
            raise Forbidden(f"{bound.sender} is no user of this server.")
        self.rate_limits.spend("invites", bound.sender)
        draft = self._draft(bound, origin)
        if draft is not None:
            self._check_keys(bound)
            self.inviter.invite(room_id, draft)

    def bind(self, user_id: object, invites: object) -> None:
        """Take note that an e-mail address is a user's: they get the invites that wait for it.

        One that fails does not keep the others from being made. Why it fails is told to nobody:
        anybody can ask.

        Args:
            invites: as the identity server tells them; at most 20 are looked at.

        Raises:
            InvalidParam: there is no user ID, or no list of invites.
            NotFound: there is no such user here.
            Forbidden: not all invites were made; the identity server may try again later.
            LimitExceeded: too many notices came about this user lately.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind
        """
        if not isinstance(user_id, str) or not isinstance(invites, list):
            raise InvalidParam("A notice has an mxid and a list of invites.")
        parse_user_id(user_id)
        if (
            server_name_of(user_id) != self.server_name
            or self.profiles.find_profile(user_id) is None
        ):
            raise NotFound(f"There is no user {user_id} on this server.")
        # Anybody can send such a notice, and it has us ask others.
        self.rate_limits.spend("invites", f"bound {user_id}")
        if self.invite_permission.is_blocking(user_id):
            return
        ends = self.clock.monotonic() + _EXCHANGE_FOR_S
        failed = 0
        for bound in _list_bound(user_id, invites):
            if self.clock.monotonic() > ends:
                log.warning("Not all invites of %s could be asked for in time.", user_id)
                failed += 1
                break
            try:
                self._claim(bound)
            except (MatrixError, RemoteError) as error:
                log.info("An invite of %s to %s fails: %s", user_id, bound.room_id, error)
                failed += 1
        if failed:
            raise Forbidden("Not all of these invites can be made.")

    def claim(self, room_id: RoomId, user_id: UserId, signed: Mapping[str, Any]) -> None:
        """Turn an offer into an invite of a user of ours, who shows what was signed.

        Args:
            signed: `sender` (who made the offer), `mxid`, `token` and `signatures`.

        Raises:
            InvalidParam: it is not of its form, or about somebody else.
            Forbidden: nobody offered this, or the identity server does not vouch for it.
            RemoteError: the server of who made the offer does not help.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidjoin
        """
        bound = _read_bound(room_id, signed.get("sender"), user_id, signed)
        if bound is None:
            raise InvalidParam("third_party_signed is not of its form, or somebody else's.")
        self._claim(bound)

    # ---- within

    def _check_keys(self, bound: _Bound) -> None:
        """Check that an identity server still vouches for a key that signed whose the address is.

        Raises:
            Forbidden: none does.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#third-party-invites
        """
        key = (_OFFER, bound.token)
        offer = self.commits.write_room(
            RoomCommand(bound.room_id, lambda s: s.find_state(*key), frozenset({key}))
        )
        keys = [] if offer is None else list_signing_keys(offer.content, bound.signed)
        for signing in keys[:MAX_KEYS_ASKED]:
            if signing.validity_url is None:
                return
            try:
                if self.identity.is_key_valid(signing.validity_url, signing.public_key):
                    return
            except RemoteError as error:
                log.info("Whether a key of an invite is valid cannot be told: %s", error)
        raise Forbidden("No identity server vouches for this invite.")

    def _draft(self, bound: _Bound, origin: ServerName) -> EventDraft | None:
        """The invite that an offer becomes; None when the user is invited already.

        Raises:
            Forbidden: there is no such offer, or the user or their server may not come.
            UnknownRoom: this server is not in the room.
        """
        head = self.commits.event_log.find_head(bound.room_id)
        if head is None or not self.room_servers.is_in_room(head.room_nid, self.server_name):
            raise UnknownRoom(f"This server is not in {bound.room_id}.")
        if not self.acls.allows(head.room_nid, origin):
            raise Forbidden(f"{origin} is denied access to the room.")

        def decide(session: RoomSession) -> EventDraft | None:
            return _draft_of(session, bound)

        keys = frozenset({(_OFFER, bound.token), ("m.room.member", bound.user_id)})
        return self.commits.write_room(RoomCommand(bound.room_id, decide, keys))

    def _claim(self, bound: _Bound) -> None:
        """Make the invite if we are in the room, else ask the inviter's server for it.

        Raises:
            MatrixError: it is not allowed.
            RemoteError: the other server does not do it.
        """
        head = self.commits.event_log.find_head(bound.room_id)
        if head is not None and self.room_servers.is_in_room(head.room_nid, self.server_name):
            self._check_keys(bound)
            self.commits.write_room(RoomCommand(bound.room_id, lambda s: self._add(s, bound)))
        elif server_name_of(bound.sender) != self.server_name:
            self.client.put(
                server_name_of(bound.sender),
                federation_path("v1", "exchange_third_party_invite", bound.room_id),
                {
                    "type": "m.room.member",
                    "room_id": bound.room_id,
                    "sender": bound.sender,
                    "state_key": bound.user_id,
                    "content": {
                        "membership": "invite",
                        # The room has the name, and we are not in it.
                        "third_party_invite": {"display_name": "", "signed": bound.signed},
                    },
                },
                timeout_s=_EXCHANGE_TIMEOUT_S,
            )

    def _add(self, session: RoomSession, bound: _Bound) -> None:
        member = session.find_state("m.room.member", bound.user_id)
        if member is not None and member.membership == "join":
            return  # by this very invite, perhaps: notices come again
        draft = _draft_of(session, bound)
        if draft is not None:
            pdu = session.append(draft)
            if server_name_of(bound.sender) != self.server_name:
                # Nobody else sends it: its sender's server does not know of it.
                forward(session, pdu, came_from=self.server_name)


def _draft_of(session: RoomSession, bound: _Bound) -> EventDraft | None:
    """The invite that an offer becomes; None when the user is invited already.

    Raises:
        Forbidden: there is no such offer, or the user is in the room.
    """
    offer = session.find_state(_OFFER, bound.token)
    if offer is None or offer.sender != bound.sender:
        raise Forbidden("Nobody offered this invite.")
    member = session.find_state("m.room.member", bound.user_id)
    membership = None if member is None else member.membership
    if membership == "invite":
        return None
    # The auth rules would let an old offer make an invited user of a member.
    if membership in ("join", "ban"):
        raise Forbidden(f"The membership of {bound.user_id} is {membership}.")
    name = offer.content.get("display_name")
    third_party = {"display_name": name if isinstance(name, str) else "", "signed": bound.signed}
    content = {"membership": "invite", "third_party_invite": third_party}
    return EventDraft("m.room.member", bound.sender, content, bound.user_id)


def _list_bound(user_id: UserId, invites: Sequence[Any]) -> list[_Bound]:
    found = [
        _read_bound(invite.get("room_id"), invite.get("sender"), user_id, invite.get("signed"))
        for invite in invites[:MAX_INVITES]
        if isinstance(invite, dict)
    ]
    return list({(one.room_id, one.token): one for one in found if one is not None}.values())


def _read_bound(room_id: object, sender: object, user_id: object, signed: object) -> _Bound | None:
    """An invite, if all parts are of their form and what was signed is for that user."""
    if (
        not isinstance(room_id, str)
        or not is_room_id(room_id)
        or not isinstance(sender, str)
        or not is_user_id(sender)
        or not isinstance(user_id, str)
        or not is_user_id(user_id)
        or not isinstance(signed, dict)
        or signed.get("mxid") != user_id
        or not isinstance(signed.get("token"), str)
        or "\0" in signed["token"]
        or not isinstance(signed.get("signatures"), dict)
    ):
        return None
    try:
        size = len(orjson.dumps(signed))
    except TypeError:  # an integer beyond 64 bits
        return None
    return _Bound(room_id, sender, user_id, signed) if size <= MAX_SIGNED_BYTES else None
