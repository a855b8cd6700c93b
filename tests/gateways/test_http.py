"""The outbound HTTP client is bounded in every way, and connects to nothing it must not."""

from __future__ import annotations

import datetime
import itertools
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from architex.gateways.clock import SystemClock
from architex.gateways.errors import (
    RemoteBlocked,
    RemoteError,
    RemoteTimedOut,
    RemoteTooLarge,
    RemoteUnintelligible,
    RemoteUnreachable,
)
from architex.gateways.http import Answer, Blocklist, OutboundHttp, Target, split_url
from architex.settings import PRIVATE_NETWORKS
from tests.fakes.names import FakeNames
from tests.federation.authority import Authority
from tests.gateways.loopback import Loopback, Request, reply, send_raw, serving
from tests.waiting import eventually


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def client(
    names: FakeNames | None = None,
    *,
    blocked: Sequence[str] = (),
    ca_file: Path | None = None,
) -> OutboundHttp:
    return OutboundHttp(
        names or FakeNames(), SystemClock(), blocked_networks=blocked, ca_file=ca_file
    )


def plain(server: Loopback, host: str = "127.0.0.1") -> Target:
    return Target(host, server.port, None, f"{host}:{server.port}")


def ask(http: OutboundHttp, target: Target, method: str = "GET", **more: Any) -> Answer:
    """A request, on a connection of its own."""
    try:
        return http.fetch(
            method, target, more.pop("path", "/"), **{"timeout_s": 5, "max_bytes": 1000, **more}
        )
    finally:
        http.close()


def test_request_arrives_as_given() -> None:
    with serving(reply(b'{"a":1}', headers="X-A: b\r\n")) as server:
        answer = ask(
            client(),
            Target("127.0.0.1", server.port, None, "matrix.example"),
            "PUT",
            path="/a%2Fb?c=%20",
            headers={"Content-Type": "application/json"},
            body=b"[]",
        )
    assert (answer.status, answer.body, answer.headers["x-a"]) == (200, b'{"a":1}', "b")
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("PUT", "/a%2Fb?c=%20", b"[]")
    assert request.headers["host"] == "matrix.example"
    assert request.headers["content-type"] == "application/json"


def test_connection_is_used_again() -> None:
    http = client()
    with serving(reply()) as server:
        for _ in range(3):
            http.fetch("POST", plain(server), "/", body=b"", timeout_s=5, max_bytes=9)
        http.close()
    assert (len(server.requests), server.connections) == (3, 1)


def test_connections_to_hundreds_of_servers_are_kept_and_not_to_any_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = FakeNames({f"s{number}.example": ["127.0.0.1"] for number in range(120)})
    http = client(names)
    with serving(reply()) as server:

        def ask_all(count: int) -> int:
            """The number of connections that it took."""
            before = server.connections
            for number in range(count):
                target = plain(server, f"s{number}.example")
                http.fetch("PUT", target, "/", body=b"", timeout_s=5, max_bytes=9)
            return server.connections - before

        assert (ask_all(120), ask_all(120)) == (120, 0)
        monkeypatch.setattr("architex.gateways.http._IDLE_IN_ALL", 50)
        ask_all(50)
        assert ask_all(50) == 0
        assert ask_all(51) == 1
        assert ask_all(1) == 1  # which the one before took the place of
        http.close()


def test_connection_closed_by_the_server_is_not_used_again() -> None:
    http = client()
    with serving(reply(close=True)) as server:
        for _ in range(3):
            http.fetch("POST", plain(server), "/", body=b"", timeout_s=5, max_bytes=9)
            # The answer comes before the end of its connection.
            eventually(lambda: server.closed == server.connections)
        http.close()
    assert (len(server.requests), server.connections) == (3, 3)


def test_connection_that_the_server_will_close_is_not_used_again() -> None:
    http = client()
    with serving(reply(headers="Connection: close\r\n")) as server:
        for _ in range(3):
            http.fetch("POST", plain(server), "/", body=b"", timeout_s=5, max_bytes=9)
        http.close()
    assert (len(server.requests), server.connections) == (3, 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n",
    ],
    ids=["with length", "until the end", "in chunks"],
)
def test_answer_larger_than_agreed_is_refused(raw: bytes) -> None:
    with serving(send_raw(raw)) as server, pytest.raises(RemoteTooLarge):
        ask(client(), plain(server))


def test_answer_as_large_as_agreed_is_taken() -> None:
    with serving(reply(b"x" * 1000)) as server:
        assert len(ask(client(), plain(server)).body) == 1000


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    ],
)
def test_broken_answer_is_a_remote_error(raw: bytes) -> None:
    with serving(send_raw(raw)) as server, pytest.raises(RemoteError):
        ask(client(), plain(server))


def drip(pieces: Any) -> Any:
    """Sends a piece every 50 milliseconds, for ever."""

    def respond(request: Request, connection: socket.socket) -> None:
        gone = threading.Event()
        for piece in pieces():
            connection.sendall(piece)
            gone.wait(0.05)

    return respond


SLOW = [
    lambda: itertools.repeat(b""),
    lambda: itertools.chain([b"HTTP/1.1 200 OK\r\nA: "], itertools.repeat(b"b")),
    lambda: itertools.chain([b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"], [b"x"] * 900),
    lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b"x")),
]


@pytest.mark.parametrize("pieces", SLOW, ids=["silent", "header", "body", "endless"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_slow_answer_ends_in_time(pieces: Any, secure: bool, authority: Authority) -> None:
    certificate = authority.issue("127.0.0.1") if secure else None
    http = client(ca_file=authority.ca_file)
    with serving(drip(pieces), certificate) as server:
        target = Target("127.0.0.1", server.port, "127.0.0.1" if secure else None, "slow.example")
        with pytest.raises(RemoteTimedOut):
            ask(http, target, timeout_s=0.4)


def test_server_that_never_ends_the_tls_handshake_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target("127.0.0.1", listener.getsockname()[1], "a.example", "a.example")
        with pytest.raises(RemoteTimedOut):
            ask(client(), target, timeout_s=0.3)


# ---- certificates


def test_certificate_must_be_for_the_tls_name_and_not_for_the_host(authority: Authority) -> None:
    http = client(FakeNames({"srv.example": ["127.0.0.1"]}), ca_file=authority.ca_file)
    with serving(reply(), authority.issue("matrix.example")) as server:
        target = Target("srv.example", server.port, "matrix.example", "matrix.example")
        assert ask(http, target).status == 200
        assert server.tls_names == ["matrix.example"]
        with pytest.raises(RemoteUnreachable, match="certificate"):
            ask(http, Target("srv.example", server.port, "srv.example", "matrix.example"))


def test_ip_address_is_verified_and_not_sent_as_a_name(authority: Authority) -> None:
    with serving(reply(), authority.issue("127.0.0.1")) as server:
        target = Target("127.0.0.1", server.port, "127.0.0.1", "127.0.0.1")
        assert ask(client(ca_file=authority.ca_file), target).status == 200
    assert server.tls_names == [None]


def test_unknown_or_expired_certificates_are_not_taken(authority: Authority) -> None:
    with serving(reply(), authority.issue("127.0.0.1")) as server:
        target = Target("127.0.0.1", server.port, "127.0.0.1", "127.0.0.1")
        with pytest.raises(RemoteUnreachable, match="certificate"):
            ask(client(), target)
    over = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC)
    with serving(reply(), authority.issue("127.0.0.1", until=over)) as server:
        target = Target("127.0.0.1", server.port, "127.0.0.1", "127.0.0.1")
        with pytest.raises(RemoteUnreachable, match="expired"):
            ask(client(ca_file=authority.ca_file), target)
    assert server.requests == []


# ---- where we never connect to


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",  # noqa: S104 - refused
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "nonsense",
    ],
)
def test_private_addresses_are_blocked_however_written(address: str) -> None:
    assert Blocklist(PRIVATE_NETWORKS).blocks(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_not_blocked(address: str) -> None:
    assert not Blocklist(PRIVATE_NETWORKS).blocks(address)


def test_name_that_resolves_to_a_blocked_address_is_not_connected_to() -> None:
    names = FakeNames({"evil.example": ["127.0.0.1", "::ffff:127.0.0.1"]})
    http = client(names, blocked=PRIVATE_NETWORKS)
    with serving(reply()) as server:
        with pytest.raises(RemoteBlocked):
            ask(http, plain(server, "evil.example"))
        with pytest.raises(RemoteBlocked):
            ask(http, plain(server, "127.0.0.1"))
        assert server.connections == 0


def test_blocked_among_allowed_addresses_is_passed_over() -> None:
    names = FakeNames({"two.example": ["127.0.0.2", "127.0.0.1"]})
    with serving(reply()) as server:
        http = client(names, blocked=["127.0.0.2/32"])
        assert ask(http, plain(server, "two.example")).status == 200


def test_second_address_is_tried_when_the_first_refuses() -> None:
    names = FakeNames({"two.example": ["127.0.0.3", "127.0.0.1"]})
    with serving(reply()) as server:
        assert ask(client(names), plain(server, "two.example")).status == 200


def test_name_is_looked_up_once_per_connection() -> None:
    # A second lookup, after the check, could give another address.
    names = FakeNames({"a.example": ["127.0.0.1"]})
    with serving(reply()) as server:
        ask(client(names), plain(server, "a.example"))
    assert names.asked == ["a.example"]


def test_unknown_name_is_unreachable() -> None:
    with pytest.raises(RemoteUnreachable, match="no address"):
        ask(client(), Target("gone.example", 1, None, "gone.example"))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(reply()) as server:
        assert ask(client(), plain(server)).status == 200


# ---- URLs and redirects


def redirect(locations: dict[str, str]) -> Any:
    def respond(request: Request, connection: socket.socket) -> None:
        location = locations.get(request.target)
        if location is None:
            reply(b"arrived")(request, connection)
        else:
            reply(b"", 302, f"Location: {location}\r\n")(request, connection)

    return respond


def fetch_url(http: OutboundHttp, url: str, method: str = "GET") -> Answer:
    try:
        return http.fetch_url(method, url, timeout_s=5, max_bytes=100)
    finally:
        http.close()


def test_redirects_are_followed() -> None:
    with serving(redirect({"/a": "/b", "/b": "c?d=e"})) as server:
        answer = fetch_url(client(), f"http://127.0.0.1:{server.port}/a")
    assert (answer.body, answer.url[-6:]) == (b"arrived", "/c?d=e")


def test_redirect_of_a_post_is_given_to_the_caller() -> None:
    with serving(redirect({"/a": "/b"})) as server:
        assert fetch_url(client(), f"http://127.0.0.1:{server.port}/a", "POST").status == 302


def test_redirect_loop_ends() -> None:
    with serving(redirect({"/a": "/a"})) as server, pytest.raises(RemoteUnintelligible):
        fetch_url(client(), f"http://127.0.0.1:{server.port}/a")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://a.example/", "http://[::1", "http://a:b/", "//"]
)
def test_redirect_to_anything_but_http_is_refused(location: str) -> None:
    with serving(redirect({"/a": location})) as server, pytest.raises(RemoteError):
        fetch_url(client(), f"http://127.0.0.1:{server.port}/a")


def test_redirect_to_a_blocked_address_is_refused() -> None:
    with serving(reply()) as inner:
        with serving(redirect({"/a": f"http://127.0.0.2:{inner.port}/"})) as outer:
            http = client(blocked=["127.0.0.2/32"])
            with pytest.raises(RemoteBlocked):
                fetch_url(http, f"http://127.0.0.1:{outer.port}/a")
        assert inner.connections == 0


def test_redirect_does_not_leave_tls(authority: Authority) -> None:
    with serving(reply()) as inner:
        locations = {"/a": f"http://127.0.0.1:{inner.port}/"}
        with serving(redirect(locations), authority.issue("127.0.0.1")) as outer:
            http = client(ca_file=authority.ca_file)
            with pytest.raises(RemoteUnintelligible):
                fetch_url(http, f"https://127.0.0.1:{outer.port}/a")
        assert inner.connections == 0


@pytest.mark.parametrize(
    ("url", "target", "path"),
    [
        ("https://a.example", Target("a.example", 443, "a.example", "a.example"), "/"),
        ("http://a.example:81/x y", Target("a.example", 81, None, "a.example:81"), "/x%20y"),
        ("https://[::1]:8/?q=1#f", Target("::1", 8, "::1", "[::1]:8"), "/?q=1"),
        ("https://user:pw@a.example/", Target("a.example", 443, "a.example", "a.example"), "/"),
        (
            "https://bücher.example/ü",
            Target("xn--bcher-kva.example", 443, "xn--bcher-kva.example", "xn--bcher-kva.example"),
            "/%C3%BC",
        ),
    ],
)
def test_urls_are_split(url: str, target: Target, path: str) -> None:
    assert split_url(url) == (target, path)


def test_header_injection_is_refused() -> None:
    with serving(reply()) as server:
        for path in ("/a b", "/a\r\nX: y"):
            with suppress(RemoteError):
                ask(client(), plain(server), path=path)
        assert all("x" not in request.headers for request in server.requests)
