"""Doors: how events that were fetched come in, with the keys and auth events that this needs.

Spec: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.identifiers import EventId
from architex.domain.pdu import Pdu
from architex.domain.room.pdu_checks import Verdict
from architex.domain.signing import FindEventKey
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteRefused
from architex.projections.known_events import KnownEvents
from architex.usecases.fetching_events import (
    MAX_SINGLE_EVENTS,
    Fetched,
    FetchingEvents,
    Source,
    is_passing,
    parents_first,
)
from architex.usecases.importing import Importing
from architex.usecases.judging import Judging, ToldStates
from architex.usecases.server_keys import KeyRing

MAX_AUTH_ROUNDS: Final = 4
"""Auth events are fetched one by one to this depth; beyond, by whole chains."""

MAX_CHAINS: Final = 5

_KEYS_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Doors:
    """Judging, for events whose state before them can be known; importing for the others."""

    key_ring: KeyRing
    judging: Judging
    importing: Importing
    known: KnownEvents
    fetching: FetchingEvents
    clock: Clock

    def judge(
        self, source: Source, pdus: Sequence[Pdu], told: ToldStates | None = None
    ) -> dict[EventId, Verdict]:
        """See `Judging.judge`."""
        events = [pdu.event for pdu in pdus]
        find_key = self.find_keys(source, events)
        verdicts = self.judging.judge(source.room_id, events, find_key, told=told)
        return {pdu.event_id: verdict for pdu, verdict in zip(pdus, verdicts, strict=True)}

    def import_state(
        self, source: Source, pdus: Fetched, *, is_backfilled: bool = False
    ) -> dict[EventId, Verdict]:
        """Record events of a state or an auth chain that are not known yet.

        Auth events that lack are fetched.

        Args:
            is_backfilled: see `Importing.import_state`.

        Returns the verdicts on those that were not known.

        Raises:
            RemoteError: they could not be had.
        """
        named = {auth for pdu in pdus.values() for auth in pdu.auth_events}
        lacking = self.known.list_unknown(source.room_id, named - pdus.keys())
        if lacking:
            self.fetch_auth_events(source, lacking, list(pdus))
        return self._import(source, pdus, is_backfilled=is_backfilled)

    def import_history(self, source: Source, pdus: Fetched) -> dict[EventId, Verdict]:
        """See `Importing.import_history`; the events that authorise others come in first.

        Raises:
            RemoteError: auth events could not be had.
        """
        named = {auth for pdu in pdus.values() for auth in pdu.auth_events}
        among = {event_id: pdus[event_id] for event_id in named & pdus.keys()}
        self.import_state(source, among, is_backfilled=True)
        lacking = self.known.list_unknown(source.room_id, named - pdus.keys())
        if lacking:
            self.fetch_auth_events(source, lacking, list(pdus))
        newest_first = parents_first(pdus)[::-1]
        events = [pdu.event for pdu in newest_first]
        find_key = self.find_keys(source, events)
        verdicts = self.importing.import_history(source.room_id, events, find_key)
        return {pdu.event_id: v for pdu, v in zip(newest_first, verdicts, strict=True)}

    def fetch_auth_events(
        self, source: Source, lacking: Collection[EventId], of: Sequence[EventId]
    ) -> None:
        """Get and record events that authorise others, and those that authorise them.

        Args:
            of: the events that they authorise, for asking for their whole auth chains.

        Raises:
            RemoteError: they could not be had.
        """
        found: Fetched = {}
        for _ in range(MAX_AUTH_ROUNDS):
            if len(found) + len(lacking) > MAX_SINGLE_EVENTS:
                break
            try:
                fetched = self.fetching.fetch_events(source, lacking)
            except RemoteRefused as refusal:
                if is_passing(refusal):
                    raise
                break  # who rejects an event does not tell it, but has it in chains
            found |= fetched
            named = {auth for one in fetched.values() for auth in one.auth_events}
            lacking = self.known.list_unknown(source.room_id, named - found.keys())
            if not lacking:
                break
        if lacking:
            for event_id in of[:MAX_CHAINS]:
                found |= self.fetching.fetch_auth_chain(source, event_id)
        self._import(source, found)

    def find_keys(self, source: Source, events: Sequence[Mapping[str, Any]]) -> FindEventKey:
        """The keys that events are signed with, as far as they can be had in time."""
        left_s = max(0.0, source.ends - self.clock.monotonic())
        return self.key_ring.for_events(
            source.rules, events, timeout_s=min(left_s, _KEYS_TIMEOUT_S)
        )

    def _import(
        self, source: Source, pdus: Fetched, *, is_backfilled: bool = False
    ) -> dict[EventId, Verdict]:
        unknown = self.known.list_unknown(source.room_id, pdus.keys())
        if not unknown:
            return {}
        event_ids = [event_id for event_id in pdus if event_id in unknown]
        events = [pdus[event_id].event for event_id in event_ids]
        find_key = self.find_keys(source, events)
        verdicts = self.importing.import_state(
            source.room_id, events, find_key, is_backfilled=is_backfilled
        )
        return dict(zip(event_ids, verdicts, strict=True))
