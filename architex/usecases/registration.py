"""Registration: new accounts, by those who may make them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-registration
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import (
    Forbidden,
    InvalidParam,
    MissingParam,
    NotFound,
    ThirdPartyInUse,
    Unauthorized,
    Unrecognized,
    UserInUse,
    WeakPassword,
)
from architex.domain.identifiers import ServerName, UserId, check_localpart, localpart_of
from architex.gateways.clock import Clock, Randomness
from architex.gateways.passwords import Hash, Passwords
from architex.storage.accounts import Account, AccountStore, SessionSpent
from architex.storage.registration_tokens import RegistrationToken, RegistrationTokenStore
from architex.storage.user_addresses import AddressTaken
from architex.usecases.interactive_auth import (
    DUMMY,
    EMAIL,
    RECAPTCHA,
    REGISTER,
    REGISTRATION_TOKEN,
    TERMS,
    Authenticated,
    Flows,
    InteractiveAuth,
    Operation,
)
from architex.usecases.rate_limits import RateLimits
from architex.usecases.sessions import DeviceWish, NewSession, Sessions, check_device_wish

#: How long a nonce of the shared-secret registration is good, in milliseconds.
NONCE_LIFETIME_MS: Final = 60 * 1000

_REGISTRATION_TOKEN: Final = re.compile(r"[0-9A-Za-z._~-]{1,64}", re.ASCII)
_LOCALPART_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class RegistrationPolicy:
    """Who may register.

    Attributes:
        enabled: anybody who completes a flow.
        tokens_required: the flow is a registration token.
        emails: an e-mail address may be part of it.
        email_required: it must.
        captcha: None for none; else whether it is needed.
        terms: the version of the terms that must be agreed to; None when there are none.
        reserved: localparts that the server uses itself; only its operator makes these accounts.
        shared_secret: who knows it may make accounts, administrators too; None for nobody.
    """

    enabled: bool
    guests: bool = False
    tokens_required: bool = False
    shared_secret: str | None = None
    emails: bool = False
    email_required: bool = False
    captcha: bool | None = None
    terms: str | None = None
    reserved: frozenset[str] = frozenset()

    def flows(self) -> Flows:
        """The ways to authenticate a registration.

        None is the beginning of another: whoever completes one would never come to the other.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#dummy-auth
        """
        stages = {RECAPTCHA: self.captcha, TERMS: self.terms is not None}
        needed = [stage for stage, is_needed in stages.items() if is_needed]
        if self.tokens_required:
            needed.append(REGISTRATION_TOKEN)
        if not self.emails:
            return (tuple(needed or [DUMMY]),)
        if self.email_required:
            return ((*needed, EMAIL),)
        return ((*needed, DUMMY), (*needed, EMAIL))

    def optional_stages(self) -> frozenset[str]:
        """Stages that count although no flow needs them."""
        return frozenset({RECAPTCHA} if self.captcha is False else ())


@dataclass(frozen=True, slots=True)
class Registered:
    """A new account.

    Attributes:
        session: None when the client asked not to be logged in.
    """

    user_id: UserId
    session: NewSession | None


@dataclass(frozen=True)
class Registration:
    """Makes accounts."""

    server_name: ServerName
    policy: RegistrationPolicy
    accounts: AccountStore
    registration_tokens: RegistrationTokenStore
    sessions: Sessions
    interactive_auth: InteractiveAuth
    passwords: Passwords
    rate_limits: RateLimits
    clock: Clock
    randomness: Randomness

    def check_available(self, username: str, *, address: str) -> UserId:
        """The user ID that somebody registering this user name would get now.

        Args:
            address: the client's IP address.

        Raises:
            Forbidden: nobody may register.
            InvalidUsername: the name cannot be part of a user ID.
            UserInUse: the user ID is taken.
            LimitExceeded: too many names tried from this address.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3registeravailable
        """
        self._check_enabled()
        self.rate_limits.spend("lookups", address)
        user_id = self.user_id_for(username)
        self._check_free(user_id)
        return user_id

    def check_registration_token(self, token: str, *, address: str) -> bool:
        """Whether somebody could register with this token now.

        Raises:
            Forbidden: nobody may register.
            LimitExceeded: too many tokens tried from this address.

        Spec:
        https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity
        """
        self._check_enabled()
        self.rate_limits.spend("registrations", address)
        return "\0" not in token and self.registration_tokens.check_token(
            token, self.clock.now_ms()
        )

    def register(self, request: Mapping[str, Any], auth: Any, *, address: str) -> Registered:
        """Make an account, once the stages of a flow are complete.

        Args:
            request: the fields of the request that the spec names, without `auth`. Those of the
                session's first request are remembered.
            auth: the request's `auth`; None for none.
            address: the client's IP address.

        Raises:
            AuthenticationRequired: stages are still to be completed.
            Forbidden: nobody may register.
            InvalidUsername, UserInUse: the user name will not do. Checked before any stage.
            MissingParam, WeakPassword: there is no password.
            ThirdPartyInUse: the e-mail address has become another's meanwhile.
            LimitExceeded: too many registrations from this address.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register
        """
        self._check_enabled()
        self._check_request(request, has_session=_has_session(auth))
        # Clients ask again and again until the user has read the mail.
        waits_for_mail = isinstance(auth, dict) and auth.get("type") == EMAIL
        if waits_for_mail:
            self.rate_limits.check("registrations", address)
        elif auth is not None:
            self.rate_limits.spend("registrations", address)
        authenticated = self.interactive_auth.authenticate(
            Operation(
                name=REGISTER,
                flows=self.policy.flows(),
                user_id=None,
                request=request,
                secrets={
                    "password": lambda value: ("password_hash", self._hash(value)),
                    "guest_access_token": lambda value: (
                        "guest_user_id",
                        self._find_guest(value, address),
                    ),
                },
                address=address,
                may_change=True,
                optional=self.policy.optional_stages(),
            ),
            auth,
        )
        if waits_for_mail:
            self.rate_limits.spend("registrations", address)
        request = authenticated.request
        wish = _device_wish(request, address)
        if authenticated.outcome is not None:
            return self._repeat(request, authenticated.outcome, wish)
        user_id = self._create_user(request, authenticated, address)
        inhibit_login = bool(request.get("inhibit_login"))
        session = None if inhibit_login else self.sessions.open_session(user_id, wish)
        device_id = "" if session is None else session.device_id
        self.interactive_auth.finish(authenticated, f"{user_id} {device_id}")
        return Registered(user_id, session)

    def register_guest(self, display_name: str | None, *, address: str) -> Registered:
        """Make a guest account.

        Raises:
            Forbidden: this server takes no guests.
            LimitExceeded: too many registrations from this address.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#guest-access
        """
        if not self.policy.guests:
            raise Forbidden("This server has no guest accounts.")
        self.rate_limits.spend("registrations", address)
        wish = DeviceWish(display_name=display_name, address=address)
        check_device_wish(wish)
        user_id = self._create_account(None, password_hash=None, is_guest=True)
        return Registered(user_id, self.sessions.open_session(user_id, wish))

    def create_user(
        self, username: str, password: str | None, *, is_admin: bool = False
    ) -> UserId:
        """Make an account as the operator of the server, whatever the policy.

        Raises:
            InvalidUsername, UserInUse: the user name will not do.
            WeakPassword: the password is empty.
        """
        password_hash = None if password is None else self._hash(password)
        return self._create_account(username, password_hash=password_hash, is_admin=is_admin)

    # Registration tokens, for the operator

    def create_token(
        self, token: str | None, *, uses_allowed: int | None, lifetime_ms: int | None
    ) -> str:
        """Make a registration token; returns it.

        Args:
            token: None for a random one.
            uses_allowed: accounts it is good for; None for any number.
            lifetime_ms: how long it is good, in milliseconds; None for ever.

        Raises:
            InvalidParam: it is not of the grammar, or there is such a token already.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#token-authenticated-registration
        """
        token = token or self.randomness.token_urlsafe(12)
        if _REGISTRATION_TOKEN.fullmatch(token) is None:
            raise InvalidParam("A token has 1 to 64 characters of A-Z a-z 0-9 - . _ ~")
        now_ms = self.clock.now_ms()
        created = self.registration_tokens.create_token(
            token,
            uses_allowed=uses_allowed,
            expires_ts=None if lifetime_ms is None else now_ms + lifetime_ms,
            now_ms=now_ms,
        )
        if not created:
            raise InvalidParam(f"There is a token {token} already.")
        return token

    def list_tokens(self) -> Sequence[RegistrationToken]:
        """All registration tokens, the spent and expired ones included."""
        return self.registration_tokens.list_tokens()

    def delete_token(self, token: str) -> None:
        """Make a registration token worthless.

        Raises:
            NotFound: there is no such token.
        """
        if not self.registration_tokens.delete_token(token):
            raise NotFound(f"There is no registration token {token}.")

    # The shared-secret door, as Synapse has it: scripts everywhere know it.

    def new_nonce(self) -> str:
        """A nonce for one registration by shared secret, good for a minute.

        Raises:
            Unrecognized: there is no shared secret.
        """
        if not self.policy.shared_secret:
            raise Unrecognized("Registration by shared secret is switched off.")
        nonce = self.randomness.token_urlsafe(32)
        now_ms = self.clock.now_ms()
        self.registration_tokens.create_nonce(
            nonce, expires_ts=now_ms + NONCE_LIFETIME_MS, now_ms=now_ms
        )
        return nonce

    def register_with_shared_secret(
        self,
        nonce: str,
        username: str,
        password: str,
        mac: str,
        *,
        is_admin: bool,
        user_type: str | None,
        wish: DeviceWish,
    ) -> Registered:
        """Make an account for who knows the shared secret.

        Args:
            mac: hexadecimal HMAC-SHA1, keyed with the secret, of nonce, username, password and
                "admin" or "notadmin" (and the user type, if any), with NUL between them.

        Raises:
            Unrecognized: there is no shared secret.
            InvalidParam: the nonce is not (or no longer) good.
            Forbidden: the MAC is wrong.
            InvalidUsername, UserInUse, WeakPassword: the account cannot be made so.
        """
        secret = self.policy.shared_secret
        if not secret:
            raise Unrecognized("Registration by shared secret is switched off.")
        if "\0" in nonce or not self.registration_tokens.spend_nonce(nonce, self.clock.now_ms()):
            raise InvalidParam("The nonce is unknown, expired or was used before.")
        parts = [nonce, username, password, "admin" if is_admin else "notadmin"]
        if user_type is not None:
            parts.append(user_type)
        expected = hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1)
        if not hmac.compare_digest(expected.hexdigest().encode(), mac.lower().encode()):
            raise Forbidden("The HMAC is not right.")
        check_device_wish(wish)
        user_id = self.create_user(username, password, is_admin=is_admin)
        return Registered(user_id, self.sessions.open_session(user_id, wish))

    def user_id_for(self, username: str) -> UserId:
        """The user ID that a user name leads to: capitals are downcased.

        Raises:
            InvalidUsername: it cannot be part of a user ID.

        Spec: https://spec.matrix.org/v1.19/appendices/#user-identifiers
        """
        # Only ASCII: the Kelvin sign's lower case is an ASCII k.
        localpart = username.lower() if username.isascii() else username
        check_localpart(localpart, self.server_name)
        return f"@{localpart}:{self.server_name}"

    # Within

    def _check_enabled(self) -> None:
        if not self.policy.enabled:
            raise Forbidden("Registration is disabled on this server.")

    def _check_request(self, request: Mapping[str, Any], *, has_session: bool) -> None:
        """Refuse before authentication what would be refused after it."""
        check_device_wish(_device_wish(request, None))
        password = request.get("password")
        if password is not None:
            check_password_strength(password)
        username = request.get("username")
        if username is None:
            return
        user_id = self.user_id_for(username)
        if localpart_of(user_id) in self.policy.reserved:
            raise UserInUse("This user ID is already taken.")
        if has_session or request.get("guest_access_token") is not None:
            return  # the account may be the one this very session has made, or the guest's
        self._check_free(user_id)

    def _check_free(self, user_id: UserId) -> None:
        """Raises UserInUse for a user ID that nobody can register any more."""
        is_reserved = localpart_of(user_id) in self.policy.reserved
        if is_reserved or self.accounts.find_account(user_id) is not None:
            raise UserInUse("This user ID is already taken.")

    def _create_user(
        self, request: Mapping[str, Any], authenticated: Authenticated, address: str
    ) -> UserId:
        if request.get("password") is not None:
            password_hash = self._hash(request["password"])
        elif request.get("password_hash") is not None:
            password_hash = request["password_hash"]
        else:
            raise MissingParam("A password is needed.")
        guest_token = request.get("guest_access_token")
        guest_id = request.get("guest_user_id")
        if guest_token is not None:
            guest_id = self._find_guest(guest_token, address)
        if guest_id is not None:
            return self._upgrade_guest(
                guest_id, request.get("username"), password_hash, authenticated
            )
        return self._create_account(
            request.get("username"),
            password_hash=password_hash,
            agreed_terms=self.policy.terms,
            authenticated=authenticated,
        )

    def _create_account(
        self,
        username: str | None,
        *,
        password_hash: Hash | None,
        is_admin: bool = False,
        is_guest: bool = False,
        agreed_terms: str | None = None,
        authenticated: Authenticated | None = None,
    ) -> UserId:
        """Make an account.

        Args:
            username: None for any.
            authenticated: by which stages; None for none.
        """
        shown = authenticated or Authenticated(request={}, user_id=None)
        now_ms = self.clock.now_ms()
        while True:
            user_id = self.user_id_for(self._new_localpart() if username is None else username)
            account = Account(
                user_id=user_id,
                password_hash=password_hash,
                created_ts=now_ms,
                is_admin=is_admin,
                is_guest=is_guest,
                agreed_terms=agreed_terms,
            )
            with _refusals_named():
                created = self.accounts.create_account(
                    account,
                    registration_token=shown.registration_token,
                    address=shown.email,
                    auth_session=shown.session_id,
                    now_ms=now_ms,
                )
            if created:
                return user_id
            if username is not None:
                raise UserInUse("This user ID is already taken.")

    def _find_guest(self, access_token: str, address: str) -> UserId:
        requester = self.sessions.find_requester(access_token, address=address)
        if not requester.is_guest:
            raise Forbidden("guest_access_token is not a guest's.")
        return requester.user_id

    def _upgrade_guest(
        self,
        guest_id: UserId,
        username: str | None,
        password_hash: Hash,
        authenticated: Authenticated,
    ) -> UserId:
        """Make a guest an ordinary user, who starts with a new session."""
        if username is None or self.user_id_for(username) != guest_id:
            raise Forbidden(f"The username must be the guest's: {localpart_of(guest_id)}.")
        now_ms = self.clock.now_ms()
        with _refusals_named():
            is_upgraded = self.accounts.upgrade_guest(
                Account(guest_id, password_hash, now_ms, agreed_terms=self.policy.terms),
                registration_token=authenticated.registration_token,
                address=authenticated.email,
                now_ms=now_ms,
            )
        if not is_upgraded:
            raise UserInUse("This guest has an account already.")
        self.sessions.log_out_everywhere(guest_id)
        return guest_id

    def _repeat(self, request: Mapping[str, Any], outcome: str, wish: DeviceWish) -> Registered:
        """Answer again for an account that the session has made: the same user and device."""
        user_id, _, device_id = outcome.partition(" ")
        if bool(request.get("inhibit_login")) or not device_id:
            return Registered(user_id, None)
        again = DeviceWish(device_id, wish.display_name, wish.refreshable, wish.address)
        return Registered(user_id, self.sessions.open_session(user_id, again))

    def _hash(self, password: str) -> Hash:
        check_password_strength(password)
        return self.passwords.hash_password(password)

    def _new_localpart(self) -> str:
        return "".join(self.randomness.choice(_LOCALPART_LETTERS) for _ in range(12))


@contextmanager
def _refusals_named() -> Iterator[None]:
    """What keeps an account from being made, in the specification's words."""
    try:
        yield
    except SessionSpent:
        raise Forbidden("This authentication session has made an account.") from None
    except AddressTaken:
        raise ThirdPartyInUse("The address belongs to an account.") from None
    except LookupError:
        raise Unauthorized("The registration token is not valid any more.") from None


def check_password_strength(password: str) -> None:
    """Check that somebody may have this password.

    Raises:
        WeakPassword: it is empty.
    """
    if not password:
        raise WeakPassword("The password is empty.")


def _has_session(auth: Any) -> bool:
    return isinstance(auth, dict) and auth.get("session") is not None


def _device_wish(request: Mapping[str, Any], address: str | None) -> DeviceWish:
    return DeviceWish(
        device_id=request.get("device_id"),
        display_name=request.get("initial_device_display_name"),
        refreshable=bool(request.get("refresh_token")),
        address=address,
    )
