"""What can be seen from the facts of a room alone: their order, hashes and signatures."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from architex.domain.errors import InvalidSignature, MatrixError
from architex.domain.identifiers import EventId
from architex.domain.pdu import (
    Pdu,
    compute_event_id,
    has_valid_content_hash,
    parse_pdu,
    signed_event_json,
)
from architex.domain.redaction import redact_event
from architex.domain.room.events import (
    Fact,
    RecordedFact,
)
from architex.domain.signing import (
    servers_that_must_sign,
    signatures_of,
    verify_signature,
)
from architex.projections.event_graph import referred_events, required_events
from architex.projections.verification import StoredFact
from architex.storage.room_facts import check_envelope, decode_fact, room_version_of
from architex.usecases.verifying.reports import MEND_HEAD, RESTORE
from architex.usecases.verifying.verified_room import VerifiedRoom


class FactReading:
    """Reads the facts of one room, in order, until one after which nothing more can be said.

    Attributes:
        version, position: of the last fact that could be read.
        is_broken: whether there was one that could not.
    """

    def __init__(self, at: VerifiedRoom) -> None:
        self.version = 0
        self.position = 0
        self.is_broken = False
        self._at = at

    def read(self, stored_facts: Sequence[StoredFact]) -> list[RecordedFact]:
        """The facts, up to the first after which nothing more can be said about the room."""
        readable: list[tuple[StoredFact, Fact]] = []
        for stored in stored_facts:
            fact = self._decode(stored)
            if fact is None:
                self.is_broken = True
                break
            readable.append((stored, fact))
            self.version, self.position = stored.stored.originator_version, stored.position
        named = {
            event_id
            for _, fact in readable
            for event_id in (
                fact.pdu.event_id,
                *referred_events(fact),
                *filter(None, fact.state_changes.values()),
            )
        }
        known = self._at.find_events(named)
        facts: list[RecordedFact] = []
        seen: dict[EventId, int] = {event_id: event.position for event_id, event in known.items()}
        for stored, fact in readable:
            pdu = fact.pdu
            if fact.known_at != seen.get(pdu.event_id):
                self._at.problem(
                    stored,
                    "The event is recorded a second time"
                    if pdu.event_id in seen
                    else f"It is not the event that was known at {fact.known_at}",
                    f"{RESTORE}, or remove this one",
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
                self._at.problem(
                    stored,
                    f"It refers to {strangers[0]}, which the room did not have before",
                    RESTORE,
                )
                self.is_broken = True
                break
            seen.setdefault(pdu.event_id, stored.position)
            self._check_pdu(stored, pdu)
            facts.append(RecordedFact(stored.position, self._at.room_nid, fact))
        return facts

    def _decode(self, stored: StoredFact) -> Fact | None:
        """The fact; None when it or its place in the log makes no sense."""
        event = stored.stored
        if event.originator_version != self.version + 1:
            missing = f"{self.version + 1}"
            if event.originator_version > self.version + 2:
                missing += f" to {event.originator_version - 1}"
            self._at.problem(
                stored, f"Version {missing} of the room is missing before it", RESTORE
            )
            return None
        if stored.position <= self.position:
            self._at.problem(
                stored,
                f"Its position does not come after {self.position}, the one before it",
                RESTORE,
            )
            return None
        try:
            is_first = event.originator_version == 1
            if is_first and orjson.loads(event.state)["pdu"]["type"] == "m.room.create":
                told = room_version_of(event)
                if told.version != self._at.rules.version:
                    self._at.problem(
                        stored,
                        f"The m.room.create event names version {told.version}, the table rooms"
                        f" says {self._at.rules.version}",
                        MEND_HEAD,
                    )
                    return None
            check_envelope(event.state)
            fact = decode_fact(event, self._at.rules)
            parse_pdu(self._at.rules, fact.pdu.event, limit_references=not fact.is_outlier)
        except (ValueError, LookupError, TypeError, AttributeError, MatrixError) as error:
            self._at.problem(stored, f"It cannot be read: {type(error).__name__} {error}", RESTORE)
            return None
        if fact.pdu.room_id != self._at.room_id:
            self._at.problem(stored, f"The event is of the room {fact.pdu.room_id}", RESTORE)
            return None
        return fact

    def _check_pdu(self, stored: StoredFact, pdu: Pdu) -> None:
        """The event's hashes and signatures."""
        rules, event = self._at.rules, pdu.event
        event_id = compute_event_id(rules, event)
        if event_id != pdu.event_id:
            self._at.problem(
                stored, f"The event was changed: by its content it is {event_id}", RESTORE
            )
            return
        bare = {key: value for key, value in event.items() if key != "unsigned"}
        if not has_valid_content_hash(rules, event) and redact_event(rules, event) != bare:
            self._at.problem(stored, "The event's content does not match its hash", RESTORE)
        problem = self._find_bad_signature(pdu)
        if problem is not None:
            self._at.problem(stored, problem, RESTORE)

    def _find_bad_signature(self, pdu: Pdu) -> str | None:
        message: bytes | None = None
        for server in sorted(servers_that_must_sign(self._at.rules, pdu)):
            signatures = signatures_of(pdu.event, server)
            if not signatures:
                return f"The event has no signature of {server}"
            verified = False
            for key_id, signature in signatures.items():
                key = self._at.find_verify_key(server, key_id)
                if key is None:
                    continue
                if message is None:
                    message = signed_event_json(self._at.rules, pdu.event)
                try:
                    verify_signature(message, signature, key_id, key)
                except InvalidSignature as error:
                    return f"Signature {key_id} of {server}: {error.message}"
                verified = True
            if not verified:
                self._at.report.unknown_signatures += 1
        return None
