"""Proofs of e-mail addresses hold for a while, once, for who asked for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import pytest

from architex.domain.errors import NotFound, ThirdPartyAuthFailed
from architex.gateways.clock import SystemRandomness
from architex.gateways.email import Mail
from architex.storage.email_validations import EmailValidationStore
from architex.storage.expiries import Expiries
from architex.storage.pool import Database
from architex.storage.user_addresses import UserAddressStore
from architex.usecases.email_validation import (
    ADD,
    LIFETIME_MS,
    PASSWORD_LIFETIME_MS,
    REGISTER,
    EmailRequest,
    EmailValidations,
)
from architex.usecases.rate_limits import RateLimits
from tests.fakes.clock import FakeClock

SECRET = "s3cret"
ADDRESS = "bob@mail.example"


@dataclass
class FakeMailer:
    """Keeps mails."""

    mails: list[Mail] = field(default_factory=list)

    def send(self, mail: Mail) -> None:
        """See Mailer."""
        self.mails.append(mail)

    def last_token(self) -> str:
        """What the newest mail's link tells."""
        link = next(word for word in self.mails[-1].text.split() if word.startswith("http"))
        return dict(parse_qsl(urlsplit(link).query))["token"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()


@pytest.fixture
def emails(database: Database, clock: FakeClock, mailer: FakeMailer) -> EmailValidations:
    return EmailValidations(
        EmailValidationStore(database),
        UserAddressStore(database),
        mailer,
        RateLimits(clock, {}, enabled=False),
        clock,
        SystemRandomness(),
        "test.example",
        "https://test.example",
    )


def ask(emails: EmailValidations, purpose: str = ADD, attempt: int = 1) -> str:
    return emails.request_token(
        purpose, EmailRequest(SECRET, ADDRESS, attempt), address="127.0.0.1"
    )


def test_link_expires(emails: EmailValidations, clock: FakeClock, mailer: FakeMailer) -> None:
    session_id = ask(emails)
    clock.pass_seconds(LIFETIME_MS / 1000 - 1)
    emails.look_at(session_id, mailer.last_token())
    clock.pass_seconds(2)
    with pytest.raises(NotFound):
        emails.confirm(session_id, mailer.last_token())


def test_proof_holds_from_when_the_link_was_followed(
    emails: EmailValidations, clock: FakeClock, mailer: FakeMailer
) -> None:
    session_id = ask(emails)
    clock.pass_seconds(LIFETIME_MS / 1000 - 1)
    emails.confirm(session_id, mailer.last_token())
    validated_ts = clock.now_ms()
    clock.pass_seconds(LIFETIME_MS / 1000 - 1)
    proven = emails.check_proven(ADD, session_id, SECRET)
    assert (proven.address.address, proven.validated_ts) == (ADDRESS, validated_ts)
    # Following the link again prolongs nothing.
    emails.confirm(session_id, mailer.last_token())
    clock.pass_seconds(2)
    with pytest.raises(ThirdPartyAuthFailed):
        emails.check_proven(ADD, session_id, SECRET)


def test_expired_proof_begins_anew(
    emails: EmailValidations, clock: FakeClock, mailer: FakeMailer
) -> None:
    first = ask(emails)
    emails.confirm(first, mailer.last_token())
    old_token = mailer.last_token()
    clock.pass_seconds(LIFETIME_MS / 1000 + 1)
    second = ask(emails)
    assert second != first
    assert len(mailer.mails) == 2
    for session_id, token in ((first, old_token), (second, old_token)):
        with pytest.raises(NotFound):
            emails.confirm(session_id, token)
    with pytest.raises(ThirdPartyAuthFailed):
        emails.check_proven(ADD, second, SECRET)
    emails.confirm(second, mailer.last_token())
    emails.check_proven(ADD, second, SECRET)


def test_links_of_the_last_five_mails_hold(emails: EmailValidations, mailer: FakeMailer) -> None:
    tokens = []
    for attempt in range(1, 8):
        session_id = ask(emails, attempt=attempt)
        tokens.append(mailer.last_token())
    for token in tokens[-5:]:
        emails.look_at(session_id, token)
    for token in tokens[:-5]:
        with pytest.raises(NotFound):
            emails.look_at(session_id, token)


def test_proof_is_spent_once_also_when_two_try(
    emails: EmailValidations, mailer: FakeMailer
) -> None:
    session_id = ask(emails, REGISTER)
    emails.confirm(session_id, mailer.last_token())
    emails.spend_proof(REGISTER, session_id, SECRET)
    with pytest.raises(ThirdPartyAuthFailed):
        emails.spend_proof(REGISTER, session_id, SECRET)
    with pytest.raises(NotFound):
        emails.confirm(session_id, mailer.last_token())


def test_links_for_passwords_live_shorter() -> None:
    assert PASSWORD_LIFETIME_MS < LIFETIME_MS


def test_what_has_expired_is_deleted(
    emails: EmailValidations, clock: FakeClock, database: Database
) -> None:
    ask(emails)
    ask(emails, REGISTER)
    expiries = Expiries(database)
    assert expiries.delete_expired(clock.now_ms()) == 0
    clock.pass_seconds(LIFETIME_MS / 1000 + 1)
    assert expiries.delete_expired(clock.now_ms()) == 2
    assert database.fetch_one("SELECT count(*) FROM email_validations") == (0,)
