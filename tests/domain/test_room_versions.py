"""The room versions."""

from __future__ import annotations

import pytest

from architex.domain.errors import UnsupportedRoomVersion
from architex.domain.room_versions import (
    ROOM_VERSIONS,
    RoomVersionRules,
    find_room_version,
    get_room_version,
)


def test_all_stable_room_versions_are_there_in_order() -> None:
    assert list(ROOM_VERSIONS) == [str(number) for number in range(1, 13)]
    assert all(rules.version == version for version, rules in ROOM_VERSIONS.items())


def test_an_unknown_room_version_is_not_supported() -> None:
    assert find_room_version("13") is None
    with pytest.raises(UnsupportedRoomVersion):
        get_room_version("org.example.mine")


def since(version: str) -> list[str]:
    return [known for known in ROOM_VERSIONS if int(known) >= int(version)]


@pytest.mark.parametrize(
    ("feature", "first"),
    [
        ("enforce_key_validity", "5"),
        ("strict_canonical_json", "6"),
        ("notifications_power_levels", "6"),
        ("knocking", "7"),
        ("restricted_joins", "8"),
        ("knock_restricted", "10"),
        ("integer_power_levels", "10"),
        ("creator_is_sender", "11"),
        ("redacts_in_content", "11"),
        ("redaction_keeps_third_party_signed", "11"),
        ("room_id_is_create_hash", "12"),
        ("privileged_creators", "12"),
    ],
)
def test_a_feature_stays_from_its_first_version_on(feature: str, first: str) -> None:
    having = [version for version, rules in ROOM_VERSIONS.items() if getattr(rules, feature)]
    assert having == since(first)


@pytest.mark.parametrize(
    ("feature", "last"), [("aliases_auth_rule", "5"), ("redaction_auth_rule", "2")]
)
def test_an_abolished_rule_does_not_come_back(feature: str, last: str) -> None:
    having = [version for version, rules in ROOM_VERSIONS.items() if getattr(rules, feature)]
    assert having == [known for known in ROOM_VERSIONS if int(known) <= int(last)]


def test_each_version_has_its_event_id_format_and_state_resolution() -> None:
    def of(rules: RoomVersionRules) -> tuple[str, str]:
        return rules.event_id_format, rules.state_resolution

    assert [of(rules) for rules in ROOM_VERSIONS.values()] == [
        ("domain", "1"),
        ("domain", "2"),
        ("base64", "2"),
        *[("base64url", "2")] * 8,
        ("base64url", "2.1"),
    ]


def test_depth_is_bounded_by_canonical_json_since_v6() -> None:
    assert get_room_version("5").max_depth == 2**63 - 1
    assert get_room_version("6").max_depth == 2**53 - 1
