"""Rooms that grow by chance, fork and merge: the events that rules are compared on."""

from __future__ import annotations

import base64
from collections.abc import Callable
from random import Random  # noqa: TID251 -- only the type: hypothesis hands in the numbers
from typing import Any

from architex.domain.auth_rules import auth_types_for_event, check_state_dependent_auth_rules
from architex.domain.errors import Forbidden
from architex.domain.identifiers import EventId, UserId, server_name_of
from architex.domain.pdu import Pdu
from architex.domain.signing import SigningKey, sign_json
from tests.builders import ALICE, BOB, CAROL, DAVE, RoomBuilder, auth_events_allow

USERS = (ALICE, BOB, CAROL, DAVE, "@eve:b.example")
LEVELS = (0, 0, 25, 50, 50, 75, 100, 101, -1)
IDENTITY_KEY = SigningKey.from_seed(b"an identity server's signing key", "0")
WRONG_KEY = SigningKey.from_seed(b"not an identity server's key at ", "0")

Judge = Callable[[RoomBuilder, Pdu], None]


class RandomRoom:
    """A room with branches, to which one event after the other is tried.

    Args:
        judge: sees every event that is tried, with the branch it is tried on, before it is added.
    """

    def __init__(self, version: str, random: Random, judge: Judge) -> None:
        self.random = random
        self.judge = judge
        self.version = int(version)
        create_content: dict[str, Any] = {}
        if self.chance(0.1):
            create_content["m.federate"] = False
        if self.version >= 12 and self.chance(0.5):
            create_content["additional_creators"] = [BOB]
        self.room = RoomBuilder(version, create_content=create_content, empty=True)
        self.branches = [self.room]
        self.attempt(self.room, ALICE, "m.room.member", {"membership": "join"}, ALICE)
        if self.chance(0.9):
            users: dict[str, Any] = {} if self.version >= 12 else {ALICE: 100}
            if self.chance(0.6):
                users[DAVE] = self.pick((100, 100, 50))
            self.attempt(self.room, ALICE, "m.room.power_levels", {"users": users}, "")
        if self.chance(0.9):
            rule = self.pick(("public", "public", "public", *self.join_rules()))
            self.attempt(self.room, ALICE, "m.room.join_rules", {"join_rule": rule}, "")

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, choices: Any) -> Any:
        return self.random.choice(choices)

    def join_rules(self) -> tuple[Any, ...]:
        return ("public", "invite", "knock", "restricted", "knock_restricted", "private", 7)

    def grow(self, steps: int) -> None:
        """Try so many events; branches come and go."""
        for _ in range(steps):
            branch = self.pick(self.branches)
            if len(self.branches) < 3 and self.chance(0.12):
                self.branches.append(branch.fork())
            elif len(self.branches) > 1 and self.chance(0.05):
                other = self.pick([one for one in self.branches if one is not branch])
                branch.merge(other)
                self.branches.remove(other)
            self.step(branch)

    def step(self, branch: RoomBuilder) -> None:
        """Try one event on a branch."""
        kinds: list[tuple[int, Callable[[RoomBuilder], None]]] = [
            (4, self.try_join),
            (10, self.try_member),
            (8, self.try_power_levels),
            (3, self.try_join_rules),
            (6, self.try_plain_state),
            (2, self.try_message),
            (2, self.try_redaction),
            (2, self.try_third_party),
            (1, self.try_odd),
        ]
        self.pick([kind for weight, kind in kinds for _ in range(weight)])(branch)

    def attempt(
        self,
        branch: RoomBuilder,
        sender: UserId,
        type: str,
        content: dict[str, Any],
        state_key: str | None = None,
        redacts: EventId | None = None,
    ) -> None:
        """Let the judge see an event, and add it when it is allowed."""
        auth_events = None
        if self.chance(0.15):
            # A server may name other auth events than those of the branch.
            auth_events = self.auth_events_of_old(branch, type, state_key, sender, content)
        pdu = branch.compose(
            sender,
            type,
            content,
            state_key=state_key,
            redacts=redacts,
            auth_events=auth_events,
            # Few different times: ties must be broken by other means.
            origin_server_ts=1_700_000_000_000 + self.random.randrange(6),
        )
        if pdu.event_id in branch.pdus or self.is_judged_differently(branch, pdu):
            return
        self.judge(branch, pdu)
        try:
            auth_events_allow(branch, pdu)
            check_state_dependent_auth_rules(branch.rules, pdu, branch.find_state)
        except Forbidden:
            return
        branch.add(pdu)

    def auth_events_of_old(
        self,
        branch: RoomBuilder,
        type: str,
        state_key: str | None,
        sender: UserId,
        content: dict[str, Any],
    ) -> list[EventId]:
        """Return the auth events that an event would have had at some other moment."""
        state = self.pick(list(branch.state_after.values()))
        keys = auth_types_for_event(
            branch.rules, type=type, state_key=state_key, sender=sender, content=content
        )
        return sorted({state[key] for key in keys if key in state})

    def is_judged_differently(self, branch: RoomBuilder, pdu: Pdu) -> bool:
        """Tell whether Synapse is known to go beyond the spec about an event.

        Where m.federate is false it looks at the target's server, too; the spec at the sender's.
        """
        create = branch.find_state("m.room.create")
        return (
            create is not None
            and create.content.get("m.federate") is False
            and pdu.type == "m.room.member"
            and ":" in (pdu.state_key or "")
            and server_name_of(pdu.state_key or "") != server_name_of(create.sender)
        )

    def likely_sender(self, branch: RoomBuilder) -> UserId:
        """Return somebody in the room, mostly."""
        members = [
            key[1]
            for key, event_id in branch.state.items()
            if key[0] == "m.room.member" and branch.pdus[event_id].membership == "join"
        ]
        sender: UserId = self.pick(members) if members and self.chance(0.9) else self.pick(USERS)
        return sender

    def try_join(self, branch: RoomBuilder) -> None:
        user = self.pick(USERS)
        content: dict[str, Any] = {"membership": "join"}
        if self.chance(0.3):
            content["join_authorised_via_users_server"] = self.pick(USERS)
        sender = user if self.chance(0.95) else self.pick(USERS)
        self.attempt(branch, sender, "m.room.member", content, user)

    def try_member(self, branch: RoomBuilder) -> None:
        memberships = ("invite", "leave", "ban", "knock", "join", "leave", "ban", "bogus", None)
        content: dict[str, Any] = {"membership": self.pick(memberships)}
        if self.chance(0.03):
            del content["membership"]
        target = self.pick(USERS)
        sender = target if self.chance(0.2) else self.likely_sender(branch)
        self.attempt(
            branch, sender, "m.room.member", content, target if self.chance(0.98) else None
        )

    def level(self) -> Any:
        level = self.pick(LEVELS)
        if self.chance(0.06):
            return self.pick((str(level), f" {level} ", f"+{abs(level)}", f"0{abs(level)}"))
        if self.version <= 5 and self.chance(0.05):
            return level + 0.57
        return level

    def table(self, keys: tuple[str, ...], probability: float) -> dict[str, Any]:
        return {key: self.level() for key in keys if self.chance(probability)}

    def try_power_levels(self, branch: RoomBuilder) -> None:
        current = branch.find_state("m.room.power_levels")
        content: dict[str, Any] = dict(current.content) if current is not None else {}
        for name in ("ban", "kick", "invite", "redact", "events_default", "state_default"):
            if self.chance(0.1):
                content[name] = self.level()
            elif self.chance(0.05):
                content.pop(name, None)
        if self.chance(0.08):
            content["users_default"] = self.level()
        users = dict(content.get("users", {}))
        users.update(self.table(USERS, 0.15))
        if self.chance(0.2) and users:
            del users[self.pick(sorted(users))]
        if self.version >= 12 and self.chance(0.8):
            for creator in (ALICE, BOB):
                users.pop(creator, None)
        content["users"] = users
        events = ("m.room.topic", "m.room.name", "m.room.power_levels", "m.room.message")
        if self.chance(0.4):
            content["events"] = self.table(events, 0.4)
        if self.chance(0.2):
            content["notifications"] = self.table(("room", "other"), 0.6)
        if self.chance(0.03):
            content["users"] = self.pick(({"not a user": 5}, {ALICE: "many"}, [], {BOB: None}))
        self.attempt(branch, self.likely_sender(branch), "m.room.power_levels", content, "")

    def try_join_rules(self, branch: RoomBuilder) -> None:
        content = {"join_rule": self.pick(self.join_rules())} if self.chance(0.95) else {}
        self.attempt(branch, self.likely_sender(branch), "m.room.join_rules", content, "")

    def try_plain_state(self, branch: RoomBuilder) -> None:
        sender = self.likely_sender(branch)
        type = self.pick(("m.room.topic", "m.room.name", "m.room.aliases", "org.example.mine"))
        state_key = self.pick(("", "", "", sender, self.pick(USERS), server_name_of(sender)))
        self.attempt(branch, sender, type, {"value": self.random.randrange(1000)}, state_key)

    def try_message(self, branch: RoomBuilder) -> None:
        self.attempt(branch, self.likely_sender(branch), "m.room.message", {"body": "hello"})

    def try_redaction(self, branch: RoomBuilder) -> None:
        target = self.pick(sorted(branch.pdus))
        self.attempt(branch, self.likely_sender(branch), "m.room.redaction", {}, redacts=target)

    def try_third_party(self, branch: RoomBuilder) -> None:
        sender = self.likely_sender(branch)
        token = self.pick(("token1", "token2"))
        if self.chance(0.5):
            key = IDENTITY_KEY.verify_key_base64
            if self.chance(0.3):
                # Some write URL-safe base64.
                key = base64.urlsafe_b64encode(IDENTITY_KEY.verify_key).decode().rstrip("=")
            content: dict[str, Any] = {"display_name": "b…", "public_key": key}
            if self.chance(0.5):
                content["public_keys"] = [{"public_key": content.pop("public_key")}]
            self.attempt(branch, sender, "m.room.third_party_invite", content, token)
            return
        target = self.pick(USERS)
        signed: dict[str, Any] = {"mxid": target, "token": token}
        if self.chance(0.1):
            signed.pop(self.pick(("mxid", "token")))
        if self.chance(0.9):
            key_pair = IDENTITY_KEY if self.chance(0.9) else WRONG_KEY
            signed = sign_json(signed, "id.example", key_pair)
        invite = {"display_name": "b…", "signed": signed} if self.chance(0.95) else {}
        content = {"membership": "invite", "third_party_invite": invite}
        self.attempt(branch, sender, "m.room.member", content, target)

    def try_odd(self, branch: RoomBuilder) -> None:
        sender = self.pick(USERS)
        type = self.pick(("m.room.member", "m.room.aliases", "org.example.mine"))
        self.attempt(branch, sender, type, {}, self.pick((None, "", sender, "nobody")))
