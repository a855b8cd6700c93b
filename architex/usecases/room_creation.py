"""Creating rooms.

Spec: https://spec.matrix.org/v1.19/client-server-api/#creation
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from architex.domain.canonical_json import MAX_CANONICAL_INTEGER
from architex.domain.errors import (
    Forbidden,
    InvalidParam,
    InvalidRoomState,
    LimitExceeded,
    MatrixError,
)
from architex.domain.identifiers import (
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_user_id,
)
from architex.domain.pdu import Pdu
from architex.domain.room.aggregate import EventDraft, compose_create_event
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.gateways.clock import Clock, Randomness
from architex.storage.commit_queue import CommitQueue
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.address_invites import AddressInvites, AddressWish
from architex.usecases.directory import Directory
from architex.usecases.inviting import Inviting
from architex.usecases.member_events import member_content
from architex.usecases.requester import Requester

MAX_ROOMS_AT_ONCE: Final = 100

log = logging.getLogger(__name__)

PRESETS: Final[Mapping[str, tuple[str, str, str]]] = {
    # Each preset names a join_rule, a history_visibility and a guest_access
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}

MAX_INVITES: Final = 100
MAX_INITIAL_STATE: Final = 500
"""Events; they are made in one transaction, for which others wait."""
MAX_ADDRESS_INVITES: Final = 10
ADMIN_LEVEL: Final = 100
_TOMBSTONE_LEVEL: Final = 150


@dataclass(frozen=True, kw_only=True)
class RoomRequest:
    """What the creator asks for; every default is the spec's."""

    visibility: str = "private"
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[UserId] = ()
    invite_3pid: Sequence[AddressWish] = ()
    room_version: str | None = None
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[Mapping[str, Any]] = ()
    preset: str | None = None
    is_direct: bool = False
    power_level_content_override: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RoomCreation:
    """Makes rooms."""

    commits: CommitQueue
    inviting: Inviting
    address_invites: AddressInvites
    directory: Directory
    clock: Clock
    randomness: Randomness
    server_name: ServerName
    default_version: str

    def create_room(self, requester: Requester, request: RoomRequest) -> RoomId:
        """Create a room, its creator joined, and all the events that the request asks for.

        Raises:
            UnsupportedRoomVersion: the room version is none of ours.
            InvalidParam: a value of the request is not of its grammar.
            InvalidRoomState: the initial state breaks the rules of the room.
            RoomInUse: the alias is taken.
            NotFound: an invited user does not exist.
            Forbidden: the requester may not publish rooms.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom
        """
        wanted = request.room_version
        rules = get_room_version(self.default_version if wanted is None else wanted)
        creator = requester.user_id
        if request.visibility == "public":
            self.directory.check_may_publish(requester)
        alias = (
            self.directory.check_new_alias(requester, request.room_alias_name)
            if request.room_alias_name is not None
            else None
        )
        if len(request.invite_3pid) > MAX_ADDRESS_INVITES:
            raise InvalidParam(f"At most {MAX_ADDRESS_INVITES} addresses at once.")
        if len(request.invite) > MAX_INVITES:
            raise InvalidParam(f"At most {MAX_INVITES} users can be invited at once.")
        invites = [
            (user_id, self.inviting.invite_content(user_id, is_direct=request.is_direct))
            for user_id in dict.fromkeys(request.invite)
            if user_id != creator
        ]
        for user_id, _ in invites:
            if self.inviting.is_local(user_id):
                self.inviting.invite_permission.check(user_id)
        profile = self.inviting.profiles.find_profile(creator) or {}
        drafts = list(_drafts(rules, creator, member_content(profile, "join"), request, alias))

        def found(create: Pdu, session: RoomSession) -> None:
            session.append_composed(create)
            for draft in drafts:
                _append(session, draft)
            for user_id, content in invites:
                if not self.inviting.is_local(user_id):
                    continue
                session.append(_state(creator, "m.room.member", content, user_id))
            if alias is not None:
                session.also(self.directory.claim(alias, create.room_id, creator))
            if request.visibility == "public":
                session.also(self.directory.publish(create.room_id, creator))

        content = create_content(rules, creator, request)
        with self.directory.naming_taken_alias():
            room_id = self._found_room(rules, creator, content, found)
        for user_id, content in invites:
            if not self.inviting.is_local(user_id):
                self._invite_from_elsewhere(requester, room_id, user_id, content)
        for wish in request.invite_3pid:
            self._invite_by_address(requester, room_id, wish, is_direct=request.is_direct)
        return room_id

    def _found_room(
        self,
        rules: RoomVersionRules,
        creator: UserId,
        content: Mapping[str, Any],
        found: Callable[[Pdu, RoomSession], None],
    ) -> RoomId:
        """Let a room begin.

        Where the room ID is the hash of the m.room.create event, two rooms that one user makes in
        the same millisecond would be one: the second is said to be a moment younger.
        """
        for moment in range(MAX_ROOMS_AT_ONCE):
            create = compose_create_event(
                rules,
                EventDraft("m.room.create", creator, content, state_key=""),
                self.commits.signer,
                self.clock.now_ms() + moment,
                opaque_id=new_opaque_room_id(self.randomness),
            )
            tries = count(1)

            def decide(session: RoomSession, create: Pdu = create, tries: Any = tries) -> bool:
                is_first_try = next(tries) == 1
                if session.room.version:
                    # Later, it is ours: a try was committed, but its answer was lost.
                    return not is_first_try
                found(create, session)
                return True

            if self.commits.write_room(RoomCommand(create.room_id, decide, creates=rules)):
                return create.room_id
        raise LimitExceeded("Too many rooms like this at once.", retry_after_ms=1000)

    def _invite_from_elsewhere(
        self, requester: Requester, room_id: RoomId, user_id: UserId, content: Mapping[str, Any]
    ) -> None:
        """Invite a user of another server; the room is there even if that server is not."""
        try:
            self.inviting.invite_with(requester, room_id, user_id, content)
        except MatrixError as error:
            log.info("%s was not invited to %s: %s", user_id, room_id, error.message)

    def _invite_by_address(
        self, requester: Requester, room_id: RoomId, wish: AddressWish, *, is_direct: bool
    ) -> None:
        """Invite whoever has an address; the room is there even if that fails."""
        try:
            self.address_invites.invite(requester, room_id, wish, is_direct=is_direct)
        except MatrixError as error:
            log.info("An address was not invited to %s: %s", room_id, error.message)


def new_opaque_room_id(randomness: Randomness) -> str:
    """What stands between ! and : in the ID of a new room; letters and digits."""
    return randomness.token_urlsafe(18).replace("-", "x").replace("_", "y")


def create_content(
    rules: RoomVersionRules, creator: UserId, request: RoomRequest
) -> dict[str, Any]:
    """The content of m.room.create.

    Raises:
        InvalidParam: additional_creators are no user IDs.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomcreate
    """
    content = {key: value for key, value in request.creation_content.items() if key != "creator"}
    content["room_version"] = rules.version
    if not rules.creator_is_sender:
        content["creator"] = creator
    if rules.privileged_creators:
        creators = content.pop("additional_creators", [])
        if not isinstance(creators, list) or not all(isinstance(c, str) for c in creators):
            raise InvalidParam("additional_creators must be a list of user IDs.")
        if request.preset == "trusted_private_chat":
            creators = [*creators, *request.invite]
        creators = [parse_user_id(user_id) for user_id in dict.fromkeys(creators)]
        creators = [user_id for user_id in creators if user_id != creator]
        if creators:
            content["additional_creators"] = creators
    return content


def power_levels_content(
    rules: RoomVersionRules, creator: UserId, request: RoomRequest
) -> dict[str, Any]:
    """The content of the first m.room.power_levels.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels
    """
    users: dict[str, int] = {}
    if not rules.privileged_creators:
        users[creator] = ADMIN_LEVEL
        if request.preset == "trusted_private_chat":
            users.update(dict.fromkeys(request.invite, ADMIN_LEVEL))
    content: dict[str, Any] = {
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": ADMIN_LEVEL,
            "m.room.history_visibility": ADMIN_LEVEL,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": ADMIN_LEVEL,
            "m.room.server_acl": ADMIN_LEVEL,
            "m.room.encryption": ADMIN_LEVEL,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "historical": ADMIN_LEVEL,
    }
    override = request.power_level_content_override
    content.update(override)
    events, named = content["events"], override.get("events", {})
    if (
        rules.privileged_creators
        and isinstance(events, dict)
        and "m.room.tombstone" not in named
        and type(content["state_default"]) is int
    ):
        level = above_other_state(content["state_default"])
        content["events"] = {**events, "m.room.tombstone": level}
    return content


def above_other_state(state_default: int) -> int:
    """The power level that m.room.tombstone takes in rooms whose creators stand above all levels.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels
    """
    return max(_TOMBSTONE_LEVEL, min(state_default, MAX_CANONICAL_INTEGER - 1) + 1)


def _drafts(
    rules: RoomVersionRules,
    creator: UserId,
    join_content: Mapping[str, Any],
    request: RoomRequest,
    alias: RoomAlias | None,
) -> Iterator[EventDraft]:
    """The events after m.room.create, in the spec's order."""
    preset = request.preset or (
        "public_chat" if request.visibility == "public" else "private_chat"
    )
    if preset not in PRESETS:
        raise InvalidParam(f"{preset} is no preset; there are {', '.join(PRESETS)}.")
    if len(request.initial_state) > MAX_INITIAL_STATE:
        raise InvalidParam(f"initial_state has at most {MAX_INITIAL_STATE} events.")
    initial = [_initial_state_draft(creator, entry) for entry in request.initial_state]
    given = {(draft.type, draft.state_key) for draft in initial}

    yield _state(creator, "m.room.member", join_content, creator)
    if ("m.room.power_levels", "") not in given:
        content = power_levels_content(rules, creator, request)
        yield _state(creator, "m.room.power_levels", content)
    if alias is not None and ("m.room.canonical_alias", "") not in given:
        yield _state(creator, "m.room.canonical_alias", {"alias": alias})
    join_rule, visibility, guest_access = PRESETS[preset]
    settled = {
        "m.room.join_rules": {"join_rule": join_rule},
        "m.room.history_visibility": {"history_visibility": visibility},
    }
    if guest_access != "forbidden":  # which is what a room without the event has
        settled["m.room.guest_access"] = {"guest_access": guest_access}
    for type_, content in settled.items():
        if (type_, "") not in given:
            yield _state(creator, type_, content)
    yield from initial
    if request.name is not None:
        yield _state(creator, "m.room.name", {"name": request.name})
    if request.topic is not None:
        yield _state(creator, "m.room.topic", _topic_content(request.topic))


def _topic_content(topic: str) -> dict[str, Any]:
    """Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomtopic"""
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic, "mimetype": "text/plain"}]}}


def _initial_state_draft(creator: UserId, entry: Mapping[str, Any]) -> EventDraft:
    type_, content = entry.get("type"), entry.get("content")
    state_key = entry.get("state_key", "")
    if not isinstance(type_, str) or not isinstance(content, Mapping):
        raise InvalidParam("initial_state is a list of objects with a type and a content.")
    if not isinstance(state_key, str):
        raise InvalidParam("A state_key of initial_state is not a string.")
    if type_ in ("m.room.create", "m.room.member"):
        raise InvalidRoomState(f"initial_state may not hold {type_}.")
    return _state(creator, type_, content, state_key)


def _append(session: RoomSession, draft: EventDraft) -> None:
    try:
        session.append(draft)
    except Forbidden as error:
        raise InvalidRoomState(f"{draft.type} cannot be set so: {error.message}") from error


def _state(
    sender: UserId, type_: str, content: Mapping[str, Any], state_key: str = ""
) -> EventDraft:
    return EventDraft(type=type_, sender=sender, content=content, state_key=state_key)
