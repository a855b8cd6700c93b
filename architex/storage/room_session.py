"""A decision about one room, and what it sees: the room under its lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from architex.domain.auth_rules import FindState
from architex.domain.errors import MatrixError
from architex.domain.identifiers import EventId, RoomId
from architex.domain.pdu import Pdu, StateKey
from architex.domain.policy_servers import PolicyServer, needs_recommendation
from architex.domain.room.aggregate import EventDraft, Room, Signer
from architex.domain.room.events import Fact
from architex.domain.room.resets import find_unresolved
from architex.domain.room_versions import RoomVersionRules
from architex.storage.event_log import RoomHead
from architex.storage.pool import PgConnection, WriteRows
from architex.storage.transactions import TransactionKey

log = logging.getLogger(__name__)

T = TypeVar("T")

_MADE_ANEW: Final = frozenset({"origin_server_ts", "hashes", "signatures", "event_id", "unsigned"})
"""What differs when the same event is composed again."""


class PolicyServers(Protocol):
    """Knows the policy servers of rooms, and asks them.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#policy-servers
    """

    def find(self, session: RoomSession) -> PolicyServer | None:
        """The policy server that a room uses; None for none."""

    def sign(self, rules: RoomVersionRules, policy_server: PolicyServer, pdu: Pdu) -> Pdu:
        """The event, signed by a policy server; raises MatrixError when it does not."""

    def sign_each(
        self, rules: RoomVersionRules, policy_server: PolicyServer, pdus: Sequence[Pdu]
    ) -> list[Pdu | MatrixError]:
        """For each event: it, signed, or why it is not."""


class RecommendationNeeded(MatrixError):
    """An event of ours needs the signature of the room's policy server; nothing is written yet."""

    def __init__(self, rules: RoomVersionRules, policy_server: PolicyServer, pdu: Pdu) -> None:
        super().__init__(f"{policy_server.server_name} has not recommended the event.")
        self.rules = rules
        self.policy_server = policy_server
        self.pdu = pdu


@dataclass(frozen=True, slots=True)
class RoomCommand(Generic[T]):
    """Something to decide about one room, under its lock.

    Attributes:
        decide: looks at the session's room and appends to it; raises MatrixError to refuse, and
            then nothing of it is written. May be called again on a retry.
        prefetch: entries of the state that it will look at.
        transaction: the client's transaction; then `decide` returns the event ID, and a second
            command of the same transaction returns the first one's, and decides nothing.
        creates: for a room that does not exist yet, its version's rules; they also count where a
            room is known by invites only, and nobody knows better.
        recommended: events that `decide` composed before, which the room's policy server signed.
    """

    room_id: RoomId
    decide: Callable[[RoomSession], T]
    prefetch: frozenset[StateKey] = frozenset()
    transaction: TransactionKey | None = None
    creates: RoomVersionRules | None = None
    recommended: tuple[Pdu, ...] = ()


class OpenBatch(Protocol):
    """The transaction that a decision is part of, as the decision sees it."""

    @property
    def connection(self) -> PgConnection:
        """Its connection."""

    @property
    def signer(self) -> Signer:
        """The name and the key that our events carry."""

    @property
    def policy_servers(self) -> PolicyServers | None:
        """Who knows the policy servers of rooms; None for nobody."""

    @property
    def facts(self) -> Sequence[Fact]:
        """What earlier decisions of it record."""

    @property
    def new_opaque_id(self) -> Callable[[], str]:
        """Names for the events of rooms where they are not hashes."""

    def learn(self, room: Room, keys: Sequence[StateKey]) -> Room:
        """The room, told what the database has under `keys`."""


class RoomSession:
    """A room under its lock, for the time of one decision."""

    def __init__(
        self,
        room: Room,
        head: RoomHead,
        now_ms: int,
        batch: OpenBatch,
        recommended: Sequence[Pdu] = (),
    ) -> None:
        self._recommended = recommended
        self.room = room
        self.head = head
        self.now_ms = now_ms
        self.facts: list[Fact] = []
        self.rows: list[WriteRows] = []
        self.after_gaps: set[EventId] = set()
        self._batch = batch

    def find_state(self, type: str, state_key: str = "") -> Pdu | None:
        """The event of the current state, or None."""
        self._require([(type, state_key)])
        return self.room.find_state(type, state_key)

    def append(self, draft: EventDraft) -> Pdu:
        """Add an event of ours at the end of the room.

        Raises:
            Forbidden: the authorization rules do not allow it.
            BadJson, TooLarge: the event would break the format or a size limit.
            RecommendationNeeded: by the room's policy server; the queue sees to it.
        """
        needed = self.room.auth_types(draft)
        if draft.state_key is not None:
            needed |= {(draft.type, draft.state_key)}
        self._require([("m.room.create", ""), *needed])
        pdu = self.recommend(self.compose(draft))
        self.record(self.room.accepted(pdu, self.now_ms, draft.device))
        return pdu

    def recommend(self, pdu: Pdu) -> Pdu:
        """An event of ours as the room's policy server signed it; as it is, where there is none.

        Raises:
            RecommendationNeeded: it has not signed it yet. The queue asks it, and decides again.
        """
        policy_server = self.policy_server
        if policy_server is None or not needs_recommendation(pdu):
            return pdu
        for recommended in self._recommended:
            if _is_same_decision(recommended, pdu):
                return recommended
        raise RecommendationNeeded(self.room.rules, policy_server, pdu)

    @property
    def policy_server(self) -> PolicyServer | None:
        """The server whose signature the events of the room need now; None for none."""
        policy_servers = self._batch.policy_servers
        return None if policy_servers is None else policy_servers.find(self)

    def compose(self, draft: EventDraft, find_before: FindState | None = None) -> Pdu:
        """The event that `draft` would become, not added; see `Room.compose`."""
        return self.room.compose(
            draft,
            self._batch.signer,
            self.now_ms,
            opaque_id=self._batch.new_opaque_id(),
            find_before=find_before,
        )

    def append_composed(self, pdu: Pdu) -> None:
        """Add an event that was composed before the room existed: its m.room.create."""
        self.record(self.room.accepted(pdu, self.now_ms))

    def record(self, fact: Fact, *, after_gap: bool = False) -> None:
        """Add a fact whose verdict is known.

        Args:
            after_gap: events before it are missing; positions are left free, so that they find
                their places in the timeline if they come.
        """
        for type_, state_key in find_unresolved(fact):
            log.warning(
                "State reset in %s: %s %r changes with %s, but no branches met. Run"
                " `architex verify`.",
                fact.originator_id,
                type_,
                state_key,
                fact.pdu.event_id,
            )
        self.room = self.room.evolve(fact)
        self.facts.append(fact)
        if after_gap:
            self.after_gaps.add(fact.pdu.event_id)

    @property
    def connection(self) -> PgConnection:
        """The connection of the transaction, for projections' questions."""
        return self._batch.connection

    def learn(self, entries: Mapping[StateKey, Pdu | None]) -> None:
        """Tell the room what its current state has in some entries."""
        self.room = self.room.learn(entries)

    def is_uncommitted(self, event_id: EventId) -> bool:
        """Whether an event is only being recorded in this group: it has no position yet."""
        return any(fact.pdu.event_id == event_id for fact in (*self._batch.facts, *self.facts))

    def also(self, write: WriteRows) -> None:
        """Write further rows in the same transaction; their position is the last fact's."""
        self.rows.append(write)

    def _require(self, keys: Iterable[StateKey]) -> None:
        unknown = self.room.unknown(keys)
        if unknown:
            self.room = self._batch.learn(self.room, unknown)


def _is_same_decision(earlier: Pdu, pdu: Pdu) -> bool:
    """Whether an event was composed of the same draft at the same place in the room."""
    return all(
        earlier.event.get(key) == pdu.event.get(key)
        for key in {*earlier.event, *pdu.event} - _MADE_ANEW
    )
