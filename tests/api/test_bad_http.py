"""Bad HTTP against the real server, byte by byte: refused or cut off, and it serves on."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.api.raw_requests import exchange
from tests.server import RunningServer, start_server

pytestmark = pytest.mark.slow

MIB: Final = 1024 * 1024


class Talker:
    """Somebody registered, with a room, who speaks bare HTTP."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        told = self._asked(
            "POST",
            "/_matrix/client/v3/register",
            {"auth": {"type": "m.login.dummy"}, "username": "alice", "password": "correct horse"},
        )
        self.token = told["access_token"]
        room_id = self._asked(
            "POST", "/_matrix/client/v3/createRoom", {"room_version": "11"}, token=self.token
        )["room_id"]
        self.room = f"/_matrix/client/v3/rooms/{room_id.replace('!', '%21').replace(':', '%3A')}"
        self._txn_ids = iter(range(10_000))

    def _asked(self, *args: Any, **more: Any) -> Any:
        status, told = self.server.request(*args, **more)
        assert status == 200, told
        return told

    def head(self, *fields: str, method: str = "PUT", path: str | None = None) -> bytes:
        """The head of a request: by default a message with a fresh transaction ID."""
        path = path or f"{self.room}/send/m.room.message/{next(self._txn_ids)}"
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"Authorization: Bearer {self.token}", *fields]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def statuses(self, sent: bytes) -> list[int]:
        """The statuses of the answers to these bytes, sent on one connection."""
        answered = exchange(self.server.url, sent)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answered)]

    def serves_on(self) -> None:
        """Fail unless another message is taken."""
        body = b'{"msgtype": "m.text", "body": "still here"}'
        fields = (f"Content-Length: {len(body)}", "Connection: close")
        assert self.statuses(self.head(*fields) + body) == [200]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talker]:
    with start_server(tmp_path_factory.mktemp("bad-http")) as server:
        yield Talker(server)


def _chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_body_in_chunks_is_read(talker: Talker) -> None:
    head = talker.head("Transfer-Encoding: chunked", "Connection: close")
    assert talker.statuses(head + _chunks(b'{"bo', b'dy": "', b'x"}')) == [200]
    head = talker.head("Transfer-Encoding: chunked", "Connection: close")
    assert talker.statuses(head + _chunks(b'{"bo')) == [400]


def _send_all_there_is(talker: Talker, sent: bytes) -> bytes:
    """Send these bytes and say that there will be no more; what is answered until the end."""
    host, _, port = talker.server.url.removeprefix("http://").partition(":")
    answered = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        # It may have enough of them before the last.
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                answered += part
    return answered


@pytest.mark.parametrize("size", [2 * MIB, 10 * MIB, 100 * MIB])
def test_large_body_is_refused_while_it_comes(talker: Talker, size: int) -> None:
    head = talker.head(f"Content-Length: {size}", "Connection: close")
    assert talker.statuses(head + b'{"body": "' + b"x" * min(size, 10 * MIB)) == [413]
    talker.serves_on()


def test_large_body_in_chunks_is_refused(talker: Talker) -> None:
    head = talker.head("Transfer-Encoding: chunked", "Connection: close")
    assert talker.statuses(head + _chunks(*[b"x" * 65_536] * 160)) == [413]
    talker.serves_on()


@pytest.mark.parametrize(
    "chunk",
    [b"zz\r\nxx\r\n", b"-1\r\n\r\n", b"fffffffffffffffff\r\nx", b"5\r\n{}", b"2\r\n{}XX0\r\n\r\n"],
    ids=["no number", "negative", "huge", "cut off", "no line end"],
)
def test_broken_chunks_are_no_success(talker: Talker, chunk: bytes) -> None:
    head = talker.head("Transfer-Encoding: chunked", "Connection: close")
    answered = _send_all_there_is(talker, head + chunk)
    assert answered == b"" or 400 <= int(answered.split(b" ", 2)[1]) < 500, answered
    talker.serves_on()


def test_slash_in_an_encoded_segment_stays_in_it(talker: Talker) -> None:
    path = f"{talker.room}/state/org.example.odd/a%2Fb%2F..%2F%25"
    fields = ("Content-Length: 10", "Connection: close")
    assert talker.statuses(talker.head(*fields, path=path) + b'{"x": "y"}') == [200]
    told = talker.server.request("GET", path, token=talker.token)
    assert told == (200, {"x": "y"})


def test_requests_in_a_row_on_one_connection_are_answered_in_order(talker: Talker) -> None:
    body = b'{"body": "x"}'
    length = f"Content-Length: {len(body)}"
    sent = (
        talker.head(length)
        + body
        + talker.head(method="GET", path="/_matrix/client/v3/nothing")
        + talker.head("Content-Length: 4")
        + b"nope"
        + talker.head(method="GET", path="/_matrix/client/versions")
        + talker.head("Connection: close", method="DELETE", path="/_matrix/client/v3/createRoom")
    )
    assert talker.statuses(sent) == [200, 404, 400, 200, 405]


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /_matrix/client/versions HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /_matrix/client/versions HTTP/1.1\r\n: no name\r\n\r\n",
        b"GET /_matrix/client/versions HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /\x00\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"POST /_matrix/client/v3/login HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /_matrix/client/v3/login HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n{}",
        b"\x00" * 100_000,
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(talker: Talker, sent: bytes) -> None:
    answered = _send_all_there_is(talker, sent)
    assert b" 500 " not in answered.split(b"\r\n", 1)[0], answered[:200]
    talker.serves_on()


SECOND: Final = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n\r\n"
LENGTH: Final = f"Content-Length: {len(SECOND)}"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([LENGTH, "Transfer-Encoding: chunked"], b"0\r\n\r\n" + SECOND),
        ([LENGTH, "Content-Length: 0"], SECOND),
        ([LENGTH, LENGTH], SECOND),
        (["Content-Length: +5"], SECOND),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n" + SECOND),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n" + SECOND),
        (["no colon", LENGTH], SECOND),
        ([LENGTH.replace(":", " :")], SECOND),
        (["X: y\r\n " + LENGTH], SECOND),
        (["X: y\r" + LENGTH], SECOND),
        (["X: y\0z", LENGTH], SECOND),
        (["X\0: y", LENGTH], SECOND),
        ([" X: y", LENGTH], SECOND),
    ],
    ids=repr,
)
def test_second_request_hides_in_no_other(talker: Talker, fields: list[str], body: bytes) -> None:
    # What a proxy reads otherwise than we do would let strangers put words into others' mouths.
    head = talker.head(*fields, method="POST", path="/_matrix/client/v3/login")
    assert talker.statuses(head + body) == [400]


def test_chunks_are_for_http_1_1(talker: Talker) -> None:
    head = talker.head("Transfer-Encoding: chunked", "Connection: keep-alive")
    answered = exchange(talker.server.url, head.replace(b"1.1", b"1.0") + b"0\r\n\r\n" + SECOND)
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert answered.count(b"HTTP/1.1 ") == 1


def test_mails_and_forms_are_bodies_like_others(talker: Talker) -> None:
    for content_type in ("message/rfc822", "multipart/mixed; boundary=x", "multipart/form-data"):
        head = talker.head(
            "Content-Length: 2", f"Content-Type: {content_type}", "Connection: close"
        )
        assert talker.statuses(head + b"{}") == [200]


def test_clients_that_vanish_in_the_middle_disturb_nobody(talker: Talker) -> None:
    host, _, port = talker.server.url.removeprefix("http://").partition(":")
    for sent in (
        talker.head("Content-Length: 1000") + b'{"body": "x',
        talker.head("Content-Length: 1000"),
        talker.head("Content-Length: 13")[:-2],
        talker.head("Transfer-Encoding: chunked") + b"400\r\nxx",
        talker.head(method="GET", path="/_matrix/client/v3/sync?timeout=30000"),
    ):
        for _ in range(3):
            connection = socket.create_connection((host, int(port)), timeout=20)
            connection.sendall(sent)
            connection.close()
    talker.serves_on()
    log = talker.server.log()
    assert "Traceback" not in log, log[-4000:]
