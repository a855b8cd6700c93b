"""Mails reach the mail server whole and safely, or fail within bounded time."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from architex.domain.third_party import parse_email
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.gateways.email import Mail, SmtpMailer
from architex.gateways.errors import (
    RemoteError,
    RemoteRefused,
    RemoteTimedOut,
    RemoteUnreachable,
)
from tests.fakes.smtp_server import SmtpServer, receiving_mail
from tests.federation.authority import Authority

MAIL = Mail("bob@example.org", "Confirm", "Click http://x.example/1\n", "<p>Click</p>")


def mailer(server: SmtpServer, **changes: Any) -> SmtpMailer:
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "sender": "architex@example.org",
        "timeout_s": 5.0,
        **changes,
    }
    return SmtpMailer(SystemClock(), SystemRandomness(), **given)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca_file))


def test_mail_arrives_as_text_and_html() -> None:
    with receiving_mail() as server:
        mailer(server).send(MAIL)
        mailer(server, sender="Architex <hello@example.org>").send(MAIL)
    first, second = server.mails
    assert (first.sender, first.recipient) == ("architex@example.org", "bob@example.org")
    assert first.message["To"] == "bob@example.org"
    assert first.message["Subject"] == "Confirm"
    assert first.message["Auto-Submitted"] == "auto-generated"
    assert first.text == "Click http://x.example/1\n"
    assert first.html.strip() == "<p>Click</p>"
    assert first.message["Message-ID"] != second.message["Message-ID"]
    assert second.message["From"] == "Architex <hello@example.org>"
    assert second.sender == "hello@example.org"


def test_addresses_of_other_scripts_are_taken() -> None:
    with receiving_mail() as server:
        mailer(server).send(Mail("müller@bücher.example", "x", "x", "x"))
    assert server.mails[0].recipient == "müller@xn--bcher-kva.example"


@pytest.mark.parametrize("local_part", ["a..b", ".a", "a'b", "a`b", "=?utf-8?q?x?=", "😀", "a|b"])
def test_odd_addresses_stay_what_they_are(local_part: str) -> None:
    with receiving_mail() as server:
        address = parse_email(f"{local_part}@example.org").address
        mailer(server).send(Mail(address, "x", "x", "x"))
    assert server.mails[0].recipient == address
    assert server.mails[0].message["Bcc"] is None


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mail_goes_through_tls_with_a_login(tmp_path: Path, tls: str) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("127.0.0.1")
    with receiving_mail(certificate, tls_at_once=tls == "tls") as server:
        mailer(server, tls=tls, user="me", password="secret", context=trusting(authority)).send(
            MAIL
        )
    assert server.mails[0].secured
    assert server.mails[0].login is not None


def test_nothing_is_told_to_who_only_claims_to_be_the_mail_server(tmp_path: Path) -> None:
    certificate = Authority(tmp_path).issue("127.0.0.1")
    with receiving_mail(certificate) as server:
        with pytest.raises(RemoteUnreachable):
            mailer(server, tls="starttls", user="me", password="secret").send(MAIL)
        assert server.mails == []


def test_mail_server_without_tls_gets_nothing_when_tls_is_wanted() -> None:
    with receiving_mail() as server:
        with pytest.raises(RemoteError):
            mailer(server, tls="starttls", user="me", password="secret").send(MAIL)
        assert server.mails == []


def test_refusal_has_the_status_of_smtp() -> None:
    with receiving_mail() as server:
        server.refusal = "550 no such user"
        with pytest.raises(RemoteRefused) as refused:
            mailer(server).send(MAIL)
    assert refused.value.status == 550


def test_mail_server_that_is_not_there_is_unreachable() -> None:
    with receiving_mail() as server:
        pass
    with pytest.raises(RemoteUnreachable):
        mailer(server).send(MAIL)


def test_silent_mail_server_is_given_up() -> None:
    with receiving_mail() as server:
        server.silent = True
        with pytest.raises(RemoteTimedOut):
            mailer(server, timeout_s=0.3).send(MAIL)


def test_mail_that_was_taken_is_sent_however_the_connection_ends() -> None:
    with receiving_mail() as server:
        server.holds_on = True
        mailer(server).send(MAIL)
    assert len(server.mails) == 1
