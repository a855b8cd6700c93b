"""Access token → Requester.

Spec: https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import falcon

from architex.api.requests import string_param
from architex.domain.errors import LimitExceeded, MissingToken
from architex.domain.identifiers import RoomId, ServerName
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester
from architex.usecases.sessions import Sessions

_FOUND = "architex.requester"


class ServerFinder(Protocol):
    """Says which server sent a request."""

    def origin(self, req: falcon.Request, max_bytes: int) -> ServerName:
        """The server that signed it; raises Unauthorized."""


@dataclass(frozen=True)
class Authenticator:
    """Finds out who sent a request, at most once per request; counts what they do.

    Attributes:
        servers: for requests of other servers; None when this one does not federate.
        activity: notes that a user does something, for the user's presence.
    """

    sessions: Sessions
    rate_limits: RateLimits
    servers: ServerFinder | None = None
    activity: Callable[[Requester], None] = lambda requester: None

    def requester(
        self, req: falcon.Request, *, even_locked: bool = False, with_news: bool = False
    ) -> Requester:
        """The user of the request's access token.

        Args:
            even_locked: also let in users whose account is locked: for logging out.
            with_news: tell what is new for the device, too: for /sync.

        Raises:
            MissingToken: the request has no access token.
            UnknownToken: the token is not (or no longer) valid.
            UserLocked: the account is locked.
        """
        found: Requester | None = req.env.get(_FOUND)
        if found is None:
            token = access_token(req)
            if token is None:
                raise MissingToken("This needs an access token.")
            found = self.sessions.find_requester(
                token,
                address=client_address(req),
                user_agent=req.user_agent or "",
                even_locked=even_locked,
                with_news=with_news,
            )
            req.env[_FOUND] = found
        return found

    def note_active(self, requester: Requester) -> None:
        """Note that a user does something."""
        self.activity(requester)

    def count(self, requester: Requester, kind: str) -> None:
        """Count an action of a kind that is limited.

        Raises:
            LimitExceeded: the requester has done this too often lately.
        """
        self.rate_limits.spend(kind, requester.user_id)

    def check_in_room(self, room_id: RoomId, kind: str) -> None:
        """Refuse what has been done too often in a room, by all users of this server together.

        Raises:
            LimitExceeded: it has.
        """
        self.rate_limits.check(f"room_{kind}", room_id)

    def count_in_room(self, room_id: RoomId, kind: str) -> None:
        """Count what was done in a room."""
        with suppress(LimitExceeded):  # others came first; it is done all the same
            self.rate_limits.spend(f"room_{kind}", room_id)


def find_user(req: falcon.Request) -> Requester | None:
    """Who is asking, at endpoints that need no access token; None when the request has none.

    Raises:
        UnknownToken, UserLocked: it has one that does not let its user in.
    """
    authenticator: Authenticator = req.env["architex.authenticator"]
    return None if access_token(req) is None else authenticator.requester(req)


def require_even_locked_user(req: falcon.Request) -> Requester:
    """Who is asking, guests and users with a locked account included.

    Raises:
        MissingToken, UnknownToken: there is no valid access token.
    """
    authenticator: Authenticator = req.env["architex.authenticator"]
    return authenticator.requester(req, even_locked=True)


def count_question(req: falcon.Request) -> None:
    """Count a question that another server is asked, where no account is needed to ask it.

    Else strangers could have us knock at any number of doors.

    Raises:
        LimitExceeded: the user, or somebody at that address, has asked too often lately.
        UnknownToken, UserLocked: the request has a token that does not let its user in.
    """
    authenticator: Authenticator = req.env["architex.authenticator"]
    user = find_user(req)
    who = client_address(req) if user is None else user.user_id
    authenticator.rate_limits.spend("lookups", who)


def count_question_to(req: falcon.Request, server_name: ServerName, ours: ServerName) -> None:
    """As `count_question`, unless it is our own server that is asked."""
    if server_name != ours:
        count_question(req)


def access_token(req: falcon.Request) -> str | None:
    """The access token a request carries, in its header or (deprecated) its query."""
    header: str | None = req.env.get("HTTP_AUTHORIZATION")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
        return None
    return string_param(req, "access_token") or None


def client_address(req: falcon.Request) -> str:
    """The address the request came from: what rate limits count by."""
    address: str = req.env.get("REMOTE_ADDR") or ""
    return address
