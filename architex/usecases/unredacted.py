"""What the events of a room's state still say, for decisions that compare with it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#redactions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architex.domain.pdu import Pdu
from architex.domain.redaction import redact_event
from architex.projections.event_lookup import is_redacted
from architex.storage.room_session import RoomSession


def content_of(session: RoomSession, pdu: Pdu) -> Mapping[str, Any]:
    """The content of an event of the session's room, without what was redacted.

    The authorization rules look at nothing that a redaction takes away; whoever asks what a room
    shows has to ask here.
    """
    if not is_redacted(session.connection, pdu.event_id):
        return pdu.content
    content: Mapping[str, Any] = redact_event(session.room.rules, pdu.event)["content"]
    return content


def says(session: RoomSession, pdu: Pdu, content: Mapping[str, Any]) -> bool:
    """Whether an event of the session's room has that content, and nothing of it was redacted."""
    # Whether it was redacted is asked only of an event that said the same.
    return dict(pdu.content) == dict(content) == dict(content_of(session, pdu))
