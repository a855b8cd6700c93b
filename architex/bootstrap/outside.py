"""What reaches beyond Matrix: mail, captchas, identity servers, web pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architex import __version__
from architex.bootstrap.core import Core
from architex.gateways.captcha import Recaptcha
from architex.gateways.clock import Clock, Randomness
from architex.gateways.email import Mailer, SmtpMailer
from architex.gateways.http import OutboundHttp
from architex.gateways.name_lookup import SystemNames
from architex.settings import Settings
from architex.storage.email_validations import EmailValidationStore
from architex.storage.user_addresses import UserAddressStore
from architex.usecases.email_validation import EmailValidations
from architex.usecases.interactive_auth import RECAPTCHA, TERMS, OutsideStages
from architex.usecases.rate_limits import RateLimits


def build_outbound_http(settings: Settings, clock: Clock) -> OutboundHttp:
    """The HTTP client for whatever is no homeserver."""
    return OutboundHttp(
        SystemNames(),
        clock,
        blocked_networks=settings.outbound.ip_blocklist,
        ca_file=settings.outbound.ca_file,
        user_agent=f"Architex/{__version__}",
    )


def build_mailer(settings: Settings, clock: Clock, randomness: Randomness) -> Mailer | None:
    """What sends mails, if the settings say how. Needs no database."""
    given = settings.email
    if given is None:
        return None
    return SmtpMailer(
        clock,
        randomness,
        host=given.smtp_host,
        port=given.smtp_port,
        tls=given.smtp_tls,
        sender=given.sender,
        user=given.smtp_user,
        password=given.smtp_password,
    )


def build_emails(settings: Settings, core: Core, rate_limits: RateLimits) -> EmailValidations:
    """What sends mails and knows whose links were followed."""
    given = settings.email
    return EmailValidations(
        EmailValidationStore(core.database),
        UserAddressStore(core.database),
        build_mailer(settings, core.clock, core.randomness),
        rate_limits,
        core.clock,
        core.randomness,
        settings.server_name,
        settings.public_base_url,
        () if given is None else given.next_link_hosts,
        settings.registration.enabled,
    )


def build_outside_stages(
    settings: Settings,
    outbound: OutboundHttp,
    emails: EmailValidations,
    addresses: UserAddressStore,
) -> OutsideStages:
    """The stages of interactive authentication that others have a part in."""
    captcha: Recaptcha | None = None
    params: dict[str, Mapping[str, Any]] = {}
    if (given := settings.recaptcha) is not None:
        captcha = Recaptcha(outbound, given.siteverify_url, given.private_key)
        params[RECAPTCHA] = {"public_key": given.public_key}
    if (terms := settings.terms) is not None:
        document = {"version": terms.version, "en": {"name": terms.name, "url": terms.url}}
        params[TERMS] = {"policies": {"terms_of_service": document}}
    return OutsideStages(
        emails=emails if emails.is_possible else None,
        addresses=addresses,
        captcha=captcha,
        params=params,
    )
