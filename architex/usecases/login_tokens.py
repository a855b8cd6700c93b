"""Login tokens: whoever is logged in lets another client of theirs in.

Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import Forbidden
from architex.domain.identifiers import UserId
from architex.gateways.clock import Clock, Randomness
from architex.storage.login_tokens import LoginTokenStore
from architex.usecases.interactive_auth import PASSWORD, InteractiveAuth, Operation
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester
from architex.usecases.sessions import hash_token

LIFETIME_MS: Final = 2 * 60 * 1000


@dataclass(frozen=True)
class LoginTokens:
    """Makes login tokens, and takes them."""

    tokens: LoginTokenStore
    interactive_auth: InteractiveAuth
    rate_limits: RateLimits
    clock: Clock
    randomness: Randomness

    def create_token(self, requester: Requester, auth: Any) -> str:
        """A token that logs one client in as the requester, within LIFETIME_MS.

        Raises:
            AuthenticationRequired: stages are still to be completed.
            LimitExceeded: too many of them.
            Forbidden: the requester is a guest.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token
        """
        if requester.is_guest:
            raise Forbidden("Guests cannot log in elsewhere.")
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name="POST /login/get_token",
                flows=((PASSWORD,),),
                user_id=requester.user_id,
                request={},
                secrets={},
            ),
            auth,
        )
        self.rate_limits.spend("logins", requester.user_id)
        self.interactive_auth.end(authenticated)
        token = "arl_" + self.randomness.token_urlsafe(32)
        expires_ts = self.clock.now_ms() + LIFETIME_MS
        self.tokens.insert_token(hash_token(token), requester.user_id, expires_ts)
        return token

    def spend_token(self, token: str) -> UserId:
        """Whom a token lets in; it does so once.

        Raises:
            Forbidden: it was never given out, is spent, or has expired.
        """
        user_id = self.tokens.spend_token(hash_token(token), self.clock.now_ms())
        if user_id is None:
            raise Forbidden("The login token is unknown, spent or expired.")
        return user_id
