"""The gunicorn worker serves plain and TLS listeners, stops at once, and is strict about HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from architex.api.gunicorn_worker import (
    HeaderFields,
    ReloadingCertificate,
    TlsFiles,
    find_client_address,
)
from tests.certificates import write_certificate
from tests.ports import free_port

_CONFIGURATION = """
from pathlib import Path
from architex.api.gunicorn_worker import TlsFiles, worker_class_for
bind = ["127.0.0.1:{plain}", "127.0.0.1:{tls}"]
worker_class = worker_class_for(
    [None, TlsFiles(Path("{directory}/tls.crt"), Path("{directory}/tls.key"))]
)
workers = 1
graceful_timeout = 5
control_socket_disable = True
"""


@dataclass
class Gunicorn:
    """A running gunicorn with our worker and the parking application."""

    process: subprocess.Popen[bytes]
    port: int
    tls_port: int
    certificate: Path

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def get(self, path: str) -> tuple[int, str]:
        connection = self.connect()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def send_raw(self, request: bytes) -> bytes:
        """Everything the server says to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            answer = b""
            while part := raw.recv(65_536):
                answer += part
            return answer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gunicorn")
    write_certificate(directory, "first")
    return directory


def _start(directory: Path) -> Gunicorn:
    plain, tls = free_port(), free_port()
    configuration = directory / f"gunicorn-{plain}.conf.py"
    configuration.write_text(_CONFIGURATION.format(plain=plain, tls=tls, directory=directory))
    command = [sys.executable, "-m", "gunicorn", "-c", str(configuration)]
    with (directory / f"gunicorn-{plain}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "tests.api.parking_app"],
            cwd=Path(__file__).parent.parent.parent,
            stderr=log,
        )
    server = Gunicorn(process, plain, tls, directory / "tls.crt")
    for _ in range(600):
        try:
            server.get("/")
        except OSError:
            time.sleep(0.025)
        else:
            return server
    process.kill()
    raise AssertionError((directory / f"gunicorn-{plain}.log").read_text())


def _stop(server: Gunicorn) -> None:
    if server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(10)
        finally:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="module")
def shared(directory: Path) -> Iterator[Gunicorn]:
    """For the tests that leave it running."""
    server = _start(directory)
    yield server
    _stop(server)


@pytest.fixture
def own(directory: Path) -> Iterator[Gunicorn]:
    """For the tests that stop it."""
    server = _start(directory)
    yield server
    _stop(server)


def test_parked_requests_are_answered_when_the_server_stops(own: Gunicorn) -> None:
    answers: list[tuple[int, str]] = []
    parked = [threading.Thread(target=lambda: answers.append(own.get("/park"))) for _ in range(10)]
    for thread in parked:
        thread.start()
    idle = own.connect()
    idle.request("GET", "/")
    idle.getresponse().read()  # and keep the connection open
    time.sleep(0.3)  # the parked ones are on their way; those too late are refused, and fail below
    own.process.send_signal(signal.SIGTERM)
    for thread in parked:
        thread.join(15)
    own.process.wait(15)
    assert answers == [(200, "stopping: True")] * 10
    assert own.process.returncode == 0
    idle.close()


def test_who_had_just_connected_is_answered_when_the_server_stops(own: Gunicorn) -> None:
    connections = [own.connect() for _ in range(20)]
    silent, parked = own.connect(), own.connect()
    for connection in (*connections, silent):
        connection.connect()
    parked.request("GET", "/park")
    time.sleep(0.3)  # they are accepted; those that are not find nobody, and fail below
    own.process.send_signal(signal.SIGTERM)
    assert parked.getresponse().read() == b"stopping: True"
    for connection in connections:
        connection.request("GET", "/")
    for connection in connections:
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (200, "close")
        connection.close()
    # Who says nothing keeps nobody waiting.
    own.process.wait(15)
    assert own.process.returncode == 0
    silent.close()


def test_listener_with_a_certificate_speaks_tls_and_the_other_does_not(shared: Gunicorn) -> None:
    context = ssl.create_default_context(cafile=shared.certificate)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", shared.tls_port, context=context, timeout=30
    )
    connection.request("GET", "/scheme")
    assert connection.getresponse().read() == b"https"
    connection.close()
    assert shared.get("/scheme") == (200, "http")


def test_one_bad_tls_handshake_disturbs_nobody(shared: Gunicorn) -> None:
    with socket.create_connection(("127.0.0.1", shared.tls_port), timeout=30) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            raw.recv(100)
    assert shared.get("/") == (200, "hello")


def _name_served(server_context: ssl.SSLContext) -> str:
    """The name in the certificate that a client gets to see, by a handshake in memory."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    der = client.getpeercert(binary_form=True)
    assert der is not None
    name = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    return name.removeprefix("CN=")


def test_renewed_certificate_is_taken_up(tmp_path: Path) -> None:
    write_certificate(tmp_path, "first")
    certificate = ReloadingCertificate(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key"))
    assert _name_served(certificate.context) == "first"
    write_certificate(tmp_path, "second")
    certificate.reload_if_changed()
    assert _name_served(certificate.context) == "second"


def test_half_renewed_certificate_changes_nothing(tmp_path: Path) -> None:
    write_certificate(tmp_path, "first")
    certificate = ReloadingCertificate(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key"))
    (tmp_path / "tls.crt").write_text("half of a certif")
    certificate.reload_if_changed()
    assert _name_served(certificate.context) == "first"


def test_encoded_slash_is_told_from_a_slash(shared: Gunicorn) -> None:
    assert shared.get("/raw/a%2Fb/c") == (200, "/raw/a%2Fb/c")


def test_chunked_body_is_read(shared: Gunicorn) -> None:
    answer = shared.send_raw(
        b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert answer.endswith(b"\r\n\r\n5")


def test_answer_reaches_a_client_whose_large_body_nobody_read(shared: Gunicorn) -> None:
    connection = shared.connect()
    connection.request("POST", "/", body=b"x" * 10_000_000)
    assert connection.getresponse().read() == b"hello"
    connection.request("GET", "/")  # and the connection is still of use
    assert connection.getresponse().read() == b"hello"
    connection.close()


@pytest.mark.parametrize(
    "head",
    [
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4",
        "POST / HTTP/1.1\r\nContent-Length: +3",
        "POST / HTTP/1.1\r\nContent-Length: -3",
        "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "GET / HTTP/9.9",
        "GET /",
        "nonsense",
    ],
)
def test_request_that_could_be_read_in_two_ways_is_refused(shared: Gunicorn, head: str) -> None:
    answer = shared.send_raw(f"{head}\r\nHost: a\r\n\r\nabc".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "proxies", "client"),
    [
        ("203.0.113.9", "", [], "203.0.113.9"),
        ("::ffff:203.0.113.9", "", [], "203.0.113.9"),
        ("203.0.113.9", "10.9.9.9", [], "203.0.113.9"),
        ("203.0.113.9", "10.9.9.9", ["127.0.0.1/32"], "203.0.113.9"),
        ("127.0.0.1", "203.0.113.9", ["127.0.0.1/32"], "203.0.113.9"),
        ("127.0.0.1", "10.9.9.9, 203.0.113.9", ["127.0.0.1/32"], "203.0.113.9"),
        ("127.0.0.1", "10.9.9.9, 203.0.113.9", ["127.0.0.1", "203.0.0.0/16"], "10.9.9.9"),
        ("127.0.0.1", "2001:db8::1", ["127.0.0.1/32"], "2001:db8::1"),
        ("127.0.0.1", "<script>", ["127.0.0.1/32"], "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(
    peer: str, forwarded_for: str, proxies: list[str], client: str
) -> None:
    networks = [ipaddress.ip_network(proxy) for proxy in proxies]
    assert find_client_address(peer, forwarded_for, networks) == client


def test_long_query_is_taken(shared: Gunicorn) -> None:
    assert shared.get("/?filter=" + "x" * 20_000) == (200, "hello")


def test_endless_request_line_is_refused(shared: Gunicorn) -> None:
    answer = shared.send_raw(b"GET /?" + b"x" * (32_768 - 6))
    assert answer.startswith(b"HTTP/1.1 414 ")


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ([f"X-{n}: x" for n in range(100)], True),
        ([f"X-{n}: x" for n in range(101)], False),
        (["X: " + "x" * 65_000], True),
        (["X: " + "x" * 65_536], False),
        ([f"X-{n}: " + "x" * 1_000 for n in range(70)], False),
    ],
    ids=["100", "101", "one of 65,000 bytes", "one of 65,536 bytes", "70,000 bytes"],
)
def test_head_has_up_to_a_hundred_fields_and_64_kib(fields: list[str], fits: bool) -> None:
    head = io.BytesIO(("\r\n".join(fields) + "\r\n\r\n").encode())
    with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="head"):
        assert list(HeaderFields.read(head).in_environ())


def test_fields_are_read_as_written_and_found_in_any_case() -> None:
    head = io.BytesIO(b"Content-Type: text/plain\r\nx-a:  1 \r\nX_A: 2\r\nX-A: \xe9\r\n\r\n")
    fields = HeaderFields.read(head)
    assert fields.get("CONTENT-TYPE") == fields.typeheader == "text/plain"
    assert fields.get_all("x-a") == ["1", "é"]
    # One with an underscore would pass for the others; the type has a name of its own.
    assert list(fields.in_environ()) == [("HTTP_X_A", "1"), ("HTTP_X_A", "é")]
