"""Sync and pagination tokens: places in the stream of a reader, as clients carry them.

Both are opaque to clients. A sync token names a log position: everything up to it was seen. A
pagination token names a place between two events of a room's timeline. For events that came as
they happened both numbers are the same, so either kind of token is taken where the specification
lets a client use it.

Spec: https://spec.matrix.org/v1.19/client-server-api/#syncing
"""

from __future__ import annotations

import re
from typing import Final

from architex.domain.errors import InvalidParam

_MAX_NUMBER: Final = 2**62
"""Tokens name PostgreSQL's bigints, and leave room to count on from them."""

_SYNC_TOKEN: Final = re.compile(r"s([0-9]{1,19})(?:_([0-9]{1,19}))?", re.ASCII)
_PAGINATION_TOKEN: Final = re.compile(r"(?:s|t)(-?[0-9]{1,19})(?:_[0-9]{1,19})?", re.ASCII)


def format_sync_token(position: int, to_device: int | None = None) -> str:
    """The token of a reader who has seen everything up to a log position.

    Args:
        to_device: up to where messages to the device were told, when more of them wait.
    """
    return f"s{position}" if to_device is None else f"s{position}_{to_device}"


def parse_sync_token(text: str) -> int:
    """The log position of a sync token.

    Raises:
        InvalidParam: it is no token that this server gives.
    """
    return _parse(text)[0]


def parse_to_device_position(text: str) -> int:
    """Up to which log position the bearer of a sync token has messages to the device.

    Raises:
        InvalidParam: it is no token that this server gives.
    """
    return _parse(text)[1]


def format_pagination_token(ordering: int) -> str:
    """The token of the place in a timeline just after the event with an ordering."""
    return f"t{ordering}"


def parse_pagination_token(text: str) -> int:
    """The ordering after which a pagination or sync token stands.

    Raises:
        InvalidParam: it is no token that this server gives.
    """
    match = _PAGINATION_TOKEN.fullmatch(text)
    if match is None or abs(int(match[1])) > _MAX_NUMBER:
        raise InvalidParam("The pagination token is not one that this server gave.")
    return int(match[1])


def _parse(text: str) -> tuple[int, int]:
    """The log position of a sync token, and the one for messages to the device."""
    match = _SYNC_TOKEN.fullmatch(text)
    if match is not None:
        position = int(match[1])
        to_device = position if match[2] is None else int(match[2])
        if to_device <= position <= _MAX_NUMBER:
            return position, to_device
    raise InvalidParam("The since token is not one that this server gave.")
