"""Account data, tags and filters.

Spec: https://spec.matrix.org/v1.19/client-server-api/#client-config
"""

from __future__ import annotations

import falcon

from architex.api.requests import json_body, require_own, require_user
from architex.domain.identifiers import RoomId, UserId, parse_room_id
from architex.usecases.account_data import AccountData
from architex.usecases.filters import Filters


class AccountDataResource:
    """GET and PUT /user/{userId}/account_data/{type}."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def on_get(self, req: falcon.Request, resp: falcon.Response, user_id: str, type: str) -> None:
        """One's global account data of a type.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridaccount_datatype
        """
        _require_owner(req, user_id)
        _answer_json(resp, self._account_data.get_content(user_id, type))

    def on_put(self, req: falcon.Request, resp: falcon.Response, user_id: str, type: str) -> None:
        """Replace one's global account data of a type.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridaccount_datatype
        """
        _require_owner(req, user_id)
        self._account_data.set_content(user_id, type, json_body(req))
        resp.media = {}


class RoomAccountDataResource:
    """GET and PUT /user/{userId}/rooms/{roomId}/account_data/{type}."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, room_id: str, type: str
    ) -> None:
        """One's account data of a type for a room.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype
        """
        room = _require_owner_of_room_data(req, user_id, room_id)
        _answer_json(resp, self._account_data.get_content(user_id, type, room))

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, room_id: str, type: str
    ) -> None:
        """Replace one's account data of a type for a room.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype
        """
        room = _require_owner_of_room_data(req, user_id, room_id)
        self._account_data.set_content(user_id, type, json_body(req), room)
        resp.media = {}


class TagsResource:
    """GET /user/{userId}/rooms/{roomId}/tags."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, room_id: str
    ) -> None:
        """One's tags on a room.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidtags
        """
        room = _require_owner_of_room_data(req, user_id, room_id)
        resp.media = {"tags": self._account_data.get_tags(user_id, room)}


class TagResource:
    """PUT and DELETE /user/{userId}/rooms/{roomId}/tags/{tag}."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def on_put(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, room_id: str, tag: str
    ) -> None:
        """Put a tag on a room.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag
        """
        room = _require_owner_of_room_data(req, user_id, room_id)
        self._account_data.set_tag(user_id, room, tag, json_body(req, optional=True))
        resp.media = {}

    def on_delete(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, room_id: str, tag: str
    ) -> None:
        """Take a tag off a room.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag
        """
        room = _require_owner_of_room_data(req, user_id, room_id)
        self._account_data.delete_tag(user_id, room, tag)
        resp.media = {}


class FiltersResource:
    """POST /user/{userId}/filter."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def on_post(self, req: falcon.Request, resp: falcon.Response, user_id: str) -> None:
        """Keep a filter.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter
        """
        _require_owner(req, user_id)
        resp.media = {"filter_id": self._filters.create_filter(user_id, json_body(req))}


class FilterResource:
    """GET /user/{userId}/filter/{filterId}."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, filter_id: str
    ) -> None:
        """A filter kept before.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridfilterfilterid
        """
        _require_owner(req, user_id)
        _answer_json(resp, self._filters.get_filter(user_id, filter_id))


def _require_owner(req: falcon.Request, user_id: UserId) -> None:
    # Guests need it to sync: the spec's list of what guests may do has /sync with filters.
    require_own(require_user(req, guests=True), user_id, "the account data")


def _require_owner_of_room_data(req: falcon.Request, user_id: UserId, room_id: str) -> RoomId:
    _require_owner(req, user_id)
    return parse_room_id(room_id)


def _answer_json(resp: falcon.Response, json_text: str) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json_text.encode()
