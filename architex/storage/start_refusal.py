"""Why the server does not start: a code, what is wrong, and the command that mends it."""

from __future__ import annotations

from typing import Final

REFUSED_STATUS: Final = 78
"""The exit status of a child process that has told why it cannot start (EX_CONFIG)."""


class StartRefused(Exception):
    """The server (or a command) cannot start as things are.

    Codes, each used for one cause: A00x configuration, A01x embedded PostgreSQL, A02x a given
    PostgreSQL and its schema, A03x keys and secrets, A04x listeners, A05x processes.

    Attributes:
        code: like `A022`; stable, so that it can be looked up.
        message: what is wrong, in one sentence.
        mend: what to do about it; a command where there is one.
    """

    def __init__(self, code: str, message: str, *, mend: str) -> None:
        super().__init__(f"{code}: {message}\n  To mend it: {mend}")
        self.code = code
        self.message = message
        self.mend = mend
