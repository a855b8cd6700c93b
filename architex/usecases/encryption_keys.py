"""Keys of devices: uploaded, told to whoever asks, claimed.

Spec: https://spec.matrix.org/v1.19/client-server-api/#key-management-api
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.encryption_keys import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    check_device_keys,
    check_fallback_keys,
    check_one_time_keys,
)
from architex.domain.errors import Forbidden, InvalidParam, NotFound
from architex.domain.identifiers import ServerName, UserId, is_user_id, server_name_of
from architex.gateways.clock import Clock
from architex.projections.device_list_reads import DeviceListNews, read_device_list_news
from architex.storage.device_keys import DeviceKeyStore, KeySignature, put_device_keys
from architex.storage.device_lists import note_device_changes
from architex.storage.one_time_keys import KeyIdTaken, NoSuchDevice, OneTimeKeyStore, Wanted
from architex.storage.pool import Database, Execute
from architex.usecases.device_lists import DeviceLists
from architex.usecases.remote_keys import RemoteKeys
from architex.usecases.requester import Requester

MAX_UNCLAIMED_KEYS: Final = 5000
"""One-time keys of one device that wait to be claimed; further ones are passed over."""

DEFAULT_TIMEOUT_MS: Final = 10_000
MAX_TIMEOUT_MS: Final = 30_000

Query: TypeAlias = Mapping[UserId, Collection[str]]
"""User ID → the device IDs asked for; none means all."""
Claims: TypeAlias = Mapping[UserId, Mapping[str, str]]
"""User ID → device ID → algorithm."""


@dataclass
class KeysFound:
    """What is known of the users of a query, each by user ID.

    Attributes:
        device_keys: user ID → device ID → keys, with `unsigned`.
        failures: server name → why it could not be asked.
    """

    device_keys: dict[UserId, dict[str, Any]] = field(default_factory=dict)
    master_keys: dict[UserId, Any] = field(default_factory=dict)
    self_signing_keys: dict[UserId, Any] = field(default_factory=dict)
    user_signing_keys: dict[UserId, Any] = field(default_factory=dict)
    failures: dict[ServerName, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncryptionKeys:
    """The keys of our users, and of others through their servers."""

    database: Database
    keys: DeviceKeyStore
    one_time_keys: OneTimeKeyStore
    device_lists: DeviceLists
    remote: RemoteKeys
    clock: Clock
    server_name: ServerName

    # ---- uploading

    def upload_keys(self, requester: Requester, body: Mapping[str, Any]) -> Mapping[str, int]:
        """Take the keys of the requester's device; gives the counts of unclaimed one-time keys.

        What was uploaded before is passed over, so an upload can be repeated.

        Args:
            body: `device_keys`, `one_time_keys` and `fallback_keys`, each optional.

        Raises:
            BadJson, InvalidKeySignature: they are not such keys.
            InvalidParam: there is another one-time key of the same ID.
            NotFound: the device does not exist any more.
            Forbidden: the device has the name of a cross-signing key.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload
        """
        user_id, device_id = requester.user_id, requester.device_id
        if device_id is None:
            raise InvalidParam("Only a device has keys, and this access token has no device.")
        held = self.keys.find_device_keys(user_id, device_id)
        device_keys = held
        if body.get("device_keys") is not None:
            device_keys = check_device_keys(body["device_keys"], user_id, device_id)
        given = (user_id, device_id, device_keys)
        one_time = check_one_time_keys(body.get("one_time_keys") or {}, *given)
        fallback = check_fallback_keys(body.get("fallback_keys") or {}, *given)
        try:
            counts = self.one_time_keys.add_keys(
                user_id, device_id, one_time, fallback, max_unclaimed=MAX_UNCLAIMED_KEYS
            )
        except KeyIdTaken as taken:
            raise InvalidParam(f"There is another key {taken.name}.") from None
        except NoSuchDevice:
            raise NotFound("This device has been deleted.") from None
        if device_keys is not None and device_keys != held:
            # Both are names of keys on signatures.
            if self.keys.is_cross_signing_key(user_id, device_id):
                raise Forbidden("The device has the name of one of your cross-signing keys.")
            self._put_device_keys(user_id, device_id, device_keys)
        return counts

    def _put_device_keys(
        self, user_id: UserId, device_id: str, device_keys: Mapping[str, Any]
    ) -> None:
        keys_json = encode_canonical_json(device_keys).decode()
        now_ms = self.clock.now_ms()

        def write(execute: Execute, position: int) -> None:
            put_device_keys(execute, user_id, device_id, keys_json)
            note_device_changes(execute, position, user_id, [device_id], now_ms)

        self.device_lists.announce(user_id, write)

    # ---- querying

    def query_keys(
        self, requester: Requester, wanted: Query, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> KeysFound:
        """The identity keys of devices and the cross-signing keys of users.

        Args:
            timeout_ms: for asking other servers.

        Raises:
            InvalidParam: something that is no user ID is asked for.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery
        """
        own, others = self._split(wanted)
        found = self.query_own_users(own, requester.user_id)
        timeout_s = min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        if others:
            told = self.remote.query_keys(others, timeout_s)
            found.device_keys |= told.device_keys
            found.failures |= told.failures
            self._put_cross_signing_keys(found, list(told.device_keys))
            self._put_signatures(found, list(told.device_keys), requester.user_id)
        return found

    def query_own_users(self, wanted: Query, viewer: UserId | None) -> KeysFound:
        """The same of users of ours.

        Args:
            viewer: who asks, if a user of ours does; others do not see user-signing keys.
        """
        found = KeysFound(device_keys={user_id: {} for user_id in wanted})
        for device in self.keys.list_device_keys(list(wanted)):
            if wanted[device.user_id] and device.device_id not in wanted[device.user_id]:
                continue
            keys = {**device.keys, "unsigned": {}}
            # Names of devices are nobody's business on other servers.
            if device.display_name is not None and viewer is not None:
                keys["unsigned"]["device_display_name"] = device.display_name
            found.device_keys[device.user_id][device.device_id] = keys
        self._put_cross_signing_keys(found, list(wanted), viewer)
        self._put_signatures(found, list(wanted), viewer)
        return found

    def _put_cross_signing_keys(
        self, found: KeysFound, user_ids: Sequence[UserId], viewer: UserId | None = None
    ) -> None:
        places = {
            MASTER: found.master_keys,
            SELF_SIGNING: found.self_signing_keys,
            USER_SIGNING: found.user_signing_keys,
        }
        for (user_id, usage), key in self.keys.list_cross_signing_keys(user_ids).items():
            if usage != USER_SIGNING or user_id == viewer:
                places[usage][user_id] = key

    def _put_signatures(
        self, found: KeysFound, user_ids: Sequence[UserId], viewer: UserId | None
    ) -> None:
        for signature in self.keys.list_signatures(user_ids, viewer):
            target = _find_target(found, signature)
            if target is not None:
                _add_signature(target, signature)

    # ---- claiming

    def claim_keys(
        self, wanted: Claims, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> tuple[dict[UserId, dict[str, Any]], dict[ServerName, Any]]:
        """Claim a one-time key of each device.

        Returns user ID → device ID → name → key, and server name → why it could not be asked.

        Raises:
            InvalidParam: something that is no user ID is asked for.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim
        """
        own, others = self._split(wanted)
        claimed = self.claim_own_keys(own)
        if not others:
            return claimed, {}
        timeout_s = min(timeout_ms, MAX_TIMEOUT_MS) / 1000
        told, failures = self.remote.claim_keys(others, timeout_s)
        return claimed | told, failures

    def claim_own_keys(self, wanted: Claims) -> dict[UserId, dict[str, Any]]:
        """The same of users of ours."""
        devices = [
            Wanted(user_id, device_id, algorithm)
            for user_id, algorithms in wanted.items()
            for device_id, algorithm in algorithms.items()
            if "\0" not in user_id + device_id + algorithm
        ]
        claimed: dict[UserId, dict[str, Any]] = {}
        if not devices:
            return claimed
        found = self.one_time_keys.claim_keys(devices, self.clock.now_ms())
        for (user_id, device_id), key in found.items():
            claimed.setdefault(user_id, {})[device_id] = {key.name: key.key}
        return claimed

    # ---- changes

    def list_changes(self, requester: Requester, since: int) -> DeviceListNews:
        """Whose devices or keys have changed since a position, and who is gone.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges
        """
        with self.database.snapshot() as connection:
            return read_device_list_news(
                connection, requester.user_id, since, devices=True, rooms=True
            )

    # ---- for other servers

    def tell_devices(self, user_id: UserId) -> dict[str, Any]:
        """The devices and keys of a user of ours, for another server.

        Raises:
            NotFound: the user is not ours.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid
        """
        if not is_user_id(user_id) or server_name_of(user_id) != self.server_name:
            raise NotFound("This is no user of this server.")
        # First the number, then the list: what comes between is told again, not lost.
        stream_id = self.device_lists.lists.find_stream_id(user_id)
        found = self.query_own_users({user_id: ()}, None)
        told: dict[str, Any] = {
            "user_id": user_id,
            "stream_id": stream_id,
            "devices": [
                {"device_id": device_id, "keys": keys}
                for device_id, keys in found.device_keys[user_id].items()
            ],
        }
        if user_id in found.master_keys:
            told["master_key"] = found.master_keys[user_id]
        if user_id in found.self_signing_keys:
            told["self_signing_key"] = found.self_signing_keys[user_id]
        return told

    # ---- within

    def _split(
        self, wanted: Mapping[UserId, Any]
    ) -> tuple[dict[UserId, Any], dict[ServerName, dict[UserId, Any]]]:
        """Users of ours, and those of others by their servers."""
        own: dict[UserId, Any] = {}
        others: dict[ServerName, dict[UserId, Any]] = {}
        for user_id, what in wanted.items():
            if not is_user_id(user_id):
                raise InvalidParam(f"{user_id[:100]!r} is no user ID.")
            server_name = server_name_of(user_id)
            if server_name == self.server_name:
                own[user_id] = what
            else:
                others.setdefault(server_name, {})[user_id] = what
        return own, others


def _find_target(found: KeysFound, signature: KeySignature) -> dict[str, Any] | None:
    """The key that was signed; None when it is not there (any more)."""
    user_id = signature.target_user_id
    device: dict[str, Any] | None = found.device_keys.get(user_id, {}).get(signature.target_id)
    if device is not None:
        return device
    master = found.master_keys.get(user_id)
    if isinstance(master, dict) and signature.target_id in master.get("keys", {}).values():
        return master
    return None


def _add_signature(target: dict[str, Any], signature: KeySignature) -> None:
    signatures = target.get("signatures")
    signatures = dict(signatures) if isinstance(signatures, dict) else {}
    of_signer = signatures.get(signature.signer_user_id)
    of_signer = dict(of_signer) if isinstance(of_signer, dict) else {}
    of_signer[signature.signer_key_id] = signature.signature
    signatures[signature.signer_user_id] = of_signer
    target["signatures"] = signatures
