"""The m.room.member events that our users send: what is in them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mroommember
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from architex.domain.identifiers import UserId
from architex.domain.room.aggregate import EventDraft


class ProfileFinder(Protocol):
    """Looks up what users say about themselves."""

    def find_profile(self, user_id: UserId) -> Mapping[str, Any] | None:
        """All fields of a local user's profile; None when there is no such active user."""


def member_content(
    profile: Mapping[str, Any], membership: str, reason: str | None = None
) -> dict[str, Any]:
    """The content of an m.room.member event about a user with a profile."""
    content: dict[str, Any] = {"membership": membership}
    for field in ("displayname", "avatar_url"):
        if profile.get(field) is not None:
            content[field] = profile[field]
    return with_reason(content, reason)


def with_reason(content: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """The content of an m.room.member event, and why it is sent."""
    return content if reason is None else {**content, "reason": reason}


def member_draft(
    sender: UserId,
    user_id: UserId,
    content: Mapping[str, Any],
    origin_server_ts: int | None = None,
) -> EventDraft:
    """The event about a user, sent by that user or another."""
    return EventDraft(
        type="m.room.member",
        sender=sender,
        content=content,
        state_key=user_id,
        origin_server_ts=origin_server_ts,
    )
