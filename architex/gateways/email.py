"""Mailer: hands mails to a mail server, each within bounded time."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr
from typing import Final, Protocol

from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteRefused, RemoteTimedOut, RemoteUnreachable

TIMEOUT_S: Final = 20.0
"""For one mail, from the name lookup to the mail server's last word."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one address.

    Attributes:
        to: the bare address.
        text: for those who read text.
        html: the same for those who read HTML.
    """

    to: str
    subject: str
    text: str
    html: str


class Mailer(Protocol):
    """Sends mails."""

    def send(self, mail: Mail) -> None:
        """Hand a mail to the mail server.

        Raises:
            RemoteUnreachable, RemoteTimedOut: the mail server does not take mails now.
            RemoteRefused: it does not take this one; has the status of SMTP.
        """


class SmtpMailer:
    """See Mailer: by SMTP, over a connection per mail."""

    def __init__(
        self,
        clock: Clock,
        randomness: Randomness,
        *,
        host: str,
        port: int,
        tls: str,
        sender: str,
        user: str | None = None,
        password: str | None = None,
        timeout_s: float = TIMEOUT_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; opens nothing.

        Args:
            tls: `starttls`, `tls` (from the first byte) or `none`.
            sender: the address that mails come from, perhaps with a name: `Us <us@example.org>`.
            timeout_s: for each mail.
            context: how the mail server's certificate is checked; by default as the system does.
        """
        self._clock = clock
        self._randomness = randomness
        self._host = host
        self._port = port
        self._tls = tls
        self._sender_name, self._sender = parseaddr(sender)
        self._user = user
        self._password = password
        self._timeout_s = timeout_s
        self._context = context

    def send(self, mail: Mail) -> None:
        """See Mailer."""
        message = self._message(mail)
        ends = self._clock.monotonic() + self._timeout_s
        with (
            self._errors_named(ends),
            closing(self._connection()) as smtp,
            _cut_after(smtp, self._timeout_s),
        ):
            if self._tls == "starttls":
                smtp.starttls(context=self._context or ssl.create_default_context())
            if self._user is not None:
                smtp.login(self._user, self._password or "")
            smtp.send_message(message, self._sender, _ascii_domain(mail.to))
            # The mail is taken; whatever is said to this changes nothing.
            with contextlib.suppress(smtplib.SMTPException, OSError):
                smtp.quit()

    def _message(self, mail: Mail) -> EmailMessage:
        to = _ascii_domain(mail.to)
        message = EmailMessage(policy=SMTP if to.isascii() else SMTPUTF8)
        message["From"] = Address(self._sender_name, addr_spec=self._sender)
        local_part, _, domain = to.rpartition("@")
        message["To"] = Address(username=local_part, domain=domain)
        message["Subject"] = mail.subject
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        message["Date"] = format_datetime(now)
        own_domain = self._sender.rpartition("@")[2]
        message["Message-ID"] = f"<{self._randomness.token_urlsafe(18)}@{own_domain}>"
        # No vacation notices, please: nobody reads what comes back.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        message.add_alternative(mail.html, subtype="html")
        return message

    def _connection(self) -> smtplib.SMTP:
        if self._tls == "tls":
            return smtplib.SMTP_SSL(
                self._host,
                self._port,
                timeout=self._timeout_s,
                context=self._context or ssl.create_default_context(),
            )
        return smtplib.SMTP(self._host, self._port, timeout=self._timeout_s)

    @contextmanager
    def _errors_named(self, ends: float) -> Iterator[None]:
        remote = f"{self._host}:{self._port}"
        try:
            yield
        except smtplib.SMTPRecipientsRefused as error:
            code, reason = next(iter(error.recipients.values()))
            raise _refused(remote, code, reason) from error
        except smtplib.SMTPResponseException as error:
            raise _refused(remote, error.smtp_code, error.smtp_error) from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            if isinstance(error, TimeoutError) or self._clock.monotonic() >= ends:
                raise RemoteTimedOut(remote, "The mail server takes too long.") from error
            said = str(error) or type(error).__name__
            raise RemoteUnreachable(remote, f"The mail was not taken: {said}") from error


@contextmanager
def _cut_after(smtp: smtplib.SMTP, seconds: float) -> Iterator[None]:
    """Shut a connection down when its time is over: time-outs begin anew with every byte."""

    def cut() -> None:
        with contextlib.suppress(OSError):
            if smtp.sock is not None:
                smtp.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _refused(remote: str, code: int, said: bytes | str) -> RemoteRefused:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return RemoteRefused(remote, code, {"error": text})


def _ascii_domain(address: str) -> str:
    """The address with its domain as the name system has it."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part}@{domain.encode('idna').decode()}"
