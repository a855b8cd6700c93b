"""Rule 9: m.room.power_levels; and the levels that everything else goes by."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.auth_rules import PowerLevels
from architex.domain.auth_rules.power_levels import CREATOR_POWER_LEVEL, parse_level
from architex.domain.errors import Forbidden
from architex.domain.room_versions import ROOM_VERSIONS
from tests.builders import ALICE, BOB, CAROL, DAVE, RoomBuilder

every_version = pytest.mark.parametrize("version", ROOM_VERSIONS)
CREATOR_HAS_A_LEVEL = [version for version in ROOM_VERSIONS if version != "12"]


def power_levels(version: str, content: dict[str, Any] | None) -> PowerLevels:
    room = RoomBuilder(version, empty=True)
    create = room.find_state("m.room.create")
    assert create is not None
    if content is None:
        return PowerLevels(room.rules, create, None)
    event = room.compose(ALICE, "m.room.power_levels", content, state_key="")
    return PowerLevels(room.rules, create, event)


# --- reading


@every_version
def test_defaults_where_the_room_has_no_power_levels(version: str) -> None:
    levels = power_levels(version, None)
    assert levels.of_user(ALICE) == (CREATOR_POWER_LEVEL if version == "12" else 100)
    assert levels.of_user(BOB) == 0
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
    assert levels.to_send("m.room.message", is_state=False) == 0
    assert levels.to_send("m.room.topic", is_state=True) == 50
    assert levels.notification("room") == 50


@every_version
def test_defaults_where_the_event_says_nothing(version: str) -> None:
    levels = power_levels(version, {})
    assert levels.of_user(ALICE) == (CREATOR_POWER_LEVEL if version == "12" else 0)
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
    assert levels.to_send("m.room.topic", is_state=True) == 50


@every_version
def test_what_the_event_says_counts(version: str) -> None:
    levels = power_levels(
        version,
        {
            "users": {BOB: 7},
            "users_default": 1,
            "events": {"m.room.topic": 2, "m.room.message": 3},
            "events_default": 4,
            "state_default": 5,
            "ban": 6,
            "kick": 8,
            "redact": 9,
            "invite": 10,
            "notifications": {"room": 11},
        },
    )
    assert (levels.of_user(BOB), levels.of_user(CAROL)) == (7, 1)
    assert levels.to_send("m.room.topic", is_state=True) == 2
    assert levels.to_send("m.room.message", is_state=False) == 3
    assert levels.to_send("org.example", is_state=False) == 4
    assert levels.to_send("org.example", is_state=True) == 5
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (6, 8, 9, 10)
    assert (levels.notification("room"), levels.notification("other")) == (11, 50)


def test_creators_stand_above_every_level_since_v12() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]}, empty=True)
    create = room.find_state("m.room.create")
    assert create is not None
    levels = PowerLevels(room.rules, create, None)
    assert levels.of_user(ALICE) == levels.of_user(BOB) == CREATOR_POWER_LEVEL > 2**53 - 1
    assert levels.of_user(CAROL) == 0


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("100", 100),
        ("000100", 100),
        ("+100", 100),
        ("-100", -100),
        (" 100 ", 100),
        ("\t 00100\n", 100),
        (" -7 ", -7),
        ("1.5", None),
        ("1e3", None),
        ("", None),
        ("-", None),
        ("1_000", None),
        ("١٢", None),
        ("- 5", None),
        ("9" * 5000, None),
        # Ours: no honest level has more digits.
        ("0" * 397 + "100", 100),
        ("0" * 398 + "100", None),
    ],
)
def test_strings_are_levels_until_v9(value: str, level: int | None) -> None:
    for version, rules in ROOM_VERSIONS.items():
        assert parse_level(rules, value) == (level if int(version) < 10 else None)


@pytest.mark.parametrize(
    ("value", "level"),
    [(50.57, 50), (-50.57, -50), (5.114698e4, 51146), (float("inf"), None), (float("nan"), None)],
)
def test_floats_are_levels_until_v5(value: float, level: int | None) -> None:
    for version, rules in ROOM_VERSIONS.items():
        assert parse_level(rules, value) == (level if int(version) < 6 else None)


@pytest.mark.parametrize("value", [None, True, False, [], {}, [50]])
def test_nothing_else_is_a_level(value: Any) -> None:
    for rules in ROOM_VERSIONS.values():
        assert parse_level(rules, value) is None


def test_what_is_no_level_counts_as_not_given() -> None:
    levels = power_levels(
        "9", {"ban": "high", "users": [], "events": 5, "users_default": None, "kick": "60"}
    )
    assert (levels.ban, levels.kick, levels.of_user(BOB)) == (50, 60, 0)


# --- changing


@every_version
def test_power_levels_need_membership_and_their_required_level(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="not in the room"):
        room.set_power_levels(BOB)
    room.join(BOB)
    with pytest.raises(Forbidden, match="needs power level 50"):
        room.set_power_levels(BOB)


@pytest.mark.parametrize("users", [None, [], "x", 5, {"bob": 5}, {BOB: None}, {BOB: "x"}, {"": 1}])
@every_version
def test_users_are_user_ids_with_levels(version: str, users: Any) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden):
        room.set_power_levels(ALICE, users=users)
    # Not even the first power levels of a room.
    first = RoomBuilder(version, empty=True)
    first.join(ALICE)
    with pytest.raises(Forbidden):
        first.set_power_levels(ALICE, users=users)


@every_version
def test_levels_of_users_may_be_strings_until_v9(version: str) -> None:
    room = RoomBuilder(version)
    users = {BOB: "50"} if version == "12" else {ALICE: 100, BOB: "50"}
    if int(version) < 10:
        room.set_power_levels(ALICE, users=users)
    else:
        with pytest.raises(Forbidden, match="not an integer"):
            room.set_power_levels(ALICE, users=users)


@pytest.mark.parametrize(
    "content",
    [
        {"ban": "50"},
        {"kick": None},
        {"redact": "x"},
        {"invite": []},
        {"users_default": "0"},
        {"events_default": True},
        {"state_default": {}},
        {"events": None},
        {"events": []},
        {"events": {"m.room.topic": "50"}},
        {"notifications": 5},
        {"notifications": {"room": None}},
    ],
)
@every_version
def test_all_levels_are_integers_since_v10(version: str, content: dict[str, Any]) -> None:
    room = RoomBuilder(version)
    # Not even the first power levels of a room.
    first = RoomBuilder(version, empty=True)
    first.join(ALICE)
    if int(version) < 10:
        first.set_power_levels(ALICE, **content)
    else:
        with pytest.raises(Forbidden, match="not "):
            first.set_power_levels(ALICE, **content)
        with pytest.raises(Forbidden, match="not "):
            room.set_power_levels(ALICE, **content)


def test_a_level_cannot_be_changed_to_what_is_none() -> None:
    room = RoomBuilder("9")
    with pytest.raises(Forbidden, match="not an integer"):
        room.set_power_levels(ALICE, users={ALICE: 100}, ban="high")
    with pytest.raises(Forbidden, match="not an integer"):
        room.set_power_levels(ALICE, users={ALICE: 100}, events={"m.room.topic": None})


@pytest.mark.parametrize("version", ["1", "5", "9"])
def test_what_is_no_level_may_stay_where_an_old_room_let_it_in(version: str) -> None:
    room = RoomBuilder(version, power_levels={"users": {ALICE: 100}, "ban": "high", "kick": 1})
    room.set_power_levels(ALICE, users={ALICE: 100}, ban="high", kick=1, invite=1)
    with pytest.raises(Forbidden, match="not an integer"):
        room.set_power_levels(ALICE, users={ALICE: 100}, ban="high", kick=True)


def test_creators_cannot_be_given_a_level_since_v12() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]})
    for creator in (ALICE, BOB):
        with pytest.raises(Forbidden, match="creator"):
            room.set_power_levels(ALICE, users={creator: 100})
    room.set_power_levels(ALICE, users={CAROL: 2**53 - 1})
    room = RoomBuilder("11", create_content={"additional_creators": [BOB]})
    room.set_power_levels(ALICE, users={ALICE: 100, BOB: 100})


@every_version
def test_the_first_power_levels_may_say_anything(version: str) -> None:
    room = RoomBuilder(version, empty=True)
    room.join(ALICE)
    room.set_power_levels(ALICE, users={BOB: 1000}, ban=1000)


NAMED = ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]


def room_with_bob_at_50(version: str, **content: Any) -> RoomBuilder:
    room = RoomBuilder(version)
    room.join(BOB)
    room.set_power_levels(ALICE, **content, **base(version))
    return room


def base(version: str, **users: int) -> dict[str, Any]:
    table: dict[str, int] = {BOB: 50, CAROL: 50, DAVE: 40, "@low:x.org": 10}
    if version != "12":
        table[ALICE] = 100
    return {"users": table}


@pytest.mark.parametrize("name", NAMED)
@every_version
def test_nobody_sets_a_level_above_their_own(version: str, name: str) -> None:
    room = room_with_bob_at_50(version)
    room.set_power_levels(BOB, **base(version), **{name: 50})
    with pytest.raises(Forbidden, match=f"change {name}"):
        room.set_power_levels(BOB, **base(version), **{name: 51})


@pytest.mark.parametrize("name", [name for name in NAMED if name != "state_default"])
@every_version
def test_nobody_changes_a_level_that_is_above_their_own(version: str, name: str) -> None:
    room = room_with_bob_at_50(version, **{name: 51})
    # What stays is nobody's business.
    room.set_power_levels(BOB, **base(version), **{name: 51})
    with pytest.raises(Forbidden, match=f"change {name}"):
        room.set_power_levels(BOB, **base(version), **{name: 10})
    with pytest.raises(Forbidden, match=f"change {name}"):
        room.set_power_levels(BOB, **base(version))


@pytest.mark.parametrize("table", ["events", "notifications"])
@every_version
def test_entries_above_ones_own_level_are_not_touched(version: str, table: str) -> None:
    room = room_with_bob_at_50(version, **{table: {"org.high": 51, "org.low": 50}})

    def change(**entries: int) -> None:
        named = {key.replace("_", "."): level for key, level in entries.items()}
        room.fork().set_power_levels(BOB, **base(version), **{table: named})

    change(org_high=51, org_low=0)
    change(org_high=51)
    change(org_high=51, org_low=50, org_new=50)
    guarded = table == "events" or int(version) >= 6
    for wrong in (
        {"org_high": 50, "org_low": 50},
        {"org_low": 50},
        {"org_high": 51, "org_low": 51},
        {"org_high": 51, "org_new": 51},
    ):
        if guarded:
            with pytest.raises(Forbidden, match="change that of org"):
                change(**wrong)
        else:
            change(**wrong)


def change_users(room: RoomBuilder, changes: dict[str, int | None]) -> None:
    users = dict(base(room.rules.version)["users"])
    for user_id, level in changes.items():
        if level is None:
            users.pop(user_id, None)
        else:
            users[user_id] = level
    room.fork().set_power_levels(BOB, users=users)


@pytest.mark.parametrize(
    "changes",
    [
        {DAVE: 50},
        {DAVE: 0},
        {DAVE: None},
        {"@new:x.org": 50},
        {BOB: 49},
        {BOB: None},
        {BOB: 0, DAVE: 50},
    ],
)
@every_version
def test_users_below_oneself_and_oneself_can_be_moved(
    version: str, changes: dict[str, int | None]
) -> None:
    change_users(room_with_bob_at_50(version), changes)


@pytest.mark.parametrize(
    "changes",
    [
        {CAROL: 49},
        {CAROL: None},
        {CAROL: 51},
        {DAVE: 51},
        {"@new:x.org": 51},
        {BOB: 51},
    ],
)
@every_version
def test_users_of_ones_own_level_or_above_cannot_be_moved(
    version: str, changes: dict[str, int | None]
) -> None:
    with pytest.raises(Forbidden):
        change_users(room_with_bob_at_50(version), changes)


@pytest.mark.parametrize("version", CREATOR_HAS_A_LEVEL)
def test_nobody_demotes_the_mighty_until_v11(version: str) -> None:
    with pytest.raises(Forbidden, match=ALICE):
        change_users(room_with_bob_at_50(version), {ALICE: 0})


@every_version
def test_a_level_written_otherwise_is_not_changed(version: str) -> None:
    if int(version) >= 10:
        return
    room = RoomBuilder(version)
    room.join(BOB)
    users = {ALICE: "100", BOB: 50}
    room.set_power_levels(ALICE, users=users, ban="100")
    room.set_power_levels(BOB, users={ALICE: " +100", BOB: 50}, ban=100)
