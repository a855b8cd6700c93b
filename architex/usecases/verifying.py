"""Verifying: walks the log, judges every event once more, and compares what was made of it.

Room by room: each fact is hashed, its signatures and its authorisation are checked again, and the
state where it stands is computed anew, from a replay that nothing of the real read side enters.
Then the tables of every projection are compared with the replay. What it costs follows the
number of facts; what it holds in memory does not.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import immutables
import orjson

from architex.domain.auth_rules import FindState
from architex.domain.errors import InvalidSignature, MatrixError
from architex.domain.identifiers import EventId, RoomId, ServerName
from architex.domain.pdu import (
    Pdu,
    StateKey,
    compute_event_id,
    has_valid_content_hash,
    parse_pdu,
    signed_event_json,
)
from architex.domain.redaction import redact_event
from architex.domain.room.aggregate import (
    DUMMY_EVENT_TYPE,
    MAX_PREV_EVENTS,
    Room,
    extremities_after,
    redaction_server,
)
from architex.domain.room.events import (
    ACCEPTED,
    FACT_CLASSES,
    REJECTED,
    SOFT_FAILED,
    Fact,
    JoinImported,
    RecordedFact,
    StateBefore,
    may_come_from_outside,
)
from architex.domain.room.pdu_checks import Outcome, check_authorisation, check_imported
from architex.domain.room_versions import RoomVersionRules, get_room_version
from architex.domain.signing import (
    FindVerifyKey,
    servers_that_must_sign,
    signatures_of,
    verify_signature,
)
from architex.projections.base import Projection, Timing
from architex.projections.branch_states import BranchStates, KnownEvent
from architex.projections.event_graph import referred_events, required_events
from architex.projections.verification import Answer, Difference, Replay, StoredFact, replaying
from architex.storage.event_log import RoomHead
from architex.storage.pool import Database
from architex.storage.room_facts import check_envelope, decode_fact, room_version_of
from architex.storage.room_snapshots import decode_snapshot, is_damaged
from architex.storage.server_keys import ServerKeyStore
from architex.storage.transactions import TransactionKey
from architex.usecases.resolving import Resolving

CHUNK_SIZE: Final = 250
"""Facts of a room that are read, replayed and judged at once."""

GROUP_FACTS: Final = 5_000
GROUP_ROOMS: Final = 100
"""Rooms are compared in groups, of about so many facts and at most so many rooms."""

MAX_CATCHING_UP: Final = 20
"""How often a group reads on before it is compared, while its rooms go on."""

MAX_STRAYS: Final = 20
MAX_REMEMBERED_SERVERS: Final = 10_000

_CREATE: Final[StateKey] = ("m.room.create", "")

_VERDICTS: Final = {
    Outcome.ACCEPTED: ACCEPTED,
    Outcome.SOFT_FAILED: SOFT_FAILED,
    Outcome.REJECTED: REJECTED,
}

_HOWTO: Final = "docs/howto/verify-a-server.md"
_RESTORE: Final = (
    "The log is what everything else is made from: restore this fact from a backup of the database"
    f" ({_HOWTO}#the-log)"
)
_MEND_HEAD: Final = f"Set the room's row in the table rooms right: {_HOWTO}#the-row-of-a-room"
_MEND_POSITION: Final = f"Move the end of the log on: {_HOWTO}#the-end-of-the-log"
_MEND_SNAPSHOT: Final = f"Delete the snapshot, the room does without: {_HOWTO}#a-snapshot"
_MEND_ANSWER: Final = f"Delete the answer, the client tries again: {_HOWTO}#an-answer"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        version: of the fact in its room: 1, 2, 3, …
        position: of the fact in the whole log.
        what: what is wrong.
        mend: what to do about it.
    """

    what: str
    mend: str
    room_id: RoomId | None = None
    version: int | None = None
    position: int | None = None
    event_id: EventId | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """A change of a room's current state that the event it came with does not explain.

    Attributes:
        event_id: what stands since; None when nothing does.
        came_with: the event that was recorded.
    """

    room_id: RoomId
    type: str
    state_key: str
    event_id: EventId | None
    position: int
    came_with: EventId


@dataclass
class Report:
    """What a verification found.

    Attributes:
        rooms, facts: how many were looked at.
        problems: the first ones of each room, at most `max_problems` in all.
        more_problems: how many are not listed.
        resets: changes of state that no event explains; it is the rules that gave them.
        unknown_signatures: signatures by keys that this server does not have.
        not_looked_at: what was left out, and why.
    """

    max_problems: int = 100
    rooms: int = 0
    facts: int = 0
    problems: list[Problem] = field(default_factory=list)
    more_problems: int = 0
    resets: list[Reset] = field(default_factory=list)
    unknown_signatures: int = 0
    not_looked_at: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, problem: Problem) -> None:
        """Take down a problem."""
        if len(self.problems) < self.max_problems:
            self.problems.append(problem)
        else:
            self.more_problems += 1


Progress = Callable[[int, int, str], None]
"""Told how many facts were looked at, how many there are, and what is looked at now."""


def _no_progress(done: int, total: int, what: str) -> None:
    return None


@dataclass(frozen=True)
class Verifying:
    """Verifies the log and the projections while the server serves.

    Attributes:
        projections: makes every projection, new instances at each call.
        find_verify_key: the keys that are known; signatures by others are counted, not checked.
    """

    database: Database
    projections: Callable[[], Iterable[Projection]]
    find_verify_key: FindVerifyKey

    def verify(
        self,
        room_id: RoomId | None = None,
        *,
        max_load: float = 1.0,
        max_problems: int = 100,
        on_progress: Progress = _no_progress,
    ) -> Report:
        """Look at everything, or at one room.

        Args:
            max_load: the part of the time in which to work, from above 0 to 1.
            max_problems: how many to list; the others are counted.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        report = Report(max_problems)
        inline = [p for p in self.projections() if p.timing is Timing.INLINE]
        with replaying(self.database, inline) as replay:
            walk = _Walk(replay, self.find_verify_key, report, _Pace(max_load), on_progress)
            walk.run(room_id)
        if room_id is not None:
            report.not_looked_at.append("followed projections: they are compared for all rooms")
        elif walk.has_unreadable:
            report.not_looked_at.append("followed projections: not all of the log can be replayed")
        else:
            for projection in self.projections():
                if projection.timing is Timing.FOLLOWED:
                    with replaying(self.database, [projection]) as replay:
                        _verify_followed(replay, projection, report, walk.pace, on_progress)
        return report


class RememberedKeys:
    """The verify keys that this server has: its own, and those that other servers told it.

    Asks nobody. Where a server told two keys under one ID, neither is known.
    """

    def __init__(
        self, server_name: ServerName, own_key_id: str, own_key: bytes, store: ServerKeyStore
    ) -> None:
        self._own = {own_key_id: own_key}
        self._server_name = server_name
        self._store = store
        self._told: OrderedDict[ServerName, Mapping[str, bytes | None]] = OrderedDict()

    def find(self, server_name: ServerName, key_id: str) -> bytes | None:
        """See `FindVerifyKey`."""
        if server_name == self._server_name:
            return self._own.get(key_id)
        keys = self._told.get(server_name)
        if keys is None:
            found: dict[str, bytes | None] = {}
            for key in self._store.find_keys([server_name]):
                known = found.setdefault(key.key_id, key.verify_key)
                if known != key.verify_key:
                    found[key.key_id] = None
            keys = self._told[server_name] = found
            while len(self._told) > MAX_REMEMBERED_SERVERS:
                self._told.popitem(last=False)
        return keys.get(key_id)


class _Pace:
    """Works part of the time, rests the other part."""

    def __init__(self, max_load: float) -> None:
        self._rest = (1 - max_load) / max_load
        self._since = time.monotonic()

    def rest(self) -> None:
        """Between two pieces of work."""
        if self._rest > 0:
            time.sleep((time.monotonic() - self._since) * self._rest)
        self._since = time.monotonic()


class _Walk:
    """One walk through the rooms."""

    def __init__(
        self,
        replay: Replay,
        find_verify_key: FindVerifyKey,
        report: Report,
        pace: _Pace,
        on_progress: Progress,
    ) -> None:
        self.replay = replay
        self.report = report
        self.pace = pace
        self.branches = BranchStates()
        self.find_verify_key = find_verify_key
        self.has_unreadable = False
        self._on_progress = on_progress
        self._total = 0

    def run(self, room_id: RoomId | None) -> None:
        """Look at all rooms, or at one."""
        self._total = self.replay.count_facts(room_id)
        for group in self._groups(room_id):
            self._verify_group(group)
            self.replay.clear()
        self._verify_answers(room_id)
        if room_id is None:
            self._verify_whole()

    def progress(self, facts: int, what: str) -> None:
        """So many facts more were looked at."""
        self.report.facts += facts
        self._total = max(self._total, self.report.facts)
        self._on_progress(self.report.facts, self._total, what)

    def _groups(self, room_id: RoomId | None) -> Iterator[list[RoomHead]]:
        group: list[RoomHead] = []
        after = -(2**63)
        while heads := self.replay.list_heads(room_id, after, GROUP_ROOMS):
            for head in heads:
                group.append(head)
                if (
                    len(group) >= GROUP_ROOMS
                    or sum(member.version for member in group) >= GROUP_FACTS
                ):
                    yield group
                    group = []
            after = heads[-1].room_nid
        if group:
            yield group

    def _verify_group(self, heads: Sequence[RoomHead]) -> None:
        rooms = {head.room_nid: _RoomWalk(self, head) for head in heads}
        # Mostly outside of any transaction: only the last step needs one moment for everything.
        for _ in range(MAX_CATCHING_UP):
            moved = sum(room.read_on(pause=True) for room in rooms.values())
            if moved < CHUNK_SIZE:
                break
        with self.replay.moment():
            now = self.replay.find_heads(rooms)
            end = self.replay.find_log_position()
            for room_nid, room in rooms.items():
                room.read_on(pause=False)
                room.verify_end(now.get(room_nid), end)
            differences = list(self.replay.compare_rooms([room.head for room in rooms.values()]))
        broken = {room.head.room_id for room in rooms.values() if room.is_broken}
        homes = {nid: room.head.room_id for nid, room in rooms.items()}
        for difference in differences:
            problem = self._problem_of(difference, homes)
            # Of a broken room nothing was replayed after what is broken.
            if problem.room_id not in broken:
                self.report.add(problem)
        self.report.rooms += len(rooms)

    def _problem_of(self, difference: Difference, homes: Mapping[int, RoomId]) -> Problem:
        position = difference.position
        fact = None if position is None else self.replay.find_fact_at(position)
        room_id = homes.get(difference.room_nid or -1)
        return Problem(
            f"Projection {difference.table.projection}: {difference}",
            f"architex projections rebuild {difference.table.projection}",
            room_id=room_id if fact is None else str(fact.stored.originator_id),
            version=None if fact is None else fact.stored.originator_version,
            position=position,
            event_id=None if fact is None else _event_id_of(fact),
        )

    def _verify_answers(self, room_id: RoomId | None) -> None:
        """Each answer to a client's transaction is the event that the transaction made."""
        last: TransactionKey | None = None
        while answers := self.replay.list_answers(room_id, last, CHUNK_SIZE):
            for answer in answers:
                problem = _find_wrong_in_answer(answer)
                if problem is None:
                    continue
                key = answer.transaction
                self.report.add(
                    Problem(
                        f"The transaction {key.txn_id!r} of {key.user_id} ({key.device_id}) at"
                        f" {key.path} was answered with {answer.event_id}: {problem}",
                        _MEND_ANSWER,
                        room_id=room_id,
                        position=answer.position,
                        event_id=answer.event_id,
                    )
                )
            last = answers[-1].transaction
            self.pace.rest()

    def _verify_whole(self) -> None:
        """What belongs to no room."""
        newest = self.replay.find_newest_position()
        end = self.replay.find_log_position()
        if newest > end:
            self.report.add(
                Problem(
                    f"log_position is {end}, but there is a fact at position {newest}",
                    _MEND_POSITION,
                    position=newest,
                )
            )
        for room_id in self.replay.list_rooms_without_head(MAX_STRAYS):
            self.report.add(
                Problem(
                    "The log has facts of a room without a row in the table rooms",
                    _MEND_HEAD,
                    room_id=room_id,
                )
            )
            self.has_unreadable = True
        for table, what in self.replay.list_strays(MAX_STRAYS):
            self.report.add(
                Problem(
                    f"Projection {table.projection}: {what}",
                    f"architex projections rebuild {table.projection}",
                )
            )


@dataclass(frozen=True, slots=True)
class _Milestone:
    """What a snapshot of that version must say."""

    position: int
    room: Room


class _RoomWalk:
    """The walk through one room's facts."""

    def __init__(self, walk: _Walk, head: RoomHead) -> None:
        self.head = head
        self.is_broken = False
        self._walk = walk
        self._replay = walk.replay
        self._report = walk.report
        self._rules: RoomVersionRules = get_room_version(head.room_version)
        self._resolving = Resolving(
            walk.branches, walk.replay.connection, head.room_nid, self._rules
        )
        self._version = 0
        self._position = 0
        # Of the room only what does not grow with it: its ends and its depth, no state.
        self._room: Room | None = None
        self._create: Pdu | None = None
        self._snapshot_versions: set[int] = set()
        self._milestones: dict[int, _Milestone] = {}

    def read_on(self, *, pause: bool) -> int:
        """Look at the facts there are by now; returns how many."""
        looked_at = 0
        while not self.is_broken:
            stored = self._replay.list_facts(self.head.room_id, self._version, CHUNK_SIZE)
            # A snapshot that appears later than this is of a later version than these facts.
            snapshot = self._replay.find_snapshot(self.head.room_id)
            if snapshot is not None:
                self._snapshot_versions.add(snapshot.originator_version)
            if not stored:
                break
            facts = self._read(stored)
            self._replay.apply(facts)
            self._judge(facts)
            looked_at += len(facts)
            self._walk.progress(len(stored), self.head.room_id)
            if pause:
                self._walk.pace.rest()
            if len(stored) < CHUNK_SIZE:
                break
        return looked_at

    def verify_end(self, head: RoomHead | None, log_position: int) -> None:
        """The room's row and its snapshot, after all of its facts."""
        if self.is_broken or head is None:
            return
        if (head.version, head.last_position) != (self._version, self._position):
            self._report.add(
                Problem(
                    f"The table rooms says version {head.version} at position"
                    f" {head.last_position}; the log ends with version {self._version} at"
                    f" position {self._position}",
                    _MEND_HEAD,
                    room_id=head.room_id,
                    version=self._version,
                    position=self._position,
                )
            )
        if self._position > log_position:
            self._report.add(
                Problem(
                    f"The position lies beyond the end of the log, {log_position}",
                    _MEND_POSITION,
                    room_id=head.room_id,
                    version=self._version,
                    position=self._position,
                )
            )
        self._verify_snapshot()

    # Reading: what can be seen from the facts alone

    def _read(self, stored_facts: Sequence[StoredFact]) -> list[RecordedFact]:
        """The facts, up to the first after which nothing more can be said about the room."""
        readable: list[tuple[StoredFact, Fact]] = []
        for stored in stored_facts:
            fact = self._decode(stored)
            if fact is None:
                self.is_broken = True
                break
            readable.append((stored, fact))
            self._version, self._position = stored.stored.originator_version, stored.position
        named = {
            event_id
            for _, fact in readable
            for event_id in (
                fact.pdu.event_id,
                *referred_events(fact),
                *filter(None, fact.state_changes.values()),
            )
        }
        known = self._find_events(named)
        facts: list[RecordedFact] = []
        seen: dict[EventId, int] = {event_id: event.position for event_id, event in known.items()}
        for stored, fact in readable:
            pdu = fact.pdu
            if fact.known_at != seen.get(pdu.event_id):
                self._problem(
                    stored,
                    "The event is recorded a second time"
                    if pdu.event_id in seen
                    else f"It is not the event that was known at {fact.known_at}",
                    f"{_RESTORE}, or remove this one",
                )
                self.is_broken = True
                break
            strangers = [
                event_id
                for event_id in (
                    *required_events(fact),
                    *filter(None, fact.state_changes.values()),
                )
                if event_id not in seen and event_id != pdu.event_id
            ]
            if strangers:
                self._problem(
                    stored,
                    f"It refers to {strangers[0]}, which the room did not have before",
                    _RESTORE,
                )
                self.is_broken = True
                break
            seen.setdefault(pdu.event_id, stored.position)
            self._check_pdu(stored, pdu)
            facts.append(RecordedFact(stored.position, self.head.room_nid, fact))
        if self.is_broken:
            self._walk.has_unreadable = True
        return facts

    def _decode(self, stored: StoredFact) -> Fact | None:
        """The fact; None when it or its place in the log makes no sense."""
        event = stored.stored
        if event.originator_version != self._version + 1:
            missing = f"{self._version + 1}"
            if event.originator_version > self._version + 2:
                missing += f" to {event.originator_version - 1}"
            self._problem(stored, f"Version {missing} of the room is missing before it", _RESTORE)
            return None
        if stored.position <= self._position:
            self._problem(
                stored,
                f"Its position does not come after {self._position}, the one before it",
                _RESTORE,
            )
            return None
        try:
            is_first = event.originator_version == 1
            if is_first and orjson.loads(event.state)["pdu"]["type"] == "m.room.create":
                told = room_version_of(event)
                if told.version != self._rules.version:
                    self._problem(
                        stored,
                        f"The m.room.create event names version {told.version}, the table rooms"
                        f" says {self._rules.version}",
                        _MEND_HEAD,
                    )
                    return None
            check_envelope(event.state)
            fact = decode_fact(event, self._rules)
            parse_pdu(self._rules, fact.pdu.event)
        except (ValueError, LookupError, TypeError, AttributeError, MatrixError) as error:
            self._problem(stored, f"It cannot be read: {type(error).__name__} {error}", _RESTORE)
            return None
        if fact.pdu.room_id != self.head.room_id:
            self._problem(stored, f"The event is of the room {fact.pdu.room_id}", _RESTORE)
            return None
        return fact

    def _check_pdu(self, stored: StoredFact, pdu: Pdu) -> None:
        """The event's hashes and signatures."""
        rules, event = self._rules, pdu.event
        event_id = compute_event_id(rules, event)
        if event_id != pdu.event_id:
            self._problem(
                stored, f"The event was changed: by its content it is {event_id}", _RESTORE
            )
            return
        bare = {key: value for key, value in event.items() if key != "unsigned"}
        if not has_valid_content_hash(rules, event) and redact_event(rules, event) != bare:
            self._problem(stored, "The event's content does not match its hash", _RESTORE)
        problem = self._find_bad_signature(pdu)
        if problem is not None:
            self._problem(stored, problem, _RESTORE)

    def _find_bad_signature(self, pdu: Pdu) -> str | None:
        message: bytes | None = None
        for server in sorted(servers_that_must_sign(self._rules, pdu)):
            signatures = signatures_of(pdu.event, server)
            if not signatures:
                return f"The event has no signature of {server}"
            verified = False
            for key_id, signature in signatures.items():
                key = self._walk.find_verify_key(server, key_id)
                if key is None:
                    continue
                if message is None:
                    message = signed_event_json(self._rules, pdu.event)
                try:
                    verify_signature(message, signature, key_id, key)
                except InvalidSignature as error:
                    return f"Signature {key_id} of {server}: {error.message}"
                verified = True
            if not verified:
                self._report.unknown_signatures += 1
        return None

    # Judging: what needs the state where the event stands

    def _judge(self, facts: Sequence[RecordedFact]) -> None:
        known = self._find_events({e for r in facts for e in referred_events(r.fact)})
        entries = self._replay.find_entries(
            self.head.room_nid,
            [
                (r.position - 1, key)
                for r in facts
                for key in self._keys_of(r.pdu)
                if r.pdu.type != "m.room.create"
            ],
        )
        pdus = self._walk.branches.find_pdus(
            self._replay.connection, self._rules, set(entries.values())
        )
        for recorded in facts:
            at = recorded.position - 1
            current = {
                key: pdus[entries[at, key]]
                for key in self._keys_of(recorded.pdu)
                if (at, key) in entries
            }
            self._judge_one(recorded, known, current)
            self._evolve(recorded)

    def _keys_of(self, pdu: Pdu) -> set[StateKey]:
        keys = {_CREATE, *self._resolving.auth_types(pdu)}
        if pdu.state_key is not None:
            keys.add(pdu.key)
        return keys

    def _judge_one(
        self,
        recorded: RecordedFact,
        known: Mapping[EventId, KnownEvent],
        current: Mapping[StateKey, Pdu],
    ) -> None:
        fact, pdu = recorded.fact, recorded.pdu
        if pdu.type == "m.room.create" and self._create is None:
            self._create = pdu
        if fact.is_outlier:
            self._judge_outlier(recorded, known)
            return
        before: StateBefore | None = None
        find_before = find_current = lambda type, state_key: current.get((type, state_key))
        if isinstance(fact, JoinImported):
            # Where it stands is what another server told.
            find_current = find_before = self._resolving.finder(
                fact.before or StateBefore(recorded.position - 1), self._keys_of(pdu)
            )
        elif not self._follows_the_end(fact):
            before = self._state_before(recorded, known)
            find_before = self._resolving.finder(before, self._keys_of(pdu))
            self._check_state_before(recorded, before)
        elif fact.before is not None and fact.known_at is None:
            self._problem_at(
                recorded,
                "It follows the end of the room, but a state of its own is recorded for it",
                _RESTORE,
            )
        verdict = check_authorisation(
            self._rules,
            pdu,
            [known[event_id].pdu for event_id in pdu.auth_events],
            create=self._create,
            rejected={e for e in pdu.auth_events if known[e].verdict == REJECTED},
            find_before=find_before,
            find_current=find_current,
        )
        # The event with which we merge ends is not asked for by anybody: it is never soft-failed.
        is_merging = pdu.type == DUMMY_EVENT_TYPE and verdict.outcome is Outcome.SOFT_FAILED
        if _VERDICTS[verdict.outcome] != fact.verdict and not (
            is_merging and fact.verdict == ACCEPTED
        ):
            self._wrong_verdict(recorded, verdict.outcome, verdict.reason)
        self._check_changes(recorded, before, current, find_before)
        reach = redaction_server(self._rules, pdu, find_before)
        if fact.redaction_server != reach:
            self._problem_at(
                recorded,
                f"It is recorded that it redacts events of {fact.redaction_server or 'anybody'};"
                f" by the rules it does those of {reach or 'anybody'}",
                _RESTORE,
            )

    def _judge_outlier(self, recorded: RecordedFact, known: Mapping[EventId, KnownEvent]) -> None:
        """What can be said of an event without the state where it stands."""
        if may_come_from_outside(recorded.fact):
            return
        pdu = recorded.pdu
        auth_events = [known[event_id].pdu for event_id in pdu.auth_events]
        reason = check_imported(
            self._rules,
            pdu,
            auth_events,
            create=self._create,
            rejected={e for e in pdu.auth_events if known[e].verdict == REJECTED},
        )
        outcome = Outcome.ACCEPTED if reason is None else Outcome.REJECTED
        if _VERDICTS[outcome] != recorded.fact.verdict:
            self._wrong_verdict(recorded, outcome, reason)

    def _wrong_verdict(self, recorded: RecordedFact, outcome: Outcome, reason: str | None) -> None:
        recorded_as = {verdict: outcome for outcome, verdict in _VERDICTS.items()}
        why = f" ({reason})" if reason else ""
        self._problem_at(
            recorded,
            f"It was recorded as {recorded_as[recorded.fact.verdict].value}, but by the rules"
            f" it is {outcome.value}{why}",
            _RESTORE,
        )

    def _state_before(
        self, recorded: RecordedFact, known: Mapping[EventId, KnownEvent]
    ) -> StateBefore:
        """The state before an event that stands on branches.

        Where what it follows was not here, or was here as an outlier, another server told it.
        """
        fact = recorded.fact
        if fact.before is not None and self._was_told(recorded, known):
            return fact.before
        parents = (known.get(event_id) for event_id in sorted(set(fact.pdu.prev_events)))
        return self._resolving.state_before(
            parent for parent in parents if parent is not None and not parent.is_outlier
        )

    def _was_told(self, recorded: RecordedFact, known: Mapping[EventId, KnownEvent]) -> bool:
        """Whether the state before an event cannot have been computed here.

        Args:
            known: what it follows, as far as we have it by now; that may be more than then.
        """
        return any(
            event_id not in known
            or known[event_id].position > recorded.position
            or self._came_as_outlier(known[event_id])
            for event_id in recorded.pdu.prev_events
        )

    def _came_as_outlier(self, event: KnownEvent) -> bool:
        if event.is_outlier:
            return True
        first = self._replay.find_fact_at(event.position)
        return first is not None and FACT_CLASSES[first.stored.topic].is_outlier

    def _follows_the_end(self, fact: Fact) -> bool:
        """Whether the state before the event is the current state of the room."""
        if self._room is None:
            return True
        prev_events, ends = set(fact.pdu.prev_events), set(self._room.extremities)
        # What we send in a room with more ends than an event can follow is sent into its current
        # state, too.
        follows_most = len(prev_events) == MAX_PREV_EVENTS and prev_events < ends
        return prev_events == ends or (follows_most and fact.before is None)

    def _check_state_before(self, recorded: RecordedFact, before: StateBefore) -> None:
        told = recorded.fact.before
        if told is None:
            self._problem_at(
                recorded, "It stands on a branch, but no state before it is recorded", _RESTORE
            )
            return
        if told == before:
            return
        for (type_, key), (was, wanted) in sorted(self._resolving.compare([told, before]).items()):
            self._problem_at(
                recorded,
                f"The state before it is recorded with {type_} {key!r} = {was}; its parents give"
                f" {wanted}",
                _RESTORE,
            )
            break

    def _check_changes(
        self,
        recorded: RecordedFact,
        before: StateBefore | None,
        current: Mapping[StateKey, Pdu],
        find_before: FindState,
    ) -> None:
        """What the fact says it changed in the current state, and which event it replaced."""
        fact, pdu = recorded.fact, recorded.pdu
        wanted: Mapping[StateKey, EventId | None] = {}
        replaced: EventId | None = None
        if fact.verdict == ACCEPTED:
            wanted = {} if pdu.state_key is None else {pdu.key: pdu.event_id}
            if isinstance(fact, JoinImported):
                entries = {} if fact.before is None else fact.before.entries
                wanted = {**entries, pdu.key: pdu.event_id}
            elif before is not None and self._room is not None:
                ends = set(
                    extremities_after(
                        self._rules,
                        self._room.extremities,
                        pdu,
                        is_followed=fact.is_followed,
                    )
                )
                change = self._resolving.change_of_current_state(
                    pdu,
                    before,
                    self._find_events(ends - {pdu.event_id}).values(),
                    StateBefore(recorded.position - 1),
                    is_recorded=True,
                    after_gap=fact.is_followed
                    or self._was_told(recorded, self._find_events(pdu.prev_events)),
                    is_followed=fact.is_followed,
                )
                wanted = change.entries
                self._report.resets += [
                    Reset(self.head.room_id, *key, wanted[key], recorded.position, pdu.event_id)
                    for key in change.resets
                ]
            if pdu.state_key is not None:
                held = current.get(pdu.key)
                if before is not None:
                    held = find_before(pdu.type, pdu.state_key)
                replaced = None if held is None else held.event_id
        told = fact.state_changes
        for key in sorted({*told, *wanted}):
            if key in told and key in wanted and told[key] == wanted[key]:
                continue
            says = told[key] or "nothing" if key in told else "what was there"
            gives = wanted[key] or "nothing" if key in wanted else "what was there"
            self._problem_at(
                recorded,
                f"State reset: it is recorded that since this event {key[0]} {key[1]!r} is"
                f" {says}; no event explains that, the rules give {gives}",
                _RESTORE,
            )
            break
        if fact.replaces != replaced:
            self._problem_at(
                recorded,
                f"It is recorded that it replaced {fact.replaces}; it replaced {replaced}",
                _RESTORE,
            )

    def _evolve(self, recorded: RecordedFact) -> None:
        room = self._room or Room(self.head.room_id, self._rules)
        self._room = replace(room.evolve(recorded.fact), state=immutables.Map())
        if self._room.version in self._snapshot_versions:
            self._milestones[self._room.version] = _Milestone(recorded.position, self._room)

    # The snapshot

    def _verify_snapshot(self) -> None:
        stored = self._replay.find_snapshot(self.head.room_id)
        if stored is None:
            return
        version = stored.originator_version
        milestone = self._milestones.get(version)
        problem: str | None
        if is_damaged(stored):
            problem = "its bytes were changed"
        elif milestone is None:
            problem = f"the log has no version {version}"
        else:
            room = decode_snapshot(stored)
            # None: of another schema; such a one is ignored and soon replaced.
            problem = None if room is None else self._find_wrong_part(room, milestone)
        if problem is not None:
            self._report.add(
                Problem(
                    f"The room's snapshot is wrong: {problem}",
                    _MEND_SNAPSHOT,
                    room_id=self.head.room_id,
                    version=version,
                    position=None if milestone is None else milestone.position,
                )
            )

    def _find_wrong_part(self, room: Room, milestone: _Milestone) -> str | None:
        right = milestone.room
        if (room.room_id, room.rules) != (right.room_id, right.rules):
            return f"it is of {room.room_id} in version {room.rules.version}"
        if (room.version, room.depth) != (right.version, right.depth):
            return f"it says version {room.version}, depth {room.depth}; not depth {right.depth}"
        if dict(room.extremities) != dict(right.extremities):
            return f"it says that the room ends with {', '.join(sorted(room.extremities))}"
        entries = self._replay.find_entries(
            self.head.room_nid, [(milestone.position, key) for key in room.state]
        )
        pdus = self._walk.branches.find_pdus(
            self._replay.connection, self._rules, set(entries.values())
        )
        for key, pdu in room.state.items():
            event_id = entries.get((milestone.position, key))
            if event_id is None or pdu is None or dict(pdus[event_id].event) != dict(pdu.event):
                return f"it says that {key[0]} {key[1]!r} is {pdu and pdu.event_id}: {event_id} is"
        return None

    # Within

    def _find_events(self, event_ids: Collection[EventId]) -> dict[EventId, KnownEvent]:
        return self._walk.branches.find_events(
            self._replay.connection, self.head.room_nid, self._rules, event_ids
        )

    def _problem(self, stored: StoredFact, what: str, mend: str) -> None:
        self._report.add(
            Problem(
                what,
                mend,
                room_id=self.head.room_id,
                version=stored.stored.originator_version,
                position=stored.position,
                event_id=_event_id_of(stored),
            )
        )

    def _problem_at(self, recorded: RecordedFact, what: str, mend: str) -> None:
        self._report.add(
            Problem(
                what,
                mend,
                room_id=self.head.room_id,
                version=recorded.fact.originator_version,
                position=recorded.position,
                event_id=recorded.pdu.event_id,
            )
        )


def _event_id_of(stored: StoredFact) -> EventId | None:
    """The event ID that a fact names, if it can be read at all."""
    try:
        envelope = orjson.loads(stored.stored.state)
    except ValueError:
        return None
    event_id = envelope.get("event_id") if isinstance(envelope, dict) else None
    return event_id if isinstance(event_id, str) else None


def _find_wrong_in_answer(answer: Answer) -> str | None:
    if answer.fact is None:
        return "there is no such event"
    try:
        envelope = orjson.loads(answer.fact)
        sender, device = envelope["pdu"]["sender"], envelope.get("sender_device")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # told already: the fact cannot be read
    key = answer.transaction
    if sender != key.user_id or (device and device != [key.device_id, key.txn_id]):
        return "that is what another request made"
    return None


def _verify_followed(
    replay: Replay,
    projection: Projection,
    report: Report,
    pace: _Pace,
    on_progress: Progress,
) -> None:
    """Compare a followed projection with its replay up to where its follower has come."""
    position = 0

    def catch_up(*, pause: bool) -> None:
        nonlocal position
        end = min(replay.find_tracked_position(projection.name), replay.find_log_position())
        while position < end:
            batch = replay.read_facts(position, CHUNK_SIZE, only_state=projection.only_state)
            replay.apply([recorded for recorded in batch.facts if recorded.position <= end])
            position = min(batch.up_to, end)
            on_progress(position, end, projection.name)
            if pause:
                pace.rest()

    catch_up(pause=True)
    with replay.moment():
        end = replay.find_log_position()
        tracked = replay.find_tracked_position(projection.name)
        if tracked > end:
            report.add(
                Problem(
                    f"The follower of {projection.name} is at {tracked}, beyond the end of the"
                    f" log, {end}",
                    f"architex projections rebuild {projection.name}",
                    position=tracked,
                )
            )
            return
        catch_up(pause=False)
        differences = list(replay.compare_tables())
    for difference in differences:
        report.add(
            Problem(
                f"Projection {projection.name}: {difference}",
                f"architex projections rebuild {projection.name}",
                position=difference.position,
            )
        )
