"""Sends what was read for a server in transactions, and sets aside what it will never take.

Spec: https://spec.matrix.org/v1.19/server-server-api/#transactions
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from architex.domain.canonical_json import Json, encode_lenient_json
from architex.domain.errors import InvalidCanonicalJson
from architex.domain.identifiers import RoomId, ServerName
from architex.followers.federation_readings import MAX_EDUS, MAX_PDUS, Reading
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteRefused
from architex.gateways.federation_client import FederationClient, federation_path
from architex.projections.federation_outbox import OutgoingPdu, load_outgoing_pdus
from architex.storage.destinations import Destinations, Refused
from architex.storage.pool import Database

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 60.0

# What says something about the server or the way to it, not about what was sent.
_ABOUT_THE_SERVER: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 426, 429})
_SUSPICIOUS_FAILURES: Final = 3
"""After so many failures a server's own error (500) may be due to what is sent."""

_MAX_CACHED_PDUS: Final = 500


class FederationTransactions:
    """Transactions of ours to other servers; any number of threads may send them."""

    def __init__(
        self,
        database: Database,
        client: FederationClient,
        clock: Clock,
        randomness: Randomness,
        server_name: ServerName,
    ) -> None:
        """Remember the collaborators.

        Args:
            server_name: ours.
        """
        self._database = database
        self._destinations = Destinations(database)
        self._client = client
        self._clock = clock
        self._randomness = randomness
        self._server_name = server_name
        # The newest events, which many servers are owed.
        self._pdus: OrderedDict[int, OutgoingPdu] = OrderedDict()
        self._lock = threading.Lock()

    def send(self, destination: ServerName, reading: Reading, *, failures: int) -> bool:
        """Send everything of a reading; False when there is nothing in it.

        Args:
            failures: so many tries have failed in a row.

        Raises:
            RemoteError: it could not be sent now.
        """
        events, edus = reading.events, reading.edus
        txn_id = None
        part = 0
        while events or edus:
            pdus = self._load_pdus([event.event_position for event in events[:MAX_PDUS]])
            txn_id = txn_id or _txn_id(reading, pdus)
            if pdus or edus:
                self._transmit(
                    destination,
                    f"{txn_id}.{part}" if part else txn_id,
                    pdus,
                    edus[:MAX_EDUS],
                    failures=failures,
                )
            events, edus = events[MAX_PDUS:], edus[MAX_EDUS:]
            part += 1
        return part > 0

    def _load_pdus(self, event_positions: Sequence[int]) -> list[OutgoingPdu]:
        with self._lock:
            missing = [one for one in event_positions if one not in self._pdus]
        loaded: Mapping[int, OutgoingPdu] = {}
        if missing:
            with self._database.connection() as connection:
                loaded = load_outgoing_pdus(connection, missing)
        with self._lock:
            self._pdus.update(loaded)
            found = [
                loaded.get(one) or self._pdus[one]
                for one in event_positions
                if one in loaded or one in self._pdus
            ]
            while len(self._pdus) > _MAX_CACHED_PDUS:
                self._pdus.popitem(last=False)
        return found

    def _transmit(
        self,
        destination: ServerName,
        txn_id: str,
        pdus: Sequence[OutgoingPdu],
        edus: Sequence[Json],
        *,
        failures: int,
        is_part: bool = False,
    ) -> None:
        """Send one transaction; what the server will never take is found and set aside.

        Raises:
            RemoteError: it could not be sent now.
        """
        try:
            answer = self._put(destination, txn_id, [pdu.event for pdu in pdus], edus)
        except InvalidCanonicalJson as error:
            if len(pdus) + len(edus) == 1:
                self._set_aside(destination, pdus, edus, f"cannot be sent: {error}")
                return
        except RemoteRefused as refusal:
            is_single = len(pdus) + len(edus) == 1
            if not _may_blame_content(refusal, failures):
                raise
            if not is_part or is_single:
                # If it takes no transaction at all, the reason is not in what is sent.
                self._put(destination, f"{txn_id}.{self._randomness.token_urlsafe(6)}", [], [])
            if is_single:
                self._set_aside(destination, pdus, edus, str(refusal))
                return
        else:
            self._look_for_errors(destination, pdus, answer)
            return
        for half, part in enumerate(_halves(pdus, edus)):
            self._transmit(destination, f"{txn_id}-{half}", *part, failures=failures, is_part=True)

    def _put(
        self,
        destination: ServerName,
        txn_id: str,
        pdus: Sequence[Mapping[str, Any]],
        edus: Sequence[Json],
    ) -> Json:
        content: dict[str, Any] = {
            "origin": self._server_name,
            "origin_server_ts": self._clock.now_ms(),
            "pdus": list(pdus),
        }
        if edus:
            content["edus"] = list(edus)
        return self._client.put(
            destination,
            federation_path("v1", "send", txn_id),
            content,
            timeout_s=TIMEOUT_S,
            despite_failures=True,
        )

    def _look_for_errors(
        self, destination: ServerName, pdus: Sequence[OutgoingPdu], answer: Json
    ) -> None:
        """Name the events that a server would not take."""
        results = answer.get("pdus")
        if not isinstance(results, dict):
            return
        for pdu in pdus:
            result = results.get(pdu.event_id)
            if isinstance(result, dict) and "error" in result:
                self._note_refused(
                    destination, pdu.event_id, pdu.room_id, str(result["error"])[:500]
                )

    def _set_aside(
        self,
        destination: ServerName,
        pdus: Sequence[OutgoingPdu],
        edus: Sequence[Json],
        error: str,
    ) -> None:
        for pdu in pdus:
            self._note_refused(destination, pdu.event_id, pdu.room_id, error)
        for edu in edus:
            self._note_refused(destination, str(edu.get("edu_type")), None, error)

    def _note_refused(
        self, destination: ServerName, what: str, room_id: RoomId | None, error: str
    ) -> None:
        log.warning("%s would not take %s; it is set aside: %s", destination, what, error)
        self._destinations.set_aside(
            Refused(destination, what, room_id, error, self._clock.now_ms())
        )


def _may_blame_content(refusal: RemoteRefused, failures: int) -> bool:
    """Whether a refusal may be about what was sent."""
    if 400 <= refusal.status < 500:
        return refusal.status not in _ABOUT_THE_SERVER
    return refusal.status == 500 and failures >= _SUSPICIOUS_FAILURES


def _halves(
    pdus: Sequence[OutgoingPdu], edus: Sequence[Json]
) -> list[tuple[Sequence[OutgoingPdu], Sequence[Json]]]:
    """Two smaller transactions, in order, neither empty."""
    if pdus and edus:
        return [(pdus, ()), ((), edus)]
    middle = max(len(pdus), len(edus)) // 2
    return [(pdus[:middle], edus[:middle]), (pdus[middle:], edus[middle:])]


def _txn_id(reading: Reading, first_pdus: Sequence[OutgoingPdu]) -> str:
    """A transaction's ID, made of the positions and events in it: sent again, it has the same.

    EDUs that need not arrive are no part of it. What of them has changed meanwhile is left out of
    the repetition, and comes later.
    """
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr(sorted(reading.ranges.items())).encode())
    digest.update(repr([pdu.event_id for pdu in first_pdus]).encode("utf-8", "replace"))
    for edu in reading.lasting_edus:
        digest.update(_bytes_of(edu))
    return digest.hexdigest()


def _bytes_of(edu: Json) -> bytes:
    try:
        return encode_lenient_json(edu)
    except InvalidCanonicalJson:
        return repr(edu).encode("utf-8", "surrogatepass")
