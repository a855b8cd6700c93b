"""Searching events on the server.

Spec: https://spec.matrix.org/v1.19/client-server-api/#server-side-search
"""

from __future__ import annotations

from typing import Any, Final

import falcon
from marshmallow import fields, validate

from architex.api.fields import TrueOrFalse
from architex.api.requests import BodySchema, json_body, load, require_user, string_param
from architex.domain.errors import InvalidParam
from architex.domain.event_filter import parse_room_event_filter
from architex.usecases.searching import SEARCH_KEYS, ContextWanted, Searching, SearchRequest

MAX_RESULTS: Final = 100
MAX_CONTEXT: Final = 50
_DEFAULT_RESULTS: Final = 10


class _ContextSchema(BodySchema):
    before_limit = fields.Integer(load_default=5, validate=validate.Range(min=0))
    after_limit = fields.Integer(load_default=5, validate=validate.Range(min=0))
    include_profile = TrueOrFalse(load_default=False)


class _GroupSchema(BodySchema):
    key = fields.String(required=True)


class _GroupingsSchema(BodySchema):
    group_by = fields.List(fields.Nested(_GroupSchema), load_default=list)


class _RoomEventsSchema(BodySchema):
    search_term = fields.String(required=True)
    keys = fields.List(
        fields.String(validate=validate.OneOf(list(SEARCH_KEYS))),
        load_default=lambda: list(SEARCH_KEYS),
    )
    filter = fields.Dict(load_default=dict)
    order_by = fields.String(load_default="rank", validate=validate.OneOf(["recent", "rank"]))
    event_context = fields.Nested(_ContextSchema, load_default=None)
    include_state = TrueOrFalse(load_default=False)
    groupings = fields.Nested(_GroupingsSchema, load_default=dict)


class _CategoriesSchema(BodySchema):
    room_events = fields.Nested(_RoomEventsSchema, load_default=None)


class _SearchSchema(BodySchema):
    search_categories = fields.Nested(_CategoriesSchema, required=True)


_SEARCH = _SearchSchema()


class SearchResource:
    """POST /search."""

    def __init__(self, searching: Searching) -> None:
        self._searching = searching

    def on_post(self, req: falcon.Request, resp: falcon.Response, **_path: str) -> None:
        """Search the rooms of the requester.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3search
        """
        requester = require_user(req, limit="searches")
        wanted = load(_SEARCH, json_body(req))["search_categories"]["room_events"]
        if wanted is None:
            resp.media = {"search_categories": {}}
            return
        request = _request_of(wanted, _begin(string_param(req, "next_batch")))
        results = self._searching.search(requester, request)
        following = results.pop("next", None)
        if following is not None:
            results["next_batch"] = f"n{following}"
        resp.media = {"search_categories": {"room_events": results}}


def _request_of(wanted: dict[str, Any], begin: int | None) -> SearchRequest:
    context = wanted["event_context"]
    limit = wanted["filter"].get("limit", _DEFAULT_RESULTS)
    if type(limit) is not int or limit < 1:
        raise InvalidParam("The limit of a filter is a positive number.")
    return SearchRequest(
        term=wanted["search_term"],
        keys=wanted["keys"],
        event_filter=parse_room_event_filter(wanted["filter"]),
        newest_first=wanted["order_by"] == "recent",
        limit=min(limit, MAX_RESULTS),
        begin=begin,
        context=None
        if context is None
        else ContextWanted(
            min(context["before_limit"], MAX_CONTEXT),
            min(context["after_limit"], MAX_CONTEXT),
            context["include_profile"],
        ),
        with_state=wanted["include_state"],
        group_by=[
            group["key"]
            for group in (wanted["groupings"] or {}).get("group_by", ())
            if group["key"] in ("room_id", "sender")
        ],
    )


def _begin(token: str | None) -> int | None:
    """The place that a next_batch token names.

    Raises:
        InvalidParam: it is none of ours.
    """
    if token is None:
        return None
    number = token[1:]
    digits = number.removeprefix("-")
    if token[:1] != "n" or not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise InvalidParam("The next_batch token is not one that this server gave.")
    return int(number)
