"""Backups of room keys.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.fields import JsonObject
from architex.api.requests import BodySchema, json_body, load, require_user, string_param
from architex.domain.errors import BadJson, MissingParam, NotFound
from architex.storage.key_backups import BackupVersion
from architex.usecases.key_backups import KeyBackups

_MAX_BODY_BYTES = 16 * 1024 * 1024


class _AuthData(fields.Field[Any]):
    """An object; or a string, which algorithms of others may use. It is for clients only."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if not isinstance(value, dict | str):
            raise self.make_error("validator_failed")
        return value


class _VersionSchema(BodySchema):
    algorithm = fields.String(required=True)
    auth_data = _AuthData(required=True)


class _RoomsSchema(BodySchema):
    rooms = JsonObject(required=True)


class _SessionsSchema(BodySchema):
    sessions = JsonObject(required=True)


_VERSION = _VersionSchema()
_ROOMS = _RoomsSchema()
_SESSIONS = _SessionsSchema()


class _Backups:
    """What the resources share."""

    def __init__(self, backups: KeyBackups) -> None:
        self._backups = backups


class BackupVersionsResource(_Backups):
    """POST and GET /room_keys/version."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Begin a new backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3room_keysversion
        """
        user_id = require_user(req).user_id
        given = load(_VERSION, json_body(req))
        version = self._backups.create_version(user_id, given["algorithm"], given["auth_data"])
        resp.media = {"version": version}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The current backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversion
        """
        resp.media = _version_fields(self._backups.get_version(require_user(req).user_id))


class BackupVersionResource(_Backups):
    """GET, PUT and DELETE /room_keys/version/{version}."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, version: str) -> None:
        """One backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversionversion
        """
        found = self._backups.get_version(require_user(req).user_id, version)
        resp.media = _version_fields(found)

    def on_put(self, req: falcon.Request, resp: falcon.Response, version: str) -> None:
        """Replace the auth data of a backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keysversionversion
        """
        user_id = require_user(req).user_id
        body = json_body(req)
        given = load(_VERSION, body)
        self._backups.set_auth_data(user_id, version, body, given["algorithm"])
        resp.media = {}

    def on_delete(self, req: falcon.Request, resp: falcon.Response, version: str) -> None:
        """Delete a backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keysversionversion
        """
        self._backups.delete_version(require_user(req).user_id, version)
        resp.media = {}


class BackedUpKeysResource(_Backups):
    """PUT, GET and DELETE /room_keys/keys."""

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store keys of several rooms.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeys
        """
        user_id = require_user(req).user_id
        given = load(_ROOMS, json_body(req, max_bytes=_MAX_BODY_BYTES))
        rooms = {room_id: _sessions_of(keys) for room_id, keys in given["rooms"].items()}
        resp.media = _update_fields(self._backups.put_keys(user_id, _version(req), rooms))

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All keys of a backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeys
        """
        rooms = self._backups.list_keys(require_user(req).user_id, _version(req))
        resp.media = {
            "rooms": {room_id: {"sessions": sessions} for room_id, sessions in rooms.items()}
        }

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Delete all keys of a backup.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeys
        """
        user_id = require_user(req).user_id
        resp.media = _update_fields(self._backups.delete_keys(user_id, _version(req)))


class BackedUpRoomKeysResource(_Backups):
    """PUT, GET and DELETE /room_keys/keys/{roomId}."""

    def on_put(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Store keys of one room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomid
        """
        user_id = require_user(req).user_id
        given = load(_SESSIONS, json_body(req, max_bytes=_MAX_BODY_BYTES))
        rooms = {room_id: given["sessions"]}
        resp.media = _update_fields(self._backups.put_keys(user_id, _version(req), rooms))

    def on_get(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """The keys of one room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeysroomid
        """
        rooms = self._backups.list_keys(require_user(req).user_id, _version(req), room_id)
        resp.media = {"sessions": rooms.get(room_id, {})}

    def on_delete(self, req: falcon.Request, resp: falcon.Response, room_id: str) -> None:
        """Delete the keys of one room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeysroomid
        """
        user_id = require_user(req).user_id
        resp.media = _update_fields(self._backups.delete_keys(user_id, _version(req), room_id))


class BackedUpSessionKeyResource(_Backups):
    """PUT, GET and DELETE /room_keys/keys/{roomId}/{sessionId}."""

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, session_id: str
    ) -> None:
        """Store the key of one session.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid
        """
        user_id = require_user(req).user_id
        rooms = {room_id: {session_id: json_body(req)}}
        resp.media = _update_fields(self._backups.put_keys(user_id, _version(req), rooms))

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, session_id: str
    ) -> None:
        """The key of one session.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid
        """
        user_id = require_user(req).user_id
        rooms = self._backups.list_keys(user_id, _version(req), room_id, session_id)
        if room_id not in rooms:
            raise NotFound("There is no such key in the backup.")
        resp.media = rooms[room_id][session_id]

    def on_delete(
        self, req: falcon.Request, resp: falcon.Response, room_id: str, session_id: str
    ) -> None:
        """Delete the key of one session.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeysroomidsessionid
        """
        user_id = require_user(req).user_id
        left = self._backups.delete_keys(user_id, _version(req), room_id, session_id)
        resp.media = _update_fields(left)


def _version(req: falcon.Request) -> str:
    version = string_param(req, "version")
    if not version:
        raise MissingParam("version is missing: of the backup.")
    return version


def _sessions_of(keys: Any) -> dict[str, Any]:
    if not isinstance(keys, dict):
        raise BadJson("The keys of a room are an object.")
    sessions: dict[str, Any] = load(_SESSIONS, keys)["sessions"]
    return sessions


def _version_fields(backup: BackupVersion) -> dict[str, Any]:
    return {
        "algorithm": backup.algorithm,
        "auth_data": backup.auth_data,
        "version": str(backup.version),
        **_update_fields(backup),
    }


def _update_fields(backup: BackupVersion) -> dict[str, Any]:
    return {"etag": str(backup.etag), "count": backup.count}
