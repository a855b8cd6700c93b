"""Keys of users on other servers: held while their servers tell us of changes, else asked for.

Spec: https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.encryption_keys import (
    MASTER,
    SELF_SIGNING,
    CrossSigningKey,
    check_signed_by,
    is_relayable,
    parse_cross_signing_key,
)
from architex.domain.errors import BadJson, DatabaseUnavailable, MatrixError
from architex.domain.identifiers import (
    MAX_IDENTIFIER_BYTES,
    ServerName,
    UserId,
    server_name_of,
)
from architex.gateways.clock import Clock
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.gateways.federation_client import FederationClient, federation_path
from architex.gateways.timers import CallLater
from architex.projections.device_list_reads import SharedRooms
from architex.projections.room_reads import find_position
from architex.storage.commit_queue import CommitQueue
from architex.storage.device_keys import (
    DeviceKeyStore,
    delete_cross_signing_keys,
    put_cross_signing_key,
)
from architex.storage.device_lists import note_list_change
from architex.storage.pool import Database, Execute
from architex.storage.remote_devices import (
    RemoteDevice,
    RemoteDeviceStore,
    RemoteList,
    call_misled,
    put_list,
)
from architex.usecases.side_by_side import call_each

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
MAX_DEVICES: Final = 5000
"""Of one user of another server."""

T = TypeVar("T")

_ASKED_AT_ONCE: Final = 12

#: Servers that one request of a client has asked.
MAX_SERVERS: Final = 500
# Of more users of one server all keys are asked for at once, without the numbers of their lists.
_LISTS_PER_SERVER: Final = 10
_RESYNC_TIMEOUT_S: Final = 15.0
_MAX_WAITING_RESYNCS: Final = 10_000

_UNREACHABLE: Final = {
    "status": 503,
    "errcode": "M_UNKNOWN",
    "error": "The server cannot be reached now.",
}

ByServer: TypeAlias = Mapping[ServerName, Mapping[UserId, Any]]


@dataclass
class RemoteKeysFound:
    """What other servers told.

    Attributes:
        device_keys: user ID → device ID → keys, with `unsigned`.
        failures: server name → why it could not be asked.
    """

    device_keys: dict[UserId, dict[str, Any]] = field(default_factory=dict)
    failures: dict[ServerName, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToldList:
    """A user's devices and keys, as the user's server tells them."""

    user_id: UserId
    stream_id: int | None
    devices: Sequence[RemoteDevice]
    cross_signing_keys: Sequence[CrossSigningKey]


class RemoteKeys:
    """Asks other servers for their users' keys, and remembers what they keep us informed of."""

    def __init__(
        self,
        database: Database,
        client: FederationClient,
        lists: RemoteDeviceStore,
        keys: DeviceKeyStore,
        shared_rooms: SharedRooms,
        commits: CommitQueue,
        clock: Clock,
        server_name: ServerName,
        call_later: CallLater,
    ) -> None:
        """Remember the collaborators.

        Args:
            server_name: ours.
            call_later: calls a function in a number of seconds, from another thread.
        """
        self._database = database
        self._client = client
        self._lists = lists
        self._keys = keys
        self._shared_rooms = shared_rooms
        self._commits = commits
        self._clock = clock
        self._server_name = server_name
        self._call_later = call_later
        self._lock = threading.Lock()
        self._under_way: dict[UserId, threading.Event] = {}
        self._waiting: dict[UserId, None] = {}
        self._resyncers = 0

    # ---- querying

    def query_keys(self, wanted: ByServer, timeout_s: float) -> RemoteKeysFound:
        """The devices of users on other servers.

        The cross-signing keys of those users are held afterwards, as far as they are told.

        Args:
            wanted: user ID → device IDs, by server; no device IDs mean all.
        """
        found = RemoteKeysFound()
        user_ids = [user_id for users in wanted.values() for user_id in users]
        known = self._lists.find_lists(user_ids)
        missing = {
            server_name: [u for u in users if u not in known or not known[u].is_current]
            for server_name, users in wanted.items()
        }
        asked = {server_name: users for server_name, users in missing.items() if users}
        ends = self._clock.monotonic() + timeout_s

        def ask(item: tuple[ServerName, list[UserId]]) -> None:
            server_name, users = item
            if self._clock.monotonic() > ends:  # others took all the time
                found.failures[server_name] = _UNREACHABLE
                return
            try:
                found.device_keys.update(self._ask_server(server_name, users, ends))
            except RemoteError as error:
                found.failures[server_name] = _failure(error)

        call_each(ask, _not_too_many(asked, found.failures), at_once=_ASKED_AT_ONCE)
        told = found.device_keys
        silent = [u for users in asked.values() for u in users if u not in told]
        shared = self._shared_rooms.list_shared_with_server(silent, self._server_name)
        if shared:
            self._lists.note_misled(shared)
            known = self._lists.find_lists(user_ids)  # somebody else may have been told now
        # Also what is not current: better than nothing while a server is away.
        held = self._lists.list_devices([u for u in user_ids if u not in told])
        for user_id in user_ids:
            if user_id not in told and (user_id in known and known[user_id].fetched_at > 0):
                told[user_id] = _render(held.get(user_id, ()))
        for users in wanted.values():
            for user_id, device_ids in users.items():
                if device_ids and user_id in told:
                    devices = told[user_id]
                    told[user_id] = {d: devices[d] for d in device_ids if d in devices}
        return found

    def _ask_server(
        self, server_name: ServerName, user_ids: Sequence[UserId], ends: float
    ) -> dict[UserId, dict[str, Any]]:
        """The devices of users of one server; held afterwards if we share rooms with them."""
        shared = self._shared_rooms.list_shared_with_server(user_ids, self._server_name)
        found: dict[UserId, dict[str, Any]] = {}
        rest = list(user_ids)
        if len(shared) <= _LISTS_PER_SERVER:
            rest = [user_id for user_id in user_ids if user_id not in shared]
            refused: list[UserId] = []

            def resync(user_id: UserId) -> None:
                try:
                    self._fetch_list(user_id, self._left(ends))
                    found[user_id] = {}
                except RemoteRefused:
                    refused.append(user_id)

            call_each(resync, sorted(shared), at_once=_ASKED_AT_ONCE)
            devices = self._lists.list_devices(list(found))
            for user_id in found:
                found[user_id] = _render(devices.get(user_id, ()))
            rest += refused
        if rest:
            fetched_at = self._position()
            told = self._query_server(server_name, rest, self._left(ends))
            for one in told:
                if one.user_id in shared:
                    self._hold(one, fetched_at)
                else:
                    self._hold_cross_signing_keys(one)
                found[one.user_id] = _render(one.devices)
        return found

    def _query_server(
        self, server_name: ServerName, user_ids: Sequence[UserId], timeout_s: float
    ) -> list[ToldList]:
        answer = self._client.post(
            server_name,
            federation_path("v1", "user", "keys", "query"),
            {"device_keys": {user_id: [] for user_id in user_ids}},
            timeout_s=timeout_s,
            max_bytes=MAX_ANSWER_BYTES,
        )
        of_users = _object(answer, "device_keys")
        masters, self_signing = (
            _object(answer, "master_keys"),
            _object(answer, "self_signing_keys"),
        )
        return [
            ToldList(
                user_id,
                None,
                _read_devices(
                    user_id,
                    [
                        (device_id, keys, _object(keys, "unsigned").get("device_display_name"))
                        for device_id, keys in _object(of_users, user_id).items()
                    ],
                ),
                read_told_keys(user_id, masters.get(user_id), self_signing.get(user_id)),
            )
            for user_id in user_ids
            if user_id in of_users or user_id in masters
        ]

    # ---- the list of one user

    def resync(self, user_id: UserId) -> None:
        """Ask for a user's devices anew, soon; who asks for them meanwhile waits for that.

        When it does not succeed (or the process ends before), whoever wants to know them asks.
        """
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING_RESYNCS:
                return
            self._waiting[user_id] = None
            if self._resyncers >= _ASKED_AT_ONCE:
                return
            self._resyncers += 1
        self._call_later(0.0, self._resync_waiting)

    def _resync_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._resyncers -= 1
                    return
                user_id = next(iter(self._waiting))
                del self._waiting[user_id]
            try:
                known = self._lists.find_lists([user_id]).get(user_id)
                if known is None or not known.is_current:
                    self._fetch_list(user_id, _RESYNC_TIMEOUT_S)
            except (RemoteError, DatabaseUnavailable) as error:
                log.info("The devices of %s cannot be asked for now: %s", user_id, error)
            except Exception:
                log.exception("The devices of %s were not understood", user_id)

    def _fetch_list(self, user_id: UserId, timeout_s: float) -> None:
        """Ask for the list of a user's devices, and hold it; once at a time per user.

        Raises:
            RemoteError: the server did not tell.
        """
        with self._lock:
            done = self._under_way.get(user_id)
            is_ours = done is None
            if done is None:
                done = self._under_way[user_id] = threading.Event()
        if not is_ours:
            done.wait(timeout_s)
            known = self._lists.find_lists([user_id]).get(user_id)
            if known is not None and known.is_current:
                return
        try:
            fetched_at = self._position()
            answer = self._client.get(
                server_name_of(user_id),
                federation_path("v1", "user", "devices", user_id),
                timeout_s=timeout_s,
                max_bytes=MAX_ANSWER_BYTES,
            )
            self._hold(_read_list(user_id, answer), fetched_at)
        finally:
            if is_ours:
                with self._lock:
                    self._under_way.pop(user_id, None)
                done.set()

    def _hold(self, told: ToldList, fetched_at: int) -> None:
        """Remember what a server told; say so to those who share rooms with the user."""

        def write(execute: Execute, position: int) -> None:
            put_list(execute, told.user_id, told.stream_id, fetched_at, told.devices)
            put_keys(execute, told)
            if is_news:
                note_list_change(execute, position, told.user_id)
            call_misled(execute, position, told.user_id)

        known = self._lists.find_lists([told.user_id]).get(told.user_id)
        is_news = self._is_news(known, told)
        is_heard = is_news or (known is not None and known.misled)
        rooms = self._shared_rooms.list_rooms(told.user_id) if is_heard else ()
        self._commits.write_rows(write, wake_rooms=rooms)

    def _is_news(self, known: RemoteList | None, told: ToldList) -> bool:
        """Whether clients knew nothing or something else, and not yet that it has changed."""
        if known is None or known.fetched_at == 0:
            return True
        if known.is_stale:
            return False
        held = self._lists.list_devices([told.user_id]).get(told.user_id, ())
        if list(held) != sorted(told.devices, key=lambda device: device.device_id):
            return True
        keys = self._keys.list_cross_signing_keys([told.user_id])
        return {k.usage: k.content for k in told.cross_signing_keys} != {
            usage: content for (_, usage), content in keys.items()
        }

    def _hold_cross_signing_keys(self, told: ToldList) -> None:
        if told.cross_signing_keys:
            self._commits.write_rows(lambda execute, _: put_keys(execute, told))

    # ---- claiming

    def claim_keys(
        self, wanted: ByServer, timeout_s: float
    ) -> tuple[dict[UserId, dict[str, Any]], dict[ServerName, Any]]:
        """Claim one-time keys of devices on other servers.

        Args:
            wanted: user ID → device ID → algorithm, by server.

        Returns user ID → device ID → name → key, and the failures.
        """
        claimed: dict[UserId, dict[str, Any]] = {}
        failures: dict[ServerName, Any] = {}
        ends = self._clock.monotonic() + timeout_s

        def ask(item: tuple[ServerName, Mapping[UserId, Mapping[str, str]]]) -> None:
            server_name, users = item
            if self._clock.monotonic() > ends:
                failures[server_name] = _UNREACHABLE
                return
            try:
                answer = self._client.post(
                    server_name,
                    federation_path("v1", "user", "keys", "claim"),
                    {"one_time_keys": users},
                    timeout_s=self._left(ends),
                    max_bytes=MAX_ANSWER_BYTES,
                )
            except RemoteError as error:
                failures[server_name] = _failure(error)
                return
            told = _object(answer, "one_time_keys")
            for user_id, devices in users.items():
                keys = {
                    device_id: _claimed_key(_object(told, user_id).get(device_id), algorithm)
                    for device_id, algorithm in devices.items()
                }
                keys = {device_id: key for device_id, key in keys.items() if key}
                if keys:
                    claimed[user_id] = keys

        call_each(ask, _not_too_many(wanted, failures), at_once=_ASKED_AT_ONCE)
        return claimed, failures

    # ---- within

    def _left(self, ends: float) -> float:
        return max(ends - self._clock.monotonic(), 0.1)

    def _position(self) -> int:
        with self._database.connection() as connection:
            return find_position(connection)


def read_told_keys(user_id: UserId, master: Any, self_signing: Any) -> list[CrossSigningKey]:
    """The cross-signing keys that another server tells, as far as they are valid.

    A self-signing key that the master key did not sign is none.
    """
    keys: list[CrossSigningKey] = []
    try:
        keys.append(parse_cross_signing_key(master, user_id, MASTER))
        signer = parse_cross_signing_key(self_signing, user_id, SELF_SIGNING)
        check_signed_by(signer.content, keys[0])
        keys.append(signer)
    except MatrixError as error:
        if master is not None and self_signing is not None:
            log.info("A cross-signing key of %s is not valid: %s", user_id, error.message)
    return keys


def read_device(
    user_id: UserId, device_id: Any, keys: Any, display_name: Any
) -> RemoteDevice | None:
    """A device that another server tells; None when it is none we can keep."""
    if not isinstance(device_id, str) or not 0 < len(device_id) <= MAX_IDENTIFIER_BYTES:
        return None
    if "\0" in device_id or not is_relayable(keys, user_id, device_id):
        return None
    kept = {name: value for name, value in keys.items() if name != "unsigned"}
    name = display_name if isinstance(display_name, str) else None
    return RemoteDevice(device_id, kept, None if name is None else name.replace("\0", "")[:256])


def _read_list(user_id: UserId, answer: Mapping[str, Any]) -> ToldList:
    stream_id, devices = answer.get("stream_id"), answer.get("devices")
    is_number = isinstance(stream_id, int) and not isinstance(stream_id, bool)
    told = [
        (device.get("device_id"), device.get("keys"), device.get("device_display_name"))
        for device in (devices if isinstance(devices, list) else ())
        if isinstance(device, dict)
    ]
    return ToldList(
        user_id,
        stream_id if is_number and abs(stream_id or 0) < 2**62 else None,
        _read_devices(user_id, told),
        read_told_keys(user_id, answer.get("master_key"), answer.get("self_signing_key")),
    )


def _read_devices(user_id: UserId, told: Iterable[tuple[Any, Any, Any]]) -> list[RemoteDevice]:
    read: dict[str, RemoteDevice] = {}
    for device_id, keys, display_name in told:
        device = read_device(user_id, device_id, keys, display_name)
        if device is not None and len(read) < MAX_DEVICES:
            read[device.device_id] = device
    return list(read.values())


def put_keys(execute: Execute, told: ToldList) -> None:
    """Replace a user's cross-signing keys by those told, within a batch of the commit queue."""
    for key in told.cross_signing_keys:
        content = encode_canonical_json(key.content).decode()
        put_cross_signing_key(execute, key.user_id, key.usage, key.public_key, content)
    usages = {key.usage for key in told.cross_signing_keys}
    gone = [usage for usage in (MASTER, SELF_SIGNING) if usage not in usages]
    if gone:
        delete_cross_signing_keys(execute, told.user_id, gone)


def _render(devices: Collection[RemoteDevice]) -> dict[str, Any]:
    """Devices as clients are told of them."""
    return {
        device.device_id: {
            **device.keys,
            "unsigned": {}
            if device.display_name is None
            else {"device_display_name": device.display_name},
        }
        for device in devices
    }


def _claimed_key(told: Any, algorithm: str) -> dict[str, Any] | None:
    """The one key of the algorithm in an answer; None when there is none that is canonical."""
    if not isinstance(told, dict):
        return None
    for name, key in told.items():
        if name.startswith(algorithm + ":") and isinstance(key, dict | str):
            try:
                encode_canonical_json(key)
            except BadJson:
                continue
            return {name: key}
    return None


def _object(value: Any, key: str) -> dict[str, Any]:
    """An object within an object of another server; empty when there is none."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _failure(error: RemoteError) -> dict[str, Any]:
    """What a client is told about a server that could not be asked."""
    if isinstance(error, RemoteRefused):
        return {"status": error.status, "errcode": error.errcode or "M_UNKNOWN"}
    return _UNREACHABLE


def _not_too_many(
    asked: Mapping[ServerName, T], failures: dict[ServerName, Any]
) -> list[tuple[ServerName, T]]:
    """The first MAX_SERVERS servers, with what they are asked; the others fail."""
    items = list(asked.items())
    told = {"status": 429, "errcode": "M_LIMIT_EXCEEDED", "error": "Ask about fewer servers."}
    failures.update((server_name, told) for server_name, _ in items[MAX_SERVERS:])
    return items[:MAX_SERVERS]
