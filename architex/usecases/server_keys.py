"""The key ring: signing keys of other servers: remembered, else asked of the origin or a notary.

Spec: https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from architex.domain.canonical_json import Json, parse_json
from architex.domain.errors import BadJson, InvalidSignature, MatrixError
from architex.domain.identifiers import ServerName, is_server_name, server_name_of
from architex.domain.policy_servers import POLICY_KEY_ID
from architex.domain.room.handshakes import AUTHORISED_VIA
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import (
    FindEventKey,
    SigningKey,
    sign_json,
    signatures_of,
    verify_signed_json,
)
from architex.domain.unpadded_base64 import decode_base64
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError
from architex.gateways.federation_client import FederationClient
from architex.storage.server_keys import ServerKey, ServerKeyStore
from architex.usecases.known_keys import KnownKeys
from architex.usecases.told_keys import KEY_ID, read_told_keys

log = logging.getLogger(__name__)

#: server name → key ID → up to when the key must count, in milliseconds since 1970. No key IDs:
#: any key that counts now.
Wanted: TypeAlias = Mapping[ServerName, Mapping[str, int]]

MAX_QUERIED_SERVERS: Final = 200
"""In one request to us as a notary."""

# How long our own answers hold. Not less than an hour, says the spec; a revoked key lives on for
# so long.
_OWN_VALIDITY_MS: Final = 24 * 3600 * 1000

_FETCH_TIMEOUT_S: Final = 10.0
_FETCHES_AT_ONCE: Final = 40
# From here on notaries are asked first; and about so many servers in one request.
_MANY_SERVERS: Final = 50
_NOTARISED_AT_ONCE: Final = 100
_MAX_KEYS_BYTES: Final = 65_536
_MAX_KEY_IDS_ASKED: Final = 10

# Of one server: so many requests at once, and one more every so many seconds.
_FETCH_BURST: Final = 10.0
_FETCH_EVERY_S: Final = 30.0

_COUNTED_SERVERS: Final = 20_000


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key that this server used to sign with.

    Attributes:
        key: in unpadded base64.
        expired_ts: when it stopped, in milliseconds since 1970.
    """

    key_id: str
    key: str
    expired_ts: int


class KeyRing:
    """Finds the keys that signatures are verified with; publishes our own."""

    def __init__(
        self,
        store: ServerKeyStore,
        client: FederationClient,
        clock: Clock,
        *,
        server_name: ServerName,
        signing_key: SigningKey,
        old_keys: Sequence[OldKey] = (),
        notaries: Sequence[ServerName] = (),
    ) -> None:
        """Hold the collaborators; asks nobody yet.

        Args:
            server_name: ours.
            notaries: servers that are believed about the keys of others who cannot be reached.
        """
        self._client = client
        self._clock = clock
        self._server_name = server_name
        self._signing_key = signing_key
        self._old_keys = old_keys
        self._notaries = [notary for notary in notaries if notary != server_name]
        self._known = KnownKeys(store, clock)
        self._budget = _FetchBudget(clock)
        self._under_way: dict[ServerName, threading.Event] = {}
        self._lock = threading.Lock()

    # ---- looking up

    def find_request_key(self, server_name: ServerName, key_id: str) -> bytes | None:
        """The key that a server signs its requests with now; None when it has no such key.

        Asks the server, then the notaries, when the key is not remembered or no longer counts.
        """
        if KEY_ID.fullmatch(key_id) is None:
            return None
        now_ms = self._clock.now_ms()
        key = self._provide({server_name: {key_id: now_ms}}).get((server_name, key_id))
        # "old_verify_keys … are only valid for signing events."
        if key is None or key.expired_ts is not None or key.valid_until_ts < now_ms:
            return None
        return key.verify_key

    def for_events(
        self,
        rules: RoomVersionRules,
        events: Iterable[Mapping[str, Any]],
        *,
        timeout_s: float = 30.0,
    ) -> FindEventKey:
        """Get the keys that events of a room are signed with; gives a lookup that asks nobody.

        Servers are asked side by side. Keys that could not be had in time are unknown to the
        lookup, and so the events invalid: they can be judged later.

        Args:
            events: as they came, whatever their form.
            timeout_s: for asking all servers together.

        Spec: https://spec.matrix.org/v1.19/rooms/v5/#signing-key-validity-period
        """
        wanted: dict[ServerName, dict[str, int]] = {}
        for event in events:
            made_ts = _int_or(event.get("origin_server_ts"), 0)
            # Before version 5 a key that ever counted always counts.
            needed_ts = made_ts if rules.enforce_key_validity else 0
            for server_name in _servers_that_may_sign(event):
                of_server = wanted.setdefault(server_name, {})
                for key_id in list(signatures_of(event, server_name))[:_MAX_KEY_IDS_ASKED]:
                    # A policy server's key is in the room, and not among what it publishes.
                    if KEY_ID.fullmatch(key_id) is not None and key_id != POLICY_KEY_ID:
                        of_server[key_id] = max(needed_ts, of_server.get(key_id, 0))
        found = self._provide(
            {server_name: keys for server_name, keys in wanted.items() if keys}, timeout_s
        )

        def find_event_key(server_name: ServerName, key_id: str, made_ts: int) -> bytes | None:
            key = found.get((server_name, key_id))
            if key is None or (rules.enforce_key_validity and made_ts > key.valid_until_ts):
                return None
            return key.verify_key

        return find_event_key

    # ---- publishing

    def own_keys(self) -> Json:
        """Our keys, signed, as other servers are told them.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#publishing-keys
        """
        told = {
            "server_name": self._server_name,
            "verify_keys": {
                self._signing_key.key_id: {"key": self._signing_key.verify_key_base64}
            },
            "old_verify_keys": {
                old.key_id: {"key": old.key, "expired_ts": old.expired_ts}
                for old in self._old_keys
            },
            "valid_until_ts": self._clock.now_ms() + _OWN_VALIDITY_MS,
        }
        return sign_json(told, self._server_name, self._signing_key)

    def notarise(self, wanted: Wanted) -> list[Json]:
        """What servers told about their keys, each with our signature beside theirs.

        Asks those of which no key, or none valid for long enough, is remembered. Who cannot be
        reached is answered for from memory; who is unknown then is left out.

        Raises:
            BadJson: about too many servers at once.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server
        """
        if len(wanted) > MAX_QUERIED_SERVERS:
            raise BadJson(f"At most {MAX_QUERIED_SERVERS} servers can be asked about at once.")
        told: list[Json] = []
        if self._server_name in wanted:
            told.append(self.own_keys())
        others = {
            server_name: dict(list(keys.items())[:_MAX_KEY_IDS_ASKED])
            for server_name, keys in wanted.items()
            if server_name != self._server_name and is_server_name(server_name)
        }
        self._provide(others)
        for server_name, keys in others.items():
            remembered = self._known.list_keys([server_name])
            asked_for = [key for key in remembered if key.key_id in keys]
            # In the order of age: what was told last comes last, and once.
            distinct = dict.fromkeys(
                key.told for key in sorted(asked_for or remembered, key=lambda k: k.fetched_ts)
            )
            for raw in distinct:
                told.append(sign_json(parse_json(raw), self._server_name, self._signing_key))
        return told

    # ---- providing

    def _provide(
        self, wanted: Wanted, timeout_s: float = _FETCH_TIMEOUT_S
    ) -> dict[tuple[ServerName, str], ServerKey]:
        """All remembered keys of servers, after asking for those that are wanting."""
        own = self._server_name in wanted
        others = [server_name for server_name in wanted if server_name != self._server_name]
        keys = self._known.list_keys(others)
        wanting = self._wanting(wanted, keys)
        if wanting:
            self._fetch(wanting, timeout_s)
            keys = self._known.list_keys(others)
        if own:
            keys += self._own()
        return {(key.server_name, key.key_id): key for key in keys}

    def _wanting(self, wanted: Wanted, keys: Iterable[ServerKey]) -> dict[ServerName, set[str]]:
        """The servers to ask, and for which key IDs."""
        now_ms = self._clock.now_ms()
        known: dict[ServerName, dict[str, ServerKey]] = {}
        for key in keys:
            known.setdefault(key.server_name, {})[key.key_id] = key
        wanting: dict[ServerName, set[str]] = {}
        for server_name, key_ids in wanted.items():
            of_server = known.get(server_name, {})
            if server_name == self._server_name:
                continue
            missing = {
                key_id
                for key_id, needed_ts in key_ids.items()
                if not _suffices(of_server.get(key_id), needed_ts)
            }
            has_any = any(
                key.expired_ts is None and key.valid_until_ts >= now_ms
                for key in of_server.values()
            )
            if missing or (not key_ids and not has_any):
                wanting[server_name] = missing
        return wanting

    def _own(self) -> list[ServerKey]:
        mine = self._signing_key
        # No end: whatever is signed with it now is ours.
        keys = [ServerKey(self._server_name, mine.key_id, mine.verify_key, 2**62, None, 0, b"")]
        for old in self._old_keys:
            raw = decode_base64(old.key)
            keys.append(
                ServerKey(
                    self._server_name, old.key_id, raw, old.expired_ts, old.expired_ts, 0, b""
                )
            )
        return keys

    # ---- asking others

    def _fetch(self, wanting: Mapping[ServerName, set[str]], timeout_s: float) -> None:
        """Ask for keys. Who wants those of a server that is being asked waits for that answer."""
        ends = self._clock.monotonic() + timeout_s
        mine: dict[ServerName, threading.Event] = {}
        of_others: list[threading.Event] = []
        with self._lock:
            for server_name in wanting:
                under_way = self._under_way.get(server_name)
                if under_way is not None:
                    of_others.append(under_way)
                elif self._budget.spend(server_name):
                    mine[server_name] = self._under_way[server_name] = threading.Event()
        try:
            if mine:
                self._ask_around({name: wanting[name] for name in mine}, ends)
        finally:
            with self._lock:
                for server_name in mine:
                    del self._under_way[server_name]
            for done in mine.values():
                done.set()
        for under_way in of_others:
            under_way.wait(max(0.0, ends - self._clock.monotonic()))

    def _ask_around(self, wanting: Mapping[ServerName, set[str]], ends: float) -> None:
        """Ask the servers themselves, side by side; then the notaries about the others.

        About many, as when a large room is joined, the notaries are asked first: most of them may
        be gone, and each that is gone is waited for.
        """
        left = dict(wanting)
        are_many = len(wanting) > _MANY_SERVERS
        if are_many:
            left = self._ask_notaries(left, ends)
        self._side_by_side(self._fetch_from_origin, list(left), ends - self._clock.monotonic())
        if not are_many:
            self._ask_notaries(self._unknown(left), ends)

    def _ask_notaries(
        self, wanting: Mapping[ServerName, set[str]], ends: float
    ) -> dict[ServerName, set[str]]:
        """Ask one notary after the other; gives what none of them knows."""
        left = dict(wanting)
        for notary in self._notaries:
            names = list(left)
            for start in range(0, len(names), _NOTARISED_AT_ONCE):
                seconds = ends - self._clock.monotonic()
                if seconds <= 0:
                    return left
                some = {name: left[name] for name in names[start : start + _NOTARISED_AT_ONCE]}
                found = self._fetch_from_notary(notary, some, seconds)
                unknown = self._unknown({name: some[name] for name in found})
                for name in found - unknown.keys():
                    del left[name]
        return left

    def _unknown(self, wanting: Mapping[ServerName, set[str]]) -> dict[ServerName, set[str]]:
        """The keys that are not remembered."""
        known = {(key.server_name, key.key_id) for key in self._known.list_keys(list(wanting))}
        left = {
            name: {key_id for key_id in key_ids if (name, key_id) not in known}
            for name, key_ids in wanting.items()
        }
        return {name: key_ids for name, key_ids in left.items() if key_ids}

    def _side_by_side(
        self, fetch: Any, server_names: Sequence[ServerName], timeout_s: float
    ) -> None:
        if len(server_names) <= 1:
            for server_name in server_names:
                fetch(server_name)
            return
        workers = ThreadPoolExecutor(min(len(server_names), _FETCHES_AT_ONCE))
        try:
            wait([workers.submit(fetch, name) for name in server_names], timeout_s)
        finally:
            # Who is slow may go on and be of use next time; who has not begun need not.
            workers.shutdown(wait=False, cancel_futures=True)

    def _fetch_from_origin(self, server_name: ServerName) -> None:
        try:
            told = self._client.get(
                server_name,
                "/_matrix/key/v2/server",
                timeout_s=_FETCH_TIMEOUT_S,
                max_bytes=_MAX_KEYS_BYTES,
            )
            self._known.record(read_told_keys(server_name, told, self._clock.now_ms()))
        except (RemoteError, MatrixError) as error:
            log.info("cannot get the keys of %s: %s", server_name, error)

    def _fetch_from_notary(
        self, notary: ServerName, wanting: Mapping[ServerName, set[str]], timeout_s: float
    ) -> set[ServerName]:
        """Ask a notary; gives the servers that it knew keys of."""
        now_ms = self._clock.now_ms()
        query = {
            server_name: {key_id: {"minimum_valid_until_ts": now_ms} for key_id in key_ids}
            for server_name, key_ids in wanting.items()
        }
        found: set[ServerName] = set()
        try:
            answer = self._client.post(
                notary,
                "/_matrix/key/v2/query",
                {"server_keys": query},
                timeout_s=timeout_s,
                max_bytes=_MAX_KEYS_BYTES * (len(wanting) + 1),
            )
        except RemoteError as error:
            log.info("the notary %s does not answer: %s", notary, error)
            return found
        answers = answer.get("server_keys")
        keys: list[ServerKey] = []
        for told in answers if isinstance(answers, list) else ():
            server_name = told.get("server_name") if isinstance(told, dict) else None
            if not isinstance(server_name, str) or server_name not in wanting:
                continue
            try:
                self._check_notary_signature(notary, told)
                keys += read_told_keys(server_name, told, now_ms)
                found.add(server_name)
            except MatrixError as error:
                log.warning("the notary %s about %s: %s", notary, server_name, error)
        if keys:
            self._known.record(keys)
        return found

    def _check_notary_signature(self, notary: ServerName, told: Json) -> None:
        """Raises InvalidSignature unless the notary signed it with a key that counts now."""
        for key_id in list(signatures_of(told, notary))[:_MAX_KEY_IDS_ASKED]:
            verify_key = self.find_request_key(notary, key_id)
            if verify_key is not None:
                verify_signed_json(told, notary, key_id, verify_key)
                return
        raise InvalidSignature(f"It is not signed by {notary}.")


def _servers_that_may_sign(event: Mapping[str, Any]) -> set[ServerName]:
    """The servers whose signatures may matter on an event, whatever its form and version."""
    content = event.get("content")
    authoriser = content.get(AUTHORISED_VIA) if isinstance(content, dict) else None
    servers = set()
    for identifier in (event.get("sender"), event.get("event_id"), authoriser):
        if isinstance(identifier, str) and ":" in identifier:
            server_name = server_name_of(identifier)
            if is_server_name(server_name):
                servers.add(server_name)
    return servers


def _suffices(key: ServerKey | None, needed_ts: int) -> bool:
    # Asking again about an old key leads to nothing.
    return key is not None and (key.expired_ts is not None or key.valid_until_ts >= needed_ts)


def _int_or(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


class _FetchBudget:
    """How often a server may be asked for its keys: bad signatures must not make us flood it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: OrderedDict[ServerName, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def spend(self, server_name: ServerName) -> bool:
        """Whether it may be asked now; counts as asking."""
        now = self._clock.monotonic()
        with self._lock:
            left, since = self._left.pop(server_name, (_FETCH_BURST, now))
            left = min(_FETCH_BURST, left + (now - since) / _FETCH_EVERY_S)
            self._left[server_name] = (left - 1 if left >= 1 else left, now)
            if len(self._left) > _COUNTED_SERVERS:
                self._left.popitem(last=False)
            return left >= 1
