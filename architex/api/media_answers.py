"""Answers that carry media: their headers, parts of them, multipart for other servers.

Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import falcon

from architex.api.requests import bool_param, int_param, string_param
from architex.domain.errors import InvalidParam, MissingParam
from architex.domain.media import content_disposition
from architex.usecases.media_reading import Content
from architex.usecases.thumbnails import Wish

CONTENT_HEADERS: Final = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf;"
        " style-src 'unsafe-inline'; object-src 'self';"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
}
"""With every answer that is media, whatever it is."""

_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_LONGEST: Final = "private, max-age=31536000, immutable"


def answer_content(
    req: falcon.Request, resp: falcon.Response, content: Content, file_name: str | None = None
) -> None:
    """Answer with content, or the part of it that is asked for.

    Args:
        file_name: to tell instead of the one it was uploaded with.
    """
    resp.content_type = content.content_type
    resp.set_headers(CONTENT_HEADERS)
    name = content.file_name if file_name is None else file_name
    resp.set_header("Content-Disposition", content_disposition(content.content_type, name))
    resp.set_header("ETag", content.etag)
    resp.set_header("Accept-Ranges", "bytes")
    resp.set_header("Cache-Control", _LONGEST)
    if content.etag in (req.get_header("If-None-Match") or ""):
        content.close()
        resp.status = 304
        resp.delete_header("Content-Type")
        return
    first, length = _wanted_part(req, content)
    if length < 0:
        content.close()
        resp.status = 416
        resp.set_header("Content-Range", f"bytes */{content.size}")
        return
    if length != content.size:
        resp.status = 206
        last = first + length - 1
        resp.set_header("Content-Range", f"bytes {first}-{last}/{content.size}")
    resp.content_length = length
    resp.stream = _Pieces(content, content.pieces(first, length))


def answer_multipart(resp: falcon.Response, content: Content, boundary: str) -> None:
    """Answer another server: metadata, then the content.

    Args:
        boundary: what the content does not hold; chance makes it so.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
    """
    disposition = content_disposition(content.content_type, content.file_name)
    head = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n"
        f"--{boundary}\r\nContent-Type: {content.content_type}\r\n"
        f"Content-Disposition: {disposition}\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    resp.content_type = f"multipart/mixed; boundary={boundary}"
    resp.set_headers(CONTENT_HEADERS)
    resp.content_length = len(head) + content.size + len(tail)
    resp.stream = _Pieces(content, _between(head, content.pieces(), tail))


def wish_of(req: falcon.Request) -> Wish:
    """The thumbnail that the query asks for.

    Raises:
        MissingParam: it lacks width or height.
        InvalidParam: a parameter is not of its form.
    """
    if not string_param(req, "width") or not string_param(req, "height"):
        raise MissingParam("Missing: width or height.")
    method = string_param(req, "method", "scale")
    if method not in ("scale", "crop"):
        raise InvalidParam("method must be scale or crop.")
    return Wish(
        int_param(req, "width", 1, at_least=1),
        int_param(req, "height", 1, at_least=1),
        "crop" if method == "crop" else "scale",
        bool_param(req, "animated"),
    )


def _between(head: bytes, pieces: Iterator[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    yield from pieces
    yield tail


class _Pieces:
    """A body in pieces; closing it closes the file, also when nothing was ever read."""

    def __init__(self, content: Content, pieces: Iterator[bytes]) -> None:
        self._content = content
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """What WSGI servers call at the end, whatever happened."""
        self._content.close()


def _wanted_part(req: falcon.Request, content: Content) -> tuple[int, int]:
    """Where the answer begins, and its length; a negative length for what is not there.

    Whatever is no single range of bytes is answered as a whole.

    Spec: https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
    """
    size = content.size
    match = _RANGE.fullmatch((req.get_header("Range") or "").strip())
    condition = req.get_header("If-Range")
    if match is None or (condition is not None and condition != content.etag):
        return 0, size
    first, last = match.groups()
    if not first and not last:
        return 0, size
    if not first:  # the last so many
        length = min(int(last), size)
        return (size - length, length) if length else (0, -1)
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return 0, size
    return (start, end - start + 1) if start < size else (0, -1)
