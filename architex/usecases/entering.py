"""Entering: our server comes into a room, by what another server tells of it.

The room's state and auth chains are checked like everybody's events: signatures, hashes,
authorization. They are recorded in many small transactions; until the last one, which records the
join, nobody here is in the room, and whoever tries again begins where this ended.

Spec: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from architex.domain.auth_rules import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from architex.domain.errors import Forbidden, InvalidSignature
from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu, StateKey, parse_pdu
from architex.domain.room.handshakes import AUTHORISED_VIA
from architex.domain.room.pdu_checks import Verdict, check_signed_and_whole
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import (
    FindEventKey,
    servers_that_must_sign,
    verify_event_signatures,
)
from architex.gateways.clock import Clock
from architex.projections.event_lookup import EventLookup
from architex.usecases.importing import MAX_AT_ONCE, Importing
from architex.usecases.server_keys import KeyRing
from architex.usecases.told_room import BrokenAnswer, ToldRoom

log = logging.getLogger(__name__)

T = TypeVar("T")

KEYS_TIMEOUT_S: Final = 60.0
"""For asking all servers of a room for their keys."""

# Checks that are made before others get a turn: some milliseconds of work.
_WITHOUT_PAUSE: Final = 50


@dataclass(frozen=True)
class Entering:
    """Imports rooms."""

    importing: Importing
    key_ring: KeyRing
    events: EventLookup
    clock: Clock

    def enter(
        self,
        rules: RoomVersionRules,
        join: Pdu,
        answer: AbstractContextManager[Iterable[bytes]],
        note_progress: Callable[[], None],
    ) -> None:
        """Take the answer to send_join, and be in the room.

        Args:
            join: our user's join, as it was sent.
            answer: what gives the body, in pieces.
            note_progress: called now and then.

        Raises:
            BrokenAnswer: it does not prove that the user is in such a room; nothing that anybody
                could see was recorded.
            RemoteError: the body does not come.
        """
        with ToldRoom(rules, join.room_id) as told:
            with answer as pieces:
                arriving = self._paced(told.read(pieces), note_progress)
                find_key = self.key_ring.for_events(rules, arriving, timeout_s=KEYS_TIMEOUT_S)
            join = self.authorised(rules, join, told.join)
            check_told_state(told, join, find_key)
            self._record(told, find_key, note_progress)
            try:
                self.importing.record_join(join.room_id, join, told.state.values())
            except Forbidden as error:
                raise BrokenAnswer(f"By what it tells, the join is forbidden: {error}") from error

    def authorised(
        self, rules: RoomVersionRules, join: Pdu, theirs: Mapping[str, Any] | None
    ) -> Pdu:
        """Our join with the signature of the server that authorised it, if one had to.

        Args:
            theirs: the join as the other server has it.

        Raises:
            BrokenAnswer: that server did not sign it.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms
        """
        must_sign = servers_that_must_sign(rules, join)
        if AUTHORISED_VIA not in join.content or theirs is None:
            return join
        signatures = theirs.get("signatures")
        event = dict(join.event)
        for server_name in must_sign:
            if isinstance(signatures, dict) and server_name not in event["signatures"]:
                of_server = signatures.get(server_name, {})
                event["signatures"] = {**event["signatures"], server_name: of_server}
        find_key = self.key_ring.for_events(rules, [event])
        try:
            verify_event_signatures(
                rules,
                event,
                must_sign,
                lambda server_name, key_id: find_key(server_name, key_id, join.origin_server_ts),
            )
        except InvalidSignature as error:
            raise BrokenAnswer(f"The join is not authorised: {error}") from error
        return parse_pdu(rules, event, event_id=join.event_id)

    def _record(
        self, told: ToldRoom, find_key: FindEventKey, note_progress: Callable[[], None]
    ) -> None:
        """Check and record all events, those first that authorise others."""
        dropped = 0
        ordered = self._paced(told.auth_events_first(), note_progress)
        while event_ids := list(islice(ordered, MAX_AT_ONCE)):
            known = self.events.find_known(told.room_id, event_ids)
            pdus: list[Pdu] = []
            as_state: set[EventId] = set()
            for event_id in event_ids:
                if event_id in known:
                    continue
                checked = check_signed_and_whole(
                    told.rules, told.load(event_id), find_key, told.worked_out(event_id)
                )
                if isinstance(checked, Verdict):
                    dropped += 1
                    log.debug("%s of %s: %s", event_id, told.room_id, checked.reason)
                    continue
                pdus.append(checked)
                if checked.state_key is not None and told.state.get(checked.key) == event_id:
                    as_state.add(event_id)
            if pdus:
                self.importing.record_state(
                    told.room_id, pdus, as_state=as_state, creates=told.rules
                )
        if dropped:
            log.info("Joining %s: %s of %s events dropped.", told.room_id, dropped, len(told))

    def _paced(self, items: Iterable[T], note_progress: Callable[[], None]) -> Iterator[T]:
        """The items; others get a turn in between."""
        for number, item in enumerate(items):
            if number % _WITHOUT_PAUSE == 0:
                self.clock.sleep(0)
                note_progress()
            yield item


def check_told_state(told: ToldRoom, join: Pdu, find_key: FindEventKey) -> None:
    """Check that a state that another server told lets our user in, before anything is recorded.

    Raises:
        BrokenAnswer: it does not, or it is not one of a room of this version.
    """
    keys: set[StateKey] = {("m.room.create", "")}
    keys |= auth_types_for_event(
        told.rules,
        type=join.type,
        state_key=join.state_key,
        sender=join.sender,
        content=join.content,
    )
    found: dict[StateKey, Pdu] = {}
    for key in keys & told.state.keys():
        checked = check_signed_and_whole(told.rules, told.load(told.state[key]), find_key)
        if isinstance(checked, Pdu):
            found[key] = checked
        elif key == ("m.room.create", ""):
            raise BrokenAnswer(f"Its m.room.create does not count: {checked.reason}")
    create = found["m.room.create", ""]
    if create.content.get("room_version", "1") != told.rules.version:
        raise BrokenAnswer("The room has another version than it told us before.")
    try:
        check_state_independent_auth_rules(told.rules, create, [])
        check_state_dependent_auth_rules(
            told.rules, join, lambda type, state_key: found.get((type, state_key))
        )
    except Forbidden as error:
        raise BrokenAnswer(f"By what it tells, the join is forbidden: {error}") from error
