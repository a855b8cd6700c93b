"""Upgrading rooms to another room version.

Spec: https://spec.matrix.org/v1.19/client-server-api/#room-upgrades
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.auth_rules.power_levels import PowerLevels, creators_of, parse_level
from architex.domain.client_event import RecordedEvent
from architex.domain.errors import BadJson, Forbidden, RefusedElsewhere, RemoteFailed, TooLarge
from architex.domain.identifiers import EventId, RoomId, ServerName, UserId, is_user_id
from architex.domain.pdu import Pdu
from architex.domain.room.aggregate import EventDraft, compose_create_event
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.gateways.clock import Clock, Randomness
from architex.projections.room_upgrade_reads import RoomUpgradeReads
from architex.storage.commit_queue import CommitQueue
from architex.storage.event_log import EventLog
from architex.storage.room_session import RoomCommand, RoomSession
from architex.usecases.deciding import check_joined, power_levels
from architex.usecases.directory import Directory
from architex.usecases.member_events import ProfileFinder, member_content
from architex.usecases.requester import Requester
from architex.usecases.room_creation import (
    RoomRequest,
    above_other_state,
    create_content,
    new_opaque_room_id,
)
from architex.usecases.room_succession import RoomSuccession
from architex.usecases.unredacted import content_of

_COPIED_TYPES: Final = (
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.policy",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.space.child",
)
"""State that means the same whoever sent it, in the order of the new room."""

_COPIED_BY_KEY: Final = frozenset({"m.space.child"})
_NAMED_LEVELS: Final = (
    "users_default",
    "events_default",
    "state_default",
    "ban",
    "redact",
    "kick",
    "invite",
    "historical",
)
_LEVEL_TABLES: Final = ("events", "notifications")
_REFUSALS: Final = (Forbidden, BadJson, TooLarge)
_BANS_AT_ONCE: Final = 200
_ADMIN_LEVEL: Final = 100
_OLD_ROOM_LEVEL: Final = 50
_STATE_DEFAULT: Final = 50


@dataclass(frozen=True, slots=True)
class _OldRoom:
    """What decides how the replacement looks."""

    room_id: RoomId
    rules: RoomVersionRules
    create: Pdu
    power_levels: Pdu | None
    tombstone: Pdu | None


@dataclass(frozen=True)
class RoomUpgrades:
    """Replaces rooms by new ones of another version."""

    commits: CommitQueue
    reads: RoomUpgradeReads
    event_log: EventLog
    profiles: ProfileFinder
    directory: Directory
    succession: RoomSuccession
    clock: Clock
    randomness: Randomness
    server_name: ServerName

    def upgrade(
        self,
        requester: Requester,
        room_id: RoomId,
        new_version: str,
        additional_creators: Sequence[UserId] = (),
    ) -> RoomId:
        """Replace a room by one of another version; returns the new room.

        An upgrade that was interrupted after the tombstone is finished by asking for it again.

        Args:
            additional_creators: for room versions that have them.

        Raises:
            UnsupportedRoomVersion: this server does not have the version.
            UnknownRoom: this server does not know the room.
            Forbidden: the requester may not send m.room.tombstone there.
            InvalidParam: additional_creators are no user IDs.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade
        """
        rules = get_room_version(new_version)
        old = self._inspect(requester, room_id)
        content = _create_content(rules, requester, old, additional_creators)
        if rules.room_id_is_create_hash:
            # The room's ID depends on its create event, so that cannot name the tombstone.
            content["predecessor"] = {"room_id": room_id}
            new_room_id = self._create(requester, old, rules, content, opaque_id="")
            self._send_tombstone(requester, old, new_room_id)
        else:
            unfinished = self._find_unfinished(requester, old)
            if unfinished is not None:
                new_room_id, tombstone_id = unfinished
            else:
                new_room_id = f"!{new_opaque_room_id(self.randomness)}:{self.server_name}"
                tombstone_id = self._send_tombstone(requester, old, new_room_id)
            content["predecessor"] = {"room_id": room_id, "event_id": tombstone_id}
            opaque_id = new_room_id[1:].partition(":")[0]
            self._create(requester, old, rules, content, opaque_id=opaque_id)
        self._restrict(requester, room_id)
        self.succession.follow(requester.user_id, room_id, new_room_id)
        return new_room_id

    # The old room

    def _inspect(self, requester: Requester, room_id: RoomId) -> _OldRoom:
        """Look at the old room, and whether the requester may replace it."""

        def decide(session: RoomSession) -> _OldRoom:
            check_joined(session, requester.user_id)
            levels = power_levels(session)
            needed = levels.to_send("m.room.tombstone", is_state=True)
            if levels.of_user(requester.user_id) < needed:
                raise Forbidden("You don't have the power level to upgrade this room.")
            create = session.find_state("m.room.create")
            if create is None:
                raise Forbidden("The room has no m.room.create event.")
            return _OldRoom(
                room_id,
                session.room.rules,
                create,
                session.find_state("m.room.power_levels"),
                session.find_state("m.room.tombstone"),
            )

        prefetch = frozenset(
            {
                ("m.room.create", ""),
                ("m.room.power_levels", ""),
                ("m.room.tombstone", ""),
                ("m.room.member", requester.user_id),
            }
        )
        return self.commits.write_room(RoomCommand(room_id, decide, prefetch))

    def _find_unfinished(
        self, requester: Requester, old: _OldRoom
    ) -> tuple[RoomId, EventId] | None:
        """The requester's tombstone that points to a room that was never made."""
        tombstone = old.tombstone
        if tombstone is None or tombstone.sender != requester.user_id:
            return None
        room_id = tombstone.content.get("replacement_room")
        if not isinstance(room_id, str) or not room_id.endswith(f":{self.server_name}"):
            return None
        if self.event_log.find_head(room_id) is not None:
            return None
        return room_id, tombstone.event_id

    def _send_tombstone(self, requester: Requester, old: _OldRoom, new_room_id: RoomId) -> EventId:
        draft = EventDraft(
            "m.room.tombstone",
            requester.user_id,
            {"body": "This room has been replaced.", "replacement_room": new_room_id},
            state_key="",
        )
        return self.commits.write_room(
            RoomCommand(old.room_id, lambda session: session.append(draft).event_id)
        )

    def _restrict(self, requester: Requester, room_id: RoomId) -> None:
        """Quieten the old room, as far as the requester's power goes."""

        def decide(session: RoomSession) -> None:
            alias = session.find_state("m.room.canonical_alias")
            if alias is not None and content_of(session, alias):
                with suppress(Forbidden):
                    session.append(_state(requester, "m.room.canonical_alias", {}))
            power_event = session.find_state("m.room.power_levels")
            if power_event is None:
                return
            before = content_of(session, power_event)
            content = restricted_power_levels(power_levels(session), before)
            if content != before:
                with suppress(*_REFUSALS):
                    session.append(_state(requester, "m.room.power_levels", content))

        # The room's policy server may have its say, too; the new room is there all the same.
        with suppress(RefusedElsewhere, RemoteFailed):
            self.commits.write_room(RoomCommand(room_id, decide))

    # The new room

    def _create(
        self,
        requester: Requester,
        old: _OldRoom,
        rules: RoomVersionRules,
        content: Mapping[str, Any],
        *,
        opaque_id: str,
    ) -> RoomId:
        creator = requester.user_id
        create = compose_create_event(
            rules,
            _state(requester, "m.room.create", content),
            self.commits.signer,
            self.clock.now_ms(),
            opaque_id=opaque_id or new_opaque_room_id(self.randomness),
        )
        room_id = create.room_id
        profile = self.profiles.find_profile(creator) or {}
        join = _state(requester, "m.room.member", member_content(profile, "join"), creator)
        copied = list(_copied(requester, rules, self.reads.list_state(old.room_id, _COPIED_TYPES)))
        bans = [
            _state(requester, "m.room.member", event.content, event.state_key or "")
            for event in self.reads.list_bans(old.room_id)
            if event.state_key != creator
        ]
        levels = copied_power_levels(old.rules, old.create, old.power_levels, rules, create)
        hand_over = self.directory.hand_over(old.room_id, room_id)

        def decide(session: RoomSession) -> None:
            if session.room.version:  # an earlier try was committed, but its answer was lost
                return
            session.append_composed(create)
            session.append(join)
            # As long as the room has no power levels its creator may do all this, even a
            # moderator who could not in the old room.
            for draft in (*copied, *bans[:_BANS_AT_ONCE]):
                _append_if_allowed(session, draft)
            if levels is not None:
                _append_if_allowed(session, _state(requester, "m.room.power_levels", levels))
            session.also(hand_over)

        self.commits.write_room(RoomCommand(room_id, decide, creates=rules))
        for start in range(_BANS_AT_ONCE, len(bans), _BANS_AT_ONCE):
            self._ban_more(room_id, bans[start : start + _BANS_AT_ONCE])
        return room_id

    def _ban_more(self, room_id: RoomId, bans: Sequence[EventDraft]) -> None:
        def decide(session: RoomSession) -> None:
            for draft in bans:
                _append_if_allowed(session, draft)

        self.commits.write_room(RoomCommand(room_id, decide))


def restricted_power_levels(levels: PowerLevels, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of m.room.power_levels for a room that was replaced: only moderators speak.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#room-upgrades
    """
    floor = max(_OLD_ROOM_LEVEL, levels.users_default + 1)
    return {
        **content,
        "events_default": max(floor, levels.events_default),
        "invite": max(floor, levels.invite),
    }


def copied_power_levels(
    old_rules: RoomVersionRules,
    old_create: Pdu,
    old_event: Pdu | None,
    rules: RoomVersionRules,
    create: Pdu,
) -> dict[str, Any] | None:
    """The content of m.room.power_levels for the replacement of a room.

    Levels become integers, which all versions take; who has none in a version says so.

    Returns None when the old room has no power levels either.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#authorisation-rules
    """
    if old_event is None:
        return None
    content = dict(old_event.content)
    for name in _NAMED_LEVELS:
        if name in content:
            level = parse_level(old_rules, content.pop(name))
            if level is not None:
                content[name] = level
    for name in _LEVEL_TABLES:
        if name in content:
            content[name] = _levels_in(old_rules, content[name])
    users = {
        user_id: level
        for user_id, level in _levels_in(old_rules, content.get("users")).items()
        if is_user_id(user_id)
    }
    if old_rules.privileged_creators and not rules.privileged_creators:
        # Creators stood above all levels. Now they need one that is as high as any.
        top = max(
            [_ADMIN_LEVEL, *users.values(), *_levels_in(old_rules, content.get("events")).values()]
        )
        users.update(dict.fromkeys(sorted(creators_of(old_rules, old_create)), top))
    if rules.privileged_creators:
        for user_id in creators_of(rules, create):
            users.pop(user_id, None)
        content["events"] = _with_tombstone_level(rules, content)
    content["users"] = users
    return content


def copied_join_rules(rules: RoomVersionRules, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of m.room.join_rules for a version that may not know the old room's rule.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroomjoin_rules
    """
    rule = content.get("join_rule")
    if rule == "knock_restricted" and not rules.knock_restricted:
        rule = "restricted"
    if (rule == "restricted" and not rules.restricted_joins) or (
        rule == "knock" and not rules.knocking
    ):
        rule = "invite"
    return {**content, "join_rule": rule}


def _with_tombstone_level(rules: RoomVersionRules, content: Mapping[str, Any]) -> dict[str, int]:
    """The levels of event types, with that of m.room.tombstone above `state_default`.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels
    """
    events = _levels_in(rules, content.get("events"))
    state_default = content.get("state_default", _STATE_DEFAULT)
    if events.get("m.room.tombstone", state_default) <= state_default:
        events["m.room.tombstone"] = above_other_state(state_default)
    return events


def _create_content(
    rules: RoomVersionRules,
    requester: Requester,
    old: _OldRoom,
    additional_creators: Sequence[UserId],
) -> dict[str, Any]:
    kept = {
        key: old.create.content[key] for key in ("type", "m.federate") if key in old.create.content
    }
    if rules.privileged_creators:
        kept["additional_creators"] = list(additional_creators)
    return create_content(rules, requester.user_id, RoomRequest(creation_content=kept))


def _copied(
    requester: Requester, rules: RoomVersionRules, events: Collection[RecordedEvent]
) -> Iterator[EventDraft]:
    """The events of the new room that say what those of the old room say."""
    for event in sorted(events, key=lambda event: _COPIED_TYPES.index(event.type)):
        state_key = event.state_key or ""
        # Without content it says that there is nothing (any more).
        if not event.content or (state_key and event.type not in _COPIED_BY_KEY):
            continue
        content = event.content
        if event.type == "m.room.join_rules":
            content = copied_join_rules(rules, content)
        yield _state(requester, event.type, content, state_key)
    if not any(event.type == "m.room.guest_access" and event.content for event in events):
        # What its absence means, said: it is among what "should be transferred".
        yield _state(requester, "m.room.guest_access", {"guest_access": "forbidden"})


def _append_if_allowed(session: RoomSession, draft: EventDraft) -> None:
    """Leave out what the new version's rules or format refuse: the rest is worth having."""
    with suppress(*_REFUSALS):
        session.append(draft)


def _levels_in(rules: RoomVersionRules, table: object) -> dict[str, int]:
    if not isinstance(table, Mapping):
        return {}
    levels = {key: parse_level(rules, value) for key, value in table.items()}
    return {key: level for key, level in levels.items() if level is not None}


def _state(
    requester: Requester, type_: str, content: Mapping[str, Any], state_key: str = ""
) -> EventDraft:
    return EventDraft(type_, requester.user_id, content, state_key=state_key)
