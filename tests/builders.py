"""Builders for pure tests: rooms made of real, signed events, without a server around them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from architex.domain.auth_rules import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
    find_state_among,
)
from architex.domain.identifiers import EventId, RoomId, UserId, server_name_of
from architex.domain.pdu import Pdu, StateKey, build_event, compute_reference_hash, parse_pdu
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.domain.signing import SigningKey, sign_event
from architex.domain.state_resolution import resolve_state

ALICE = "@alice:a.example"
BOB = "@bob:b.example"
CAROL = "@carol:c.example"
DAVE = "@dave:a.example"

#: The key all servers of these tests sign with.
TEST_KEY = SigningKey.from_seed(b"architex tests: not a secret key", "test")


class RoomBuilder:
    """A room that grows event by event; prev and auth events, depth and time are filled in.

    `fork` gives a branch of the same room: it knows the same events and goes on by itself.

        room = RoomBuilder("11", creator=ALICE)
        room.join(BOB)
        room.send(BOB, "m.room.message", {"body": "hello"})

    Attributes:
        pdus: every event of the room, branches included, in the order they were made.
        state: the state after the newest event of this branch.
    """

    def __init__(
        self,
        version: str = "11",
        *,
        creator: UserId = ALICE,
        join_rule: str | None = "public",
        power_levels: Mapping[str, Any] | None = None,
        create_content: Mapping[str, Any] | None = None,
        empty: bool = False,
    ) -> None:
        """Start a room: created, its creator joined, power levels and join rule set.

        Args:
            join_rule: None to leave the room without.
            power_levels: content of m.room.power_levels; by default the creator has 100.
            create_content: further content of m.room.create.
            empty: stop after the create event.
        """
        self.rules: RoomVersionRules = get_room_version(version)
        self.creator = creator
        self.pdus: dict[EventId, Pdu] = {}
        self.state: dict[StateKey, EventId] = {}
        self.heads: tuple[EventId, ...] = ()
        self.state_after: dict[EventId, dict[StateKey, EventId]] = {}
        self._clock = itertools.count(1_700_000_000_001)
        self._event_numbers = itertools.count()
        self.room_id: RoomId = f"!room:{server_name_of(creator)}"
        content: dict[str, Any] = {"room_version": version, **(create_content or {})}
        if not self.rules.creator_is_sender:
            content.setdefault("creator", creator)
        create = self.send_state(creator, "m.room.create", content)
        self.room_id = create.room_id
        if empty:
            return
        self.join(creator)
        if power_levels is None:
            power_levels = {"users": {} if self.rules.privileged_creators else {creator: 100}}
        self.send_state(creator, "m.room.power_levels", power_levels)
        if join_rule is not None:
            self.send_state(creator, "m.room.join_rules", {"join_rule": join_rule})

    def fork(self) -> RoomBuilder:
        """Return a branch that goes on from here by itself; events and time are shared."""
        branch = object.__new__(RoomBuilder)
        branch.__dict__.update(self.__dict__)
        branch.state = dict(self.state)
        return branch

    def merge(self, *others: RoomBuilder) -> None:
        """Let this branch go on from its own end and those of the others, state resolved."""
        branches = (self, *others)
        self.state = resolve_state(
            self.rules,
            [branch.state for branch in branches],
            [self.auth_chain(branch.state.values()) for branch in branches],
            self.pdus.get,
        )
        self.heads = tuple(sorted({head for branch in branches for head in branch.heads}))

    def compose(
        self,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: EventId | None = None,
        prev_events: Sequence[EventId] | None = None,
        auth_events: Sequence[EventId] | None = None,
        origin_server_ts: int | None = None,
        depth: int | None = None,
    ) -> Pdu:
        """Make the event that would come next, without adding it to the room."""
        rules = self.rules
        prev_events = self.heads if prev_events is None else prev_events
        if auth_events is None:
            keys = auth_types_for_event(
                rules, type=type, state_key=state_key, sender=sender, content=content
            )
            auth_events = sorted({self.state[key] for key in keys if key in self.state})
        if origin_server_ts is None:
            origin_server_ts = next(self._clock)
        if depth is None:
            depth = 1 + max((self.pdus[parent].depth for parent in prev_events), default=0)
        server_name = server_name_of(sender)
        old_format = rules.event_id_format == "domain"
        event = build_event(
            rules,
            room_id=self.room_id,
            sender=sender,
            type=type,
            content=content,
            state_key=state_key,
            redacts=redacts,
            prev_events=prev_events,
            auth_events=auth_events,
            depth=depth,
            origin_server_ts=origin_server_ts,
            event_id=f"${next(self._event_numbers)}:{server_name}" if old_format else None,
            reference_hashes={
                event_id: compute_reference_hash(rules, self.pdus[event_id].event)
                for event_id in (*prev_events, *auth_events)
            }
            if old_format
            else None,
        )
        signed, _ = sign_event(rules, event, server_name, TEST_KEY)
        # What it is told to make it makes: events of before there was a limit, too.
        return parse_pdu(rules, signed, limit_references=False)

    def check(self, pdu: Pdu) -> None:
        """Check an event by its auth events and by the state of this branch.

        Raises:
            Forbidden: the authorisation rules refuse it.
        """
        check_state_independent_auth_rules(
            self.rules,
            pdu,
            [self.pdus[event_id] for event_id in pdu.auth_events],
            create=self.find_state("m.room.create"),
        )
        check_state_dependent_auth_rules(self.rules, pdu, self.find_state)

    def add(self, pdu: Pdu) -> Pdu:
        """Put an event at the end of this branch, allowed or not."""
        self.pdus[pdu.event_id] = pdu
        self.heads = (pdu.event_id,)
        if pdu.is_state:
            self.state = {**self.state, pdu.key: pdu.event_id}
        self.state_after[pdu.event_id] = self.state
        return pdu

    def send(self, sender: UserId, type: str, content: Mapping[str, Any], **fields: Any) -> Pdu:
        """Make an event, check it against the rules, and put it at the end of this branch.

        Raises:
            Forbidden: the authorisation rules refuse it.
        """
        pdu = self.compose(sender, type, content, **fields)
        self.check(pdu)
        return self.add(pdu)

    def send_state(
        self,
        sender: UserId,
        type: str,
        content: Mapping[str, Any],
        state_key: str = "",
        **fields: Any,
    ) -> Pdu:
        """As `send`, for a state event."""
        return self.send(sender, type, content, state_key=state_key, **fields)

    def message(self, sender: UserId, body: str = "hello") -> Pdu:
        """Send a text message."""
        return self.send(sender, "m.room.message", {"msgtype": "m.text", "body": body})

    def member(self, sender: UserId, target: UserId, membership: str, **content: Any) -> Pdu:
        """Change a user's membership."""
        return self.send_state(
            sender, "m.room.member", {"membership": membership, **content}, target
        )

    def join(self, user_id: UserId, **content: Any) -> Pdu:
        """Let a user join."""
        return self.member(user_id, user_id, "join", **content)

    def leave(self, user_id: UserId) -> Pdu:
        """Let a user leave."""
        return self.member(user_id, user_id, "leave")

    def invite(self, sender: UserId, target: UserId) -> Pdu:
        """Invite a user."""
        return self.member(sender, target, "invite")

    def kick(self, sender: UserId, target: UserId) -> Pdu:
        """Remove (or unban) a user."""
        return self.member(sender, target, "leave")

    def ban(self, sender: UserId, target: UserId) -> Pdu:
        """Ban a user."""
        return self.member(sender, target, "ban")

    def set_power_levels(self, sender: UserId, **content: Any) -> Pdu:
        """Replace the power levels' content."""
        return self.send_state(sender, "m.room.power_levels", content)

    def set_levels(
        self, sender: UserId, users: Mapping[UserId, int] | None = None, **content: Any
    ) -> Pdu:
        """Set power levels; Alice, who created the room, keeps 100 if creators need a level."""
        creators = {} if self.rules.privileged_creators else {ALICE: 100}
        return self.set_power_levels(sender, users={**creators, **(users or {})}, **content)

    def set_join_rule(self, sender: UserId, join_rule: str, **content: Any) -> Pdu:
        """Set the join rule."""
        return self.send_state(sender, "m.room.join_rules", {"join_rule": join_rule, **content})

    def find_state(self, type: str, state_key: str = "") -> Pdu | None:
        """Return the event at that place of this branch's state."""
        event_id = self.state.get((type, state_key))
        return None if event_id is None else self.pdus[event_id]

    def auth_chain(self, event_ids: Iterable[EventId]) -> set[EventId]:
        """Return the auth chain of events, themselves not included unless one needs another."""
        return auth_chain_of(self.pdus, event_ids)


def auth_chain_of(pdus: Mapping[EventId, Pdu], event_ids: Iterable[EventId]) -> set[EventId]:
    """Return the auth chain of some of `pdus`; see `RoomBuilder.auth_chain`."""
    chain: set[EventId] = set()
    stack = list(event_ids)
    while stack:
        for auth_id in pdus[stack.pop()].auth_events:
            if auth_id not in chain:
                chain.add(auth_id)
                stack.append(auth_id)
    return chain


def auth_events_allow(room: RoomBuilder, pdu: Pdu) -> None:
    """Check an event against the state that its own auth events make up.

    Raises:
        Forbidden: the authorisation rules refuse it.
    """
    auth_events = [room.pdus[event_id] for event_id in pdu.auth_events]
    create = room.find_state("m.room.create")
    check_state_independent_auth_rules(room.rules, pdu, auth_events, create=create)
    check_state_dependent_auth_rules(room.rules, pdu, find_state_among(auth_events, create=create))
