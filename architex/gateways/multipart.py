"""Bodies of several parts, read piece by piece.

Spec: https://www.rfc-editor.org/rfc/rfc2046#section-5.1
"""

from __future__ import annotations

import email.parser
import email.policy
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Final

from architex.gateways.errors import RemoteUnintelligible

MAX_HEADER_BYTES: Final = 16_384
"""Of one part."""

_MAX_PREAMBLE_BYTES: Final = 65_536
_MAX_BOUNDARY_LENGTH: Final = 200


def find_boundary(content_type: str) -> str | None:
    """The boundary that a Content-Type names; None when it is of nothing in parts."""
    header: Message = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return None
    boundary = header.get_boundary()
    is_good = boundary and boundary.isascii() and len(boundary) <= _MAX_BOUNDARY_LENGTH
    return boundary if is_good else None


class PartsReader:
    """Reads the parts one after the other; holds a little more than one piece of the body."""

    def __init__(self, read: Callable[[], bytes], boundary: str, remote: str) -> None:
        """Begin.

        Args:
            read: the next piece of the body; empty at its end.
            remote: who sends it, for errors.
        """
        self._read = read
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._remote = remote
        # The first delimiter may stand at the very beginning.
        self._held = b"\r\n"
        self._is_inside = True

    def next_part(self) -> Message | None:
        """The headers of the next part, whatever is left of the one before; None after the last.

        Raises:
            RemoteUnintelligible: there is none, or it has too many headers.
        """
        skipped = 0
        for piece in self.pieces():
            skipped += len(piece)
            if skipped > _MAX_PREAMBLE_BYTES:
                raise self._broken("There is too much between its parts.")
        self._need(2)
        if self._held.startswith(b"--"):
            return None
        while b"\r\n\r\n" not in self._held:
            if len(self._held) > MAX_HEADER_BYTES:
                raise self._broken("A part has too many headers.")
            self._more()
        head, rest = self._held.split(b"\r\n\r\n", 1)
        # The line break after the headers may be the one before the delimiter: an empty part.
        self._held = b"\r\n" + rest
        self._need(len(self._delimiter))
        if not self._held.startswith(self._delimiter):
            self._held = self._held[2:]
        self._is_inside = True
        text = head.partition(b"\r\n")[2].decode("utf-8", "replace")
        return email.parser.HeaderParser(policy=email.policy.compat32).parsestr(text)

    def pieces(self) -> Iterator[bytes]:
        """The content of the current part.

        Raises:
            RemoteUnintelligible: it does not end.
        """
        while self._is_inside:
            at = self._held.find(self._delimiter)
            if at >= 0:
                piece, self._held = self._held[:at], self._held[at + len(self._delimiter) :]
                self._is_inside = False
            else:
                # The delimiter may have begun.
                keep = len(self._delimiter) - 1
                piece, self._held = self._held[:-keep], self._held[-keep:]
                if not piece:
                    self._more()
            if piece:
                yield piece

    def _need(self, count: int) -> None:
        while len(self._held) < count:
            self._more()

    def _more(self) -> None:
        piece = self._read()
        if not piece:
            raise self._broken("The parts do not end.")
        self._held += piece

    def _broken(self, message: str) -> RemoteUnintelligible:
        return RemoteUnintelligible(self._remote, message)
