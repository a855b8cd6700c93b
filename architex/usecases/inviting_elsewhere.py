"""Inviting users of other servers: their server signs the invite too, or there is none.

Spec: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from architex.domain.canonical_json import Json
from architex.domain.errors import (
    BadJson,
    Forbidden,
    IncompatibleRoomVersion,
    InvalidSignature,
    RemoteFailed,
    UnsupportedRoomVersion,
)
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId, server_name_of
from architex.domain.pdu import Pdu, check_pdu_format
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.pdu_checks import Outcome
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import signatures_of, verify_event_signatures
from architex.gateways.errors import RemoteRefused
from architex.gateways.federation_client import FederationClient, federation_path
from architex.projections.state_exports import load_stripped_state
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.handshakes import HANDSHAKE_TIMEOUT_S, MAX_STRIPPED_BYTES, Handshakes
from architex.usecases.judging import Judging
from architex.usecases.server_keys import KeyRing


@dataclass(frozen=True)
class InvitingElsewhere:
    """Lets our users invite users of other servers."""

    client: FederationClient
    handshakes: Handshakes
    key_ring: KeyRing
    judging: Judging
    commits: CommitQueue

    def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Invite a user of another server to a room that this server is in.

        Args:
            draft: the m.room.member event.

        Returns the invite.

        Raises:
            Forbidden: the inviter may not, or the other server wants no such invite.
            UnsupportedRoomVersion: the other server does not have the version of the room.
            BadJson, RemoteFailed: the other server does not answer as it should; nobody is
                invited.
            UnknownRoom: this server does not know the room.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room
        """
        user_id = draft.state_key or ""
        invited_server = server_name_of(user_id)

        def decide(session: RoomSession) -> tuple[Pdu, list[bytes]]:
            for key in {("m.room.create", ""), *session.room.auth_types(draft)}:
                session.find_state(*key)
            stripped = load_stripped_state(
                session.connection,
                session.room.rules,
                session.head.room_nid,
                [("m.room.member", draft.sender)],
            )
            return session.recommend(session.compose(draft)), stripped

        invite, stripped = self.commits.write_room(RoomCommand(room_id, decide))
        rules = self.commits.event_log.rules_of(room_id)
        try:
            answer = self.handshakes.ask_each(
                [invited_server],
                lambda server, _: self._send_invite(server, rules, invite, stripped),
            )
        except IncompatibleRoomVersion as error:
            raise UnsupportedRoomVersion(
                f"{invited_server} does not have the version of the room."
            ) from error
        event = self._co_signed(rules, invite, user_id, answer.get("event"))
        find_key = self.key_ring.for_events(rules, [event])
        verdict = self.judging.judge(room_id, [event], find_key)[0]
        if verdict.outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
            raise Forbidden(verdict.reason or "The user cannot be invited any more.")
        return invite.event_id

    def _send_invite(
        self, server: ServerName, rules: RoomVersionRules, invite: Pdu, stripped: Sequence[bytes]
    ) -> Json:
        told = [orjson.loads(event_json) for event_json in stripped]
        try:
            return self._put_invite(
                "v2",
                server,
                invite,
                {
                    "room_version": rules.version,
                    "event": invite.event,
                    "invite_room_state": told,
                },
            )
        except RemoteRefused as refusal:
            # "Senders which receive a 400 or 404 response to this endpoint should retry using the
            # v1 API as the server may be older, if the room version is 1 or 2."
            if refusal.status not in (400, 404) or rules.version not in ("1", "2"):
                raise
        event = {**invite.event, "unsigned": {"invite_room_state": told}}
        return self._put_invite("v1", server, invite, event)

    def _put_invite(
        self, version: str, server: ServerName, invite: Pdu, content: Mapping[str, Any]
    ) -> Json:
        return self.client.put(
            server,
            federation_path(version, "invite", invite.room_id, invite.event_id),
            content,
            timeout_s=HANDSHAKE_TIMEOUT_S,
            max_bytes=MAX_STRIPPED_BYTES,
            despite_failures=True,
        )

    def _co_signed(
        self, rules: RoomVersionRules, invite: Pdu, user_id: UserId, theirs: object
    ) -> Mapping[str, Any]:
        """The invite with the signature of the invited user's server.

        Raises:
            BadJson, TooLarge: it gave back what is no event.
            RemoteFailed: it did not sign it.
        """
        server_name = server_name_of(user_id)
        if not isinstance(theirs, dict):
            raise BadJson(f"{server_name} does not give the invite back.")
        check_pdu_format(rules, {key: theirs[key] for key in theirs if key != "unsigned"})
        given = signatures_of(theirs, server_name)
        signatures = {**invite.event["signatures"], server_name: dict(given)}
        event = {**invite.event, "signatures": signatures}
        # Keys are looked up of those who send events; so this once it is as if the user had.
        find_key = self.key_ring.for_events(rules, [{**event, "sender": user_id}])
        try:
            verify_event_signatures(
                rules,
                event,
                [server_name],
                lambda name, key_id: find_key(name, key_id, invite.origin_server_ts),
            )
        except InvalidSignature as error:
            raise RemoteFailed(f"{server_name} did not sign the invite: {error}") from error
        return event
