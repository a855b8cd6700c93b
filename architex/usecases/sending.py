"""Sending: events into a room, state of a room, redactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from architex.domain.errors import Forbidden, InvalidParam, UserSuspended
from architex.domain.identifiers import EventId, RoomId, parse_event_id
from architex.domain.pdu import StateKey
from architex.domain.relations import find_relation
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.events import SenderDevice
from architex.domain.room.handshakes import AUTHORISED_VIA
from architex.projections.event_lookup import EventLookup
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.transactions import TransactionKey
from architex.usecases.deciding import (
    USUAL_KEYS,
    check_joined,
    power_levels,
    unknown_rooms_forbidden,
)
from architex.usecases.inviting import Inviting
from architex.usecases.joining import Joining
from architex.usecases.relating import check_relation
from architex.usecases.requester import Requester
from architex.usecases.unredacted import content_of, says


class AliasChecker(Protocol):
    """Checks m.room.canonical_alias events."""

    def check_canonical_alias(
        self, content: Mapping[str, Any], previous: Mapping[str, Any], room_id: RoomId
    ) -> None:
        """Raise BadAlias or InvalidParam unless every new alias points at the room."""


@dataclass(frozen=True)
class Sending:
    """What people send into rooms they are in."""

    commits: CommitQueue
    events: EventLookup
    aliases: AliasChecker
    joining: Joining
    inviting: Inviting

    def send_message(
        self,
        requester: Requester,
        room_id: RoomId,
        type: str,
        content: Mapping[str, Any],
        txn_id: str,
        *,
        origin_server_ts: int | None = None,
    ) -> EventId:
        """Send an event that is not state; the same transaction ID gives the same event.

        Args:
            origin_server_ts: milliseconds since 1970, for application services; None for now.

        Raises:
            Forbidden: the sender is not in the room, or may not send this there.
            InvalidRelation, DuplicateAnnotation: it may not relate to what it does.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid
        """
        if type == "m.room.redaction":
            return self.redact(
                requester,
                room_id,
                _redaction_target(content),
                txn_id,
                content=content,
                path=f"/rooms/{room_id}/send/{type}",
            )
        _check_tombstone(type, content, room_id)
        draft = EventDraft(
            type=type,
            sender=requester.user_id,
            content=content,
            origin_server_ts=origin_server_ts,
            device=_sender_device(requester, txn_id),
        )
        return self._append(requester, room_id, draft, f"/rooms/{room_id}/send/{type}", txn_id)

    def redact(
        self,
        requester: Requester,
        room_id: RoomId,
        event_id: EventId,
        txn_id: str,
        *,
        content: Mapping[str, Any] | None = None,
        path: str | None = None,
    ) -> EventId:
        """Strip an event of its content.

        Args:
            content: of the redaction; may hold a `reason`.
            path: of the request, when it is not /redact.

        Raises:
            InvalidParam: the room has no such event.
            Forbidden: it is somebody else's, and the requester's power level is too low.
            UserSuspended: it is somebody else's, and the requester is suspended.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#redactions
        """
        check_may_redact = self._redaction_check(requester, room_id, event_id)
        draft = EventDraft(
            type="m.room.redaction",
            sender=requester.user_id,
            # The room's version says where `redacts` is.
            content={key: value for key, value in (content or {}).items() if key != "redacts"},
            redacts=event_id,
            device=_sender_device(requester, txn_id),
        )

        def decide(session: RoomSession) -> EventId:
            check_may_redact(session)
            return session.append(draft).event_id

        path = path or f"/rooms/{room_id}/redact/{event_id}"
        return self._write(
            room_id,
            decide,
            prefetch=USUAL_KEYS | {("m.room.member", requester.user_id)},
            transaction=_transaction(requester, path, txn_id),
        )

    def send_state(
        self,
        requester: Requester,
        room_id: RoomId,
        type: str,
        state_key: str,
        content: Mapping[str, Any],
        *,
        origin_server_ts: int | None = None,
    ) -> EventId:
        """Set an entry of the room's state; what it is already is not sent again.

        Raises:
            Forbidden: the sender is not in the room, or may not set this.
            InvalidRelation, DuplicateAnnotation: as for messages.
            BadAlias: an m.room.canonical_alias names an alias of another room.
            InviteBlocked: an m.room.member invites somebody who wants no invites.
            GuestAccessForbidden: a guest joins by it, and the room lets none in.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
        """
        _check_tombstone(type, content, room_id)
        if type == "m.room.member":
            # Whom it names has to sign the event: nobody says it but servers that let users in.
            content = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
            membership = content.get("membership")
            if membership == "invite":
                return self.inviting.invite_with(requester, room_id, state_key, content)
            if state_key == requester.user_id:
                if membership == "leave":
                    return self.joining.leave_with(requester, room_id, content, origin_server_ts)
                if self.is_joining(requester, room_id, type, state_key, content):
                    return self.joining.join_with(requester, room_id, content, origin_server_ts)
        draft = EventDraft(
            type=type,
            sender=requester.user_id,
            content=content,
            state_key=state_key,
            origin_server_ts=origin_server_ts,
        )
        relation = find_relation(content)
        # It redacts all the same, though nobody redacts by state.
        check_may_redact = (
            self._redaction_check(requester, room_id, _redaction_target(content))
            if type == "m.room.redaction"
            else None
        )

        def decide(session: RoomSession) -> EventId:
            if check_may_redact is not None:
                check_may_redact(session)
            current = session.find_state(type, state_key)
            if current is not None and (
                current.sender == requester.user_id and says(session, current, content)
            ):
                check_joined(session, requester.user_id)
                return current.event_id
            if type == "m.room.canonical_alias":
                previous = {} if current is None else content_of(session, current)
                self.aliases.check_canonical_alias(content, previous, room_id)
            if relation is not None:
                check_joined(session, requester.user_id)
                check_relation(session.connection, session.head.room_nid, draft, relation)
            return session.append(draft).event_id

        return self._write(
            room_id,
            decide,
            prefetch=USUAL_KEYS | {("m.room.member", requester.user_id), (type, state_key)},
        )

    def is_joining(
        self,
        requester: Requester,
        room_id: RoomId,
        type: str,
        state_key: str,
        content: Mapping[str, Any],
    ) -> bool:
        """Whether setting an entry of the state means that the requester joins the room."""
        return (
            type == "m.room.member"
            and state_key == requester.user_id
            and content.get("membership") == "join"
            and not self.joining.is_joined(requester.user_id, room_id)
        )

    # Within

    def _redaction_check(
        self, requester: Requester, room_id: RoomId, event_id: EventId
    ) -> Callable[[RoomSession], None]:
        """Checks in the room that the requester may redact an event there; raises as `redact`."""
        target = self.events.find_event(event_id)

        def check(session: RoomSession) -> None:
            if target is None or target.room_id != room_id:
                # Whoever may not know the room learns nothing of its events either.
                check_joined(session, requester.user_id)
                raise InvalidParam("The room has no such event.")
            if target.sender != requester.user_id:
                if requester.is_suspended:
                    raise UserSuspended("You may redact only your own events while suspended.")
                levels = power_levels(session)
                if levels.of_user(requester.user_id) < levels.redact:
                    raise Forbidden("Your power level is too low to redact events of others.")

        return check

    def _append(
        self, requester: Requester, room_id: RoomId, draft: EventDraft, path: str, txn_id: str
    ) -> EventId:
        relation = find_relation(draft.content)

        def decide(session: RoomSession) -> EventId:
            if relation is not None:
                check_joined(session, draft.sender)
                check_relation(session.connection, session.head.room_nid, draft, relation)
            return session.append(draft).event_id

        return self._write(
            room_id,
            decide,
            prefetch=USUAL_KEYS | {("m.room.member", draft.sender)},
            transaction=_transaction(requester, path, txn_id),
        )

    def _write(
        self,
        room_id: RoomId,
        decide: Callable[[RoomSession], EventId],
        *,
        prefetch: frozenset[StateKey],
        transaction: TransactionKey | None = None,
    ) -> EventId:
        command: RoomCommand[EventId] = RoomCommand(
            room_id=room_id, decide=decide, prefetch=prefetch, transaction=transaction
        )
        with unknown_rooms_forbidden():
            return self.commits.write_room(command)


def _redaction_target(content: Mapping[str, Any]) -> EventId:
    target = content.get("redacts")
    if not isinstance(target, str):
        raise InvalidParam("A redaction names the event it redacts, in redacts.")
    return parse_event_id(target)


def _check_tombstone(type: str, content: Mapping[str, Any], room_id: RoomId) -> None:
    """Keep clients from sending people round in circles.

    Raises:
        InvalidParam: a tombstone points to its own room.
    """
    if type == "m.room.tombstone" and content.get("replacement_room") == room_id:
        raise InvalidParam("A room cannot be replaced by itself.")


def _transaction(requester: Requester, path: str, txn_id: str) -> TransactionKey:
    return TransactionKey(requester.user_id, requester.device_id or "", path, txn_id)


def _sender_device(requester: Requester, txn_id: str) -> SenderDevice | None:
    return None if requester.device_id is None else SenderDevice(requester.device_id, txn_id)
