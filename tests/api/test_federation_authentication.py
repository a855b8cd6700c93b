"""Requests of other servers: who may claim to be whom, and what each signature covers.

Spec: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon
import falcon.testing
import pytest

from architex.api.app import create_app
from architex.api.authentication import Authenticator
from architex.api.federation.authentication import (
    ServerAuthenticator,
    parse_credentials,
    require_server,
    signed_content,
)
from architex.api.routing import Route
from architex.bootstrap import build_core, build_use_cases
from architex.bootstrap.web import build_app
from architex.domain.errors import InvalidParam, MatrixError, Unauthorized
from architex.settings import FederationSettings
from tests.api.client import SERVER_NAME, Answer, Server, settings_for, stop_server
from tests.fakes.federation_client import FakeFederation
from tests.federation.peers import Peer, make_key

HOUR_MS = 3_600_000
KEYS = "/_matrix/key/v2/server"


class EchoResource:
    """Says who asked, and what."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **_: str) -> None:
        resp.media = {"origin": require_server(req)}

    def on_put(self, req: falcon.Request, resp: falcon.Response, **_: str) -> None:
        resp.media = {"origin": require_server(req), "content": signed_content(req)}

    on_post = on_put


class World:
    """A server that echoes to servers, and a peer whose keys it can get."""

    def __init__(self, conninfo: str, directory: Path) -> None:
        settings = settings_for(directory)
        self.core = build_core(settings, conninfo=conninfo)
        self.federation = FakeFederation()
        use_cases = build_use_cases(settings, self.core, self.federation)
        servers = ServerAuthenticator(SERVER_NAME, use_cases.key_ring, self.federation.note_alive)
        authenticator = Authenticator(use_cases.sessions, use_cases.rate_limits, servers)
        echo = EchoResource()
        self.server = Server(
            create_app(authenticator, [Route("/_matrix/echo", echo), Route("/_matrix/{a}", echo)]),
            self.core,
        )
        self.peer = self.meet("peer.example")

    def meet(self, name: str) -> Peer:
        peer = Peer(name)
        told = peer.tell_keys(self.core.clock.now_ms() + HOUR_MS)
        self.federation.replies[name, KEYS] = told
        return peer

    def send(
        self,
        authorization: str | None,
        *,
        method: str = "PUT",
        uri: str = "/_matrix/echo",
        body: bytes | None = b'{"a": 1}',
    ) -> Answer:
        path, _, query = uri.partition("?")
        result = falcon.testing.simulate_request(
            self.server.app,
            method,
            path,
            query_string=query,
            body=body,
            headers={} if authorization is None else {"Authorization": authorization},
            extras={"RAW_URI": uri},
        )
        return Answer(result.status_code, result.json, result.headers)


@pytest.fixture(scope="module")
def world(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    started = World(module_database_url, tmp_path_factory.mktemp("server"))
    yield started
    stop_server(started.server)


def test_signed_request_is_let_in(world: World) -> None:
    header = world.peer.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    assert world.send(header).ok() == {"origin": "peer.example", "content": {"a": 1}}
    assert world.federation.alive[-1] == "peer.example"
    header = world.peer.authorize("GET", "/_matrix/echo?b=%20+c", SERVER_NAME)
    assert world.send(header, method="GET", uri="/_matrix/echo?b=%20+c", body=None).ok()


def test_signature_covers_the_path_as_it_was_sent(world: World) -> None:
    uri = "/_matrix/a%2Fb%3f"
    header = world.peer.authorize("PUT", uri, SERVER_NAME, {"a": 1})
    world.send(header, uri=uri).ok()
    world.send(header, uri="/_matrix/a%2fb%3F").refused(401, "M_UNAUTHORIZED")


def test_old_servers_name_no_destination(world: World) -> None:
    world.send(world.peer.authorize("PUT", "/_matrix/echo", None, {"a": 1})).ok()


@pytest.mark.parametrize("destination", ["other.example", SERVER_NAME.upper(), ""])
def test_request_for_another_server_is_refused(world: World, destination: str) -> None:
    header = world.peer.authorize("PUT", "/_matrix/echo", destination, {"a": 1})
    world.send(header).refused(401, "M_UNAUTHORIZED")
    # Nor does it help to leave out what was signed, or to add what was not.
    stripped = header.replace(f',destination="{destination}"', "")
    world.send(stripped).refused(401, "M_UNAUTHORIZED")
    mine = header.replace(f'"{destination}"', f'"{SERVER_NAME}"')
    world.send(mine).refused(401, "M_UNAUTHORIZED")


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "POST"},
        {"uri": "/_matrix/echo?a=b"},
        {"uri": "/_matrix/other"},
        {"body": b'{"a": 2}'},
        {"body": b'{"a": 1.5}'},
        {"body": b'{"a": 1, "b": 2}'},
        {"body": b""},
    ],
)
def test_signature_cannot_be_used_for_another_request(
    world: World, changed: dict[str, Any]
) -> None:
    header = world.peer.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    world.send(header, **changed).refused(401, "M_UNAUTHORIZED")


def test_signature_of_another_server_does_not_count(world: World) -> None:
    other = world.meet("other.example")
    impostor = Peer("peer.example", other.key)
    header = impostor.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    world.send(header).refused(401, "M_UNAUTHORIZED")


def test_unknown_and_expired_keys_do_not_count(world: World) -> None:
    stranger = Peer("stranger.example")
    header = stranger.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    world.send(header).refused(401, "M_UNAUTHORIZED")
    late = Peer("late.example")
    told = late.tell_keys(world.core.clock.now_ms() - 1)
    world.federation.replies["late.example", KEYS] = told
    header = late.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    world.send(header).refused(401, "M_UNAUTHORIZED")


def test_request_without_signature_is_refused(world: World) -> None:
    world.send(None).refused(401, "M_UNAUTHORIZED")
    world.send("Bearer abc").refused(401, "M_UNAUTHORIZED")


def test_origin_must_be_a_server_name(world: World) -> None:
    peer = Peer("localhost:http")
    header = peer.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    world.send(header).refused(400, "M_INVALID_PARAM")
    assert not any(asked[1] == "localhost:http" for asked in world.federation.asked)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [(b"[]", "M_BAD_JSON"), (b"{", "M_NOT_JSON"), (b'"a"', "M_BAD_JSON"), (b"\xff", "M_NOT_JSON")],
)
def test_body_must_be_an_object(world: World, body: bytes, errcode: str) -> None:
    header = world.peer.authorize("PUT", "/_matrix/echo", SERVER_NAME, {})
    world.send(header, body=body).refused(400, errcode)


def test_floats_of_old_rooms_can_be_signed(world: World) -> None:
    content = {"a": 1.5, "b": 10**20, "c": "ü"}
    header = world.peer.authorize("PUT", "/_matrix/echo", SERVER_NAME, content)
    assert world.send(header, body=json.dumps(content).encode()).ok()["content"] == content


def test_one_of_several_keys_is_enough(world: World) -> None:
    unknown = Peer("peer.example", make_key("unknown"))
    headers = [
        one.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
        for one in (unknown, world.peer)
    ]
    world.send(",".join(headers)).ok()
    other = world.meet("other.example")
    mixed = other.authorize("PUT", "/_matrix/echo", SERVER_NAME, {"a": 1})
    world.send(f"{headers[1]},{mixed}").refused(401, "M_UNAUTHORIZED")


# ---- the header


@pytest.mark.parametrize(
    "header",
    [
        'X-Matrix origin="a.b:1",destination="d",key="ed25519:1",sig="s+/="',
        "X-Matrix origin=a.b:1,destination=d,key=ed25519:1,sig=s+/=",
        'x-matrix   ORIGIN="a.b:1" ,\tDestination=d , Key="ed25519:1", sig="s+/="',
        'X-Matrix sig="s+/=",key="ed\\25519:1",origin="a\\.b:1",destination="d"',
        'X-Matrix origin="a.b:1",destination="d",key="ed25519:1",sig="s+/=",more="x,y",',
    ],
)
def test_header_is_read_as_the_grammar_allows(header: str) -> None:
    (one,) = parse_credentials(header)
    assert (one.origin, one.destination, one.key_id, one.signature) == (
        "a.b:1",
        "d",
        "ed25519:1",
        "s+/=",
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        "X-Matrix",
        "X-Matrix ",
        "X-Matrix origin",
        "Basic abc",
        'X-Matrix origin="a.b",key="ed25519:1"',
        'X-Matrix origin="",key="ed25519:1",sig="s"',
        'X-Matrix origin="a.b",origin="c.d",key="ed25519:1",sig="s"',
        'X-Matrix origin="a.b",key="ed25519:1",sig="s" trailing',
        'X-Matrix origin="a.b",key="ed25519:1",sig="unfinished',
        'X-Matrix origin="a b",key="ed25519:1",sig="s"',
        "X-Matrix " + "a=b," * 10_000,
        "X-Matrix " + "\\" * 10_000,
        'X-Matrix origin="' + "\\" * 9_999,
    ],
)
def test_header_of_another_form_is_refused(header: str) -> None:
    with pytest.raises((Unauthorized, InvalidParam)) as refusal:
        parse_credentials(header)
    assert isinstance(refusal.value, MatrixError)


# ---- what anybody may ask


@pytest.fixture(scope="module")
def whole(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = settings_for(tmp_path_factory.mktemp("whole"))
    core = build_core(settings, conninfo=module_database_url)
    federation = FakeFederation()
    peer = Peer("told.example")
    federation.replies["told.example", KEYS] = peer.tell_keys(core.clock.now_ms() + HOUR_MS)
    server = Server(build_app(settings, core, federation), core)
    yield server
    stop_server(server)


@pytest.mark.parametrize("path", [KEYS, f"{KEYS}/ed25519:auto"])
def test_own_keys_are_told_to_anybody(whole: Server, path: str) -> None:
    told = whole.request("GET", path).ok()
    assert told["server_name"] == SERVER_NAME
    assert whole.core.signing_key.key_id in told["verify_keys"]


def test_notary_answers_to_get_and_post(whole: Server) -> None:
    query = "/_matrix/key/v2/query"
    one = whole.request("GET", f"{query}/told.example").ok()
    assert whole.request("GET", f"{query}/told.example/ed25519:k1").ok() == one
    body: Any = {"server_keys": {"told.example": {"ed25519:k1": {}}, "gone.example": {}}}
    assert whole.request("POST", query, body).ok() == one
    assert [told["server_name"] for told in one["server_keys"]] == ["told.example"]
    assert SERVER_NAME in one["server_keys"][0]["signatures"]
    assert whole.request("POST", query, {"server_keys": {}}).ok() == {"server_keys": []}


def test_notary_refuses_what_is_no_query(whole: Server) -> None:
    query = "/_matrix/key/v2/query"
    whole.request("POST", query, {}).refused(400, "M_BAD_JSON")
    whole.request("POST", query, {"server_keys": []}).refused(400, "M_BAD_JSON")
    many: Any = {f"s{number}.example": {} for number in range(201)}
    whole.request("POST", query, {"server_keys": many}).refused(400, "M_BAD_JSON")
    whole.request("GET", f"{query}/a%20b").refused(400, "M_INVALID_PARAM")
    whole.request("GET", f"{query}/a.b", params={"minimum_valid_until_ts": "x"}).refused(
        400, "M_INVALID_PARAM"
    )
    odd = {"server_keys": {"told.example": {"x": 5}, "a b": {}, "gone.example": 5}}
    assert len(whole.request("POST", query, odd).ok()["server_keys"]) == 1


def test_version_is_told_to_anybody(whole: Server) -> None:
    told = whole.request("GET", "/_matrix/federation/v1/version").ok()
    assert told["server"]["name"] == "Architex"


def test_server_that_does_not_federate_has_no_federation_endpoints(
    module_database_url: str, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, federation=FederationSettings(enabled=False))
    core = build_core(settings, conninfo=module_database_url)
    server = Server(build_app(settings, core), core)
    server.request("GET", KEYS).refused(404, "M_UNRECOGNIZED")
    stop_server(server)
