"""A mail server on the loopback address that keeps what it gets."""

from __future__ import annotations

import email
import email.policy
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from tests.federation.authority import Certificate
from tests.ports import listen


@dataclass(frozen=True)
class Received:
    """A mail as it came.

    Attributes:
        secured: whether it came through TLS.
        login: what the client authenticated with, undecoded; None when it did not.
    """

    sender: str
    recipient: str
    message: EmailMessage
    secured: bool
    login: str | None

    @property
    def text(self) -> str:
        """The part for those who read text."""
        return self._part("plain")

    @property
    def html(self) -> str:
        """The part for those who read HTML."""
        return self._part("html")

    @property
    def link(self) -> str:
        """The first link of the text, as SyTest finds it."""
        found = re.search(r"(http\S*)", self.text)
        assert found is not None, self.text
        return found[1]

    def _part(self, subtype: str) -> str:
        part = self.message.get_body((subtype,))
        assert part is not None
        content: str = part.get_content()
        return content.replace("\r\n", "\n")


@dataclass
class SmtpServer:
    """What it does with mails.

    Attributes:
        port: where it listens, on 127.0.0.1.
        mails: what it took, the oldest first.
        refusal: what it answers to recipients instead of taking mails for them.
        silent: it does not even greet.
        holds_on: it takes mails, but no farewell.
        connected: set when somebody has connected.
    """

    port: int
    mails: list[Received] = field(default_factory=list)
    refusal: str | None = None
    silent: bool = False
    holds_on: bool = False
    hung_up: bool = False
    connected: threading.Event = field(default_factory=threading.Event)
    opened: list[socket.socket] = field(default_factory=list)

    def hang_up(self) -> None:
        """Close every connection, and those that come."""
        self.hung_up = True
        for connection in self.opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def last_to(self, address: str) -> Received:
        """The newest mail to an address."""
        return next(mail for mail in reversed(self.mails) if mail.recipient == address)


@contextmanager
def receiving_mail(
    certificate: Certificate | None = None, *, tls_at_once: bool = False
) -> Iterator[SmtpServer]:
    """Take mails as long as the block lasts; with a certificate, STARTTLS is offered."""
    listener = listen()
    server = SmtpServer(listener.getsockname()[1])
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            server.opened.append(connection)
            server.connected.set()
            if server.hung_up:
                server.hang_up()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            conversation = _Conversation(server, connection, context)
            try:
                conversation.run(tls_at_once)
            finally:
                conversation.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.hang_up()
        for connection in server.opened:
            connection.close()


class _Conversation:
    """One connection."""

    def __init__(
        self,
        server: SmtpServer,
        connection: socket.socket,
        context: ssl.SSLContext | None,
    ) -> None:
        self._server = server
        self._connection = connection
        self._context = context
        self._secured = False
        self._login: str | None = None
        self._lines: Any = None

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._connection.close()

    def run(self, tls_at_once: bool) -> None:
        if tls_at_once:
            self._secure()
        self._lines = self._connection.makefile("rb")
        if self._server.silent:
            self._lines.readline()
            return
        self._say("220 ready")
        sender = recipient = ""
        while line := self._lines.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    offered = ["AUTH PLAIN", "SMTPUTF8", "8BITMIME"]
                    if self._context is not None and not self._secured:
                        offered.append("STARTTLS")
                    lines = ["mail.example", *offered]
                    for one in lines[:-1]:
                        self._say(f"250-{one}")
                    self._say(f"250 {lines[-1]}")
                case "STARTTLS":
                    self._say("220 go ahead")
                    self._lines.close()
                    self._secure()
                    self._lines = self._connection.makefile("rb")
                case "AUTH":
                    self._login = rest
                    self._say("235 welcome")
                case "MAIL":
                    sender = _address(rest)
                    self._say("250 ok")
                case "RCPT":
                    recipient = _address(rest)
                    self._say(self._server.refusal or "250 ok")
                case "DATA":
                    self._say("354 go ahead")
                    self._take(sender, recipient)
                    self._say("250 taken")
                case "QUIT":
                    self._say("502 nobody leaves" if self._server.holds_on else "221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _take(self, sender: str, recipient: str) -> None:
        body = b""
        while (line := self._lines.readline()) != b".\r\n":
            body += line.removeprefix(b".") if line.startswith(b"..") else line
        message = email.message_from_bytes(body, policy=email.policy.SMTPUTF8)
        assert isinstance(message, EmailMessage)
        self._server.mails.append(Received(sender, recipient, message, self._secured, self._login))

    def _secure(self) -> None:
        assert self._context is not None
        self._connection = self._context.wrap_socket(self._connection, server_side=True)
        self._secured = True

    def _say(self, line: str) -> None:
        self._connection.sendall(line.encode() + b"\r\n")


def _address(rest: str) -> str:
    found = re.search(r"<([^>]*)>", rest)
    return "" if found is None else found[1]
