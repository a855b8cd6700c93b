"""User-interactive authentication: stages to complete before an operation goes ahead.

Spec: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from architex.domain import third_party
from architex.domain.canonical_json import encode_json
from architex.domain.errors import BadJson, Forbidden, NotFound, ThirdPartyAuthFailed, TooLarge
from architex.domain.identifiers import UserId
from architex.domain.third_party import ThirdPartyAddress
from architex.gateways.captcha import CaptchaVerifier
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteError
from architex.storage.interactive_auth_sessions import (
    InteractiveAuthSession,
    InteractiveAuthSessionStore,
)
from architex.storage.registration_tokens import RegistrationTokenStore
from architex.storage.user_addresses import UserAddress, UserAddressStore
from architex.usecases import email_validation
from architex.usecases.email_validation import EmailRequest, EmailValidations
from architex.usecases.password_check import PasswordCheck, user_in_identifier
from architex.usecases.rate_limits import RateLimits

log = logging.getLogger(__name__)

DUMMY: Final = "m.login.dummy"
PASSWORD: Final = "m.login.password"  # noqa: S105 - the name of a stage
REGISTRATION_TOKEN: Final = "m.login.registration_token"  # noqa: S105 - the name of a stage
EMAIL: Final = "m.login.email.identity"
RECAPTCHA: Final = "m.login.recaptcha"
TERMS: Final = "m.login.terms"

REGISTER: Final = "POST /register"
CHANGE_PASSWORD: Final = "POST /account/password"  # noqa: S105 - the name of an operation

#: What the proof of an e-mail address must be for, by operation.
_EMAIL_PURPOSES: Final[Mapping[str, str]] = {
    REGISTER: email_validation.REGISTER,
    CHANGE_PASSWORD: email_validation.PASSWORD,
}

# The kind of rate limit: sessions begun, and passwords tried in them.
_KIND: Final = "authentications"

Flows: TypeAlias = Sequence[Sequence[str]]
"""Stages to complete, in their order; one of the flows is enough."""

#: How long a session may take from its first request to its end, in milliseconds.
SESSION_LIFETIME_MS: Final = 15 * 60 * 1000

#: Of the request that a session remembers.
MAX_REQUEST_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Operation:
    """What is to be authenticated.

    Attributes:
        name: method and path; a session begun for one operation is good for no other.
        flows: the ways to authenticate it; at least one, none of them empty.
        user_id: whose access token came along; None for none. Then a password must be theirs.
        request: the body of this request, without `auth`.
        secrets: what to keep instead of the request's secret fields: field → (name, value) of a
            substitute that gives nothing away; called only when the request must be kept.
        address: the client's IP address; "" where an access token tells who asks.
        may_change: whether the requests of a session may differ in more than their secrets.
        optional: stages that no flow needs, and that may be completed at any time all the same.
    """

    name: str
    flows: Flows
    user_id: UserId | None
    request: Mapping[str, Any]
    secrets: Mapping[str, Callable[[Any], tuple[str, Any]]]
    address: str = ""
    may_change: bool = False
    optional: frozenset[str] = frozenset()

    @property
    def who(self) -> str:
        """Whom limits count: the user, or the address of somebody unknown."""
        return self.user_id or self.address


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The stages of a flow are complete: the operation may go ahead, once.

    Attributes:
        request: the fields of the session's first request and of this one; this one's win.
        user_id: who was authenticated; None for nobody in particular.
        session_id: None when everything happened in one request.
        registration_token: the one to be spent.
        email: the address that was shown to be theirs; the proof is used up.
        outcome: the operation went ahead before, and led to this.
    """

    request: Mapping[str, Any]
    user_id: UserId | None
    session_id: str | None = None
    registration_token: str | None = None
    outcome: str | None = None
    email: UserAddress | None = None


class AuthenticationRequired(Exception):
    """More stages must be completed. `body` is what the client is told (HTTP 401)."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__("user-interactive authentication required")
        self.body = body


class StageFailed(Exception):
    """The attempt at a stage did not succeed; another may."""

    def __init__(self, errcode: str, message: str) -> None:
        super().__init__(message)
        self.errcode = errcode
        self.message = message


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a completed stage showed."""

    user_id: UserId | None = None
    registration_token: str | None = None
    email: UserAddress | None = None


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who attempts a stage, and for what."""

    operation: str
    user_id: UserId | None
    who: str


@dataclass(frozen=True, slots=True)
class OutsideStages:
    """What the stages need that others have a part in.

    Attributes:
        emails: None when this server sends no mails.
        captcha: None when there is no captcha.
        params: of stages, as clients are told them: stage → object.
    """

    emails: EmailValidations | None = None
    addresses: UserAddressStore | None = None
    captcha: CaptchaVerifier | None = None
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class InteractiveAuth:
    """Leads clients through the stages, and remembers how far they came."""

    def __init__(
        self,
        sessions: InteractiveAuthSessionStore,
        password_check: PasswordCheck,
        registration_tokens: RegistrationTokenStore,
        rate_limits: RateLimits,
        clock: Clock,
        randomness: Randomness,
        outside: OutsideStages | None = None,
    ) -> None:
        self._sessions = sessions
        self._outside = outside or OutsideStages()
        self._password_check = password_check
        self._registration_tokens = registration_tokens
        self._rate_limits = rate_limits
        self._clock = clock
        self._randomness = randomness
        self._stages: Mapping[str, Callable[[Mapping[str, Any], _Asking], _Proof]] = {
            DUMMY: self._complete_at_once,
            TERMS: self._complete_at_once,
            PASSWORD: self._complete_password,
            REGISTRATION_TOKEN: self._complete_registration_token,
            EMAIL: self._complete_email,
            RECAPTCHA: self._complete_recaptcha,
        }

    def authenticate(self, operation: Operation, auth: Any) -> Authenticated:
        """Let an operation go ahead, or say what is still to be done.

        Args:
            auth: the `auth` of the request's body; None when it has none.

        Raises:
            AuthenticationRequired: stages are missing, or the attempt at one failed.
            Forbidden: the session belongs to another operation or user, or the password to
                another user.
            UserLocked: the account is locked whose password or address it is.
            BadJson: `auth` is not of the form the spec gives.
            TooLarge: the request is too large to be remembered.
            LimitExceeded: too many wrong passwords, or too many sessions begun.
        """
        if auth is None:
            raise self._required(operation, self._new_session(operation))
        if not isinstance(auth, dict):
            raise BadJson("auth must be an object.")
        session_id, stage = auth.get("session"), auth.get("type")
        if not isinstance(session_id, str | None) or not isinstance(stage, str | None):
            raise BadJson("The type and the session of auth must be strings.")
        session = self._find_session(operation, session_id)
        if session is not None and session.outcome is not None:
            return self._authenticated(operation, session, None)
        return self._attempt(operation, session, stage, auth)

    @property
    def params(self) -> Mapping[str, Mapping[str, Any]]:
        """What clients are told about stages: stage → object."""
        return self._outside.params

    def is_completed_elsewhere(self, session_id: str, stage: str) -> bool:
        """Whether a session's stage is complete: for the page that completes it in a browser.

        Raises:
            NotFound: the session is unknown or expired, or the stage is in none of its flows.
        """
        return stage in self._session_with(session_id, stage).completed

    def complete_elsewhere(
        self, session_id: str, stage: str, fields: Mapping[str, Any], *, address: str
    ) -> None:
        """Complete a stage from a browser, not from the client that began the session.

        Args:
            fields: what `auth` would hold beside the type and the session.
            address: the browser's IP address.

        Raises:
            NotFound: the session is unknown or expired, or the stage is in none of its flows.
            StageFailed: the attempt did not succeed.
            Forbidden: the password is another user's than who began the session.
            UserDeactivated, UserLocked: the account has ended, or is locked.
            BadJson, MissingParam: something is missing from the fields.
            LimitExceeded: too many wrong passwords.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#fallback
        """
        session = self._session_with(session_id, stage)
        if stage in session.completed:
            return
        asking = _Asking(session.operation, session.user_id, address)
        proof = self._complete(stage, tuple(session.completed), fields, session.flows, asking)
        self._remember(session_id, stage, proof)

    def send_mail(self, session_id: str, email: str, *, address: str) -> dict[str, str]:
        """Send the mail of the stage EMAIL, for a browser; returns `threepid_creds` of it.

        Args:
            address: the browser's IP address.

        Raises:
            NotFound: the session is unknown or expired, or the stage is in none of its flows.
            InvalidParam: this is no address that takes mails.
            LimitExceeded, RemoteFailed: no mail can be sent now.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#fallback
        """
        session = self._session_with(session_id, EMAIL)
        emails, purpose = self._outside.emails, _EMAIL_PURPOSES.get(session.operation)
        if emails is None or purpose is None:
            raise NotFound("E-mail addresses count for nothing here.")
        request = EmailRequest(self._randomness.token_urlsafe(24), email, 1)
        sid = emails.request_token(purpose, request, address=address)
        return {"sid": sid, "client_secret": request.client_secret}

    def finish(self, authenticated: Authenticated, outcome: str) -> None:
        """Remember what an operation led to, for a client that did not get the answer."""
        if authenticated.session_id is not None:
            self._sessions.set_outcome(authenticated.session_id, outcome)

    def end(self, authenticated: Authenticated) -> None:
        """Use a session up, so that it authenticates nothing further.

        Raises:
            Forbidden: another request has used it up meanwhile.
        """
        session_id = authenticated.session_id
        if session_id is not None and not self._sessions.delete_session(session_id):
            raise Forbidden("This authentication session has been used.")

    # Within

    def _session_with(self, session_id: str, stage: str) -> InteractiveAuthSession:
        session = None
        if "\0" not in session_id:
            session = self._sessions.find_session(session_id, self._clock.now_ms())
        if session is None or not any(stage in flow for flow in session.flows):
            raise NotFound("This authentication session is unknown or expired.")
        return session

    def _find_session(
        self, operation: Operation, session_id: str | None
    ) -> InteractiveAuthSession | None:
        if session_id is None:
            return None
        session = None
        if "\0" not in session_id:
            session = self._sessions.find_session(session_id, self._clock.now_ms())
        if session is None:
            raise self._required(
                operation,
                self._new_session(operation),
                StageFailed("M_FORBIDDEN", "This authentication session is unknown or expired."),
            )
        if session.operation != operation.name or session.user_id != operation.user_id:
            raise Forbidden("This authentication session was begun for something else.")
        for name, value in operation.request.items():
            kept = name in session.request and not operation.may_change
            if kept and session.request[name] != value:
                raise Forbidden("The request has changed since its authentication began.")
        return session

    def _attempt(
        self,
        operation: Operation,
        session: InteractiveAuthSession | None,
        stage: str | None,
        auth: Mapping[str, Any],
    ) -> Authenticated:
        completed = () if session is None else tuple(session.completed)
        proof = _Proof()
        # A completed stage is not tried again: what counts is what is completed.
        if stage is not None and stage not in completed:
            try:
                asking = _Asking(operation.name, operation.user_id, operation.who)
                if stage in operation.optional:
                    proof = self._stages[stage](auth, asking)
                else:
                    needed = _without(completed, operation.optional)
                    proof = self._complete(stage, needed, auth, operation.flows, asking)
            except StageFailed as failure:
                session = session or self._new_session(operation)
                raise self._required(operation, session, failure) from None
            completed = (*completed, stage)
            session = self._note_completed(operation, session, stage, completed, proof)
        if _is_enough(operation, completed):
            return self._authenticated(operation, session, proof)
        raise self._required(operation, session or self._new_session(operation))

    def _note_completed(
        self,
        operation: Operation,
        session: InteractiveAuthSession | None,
        stage: str,
        completed: tuple[str, ...],
        proof: _Proof,
    ) -> InteractiveAuthSession | None:
        """Remember a stage; an operation done in one request needs no session."""
        if session is None:
            if _is_enough(operation, completed):
                return None
            session = self._new_session(operation)
        self._remember(session.session_id, stage, proof)
        email = proof.email
        return replace(
            session,
            completed=completed,
            registration_token=proof.registration_token or session.registration_token,
            proven_user_id=proof.user_id or session.proven_user_id,
            email=session.email if email is None else email.address.address,
            email_validated_ts=(
                session.email_validated_ts if email is None else email.validated_ts
            ),
        )

    def _remember(self, session_id: str, stage: str, proof: _Proof) -> None:
        email = proof.email
        self._sessions.add_completed(
            session_id,
            stage,
            registration_token=proof.registration_token,
            proven_user_id=proof.user_id,
            email=None if email is None else email.address.address,
            email_validated_ts=None if email is None else email.validated_ts,
        )

    def _complete(
        self,
        stage: str,
        completed: tuple[str, ...],
        auth: Mapping[str, Any],
        flows: Flows,
        asking: _Asking,
    ) -> _Proof:
        """Try the stage, if it is the next one of some flow."""
        done = len(completed)
        next_stages = {
            flow[done] for flow in flows if len(flow) > done and tuple(flow[:done]) == completed
        }
        if stage not in next_stages:
            raise StageFailed("M_FORBIDDEN", f"{stage} is not the next stage of any flow.")
        return self._stages[stage](auth, asking)

    def _complete_at_once(self, auth: Mapping[str, Any], asking: _Asking) -> _Proof:
        return _Proof()

    def _complete_password(self, auth: Mapping[str, Any], asking: _Asking) -> _Proof:
        password = auth.get("password")
        if not isinstance(password, str):
            raise BadJson("m.login.password needs a password.")
        self._rate_limits.spend(_KIND, asking.who)
        if asking.user_id is None:  # or this would be another way to try many users' passwords
            self._rate_limits.spend("logins", asking.who)
        try:
            # An unknown address is refused like a wrong password, by 401 with what is still to be
            # done; a 403, as the specification has it, would tell whose addresses are known.
            proven = self._password_check.check_password(user_in_identifier(auth), password)
        except Forbidden as error:
            raise StageFailed(error.errcode, error.message) from None
        if asking.user_id is not None and asking.user_id != proven.user_id:
            raise Forbidden("The password is another user's than the access token.")
        return _Proof(user_id=proven.user_id)

    def _complete_email(self, auth: Mapping[str, Any], asking: _Asking) -> _Proof:
        emails, addresses = self._outside.emails, self._outside.addresses
        purpose = _EMAIL_PURPOSES.get(asking.operation)
        if emails is None or addresses is None or purpose is None:
            raise StageFailed("M_FORBIDDEN", "E-mail addresses count for nothing here.")
        session_id, client_secret = _credentials(auth)
        try:
            proven = emails.check_proven(purpose, session_id, client_secret)
        except ThirdPartyAuthFailed as error:
            # A client may ask again and again until the mail was read.
            raise StageFailed("M_UNAUTHORIZED", error.message) from None
        owner = addresses.find_user(proven.address)
        if purpose == email_validation.REGISTER:
            if owner is not None:
                raise StageFailed("M_THREEPID_IN_USE", "The address belongs to an account.")
        elif owner is None:
            raise StageFailed("M_UNAUTHORIZED", "The address belongs to no account.")
        elif asking.user_id is not None and asking.user_id != owner:
            raise Forbidden("The address is another user's than the access token.")
        else:
            self._password_check.check_unlocked(owner)
        try:
            emails.spend_proof(purpose, session_id, client_secret)
        except ThirdPartyAuthFailed as error:
            raise StageFailed("M_UNAUTHORIZED", error.message) from None
        return _Proof(user_id=owner, email=proven)

    def _complete_recaptcha(self, auth: Mapping[str, Any], asking: _Asking) -> _Proof:
        # The name of the field in Google's own forms, for the page in a browser.
        response = auth.get("response", auth.get("g-recaptcha-response"))
        if not isinstance(response, str) or not response:
            raise BadJson("m.login.recaptcha needs a response.")
        if self._outside.captcha is None:
            raise StageFailed("M_FORBIDDEN", "This server has no captcha.")
        try:
            is_right = self._outside.captcha.verify(response)
        except RemoteError as error:
            log.warning("A captcha could not be verified: %s", error)
            raise StageFailed("M_UNKNOWN", "The captcha cannot be verified now.") from None
        if not is_right:
            raise StageFailed("M_CAPTCHA_INVALID", "The captcha was not solved.")
        return _Proof()

    def _complete_registration_token(self, auth: Mapping[str, Any], asking: _Asking) -> _Proof:
        token = auth.get("token")
        if not isinstance(token, str):
            raise BadJson("m.login.registration_token needs a token.")
        now_ms = self._clock.now_ms()
        if "\0" in token or not self._registration_tokens.check_token(token, now_ms):
            raise StageFailed("M_UNAUTHORIZED", "The registration token is not valid.")
        return _Proof(registration_token=token)

    def _authenticated(
        self,
        operation: Operation,
        session: InteractiveAuthSession | None,
        proof: _Proof | None,
    ) -> Authenticated:
        proof = proof or _Proof()
        if session is None:
            return Authenticated(
                request=operation.request,
                user_id=operation.user_id or proof.user_id,
                registration_token=proof.registration_token,
                email=proof.email,
            )
        email = None
        if session.email is not None and session.email_validated_ts is not None:
            address = ThirdPartyAddress(third_party.EMAIL, session.email)
            email = UserAddress(address, session.email_validated_ts, self._clock.now_ms())
        return Authenticated(
            request={**session.request, **operation.request},
            user_id=operation.user_id or proof.user_id or session.proven_user_id,
            session_id=session.session_id,
            registration_token=session.registration_token,
            outcome=session.outcome,
            email=email,
        )

    def _new_session(self, operation: Operation) -> InteractiveAuthSession:
        # Before the substitutes of secrets are made: hashing a password takes its time.
        self._rate_limits.spend(_KIND, operation.who)
        request: dict[str, Any] = {}
        for name, value in operation.request.items():
            if name in operation.secrets:
                name, value = operation.secrets[name](value)
            request[name] = value
        if len(encode_json(request)) > MAX_REQUEST_BYTES:
            raise TooLarge(f"What needs authentication may have {MAX_REQUEST_BYTES} bytes.")
        now_ms = self._clock.now_ms()
        session = InteractiveAuthSession(
            session_id=self._randomness.token_urlsafe(24),
            operation=operation.name,
            user_id=operation.user_id,
            request=request,
            flows=operation.flows,
            completed=(),
            registration_token=None,
            outcome=None,
            expires_ts=now_ms + SESSION_LIFETIME_MS,
        )
        self._sessions.create_session(session, now_ms)
        return session

    def _required(
        self,
        operation: Operation,
        session: InteractiveAuthSession,
        failure: StageFailed | None = None,
    ) -> AuthenticationRequired:
        body: dict[str, Any] = {
            "session": session.session_id,
            "flows": [{"stages": list(flow)} for flow in operation.flows],
            "params": {
                stage: params
                for stage, params in self._outside.params.items()
                if any(stage in flow for flow in operation.flows) or stage in operation.optional
            },
            "completed": list(session.completed),
        }
        if failure is not None:
            body |= {"errcode": failure.errcode, "error": failure.message}
        return AuthenticationRequired(body)


def _without(stages: tuple[str, ...], optional: frozenset[str]) -> tuple[str, ...]:
    return tuple(stage for stage in stages if stage not in optional)


def _is_enough(operation: Operation, completed: tuple[str, ...]) -> bool:
    """Whether a flow is complete, whatever else was completed of what is optional."""
    needed = _without(completed, operation.optional)
    return bool(needed) and needed in [tuple(flow) for flow in operation.flows]


def _credentials(auth: Mapping[str, Any]) -> tuple[str, str]:
    """Session ID and client secret of an m.login.email.identity stage.

    Raises:
        BadJson: they are not there.
    """
    # threepidCreds is what it was called before r0.6.0.
    given = auth.get("threepid_creds", auth.get("threepidCreds"))
    session_id = given.get("sid") if isinstance(given, dict) else None
    client_secret = given.get("client_secret") if isinstance(given, dict) else None
    if not isinstance(session_id, str) or not isinstance(client_secret, str):
        raise BadJson("m.login.email.identity needs threepid_creds: a sid and a client_secret.")
    return session_id, client_secret
