"""The identifiers of Matrix: user, room, event and alias IDs and server names.

Identifiers are plain strings with a name for their grammar. `parse_…` functions are the door
through which text from outside becomes an identifier; everything inside takes them as read.

Spec: https://spec.matrix.org/v1.19/appendices/#identifier-grammar
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, TypeAlias

from architex.domain.errors import InvalidParam, InvalidUsername

UserId: TypeAlias = str
RoomId: TypeAlias = str
EventId: TypeAlias = str
RoomAlias: TypeAlias = str
ServerName: TypeAlias = str

MAX_IDENTIFIER_BYTES: Final = 255

_SERVER_NAME: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[0-9A-Za-z.-]{1,255}))(?::[0-9]{1,5})?",
    re.ASCII,
)
_DOTTED_QUAD: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
# Localparts of old users, of rooms and of aliases: anything but the separator and NUL. Surrogates
# fall out when the identifier is measured in UTF-8.
_OPAQUE_LOCALPART: Final = re.compile(r"[^:\0]*")
_USER_LOCALPART: Final = re.compile(r"[a-z0-9._=/+-]+", re.ASCII)
_CREATE_EVENT_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def parse_server_name(text: str) -> ServerName:
    """Return text if it is a server name: host name or address, and an optional port.

    Raises:
        InvalidParam: it is not of the grammar.

    Spec: https://spec.matrix.org/v1.19/appendices/#server-name
    """
    if not is_server_name(text):
        raise InvalidParam("This is not a valid server name.")
    return text


@lru_cache(maxsize=4096)
def is_server_name(text: str) -> bool:
    """Tell whether text is of the server name grammar.

    Spec: https://spec.matrix.org/v1.19/appendices/#server-name
    """
    match = _SERVER_NAME.fullmatch(text)
    if match is None or len(text) > MAX_IDENTIFIER_BYTES:
        return False
    host, v6 = match["host"], match["v6"]
    try:
        if v6 is not None:
            IPv6Address(v6)
        elif _DOTTED_QUAD.fullmatch(host):
            # "007.0.0.1" is refused by ipaddress for its leading zeros, which Matrix allows.
            IPv4Address(".".join(str(int(part)) for part in host.split(".")))
    except AddressValueError:
        return False
    return True


def parse_user_id(text: str) -> UserId:
    """Return text if it is a user ID, of today's grammar or of the historical one.

    Raises:
        InvalidParam: it is not.

    Spec: https://spec.matrix.org/v1.19/appendices/#user-identifiers
    """
    if not is_user_id(text):
        raise InvalidParam("This is not a valid user ID (@localpart:server).")
    return text


@lru_cache(maxsize=4096)
def is_user_id(text: str) -> bool:
    """Tell whether text is a user ID that servers must accept, historical ones included.

    Spec: https://spec.matrix.org/v1.19/appendices/#historical-user-ids
    """
    return text.startswith("@") and _is_localpart_and_domain(text)


def check_localpart(localpart: str, server_name: ServerName = "") -> None:
    """Check that a new user may have this localpart on the server.

    Raises:
        InvalidUsername: it is empty, has characters outside today's grammar, or the user ID would
            exceed 255 bytes.

    Spec: https://spec.matrix.org/v1.19/appendices/#user-identifiers
    """
    if _USER_LOCALPART.fullmatch(localpart) is None:
        raise InvalidUsername("A user name consists of the characters a-z, 0-9, and . _ = - / +")
    if len(localpart) + len(server_name) + 2 > MAX_IDENTIFIER_BYTES:
        raise InvalidUsername("The user ID would be longer than 255 bytes.")


def parse_room_id(text: str) -> RoomId:
    """Return text if it is a room ID: `!opaque:server`, or `!hash` of a create event (v12).

    Raises:
        InvalidParam: it is neither.

    Spec: https://spec.matrix.org/v1.19/appendices/#room-ids
    """
    if not is_room_id(text):
        raise InvalidParam("This is not a valid room ID.")
    return text


def is_room_id(text: str) -> bool:
    """Tell whether text is a room ID of any room version.

    Spec: https://spec.matrix.org/v1.19/appendices/#room-ids
    """
    if not text.startswith("!"):
        return False
    if ":" in text:
        return _is_localpart_and_domain(text)
    return is_create_event_hash(text[1:])


def is_create_event_hash(text: str) -> bool:
    """Tell whether text is a room ID of room version 12 or later, without its sigil.

    Spec: https://spec.matrix.org/v1.19/rooms/v12/#event-format
    """
    return _CREATE_EVENT_HASH.fullmatch(text) is not None


def parse_event_id(text: str) -> EventId:
    """Return text if it can be an event ID of some room version.

    Raises:
        InvalidParam: it cannot.

    Spec: https://spec.matrix.org/v1.19/appendices/#event-ids
    """
    if not is_event_id(text):
        raise InvalidParam("This is not a valid event ID.")
    return text


def is_event_id(text: str) -> bool:
    """Tell whether text can be an event ID of some room version; what follows the `$` is opaque.

    Spec: https://spec.matrix.org/v1.19/appendices/#event-ids
    """
    return text.startswith("$") and len(text) > 1 and "\0" not in text and fits_identifier(text)


def parse_room_alias(text: str) -> RoomAlias:
    """Return text if it is a room alias: `#localpart:server`.

    Raises:
        InvalidParam: it is not.

    Spec: https://spec.matrix.org/v1.19/appendices/#room-aliases
    """
    if not is_room_alias(text):
        raise InvalidParam("This is not a valid room alias (#localpart:server).")
    return text


def is_room_alias(text: str) -> bool:
    """Tell whether text is a room alias.

    Spec: https://spec.matrix.org/v1.19/appendices/#room-aliases
    """
    return text.startswith("#") and _is_localpart_and_domain(text)


def server_name_of(identifier: str) -> ServerName:
    """Return the server name in an identifier: what follows its first colon.

    Raises:
        InvalidParam: the identifier has none (room IDs since v12, event IDs since v3).

    Spec: https://spec.matrix.org/v1.19/appendices/#common-identifier-format
    """
    _, colon, server_name = identifier.partition(":")
    if not colon:
        raise InvalidParam("This identifier has no server name.")
    return server_name


def localpart_of(identifier: str) -> str:
    """Return the localpart of an identifier: what stands between its sigil and its first colon.

    Spec: https://spec.matrix.org/v1.19/appendices/#common-identifier-format
    """
    return identifier[1:].partition(":")[0]


def fits_identifier(text: str) -> bool:
    """Tell whether text has at most 255 bytes in UTF-8 and no lone surrogate."""
    if text.isascii():
        return len(text) <= MAX_IDENTIFIER_BYTES
    try:
        return len(text.encode()) <= MAX_IDENTIFIER_BYTES
    except UnicodeEncodeError:
        return False


def _is_localpart_and_domain(text: str) -> bool:
    localpart, colon, server_name = text[1:].partition(":")
    return (
        colon == ":"
        and fits_identifier(text)
        and _OPAQUE_LOCALPART.fullmatch(localpart) is not None
        and is_server_name(server_name)
    )
