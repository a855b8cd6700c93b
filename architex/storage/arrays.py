"""Lists as binary parameters (`%b`), packed many items at a time.

psycopg packs item by item; where facts come by the hundred, that costs more than all their checks.
"""

from __future__ import annotations

from struct import pack
from typing import Any, Final

from psycopg import Connection
from psycopg.abc import Buffer, DumperKey
from psycopg.adapt import PyFormat
from psycopg.types.array import BaseListDumper, ListBinaryDumper, ListDumper

_NULL: Final = b"\xff\xff\xff\xff"

# Element type: OID, and OID of its array.
_INT8, _INT8_ARRAY = 20, 1016
_TEXT, _TEXT_ARRAY = 25, 1009
_BYTES, _BYTES_ARRAY = 17, 1001


class _PackedDumper(ListBinaryDumper):
    """Packs a flat list of one type; anything else is psycopg's to pack."""

    def get_key(self, obj: list[Any], format: PyFormat) -> DumperKey:
        kind = _kind(obj)
        return super().get_key(obj, format) if kind is None else (self.cls, kind)

    def upgrade(self, obj: list[Any], format: PyFormat) -> BaseListDumper:
        kind = _kind(obj)
        if kind is None:
            return ListBinaryDumper(self.cls, self._tx).upgrade(obj, format)
        return _DUMPERS[kind](self.cls, self._tx)


class _IntDumper(_PackedDumper):
    """Always int8[]: a statement is prepared once, whatever the size of its numbers."""

    oid = _INT8_ARRAY

    def dump(self, obj: list[Any]) -> Buffer:
        head = _head(obj, _INT8)
        if None in obj:
            return head + b"".join(
                [_NULL if item is None else pack("!iq", 8, item) for item in obj]
            )
        flat = [8] * (2 * len(obj))
        flat[1::2] = obj
        return head + pack("!" + "iq" * len(obj), *flat)


class _TextDumper(_PackedDumper):
    oid = _TEXT_ARRAY

    def dump(self, obj: list[Any]) -> Buffer:
        return _head(obj, _TEXT) + _joined(
            [None if item is None else item.encode() for item in obj]
        )


class _BytesDumper(_PackedDumper):
    oid = _BYTES_ARRAY

    def dump(self, obj: list[Any]) -> Buffer:
        return _head(obj, _BYTES) + _joined(obj)


_DUMPERS: Final[dict[type, type[_PackedDumper]]] = {
    int: _IntDumper,
    str: _TextDumper,
    bytes: _BytesDumper,
}


def pack_lists(connection: Connection[Any]) -> None:
    """Let a connection pack its `%b` lists so; `%s` stays as it is."""
    connection.adapters.register_dumper(list, _PackedDumper)
    # The last one counts for `%s`.
    connection.adapters.register_dumper(list, ListDumper)


def _kind(obj: list[Any]) -> type | None:
    """The type of all items; None if they are of several, of none or of one not packed here."""
    kinds = set(map(type, obj))
    kinds.discard(type(None))
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind in _DUMPERS else None


def _head(obj: list[Any], element: int) -> bytes:
    """One dimension, from 1 on."""
    return pack("!IIIII", 1, None in obj, element, len(obj), 1)


def _joined(items: list[bytes | None]) -> bytes:
    parts: list[bytes] = []
    for item in items:
        if item is None:
            parts.append(_NULL)
        else:
            parts += (len(item).to_bytes(4, "big"), item)
    return b"".join(parts)
