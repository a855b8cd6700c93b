"""OpenID tokens: users prove to third parties who they are, and nothing else.

Spec: https://spec.matrix.org/v1.19/client-server-api/#openid
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from architex.domain.errors import UnknownToken
from architex.domain.identifiers import ServerName, UserId
from architex.gateways.clock import Clock, Randomness
from architex.storage.openid_tokens import OpenIdTokenStore
from architex.usecases.requester import Requester
from architex.usecases.sessions import hash_token

LIFETIME_SECONDS: Final = 3600


@dataclass(frozen=True)
class OpenId:
    """Gives out OpenID tokens, and says whose they are."""

    tokens: OpenIdTokenStore
    server_name: ServerName
    clock: Clock
    randomness: Randomness

    def create_token(self, requester: Requester) -> str:
        """A token that stands for the requester for LIFETIME_SECONDS.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridopenidrequest_token
        """
        token = "aro_" + self.randomness.token_urlsafe(32)
        expires_ts = self.clock.now_ms() + LIFETIME_SECONDS * 1000
        self.tokens.insert_token(hash_token(token), requester.user_id, expires_ts)
        return token

    def find_user(self, token: str) -> UserId:
        """Whom a token stands for.

        Raises:
            UnknownToken: it was never given out, or has expired, or its user is deactivated.

        Spec: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1openiduserinfo
        """
        user_id = self.tokens.find_user(hash_token(token), self.clock.now_ms())
        if user_id is None:
            raise UnknownToken("The access token is unknown or has expired.")
        return user_id
