"""Servers on the loopback address that answer as a test wants: whole, slowly, wrongly, not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.federation.authority import Certificate
from tests.ports import listen

Respond = Callable[["Request", socket.socket], None]


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Loopback:
    """A server; one thread per connection.

    Attributes:
        port: where it listens, on 127.0.0.1.
        requests: what came.
        connections: how many there were.
        closed: how many of them are closed on this side, which the other side can see.
        tls_names: what clients named in their TLS handshakes; None where they named none.
    """

    port: int
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    closed: int = 0
    tls_names: list[str | None] = field(default_factory=list)


def reply(
    body: bytes = b"{}", status: int = 200, headers: str = "", *, close: bool = False
) -> Respond:
    """Answers everything alike.

    Args:
        headers: further ones, each ending in CRLF.
        close: close the connection after it.
    """

    def respond(request: Request, connection: socket.socket) -> None:
        connection.sendall(
            f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
            + body
        )
        if close:
            connection.close()

    return respond


def send_raw(raw: bytes) -> Respond:
    """Sends bytes and closes."""

    def respond(request: Request, connection: socket.socket) -> None:
        connection.sendall(raw)
        connection.close()

    return respond


@contextmanager
def serving(respond: Respond, certificate: Certificate | None = None) -> Iterator[Loopback]:
    """Serve on a free port, with TLS if there is a certificate, as long as the block lasts."""
    listener = listen()
    server = Loopback(listener.getsockname()[1])
    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)

        def note_name(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
            server.tls_names.append(name)

        context.sni_callback = note_name
    opened: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            opened.append(connection)
            server.connections += 1
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
                opened.append(connection)
            while (request := _read(connection)) is not None:
                server.requests.append(request)
                respond(request, connection)
        connection.close()
        server.closed += 1

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(5)
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _read(connection: socket.socket) -> Request | None:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65_536)
        if not piece:
            return None
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65_536)
    method, target, _ = first.split(" ")
    return Request(method, target, headers, body)
