"""Rule 4: m.room.member."""

from __future__ import annotations

from typing import Any

import pytest

from architex.domain.errors import Forbidden
from architex.domain.room_versions import ROOM_VERSIONS
from architex.domain.signing import SigningKey, sign_json
from tests.builders import ALICE, BOB, CAROL, DAVE, RoomBuilder


def versions(first: int = 1, last: int = 12) -> list[str]:
    return [version for version in ROOM_VERSIONS if first <= int(version) <= last]


every_version = pytest.mark.parametrize("version", ROOM_VERSIONS)


@every_version
def test_a_membership_needs_a_user_and_a_value(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="needs a user"):
        room.send(BOB, "m.room.member", {"membership": "join"})
    with pytest.raises(Forbidden, match="needs a user"):
        room.send_state(BOB, "m.room.member", {}, BOB)


@pytest.mark.parametrize("membership", ["bogus", None, 5, ["join"], ""])
@every_version
def test_an_unknown_membership_is_refused(version: str, membership: Any) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="not known"):
        room.send_state(ALICE, "m.room.member", {"membership": membership}, ALICE)


# --- join


@every_version
def test_the_creator_joins_right_after_the_create_event(version: str) -> None:
    room = RoomBuilder(version, empty=True)
    room.join(ALICE)


@every_version
def test_nobody_else_joins_right_after_the_create_event(version: str) -> None:
    room = RoomBuilder(version, empty=True)
    with pytest.raises(Forbidden):
        room.join(BOB)


@every_version
def test_the_creator_needs_an_invite_when_something_else_came_first(version: str) -> None:
    room = RoomBuilder(version, join_rule="invite")
    room.leave(ALICE)
    with pytest.raises(Forbidden, match="not invited"):
        room.join(ALICE)


def test_the_creator_is_whom_the_content_names_until_v10() -> None:
    room = RoomBuilder("10", create_content={"creator": DAVE}, empty=True)
    room.join(DAVE)
    room = RoomBuilder("10", create_content={"creator": DAVE}, empty=True)
    with pytest.raises(Forbidden):
        room.join(ALICE)
    room = RoomBuilder("11", create_content={"creator": DAVE}, empty=True)
    room.join(ALICE)


def test_an_additional_creator_joins_like_everybody_else() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]}, empty=True)
    with pytest.raises(Forbidden):
        room.join(BOB)


@every_version
def test_anybody_joins_a_public_room(version: str) -> None:
    RoomBuilder(version).join(BOB)


@every_version
def test_nobody_joins_for_somebody_else(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="somebody else"):
        room.member(ALICE, BOB, "join")


@every_version
def test_banned_user_cannot_rejoin(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="banned"):
        room.join(BOB)
    room.kick(ALICE, BOB)
    room.join(BOB)


@every_version
def test_an_invite_room_is_joined_by_invitation(version: str) -> None:
    room = RoomBuilder(version, join_rule="invite")
    with pytest.raises(Forbidden, match="not invited"):
        room.join(BOB)
    room.invite(ALICE, BOB)
    room.join(BOB)
    # And again, with another name.
    room.join(BOB, displayname="Bob")


@every_version
def test_a_room_without_a_join_rule_is_joined_by_invitation(version: str) -> None:
    room = RoomBuilder(version, join_rule=None)
    with pytest.raises(Forbidden, match="not invited"):
        room.join(BOB)
    room.invite(ALICE, BOB)
    room.join(BOB)


@pytest.mark.parametrize("join_rule", ["private", "bogus", "", 5])
@every_version
def test_an_unknown_join_rule_lets_nobody_join(version: str, join_rule: Any) -> None:
    room = RoomBuilder(version, join_rule=join_rule)
    room.invite(ALICE, BOB)
    with pytest.raises(Forbidden, match="lets nobody join"):
        room.join(BOB)


@pytest.mark.parametrize(
    ("join_rule", "first"), [("knock", 7), ("restricted", 8), ("knock_restricted", 10)]
)
@every_version
def test_an_invited_user_joins_under_the_newer_join_rules(
    version: str, join_rule: str, first: int
) -> None:
    room = RoomBuilder(version, join_rule=join_rule)
    room.invite(ALICE, BOB)
    if int(version) >= first:
        room.join(BOB)
        room.join(BOB, displayname="Bob")
    else:
        with pytest.raises(Forbidden, match="lets nobody join"):
            room.join(BOB)


@pytest.mark.parametrize("version", versions(7))
def test_having_knocked_is_no_invitation(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock")
    room.member(BOB, BOB, "knock")
    with pytest.raises(Forbidden, match="not invited"):
        room.join(BOB)


restricted = pytest.mark.parametrize(
    ("version", "join_rule"),
    [(version, "restricted") for version in versions(8)]
    + [(version, "knock_restricted") for version in versions(10)],
)


@restricted
def test_a_restricted_join_needs_a_member_who_may_invite(version: str, join_rule: str) -> None:
    room = RoomBuilder(version, join_rule=join_rule)
    room.invite(ALICE, DAVE)
    room.join(DAVE)
    room.set_levels(ALICE, invite=50)
    with pytest.raises(Forbidden, match="No server"):
        room.join(BOB)
    with pytest.raises(Forbidden, match="not in the room"):
        room.join(BOB, join_authorised_via_users_server=CAROL)
    with pytest.raises(Forbidden, match="may not invite"):
        room.join(BOB, join_authorised_via_users_server=DAVE)
    room.join(BOB, join_authorised_via_users_server=ALICE)
    room.set_levels(ALICE, invite=50, users={DAVE: 50})
    room.join(CAROL, join_authorised_via_users_server=DAVE)


@restricted
def test_banned_user_cannot_join_a_restricted_room(version: str, join_rule: str) -> None:
    room = RoomBuilder(version, join_rule=join_rule)
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="banned"):
        room.join(BOB, join_authorised_via_users_server=ALICE)


@pytest.mark.parametrize("authoriser", ["nobody", None, 5, [ALICE], "alice:a.example"])
@every_version
def test_who_authorises_a_join_is_a_user(version: str, authoriser: Any) -> None:
    room = RoomBuilder(version)
    if int(version) < 8:
        room.join(BOB, join_authorised_via_users_server=authoriser)
    else:
        with pytest.raises(Forbidden, match="not a user ID"):
            room.join(BOB, join_authorised_via_users_server=authoriser)


# --- invite


@every_version
def test_a_member_invites(version: str) -> None:
    room = RoomBuilder(version, join_rule="invite")
    room.invite(ALICE, BOB)
    # Again, while the invitation stands.
    room.invite(ALICE, BOB)


@every_version
def test_who_is_not_in_the_room_cannot_invite(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="not in the room"):
        room.invite(BOB, CAROL)
    room.invite(ALICE, BOB)
    with pytest.raises(Forbidden, match="not in the room"):
        room.invite(BOB, CAROL)


@every_version
def test_members_and_the_banned_cannot_be_invited(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    with pytest.raises(Forbidden, match="already in the room"):
        room.invite(ALICE, BOB)
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="banned"):
        room.invite(ALICE, BOB)


@every_version
def test_inviting_needs_the_invite_level(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    room.invite(BOB, CAROL)
    room.set_levels(ALICE, invite=50)
    with pytest.raises(Forbidden, match="power level to invite"):
        room.invite(BOB, DAVE)
    room.set_levels(ALICE, invite=50, users={BOB: 50})
    room.invite(BOB, DAVE)


# --- third-party invite

IDENTITY_KEY = SigningKey.from_seed(b"i" * 32, "0")
OTHER_KEY = SigningKey.from_seed(b"o" * 32, "0")


def room_with_offer(version: str, **content: Any) -> RoomBuilder:
    room = RoomBuilder(version, join_rule="invite")
    content = content or {"public_key": IDENTITY_KEY.verify_key_base64}
    room.send_state(ALICE, "m.room.third_party_invite", content, "token")
    return room


def signed_invite(key: SigningKey = IDENTITY_KEY, **fields: Any) -> dict[str, Any]:
    signed = sign_json({"mxid": BOB, "token": "token"} | fields, "id.example", key)
    return {"display_name": "b…", "signed": signed}


def redeem(room: RoomBuilder, invite: Any, *, sender: str = ALICE, target: str = BOB) -> None:
    room.member(sender, target, "invite", third_party_invite=invite)


@every_version
def test_a_third_party_invite_is_redeemed(version: str) -> None:
    redeem(room_with_offer(version), signed_invite())


@every_version
def test_a_third_party_invite_is_redeemed_after_the_inviter_has_left(version: str) -> None:
    room = room_with_offer(version)
    room.invite(ALICE, DAVE)
    room.join(DAVE)
    room.leave(ALICE)
    redeem(room, signed_invite())


@every_version
def test_any_of_several_public_keys_will_do(version: str) -> None:
    keys = [
        {"public_key": OTHER_KEY.verify_key_base64},
        {"public_key": "not base64!"},
        {"public_key": "c2hvcnQ"},
        {"public_key": 5},
        "key",
        {"public_key": IDENTITY_KEY.verify_key_base64},
    ]
    redeem(room_with_offer(version, public_keys=keys), signed_invite())


@pytest.mark.parametrize(
    ("invite", "reason"),
    [
        (None, "not signed"),
        ({}, "not signed"),
        ({"signed": None}, "not signed"),
        ({"signed": {"token": "token"}}, "no mxid or no token"),
        ({"signed": {"mxid": BOB}}, "no mxid or no token"),
        ({"signed": {"mxid": BOB, "token": 5}}, "no mxid or no token"),
        (signed_invite(mxid=CAROL), "for somebody else"),
        (signed_invite(token="another"), "knows nothing"),
        (signed_invite(OTHER_KEY), "no valid signature"),
        ({"signed": {"mxid": BOB, "token": "token"}}, "no valid signature"),
        ({"signed": {"mxid": BOB, "token": "token", "signatures": []}}, "no valid signature"),
        ({"signed": signed_invite()["signed"] | {"more": 1}}, "no valid signature"),
    ],
)
@pytest.mark.parametrize("version", ["1", "6", "8", "12"])
def test_a_third_party_invite_that_does_not_hold_is_refused(
    version: str, invite: Any, reason: str
) -> None:
    with pytest.raises(Forbidden, match=reason):
        redeem(room_with_offer(version), invite)


@pytest.mark.parametrize("value", [0.5, 2**53])
def test_a_third_party_invite_that_nobody_can_sign_is_refused(value: Any) -> None:
    """Old rooms let content be what canonical JSON, and so a signature, cannot be of."""
    signed = signed_invite()["signed"] | {"more": value}
    with pytest.raises(Forbidden, match="no valid signature"):
        redeem(room_with_offer("1"), {"signed": signed})


@every_version
def test_a_third_party_invite_is_redeemed_in_the_inviters_name_only(version: str) -> None:
    room = room_with_offer(version)
    room.invite(ALICE, DAVE)
    room.join(DAVE)
    with pytest.raises(Forbidden, match="by somebody else"):
        redeem(room, signed_invite(), sender=DAVE)


@every_version
def test_banned_user_cannot_redeem_a_third_party_invite(version: str) -> None:
    room = room_with_offer(version)
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="banned"):
        redeem(room, signed_invite())


def test_hundreds_of_signatures_and_keys_are_not_all_tried() -> None:
    keys = [{"public_key": OTHER_KEY.verify_key_base64}] * 700
    room = room_with_offer("11", public_keys=keys)
    signed = signed_invite()["signed"]
    signature = signed["signatures"]["id.example"]["ed25519:0"]
    signed["signatures"] = {"id.example": {f"ed25519:{n}": signature for n in range(400)}}
    with pytest.raises(Forbidden, match="no valid signature"):
        redeem(room, {"signed": signed})


@pytest.mark.parametrize(("before", "holds"), [(255, True), (256, False)])
def test_a_third_party_invite_holds_by_one_of_the_first_256_tries(
    before: int, holds: bool
) -> None:
    keys = [{"public_key": OTHER_KEY.verify_key_base64}] * before
    keys.append({"public_key": IDENTITY_KEY.verify_key_base64})
    room = room_with_offer("11", public_keys=keys)
    if holds:
        redeem(room, signed_invite())
    else:
        with pytest.raises(Forbidden, match="no valid signature"):
            redeem(room, signed_invite())


@every_version
def test_offering_a_third_party_invite_needs_the_invite_level(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    # Not the level of state events, nor one of its own.
    room.set_levels(ALICE, invite=0, state_default=100, events={"m.room.third_party_invite": 100})
    room.send_state(BOB, "m.room.third_party_invite", {}, "token")
    room.set_levels(ALICE, invite=1)
    with pytest.raises(Forbidden, match="power level to invite"):
        room.send_state(BOB, "m.room.third_party_invite", {}, "token")
    with pytest.raises(Forbidden, match="not in the room"):
        room.send_state(CAROL, "m.room.third_party_invite", {}, "token")


# --- leave


@every_version
def test_members_and_the_invited_leave(version: str) -> None:
    room = RoomBuilder(version, join_rule="invite")
    room.invite(ALICE, BOB)
    room.leave(BOB)
    room.invite(ALICE, BOB)
    room.join(BOB)
    room.leave(BOB)


@pytest.mark.parametrize("version", versions(7))
def test_a_knock_is_withdrawn(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock")
    room.member(BOB, BOB, "knock")
    room.leave(BOB)


@every_version
def test_who_is_not_there_cannot_leave(version: str) -> None:
    room = RoomBuilder(version)
    with pytest.raises(Forbidden, match="You are not in the room"):
        room.leave(BOB)
    room.join(BOB)
    room.leave(BOB)
    with pytest.raises(Forbidden, match="You are not in the room"):
        room.leave(BOB)


@every_version
def test_banned_user_cannot_unban_herself_by_leaving(version: str) -> None:
    room = RoomBuilder(version)
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="not in the room"):
        room.leave(BOB)


@every_version
def test_kicking_needs_the_kick_level_and_more_power_than_the_target(version: str) -> None:
    room = RoomBuilder(version)
    for user_id in (BOB, CAROL, DAVE):
        room.join(user_id)
    room.set_levels(ALICE, kick=50, users={BOB: 49, DAVE: 50})
    with pytest.raises(Forbidden, match="power level to remove"):
        room.kick(BOB, CAROL)
    room.set_levels(ALICE, kick=50, users={BOB: 50, DAVE: 50})
    with pytest.raises(Forbidden, match="power level to remove"):
        room.kick(BOB, DAVE)
    with pytest.raises(Forbidden, match="power level to remove"):
        room.kick(BOB, ALICE)
    room.kick(BOB, CAROL)
    room.kick(ALICE, DAVE)


@every_version
def test_who_is_not_in_the_room_cannot_kick(version: str) -> None:
    room = RoomBuilder(version)
    room.set_levels(ALICE, users={BOB: 100})
    room.join(CAROL)
    with pytest.raises(Forbidden, match="not in the room"):
        room.kick(BOB, CAROL)


@every_version
def test_unbanning_needs_both_the_ban_and_the_kick_level(version: str) -> None:
    room = RoomBuilder(version)
    room.join(BOB)
    room.ban(ALICE, CAROL)
    room.set_levels(ALICE, ban=60, kick=40, users={BOB: 59})
    with pytest.raises(Forbidden, match="unban"):
        room.kick(BOB, CAROL)
    room.set_levels(ALICE, ban=40, kick=60, users={BOB: 59})
    with pytest.raises(Forbidden, match="power level to remove"):
        room.kick(BOB, CAROL)
    room.set_levels(ALICE, ban=60, kick=60, users={BOB: 60})
    room.kick(BOB, CAROL)
    room.join(CAROL)


# --- ban


@every_version
def test_banning_needs_the_ban_level_and_more_power_than_the_target(version: str) -> None:
    room = RoomBuilder(version)
    for user_id in (BOB, CAROL, DAVE):
        room.join(user_id)
    room.set_levels(ALICE, ban=50, users={BOB: 49, DAVE: 50})
    with pytest.raises(Forbidden, match="power level to ban"):
        room.ban(BOB, CAROL)
    room.set_levels(ALICE, ban=50, users={BOB: 50, DAVE: 50})
    with pytest.raises(Forbidden, match="power level to ban"):
        room.ban(BOB, DAVE)
    room.ban(BOB, CAROL)
    room.ban(BOB, "@stranger:x.example")


@every_version
def test_who_is_not_in_the_room_cannot_ban(version: str) -> None:
    room = RoomBuilder(version)
    room.set_levels(ALICE, users={BOB: 100})
    with pytest.raises(Forbidden, match="not in the room"):
        room.ban(BOB, CAROL)


def test_a_creator_cannot_be_kicked_or_banned_since_v12() -> None:
    room = RoomBuilder("12", create_content={"additional_creators": [BOB]})
    room.join(BOB)
    room.join(CAROL)
    room.set_power_levels(ALICE, users={CAROL: 2**53 - 1})
    for act in (room.kick, room.ban):
        with pytest.raises(Forbidden):
            act(CAROL, BOB)
        with pytest.raises(Forbidden):
            act(ALICE, BOB)
    room.kick(BOB, CAROL)


# --- knock


@pytest.mark.parametrize("version", versions(last=6))
def test_knocking_is_unknown_before_v7(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock")
    with pytest.raises(Forbidden, match="not known"):
        room.member(BOB, BOB, "knock")


@pytest.mark.parametrize("version", versions(7))
def test_a_stranger_knocks(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock")
    room.member(BOB, BOB, "knock")
    # Again.
    room.member(BOB, BOB, "knock")
    room.invite(ALICE, BOB)
    room.join(BOB)
    room.leave(BOB)
    room.member(BOB, BOB, "knock")


@pytest.mark.parametrize("version", versions(7))
def test_knocking_in_a_knock_restricted_room_is_possible_since_v10(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock_restricted")
    if int(version) >= 10:
        room.member(BOB, BOB, "knock")
    else:
        with pytest.raises(Forbidden, match="does not allow knocking"):
            room.member(BOB, BOB, "knock")


@pytest.mark.parametrize("join_rule", ["public", "invite", "restricted", "private", None])
@pytest.mark.parametrize("version", versions(7))
def test_other_join_rules_do_not_allow_knocking(version: str, join_rule: str | None) -> None:
    room = RoomBuilder(version, join_rule=join_rule)
    with pytest.raises(Forbidden, match="does not allow knocking"):
        room.member(BOB, BOB, "knock")


@pytest.mark.parametrize("version", versions(7))
def test_nobody_knocks_for_somebody_else(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock")
    with pytest.raises(Forbidden, match="somebody else"):
        room.member(ALICE, BOB, "knock")


@pytest.mark.parametrize("version", versions(7))
def test_the_banned_the_invited_and_members_cannot_knock(version: str) -> None:
    room = RoomBuilder(version, join_rule="knock")
    room.invite(ALICE, BOB)
    with pytest.raises(Forbidden, match="invite"):
        room.member(BOB, BOB, "knock")
    room.join(BOB)
    with pytest.raises(Forbidden, match="join"):
        room.member(BOB, BOB, "knock")
    room.ban(ALICE, BOB)
    with pytest.raises(Forbidden, match="ban"):
        room.member(BOB, BOB, "knock")
