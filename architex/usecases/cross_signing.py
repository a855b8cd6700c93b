"""Cross-signing: keys by which users vouch for their devices and for each other.

Spec: https://spec.matrix.org/v1.19/client-server-api/#cross-signing
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.canonical_json import encode_canonical_json
from architex.domain.encryption_keys import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    CrossSigningKey,
    check_key_signature,
    check_signed_by,
    find_device_verify_key,
    parse_cross_signing_key,
)
from architex.domain.errors import (
    BadJson,
    Forbidden,
    InvalidCanonicalJson,
    InvalidKeySignature,
    MatrixError,
    MissingParam,
    NotFound,
)
from architex.domain.identifiers import UserId, is_user_id, server_name_of
from architex.domain.signing import signatures_of, signed_json
from architex.gateways.clock import Clock
from architex.storage.device_keys import (
    DeviceKeyStore,
    KeySignature,
    put_cross_signing_key,
    put_signatures,
)
from architex.storage.device_lists import CROSS_SIGNING, note_device_changes, note_own_change
from architex.storage.pool import Execute
from architex.usecases.device_lists import DeviceLists
from architex.usecases.interactive_auth import PASSWORD, InteractiveAuth, Operation
from architex.usecases.remote_keys import RemoteKeys
from architex.usecases.requester import Requester

MAX_SIGNED_KEYS: Final = 1000
"""In one upload of signatures."""

_FIELDS: Final = {
    MASTER: "master_key",
    SELF_SIGNING: "self_signing_key",
    USER_SIGNING: "user_signing_key",
}
_ASK_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class CrossSigning:
    """Takes users' cross-signing keys and signatures."""

    keys: DeviceKeyStore
    device_lists: DeviceLists
    remote: RemoteKeys
    interactive_auth: InteractiveAuth
    clock: Clock

    # ---- keys

    def upload_keys(self, requester: Requester, body: Mapping[str, Any], auth: Any) -> None:
        """Take the requester's cross-signing keys, once the user has been authenticated.

        The first set is taken without, and so is the one that is there already.

        Args:
            body: `master_key`, `self_signing_key` and `user_signing_key`, each optional.

        Raises:
            AuthenticationRequired: stages are still to be completed.
            BadJson: a key is not of the form that the specification gives.
            MissingParam: there is no master key for the others.
            InvalidKeySignature: the master key has not signed another one.
            Forbidden: one of the keys is named like a device of the user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload
        """
        user_id = requester.user_id
        given = {
            usage: parse_cross_signing_key(body[field], user_id, usage)
            for usage, field in _FIELDS.items()
            if body.get(field) is not None
        }
        held = self._held(user_id)
        self._check_keys(given, held)
        changed = [key for key in given.values() if not key.is_same_key(held.get(key.usage))]
        if not changed:
            return
        if MASTER in held and requester.appservice_id is None:
            self._authenticate(requester, body, auth)
        now_ms = self.clock.now_ms()

        def write(execute: Execute, position: int) -> None:
            # Also those that stay: a new master key has signed them anew.
            for key in given.values():
                content = encode_canonical_json(key.content).decode()
                put_cross_signing_key(execute, user_id, key.usage, key.public_key, content)
            if all(key.usage == USER_SIGNING for key in changed):
                note_own_change(execute, position, user_id)
            else:
                note_device_changes(execute, position, user_id, [CROSS_SIGNING], now_ms)

        self.device_lists.announce(user_id, write)

    def _check_keys(
        self, given: Mapping[str, CrossSigningKey], held: Mapping[str, CrossSigningKey]
    ) -> None:
        master = given.get(MASTER) or held.get(MASTER)
        if not given:
            return
        if master is None:
            raise MissingParam("There is no master key.")
        for usage, key in given.items():
            if usage != MASTER:
                check_signed_by(key.content, master)
        names = [key.public_key for key in given.values()]
        if len(set(names)) < len(names):
            raise BadJson("Each cross-signing key must be another one.")
        if self.keys.is_device_id(master.user_id, names):
            raise Forbidden("One of the keys is named like one of your devices.")
        if MASTER in given:
            self._check_device_signatures(given[MASTER])

    def _check_device_signatures(self, master: CrossSigningKey) -> None:
        """Signatures by devices of the user on the master key must be good."""
        for key_id in signatures_of(master.content, master.user_id):
            device_id = key_id.removeprefix("ed25519:")
            if key_id == master.key_id or "\0" in device_id:
                continue
            device_keys = self.keys.find_device_keys(master.user_id, device_id)
            verify_key = find_device_verify_key(device_keys, device_id)
            if verify_key is not None:
                check_key_signature(master.content, master.user_id, key_id, verify_key)

    def _authenticate(self, requester: Requester, body: Mapping[str, Any], auth: Any) -> None:
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name="POST /keys/device_signing/upload",
                flows=((PASSWORD,),),
                user_id=requester.user_id,
                request={field: body[field] for field in _FIELDS.values() if field in body},
                secrets={},
            ),
            auth,
        )
        self.interactive_auth.end(authenticated)

    def _held(self, user_id: UserId) -> dict[str, CrossSigningKey]:
        return {
            usage: parse_cross_signing_key(content, user_id, usage)
            for (_, usage), content in self.keys.list_cross_signing_keys([user_id]).items()
        }

    # ---- signatures

    def upload_signatures(
        self, requester: Requester, body: Mapping[str, Any]
    ) -> dict[UserId, dict[str, dict[str, str]]]:
        """Take signatures on own devices, the own master key, and others' master keys.

        Args:
            body: user ID → device ID or public key → the signed key.

        Returns the failures: user ID → device ID or public key → error.

        Raises:
            BadJson: it is no such map, or too large.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload
        """
        signed = [
            (user_id, target_id, content)
            for user_id, keys in body.items()
            for target_id, content in _require_object(keys).items()
        ]
        if len(signed) > MAX_SIGNED_KEYS:
            raise BadJson(f"At most {MAX_SIGNED_KEYS} keys can be signed at once.")
        held = self._held(requester.user_id)
        failures: dict[UserId, dict[str, dict[str, str]]] = {}
        good: list[KeySignature] = []
        for user_id, target_id, content in signed:
            try:
                content = _require_object(content)
                if user_id == requester.user_id:
                    good += self._check_own(held, user_id, target_id, content)
                else:
                    good += self._check_other(held, user_id, target_id, content)
            except MatrixError as error:
                failures.setdefault(user_id, {})[target_id] = {
                    "errcode": error.errcode,
                    "error": error.message,
                }
        if good:
            self._put(requester.user_id, good, held.get(MASTER))
        return failures

    def _check_own(
        self,
        held: Mapping[str, CrossSigningKey],
        user_id: UserId,
        target_id: str,
        content: Mapping[str, Any],
    ) -> list[KeySignature]:
        """The signatures on a device of the user, or on the user's master key."""
        master = held.get(MASTER)
        if master is not None and target_id == master.public_key:
            _check_same(content, master.content)
            return self._check_by_devices(user_id, target_id, content)
        device_keys = None
        if "\0" not in target_id:
            device_keys = self.keys.find_device_keys(user_id, target_id)
        if device_keys is None:
            raise NotFound("You have no such device or key.")
        _check_same(content, device_keys)
        return [_check_by(held.get(SELF_SIGNING), user_id, target_id, content)]

    def _check_by_devices(
        self, user_id: UserId, target_id: str, content: Mapping[str, Any]
    ) -> list[KeySignature]:
        good = []
        for key_id, signature in signatures_of(content, user_id).items():
            device_id = key_id.removeprefix("ed25519:")
            if device_id == target_id or "\0" in key_id:
                continue
            device_keys = self.keys.find_device_keys(user_id, device_id)
            verify_key = find_device_verify_key(device_keys, device_id)
            if verify_key is None:
                raise NotFound("You have no such device.")
            check_key_signature(content, user_id, key_id, verify_key)
            good.append(KeySignature(user_id, target_id, user_id, key_id, signature))
        if not good:
            raise InvalidKeySignature("There is no signature by one of your devices.")
        return good

    def _check_other(
        self,
        held: Mapping[str, CrossSigningKey],
        user_id: UserId,
        target_id: str,
        content: Mapping[str, Any],
    ) -> list[KeySignature]:
        """The signature on another user's master key, by the user-signing key."""
        if not is_user_id(user_id):
            raise NotFound("There is no such user.")
        theirs = self.keys.list_cross_signing_keys([user_id]).get((user_id, MASTER))
        if theirs is None:
            wanted = {server_name_of(user_id): {user_id: ()}}
            self.remote.query_keys(wanted, _ASK_TIMEOUT_S)
            theirs = self.keys.list_cross_signing_keys([user_id]).get((user_id, MASTER))
        if theirs is None or target_id not in _require_object(theirs.get("keys")).values():
            raise NotFound("The user has no such master key.")
        _check_same(content, theirs)
        signature = _check_by(held.get(USER_SIGNING), user_id, target_id, content)
        return [signature]

    def _put(
        self, user_id: UserId, signatures: list[KeySignature], master: CrossSigningKey | None
    ) -> None:
        own = {s.target_id for s in signatures if s.target_user_id == user_id}
        if master is not None and master.public_key in own:
            own = (own - {master.public_key}) | {CROSS_SIGNING}
        now_ms = self.clock.now_ms()

        def write(execute: Execute, position: int) -> None:
            put_signatures(execute, position, signatures)
            if own:
                note_device_changes(execute, position, user_id, own, now_ms)

        self.device_lists.announce(user_id, write)


def _check_by(
    signer: CrossSigningKey | None, user_id: UserId, target_id: str, content: Mapping[str, Any]
) -> KeySignature:
    """The signature by a cross-signing key of the requester."""
    if signer is None:
        raise InvalidKeySignature("You have no key to sign this with.")
    check_signed_by(content, signer)
    signature = signatures_of(content, signer.user_id)[signer.key_id]
    return KeySignature(user_id, target_id, signer.user_id, signer.key_id, signature)


def _check_same(content: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """What was signed must be the key that we know."""
    try:
        if signed_json(content) == signed_json(held):
            return
    except InvalidCanonicalJson:
        pass
    raise InvalidKeySignature("What was signed is not the key that is known here.")


def _require_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadJson("Signatures come as a map of maps of signed keys.")
    return value
