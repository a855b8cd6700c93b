"""Profiles: what users say about themselves, and how rooms learn of it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#profiles
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from architex.domain.errors import (
    BadJson,
    DatabaseUnavailable,
    Forbidden,
    GuestAccessForbidden,
    InvalidParam,
    KeyTooLarge,
    MatrixError,
    NotFound,
    ProfileTooLarge,
    UserSuspended,
)
from architex.domain.identifiers import (
    MAX_IDENTIFIER_BYTES,
    RoomId,
    ServerName,
    UserId,
    parse_user_id,
    server_name_of,
)
from architex.domain.room.aggregate import EventDraft
from architex.domain.room.handshakes import AUTHORISED_VIA
from architex.storage.commit_queue import CommitQueue
from architex.storage.profiles import ProfileStore
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.requester import Requester
from architex.usecases.side_by_side import call_each
from architex.usecases.unredacted import content_of

log = logging.getLogger(__name__)

MAX_PROFILE_BYTES: Final = 65_536
MAX_DISPLAYNAME_BYTES: Final = 1024
MAX_AVATAR_URL_BYTES: Final = 1024

#: The fields that membership events repeat.
MEMBER_FIELDS: Final = ("displayname", "avatar_url")

_PROFILE_ONLY: Final = frozenset({"membership", *MEMBER_FIELDS})

# So many changes of a profile at the same time leave all rooms with the last of them.
_CHANGES_AT_ONCE: Final = 10

#: Rooms told about a change at the same time.
_ROOMS_AT_ONCE: Final = 8

_KEY_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)

# Of a membership event, what was said about that one change and not about the member.
_ABOUT_THE_CHANGE: Final = frozenset({"reason", "is_direct", "third_party_invite", AUTHORISED_VIA})


class RemoteProfiles(Protocol):
    """Asks other servers about their users."""

    def fetch_profile(self, user_id: UserId) -> Mapping[str, Any] | None:
        """The profile of another server's user; None when there is none.

        Raises:
            Forbidden: the server does not tell.
            RemoteFailed: it does not answer.
        """


@dataclass(frozen=True)
class Profiles:
    """Reads and changes profiles.

    Attributes:
        list_joined_rooms: the rooms a user is joined to.
        announce: tells whoever sees a user's presence that the user has another name or avatar.
    """

    server_name: ServerName
    profiles: ProfileStore
    commits: CommitQueue
    list_joined_rooms: Callable[[UserId], Sequence[RoomId]]
    remote: RemoteProfiles
    announce: Callable[[UserId], None]

    def get_profile(self, user_id: str) -> Mapping[str, Any]:
        """All fields of a user's profile.

        Raises:
            NotFound: there is no such user.
            InvalidParam: this is no user ID.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuserid
        """
        if server_name_of(parse_user_id(user_id)) == self.server_name:
            profile = self.profiles.find_profile(user_id)
        else:
            profile = self.remote.fetch_profile(user_id)
        if profile is None:
            raise NotFound("There is no profile of this user.")
        return profile

    def get_field(self, user_id: str, key_name: str) -> Mapping[str, Any]:
        """One field of a profile, as an object with this one key.

        A user without a display name or an avatar gets an empty object: clients ask for these two
        of everybody, and older specifications knew no 404 here.

        Raises:
            NotFound: there is no such user, or no such field in the profile.
            InvalidParam, KeyTooLarge: this is no user ID or no name of a field.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuseridkeyname
        """
        check_key_name(key_name)
        profile = self.get_profile(user_id)
        if key_name in profile:
            return {key_name: profile[key_name]}
        if key_name in MEMBER_FIELDS:
            return {}
        raise NotFound("There is no such field in the profile.")

    def set_field(self, requester: Requester, user_id: UserId, key_name: str, value: Any) -> None:
        """Set one field of the requester's profile, and tell the rooms when they show it.

        Raises:
            Forbidden: the profile is another user's.
            GuestAccessForbidden: guests may set their display name only.
            UserSuspended: suspended users may not change their profile.
            InvalidParam, KeyTooLarge: this is no name of a field.
            BadJson: the value is not what this field holds.
            ProfileTooLarge: the profile would exceed 64 KiB.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname
        """
        self._check_may_change(requester, user_id, key_name)
        _check_value(key_name, value)
        before = self.member_fields(user_id)
        if key_name in MEMBER_FIELDS and value == "":
            # Clients without DELETE take their name or avatar away so.
            self.profiles.delete_field(user_id, key_name)
        elif not self.profiles.set_field(
            user_id, key_name, value, max_profile_bytes=MAX_PROFILE_BYTES
        ):
            raise ProfileTooLarge("The profile would be larger than 64 KiB.")
        self._tell(user_id, key_name, before)

    def delete_field(self, requester: Requester, user_id: UserId, key_name: str) -> None:
        """Remove one field of the requester's profile, and tell the rooms when they show it.

        Raises: as `set_field`.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3profileuseridkeyname
        """
        self._check_may_change(requester, user_id, key_name)
        before = self.member_fields(user_id)
        self.profiles.delete_field(user_id, key_name)
        self._tell(user_id, key_name, before)

    def tell_room(self, user_id: UserId, room_id: RoomId) -> None:
        """Bring the membership event in one room up to date."""
        self._tell_room(room_id, user_id, self.member_fields(user_id))

    def member_fields(self, user_id: UserId) -> dict[str, str]:
        """What membership events of a user of ours say: `displayname` and `avatar_url`, if set."""
        profile = self.profiles.find_profile(user_id) or {}
        return {key: profile[key] for key in MEMBER_FIELDS if key in profile}

    def _check_may_change(self, requester: Requester, user_id: UserId, key_name: str) -> None:
        check_key_name(key_name)
        if requester.user_id != user_id:
            raise Forbidden("You may not change the profile of other users.")
        if requester.is_guest and key_name != "displayname":
            raise GuestAccessForbidden("Guests may change nothing but their display name.")
        if requester.is_suspended:
            raise UserSuspended("You may not change your profile while suspended.")

    def _tell(self, user_id: UserId, key_name: str, before: Mapping[str, str]) -> None:
        """Tell everybody concerned that a field may be another now.

        Args:
            before: the member fields as they were.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information
        """
        if key_name not in MEMBER_FIELDS:
            return
        fields = self.member_fields(user_id)
        if fields != before:
            self.announce(user_id)
        for _ in range(_CHANGES_AT_ONCE):
            self._tell_rooms(user_id, fields)
            # Whoever changed it meanwhile may have told some rooms before us.
            told, fields = fields, self.member_fields(user_id)
            if told == fields:
                return

    def _tell_rooms(self, user_id: UserId, fields: Mapping[str, str]) -> None:
        """Bring the membership events in all joined rooms up to date."""
        room_ids = self.list_joined_rooms(user_id)
        call_each(
            lambda room_id: self._tell_room(room_id, user_id, fields),
            room_ids,
            at_once=_ROOMS_AT_ONCE,
        )

    def _tell_room(self, room_id: RoomId, user_id: UserId, fields: Mapping[str, str]) -> None:
        def decide(session: RoomSession) -> None:
            member = session.find_state("m.room.member", user_id)
            if member is None or member.content.get("membership") != "join":
                return
            before = member.content
            if before.keys() - _PROFILE_ONLY or not _differ(before, fields):
                before = content_of(session, member)
            kept = {
                key: value
                for key, value in before.items()
                if key not in MEMBER_FIELDS and key not in _ABOUT_THE_CHANGE
            }
            content = {**kept, **fields}
            if _differ(before, fields):
                session.append(
                    EventDraft(
                        type="m.room.member", sender=user_id, state_key=user_id, content=content
                    )
                )

        command = RoomCommand(room_id, decide, prefetch=frozenset({("m.room.member", user_id)}))
        try:
            self.commits.write_room(command)
        except DatabaseUnavailable:
            raise
        except MatrixError as error:
            # The profile itself is changed; a room that refuses keeps the old name.
            log.info("%s keeps the old profile of %s: %s", room_id, user_id, error.message)


def _differ(content: Mapping[str, Any], fields: Mapping[str, str]) -> bool:
    """Whether a membership event repeats another profile."""
    return any(content.get(key) != fields.get(key) for key in MEMBER_FIELDS)


def check_key_name(key_name: str) -> None:
    """Check that a profile field can have this name.

    Raises:
        KeyTooLarge: it is longer than 255 bytes.
        InvalidParam: it is not of the grammar.

    Spec: https://spec.matrix.org/v1.19/appendices/#common-namespaced-identifier-grammar
    """
    if len(key_name.encode()) > MAX_IDENTIFIER_BYTES:
        raise KeyTooLarge("The name of a profile field has at most 255 bytes.")
    if _KEY_NAME.fullmatch(key_name) is None or not ("." in key_name or key_name in MEMBER_FIELDS):
        raise InvalidParam("This cannot be the name of a profile field.")


def _check_value(key_name: str, value: Any) -> None:
    match key_name:
        case "displayname" | "avatar_url":
            limit = MAX_DISPLAYNAME_BYTES if key_name == "displayname" else MAX_AVATAR_URL_BYTES
            if not isinstance(value, str):
                raise BadJson(f"{key_name} must be a string.")
            if len(value.encode()) > limit:
                raise BadJson(f"{key_name} has at most {limit} bytes.")
        case "m.tz":
            if not isinstance(value, str):
                raise BadJson("m.tz must be the name of a time zone.")
