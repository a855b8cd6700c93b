"""Facts: what the log of a room remembers; a PDU, our verdict on it, and what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from architex.domain.identifiers import EventId, RoomId, ServerName, UserId, server_name_of
from architex.domain.pdu import Pdu, StateKey

ACCEPTED: Final = 0
SOFT_FAILED: Final = 1
REJECTED: Final = 2


@dataclass(frozen=True, slots=True)
class SenderDevice:
    """The device and the transaction ID by which a client of ours sent an event.

    Shown as `unsigned.transaction_id` to that device alone.
    """

    device_id: str
    txn_id: str


@dataclass(frozen=True, slots=True)
class StateBefore:
    """The state before an event that does not simply follow the end of its room.

    It is the current state at an earlier position, changed by an overlay, changed by `entries`.

    Attributes:
        at: a position of the log.
        overlay: the position of the event whose overlay it is; None for none.
        entries: further changes; None for an entry that is not there. If there are any, they
            become an overlay of the event's own.
    """

    at: int
    overlay: int | None = None
    entries: Mapping[StateKey, EventId | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fact:
    """One entry of a room's log.

    Attributes:
        originator_id: the room ID (the name is the eventsourcing library's).
        originator_version: 1 for the first fact of the room, then 2, 3, …
        pdu: the event, as signed.
        received_ts: when we learned it, milliseconds since 1970.
        replaces: the state event that this one replaced in the state before it.
        delta: the changes of the current state, state key by state key (None: the entry went
            away). None stands for the usual case: a state event sets itself, any other nothing.
        sender_device: set for events that a client of ours sent with a transaction ID.
        redaction_server: for a redaction whose sender's power reaches only events of their own
            server, that server's name.
        before: the state before the event, where that was not the room's current state.
        reason: for soft-failed and rejected events, the rule that said so.
        known_at: the position of the event's first fact, if the log had the event before: as an
            outlier.
        ordering: of the event in the timeline, if that is not the position of the fact.
        is_followed: events that were here before follow it: it does not become an end of the room.
    """

    originator_id: RoomId
    originator_version: int
    pdu: Pdu
    received_ts: int
    replaces: EventId | None = None
    delta: Mapping[StateKey, EventId | None] | None = None
    sender_device: SenderDevice | None = None
    redaction_server: ServerName | None = None
    before: StateBefore | None = None
    reason: str | None = None
    known_at: int | None = None
    ordering: int | None = None
    is_followed: bool = False

    verdict: ClassVar[int]
    is_outlier: ClassVar[bool] = False
    """Whether we know the event, but not the state of the room where it stands."""
    is_in_timeline: ClassVar[bool] = False
    """Whether the event has its place in what clients read."""

    def redacts_event_of(self, sender: UserId | None) -> bool:
        """Whether the fact is a redaction that reaches events of a sender (None: unknown)."""
        if self.verdict != ACCEPTED or self.pdu.redacts is None:
            return False
        server = self.redaction_server
        return server is None or (sender is not None and server_name_of(sender) == server)

    @property
    def state_changes(self) -> Mapping[StateKey, EventId | None]:
        """What the fact changed in the current state."""
        if self.delta is not None:
            return self.delta
        return self._own_change

    @property
    def _own_change(self) -> Mapping[StateKey, EventId | None]:
        if self.verdict == ACCEPTED and self.pdu.state_key is not None:
            return {(self.pdu.type, self.pdu.state_key): self.pdu.event_id}
        return {}


@dataclass(frozen=True, slots=True)
class PduAccepted(Fact):
    """The event is part of the room."""

    verdict: ClassVar[int] = ACCEPTED
    is_in_timeline: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class PduSoftFailed(Fact):
    """The event was allowed where it stands in the graph, but not by the current state."""

    verdict: ClassVar[int] = SOFT_FAILED


@dataclass(frozen=True, slots=True)
class PduRejected(Fact):
    """The event breaks the authorization rules."""

    verdict: ClassVar[int] = REJECTED


@dataclass(frozen=True, slots=True)
class StateImported(Fact):
    """Another server told us the event, as part of a state or of an auth chain.

    With `delta` None it becomes part of the current state, with an empty one it is only known. It
    is also how a membership of a user of ours is remembered in a room that this server is not in:
    an invite that came, or a knock.
    """

    verdict: ClassVar[int] = ACCEPTED
    is_outlier: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ImportRejected(Fact):
    """Another server told us the event, and it breaks the authorization rules.

    It has an `ordering` if it stands in the history before what we have; nobody reads it there.
    """

    verdict: ClassVar[int] = REJECTED
    is_outlier: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class HistoryImported(Fact):
    """Another server told us the event, as part of the history before what we have.

    It changes nothing but what can be read of the past.
    """

    verdict: ClassVar[int] = ACCEPTED
    is_outlier: ClassVar[bool] = True
    is_in_timeline: ClassVar[bool] = True

    @property
    def _own_change(self) -> Mapping[StateKey, EventId | None]:
        return {}


@dataclass(frozen=True, slots=True)
class JoinImported(Fact):
    """The join by which this server entered the room through another; all that counts is after it.

    `delta` says what the state that the other server told changes in the one that we have.
    """

    verdict: ClassVar[int] = ACCEPTED
    is_in_timeline: ClassVar[bool] = True


def may_come_from_outside(fact: Fact) -> bool:
    """Whether a fact may be a membership of our user in a room that this server is not in.

    An invite that came, a knock, and what ends them: nobody told what authorises these.
    """
    return (
        isinstance(fact, StateImported)
        and fact.delta is None
        and fact.pdu.membership not in (None, "join")
    )


FACT_CLASSES: Final[Mapping[str, type[Fact]]] = {
    fact_class.__name__: fact_class
    for fact_class in (
        PduAccepted,
        PduSoftFailed,
        PduRejected,
        StateImported,
        ImportRejected,
        HistoryImported,
        JoinImported,
    )
}


@dataclass(frozen=True, slots=True)
class RecordedFact:
    """A fact with its place in the log, as projections receive it.

    Attributes:
        position: the fact's place in the whole log.
        room_nid: the room's number.
        fact: what was recorded.
    """

    position: int
    room_nid: int
    fact: Fact

    @property
    def event_position(self) -> int:
        """The integer ID of the event: the position of its first fact."""
        return self.position if self.fact.known_at is None else self.fact.known_at

    @property
    def ordering(self) -> int:
        """Where in the room's history the fact puts the event, if it gives it a place."""
        return self.position if self.fact.ordering is None else self.fact.ordering

    @property
    def pdu(self) -> Pdu:
        """The event."""
        return self.fact.pdu

    @property
    def content(self) -> Mapping[str, Any]:
        """The event's content."""
        return self.fact.pdu.content
