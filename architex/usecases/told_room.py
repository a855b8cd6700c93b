"""ToldRoom: what another server tells of a room, on disk while it is checked.

An answer to send_join may hold hundreds of thousands of events. In memory there are only their
IDs, what authorises what, and where each one is in the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import orjson

from architex.domain.canonical_json import parse_json
from architex.domain.errors import MatrixError, NotJson
from architex.domain.identifiers import EventId, RoomId, ServerName, server_name_of
from architex.domain.pdu import (
    Pdu,
    StateKey,
    check_pdu_format,
    compute_event_id,
    has_valid_content_hash,
    parse_pdu,
    signed_event_json,
)
from architex.domain.room.pdu_checks import WorkedOut
from architex.domain.room_versions import RoomVersionRules
from architex.gateways.json_stream import BrokenJson, read_members
from architex.storage.event_spool import EventSpool

MAX_EVENTS: Final = 500_000
MAX_REFERENCES: Final = 2_000_000
"""Event IDs that the events are authorised by, each as often as it is named."""

MAX_SERVERS: Final = 30_000
"""Servers of those who sent the events: all of them must be asked for their keys."""

_CREATE: Final[StateKey] = ("m.room.create", "")
_UNKNOWN: Final = -1


class BrokenAnswer(Exception):
    """What the other server tells cannot be the state of the room."""


class ToldRoom:
    """The state and the auth chains of a room, as another server tells them.

    Attributes:
        state: (type, state key) → event ID.
        join: the JSON of the join event as the other server signed it, where it gave it.
    """

    def __init__(self, rules: RoomVersionRules, room_id: RoomId) -> None:
        self.rules = rules
        self.room_id = room_id
        self.state: dict[StateKey, EventId] = {}
        self.join: dict[str, Any] | None = None
        self._spool = EventSpool()
        self._signed = EventSpool()
        # Event IDs by number and back; the numbers of unknown ones have no place in the file.
        self._numbers: dict[EventId, int] = {}
        self._event_ids: list[EventId] = []
        self._places = array("q")
        self._are_whole = bytearray()
        # The auth events of event n: numbers from _auth_starts[n] on, _auth_counts[n] of them.
        self._auth_starts = array("q")
        self._auth_counts = array("B")
        self._auth_events = array("q")
        self._servers: set[ServerName] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._spool.__exit__(kind, error, traceback)
        self._signed.__exit__(kind, error, traceback)

    def __len__(self) -> int:
        """How many events were told."""
        return len(self._spool)

    def read(self, pieces: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
        """Read the body of an answer; gives each event of this room once, as it comes.

        What is no event of this room is passed over.

        Raises:
            BrokenAnswer: it is no such answer, too large, or says two things about one place.
        """
        types: dict[str, str] = {}
        try:
            for name, raw in read_members(pieces):
                if name == "event":
                    self.join = _read_object(raw)
                elif name == "members_omitted" and raw == b"true":
                    raise BrokenAnswer("It leaves members out, which we did not ask for.")
                elif name in ("state", "auth_chain", "auth_events"):
                    parsed = self._parse(raw)
                    if parsed is None:
                        continue
                    pdu, event_json, signed_json = parsed
                    number = self._number(pdu.event_id)
                    is_new = self._places[number] == _UNKNOWN
                    if is_new:
                        self._keep(number, pdu, event_json, signed_json)
                    elif self.rules.event_id_format == "domain":
                        # Whoever makes an event of these rooms chooses its ID: the first counts.
                        pdu = self.load(pdu.event_id)
                    if name == "state" and pdu.state_key is not None:
                        key = (types.setdefault(pdu.type, pdu.type), pdu.state_key)
                        event_id = self._event_ids[number]
                        if self.state.setdefault(key, event_id) != event_id:
                            raise BrokenAnswer(f"Its state has {key[0]} {key[1]!r} twice.")
                    if is_new:
                        yield pdu.event
        except BrokenJson as error:
            raise BrokenAnswer(str(error)) from error
        if _CREATE not in self.state:
            raise BrokenAnswer("Its state has no m.room.create event of this room.")

    def auth_events_first(self) -> Iterator[EventId]:
        """All events; each after those that authorise it, as far as they were told.

        Those that authorise themselves, by whatever way round, come in any order.
        """
        started = bytearray(len(self._event_ids))
        create = self._numbers.get(self.state.get(_CREATE, ""))
        starts = (
            range(len(self._event_ids))
            if create is None
            else (number for part in ((create,), range(len(self._event_ids))) for number in part)
        )
        for start in starts:
            if started[start] or self._places[start] == _UNKNOWN:
                continue
            started[start] = 1
            # Event numbers, and how many of their auth events have been gone through.
            path, gone_through = array("q", [start]), array("B", [0])
            while path:
                number, nth = path[-1], gone_through[-1]
                if nth == self._auth_counts[number]:
                    path.pop()
                    gone_through.pop()
                    yield self._event_ids[number]
                    continue
                gone_through[-1] += 1
                auth_number = self._auth_events[self._auth_starts[number] + nth]
                if not started[auth_number] and self._places[auth_number] != _UNKNOWN:
                    started[auth_number] = 1
                    path.append(auth_number)
                    gone_through.append(0)

    def load(self, event_id: EventId) -> Pdu:
        """An event as it was told: its signatures and hash may be wrong.

        Raises:
            KeyError: it was not told.
        """
        place = self._places[self._numbers[event_id]]
        if place == _UNKNOWN:
            raise KeyError(event_id)
        event_json = self._spool.read(place)
        # Huge integers, which only other room versions know, become floats here.
        is_strict = self.rules.strict_canonical_json
        event = orjson.loads(event_json) if is_strict else parse_json(event_json)
        return parse_pdu(self.rules, event, event_id=event_id)

    def worked_out(self, event_id: EventId) -> WorkedOut:
        """What was worked out when the event came."""
        number = self._numbers[event_id]
        return WorkedOut(bool(self._are_whole[number]), self._signed.read(self._places[number]))

    def _parse(self, raw: bytes) -> tuple[Pdu, bytes, bytes] | None:
        """An event, its canonical JSON and what is signed of it; None: it is none of this room."""
        try:
            event = parse_json(raw, allow_duplicate_keys=False)
            if not isinstance(event, dict):
                return None
            # Whatever the other server says beside the event is not part of it.
            event.pop("unsigned", None)
            event_json = check_pdu_format(self.rules, event)
            # Signatures are checked later; the same bytes tell its ID.
            signed_json = signed_event_json(self.rules, event)
            event_id = compute_event_id(self.rules, event, signed_json=signed_json)
            pdu = parse_pdu(self.rules, event, event_id=event_id)
        except MatrixError:
            return None
        return (pdu, event_json, signed_json) if pdu.room_id == self.room_id else None

    def _number(self, event_id: EventId) -> int:
        number = self._numbers.setdefault(event_id, len(self._event_ids))
        if number == len(self._event_ids):
            self._event_ids.append(event_id)
            self._places.append(_UNKNOWN)
            self._are_whole.append(False)
            self._auth_starts.append(0)
            self._auth_counts.append(0)
        return number

    def _keep(self, number: int, pdu: Pdu, event_json: bytes, signed_json: bytes) -> None:
        self._servers.add(server_name_of(pdu.sender))
        if (
            len(self._spool) >= MAX_EVENTS
            or len(self._auth_events) > MAX_REFERENCES
            or len(self._servers) > MAX_SERVERS
        ):
            raise BrokenAnswer(f"It is too large: {MAX_EVENTS} events at most.")
        self._places[number] = self._spool.add(event_json)
        self._signed.add(signed_json)
        # Now, while the event is at hand; later there is only its JSON.
        self._are_whole[number] = has_valid_content_hash(self.rules, pdu.event)
        self._auth_starts[number] = len(self._auth_events)
        self._auth_counts[number] = len(pdu.auth_events)
        for auth_id in pdu.auth_events:
            self._auth_events.append(self._number(auth_id))


def _read_object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(raw, allow_duplicate_keys=False)
    except NotJson:
        return None
    return value if isinstance(value, dict) else None
