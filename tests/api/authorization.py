"""Who asks, of which rooms, and what the specification says they get: for the matrix.

The rules here are written from the specification; none of them looks at what the server does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architex.domain.identifiers import EventId, RoomId, UserId
from tests.api.client import Server, User, segment

Expected = tuple[int, str | None]
"""A status and an errcode; None for an answer that has none."""

OK: Final[Expected] = (200, None)
FORBIDDEN: Final[Expected] = (403, "M_FORBIDDEN")
NOT_FOUND: Final[Expected] = (404, "M_NOT_FOUND")
NO_TOKEN: Final[Expected] = (401, "M_MISSING_TOKEN")
LOCKED: Final[Expected] = (401, "M_USER_LOCKED")
SUSPENDED: Final[Expected] = (403, "M_USER_SUSPENDED")
NO_GUESTS: Final[Expected] = (403, "M_GUEST_ACCESS_FORBIDDEN")
INTERACTIVE: Final[Expected] = (401, None)
"""The requester is let in, and asked to authenticate once more."""

VISIBILITIES: Final = ("world_readable", "shared", "invited", "joined")

# What happens in every room, in this order. At the end of each phase one event is sent.
ALONE, INVITED, TOGETHER, APART = range(4)
PHASES: Final = (ALONE, INVITED, TOGETHER, APART)


@dataclass(frozen=True)
class Asker:
    """Somebody, and what they were to the room in each phase.

    Attributes:
        past: the membership at the event of each phase.
        kind: anonymous, user, guest, suspended, locked or administrator.
    """

    name: str
    past: tuple[str, str, str, str] = ("leave", "leave", "leave", "leave")
    kind: str = "user"

    @property
    def now(self) -> str:
        """The membership at the end."""
        return self.past[APART]

    @property
    def was_joined(self) -> bool:
        """Whether they ever were in the room."""
        return "join" in self.past

    def may_see(self, visibility: str, phase: int) -> bool:
        """The five rules of history visibility, for the event of a phase.

        Where a room is not world-readable, nobody sees anything who never joined it: what
        happened since the invite shows itself to those who accept it.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility
        """
        if visibility == "world_readable":
            return True
        return self.was_joined and (
            self.past[phase] == "join"
            or (visibility == "shared" and "join" in self.past[phase:])
            or (visibility == "invited" and self.past[phase] == "invite")
        )


_JOINED: Final = ("leave", "invite", "join", "join")

ASKERS: Final = tuple(
    Asker(*row)
    for row in (
        ("anonymous", ("leave",) * 4, "anonymous"),
        ("outsider",),
        ("invited", ("leave", "invite", "invite", "invite")),
        ("rejecting", ("leave", "invite", "invite", "leave")),
        ("knocking", ("leave", "knock", "knock", "knock")),
        ("joined", _JOINED),
        ("creator", ("join",) * 4),
        ("left", ("leave", "invite", "join", "leave")),
        ("kicked", ("leave", "invite", "join", "leave")),
        ("banned", ("leave", "invite", "join", "ban")),
        ("guest", ("leave",) * 4, "guest"),
        ("guest member", _JOINED, "guest"),
        ("suspended", _JOINED, "suspended"),
        ("locked", _JOINED, "locked"),
        ("administrator", ("leave",) * 4, "administrator"),
    )
)
BY_NAME: Final = {asker.name: asker for asker in ASKERS}

STRANGERS: Final = tuple(
    BY_NAME[name]
    for name in ("anonymous", "outsider", "guest", "suspended", "locked", "administrator")
)
"""One of each kind, for what has nothing to do with rooms."""


def check_account(
    asker: Asker, *, guests: bool = False, suspended: bool = True
) -> Expected | None:
    """The refusal that an account meets whatever it asks about; None when there is none.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#account-locking,
    https://spec.matrix.org/v1.19/client-server-api/#account-suspension,
    https://spec.matrix.org/v1.19/client-server-api/#guest-access
    """
    if asker.kind == "anonymous":
        return NO_TOKEN
    if asker.kind == "locked":
        return LOCKED
    if asker.kind == "guest" and not guests:
        return NO_GUESTS
    if asker.kind == "suspended" and not suspended:
        return SUSPENDED
    return None


@dataclass(frozen=True)
class Room:
    """A room in which everything of the phases happened.

    Attributes:
        events: of each phase, a message of the creator's.
        secrets: the words of these messages, which no other event has.
        own_events: name of an asker → a message of theirs.
        victim: a member whom nobody needs.
        newcomer: somebody who was never in it.
        excluded: somebody banned.
    """

    room_id: RoomId
    visibility: str
    events: Sequence[EventId]
    secrets: Sequence[str]
    own_events: Mapping[str, EventId]
    victim: UserId
    newcomer: UserId
    excluded: UserId


@dataclass
class Cast:
    """The askers, logged in; arranges rooms for them."""

    server: Server
    users: dict[str, User] = field(default_factory=dict)

    def engage(self) -> None:
        """Register everybody who has an account."""
        for asker in ASKERS:
            if asker.kind == "guest":
                told = self.server.request("POST", "/register?kind=guest", {}).ok()
                user = User(self.server, told["user_id"], told["access_token"], told["device_id"])
            elif asker.kind != "anonymous":
                user = self.server.register()
            else:
                continue
            self.users[asker.name] = user
        accounts = self.server.core.database
        accounts.execute(
            "UPDATE users SET is_admin = true WHERE user_id = %s",
            (self.users["administrator"].user_id,),
        )

    def restrain(self, is_so: bool = True) -> None:
        """Lock and suspend whom it befits, once a room is as it shall be; or take that back."""
        for name, deed in (("suspended", "suspend"), ("locked", "lock")):
            path = f"/_matrix/client/v1/admin/{deed}/{self.users[name].path}"
            self.users["administrator"].put(path, {name: is_so}).ok()

    def arrange(
        self, visibility: str = "shared", join_rule: str = "invite", *, guests: bool = True
    ) -> Room:
        """A room with a history visibility in which everybody is what they shall be.

        Args:
            join_rule: at the end; before, people knock.
            guests: whether guests may join. Otherwise no guest is a member.
        """
        creator = self.users["creator"]
        room_id = creator.create_room(
            preset="private_chat",
            room_version="11",
            initial_state=[
                _entry("m.room.history_visibility", {"history_visibility": visibility}),
                _entry("m.room.join_rules", {"join_rule": "knock"}),
                _entry("m.room.guest_access", {"guest_access": _guest_access(guests)}),
                _entry("m.room.topic", {"topic": "who may what"}),
            ],
            power_level_content_override={"invite": 50},
        )
        room = f"/rooms/{segment(room_id)}"
        present = [a for a in ASKERS if a.name in self.users and a.name != "creator"]
        if not guests:
            present = [a for a in present if a.kind != "guest"]
        victim, newcomer = self.server.register(), self.server.register().user_id
        excluded = f"@excluded{next(self.server.numbers)}:test.example"
        number = next(self.server.numbers)
        secrets = [f"secret{number}of{phase}" for phase in PHASES]
        events = [self._say(creator, room_id, secrets[ALONE])]
        for asker in present:
            user = self.users[asker.name]
            if asker.past[INVITED] == "invite":
                creator.post(room + "/invite", {"user_id": user.user_id}).ok()
            elif asker.past[INVITED] == "knock":
                user.post(f"/knock/{segment(room_id)}").ok()
        creator.post(room + "/invite", {"user_id": victim.user_id}).ok()
        events.append(self._say(creator, room_id, secrets[INVITED]))
        own_events = {"creator": self._say(creator, room_id, "hello")}
        victim.post(room + "/join").ok()
        for asker in present:
            if asker.past[TOGETHER] == "join":
                self.users[asker.name].post(room + "/join").ok()
                own_events[asker.name] = self._say(self.users[asker.name], room_id, "hello")
        events.append(self._say(creator, room_id, secrets[TOGETHER]))
        self.users["left"].post(room + "/leave").ok()
        self.users["rejecting"].post(room + "/leave").ok()
        creator.post(room + "/kick", {"user_id": self.users["kicked"].user_id}).ok()
        creator.post(room + "/ban", {"user_id": self.users["banned"].user_id}).ok()
        creator.post(room + "/ban", {"user_id": excluded}).ok()
        if join_rule != "knock":
            creator.put(room + "/state/m.room.join_rules", {"join_rule": join_rule}).ok()
        events.append(self._say(creator, room_id, secrets[APART]))
        return Room(
            room_id, visibility, events, secrets, own_events, victim.user_id, newcomer, excluded
        )

    def _say(self, user: User, room_id: RoomId, words: str) -> EventId:
        path = f"/rooms/{segment(room_id)}/send/m.room.message/m{next(self.server.numbers)}"
        body = {"msgtype": "m.text", "body": words}
        return str(user.put(path, body).ok()["event_id"])


def _guest_access(guests: bool) -> str:
    return "can_join" if guests else "forbidden"


def _entry(type: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": type, "state_key": "", "content": content}


Rule = Callable[[Asker, str], Expected]
"""What an asker gets of a room with a history visibility."""


def everybody(asker: Asker, visibility: str) -> Expected:
    """Nothing about the room decides."""
    return OK


def members(asker: Asker, visibility: str) -> Expected:
    """Who is in the room now."""
    return OK if asker.now == "join" else FORBIDDEN


def members_or_staff(asker: Asker, visibility: str) -> Expected:
    """Who is in the room now, or administers the server; anybody where it is world-readable."""
    return OK if asker.kind == "administrator" else members_or_world(asker, visibility)


def creator_or_staff(asker: Asker, visibility: str) -> Expected:
    """Who has the power for it in the room or over the server."""
    return OK if asker.kind == "administrator" else creator_alone(asker, visibility)


def creator_alone(asker: Asker, visibility: str) -> Expected:
    """Who has the power for it, and is in the room."""
    return OK if asker.name == "creator" else FORBIDDEN


def readers(asker: Asker, visibility: str) -> Expected:
    """Who is or was in the room; anybody where it is world-readable."""
    may = asker.was_joined or visibility == "world_readable"
    return OK if may else FORBIDDEN


def members_or_world(asker: Asker, visibility: str) -> Expected:
    """Who is in the room now; anybody where it is world-readable."""
    may = asker.now == "join" or visibility == "world_readable"
    return OK if may else FORBIDDEN


def can_come_in(asker: Asker, visibility: str) -> Expected:
    """Who is in the invite-only room or may enter; anybody where it is world-readable."""
    may = asker.now in ("join", "invite") or visibility == "world_readable"
    return OK if may else FORBIDDEN
