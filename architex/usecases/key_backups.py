"""Key backups: room keys that clients keep here, encrypted.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from architex.domain.canonical_json import MAX_CANONICAL_INTEGER, encode_lenient_json
from architex.domain.errors import (
    BadJson,
    InvalidParam,
    NotFound,
    UserLimitExceeded,
    WrongRoomKeysVersion,
)
from architex.domain.identifiers import MAX_IDENTIFIER_BYTES, RoomId, UserId
from architex.storage.key_backups import (
    BackedUpKey,
    BackupsTooLarge,
    BackupVersion,
    KeyBackupStore,
)

MAX_SESSION_DATA_BYTES: Final = 65_536
MAX_AUTH_DATA_BYTES: Final = 65_536


@dataclass(frozen=True)
class KeyBackups:
    """The backups of whoever asks.

    Attributes:
        max_bytes: what the backups of one user may take together; 0 for any amount.
        info_uri: where a user whose backups take more can read about the server.
    """

    backups: KeyBackupStore
    max_bytes: int
    info_uri: str

    # ---- versions

    def create_version(self, user_id: UserId, algorithm: str, auth_data: Any) -> str:
        """Begin a new backup, the current one from now on; gives its version.

        Raises:
            BadJson: the algorithm or the auth data are too long.
            UserLimitExceeded: the user's backups take too much.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3room_keysversion
        """
        _check_name(algorithm)
        auth_data_json = _encode(auth_data, MAX_AUTH_DATA_BYTES)
        with self._limit():
            return str(
                self.backups.create_version(
                    user_id, algorithm, auth_data_json, max_bytes=self.max_bytes
                )
            )

    def get_version(self, user_id: UserId, version: str | None = None) -> BackupVersion:
        """A backup; the current one when no version is given.

        Raises:
            NotFound: there is none.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversion
        """
        if version is None:
            found = self.backups.find_current(user_id)
        else:
            found = self.backups.find_version(user_id, _number(version))
        if found is None:
            raise NotFound("There is no such backup.")
        return found

    def set_auth_data(
        self, user_id: UserId, version: str, body: Mapping[str, Any], algorithm: str
    ) -> None:
        """Replace the auth data of a backup.

        Args:
            body: its `auth_data`, and perhaps the `version` again.

        Raises:
            NotFound: there is no such backup.
            InvalidParam: another version or algorithm is named.
            BadJson: the auth data are too long.
            UserLimitExceeded: the user's backups would take too much.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keysversionversion
        """
        held = self.get_version(user_id, version)
        if body.get("version") not in (None, version):
            raise InvalidParam("The version of the body is not the one of the path.")
        if algorithm != held.algorithm:
            raise InvalidParam("The algorithm of a backup cannot be changed.")
        auth_data_json = _encode(body.get("auth_data"), MAX_AUTH_DATA_BYTES)
        with self._limit():
            self.backups.set_auth_data(
                user_id, held.version, auth_data_json, max_bytes=self.max_bytes
            )

    def delete_version(self, user_id: UserId, version: str) -> None:
        """Delete a backup with its keys; again is allowed.

        Raises:
            NotFound: there never was such a backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keysversionversion
        """
        if not self.backups.delete_version(user_id, _number(version)):
            raise NotFound("There is no such backup.")

    # ---- keys

    def put_keys(
        self, user_id: UserId, version: str, rooms: Mapping[RoomId, Mapping[str, Any]]
    ) -> BackupVersion:
        """Store keys in the current backup; of two for one session the better one stays.

        Args:
            rooms: room ID → session ID → key data.

        Returns the backup as it is then.

        Raises:
            NotFound: there is no such backup.
            WrongRoomKeysVersion: it is not the current one.
            BadJson: a key is not of the form that the specification gives.
            UserLimitExceeded: the user's backups would take too much; nothing is stored.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeys
        """
        number = _number(version)
        keys = [
            _parse_key(room_id, session_id, data)
            for room_id, sessions in rooms.items()
            for session_id, data in sessions.items()
        ]
        with self._limit():
            current = self.backups.put_keys(user_id, number, keys, max_bytes=self.max_bytes)
        if current is None:
            raise NotFound("There is no such backup.")
        if current.version != number:
            self.get_version(user_id, version)
            raise WrongRoomKeysVersion(
                "This is not the current version of the backup.",
                current_version=str(current.version),
            )
        return current

    def list_keys(
        self,
        user_id: UserId,
        version: str,
        room_id: RoomId | None = None,
        session_id: str | None = None,
    ) -> dict[RoomId, dict[str, Any]]:
        """The keys of a backup, of a room, or of a session: room ID → session ID → key data.

        Raises:
            NotFound: there is no such backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeys
        """
        number = self.get_version(user_id, version).version
        rooms: dict[RoomId, dict[str, Any]] = {}
        if "\0" in (room_id or "") + (session_id or ""):
            return rooms
        for key in self.backups.list_keys(user_id, number, room_id, session_id):
            rooms.setdefault(key.room_id, {})[key.session_id] = {
                "first_message_index": key.first_message_index,
                "forwarded_count": key.forwarded_count,
                "is_verified": key.is_verified,
                "session_data": orjson.Fragment(key.session_data_json),
            }
        return rooms

    def delete_keys(
        self,
        user_id: UserId,
        version: str,
        room_id: RoomId | None = None,
        session_id: str | None = None,
    ) -> BackupVersion:
        """Delete keys of a backup; gives it as it is then.

        Raises:
            NotFound: there is no such backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeys
        """
        if "\0" in (room_id or "") + (session_id or ""):
            return self.get_version(user_id, version)
        found = self.backups.delete_keys(user_id, _number(version), room_id, session_id)
        if found is None:
            raise NotFound("There is no such backup.")
        return found

    @contextmanager
    def _limit(self) -> Iterator[None]:
        try:
            yield
        except BackupsTooLarge:
            raise UserLimitExceeded(
                "Your key backups take more than they may on this server.", info_uri=self.info_uri
            ) from None


def _number(version: str) -> int:
    """The number of a version.

    Raises:
        NotFound: it is none that we gave.
    """
    if not (version.isascii() and version.isdigit() and len(version) < 18):
        raise NotFound("There is no such backup.")
    return int(version)


def _parse_key(room_id: RoomId, session_id: str, data: Any) -> BackedUpKey:
    _check_name(room_id)
    _check_name(session_id)
    if not isinstance(data, dict):
        raise BadJson("The data of a key is an object.")
    for name in ("first_message_index", "forwarded_count", "is_verified", "session_data"):
        if name not in data:
            raise BadJson(f"The data of a key lacks {name}.")
    if not isinstance(data["is_verified"], bool):
        raise BadJson("is_verified is true or false.")
    return BackedUpKey(
        room_id,
        session_id,
        _check_count(data["first_message_index"]),
        _check_count(data["forwarded_count"]),
        data["is_verified"],
        _encode(data["session_data"], MAX_SESSION_DATA_BYTES),
    )


def _check_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadJson("Indexes and counts are whole numbers.")
    if not 0 <= value <= MAX_CANONICAL_INTEGER:
        raise BadJson("Indexes and counts are not negative.")
    return value


def _check_name(name: str) -> None:
    if not name or "\0" in name or len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise BadJson("Rooms, sessions and algorithms have names of 1 to 255 bytes.")


def _encode(value: Any, max_bytes: int) -> str:
    encoded = encode_lenient_json(value)
    if len(encoded) > max_bytes:
        raise BadJson(f"There are at most {max_bytes} bytes of such data.")
    return encoded.decode()
