"""The RemoteError family: what goes wrong when we ask something of another server.

A peer's failure is never our failure: a use case decides what it means for whoever asked us.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RemoteError(Exception):
    """Asking somebody else did not work.

    Attributes:
        remote: who was asked: a server name or a URL.
        message: one sentence about what went wrong.
    """

    def __init__(self, remote: str, message: str) -> None:
        super().__init__(f"{remote}: {message}")
        self.remote = remote
        self.message = message


class RemoteUnreachable(RemoteError):
    """Not found, not connected, no valid certificate, or no whole answer: it may work later."""


class RemoteTimedOut(RemoteUnreachable):
    """No whole answer in the time we gave it."""


class RemoteBlocked(RemoteUnreachable):
    """All its addresses are in networks that we never connect to."""


class RemoteAvoided(RemoteUnreachable):
    """Not even tried: it was unreachable a moment ago.

    Attributes:
        retry_after_s: seconds until it is tried again.
    """

    def __init__(self, remote: str, message: str, *, retry_after_s: float) -> None:
        super().__init__(remote, message)
        self.retry_after_s = retry_after_s


class RemoteUnintelligible(RemoteError):
    """It answered something that is not what such an answer must be."""


class RemoteTooLarge(RemoteUnintelligible):
    """Its answer is larger than we take."""


class RemoteRefused(RemoteError):
    """It answered, with a status that is no success.

    Attributes:
        status: the HTTP status.
        errcode: the Matrix error code; None when it sent none.
        body: the JSON object it sent; empty when it sent none.
        retry_after_ms: how long it asks to be left alone; None when it does not say.
    """

    def __init__(
        self,
        remote: str,
        status: int,
        body: Mapping[str, Any] | None = None,
        *,
        retry_after_ms: int | None = None,
    ) -> None:
        self.status = status
        self.body: Mapping[str, Any] = body or {}
        errcode, error = self.body.get("errcode"), self.body.get("error")
        self.errcode = errcode if isinstance(errcode, str) else None
        self.retry_after_ms = retry_after_ms
        said = error if isinstance(error, str) else "no reason given"
        super().__init__(remote, f"{status} {self.errcode or ''}: {said[:500]}")
