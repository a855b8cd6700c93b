"""Reading requests: JSON bodies, parameters of the query, who is asking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import falcon
import marshmallow

from architex.domain.canonical_json import parse_json
from architex.domain.errors import (
    BadJson,
    Forbidden,
    GuestAccessForbidden,
    InvalidParam,
    LimitExceeded,
    MissingParam,
    NotJson,
    TooLarge,
    UserSuspended,
)
from architex.domain.identifiers import RoomId, UserId
from architex.usecases.requester import Requester

MAX_BODY_BYTES: Final = 1024 * 1024
"""Of a JSON body. An event has at most 65,536 bytes; some requests carry many."""

_CHUNK_BYTES: Final = 65_536
_MAX_TS: Final = 2**53 - 1
_READING: Final = frozenset({"GET", "HEAD"})


class RequesterFinder(Protocol):
    """Says who sent a request."""

    def requester(self, req: falcon.Request, *, with_news: bool = False) -> Requester:
        """The user of the request's access token; raises MissingToken, UnknownToken.

        Args:
            with_news: tell what is new for the device, too.
        """

    def note_active(self, requester: Requester) -> None:
        """Note that a user does something."""

    def count(self, requester: Requester, kind: str) -> None:
        """Count an action of a kind that is limited; raises LimitExceeded."""

    def check_in_room(self, room_id: RoomId, kind: str) -> None:
        """Refuse an action of a kind that is limited in rooms; raises LimitExceeded."""

    def count_in_room(self, room_id: RoomId, kind: str) -> None:
        """Count an action of a kind that is limited in rooms."""


def require_user(
    req: falcon.Request,
    *,
    guests: bool = False,
    suspended: bool = True,
    limit: str | None = None,
    active: bool = False,
    with_news: bool = False,
) -> Requester:
    """Who is asking.

    Args:
        guests: whether guests may.
        suspended: whether suspended users may.
        limit: the kind of rate limit that the request counts to, per user; if left out, what
            is more than reading counts as one of `changes`.
        active: whether this shows a person at work, not only their client.
        with_news: tell what is new for the device, too.

    Raises:
        MissingToken, UnknownToken: there is no valid access token.
        GuestAccessForbidden: the requester is a guest, and guests may not.
        UserSuspended: the requester is suspended, and suspended users may not.
        LimitExceeded: the requester has done this too often lately.
    """
    finder: RequesterFinder = req.env["architex.authenticator"]
    requester = finder.requester(req, with_news=with_news)
    if requester.is_guest and not guests:
        raise GuestAccessForbidden("Guests may not do this; register an account for it.")
    if requester.is_suspended and not suspended:
        raise UserSuspended("You may not do this while suspended.")
    if limit is not None:
        finder.count(requester, limit)
    elif req.method not in _READING:
        finder.count(requester, "changes")
    if active:
        finder.note_active(requester)
    return requester


def count_several(req: falcon.Request, requester: Requester, kind: str, number: int) -> None:
    """Count several actions that one request asks for; some may exceed the limit, not all.

    Raises:
        LimitExceeded: the requester has done this too often lately.
    """
    finder: RequesterFinder = req.env["architex.authenticator"]
    finder.count(requester, kind)
    with suppress(LimitExceeded):
        for _ in range(number - 1):
            finder.count(requester, kind)


@contextmanager
def counted_in_room(req: falcon.Request, room_id: RoomId, kind: str) -> Iterator[None]:
    """Limit how often something is done in a room; only what succeeds counts.

    Else whoever is not in a room could silence it.

    Args:
        kind: `messages` or `joins`.

    Raises:
        LimitExceeded: this has happened there too often lately.
    """
    finder: RequesterFinder = req.env["architex.authenticator"]
    finder.check_in_room(room_id, kind)
    yield
    finder.count_in_room(room_id, kind)


def require_own(requester: Requester, user_id: UserId, what: str) -> None:
    """Only users themselves may touch `what`.

    Raises:
        Forbidden: the path names somebody else.
    """
    if requester.user_id != user_id:
        raise Forbidden(f"You may not touch {what} of other users.")


def read_body(req: falcon.Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The request's body, also when it comes in chunks.

    Raises:
        TooLarge: it is larger than `max_bytes`.
        NotJson: it broke off, or its chunks are none.
    """
    length = req.content_length
    if length is not None and length > max_bytes:
        raise TooLarge(f"The body may have at most {max_bytes} bytes.")
    try:
        if length is not None:
            body: bytes = req.bounded_stream.read(length)
            return body
        return _read_chunks(req, max_bytes)
    except OSError as error:
        raise NotJson(f"The body cannot be read: {error}.") from error


def _read_chunks(req: falcon.Request, max_bytes: int) -> bytes:
    if "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
        return b""
    parts = []
    size = 0
    while part := req.stream.read(_CHUNK_BYTES):
        size += len(part)
        if size > max_bytes:
            raise TooLarge(f"The body may have at most {max_bytes} bytes.")
        parts.append(part)
    return b"".join(parts)


def json_body(
    req: falcon.Request, *, max_bytes: int = MAX_BODY_BYTES, optional: bool = False
) -> dict[str, Any]:
    """The JSON object in the request's body.

    Args:
        optional: an empty body means an empty object.

    Raises:
        NotJson: the body is no JSON.
        BadJson: it is JSON but no object.
        TooLarge: it is larger than `max_bytes`.
    """
    raw = read_body(req, max_bytes)
    if not raw:
        if optional:
            return {}
        raise NotJson("The request needs a body: a JSON object.")
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise BadJson("The body must be a JSON object.")
    return value


class BodySchema(marshmallow.Schema):
    """Base of the schemas of request bodies: what the spec does not name is let be."""

    class Meta:
        """marshmallow's options."""

        unknown = marshmallow.EXCLUDE


def load(schema: marshmallow.Schema, body: dict[str, Any]) -> dict[str, Any]:
    """The body as its schema reads it.

    Raises:
        MissingParam: a required key is absent, and nothing else is wrong.
        BadJson: a value is not of its type.
    """
    try:
        loaded: dict[str, Any] = schema.load(body)
    except marshmallow.ValidationError as error:
        messages = error.messages_dict
        missing = [
            name
            for name, problems in messages.items()
            if name not in body and problems == ["Missing data for required field."]
        ]
        if missing and len(missing) == len(messages):
            raise MissingParam(f"Missing: {', '.join(sorted(missing))}.") from None
        raise BadJson(f"The body is not as it should be: {_flatten(messages)}") from None
    return loaded


def _flatten(messages: Any, path: str = "") -> str:
    if isinstance(messages, dict):
        return " ".join(
            _flatten(inner, f"{path}.{key}" if path else str(key))
            for key, inner in messages.items()
        )
    if isinstance(messages, list):
        return f"{path}: {' '.join(str(message) for message in messages)}"
    return f"{path}: {messages}"


def string_param(req: falcon.Request, name: str, default: str | None = None) -> str | None:
    """A parameter of the query; the last one when it is given several times."""
    value = req.params.get(name, default)
    if isinstance(value, list):
        last: str = value[-1]
        return last
    return value


def list_param(req: falcon.Request, name: str) -> list[str]:
    """All values of a parameter of the query, in their order."""
    value = req.params.get(name, [])
    return value if isinstance(value, list) else [value]


def int_param(
    req: falcon.Request,
    name: str,
    default: int,
    *,
    at_least: int = 0,
    at_most: int | None = None,
) -> int:
    """A number of the query; what is beyond `at_most` becomes `at_most`.

    Raises:
        InvalidParam: it is no number, or smaller than `at_least`.
    """
    text = string_param(req, name)
    if text is None or text == "":
        return default
    # int() takes more than digits: underscores, blanks, other scripts.
    if not (text.removeprefix("-").isdigit() and text.isascii() and len(text) < 20):
        raise InvalidParam(f"{name} must be a whole number.")
    value = int(text)
    if value < at_least:
        raise InvalidParam(f"{name} must be at least {at_least}.")
    return value if at_most is None else min(value, at_most)


def bool_param(req: falcon.Request, name: str, default: bool = False) -> bool:
    """A true or false of the query.

    Raises:
        InvalidParam: it is something else.
    """
    text = string_param(req, name)
    if text is None or text == "":
        return default
    if text not in ("true", "false"):
        raise InvalidParam(f"{name} must be true or false.")
    return text == "true"


def moment_params(req: falcon.Request) -> tuple[int, bool]:
    """`ts` and `dir` of a question for the event nearest to a moment: the moment, backwards?

    Raises:
        MissingParam: one of them is absent.
        InvalidParam: one of them is not of its form.
    """
    direction = string_param(req, "dir")
    if direction is None or not string_param(req, "ts"):
        raise MissingParam("Missing: ts or dir.")
    if direction not in ("b", "f"):
        raise InvalidParam("dir must be b or f.")
    return int_param(req, "ts", 0, at_least=-_MAX_TS, at_most=_MAX_TS), direction == "b"
