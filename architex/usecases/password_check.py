"""Checking a password: for logging in, and for user-interactive authentication.

Spec: https://spec.matrix.org/v1.19/client-server-api/#password-based
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from architex.domain.errors import (
    BadJson,
    Forbidden,
    InvalidParam,
    MissingParam,
    UserDeactivated,
    UserLocked,
)
from architex.domain.identifiers import ServerName, UserId, is_user_id
from architex.domain.third_party import ThirdPartyAddress, parse_address
from architex.gateways.passwords import Hash, Passwords
from architex.storage.accounts import AccountStore
from architex.storage.user_addresses import UserAddressStore
from architex.usecases.rate_limits import RateLimits
from architex.usecases.sessions import LOCKED

Named: TypeAlias = str | ThirdPartyAddress | None
"""How somebody names themselves: a user ID or its localpart, an e-mail address; None for someone
this server cannot know."""


@dataclass(frozen=True, slots=True)
class ProvenPassword:
    """Whose password somebody knows.

    Attributes:
        password_hash: as it is kept; with it goes what the password has proven.
    """

    user_id: UserId
    password_hash: Hash


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """Tells whose password somebody knows."""

    server_name: ServerName
    accounts: AccountStore
    passwords: Passwords
    rate_limits: RateLimits
    addresses: UserAddressStore | None = None

    def check_password(self, user: Named, password: str) -> ProvenPassword:
        """The user whose password this is.

        Raises:
            Forbidden: there is no such user, or it is not their password; both take as long.
            UserDeactivated: the account was deactivated.
            UserLocked: it is their password, and the account is locked.
            LimitExceeded: too many wrong passwords for this user lately.
        """
        user_id = self._find_user_id(user)
        account = None if user_id is None else self.accounts.find_account(user_id)
        # Addresses that are somebody's and those that are nobody's are limited alike.
        unknown = user.address if isinstance(user, ThirdPartyAddress) else ""
        bucket = user_id or unknown
        self.rate_limits.check("logins", bucket)
        password_hash = None if account is None else account.password_hash
        verification = self.passwords.verify_password(password, password_hash)
        if account is not None and account.deactivated_ts is not None:
            raise UserDeactivated("This account has been deactivated.")
        if account is None or password_hash is None or not verification.holds:
            self.rate_limits.spend("logins", bucket)
            raise Forbidden("Invalid username or password.")
        if account.locked:
            raise UserLocked(LOCKED)
        if verification.rehash is None:
            return ProvenPassword(account.user_id, password_hash)
        if self.accounts.replace_password_hash(
            account.user_id, password_hash, verification.rehash
        ):
            return ProvenPassword(account.user_id, verification.rehash)
        # Somebody has changed it, or only written it down in another way: look again.
        return self.check_password(user, password)

    def check_unlocked(self, user_id: UserId) -> None:
        """Refuse whoever has another proof than a password, and a locked account.

        Raises:
            UserLocked: the account is locked.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#account-locking
        """
        account = self.accounts.find_account(user_id)
        if account is not None and account.locked:
            raise UserLocked(LOCKED)

    def _find_user_id(self, user: Named) -> UserId | None:
        if isinstance(user, ThirdPartyAddress):
            return None if self.addresses is None else self.addresses.find_user(user)
        return None if user is None else self._user_id(user)

    def _user_id(self, user: str) -> UserId | None:
        """The user ID on this server that a user name means; None when none can be meant."""
        # Capitals are downcased as in registration, and only ASCII ones: the rest is no user of
        # ours anyway.
        user = user.lower() if user.isascii() else user
        user_id = user if user.startswith("@") else f"@{user}:{self.server_name}"
        if not is_user_id(user_id) or not user_id.endswith(f":{self.server_name}"):
            return None
        return user_id


def user_in_identifier(fields: Mapping[str, Any]) -> Named:
    """Whom a login or a password stage means: `identifier`, or what there was before r0.4.0.

    Returns None for phone numbers, which no account here has, and for addresses that are none.

    Raises:
        MissingParam: nobody is named.
        BadJson: the identifier is not of a form the spec gives.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#identifier-types
    """
    identifier = fields.get("identifier")
    if identifier is None:
        user = fields.get("user")
        if user is None and isinstance(fields.get("address"), str):
            return _address(fields.get("medium", "email"), fields["address"])
        if user is None:
            raise MissingParam("An identifier is needed.")
        return _string(user)
    if not isinstance(identifier, dict):
        raise BadJson("identifier must be an object.")
    match identifier.get("type"):
        case "m.id.user":
            if identifier.get("user") is None:
                raise MissingParam("The identifier has no user.")
            return _string(identifier["user"])
        case "m.id.thirdparty":
            if not isinstance(identifier.get("medium"), str) or not isinstance(
                identifier.get("address"), str
            ):
                raise BadJson("A third-party identifier has a medium and an address.")
            return _address(identifier["medium"], identifier["address"])
        case "m.id.phone":
            if not isinstance(identifier.get("phone", identifier.get("number")), str):
                raise BadJson("A phone identifier has a country and a phone number.")
            return None
        # The spec's own example of a third-party identifier has no type.
        case None if isinstance(identifier.get("address"), str):
            return _address(identifier.get("medium", "email"), identifier["address"])
        case _:
            raise BadJson("This type of identifier is unknown.")


def _address(medium: Any, address: str) -> ThirdPartyAddress | None:
    try:
        return parse_address(_string(medium), address)
    except InvalidParam:
        return None


def _string(user: Any) -> str:
    if not isinstance(user, str):
        raise BadJson("The user must be a string.")
    return user
