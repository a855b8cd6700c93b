"""Proofs that an e-mail address is somebody's: a mail, a link in it, and a client that waits.

Nobody learns here whether an address belongs to an account: who reads its mail is told by mail.

Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from architex.domain.errors import (
    Forbidden,
    InvalidParam,
    NotFound,
    RemoteFailed,
    ThirdPartyAuthFailed,
    ThirdPartyMediumNotSupported,
)
from architex.domain.identifiers import ServerName
from architex.domain.third_party import ThirdPartyAddress, check_opaque, parse_email
from architex.gateways.clock import Clock, Randomness
from architex.gateways.email import Mail, Mailer
from architex.gateways.errors import RemoteError, RemoteRefused
from architex.storage.email_validations import EmailValidation, EmailValidationStore
from architex.storage.user_addresses import UserAddress, UserAddressStore
from architex.usecases import email_texts
from architex.usecases.rate_limits import RateLimits

log = logging.getLogger(__name__)

#: What a proof is for; it is good for nothing else.
REGISTER: Final = "register"
PASSWORD: Final = "password"  # noqa: S105 - the name of a purpose
ADD: Final = "add"

#: Spec: https://spec.matrix.org/v1.19/identity-service-api/#establishing-associations
LIFETIME_MS: Final = 24 * 60 * 60 * 1000
#: A link for a new password is good for less long: it is worth more.
PASSWORD_LIFETIME_MS: Final = 60 * 60 * 1000

#: Where the links of mails lead, below the server's base URL.
CONFIRM_PATH: Final = "/_architex/email/confirm"

MAX_NEXT_LINK_LENGTH: Final = 2000
_MAX_SEND_ATTEMPT: Final = 2**53 - 1
# SMTP's answers from here on are about the mail: it will never be taken.
_PERMANENT: Final = 500


@dataclass(frozen=True, slots=True)
class EmailRequest:
    """What a client asks for.

    Attributes:
        email: as it was typed.
        next_link: where the browser shall go after the mail's link.
    """

    client_secret: str
    email: str
    send_attempt: int
    next_link: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What somebody confirms who follows a mail's link.

    Attributes:
        needs_click: it takes more than opening the link, which some mail programs do on arrival.
        next_link: where to go from there; None for nowhere.
        may_redirect: whether to go there without asking.
    """

    purpose: str
    needs_click: bool
    next_link: str | None
    may_redirect: bool


@dataclass(frozen=True)
class EmailValidations:
    """Sends mails with links, and knows whose links were followed.

    Attributes:
        mailer: None when this server sends no mails.
        base_url: where the links of mails lead, without a slash at its end.
        next_link_hosts: hosts that browsers are sent on to without being asked; "*" is any.
        registration_enabled: whether there is a use in registering an address.
    """

    validations: EmailValidationStore
    addresses: UserAddressStore
    mailer: Mailer | None
    rate_limits: RateLimits
    clock: Clock
    randomness: Randomness
    server_name: ServerName
    base_url: str
    next_link_hosts: Sequence[str] = ()
    registration_enabled: bool = True

    @property
    def is_possible(self) -> bool:
        """Whether this server sends mails."""
        return self.mailer is not None

    def request_token(self, purpose: str, request: EmailRequest, *, address: str) -> str:
        """Send a mail that lets whoever reads it confirm the address.

        Args:
            purpose: REGISTER, PASSWORD or ADD.
            address: the client's IP address.

        Returns the session ID, by which the client refers to the proof. It looks alike whether
        the mail says that all is well or that nothing will come of it.

        Raises:
            ThirdPartyMediumNotSupported: this server sends no mails.
            InvalidParam: a parameter is not of its grammar, or no mail server takes mails for
                that address.
            Forbidden: nobody may register here, and it is for that.
            LimitExceeded: too many mails at the wish of this client, or to this address.
            RemoteFailed: the mail server takes no mails now.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken
        """
        if self.mailer is None:
            raise ThirdPartyMediumNotSupported("This server sends no e-mails.")
        if purpose == REGISTER and not self.registration_enabled:
            raise Forbidden("Registration is disabled on this server.")
        email = parse_email(request.email)
        check_opaque(request.client_secret, "client_secret")
        if not 0 <= request.send_attempt <= _MAX_SEND_ATTEMPT:
            raise InvalidParam("send_attempt is a number that grows with each attempt.")
        _check_next_link(request.next_link)
        self.rate_limits.spend("mails", address)
        self.rate_limits.check("mails", email.address)
        # Found out in every case, so that no case takes longer.
        is_somebodys = self.addresses.find_user(email) is not None
        token = self.randomness.token_urlsafe(24)
        proves = is_somebodys == (purpose == PASSWORD)
        begun = self._begin(purpose, email, request, [_hash(token)] if proves else [])
        if begun is None:
            known = self.validations.find_session_id(purpose, email.address, request.client_secret)
            return known or self._new_session_id()
        self.rate_limits.spend("mails", email.address)
        self._send(begun, self._mail(purpose, email, begun.session_id, token, proves))
        return begun.session_id

    def look_at(self, session_id: str, token: str) -> Confirmation:
        """What the link of a mail would confirm.

        Raises:
            NotFound: the link is unknown or has expired, or the proof was used.
        """
        found = self._find_open(session_id, token)
        return Confirmation(
            purpose=found.purpose,
            needs_click=found.purpose == PASSWORD and found.validated_ts is None,
            next_link=found.next_link,
            may_redirect=self._may_redirect(found.next_link),
        )

    def confirm(self, session_id: str, token: str) -> Confirmation:
        """Take note that somebody followed the link of a mail; again is allowed.

        Raises:
            NotFound: the link is unknown or has expired, or the proof was used.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#email-associations
        """
        found = self._find_open(session_id, token)
        now_ms = self.clock.now_ms()
        self.validations.set_validated(session_id, now_ms, now_ms + _lifetime_ms(found.purpose))
        return Confirmation(
            purpose=found.purpose,
            needs_click=False,
            next_link=found.next_link,
            may_redirect=self._may_redirect(found.next_link),
        )

    def check_proven(self, purpose: str, session_id: str, client_secret: str) -> UserAddress:
        """The address that a client has proven to be its user's, now.

        Raises:
            ThirdPartyAuthFailed: it has not (yet), or it was for something else.
        """
        found = None
        if "\0" not in session_id and "\0" not in client_secret:
            found = self.validations.find_validated(
                session_id, purpose, client_secret, self.clock.now_ms()
            )
        if found is None or found.validated_ts is None:
            raise ThirdPartyAuthFailed("The e-mail address has not been confirmed.")
        return UserAddress(parse_email(found.address), found.validated_ts, self.clock.now_ms())

    def spend_proof(self, purpose: str, session_id: str, client_secret: str) -> UserAddress:
        """As `check_proven`, and uses the proof up: it proves nothing afterwards.

        Raises:
            ThirdPartyAuthFailed: there is no such proof (any more).
        """
        proven = self.check_proven(purpose, session_id, client_secret)
        if not self.validations.spend(session_id):
            raise ThirdPartyAuthFailed("The proof has been used.")
        return proven

    # Within

    def _begin(
        self,
        purpose: str,
        email: ThirdPartyAddress,
        request: EmailRequest,
        token_hashes: Sequence[bytes],
    ) -> EmailValidation | None:
        now_ms = self.clock.now_ms()
        wanted = EmailValidation(
            session_id=self._new_session_id(),
            purpose=purpose,
            address=email.address,
            client_secret=request.client_secret,
            token_hashes=token_hashes,
            send_attempt=request.send_attempt,
            next_link=request.next_link,
            validated_ts=None,
            expires_ts=now_ms + _lifetime_ms(purpose),
        )
        return self.validations.begin(wanted, now_ms)

    def _send(self, begun: EmailValidation, mail: Mail) -> None:
        if self.mailer is None:
            raise ThirdPartyMediumNotSupported("This server sends no e-mails.")
        try:
            self.mailer.send(mail)
        except RemoteError as error:
            self.validations.forget_attempt(begun.session_id, begun.send_attempt)
            log.warning("A mail was not sent: %s", error)
            if isinstance(error, RemoteRefused) and error.status >= _PERMANENT:
                raise InvalidParam("The mail server does not take mails to it.") from error
            raise RemoteFailed("The mail cannot be sent now; try again later.") from error

    def _mail(
        self, purpose: str, email: ThirdPartyAddress, session_id: str, token: str, proves: bool
    ) -> Mail:
        # Always to the canonical address, never to what was typed: that may only look like it.
        to = email.address
        if not proves and purpose == PASSWORD:
            return email_texts.tell_of_no_account(to, self.server_name, self.base_url + "/")
        if not proves:
            return email_texts.tell_of_account(to, self.server_name, self.base_url + "/")
        query = urlencode({"sid": session_id, "token": token})
        link = f"{self.base_url}{CONFIRM_PATH}?{query}"
        write = {
            REGISTER: email_texts.confirm_new_account,
            PASSWORD: email_texts.confirm_new_password,
            ADD: email_texts.confirm_new_address,
        }[purpose]
        return write(to, self.server_name, link)

    def _find_open(self, session_id: str, token: str) -> EmailValidation:
        found = None
        if "\0" not in session_id:
            found = self.validations.find_open(session_id, _hash(token), self.clock.now_ms())
        if found is None:
            raise NotFound("This link has expired or was used before.")
        return found

    def _may_redirect(self, next_link: str | None) -> bool:
        if next_link is None:
            return False
        host = urlsplit(next_link).hostname
        own = urlsplit(self.base_url).hostname
        return "*" in self.next_link_hosts or host == own or host in self.next_link_hosts

    def _new_session_id(self) -> str:
        return self.randomness.token_urlsafe(18)


def _lifetime_ms(purpose: str) -> int:
    return PASSWORD_LIFETIME_MS if purpose == PASSWORD else LIFETIME_MS


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _check_next_link(link: str | None) -> None:
    """Check that a browser may be sent there: the web, nothing that runs in our name.

    Raises:
        InvalidParam: it may not.
    """
    if link is None:
        return
    try:
        parts = urlsplit(link)
        # Neither what browsers read otherwise than we do, nor what hides where it leads.
        is_good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and link.isascii()
            and link.isprintable()
            and not set(link) & set('\\ "<>')
        )
    except ValueError:
        is_good = False
    if not is_good or len(link) > MAX_NEXT_LINK_LENGTH:
        raise InvalidParam("next_link must be an http or https URL.")
