"""Reads a large JSON object while it arrives: array by array, item by item, never as a whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

MAX_VALUE_CHARS: Final = 1024 * 1024
"""Of one item of an array, or of one value that is no array."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class BrokenJson(ValueError):
    """It is not a JSON object, or holds a value larger than we take."""


def read_members(
    pieces: Iterable[bytes], *, max_value_chars: int = MAX_VALUE_CHARS
) -> Iterator[tuple[str, bytes]]:
    """The members of a JSON object: (name, the JSON of the value), as they come.

    A value that is an array is given item by item, each under the array's name; an empty one is
    not given at all. `[200, {…}]`, as version 1 of some endpoints answers, is read as the object.

    Args:
        pieces: the bytes, cut anywhere.
        max_value_chars: of what is given at once.

    Raises:
        BrokenJson: when it comes to what is no JSON; everything before has been given by then.
    """
    text = _Text(pieces, max_value_chars)
    if text.take("["):
        if text.take_value() != b"200":
            raise BrokenJson("It is an array, and not [200, {…}].")
        text.expect(",")
    text.expect("{")
    if text.take("}"):
        return
    while True:
        name = json.loads(text.take_value())
        if not isinstance(name, str):
            raise BrokenJson("The name of a member is no string.")
        text.expect(":")
        if text.take("["):
            yield from ((name, item) for item in _items(text))
        else:
            yield name, text.take_value()
        if not text.take(","):
            text.expect("}")
            return


def _items(text: _Text) -> Iterator[bytes]:
    if text.take("]"):
        return
    while True:
        yield text.take_value()
        if not text.take(","):
            text.expect("]")
            return


class _Text:
    """What has arrived and was not read yet."""

    def __init__(self, pieces: Iterable[bytes], max_value_chars: int) -> None:
        self._pieces = iter(pieces)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._max_value_chars = max_value_chars
        self._text = ""
        self._place = 0
        self._is_over = False

    def take(self, char: str) -> bool:
        """Pass `char` if it comes next."""
        if self._peek() != char:
            return False
        self._place += 1
        return True

    def expect(self, char: str) -> None:
        """Pass `char`, which must come next."""
        if not self.take(char):
            raise BrokenJson(f"There is no {char} where one must be.")

    def take_value(self) -> bytes:
        """The JSON of the value that comes next."""
        self._peek()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._place)
            except RecursionError as error:
                raise BrokenJson("A value nests too deeply.") from error
            except ValueError as error:
                # Not whole yet, or not JSON at all: that shows when no more comes.
                unread = len(self._text) - self._place
                if self._is_over or unread > self._max_value_chars:
                    raise BrokenJson("A value is no JSON, or too large.") from error
                self._fill(2 * unread)
                continue
            if end - self._place > self._max_value_chars:
                raise BrokenJson("A value is too large.")
            # A number may go on in what comes next.
            if end < len(self._text) or self._is_over:
                value = self._text[self._place : end]
                self._place = end
                try:
                    return value.encode()
                except UnicodeEncodeError as error:
                    raise BrokenJson("A value holds a lone surrogate.") from error
            self._fill(end - self._place + 1)

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._place = _skip_space(self._text, self._place)
            if self._place < len(self._text):
                return self._text[self._place]
            if self._is_over:
                return ""
            self._fill(1)

    def _fill(self, at_least: int) -> None:
        """Read on until so many characters are unread, or until the end."""
        parts = [self._text[self._place :]]
        length = len(parts[0])
        while length < at_least and not self._is_over:
            piece = next(self._pieces, b"")
            self._is_over = not piece
            try:
                part = self._decoder.decode(piece, final=self._is_over)
            except UnicodeDecodeError as error:
                raise BrokenJson("It is not UTF-8.") from error
            parts.append(part)
            length += len(part)
        self._text, self._place = "".join(parts), 0


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
