"""One outbound HTTP client: bounded in time, bytes and redirects, and never to a blocked address.

What a name resolves to is checked, and the address that was checked is the one connected to.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import os
import select
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from architex.gateways.clock import Clock
from architex.gateways.errors import (
    RemoteBlocked,
    RemoteError,
    RemoteTimedOut,
    RemoteTooLarge,
    RemoteUnintelligible,
    RemoteUnreachable,
)
from architex.gateways.name_lookup import NameLookup

MAX_REDIRECTS: Final = 5

_CONNECT_TIMEOUT_S: Final = 10.0
_LOOKUP_TIMEOUT_S: Final = 8.0
_MAX_ADDRESSES_TRIED: Final = 4
# Most servers keep silent connections for a minute or more.
_KEPT_IDLE_S: Final = 30.0
_IDLE_PER_TARGET: Final = 4
# A message may go to hundreds of servers, and the next one soon after.
_IDLE_IN_ALL: Final = 500
_CHUNK_BYTES: Final = 65_536
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# May be sent again on a new connection when a kept one turns out to be dead.
_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_URL_SAFE: Final = "/%:@!$&'()*+,;=~-._?"

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    Attributes:
        host: an IP address (IPv6 without brackets) or a host name to look up.
        tls_name: the host name or IP address that the certificate must be for; None for no TLS.
        host_header: what the Host header says.
    """

    host: str
    port: int
    tls_name: str | None
    host_header: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        url: where it came from, after redirects; empty for requests by target.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    url: str = ""


class Blocklist:
    """Networks that are never connected to."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def blocks(self, address: str) -> bool:
        """Whether an IP address lies in one of them, also when it is IPv4 written as IPv6."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return True
        return any(
            form in network
            for form in _forms(parsed)
            for network in self._networks
            if form.version == network.version
        )


def _forms(address: IpAddress) -> Iterator[IpAddress]:
    """An address, and the IPv4 address that it carries inside, if it does."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        number = int(address)
        # ::ffff:a.b.c.d, and the older ::a.b.c.d.
        if number >> 32 in (0xFFFF, 0) and number > 1:
            yield ipaddress.IPv4Address(number & 0xFFFFFFFF)


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that was opened with care; never opens one by itself."""

    def __init__(self, target: Target, opened: socket.socket, address: str) -> None:
        super().__init__(target.host, target.port)
        self.auto_open = 0
        self.sock = opened
        self.address = address
        self.certificate_until_s = _certificate_until_s(opened)
        self.idle_since = 0.0

    def is_stale(self) -> bool:
        """Whether the other side has closed it, or said something that nobody asked for."""
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class _Deadline:
    """Cuts a connection off when its time is over, whatever it is doing then."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._ends = clock.monotonic() + seconds
        self._timer: threading.Timer | None = None
        self.has_passed = False

    def remaining_s(self, remote: str) -> float:
        """Seconds left. Raises RemoteTimedOut when there are none."""
        left = self._ends - self._clock.monotonic()
        if self.has_passed or left <= 0:
            raise RemoteTimedOut(remote, "It took too long.")
        return left

    def watch(self, opened: socket.socket, seconds: float) -> None:
        """Shut a socket down after so many seconds, unless `cancel` comes first.

        Time-outs of sockets begin anew with every byte; this does not.
        """
        self.cancel()
        timer = threading.Timer(seconds, self._cut, [opened])
        timer.daemon = True
        timer.start()
        self._timer = timer

    def cancel(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self, opened: socket.socket) -> None:
        self.has_passed = True
        # On a copy of the descriptor: the TLS layer of the socket is in somebody else's hands.
        with contextlib.suppress(OSError):
            copy = socket.socket(fileno=os.dup(opened.fileno()))
            try:
                copy.shutdown(socket.SHUT_RDWR)
            finally:
                copy.close()


class AnswerStream:
    """An answer whose body is read piece by piece.

    Attributes:
        status: the HTTP status.
        headers: as sent.
        address: the IP address it came from.
        certificate_until_s: when the server's certificate expires, in seconds since 1970; None
            without TLS.
    """

    def __init__(
        self,
        connection: _Connection,
        response: http.client.HTTPResponse,
        deadline: _Deadline,
        remote: str,
        max_bytes: int,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.address = connection.address
        self.certificate_until_s = connection.certificate_until_s
        self._response = response
        self._deadline = deadline
        self._remote = remote
        self._left = max_bytes
        length = response.length
        if length is not None and length > max_bytes:
            raise RemoteTooLarge(remote, f"The answer has {length} bytes, {max_bytes} at most.")

    def read(self, at_most: int = _CHUNK_BYTES) -> bytes:
        """The next piece of the body; empty at its end.

        Raises:
            RemoteTooLarge: the body is larger than was agreed.
            RemoteTimedOut, RemoteUnreachable: it does not come.
        """
        with _errors_named(self._remote, self._deadline):
            # One byte beyond the limit tells whether there is more.
            piece = self._response.read(min(at_most, self._left + 1))
        self._deadline.remaining_s(self._remote)
        if len(piece) > self._left:
            raise RemoteTooLarge(self._remote, "The answer is larger than we take.")
        self._left -= len(piece)
        # http.client takes a body that was cut short for a whole one when read in pieces.
        if not piece and self._response.length:
            raise RemoteUnreachable(self._remote, "The answer was cut off.")
        return piece

    def read_all(self) -> bytes:
        """The (rest of the) body. Raises as `read`."""
        return b"".join(iter(self.read, b""))


class OutboundHttp:
    """The HTTP client for everything outside. Connections are kept for a while and used again."""

    def __init__(
        self,
        names: NameLookup,
        clock: Clock,
        *,
        blocked_networks: Sequence[str],
        ca_file: Path | None = None,
        user_agent: str = "Architex",
    ) -> None:
        """Prepare; opens nothing.

        Args:
            blocked_networks: never connected to.
            ca_file: PEM file of CAs to trust besides the system's.
        """
        self._names = names
        self._clock = clock
        self._blocklist = Blocklist(blocked_networks)
        self._ca_file = ca_file
        self._user_agent = user_agent
        self._idle: dict[Target, list[_Connection]] = {}
        self._idle_count = 0
        self._lock = threading.Lock()
        # Whoever forgets the client leaves no open sockets behind.
        weakref.finalize(self, _close_idle, self._idle)

    def fetch(
        self,
        method: str,
        target: Target,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
    ) -> Answer:
        """Ask, and read the whole answer, whatever its status. Follows no redirects.

        Args:
            path: with the query, percent-encoded, from the slash on.
            timeout_s: for everything together, from the name lookup to the last byte.
            max_bytes: of the answer's body.

        Raises:
            RemoteUnreachable, RemoteTimedOut, RemoteBlocked, RemoteTooLarge,
            RemoteUnintelligible.
        """
        with self.stream(
            method,
            target,
            path,
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
        ) as answer:
            return Answer(answer.status, answer.headers, answer.read_all())

    @contextmanager
    def stream(
        self,
        method: str,
        target: Target,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
    ) -> Iterator[AnswerStream]:
        """As `fetch`, but the body is read while the block runs."""
        deadline = _Deadline(self._clock, timeout_s)
        send = functools.partial(
            self._send, method, target, path, self._headers(target, headers or {}, body), body
        )
        connection: _Connection | None = None
        response: http.client.HTTPResponse | None = None
        is_reusable = False
        try:
            connection, response = self._ask(method, target, send, deadline)
            answer = AnswerStream(connection, response, deadline, target.host_header, max_bytes)
            yield answer
            is_reusable = response.isclosed() and not response.will_close
        finally:
            deadline.cancel()
            if connection is not None:
                if is_reusable and not deadline.has_passed:
                    self._keep(target, connection)
                else:
                    connection.close()
            if response is not None and not is_reusable:
                # When the server closes after it, the socket is the answer's alone.
                response.close()

    def fetch_url(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
        max_redirects: int = MAX_REDIRECTS,
    ) -> Answer:
        """Ask for an http(s) URL. GET follows redirects, each looked at like the first.

        Args:
            timeout_s: for all hops together.

        Raises as `fetch`; RemoteUnintelligible too for what is no URL of HTTP, for too many
        redirects, and for one that leaves TLS.
        """
        ends = self._clock.monotonic() + timeout_s
        for _ in range(max_redirects + 1):
            target, path = split_url(url)
            answer = self.fetch(
                method,
                target,
                path,
                headers=headers,
                body=body,
                timeout_s=ends - self._clock.monotonic(),
                max_bytes=max_bytes,
            )
            location = answer.headers.get("Location")
            if method != "GET" or answer.status not in _REDIRECTS or not location:
                return Answer(answer.status, answer.headers, answer.body, url)
            url = _follow(url, target, location)
        raise RemoteUnintelligible(url, "It redirects too often.")

    @contextmanager
    def stream_url(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        max_bytes: int,
        max_redirects: int = MAX_REDIRECTS,
    ) -> Iterator[tuple[AnswerStream, str]]:
        """GET a URL as `fetch_url` does, but the body is read while the block runs.

        Gives the answer and the URL it came from, after redirects.
        """
        ends = self._clock.monotonic() + timeout_s
        for _ in range(max_redirects + 1):
            target, path = split_url(url)
            left_s = ends - self._clock.monotonic()
            with self.stream(
                "GET", target, path, headers=headers, timeout_s=left_s, max_bytes=max_bytes
            ) as answer:
                location = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or not location:
                    yield answer, url
                    return
            url = _follow(url, target, location)
        raise RemoteUnintelligible(url, "It redirects too often.")

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            kept = dict(self._idle)
            self._idle.clear()
            self._idle_count = 0
        _close_idle(kept)

    # ---- asking

    def _ask(
        self,
        method: str,
        target: Target,
        send: Callable[[_Connection, _Deadline], http.client.HTTPResponse],
        deadline: _Deadline,
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        """Send on a kept connection, if it lives, else on a new one."""
        kept = self._take(target)
        if kept is not None:
            try:
                return kept, send(kept, deadline)
            except RemoteTimedOut:
                kept.close()
                raise
            except RemoteUnreachable:
                kept.close()
                if method not in _REPEATABLE:
                    raise
            except BaseException:
                kept.close()
                raise
        opened = self._open(target, deadline)
        try:
            return opened, send(opened, deadline)
        except BaseException:
            opened.close()
            raise

    def _send(
        self,
        method: str,
        target: Target,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        connection: _Connection,
        deadline: _Deadline,
    ) -> http.client.HTTPResponse:
        seconds = deadline.remaining_s(target.host_header)
        connection.sock.settimeout(seconds)
        deadline.watch(connection.sock, seconds)
        with _errors_named(target.host_header, deadline):
            connection.request(method, path, body=body, headers=headers)
            return connection.getresponse()

    def _headers(
        self, target: Target, headers: Mapping[str, str], body: bytes | None
    ) -> dict[str, str]:
        length = {} if body is None else {"Content-Length": str(len(body))}
        return {
            "Host": target.host_header,
            "User-Agent": self._user_agent,
            # Compression lets a small answer become a large one.
            "Accept-Encoding": "identity",
            **length,
            **headers,
        }

    # ---- connections

    def _open(self, target: Target, deadline: _Deadline) -> _Connection:
        remote = target.host_header
        problem: Exception | None = None
        for address in self._find_addresses(target, deadline)[:_MAX_ADDRESSES_TRIED]:
            seconds = min(_CONNECT_TIMEOUT_S, deadline.remaining_s(remote))
            try:
                opened = _connect(address, target.port, seconds)
            except OSError as error:
                problem = error
                continue
            try:
                return _Connection(target, self._secure(opened, target, deadline), address)
            except BaseException:
                opened.close()
                raise
        if isinstance(problem, TimeoutError):
            raise RemoteTimedOut(remote, f"Port {target.port} does not answer.") from problem
        raise RemoteUnreachable(
            remote, f"Cannot connect to port {target.port}: {problem}"
        ) from problem

    def _find_addresses(self, target: Target, deadline: _Deadline) -> Sequence[str]:
        """The addresses of a target that may be connected to; at least one."""
        remote = target.host_header
        if _is_address(target.host):
            found: Sequence[str] = [target.host]
        else:
            seconds = min(_LOOKUP_TIMEOUT_S, deadline.remaining_s(remote))
            found = self._names.find_addresses(target.host, seconds)
        if not found:
            raise RemoteUnreachable(remote, f"There is no address of {target.host}.")
        allowed = [address for address in found if not self._blocklist.blocks(address)]
        if not allowed:
            raise RemoteBlocked(remote, "Its address is in a network that we never connect to.")
        return allowed

    def _secure(self, opened: socket.socket, target: Target, deadline: _Deadline) -> socket.socket:
        """The socket after its TLS handshake, if it is to have TLS."""
        if target.tls_name is None:
            return opened
        seconds = min(_CONNECT_TIMEOUT_S, deadline.remaining_s(target.host_header))
        opened.settimeout(seconds)
        handshake = _Deadline(self._clock, seconds)
        handshake.watch(opened, seconds)
        try:
            with _errors_named(target.host_header, handshake):
                return self._tls.wrap_socket(opened, server_hostname=target.tls_name)
        finally:
            handshake.cancel()

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        return context

    def _take(self, target: Target) -> _Connection | None:
        """A kept connection that seems to live."""
        oldest = self._clock.monotonic() - _KEPT_IDLE_S
        while True:
            with self._lock:
                idle = self._idle.get(target)
                if not idle:
                    return None
                connection = idle.pop()
                self._idle_count -= 1
                if not idle:
                    del self._idle[target]
            if connection.idle_since >= oldest and not connection.is_stale():
                return connection
            connection.close()

    def _keep(self, target: Target, connection: _Connection) -> None:
        now = connection.idle_since = self._clock.monotonic()
        surplus: list[_Connection] = []
        with self._lock:
            # The target used last stands last: what is dropped is what nobody used for long.
            idle = self._idle.pop(target, [])
            idle.append(connection)
            self._idle[target] = idle
            self._idle_count += 1
            if len(idle) > _IDLE_PER_TARGET:
                surplus.append(idle.pop(0))
                self._idle_count -= 1
            while True:
                longest, kept = next(iter(self._idle.items()))
                is_forgotten = kept[-1].idle_since < now - _KEPT_IDLE_S
                if self._idle_count <= _IDLE_IN_ALL and not is_forgotten:
                    break
                surplus += kept
                self._idle_count -= len(kept)
                del self._idle[longest]
        for one in surplus:
            one.close()


def _follow(url: str, target: Target, location: str) -> str:
    """Where a redirect leads. Raises RemoteUnintelligible when it must not be followed."""
    try:
        following = urljoin(url, location)
    except ValueError as error:
        raise RemoteUnintelligible(url, "It redirects to what is no URL.") from error
    if target.tls_name is not None and not following.startswith("https://"):
        raise RemoteUnintelligible(url, "It redirects to something without TLS.")
    return following


def _close_idle(kept: Mapping[Target, Sequence[_Connection]]) -> None:
    for connections in kept.values():
        for connection in connections:
            connection.close()


def split_url(url: str) -> tuple[Target, str]:
    """Where a URL leads, and its path with the query.

    Raises:
        RemoteUnintelligible: it is no http or https URL with a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RemoteUnintelligible(url, "This is no URL.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise RemoteUnintelligible(url, "This is no http or https URL.")
    try:
        host = host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError as error:
        raise RemoteUnintelligible(url, "Its host is no host name.") from error
    is_secure = parts.scheme == "https"
    bracketed = f"[{host}]" if ":" in host else host
    target = Target(
        host=host,
        port=port or (443 if is_secure else 80),
        tls_name=host if is_secure else None,
        host_header=bracketed if port is None else f"{bracketed}:{port}",
    )
    path = quote(parts.path or "/", safe=_URL_SAFE)
    query = f"?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else ""
    return target, path + query


def _certificate_until_s(opened: socket.socket) -> float | None:
    if not isinstance(opened, ssl.SSLSocket):
        return None
    until = (opened.getpeercert() or {}).get("notAfter")
    return float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect(address: str, port: int, timeout_s: float) -> socket.socket:
    opened = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
    )
    try:
        opened.settimeout(timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.connect((address, port))
    except BaseException:
        opened.close()
        raise
    return opened


@contextmanager
def _errors_named(remote: str, deadline: _Deadline) -> Iterator[None]:
    """Turn the errors of sockets, TLS and HTTP into RemoteErrors."""
    try:
        yield
    except RemoteError:
        raise
    except TimeoutError as error:
        raise RemoteTimedOut(remote, "It took too long.") from error
    except ssl.SSLCertVerificationError as error:
        raise RemoteUnreachable(
            remote, f"Its certificate is not valid: {error.verify_message}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if deadline.has_passed:
            raise RemoteTimedOut(remote, "It took too long.") from error
        said = str(error) or type(error).__name__
        raise RemoteUnreachable(remote, f"The connection failed: {said}") from error
