"""Identity servers are asked by the spec's forms; hostile ones get nothing out of it.

Spec: https://spec.matrix.org/v1.19/identity-service-api/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from architex.api.federation.authentication import parse_credentials
from architex.domain.canonical_json import encode_canonical_json
from architex.domain.signing import verify_signature
from architex.domain.third_party import parse_email
from architex.gateways.clock import SystemClock
from architex.gateways.errors import (
    RemoteBlocked,
    RemoteError,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnintelligible,
)
from architex.gateways.http import OutboundHttp
from architex.gateways.identity_server import HttpIdentityServerClient
from tests.fakes.identity_server import PREFIX, TOKEN, IdentityServer, serving_identities
from tests.fakes.names import FakeNames
from tests.federation.authority import Authority
from tests.federation.peers import make_key

BOB = "@bob:ours.example"
ADDRESS = parse_email("bob@example.com")
KEY = make_key()
HOSTILE: list[tuple[int, Any]] = [
    (200, b"no JSON"),
    (200, []),
    (200, None),
    (200, {}),
    (200, b"[" * 1000),
    (200, b" " * 70_000),
    (302, b""),
    (500, b"oops"),
    (500, {"errcode": 5, "error": []}),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def identity(authority: Authority) -> Iterator[IdentityServer]:
    with serving_identities(authority) as started:
        yield started


@pytest.fixture
def client(authority: Authority) -> Iterator[HttpIdentityServerClient]:
    http = OutboundHttp(FakeNames(), SystemClock(), blocked_networks=(), ca_file=authority.ca_file)
    yield HttpIdentityServerClient(http, "ours.example", KEY)
    http.close()


def test_address_is_looked_up_by_its_hash(
    identity: IdentityServer, client: HttpIdentityServerClient
) -> None:
    identity.users["bob@example.com"] = BOB
    assert client.look_up(identity.name, TOKEN, ADDRESS) == BOB
    assert identity.asked[-1][2] == {
        "algorithm": "sha256",
        "pepper": "matrixrocks",
        # The spec's own example.
        "addresses": ["LJwSazmv46n0hlMlsb_iYxI0_HXEqy_yj6Jm636cdT8"],
    }
    assert client.look_up(identity.name, TOKEN, parse_email("eve@example.com")) is None


def test_address_is_told_in_clear_only_where_hashes_are_not_known(
    identity: IdentityServer, client: HttpIdentityServerClient
) -> None:
    identity.users["bob@example.com"] = BOB
    identity.algorithms = ["none"]
    assert client.look_up(identity.name, TOKEN, ADDRESS) == BOB
    identity.algorithms = ["rot13"]
    with pytest.raises(RemoteUnintelligible):
        client.look_up(identity.name, TOKEN, ADDRESS)


def test_pepper_that_changed_in_between_is_asked_for_again_once(
    identity: IdentityServer, client: HttpIdentityServerClient
) -> None:
    identity.wicked["/lookup"] = (400, {"errcode": "M_INVALID_PEPPER", "error": "No."})
    with pytest.raises(RemoteRefused):
        client.look_up(identity.name, TOKEN, ADDRESS)
    assert identity.paths() == ["/hash_details", "/lookup"] * 2


@pytest.mark.parametrize("user_id", [5, [], "bob", "@bob", "@bob:", "@b\0:x", "#bob:x"])
def test_address_of_what_is_no_user_is_no_answer(
    identity: IdentityServer, client: HttpIdentityServerClient, user_id: Any
) -> None:
    identity.users["bob@example.com"] = user_id
    with pytest.raises(RemoteUnintelligible):
        client.look_up(identity.name, TOKEN, ADDRESS)


@pytest.mark.parametrize("path", ["/hash_details", "/lookup", "/store-invite", "/3pid/bind"])
@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: str(answer)[:24])
def test_hostile_answers_are_remote_errors(
    identity: IdentityServer,
    client: HttpIdentityServerClient,
    path: str,
    answer: tuple[int, Any],
) -> None:
    identity.wicked[path] = answer
    if path == "/lookup" and answer == (200, {}):
        assert client.look_up(identity.name, TOKEN, ADDRESS) is None
        return
    ask: dict[str, Callable[[], object]] = {
        "/store-invite": lambda: client.store_invite(identity.name, TOKEN, {}),
        "/3pid/bind": lambda: client.bind(identity.name, TOKEN, "sid", "secret", BOB),
    }
    with pytest.raises(RemoteError):
        ask.get(path, lambda: client.look_up(identity.name, TOKEN, ADDRESS))()
    assert "elsewhere.example" not in str(identity.asked)


def _stored(**changes: Any) -> dict[str, Any]:
    key = {"public_key": KEY.verify_key_base64, "key_validity_url": "https://id.example/valid"}
    return {"token": "t", "display_name": "b...", "public_keys": [key], **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"token": ""},
        {"token": "a b"},
        {"token": "a" * 256},
        {"token": "@alice:ours.example"},
        {"token": 1},
        {"display_name": None},
        {"public_keys": []},
        {"public_keys": {}},
        {"public_keys": [1]},
        {"public_keys": [{"public_key": KEY.verify_key_base64}]},
        {"public_keys": [{"public_key": "AAAA", "key_validity_url": "https://x"}]},
        {"public_keys": [{"public_key": "?", "key_validity_url": "https://x"}]},
        {
            "public_keys": [
                {"public_key": KEY.verify_key_base64, "key_validity_url": "http://10.0.0.1/"}
            ]
        },
        {"public_keys": _stored()["public_keys"] * 11},
    ],
)
def test_invites_are_kept_only_as_they_can_be_checked(
    identity: IdentityServer, client: HttpIdentityServerClient, changes: dict[str, Any]
) -> None:
    identity.wicked["/store-invite"] = (200, _stored(**changes))
    with pytest.raises(RemoteUnintelligible):
        client.store_invite(identity.name, TOKEN, {})


def test_name_that_an_identity_server_gives_is_cut(
    identity: IdentityServer, client: HttpIdentityServerClient
) -> None:
    identity.wicked["/store-invite"] = (200, _stored(display_name="x" * 5000))
    assert len(client.store_invite(identity.name, TOKEN, {}).display_name) == 500


@pytest.mark.parametrize(
    "bound",
    [
        {"medium": "email"},
        {"medium": "pigeon", "address": "x"},
        {"medium": "email", "address": "x\r\n"},
        {"address": 1},
    ],
)
def test_binding_of_what_is_no_address_is_no_answer(
    identity: IdentityServer, client: HttpIdentityServerClient, bound: dict[str, Any]
) -> None:
    identity.wicked["/3pid/bind"] = (200, bound)
    with pytest.raises(RemoteUnintelligible):
        client.bind(identity.name, TOKEN, "sid", "secret", BOB)


def test_wish_to_forget_is_signed_for_that_identity_server_and_no_homeserver(
    identity: IdentityServer, client: HttpIdentityServerClient
) -> None:
    identity.users["bob@example.com"] = BOB
    client.unbind(identity.name, BOB, ADDRESS)
    assert identity.users == {}
    header = identity.authorizations[-1]
    assert header is not None
    (credentials,) = parse_credentials(header)
    content = {"mxid": BOB, "threepid": {"medium": "email", "address": "bob@example.com"}}
    signed = {
        "method": "POST",
        "uri": f"{PREFIX}/3pid/unbind",
        "origin": "ours.example",
        "destination_is": identity.name,
        "content": content,
    }
    assert identity.asked[-1][2] == content
    assert (credentials.origin, credentials.key_id) == ("ours.example", KEY.key_id)
    verify_signature(
        encode_canonical_json(signed), credentials.signature, KEY.key_id, KEY.verify_key
    )


def test_key_is_valid_while_its_server_says_so(
    identity: IdentityServer, client: HttpIdentityServerClient
) -> None:
    url = f"https://{identity.name}{PREFIX}/pubkey/isvalid"
    assert client.is_key_valid(url, identity.key.verify_key_base64)
    assert client.is_key_valid(url + "?a=b", identity.key.verify_key_base64)
    assert not client.is_key_valid(url, KEY.verify_key_base64)
    identity.vouches = False
    assert not client.is_key_valid(url, identity.key.verify_key_base64)


@pytest.mark.parametrize("said", [{"valid": "true"}, {"valid": 1}, {}])
def test_key_is_valid_only_if_it_is_said_plainly(
    identity: IdentityServer, client: HttpIdentityServerClient, said: Any
) -> None:
    identity.wicked["/pubkey/isvalid"] = (200, said)
    assert not client.is_key_valid(f"https://{identity.name}{PREFIX}/pubkey/isvalid", "x")


def test_keys_are_asked_about_with_tls_only(client: HttpIdentityServerClient) -> None:
    assert not client.is_key_valid("http://127.0.0.1:1/", "x")
    assert not client.is_key_valid("file:///etc/passwd", "x")


def test_endless_answer_is_cut(identity: IdentityServer, client: HttpIdentityServerClient) -> None:
    identity.wicked["/pubkey/isvalid"] = (200, b" " * 1_000_000)
    with pytest.raises(RemoteTooLarge):
        client.is_key_valid(f"https://{identity.name}{PREFIX}/pubkey/isvalid", "x")


def test_nothing_on_our_own_networks_is_asked(
    identity: IdentityServer, authority: Authority
) -> None:
    http = OutboundHttp(
        FakeNames(),
        SystemClock(),
        blocked_networks=("127.0.0.0/8",),
        ca_file=authority.ca_file,
    )
    client = HttpIdentityServerClient(http, "ours.example", KEY)
    with pytest.raises(RemoteBlocked):
        client.look_up(identity.name, TOKEN, ADDRESS)
    with pytest.raises(RemoteBlocked):
        client.is_key_valid(f"https://{identity.name}/", "x")
    assert identity.asked == []
