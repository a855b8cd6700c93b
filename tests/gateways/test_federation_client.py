"""Requests to other servers: signed for them alone, bounded, and not sent to the dead for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from architex.api.federation.authentication import parse_credentials
from architex.domain.signing import verify_signature
from architex.gateways.clock import SystemClock, SystemRandomness
from architex.gateways.errors import (
    RemoteAvoided,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnintelligible,
    RemoteUnreachable,
)
from architex.gateways.federation_client import (
    NoFederation,
    SignedFederationClient,
    federation_path,
    request_to_sign,
)
from architex.gateways.http import OutboundHttp
from architex.gateways.server_discovery import ServerDiscovery
from tests.fakes.clock import FakeClock
from tests.fakes.names import FakeNames
from tests.federation.authority import Authority
from tests.federation.peers import make_key
from tests.gateways.loopback import Loopback, Respond, reply, send_raw, serving

OURS = "ours.example"
KEY = make_key()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


class Caller:
    """A client, and the server it asks."""

    def __init__(self, ca_file: Path, server: Loopback) -> None:
        self.clock = FakeClock()
        names = FakeNames()
        self.http = OutboundHttp(names, SystemClock(), blocked_networks=(), ca_file=ca_file)
        discovery = ServerDiscovery(self.http, names, self.clock, SystemRandomness())
        self.client = SignedFederationClient(
            self.http, discovery, OURS, KEY, self.clock, SystemRandomness()
        )
        self.server = server
        self.name = f"127.0.0.1:{server.port}"


Callers = Callable[[Respond], AbstractContextManager[Caller]]


@pytest.fixture
def calling(authority: Authority) -> Callers:
    """Serves as a test wants, and calls it."""

    @contextmanager
    def call(respond: Respond) -> Iterator[Caller]:
        with serving(respond, authority.issue("127.0.0.1")) as server:
            caller = Caller(authority.ca_file, server)
            yield caller
            caller.http.close()

    return call


def test_request_is_signed_for_its_destination(calling: Callers) -> None:
    with calling(reply(b'{"a": 1}')) as caller:
        path = federation_path("v1", "send", "ä/1")
        answer = caller.client.put(
            caller.name, path, {"b": [1], "ü": "ß"}, {"c": ["d e", "f"], "g": "?"}
        )
    assert answer == {"a": 1}
    (request,) = caller.server.requests
    assert request.target == "/_matrix/federation/v1/send/%C3%A4%2F1?c=d+e&c=f&g=%3F"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == caller.name
    (credentials,) = parse_credentials(request.headers["authorization"])
    assert (credentials.origin, credentials.destination) == (OURS, caller.name)
    message = request_to_sign("PUT", request.target, OURS, caller.name, {"b": [1], "ü": "ß"})
    verify_signature(message, credentials.signature, KEY.key_id, KEY.verify_key)


def test_get_has_neither_body_nor_content(calling: Callers) -> None:
    with calling(reply()) as caller:
        caller.client.get(caller.name, "/_matrix/key/v2/server")
    (request,) = caller.server.requests
    assert (request.body, request.headers.get("content-type")) == (b"", None)
    (credentials,) = parse_credentials(request.headers["authorization"])
    message = request_to_sign("GET", request.target, OURS, caller.name)
    verify_signature(message, credentials.signature, KEY.key_id, KEY.verify_key)


def test_signed_text_is_canonical() -> None:
    assert request_to_sign("GET", "/a", "o", "d", {"b": 1, "a": 1.5}) == (
        b'{"content":{"a":1.5,"b":1},"destination":"d","method":"GET","origin":"o","uri":"/a"}'
    )
    assert b"destination" not in request_to_sign("GET", "/a", "o", None)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b'{"errcode": "M_FORBIDDEN", "error": "no", "x": 1}', "M_FORBIDDEN"),
        (b"", None),
        (b"<html>", None),
        (b'{"errcode": 5}', None),
        (b"[]", None),
    ],
)
def test_refusal_has_status_and_error_code(
    calling: Callers, body: bytes, errcode: str | None
) -> None:
    with calling(reply(body, 403)) as caller, pytest.raises(RemoteRefused) as refusal:
        caller.client.get(caller.name, "/_matrix/x")
    assert (refusal.value.status, refusal.value.errcode) == (403, errcode)


def test_refusal_says_how_long_to_wait(calling: Callers) -> None:
    answer = reply(b'{"retry_after_ms": 1}', 429, "Retry-After: 7\r\n")
    with calling(answer) as caller, pytest.raises(RemoteRefused) as refusal:
        caller.client.get(caller.name, "/_matrix/x")
    assert refusal.value.retry_after_ms == 7000


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b"[403, {}]", b"null", b"5"])
def test_answer_must_be_a_json_object(calling: Callers, body: bytes) -> None:
    with calling(reply(body)) as caller, pytest.raises(RemoteUnintelligible):
        caller.client.get(caller.name, "/_matrix/x")


def test_answer_of_version_1_is_unwrapped(calling: Callers) -> None:
    with calling(reply(b'[200, {"event": {}}]')) as caller:
        assert caller.client.put(caller.name, "/_matrix/x", {}) == {"event": {}}


def test_redirect_is_no_answer(calling: Callers) -> None:
    answer = reply(b"", 302, "Location: https://127.0.0.1/\r\n")
    with calling(answer) as caller, pytest.raises(RemoteRefused):
        caller.client.get(caller.name, "/_matrix/x")


def test_answer_is_bounded_and_can_be_streamed(calling: Callers) -> None:
    with calling(reply(b"x" * 1000)) as caller:
        with pytest.raises(RemoteTooLarge):
            caller.client.get(caller.name, "/_matrix/x", max_bytes=999)
        with caller.client.stream("PUT", caller.name, "/_matrix/x", {}, max_bytes=1000) as answer:
            assert [len(answer.read(600)), len(answer.read(600)), answer.read(600)] == [
                600,
                400,
                b"",
            ]


def test_dead_server_is_left_alone_after_the_second_failure(calling: Callers) -> None:
    with calling(send_raw(b"")) as caller:
        for _ in range(2):
            with pytest.raises(RemoteUnreachable) as error:
                caller.client.get(caller.name, "/_matrix/x")
            assert not isinstance(error.value, RemoteAvoided)
        tried = caller.server.connections
        with pytest.raises(RemoteAvoided) as avoided:
            caller.client.get(caller.name, "/_matrix/x")
        assert caller.server.connections == tried
        assert 0 < avoided.value.retry_after_s <= 1
        # Who insists may try, and so may all after a while or a sign of life.
        with pytest.raises(RemoteUnreachable):
            caller.client.get(caller.name, "/_matrix/x", despite_failures=True)
        assert caller.server.connections > tried
        caller.client.note_alive(caller.name)
        tried = caller.server.connections
        with pytest.raises(RemoteUnreachable):
            caller.client.get(caller.name, "/_matrix/x")
        assert caller.server.connections > tried


def test_rest_of_a_dead_server_grows_to_a_minute(calling: Callers) -> None:
    with calling(send_raw(b"")) as caller:
        for _ in range(12):
            with pytest.raises(RemoteUnreachable):
                caller.client.get(caller.name, "/_matrix/x", despite_failures=True)
        with pytest.raises(RemoteAvoided) as avoided:
            caller.client.get(caller.name, "/_matrix/x")
        assert 40 < avoided.value.retry_after_s <= 60
        caller.clock.pass_seconds(61)
        with pytest.raises(RemoteUnreachable) as error:
            caller.client.get(caller.name, "/_matrix/x")
        assert not isinstance(error.value, RemoteAvoided)


def test_refusals_are_signs_of_life(calling: Callers) -> None:
    with calling(reply(b"{}", 404)) as caller:
        for _ in range(5):
            with pytest.raises(RemoteRefused):
                caller.client.get(caller.name, "/_matrix/x")
    assert len(caller.server.requests) == 5


def test_so_many_requests_to_one_server_at_once_and_no_more(calling: Callers) -> None:
    together, most = [0], [0]
    lock, go = threading.Lock(), threading.Event()

    def respond(request: Any, connection: Any) -> None:
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
            if together[0] == 12:
                go.set()
        go.wait(5)
        with lock:
            together[0] -= 1
        reply()(request, connection)

    with calling(respond) as caller:
        threads = [
            threading.Thread(target=caller.client.get, args=(caller.name, "/_matrix/x"))
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 12


def test_we_do_not_ask_ourselves(calling: Callers) -> None:
    with calling(reply()) as caller, pytest.raises(RemoteUnreachable):
        caller.client.get(OURS, "/_matrix/x")


def test_without_federation_nobody_is_reached() -> None:
    nobody = NoFederation()
    for ask in (nobody.get, nobody.put, nobody.post):
        with pytest.raises(RemoteUnreachable):
            ask("a.example", "/_matrix/x", {})
    with pytest.raises(RemoteUnreachable):
        nobody.stream("GET", "a.example", "/_matrix/x")
