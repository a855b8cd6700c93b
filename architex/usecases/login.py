"""Logging in.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-login
"""

from __future__ import annotations

from dataclasses import dataclass

from architex.domain.errors import Forbidden, UserLocked
from architex.domain.identifiers import UserId
from architex.gateways.passwords import Hash
from architex.storage.accounts import AccountStore
from architex.storage.device_keys import DeviceKeyStore
from architex.usecases.login_tokens import LoginTokens
from architex.usecases.password_check import Named, PasswordCheck
from architex.usecases.rate_limits import RateLimits
from architex.usecases.sessions import (
    LOCKED,
    DeviceWish,
    NewSession,
    Sessions,
    check_device_wish,
)


@dataclass(frozen=True)
class Login:
    """Gives tokens to those who prove who they are."""

    accounts: AccountStore
    password_check: PasswordCheck
    sessions: Sessions
    rate_limits: RateLimits
    login_tokens: LoginTokens
    device_keys: DeviceKeyStore

    def log_in_with_password(self, user: Named, password: str, wish: DeviceWish) -> NewSession:
        """Log in with a password.

        Raises:
            Forbidden: there is no such user, or it is not their password; or the device would be
                named like a cross-signing key of theirs.
            UserDeactivated: the account was deactivated.
            UserLocked: the account is locked.
            LimitExceeded: too many attempts from this address or for this user.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login
        """
        check_device_wish(wish)
        self.rate_limits.spend("logins", wish.address or "")
        proven = self.password_check.check_password(user, password)
        return self._open(proven.user_id, wish, proven.password_hash)

    def log_in_with_token(self, token: str, wish: DeviceWish) -> NewSession:
        """Log in with a token that another client of the user asked for.

        Raises:
            Forbidden: the token is unknown, spent or expired, or the account was deactivated; or
                the device would be named like a cross-signing key of the user.
            UserLocked: the account is locked.
            LimitExceeded: too many attempts from this address.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#mget_login_token-capability
        """
        check_device_wish(wish)
        self.rate_limits.spend("logins", wish.address or "")
        return self._open(self.login_tokens.spend_token(token), wish)

    def _open(
        self, user_id: UserId, wish: DeviceWish, password_hash: Hash | None = None
    ) -> NewSession:
        account = self.accounts.find_account(user_id)
        if account is None or account.deactivated_ts is not None:
            raise Forbidden("This account is not there any more.")
        if account.locked:
            raise UserLocked(LOCKED)
        if wish.device_id and self.device_keys.is_cross_signing_key(user_id, wish.device_id):
            raise Forbidden("A cross-signing key of yours has this name.")
        return self.sessions.open_session(user_id, wish, password_hash=password_hash)
