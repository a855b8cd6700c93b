"""How people get accounts, prove who they are, and come in."""

from __future__ import annotations

from dataclasses import dataclass

from architex.bootstrap.common import Common
from architex.bootstrap.federation import build_device_lists
from architex.bootstrap.outside import build_emails, build_outbound_http, build_outside_stages
from architex.domain.identifiers import UserId
from architex.gateways.identity_server import HttpIdentityServerClient
from architex.gateways.passwords import Argon2Passwords
from architex.settings import Settings
from architex.storage.access_tokens import AccessTokenStore
from architex.storage.accounts import AccountStore
from architex.storage.device_keys import DeviceKeyStore
from architex.storage.devices import DeviceStore
from architex.storage.interactive_auth_sessions import InteractiveAuthSessionStore
from architex.storage.login_tokens import LoginTokenStore
from architex.storage.registration_tokens import RegistrationTokenStore
from architex.storage.user_addresses import UserAddressStore
from architex.usecases.accounts import Accounts
from architex.usecases.email_validation import EmailValidations
from architex.usecases.identity_servers import IdentityServers
from architex.usecases.interactive_auth import InteractiveAuth
from architex.usecases.joining import Joining
from architex.usecases.login import Login
from architex.usecases.login_tokens import LoginTokens
from architex.usecases.password_check import PasswordCheck
from architex.usecases.registration import Registration, RegistrationPolicy
from architex.usecases.requester import Requester
from architex.usecases.sessions import Sessions
from architex.usecases.third_party_identifiers import ThirdPartyIdentifiers


@dataclass(frozen=True)
class SigningInUseCases:
    """What is done before somebody is in."""

    passwords: Argon2Passwords
    sessions: Sessions
    emails: EmailValidations
    identity_servers: IdentityServers
    interactive_auth: InteractiveAuth
    third_party_identifiers: ThirdPartyIdentifiers
    login_tokens: LoginTokens
    login: Login
    registration: Registration


def build_signing_in(common: Common) -> SigningInUseCases:
    """What is done before somebody is in."""
    settings, core, rate_limits = common.settings, common.core, common.rate_limits
    database, clock, chance = core.database, core.clock, core.randomness
    accounts, addresses = AccountStore(database), UserAddressStore(database)
    registration_tokens = RegistrationTokenStore(database)
    passwords = Argon2Passwords(weak=settings.registration.weak_password_hashing)
    password_check = PasswordCheck(
        settings.server_name, accounts, passwords, rate_limits, addresses
    )
    sessions = Sessions(
        AccessTokenStore(database), DeviceStore(database), build_device_lists(core), clock, chance
    )
    outbound = build_outbound_http(settings, clock)
    emails = build_emails(settings, core, rate_limits)
    identity_servers = IdentityServers(
        HttpIdentityServerClient(outbound, settings.server_name, core.signing_key),
        [name.lower() for name in settings.identity.trusted_servers],
    )
    interactive_auth = InteractiveAuth(
        InteractiveAuthSessionStore(database),
        password_check,
        registration_tokens,
        rate_limits,
        clock,
        chance,
        build_outside_stages(settings, outbound, emails, addresses),
    )
    login_tokens = LoginTokens(
        LoginTokenStore(database), interactive_auth, rate_limits, clock, chance
    )
    return SigningInUseCases(
        passwords=passwords,
        sessions=sessions,
        emails=emails,
        identity_servers=identity_servers,
        interactive_auth=interactive_auth,
        third_party_identifiers=ThirdPartyIdentifiers(
            addresses, emails, interactive_auth, identity_servers, rate_limits
        ),
        login_tokens=login_tokens,
        login=Login(
            accounts,
            password_check,
            sessions,
            rate_limits,
            login_tokens,
            DeviceKeyStore(database),
        ),
        registration=Registration(
            server_name=settings.server_name,
            policy=_registration_policy(settings, emails),
            accounts=accounts,
            registration_tokens=registration_tokens,
            sessions=sessions,
            interactive_auth=interactive_auth,
            passwords=passwords,
            rate_limits=rate_limits,
            clock=clock,
            randomness=chance,
        ),
    )


def build_accounts(common: Common, signing_in: SigningInUseCases, joining: Joining) -> Accounts:
    """What becomes of accounts; who goes for good leaves all rooms."""

    def leave_all_rooms(user_id: UserId) -> None:
        joining.leave_all(Requester(user_id))

    def reject_invites(user_id: UserId) -> None:
        joining.reject_all(Requester(user_id))

    return Accounts(
        accounts=AccountStore(common.core.database),
        sessions=signing_in.sessions,
        interactive_auth=signing_in.interactive_auth,
        passwords=signing_in.passwords,
        clock=common.core.clock,
        leave_all_rooms=leave_all_rooms,
        reject_invites=reject_invites,
        unpublish=signing_in.third_party_identifiers.unbind_all,
        emails=signing_in.emails.is_possible,
    )


def _registration_policy(settings: Settings, emails: EmailValidations) -> RegistrationPolicy:
    return RegistrationPolicy(
        enabled=settings.registration.enabled,
        guests=settings.registration.guests,
        tokens_required=settings.registration.tokens_required,
        shared_secret=settings.registration.shared_secret,
        emails=emails.is_possible,
        email_required=settings.registration.email_required,
        captcha=None if settings.recaptcha is None else settings.recaptcha.required,
        terms=None if settings.terms is None else settings.terms.version,
        reserved=frozenset({settings.server_notices.localpart}),
    )
