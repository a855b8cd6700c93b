"""Fetching events of a room from other servers: bounded in number, bytes and time.

What comes back is read, and nothing more: events of the right room, by the IDs that we compute.
Signatures are for the doors, `Judging` and `Importing`.

Spec: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from architex.domain.canonical_json import parse_json
from architex.domain.errors import MatrixError, NotJson
from architex.domain.identifiers import EventId, RoomId, ServerName, is_event_id
from architex.domain.pdu import MAX_PDU_BYTES, Pdu, parse_pdu
from architex.domain.room_versions import RoomVersionRules
from architex.gateways.clock import Clock
from architex.gateways.errors import (
    RemoteError,
    RemoteRefused,
    RemoteTimedOut,
    RemoteUnintelligible,
    RemoteUnreachable,
)
from architex.gateways.federation_client import FederationClient, federation_path
from architex.gateways.json_stream import BrokenJson, read_members

Fetched: TypeAlias = dict[EventId, Pdu]

MAX_MISSING_EVENTS: Final = 20
"""Asked for at once; servers in use give no more."""

MAX_BACKFILLED: Final = 100
MAX_STATE_EVENTS: Final = 250_000
MAX_STATE_BYTES: Final = 512 * 1024 * 1024
"""Of a state with all its events; it is never in memory as a whole."""

MAX_KEPT_EVENTS: Final = 10_000
"""Of a state with all its events: those that were not here before."""

MAX_SINGLE_EVENTS: Final = 300
"""Events fetched one by one, for one purpose."""

_REQUEST_TIMEOUT_S: Final = 30.0
_SIDE_BY_SIDE: Final = 6
_SLACK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Source:
    """Whom to ask about which room, and until when.

    Attributes:
        ends: by the monotonic clock.
    """

    server_name: ServerName
    room_id: RoomId
    rules: RoomVersionRules
    ends: float


@dataclass(frozen=True, slots=True)
class ToldState:
    """The state before an event, as another server tells it: event IDs.

    Attributes:
        auth_chain: the events that authorise those of the state.
    """

    state: frozenset[EventId]
    auth_chain: frozenset[EventId]


@dataclass(frozen=True)
class FetchingEvents:
    """Asks one server at a time. Every method raises RemoteError when it does not answer well."""

    client: FederationClient
    clock: Clock

    def fetch_missing(
        self, source: Source, earliest: Collection[EventId], latest: Collection[EventId]
    ) -> Fetched:
        """Events between those that we have and those that came; at most MAX_MISSING_EVENTS.

        Args:
            earliest: what we have.
            latest: what came, and follows what we lack.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
        """
        answer = self.client.post(
            source.server_name,
            federation_path("v1", "get_missing_events", source.room_id),
            {
                "earliest_events": list(earliest),
                "latest_events": list(latest),
                "limit": MAX_MISSING_EVENTS,
                "min_depth": 0,
            },
            timeout_s=self._timeout_s(source),
            max_bytes=MAX_MISSING_EVENTS * MAX_PDU_BYTES + _SLACK_BYTES,
        )
        return self._read(source, answer.get("events"), MAX_MISSING_EVENTS)

    def fetch_backfill(self, source: Source, event_ids: Sequence[EventId], limit: int) -> Fetched:
        """Events and what comes before them; at most MAX_BACKFILLED.

        "the response of backfill MUST NOT be validated on these specific restrictions": how many
        prev_events and auth_events there are.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid
        """
        limit = min(limit, MAX_BACKFILLED)
        answer = self.client.get(
            source.server_name,
            federation_path("v1", "backfill", source.room_id),
            {"v": list(event_ids), "limit": str(limit)},
            timeout_s=self._timeout_s(source),
            max_bytes=MAX_BACKFILLED * MAX_PDU_BYTES + _SLACK_BYTES,
        )
        return self._read(source, answer.get("pdus"), MAX_BACKFILLED, limit_references=False)

    def fetch_state_ids(self, source: Source, event_id: EventId) -> ToldState:
        """The state before an event.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid
        """
        answer = self.client.get(
            source.server_name,
            federation_path("v1", "state_ids", source.room_id),
            {"event_id": event_id},
            timeout_s=self._timeout_s(source),
        )
        return ToldState(
            _read_ids(source, answer.get("pdu_ids")),
            _read_ids(source, answer.get("auth_chain_ids")),
        )

    def fetch_state(
        self, source: Source, event_id: EventId, wanted: Collection[EventId]
    ) -> Fetched:
        """Those of some events that are in the state before an event or authorise it.

        The answer, which may be large, is read as it comes, and only these are kept.

        Args:
            wanted: at most MAX_KEPT_EVENTS are given.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid
        """
        found: Fetched = {}
        with self.client.stream(
            "GET",
            source.server_name,
            federation_path("v1", "state", source.room_id),
            None,
            {"event_id": event_id},
            timeout_s=self._timeout_s(source),
            max_bytes=MAX_STATE_BYTES,
        ) as answer:
            try:
                for name, raw in read_members(iter(answer.read, b"")):
                    if name in ("pdus", "auth_chain") and len(found) < MAX_KEPT_EVENTS:
                        read = read_events(source.rules, source.room_id, [parse_json(raw)])
                        found |= {key: pdu for key, pdu in read.items() if key in wanted}
                        self._timeout_s(source)
            except (BrokenJson, NotJson) as error:
                raise RemoteUnintelligible(source.server_name, str(error)) from error
        return found

    def fetch_auth_chain(self, source: Source, event_id: EventId) -> Fetched:
        """All events that authorise an event.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid
        """
        answer = self.client.get(
            source.server_name,
            federation_path("v1", "event_auth", source.room_id, event_id),
            timeout_s=self._timeout_s(source),
        )
        return self._read(source, answer.get("auth_chain"), MAX_STATE_EVENTS)

    def fetch_events(self, source: Source, event_ids: Collection[EventId]) -> Fetched:
        """Those of some events that the server gives, one by one; at most MAX_SINGLE_EVENTS.

        Raises:
            RemoteError: it gave none of them, or might give more of them later.
        """
        wanted = sorted(event_ids)[:MAX_SINGLE_EVENTS]
        if len(wanted) == 1:
            return self._fetch_event(source, wanted[0])
        found: Fetched = {}
        failure: RemoteError | None = None
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as workers:
            asked = [workers.submit(self._fetch_event, source, one) for one in wanted]
            for future in asked:
                try:
                    found |= future.result()
                except RemoteError as error:
                    if is_passing(error):
                        raise
                    failure = error
        if not found and failure is not None:
            raise failure
        return found

    def _fetch_event(self, source: Source, event_id: EventId) -> Fetched:
        """Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid"""
        answer = self.client.get(
            source.server_name,
            federation_path("v1", "event", event_id),
            timeout_s=self._timeout_s(source),
            max_bytes=2 * MAX_PDU_BYTES,
        )
        found = self._read(source, answer.get("pdus"), 1)
        return {event_id: found[event_id]} if event_id in found else {}

    def _timeout_s(self, source: Source) -> float:
        """How long a request may take.

        Raises:
            RemoteTimedOut: the time for everything is over.
        """
        left_s = source.ends - self.clock.monotonic()
        if left_s <= 0:
            raise RemoteTimedOut(source.server_name, "The time for asking it is over.")
        return min(left_s, _REQUEST_TIMEOUT_S)

    def _read(
        self, source: Source, events: object, limit: int, *, limit_references: bool = True
    ) -> Fetched:
        if not isinstance(events, list):
            raise RemoteUnintelligible(source.server_name, "It tells no list of events.")
        return read_events(
            source.rules, source.room_id, events[:limit], limit_references=limit_references
        )


def is_passing(error: RemoteError) -> bool:
    """Whether a server may well answer better when it is asked again.

    A refusal without an error code is none of a Matrix server's: something stands before it.
    """
    if isinstance(error, RemoteRefused):
        return error.status == 429 or error.status >= 500 or error.errcode is None
    return isinstance(error, RemoteUnreachable)


def read_events(
    rules: RoomVersionRules,
    room_id: RoomId,
    events: Iterable[object],
    *,
    limit_references: bool = True,
) -> Fetched:
    """Those among some JSON values that are events of a room, by their IDs, in their order.

    Args:
        limit_references: see `check_pdu_format`.
    """
    found: Fetched = {}
    for event in events:
        if not isinstance(event, dict):
            continue
        try:
            pdu = parse_pdu(rules, event, limit_references=limit_references)
        except MatrixError:
            continue
        if pdu.room_id == room_id:
            found.setdefault(pdu.event_id, pdu)
    return found


def parents_first(pdus: Mapping[EventId, Pdu]) -> list[Pdu]:
    """Events, each after those of them that it follows; without those in circles."""
    waits_for = {
        event_id: {prev for prev in pdu.prev_events if prev in pdus}
        for event_id, pdu in pdus.items()
    }
    followers: dict[EventId, list[EventId]] = {}
    for event_id, prevs in waits_for.items():
        for prev in prevs:
            followers.setdefault(prev, []).append(event_id)
    ordered = [event_id for event_id, prevs in waits_for.items() if not prevs]
    for event_id in ordered:  # it grows
        for follower in followers.get(event_id, ()):
            waits_for[follower].discard(event_id)
            if not waits_for[follower]:
                ordered.append(follower)
    return [pdus[event_id] for event_id in ordered]


def _read_ids(source: Source, event_ids: object) -> frozenset[EventId]:
    if not isinstance(event_ids, list) or len(event_ids) > MAX_STATE_EVENTS:
        raise RemoteUnintelligible(source.server_name, "It tells no bounded list of event IDs.")
    return frozenset(
        event_id
        for event_id in event_ids
        if isinstance(event_id, str) and is_event_id(event_id) and "\0" not in event_id
    )
