"""The gunicorn worker: a greenlet per connection, plain and TLS listeners, prompt shutdown.

gunicorn has one certificate for all its sockets and waits for idle connections when it stops;
HTTP requests that frame their body in two ways are let through by gevent. This mends all three.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import gevent
from gevent import pywsgi
from gevent.pool import Pool
from greenlet import greenlet
from gunicorn.http.wsgi import base_environ
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from architex.api.shutdown import stopping

log = logging.getLogger(__name__)

# A whole inline filter may stand in the query of a GET /sync.
pywsgi.MAX_REQUEST_LINE = 32_768

# How long a connection may keep silent: between requests, within one, and while we write to it.
IDLE_TIMEOUT_S = 75.0
# When the worker stops, who has just connected may still send a request.
FIRST_REQUEST_S = 1.0
# After an answer that did not read the body, up to so much of it is read and dropped, so that a
# client that is still sending gets to see the answer. Beyond it the connection is closed.
MAX_DISCARDED_BODY_BYTES = 64 * 1024 * 1024
_CERTIFICATE_CHECK_INTERVAL_S = 60.0
MAX_HEAD_BYTES = 65_536
MAX_HEADER_FIELDS = 100
# A header field, or the end of them (RFC 9112, 5): on one line, which nothing else ends.
_HEAD_LINE = re.compile(rb"(?:([-!#$%&'*+.^_`|~0-9A-Za-z]+):([^\0\r\n]*))?\r?\n")

Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


@dataclass(frozen=True)
class TlsFiles:
    """The PEM files of one TLS listener."""

    certificate: Path
    key: Path


class RequestInput(pywsgi.Input):  # type: ignore[misc] # gevent has no types for pywsgi
    """A request's body that drops what the application left unread, within bounds."""

    is_left_unread = False

    def _discard(self) -> None:
        left = (self.content_length or 0) - self.position
        if left > MAX_DISCARDED_BODY_BYTES:
            self.is_left_unread = True
            return
        if left <= 0 and not self.chunked_input:
            return
        if self.socket is not None and self.position == 0:
            # The client waits for "100 Continue" before it sends anything: it will not be sent.
            self.is_left_unread = True
            return
        self.send_100_continue_enabled = False
        discarded = 0
        while not self._chunked_input_error:
            dropped = len(self.read(65_536))
            discarded += dropped
            if not dropped:
                return
            if discarded > MAX_DISCARDED_BODY_BYTES:
                break
        self.is_left_unread = True


class HeaderFields:
    """The header fields of a request, as gevent's handler asks for them.

    The standard library reads a head with its parser for e-mail, which costs more than all else
    between the socket and the application, and takes lines that two programs read differently.

    Attributes:
        status: what is wrong, for gevent; a head that is wrong raises instead.
    """

    status = ""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        """Take names and values, as they were written."""
        self._fields = fields
        self._values: dict[str, list[str]] = {}
        for name, value in fields:
            self._values.setdefault(name.lower(), []).append(value)

    @classmethod
    def read(cls, body: Any) -> HeaderFields:
        """Read to the end of the head. Raises ValueError when that is malformed or too long."""
        fields: list[tuple[str, str]] = []
        left = MAX_HEAD_BYTES
        while len(fields) <= MAX_HEADER_FIELDS and left > 0:
            line: bytes = body.readline(left)
            left -= len(line)
            match = _HEAD_LINE.fullmatch(line)
            if match is None:
                raise ValueError("a line of the head is no header field")
            name, value = match.groups()
            if name is None:
                return cls(fields)
            fields.append((name.decode("ascii"), value.decode("latin-1").strip()))
        raise ValueError("the head is too long")

    def __contains__(self, name: str) -> bool:
        """Whether there is such a field, named in small letters."""
        return name in self._values

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field."""
        values = self._values.get(name.lower())
        return values[0] if values else default

    def __delitem__(self, name: str) -> None:
        """Forget a field, named in small letters; KeyError when there is none."""
        del self._values[name]

    def get_all(self, name: str) -> Sequence[str]:
        """Every value of a field, named in small letters."""
        return self._values.get(name, ())

    def in_environ(self) -> Iterator[tuple[str, str]]:
        """The fields as WSGI names them; those that would be taken for others are left out."""
        for name, value in self._fields:
            if "_" not in name:
                key = "HTTP_" + name.upper().replace("-", "_")
                if key not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
                    yield key, value

    @property
    def typeheader(self) -> str | None:
        """The first Content-Type."""
        return self.get("content-type")

    getheader = get


class RequestHandler(PyWSGIHandler):  # type: ignore[misc] # gunicorn's workers have no types
    """One connection and the requests on it."""

    # Greenlets whose connection waits for its next request; they may be ended at any moment: a
    # client knows that what it kept open can be closed. Those that wait for a first one are ended
    # only when it does not come.
    waiting: ClassVar[set[greenlet]] = set()
    new: ClassVar[set[greenlet]] = set()

    wsgi_input: Any

    ignored_socket_errors = (
        *PyWSGIHandler.ignored_socket_errors,
        # What a socket says when IDLE_TIMEOUT_S has passed; with TLS, in these words.
        "timed out",
        "The read operation timed out",
        "The write operation timed out",
    )

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        sock.settimeout(IDLE_TIMEOUT_S)
        super().__init__(sock, address, server)
        self._is_new = True
        self._held: list[bytes] | None = None

    def read_requestline(self) -> str:
        """Wait for a request; an empty line when there is none to come."""
        if stopping.is_set() and not self._is_new:
            return ""
        here = gevent.getcurrent()
        idle = self.new if self._is_new else self.waiting
        self._is_new = False
        idle.add(here)
        try:
            return str(super().read_requestline())
        finally:
            idle.discard(here)

    def read_request(self, raw_requestline: str) -> bool:
        """Read the head of a request. Raises ValueError (answered with 400) when malformed."""
        is_good = bool(super().read_request(raw_requestline))
        if self.request_version == "HTTP/0.9":
            raise ValueError("HTTP/0.9 is not spoken here")
        if self.request_version == "HTTP/1.0" and "transfer-encoding" in self.headers:
            raise ValueError("HTTP/1.0 knows no transfer encodings")
        return is_good

    def MessageClass(self, body: Any, _seekable: int) -> HeaderFields:
        """Read the header fields; refuse those that two programs could read differently."""
        headers = HeaderFields.read(body)
        lengths = headers.get_all("content-length")
        encodings = headers.get_all("transfer-encoding")
        if lengths and (
            encodings or len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit())
        ):
            raise ValueError("the length of the body is given in two ways, or is no number")
        if encodings and [e.strip().lower() for e in encodings] != ["chunked"]:
            raise ValueError("a transfer encoding other than chunked")
        return headers

    def _headers(self) -> Iterator[tuple[str, str]]:
        fields: HeaderFields = self.headers
        return fields.in_environ()

    def get_environ(self) -> dict[str, Any]:
        """The WSGI environment, with a body that knows its bounds."""
        environ: dict[str, Any] = super().get_environ()
        body = self.wsgi_input
        self.wsgi_input = environ["wsgi.input"] = RequestInput(
            body.rfile, body.content_length, body.socket, body.chunked_input
        )
        environ["REMOTE_ADDR"] = find_client_address(
            environ.get("REMOTE_ADDR", ""),
            environ.get("HTTP_X_FORWARDED_FOR", ""),
            self.server.trusted_proxies,
        )
        return environ

    def handle_one_response(self) -> None:
        """Answer one request."""
        super().handle_one_response()
        if stopping.is_set() or self.wsgi_input.is_left_unread:
            self.close_connection = True

    def finalize_headers(self) -> None:
        """Complete the header of the answer."""
        super().finalize_headers()
        if stopping.is_set() and not self.close_connection:
            self.close_connection = True
            self.response_headers.append((b"Connection", b"close"))

    def _write_with_headers(self, data: bytes) -> None:
        """Send header and body together: one system call, one packet."""
        self._held = []
        super()._write_with_headers(data)
        held, self._held = self._held, None
        self._sendall(b"".join(held))

    def _sendall(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
            return
        # gevent's sendall asks the kernel first how much it would take; nearly always that is all.
        sent = self.socket.send(data)
        self.response_length += sent
        if sent < len(data):
            super()._sendall(memoryview(data)[sent:])

    def log_error(self, msg: str, *args: Any) -> None:
        """Log that a request cannot be read; not its words, which may hold an access token."""
        log.debug("a request from %s cannot be read", self.client_address)

    def log_request(self) -> None:
        """Log the request, if anybody wants to read it; costs nothing otherwise."""
        if log.isEnabledFor(logging.DEBUG):
            status = self._orig_status or "-"
            took_ms = (self.time_finish - self.time_start) * 1000
            # The path without its query, which may hold an access token.
            path = self.path.split("?", 1)[0] if hasattr(self, "path") else "-"
            log.debug("%s %s %s in %.1f ms", self.command, path, status, took_ms)


def find_client_address(peer: str, forwarded_for: str, proxies: Networks) -> str:
    """The address that a request comes from, as far as we can trust what proxies say of it.

    Args:
        peer: who connected to us.
        forwarded_for: the X-Forwarded-For field; each proxy adds whom it heard from at its end.
        proxies: networks of the proxies that we believe.

    What a client wrote into the field itself stands before what the first proxy added, and is
    never reached.
    """
    address = peer.removeprefix("::ffff:")  # IPv4 on a socket that has both
    if not proxies or not forwarded_for:
        return address
    for before in reversed(forwarded_for.split(",")):
        try:
            if not any(ipaddress.ip_address(address) in network for network in proxies):
                break
            address = str(ipaddress.ip_address(before.strip()))
        except ValueError:
            break
    return address


class HttpServer(pywsgi.WSGIServer):  # type: ignore[misc] # gevent has no types for pywsgi
    """One listening socket of a worker."""

    trusted_proxies: Networks = ()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        """Serve a TLS connection, if the handshake succeeds in time."""
        client_socket.settimeout(IDLE_TIMEOUT_S)
        try:
            tls_socket = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # ssl.SSLError is one
            log.debug("TLS handshake with %s failed: %s", address, error)
            client_socket.close()
            return
        try:
            self.handle(tls_socket, address)
        finally:
            tls_socket.close()


class ReloadingCertificate:
    """A TLS context that takes up a renewed certificate by itself."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._loaded = self._changed_at()
        self.context.load_cert_chain(files.certificate, files.key)

    def reload_if_changed(self) -> None:
        """Load the files again if they are newer; a half-written pair is tried again later."""
        try:
            changed_at = self._changed_at()
            if changed_at != self._loaded:
                self.context.load_cert_chain(self._files.certificate, self._files.key)
                self._loaded = changed_at
                log.info("took up the new certificate %s", self._files.certificate)
        except OSError as error:
            log.warning("cannot take up %s: %s", self._files.certificate, error)

    def _changed_at(self) -> tuple[int, int]:
        return (
            self._files.certificate.stat().st_mtime_ns,
            self._files.key.stat().st_mtime_ns,
        )


class Worker(GeventPyWSGIWorker):  # type: ignore[misc] # gunicorn's workers have no types
    """Serves all listeners of the process until it is told to stop."""

    # For each bound address, in order: its certificate, or None where it is plain HTTP.
    tls_files: ClassVar[Sequence[TlsFiles | None]] = ()
    # Whose X-Forwarded-For is believed.
    trusted_proxies: ClassVar[Networks] = ()

    def run(self) -> None:
        """Serve; then stop accepting, wake parked requests, and wait for the busy ones."""
        certificates = [ReloadingCertificate(f) if f else None for f in self.tls_files]
        servers = [
            self._serve(sock, certificate)
            for sock, certificate in zip(self.sockets, certificates, strict=True)
        ]
        next_check = time.monotonic() + _CERTIFICATE_CHECK_INTERVAL_S
        while self.alive:
            self.notify()
            gevent.sleep(0.25)
            if time.monotonic() > next_check:
                next_check += _CERTIFICATE_CHECK_INTERVAL_S
                for certificate in certificates:
                    if certificate is not None:
                        certificate.reload_if_changed()
        self._stop(servers)

    def _serve(self, sock: Any, certificate: ReloadingCertificate | None) -> HttpServer:
        sock.setblocking(1)
        # An empty name, or gevent would ask the DNS for ours at each start.
        environ = {**base_environ(self.cfg), "wsgi.multithread": True, "SERVER_NAME": ""}
        environ.pop("wsgi.url_scheme", None)
        tls = {} if certificate is None else {"ssl_context": certificate.context}
        server = HttpServer(
            sock,
            application=self.wsgi,
            spawn=Pool(self.worker_connections),
            log=None,
            error_log=pywsgi.LoggingLogAdapter(log, level=logging.DEBUG),
            handler_class=RequestHandler,
            environ=environ,
            **tls,
        )
        server.trusted_proxies = self.trusted_proxies
        server.start()
        return server

    def _stop(self, servers: Sequence[HttpServer]) -> None:
        for server in servers:
            server.close()
        stopping.set()
        for waiting in list(RequestHandler.waiting):
            gevent.kill(waiting)
        began = time.monotonic()
        while any(len(server.pool) for server in servers):
            waited = time.monotonic() - began
            if waited > self.cfg.graceful_timeout:
                break
            if waited > FIRST_REQUEST_S:
                for silent in list(RequestHandler.new):
                    gevent.kill(silent)
            self.notify()
            gevent.sleep(0.02)
        for server in servers:
            server.stop(timeout=0.5)


def worker_class_for(
    tls_files: Sequence[TlsFiles | None], trusted_proxies: Sequence[str] = ()
) -> type[Worker]:
    """A worker class for listeners with these certificates, in the order of gunicorn's `bind`.

    Args:
        tls_files: for each listener its certificate, or None where it is plain HTTP.
        trusted_proxies: networks of the reverse proxies whose X-Forwarded-For is believed.
    """
    attributes = {
        "__module__": __name__,
        "tls_files": tuple(tls_files),
        "trusted_proxies": tuple(ipaddress.ip_network(network) for network in trusted_proxies),
    }
    return type("Worker", (Worker,), attributes)
