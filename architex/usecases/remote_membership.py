"""Knocks and leaves of our users in rooms that this server is not in; what is kept of them.

Only the user's own event is known of such a room, and what somebody told beside it.

Spec: https://spec.matrix.org/v1.19/server-server-api/#knocking-rooms
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from architex.domain.errors import MatrixError
from architex.domain.identifiers import RoomId, ServerName, UserId
from architex.domain.pdu import Pdu, build_event, compute_reference_hash
from architex.domain.room.events import StateImported
from architex.domain.room.stripped_state import StrippedEvent, strip_told_state
from architex.gateways.errors import RemoteRefused
from architex.gateways.federation_client import FederationClient, federation_path
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.storage.stripped_states import drop_stripped_state, keep_stripped_state
from architex.usecases.handshakes import (
    HANDSHAKE_TIMEOUT_S,
    MAX_MEMBERSHIP_BYTES,
    MAX_STRIPPED_BYTES,
    Handshakes,
    Prepared,
    Wish,
    is_unknown_endpoint,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteMembership:
    """Lets our users knock and leave by way of other servers."""

    client: FederationClient
    handshakes: Handshakes
    commits: CommitQueue

    def knock(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        candidates: Iterable[ServerName],
    ) -> None:
        """Knock at a room that this server is not in.

        Arguments and errors as of `RemoteJoining.join`.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#knocking-rooms
        """
        self.handshakes.perform(
            Wish("knock", user_id, room_id, content), candidates, self._send_knock
        )

    def leave(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        candidates: Iterable[ServerName],
    ) -> None:
        """Reject an invite to a room that this server is not in, or take back a knock.

        If no other server helps, the user has left all the same, as far as we are concerned.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites
        """
        try:
            left = self.handshakes.perform(
                Wish("leave", user_id, room_id, content), candidates, self._send_leave
            )
        except MatrixError as error:
            log.info("%s leaves %s without telling it: %s", user_id, room_id, error.message)
            self.commits.write_room(
                RoomCommand(
                    room_id, lambda session: self._leave_silently(session, user_id, content)
                )
            )
        else:
            self._record(left, told_by=None)

    def _send_knock(self, prepared: Prepared) -> None:
        knock = prepared.pdu
        answer = self.client.put(
            prepared.resident,
            federation_path("v1", "send_knock", knock.room_id, knock.event_id),
            knock.event,
            timeout_s=HANDSHAKE_TIMEOUT_S,
            max_bytes=MAX_STRIPPED_BYTES,
            despite_failures=True,
        )
        told = strip_told_state(answer.get("knock_room_state"))
        self._record(prepared, told_by=prepared.resident, told=told)

    def _send_leave(self, prepared: Prepared) -> Prepared:
        leave = prepared.pdu
        for version in ("v2", "v1"):
            try:
                self.client.put(
                    prepared.resident,
                    federation_path(version, "send_leave", leave.room_id, leave.event_id),
                    leave.event,
                    timeout_s=HANDSHAKE_TIMEOUT_S,
                    max_bytes=MAX_MEMBERSHIP_BYTES,
                    despite_failures=True,
                )
                break
            except RemoteRefused as refusal:
                if version == "v1" or not is_unknown_endpoint(refusal):
                    raise
        return prepared

    def _record(
        self,
        prepared: Prepared,
        *,
        told_by: ServerName | None,
        told: Sequence[StrippedEvent] = (),
    ) -> None:
        """Remember a membership of our user; and what was told of the room, if it was."""
        pdu = prepared.pdu

        def decide(session: RoomSession) -> None:
            session.record(_outlier(session, pdu))
            if told_by is None:
                session.also(drop_stripped_state(pdu.sender, session.head.room_nid))
            else:
                room_nid = session.head.room_nid
                session.also(keep_stripped_state(pdu.sender, room_nid, told_by, told))

        self.commits.write_room(RoomCommand(pdu.room_id, decide, creates=prepared.rules))

    def _leave_silently(
        self, session: RoomSession, user_id: UserId, content: Mapping[str, Any]
    ) -> None:
        """Let the user have left, by an event that only we know."""
        rules = session.room.rules
        member = session.find_state("m.room.member", user_id)
        if member is None or member.membership not in ("invite", "knock", "join"):
            return
        leave = self.handshakes.sign(
            rules,
            build_event(
                rules,
                room_id=member.room_id,
                sender=user_id,
                type="m.room.member",
                state_key=user_id,
                content=content,
                prev_events=[member.event_id],
                auth_events=[member.event_id],
                depth=member.depth + 1,
                origin_server_ts=session.now_ms,
                event_id=f"${self.commits.new_opaque_id()}:{self.handshakes.server_name}",
                reference_hashes={member.event_id: compute_reference_hash(rules, member.event)},
            ),
        )
        session.record(_outlier(session, leave))
        session.also(drop_stripped_state(user_id, session.head.room_nid))


def _outlier(session: RoomSession, pdu: Pdu) -> StateImported:
    """The fact of a membership in a room that this server is not in."""
    return StateImported(
        originator_id=pdu.room_id,
        originator_version=session.room.version + 1,
        pdu=pdu,
        received_ts=session.now_ms,
    )
