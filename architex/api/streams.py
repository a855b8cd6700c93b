"""Answers of JSON that are sent while they are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import falcon

PIECE_BYTES: Final = 65_536
"""Each piece costs a write to the socket."""


def send_stream(resp: falcon.Response, pieces: Iterator[bytes]) -> None:
    """Answer with JSON that comes in pieces.

    When making them fails, the connection ends before the body does: the client sees it.
    """
    resp.content_type = falcon.MEDIA_JSON
    stream: Any = _gathered(pieces)
    resp.stream = stream


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces."""
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= PIECE_BYTES:
            yield b"".join(held)
            held, length = [], 0
    yield b"".join(held)
