"""The room versions: each row is the previous one plus its changes.

Spec: https://spec.matrix.org/v1.19/rooms/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from architex.domain.errors import UnsupportedRoomVersion

#: Stands for "every key of the content survives a redaction".
ALL_KEYS: Final[frozenset[str]] = frozenset({"*"})


@dataclass(frozen=True, eq=False, kw_only=True)
class RoomVersionRules:
    """What the rules of a room depend on, in the words of the room version pages.

    Attributes:
        version: the identifier of the room version, as in `m.room.create`.
        event_id_format: a domain-bearing ID inside the event, or its reference hash in one of two
            base64 alphabets.
        state_resolution: which algorithm resolves state.
        redaction_keys: top-level keys that survive a redaction.
        redaction_content_keys: event type → keys of `content` that survive; ALL_KEYS for all.
        redaction_keeps_third_party_signed: also `third_party_invite.signed` of a member event.
        strict_canonical_json: events that are not canonical JSON are refused.
        enforce_key_validity: a signing key counts only up to its `valid_until_ts`.
        aliases_auth_rule: `m.room.aliases` has an authorisation rule of its own.
        redaction_auth_rule: authorisation looks at the redact level and the event ID's domain.
        notifications_power_levels: `notifications` is guarded like `events` in power levels.
        knocking: the membership and join rule `knock` exist.
        restricted_joins: the join rule `restricted` exists.
        knock_restricted: the join rule `knock_restricted` exists.
        integer_power_levels: power levels as strings (or floats) are refused.
        creator_is_sender: the creator is the create event's sender, not `content.creator`.
        redacts_in_content: a redaction names its target in `content`.
        room_id_is_create_hash: the room ID is the create event's, and never an auth event.
        privileged_creators: creators stand above every power level.
    """

    version: str
    event_id_format: Literal["domain", "base64", "base64url"]
    state_resolution: Literal["1", "2", "2.1"]
    redaction_keys: frozenset[str]
    redaction_content_keys: Mapping[str, frozenset[str]]
    redaction_keeps_third_party_signed: bool = False
    strict_canonical_json: bool = False
    enforce_key_validity: bool = False
    aliases_auth_rule: bool = True
    redaction_auth_rule: bool = True
    notifications_power_levels: bool = False
    knocking: bool = False
    restricted_joins: bool = False
    knock_restricted: bool = False
    integer_power_levels: bool = False
    creator_is_sender: bool = False
    redacts_in_content: bool = False
    room_id_is_create_hash: bool = False
    privileged_creators: bool = False

    @property
    def max_depth(self) -> int:
        """The greatest `depth` an event can have.

        Spec: https://spec.matrix.org/v1.19/rooms/v6/#event-format
        """
        return 2**53 - 1 if self.strict_canonical_json else 2**63 - 1


def _content_keys(
    previous: Mapping[str, frozenset[str]], **changes: frozenset[str] | None
) -> Mapping[str, frozenset[str]]:
    """Return the previous table with `m.room.<name>` replaced, or removed where None."""
    table = {**previous, **{f"m.room.{name}": keys for name, keys in changes.items()}}
    return MappingProxyType({type_: keys for type_, keys in table.items() if keys is not None})


_POWER_LEVELS_KEYS: Final = frozenset(
    {
        "ban",
        "events",
        "events_default",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    }
)

# https://spec.matrix.org/v1.19/rooms/v1/
_V1: Final = RoomVersionRules(
    version="1",
    event_id_format="domain",
    state_resolution="1",
    redaction_keys=frozenset(
        {
            "event_id",
            "type",
            "room_id",
            "sender",
            "state_key",
            "content",
            "hashes",
            "signatures",
            "depth",
            "prev_events",
            "prev_state",
            "auth_events",
            "origin",
            "origin_server_ts",
            "membership",
        }
    ),
    redaction_content_keys=_content_keys(
        {},
        member=frozenset({"membership"}),
        create=frozenset({"creator"}),
        join_rules=frozenset({"join_rule"}),
        power_levels=_POWER_LEVELS_KEYS,
        aliases=frozenset({"aliases"}),
        history_visibility=frozenset({"history_visibility"}),
    ),
)
# https://spec.matrix.org/v1.19/rooms/v2/
_V2: Final = replace(_V1, version="2", state_resolution="2")
# https://spec.matrix.org/v1.19/rooms/v3/
_V3: Final = replace(_V2, version="3", event_id_format="base64", redaction_auth_rule=False)
# https://spec.matrix.org/v1.19/rooms/v4/
_V4: Final = replace(_V3, version="4", event_id_format="base64url")
# https://spec.matrix.org/v1.19/rooms/v5/
_V5: Final = replace(_V4, version="5", enforce_key_validity=True)
# https://spec.matrix.org/v1.19/rooms/v6/
_V6: Final = replace(
    _V5,
    version="6",
    strict_canonical_json=True,
    aliases_auth_rule=False,
    notifications_power_levels=True,
    redaction_content_keys=_content_keys(_V5.redaction_content_keys, aliases=None),
)
# https://spec.matrix.org/v1.19/rooms/v7/
_V7: Final = replace(_V6, version="7", knocking=True)
# https://spec.matrix.org/v1.19/rooms/v8/
_V8: Final = replace(
    _V7,
    version="8",
    restricted_joins=True,
    redaction_content_keys=_content_keys(
        _V7.redaction_content_keys, join_rules=frozenset({"join_rule", "allow"})
    ),
)
# https://spec.matrix.org/v1.19/rooms/v9/
_V9: Final = replace(
    _V8,
    version="9",
    redaction_content_keys=_content_keys(
        _V8.redaction_content_keys,
        member=frozenset({"membership", "join_authorised_via_users_server"}),
    ),
)
# https://spec.matrix.org/v1.19/rooms/v10/
_V10: Final = replace(_V9, version="10", knock_restricted=True, integer_power_levels=True)
# https://spec.matrix.org/v1.19/rooms/v11/
_V11: Final = replace(
    _V10,
    version="11",
    creator_is_sender=True,
    redacts_in_content=True,
    redaction_keys=_V10.redaction_keys - {"origin", "membership", "prev_state"},
    redaction_content_keys=_content_keys(
        _V10.redaction_content_keys,
        create=ALL_KEYS,
        power_levels=_POWER_LEVELS_KEYS | {"invite"},
        redaction=frozenset({"redacts"}),
    ),
    redaction_keeps_third_party_signed=True,
)
# https://spec.matrix.org/v1.19/rooms/v12/
_V12: Final = replace(
    _V11,
    version="12",
    state_resolution="2.1",
    room_id_is_create_hash=True,
    privileged_creators=True,
)

#: Every room version this server has; all are stable.
ROOM_VERSIONS: Final[Mapping[str, RoomVersionRules]] = MappingProxyType(
    {
        rules.version: rules
        for rules in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)
    }
)


def find_room_version(version: str) -> RoomVersionRules | None:
    """Return the rules of a room version, or None when this server does not have it."""
    return ROOM_VERSIONS.get(version)


def get_room_version(version: str) -> RoomVersionRules:
    """Return the rules of a room version.

    Raises:
        UnsupportedRoomVersion: this server does not have it.
    """
    rules = ROOM_VERSIONS.get(version)
    if rules is None:
        raise UnsupportedRoomVersion("This server does not support that room version.")
    return rules
