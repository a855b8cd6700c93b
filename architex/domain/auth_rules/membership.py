"""m.room.member: who may join, invite, knock, leave, kick and ban; one function per membership.

Spec: https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules (rule 4)
"""

from __future__ import annotations

from architex.domain.auth_rules.power_levels import creators_of
from architex.domain.auth_rules.room_state import AuthState
from architex.domain.errors import Forbidden, MalformedEvent
from architex.domain.identifiers import UserId, is_user_id
from architex.domain.pdu import Pdu
from architex.domain.room_versions import RoomVersionRules
from architex.domain.third_party_offers import is_signed_by_any_key


def check_member_event(rules: RoomVersionRules, pdu: Pdu, state: AuthState) -> None:
    """Check an m.room.member event: rule 4 (rule 5 in v1 to v5 and v12).

    Raises:
        MalformedEvent: it names no membership.
        Forbidden: the membership may not change like this.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules
    """
    # 4.1 If there is no state_key property, or no membership property in content, reject.
    if pdu.state_key is None or "membership" not in pdu.content:
        raise MalformedEvent("A membership needs a user and a value.")
    # v8, 4.2 If content has a join_authorised_via_users_server key: if the event is not validly
    # signed by the homeserver of the user ID denoted by the key, reject. (Signatures were checked
    # on receipt: see servers_that_must_sign. Nobody can sign for what is no user ID.)
    if rules.restricted_joins and "join_authorised_via_users_server" in pdu.content:
        authoriser = pdu.content["join_authorised_via_users_server"]
        if not isinstance(authoriser, str) or not is_user_id(authoriser):
            raise Forbidden("Who authorised the join is not a user ID.")
    target = pdu.state_key
    match pdu.membership:
        case "join":
            _check_join(rules, pdu, target, state)
        case "invite":
            _check_invite(pdu, target, state)
        case "leave":
            _check_leave(rules, pdu, target, state)
        case "ban":
            _check_ban(pdu, target, state)
        case "knock" if rules.knocking:
            _check_knock(rules, pdu, target, state)
        case _:
            # 4.8 Otherwise, the membership is unknown. Reject.
            refusal = Forbidden if pdu.membership == "knock" else MalformedEvent
            raise refusal("This membership is not known in the room's version.")


def _check_join(rules: RoomVersionRules, pdu: Pdu, target: UserId, state: AuthState) -> None:
    # 4.3.1 If the only previous event is an m.room.create and the state_key is the creator, allow.
    # (v12: the sender of the m.room.create; additional creators join like everybody else.)
    create = state.create
    if pdu.prev_events == (create.event_id,) and (
        target == create.sender
        if rules.creator_is_sender
        else target in creators_of(rules, create)
    ):
        return
    # 4.3.2 If the sender does not match state_key, reject.
    if pdu.sender != target:
        raise Forbidden("Nobody can join for somebody else.")
    # 4.3.3 If the sender is banned, reject.
    membership = state.membership_of(target)
    if membership == "ban":
        raise Forbidden("You are banned from the room.")
    join_rule = state.join_rule
    # 4.3.4 If the join_rule is invite or (since v7) knock then allow if membership state is invite
    # or join.
    if join_rule == "invite" or (rules.knocking and join_rule == "knock"):
        if membership not in ("invite", "join"):
            raise Forbidden("You are not invited to the room.")
    # v8, 4.3.5 If the join_rule is restricted or (since v10) knock_restricted: …
    elif (rules.restricted_joins and join_rule == "restricted") or (
        rules.knock_restricted and join_rule == "knock_restricted"
    ):
        _check_restricted_join(pdu, membership, state)
    # 4.3.6 If the join_rule is public, allow.
    # 4.3.7 Otherwise, reject.
    elif join_rule != "public":
        raise Forbidden("The room's join rule lets nobody join.")


def _check_restricted_join(pdu: Pdu, membership: str, state: AuthState) -> None:
    # 4.3.5.1 If membership state is join or invite, allow.
    if membership in ("join", "invite"):
        return
    # 4.3.5.2 If the join_authorised_via_users_server key in content is not a user with sufficient
    # permission to invite other users or is not a joined member of the room, reject.
    authoriser = pdu.content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str):
        raise Forbidden("No server of a member has authorised the join.")
    if state.membership_of(authoriser) != "join":
        raise Forbidden("The user who authorised the join is not in the room.")
    power_levels = state.power_levels
    if power_levels.of_user(authoriser) < power_levels.invite:
        raise Forbidden("The user who authorised the join may not invite.")
    # 4.3.5.3 Otherwise, allow.


def _check_invite(pdu: Pdu, target: UserId, state: AuthState) -> None:
    # 4.4.1 If content has a third_party_invite property: …
    if "third_party_invite" in pdu.content:
        _check_third_party_invite(pdu, target, state)
        return
    # 4.4.2 If the sender's current membership state is not join, reject.
    if state.membership_of(pdu.sender) != "join":
        raise Forbidden(f"{pdu.sender} is not in the room.")
    # 4.4.3 If target user's current membership state is join or ban, reject.
    match state.membership_of(target):
        case "join":
            raise Forbidden(f"{target} is already in the room.")
        case "ban":
            raise Forbidden(f"{target} is banned from the room.")
    # 4.4.4 If the sender's power level is greater than or equal to the invite level, allow.
    # 4.4.5 Otherwise, reject.
    power_levels = state.power_levels
    if power_levels.of_user(pdu.sender) < power_levels.invite:
        raise Forbidden("You don't have the power level to invite somebody.")


def _check_third_party_invite(pdu: Pdu, target: UserId, state: AuthState) -> None:
    # 4.4.1.1 If target user is banned, reject.
    if state.membership_of(target) == "ban":
        raise Forbidden(f"{target} is banned from the room.")
    # 4.4.1.2 If content.third_party_invite does not have a signed property, reject.
    invite = pdu.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict):
        raise Forbidden("The third-party invite is not signed.")
    # 4.4.1.3 If signed does not have mxid and token properties, reject.
    mxid, token = signed.get("mxid"), signed.get("token")
    if not isinstance(mxid, str) or not isinstance(token, str):
        raise Forbidden("The third-party invite has no mxid or no token.")
    # 4.4.1.4 If mxid does not match state_key, reject.
    if mxid != target:
        raise Forbidden("The third-party invite is for somebody else.")
    # 4.4.1.5 If there is no m.room.third_party_invite event in the current room state with
    # state_key matching token, reject.
    offer = state.find("m.room.third_party_invite", token)
    if offer is None:
        raise Forbidden("The room knows nothing of the third-party invite.")
    # 4.4.1.6 If sender does not match sender of the m.room.third_party_invite, reject.
    if pdu.sender != offer.sender:
        raise Forbidden("The third-party invite was made by somebody else.")
    # 4.4.1.7 If any signature in signed matches any public key in the m.room.third_party_invite
    # event, allow.
    if not is_signed_by_any_key(offer.content, signed):
        # 4.4.1.8 Otherwise, reject.
        raise Forbidden("The third-party invite has no valid signature.")


def _check_leave(rules: RoomVersionRules, pdu: Pdu, target: UserId, state: AuthState) -> None:
    membership = state.membership_of(target)
    # 4.5.1 If the sender matches state_key, allow if and only if that user's current membership
    # state is invite, join, or (since v7) knock.
    if pdu.sender == target:
        if membership in ("invite", "join") or (rules.knocking and membership == "knock"):
            return
        raise Forbidden("You are not in the room.")
    # 4.5.2 If the sender's current membership state is not join, reject.
    if state.membership_of(pdu.sender) != "join":
        raise Forbidden(f"{pdu.sender} is not in the room.")
    # 4.5.3 If the target user's current membership state is ban, and the sender's power level is
    # less than the ban level, reject.
    power_levels = state.power_levels
    sender_level = power_levels.of_user(pdu.sender)
    if membership == "ban" and sender_level < power_levels.ban:
        raise Forbidden("You don't have the power level to unban somebody.")
    # 4.5.4 If the sender's power level is greater than or equal to the kick level, and the target
    # user's power level is less than the sender's power level, allow.
    # 4.5.5 Otherwise, reject.
    if sender_level < power_levels.kick or power_levels.of_user(target) >= sender_level:
        raise Forbidden(f"You don't have the power level to remove {target}.")


def _check_ban(pdu: Pdu, target: UserId, state: AuthState) -> None:
    # 4.6.1 If the sender's current membership state is not join, reject.
    if state.membership_of(pdu.sender) != "join":
        raise Forbidden(f"{pdu.sender} is not in the room.")
    # 4.6.2 If the sender's power level is greater than or equal to the ban level, and the target
    # user's power level is less than the sender's power level, allow.
    # 4.6.3 Otherwise, reject.
    power_levels = state.power_levels
    sender_level = power_levels.of_user(pdu.sender)
    if sender_level < power_levels.ban or power_levels.of_user(target) >= sender_level:
        raise Forbidden(f"You don't have the power level to ban {target}.")


def _check_knock(rules: RoomVersionRules, pdu: Pdu, target: UserId, state: AuthState) -> None:
    # 4.7.1 If the join_rule is anything other than knock or (since v10) knock_restricted, reject.
    join_rule = state.join_rule
    if join_rule != "knock" and not (rules.knock_restricted and join_rule == "knock_restricted"):
        raise Forbidden("The room's join rule does not allow knocking.")
    # 4.7.2 If sender does not match state_key, reject.
    if pdu.sender != target:
        raise Forbidden("Nobody can knock for somebody else.")
    # 4.7.3 If the sender's current membership is not ban, invite, or join, allow.
    # 4.7.4 Otherwise, reject.
    membership = state.membership_of(target)
    if membership in ("ban", "invite", "join"):
        raise Forbidden(f"You cannot knock: your membership is {membership}.")
