"""Around every request: its ID, CORS, decoding of the path, the JSON that goes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import falcon
import falcon.media

from architex.api.requests import RequesterFinder
from architex.domain.canonical_json import encode_json
from architex.domain.errors import InvalidParam
from architex.gateways.log_output import REQUEST_ID

StartResponse: TypeAlias = Callable[..., Any]
WsgiApp: TypeAlias = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

CORS_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization, Date",
    "Access-Control-Expose-Headers": "Retry-After",
}
"""Spec: https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients"""


class JsonHandler(falcon.media.BaseHandler):
    """JSON in and out."""

    def serialize(self, media: object, content_type: str) -> bytes:
        """The bytes of a response's media."""
        return encode_json(media)

    def deserialize(
        self, stream: Any, content_type: str | None, content_length: int | None
    ) -> Any:
        """Not used: bodies are read by `architex.api.requests`, which bounds them."""
        raise TypeError("use architex.api.requests.json_body")


class RawPath:
    """Routes on the path as it was sent, so that %2F inside a segment stays in it."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Hand the request on, with its undecoded path."""
        raw = environ.get("RAW_URI")
        if raw is not None and "%" in raw:
            path = raw.partition("?")[0]
            if "://" in path.partition("/")[0] + "//":  # the absolute form of a request target
                path = "/" + path.split("/", 3)[-1]
            environ["PATH_INFO"] = path
            environ["architex.raw_path"] = True
        return self._app(environ, start_response)


class RequestMiddleware:
    """Falcon middleware: request IDs, path decoding, CORS."""

    def __init__(self, authenticator: RequesterFinder) -> None:
        self._authenticator = authenticator
        self._numbers = count(1)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Number the request; answer CORS preflight at once."""
        env = req.env
        request_id = f"{next(self._numbers):x}"
        env["architex.request_id"] = request_id
        REQUEST_ID.set(request_id)
        env["architex.authenticator"] = self._authenticator
        resp._headers.update(_CLIENT_LOWER if req.path.startswith(_CLIENT_PATHS) else _CORS_LOWER)
        if req.method == "OPTIONS":
            resp.complete = True

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Decode the variable segments of the path.

        Raises:
            InvalidParam: a segment is not UTF-8.
        """
        raw = "architex.raw_path" in req.env
        for name, value in params.items():
            if raw and "%" in value:
                try:
                    params[name] = unquote_to_bytes(value).decode("utf-8")
                except UnicodeDecodeError:
                    raise InvalidParam("The path is not UTF-8.") from None
            if "\x00" in params[name]:
                raise InvalidParam("The path holds a NUL.")


_CORS_LOWER: Final = {
    **{name.lower(): value for name, value in CORS_HEADERS.items()},
    # What we say it is, it is: nothing that a user wrote becomes a page.
    "x-content-type-options": "nosniff",
}
_CLIENT_PATHS: Final = ("/_matrix/client/", "/_synapse/")
# Somebody's own answers, tokens among them; resources that may be kept say so themselves.
_CLIENT_LOWER: Final = {**_CORS_LOWER, "cache-control": "no-store"}
