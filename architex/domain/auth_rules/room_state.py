"""The room state as the authorisation rules look at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from architex.domain.auth_rules.power_levels import PowerLevels
from architex.domain.errors import Forbidden
from architex.domain.identifiers import UserId
from architex.domain.pdu import Pdu
from architex.domain.room_versions import RoomVersionRules

#: (type, state key) → the event at that place of the room state, None when there is none.
FindState: TypeAlias = Callable[[str, str], Pdu | None]


class AuthState:
    """What the rules ask of a room state, each answer looked up when it is needed."""

    __slots__ = ("_create", "_find_state", "_power_levels", "_rules")

    def __init__(self, rules: RoomVersionRules, find_state: FindState) -> None:
        self._rules = rules
        self._find_state = find_state
        self._create: Pdu | None = None
        self._power_levels: PowerLevels | None = None

    def find(self, type: str, state_key: str = "") -> Pdu | None:
        """Return the event at that place, or None."""
        return self._find_state(type, state_key)

    @property
    def create(self) -> Pdu:
        """The create event.

        Raises:
            Forbidden: the state has none, so nothing can happen in the room.
        """
        if self._create is None:
            self._create = self._find_state("m.room.create", "")
            if self._create is None:
                raise Forbidden("The room has no m.room.create event.")
        return self._create

    @property
    def power_levels(self) -> PowerLevels:
        """The power levels, inferred from defaults where there is no event."""
        if self._power_levels is None:
            event = self._find_state("m.room.power_levels", "")
            self._power_levels = PowerLevels(self._rules, self.create, event)
        return self._power_levels

    @property
    def join_rule(self) -> object:
        """The join rule; `invite` when the room has none."""
        event = self._find_state("m.room.join_rules", "")
        return "invite" if event is None else event.content.get("join_rule", "invite")

    def membership_of(self, user_id: UserId) -> str:
        """Return a user's membership; `leave` for a user who never had one."""
        event = self._find_state("m.room.member", user_id)
        return "leave" if event is None else (event.membership or "leave")
