"""The list of published rooms as both APIs ask for it and answer it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#published-room-directory
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields, validate

from architex.api.fields import TrueOrFalse, WholeNumber, refuse_nul
from architex.api.requests import BodySchema, bool_param, int_param, load, string_param
from architex.domain.errors import InvalidParam
from architex.projections.directory_reads import RoomListFilter
from architex.usecases.public_rooms import RoomListPage, RoomListRequest


class _FilterSchema(BodySchema):
    generic_search_term = fields.String(allow_none=True)
    room_types = fields.List(
        fields.String(allow_none=True, validate=refuse_nul),
        allow_none=True,
        validate=validate.Length(max=100),
    )


class _PublicRoomsSchema(BodySchema):
    limit = WholeNumber(allow_none=True)
    since = fields.String(allow_none=True)
    filter = fields.Nested(_FilterSchema, allow_none=True)
    include_all_networks = TrueOrFalse(load_default=False)
    third_party_instance_id = fields.String(allow_none=True)


_PUBLIC_ROOMS = _PublicRoomsSchema()


def room_list_of_query(req: falcon.Request) -> RoomListRequest:
    """What a GET asks for.

    Raises:
        InvalidParam: a parameter is not of its form.
    """
    return RoomListRequest(
        limit=int_param(req, "limit", 0),
        since=string_param(req, "since") or None,
        all_networks=bool_param(req, "include_all_networks"),
        network=string_param(req, "third_party_instance_id") or None,
    )


def room_list_of_body(body: dict[str, Any]) -> RoomListRequest:
    """What a POST asks for.

    Raises:
        BadJson, InvalidParam: a value is not of its form.
    """
    wanted = load(_PUBLIC_ROOMS, body)
    chosen = wanted.get("filter") or {}
    limit = wanted.get("limit") or 0
    if limit < 0:
        raise InvalidParam("limit must be at least 0.")
    return RoomListRequest(
        limit=limit,
        since=wanted.get("since") or None,
        room_filter=RoomListFilter(
            search_term=chosen.get("generic_search_term") or "",
            room_types=chosen.get("room_types"),
        ),
        all_networks=wanted["include_all_networks"],
        network=wanted.get("third_party_instance_id"),
    )


def public_rooms_response(page: RoomListPage) -> dict[str, Any]:
    """A page of the list in the spec's form; tokens are absent at the ends.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms
    """
    optional = {
        "next_batch": page.next_batch,
        "prev_batch": page.prev_batch,
        "total_room_count_estimate": page.total,
    }
    present = {key: value for key, value in optional.items() if value is not None}
    return {"chunk": list(page.chunk), **present}
