"""What nearly every decision about a room looks at, whoever makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from architex.domain.auth_rules.power_levels import PowerLevels
from architex.domain.errors import Forbidden, UnknownRoom
from architex.domain.identifiers import UserId
from architex.domain.pdu import StateKey
from architex.storage.room_session import RoomSession

USUAL_KEYS: Final[frozenset[StateKey]] = frozenset(
    {("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")}
)
"""Entries of the state that the authorization rules ask for, besides memberships."""


def find_membership(session: RoomSession, user_id: UserId) -> str | None:
    """How a user stands to the session's room; None when nothing is known of that."""
    member = session.find_state("m.room.member", user_id)
    return None if member is None else member.membership


def check_joined(session: RoomSession, user_id: UserId) -> None:
    """Raise Forbidden unless a user is in the session's room."""
    if find_membership(session, user_id) != "join":
        raise Forbidden("You are not in this room.")


def power_levels(session: RoomSession) -> PowerLevels:
    """The power levels of the session's room as of now.

    Raises:
        Forbidden: nothing is known of the room but who is invited to it.
    """
    create = session.find_state("m.room.create")
    if create is None:
        raise Forbidden("This server is not in the room.")
    return PowerLevels(session.room.rules, create, session.find_state("m.room.power_levels"))


@contextmanager
def unknown_rooms_forbidden() -> Iterator[None]:
    """Answers about rooms this server does not know as about rooms that one is not in."""
    try:
        yield
    except UnknownRoom:
        raise Forbidden("You are not in this room.") from None
