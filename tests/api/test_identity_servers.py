"""Identity servers: addresses that they tell of, and invites to whoever has one.

Spec: https://spec.matrix.org/v1.19/client-server-api/#third-party-invites
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from architex.domain.signing import sign_json
from architex.settings import IdentitySettings, OutboundSettings, RateLimitSettings
from architex.storage.pool import Database
from tests.api.client import SERVER_NAME, Answer, Server, User, stop_server
from tests.fakes.identity_server import TOKEN, IdentityServer, serving_identities
from tests.federation.authority import Authority
from tests.federation.peers import make_key
from tests.federation.visitors import World

ONBIND = "/_matrix/federation/v1/3pid/onbind"
OFFER = "m.room.third_party_invite"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def world(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[World]:
    """Our server, which trusts any identity server, and other homeservers."""
    started = World(
        module_database_url,
        tmp_path_factory.mktemp("server"),
        rate_limits=RateLimitSettings(enabled=False),
        outbound=OutboundSettings(ca_file=authority.ca_file, ip_blocklist=()),
        identity=IdentitySettings(trusted_servers=("*",)),
    )
    yield started
    stop_server(started.server)


@pytest.fixture(scope="module")
def server(world: World) -> Server:
    return world.server


@pytest.fixture
def identity(authority: Authority) -> Iterator[IdentityServer]:
    with serving_identities(authority) as started:
        yield started


@pytest.fixture
def address() -> str:
    """An address that nobody has yet."""
    return f"person{next(_numbers)}@mail.example"


def wish(identity: IdentityServer, address: str, **more: Any) -> dict[str, Any]:
    """Whom to invite."""
    return {
        "medium": "email",
        "address": address,
        "id_server": identity.name,
        "id_access_token": TOKEN,
        **more,
    }


def invite(user: User, room_id: str, identity: IdentityServer, address: str) -> Answer:
    return user.post(f"/rooms/{room_id}/invite", wish(identity, address))


def bind(user: User, identity: IdentityServer, address: str) -> Answer:
    session_id = f"session{next(_numbers)}"
    identity.proven[session_id] = address
    return user.post(
        "/account/3pid/bind",
        {
            "id_server": identity.name,
            "id_access_token": TOKEN,
            "sid": session_id,
            "client_secret": "0123Az.=_-",
        },
    )


def member(user: User, room_id: str, user_id: str) -> Any:
    answer = user.get(f"/rooms/{room_id}/state/m.room.member/{user_id}")
    return answer.json if answer.status == 200 else None


def offers(user: User, room_id: str) -> list[Any]:
    state = user.get(f"/rooms/{room_id}/state").ok()
    return [event for event in state if event["type"] == OFFER]


def tell_of_binding(server: Server, identity: IdentityServer, user_id: str) -> Answer:
    """What an identity server does when an address with invites becomes a user's."""
    invites = [
        {**kept, "mxid": user_id, "signed": identity.sign(user_id, kept["token"])}
        for kept in identity.invites
    ]
    body = {"mxid": user_id, "medium": "email", "address": "x", "invites": invites}
    return server.request("POST", ONBIND, body)


# ---- what identity servers tell


def test_address_is_told_and_forgotten_at_the_wish_of_its_user(
    alice: User, identity: IdentityServer, address: str
) -> None:
    bind(alice, identity, address).ok()
    assert identity.users == {address: alice.user_id}
    # An identity server tells of it; it does not belong to the account.
    assert alice.get("/account/3pid").ok() == {"threepids": []}
    told = alice.post("/account/3pid/unbind", {"medium": "email", "address": address}).ok()
    assert told == {"id_server_unbind_result": "success"}
    assert identity.users == {}
    # Nobody knows any more who told it.
    told = alice.post("/account/3pid/unbind", {"medium": "email", "address": address}).ok()
    assert told == {"id_server_unbind_result": "no-support"}


@pytest.mark.parametrize("path", ["unbind", "delete"])
def test_address_told_without_us_is_forgotten_where_its_user_names_the_server(
    alice: User, identity: IdentityServer, address: str, path: str
) -> None:
    identity.users[address] = alice.user_id
    body = {"medium": "email", "address": address, "id_server": identity.name}
    told = alice.post(f"/account/3pid/{path}", body).ok()
    assert told == {"id_server_unbind_result": "success"}
    assert identity.users == {}


def test_deleting_an_address_has_it_forgotten(
    alice: User, identity: IdentityServer, address: str
) -> None:
    bind(alice, identity, address).ok()
    told = alice.post("/account/3pid/delete", {"medium": "email", "address": address}).ok()
    assert told == {"id_server_unbind_result": "success"}
    assert identity.users == {}


def test_end_of_an_account_has_its_addresses_forgotten(
    alice: User, identity: IdentityServer, address: str
) -> None:
    bind(alice, identity, address).ok()
    told = alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    assert told == {"id_server_unbind_result": "success"}
    assert identity.users == {}


def test_account_ends_also_when_its_identity_server_does_not_answer(
    alice: User, identity: IdentityServer, address: str, module_database: Database
) -> None:
    bind(alice, identity, address).ok()
    identity.wicked["/3pid/unbind"] = (500, b"oops")
    told = alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    assert told == {"id_server_unbind_result": "no-support"}
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    assert module_database.fetch_one(
        "SELECT count(*) FROM published_addresses WHERE user_id = %s", (alice.user_id,)
    ) == (0,)


@pytest.mark.parametrize("status", [400, 404, 501])
def test_identity_server_that_cannot_forget_has_no_support(
    alice: User, identity: IdentityServer, address: str, status: int
) -> None:
    bind(alice, identity, address).ok()
    identity.wicked["/3pid/unbind"] = (status, b"no such page")
    told = alice.post("/account/3pid/unbind", {"medium": "email", "address": address}).ok()
    assert told == {"id_server_unbind_result": "no-support"}


def test_what_an_identity_server_refuses_is_passed_on(
    alice: User, identity: IdentityServer, address: str
) -> None:
    identity.wicked["/3pid/bind"] = (403, {"errcode": "M_TERMS_NOT_SIGNED", "error": "Read!"})
    told = bind(alice, identity, address)
    assert (told.errcode, told.json["error"]) == ("M_TERMS_NOT_SIGNED", "Read!")
    assert 400 <= told.status < 500
    identity.wicked["/3pid/bind"] = (500, {"errcode": "<script>", "error": []})
    bind(alice, identity, address).refused(502, "M_UNKNOWN")
    identity.wicked["/3pid/unbind"] = (403, {"errcode": "M_FORBIDDEN", "error": "No."})
    body = {"medium": "email", "address": address, "id_server": identity.name}
    assert alice.post("/account/3pid/unbind", body).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    "changes",
    [
        {"id_access_token": ""},
        {"id_access_token": "a\r\nX-Header: b"},
        {"id_access_token": "a" * 5000},
        {"sid": "a b"},
        {"client_secret": "a" * 300},
        {"id_server": "evil.example/path?"},
        {"id_server": "user@evil.example"},
        {"id_server": ""},
    ],
)
def test_odd_bindings_never_leave(
    alice: User, identity: IdentityServer, changes: dict[str, Any]
) -> None:
    body = {
        "id_server": identity.name,
        "id_access_token": TOKEN,
        "sid": "sid",
        "client_secret": "secret",
        **changes,
    }
    assert alice.post("/account/3pid/bind", body).status == 400
    assert identity.asked == []


def test_identity_servers_that_the_operator_does_not_trust_are_not_asked(
    database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    identity: IdentityServer,
    address: str,
) -> None:
    directory = tmp_path_factory.mktemp("server")
    trusting = IdentitySettings(trusted_servers=("id.example",))
    server = World(database_url, directory, identity=trusting).server
    try:
        alice = server.register()
        room_id = alice.create_room()
        unbinding = {"medium": "email", "address": address, "id_server": identity.name}
        for answer in (
            bind(alice, identity, address),
            invite(alice, room_id, identity, address),
            alice.post("/createRoom", {"invite_3pid": [wish(identity, address)]}),
            alice.post("/account/3pid/unbind", unbinding),
        ):
            answer.refused(400, "M_SERVER_NOT_TRUSTED")
        assert identity.asked == []
    finally:
        stop_server(server)


# ---- inviting


def test_whoever_has_the_address_is_invited(
    alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    identity.users[address] = bob.user_id
    room_id = alice.create_room()
    invite(alice, room_id, identity, address).ok()
    assert member(alice, room_id, bob.user_id)["membership"] == "invite"
    assert offers(alice, room_id) == []
    bob.post(f"/rooms/{room_id}/join").ok()


def test_room_is_created_with_invites_by_address(
    alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    identity.users[address] = bob.user_id
    room_id = alice.create_room(
        invite_3pid=[wish(identity, address), wish(identity, "eve@mail.example")], is_direct=True
    )
    told = member(alice, room_id, bob.user_id)
    assert (told["membership"], told["is_direct"]) == ("invite", True)
    assert len(offers(alice, room_id)) == 1


def test_room_is_there_even_if_its_invites_fail(
    alice: User, identity: IdentityServer, address: str
) -> None:
    identity.wicked["/hash_details"] = (500, b"")
    alice.create_room(invite_3pid=[wish(identity, address)])


@pytest.mark.parametrize("version", ["1", "10", "11", "12"])
def test_who_gets_the_address_later_is_invited_then(
    server: Server, alice: User, bob: User, identity: IdentityServer, version: str
) -> None:
    alice.put(f"/profile/{alice.path}/displayname", {"displayname": "Alice"}).ok()
    room_id = alice.create_room(room_version=version, name="Tea", creation_content={"type": "t"})
    invite(alice, room_id, identity, "bob@mail.example").ok()
    (kept,) = identity.invites
    token = kept.pop("token")
    assert kept == {
        "medium": "email",
        "address": "bob@mail.example",
        "room_id": room_id,
        "sender": alice.user_id,
        "room_name": "Tea",
        "room_join_rules": "invite",
        "room_type": "t",
        "sender_display_name": "Alice",
    }
    kept["token"] = token
    (offer,) = offers(alice, room_id)
    assert (offer["state_key"], offer["content"]["display_name"]) == (token, "b...@e...")
    assert "bob@mail.example" not in str(offer)
    assert offer["content"]["public_key"] == identity.key.verify_key_base64
    assert len(offer["content"]["public_keys"]) == 2
    tell_of_binding(server, identity, bob.user_id).ok()
    told = member(alice, room_id, bob.user_id)
    assert told["membership"] == "invite"
    assert told["third_party_invite"]["display_name"] == "b...@e..."
    bob.post(f"/rooms/{room_id}/join").ok()
    assert member(alice, room_id, bob.user_id)["membership"] == "join"


def test_offer_outlasts_who_made_it(
    server: Server, alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    carol = server.register()
    room_id = alice.create_room(invite=[carol.user_id])
    carol.post(f"/rooms/{room_id}/join").ok()
    invite(alice, room_id, identity, address).ok()
    alice.post(f"/rooms/{room_id}/leave").ok()
    tell_of_binding(server, identity, bob.user_id).ok()
    bob.post(f"/rooms/{room_id}/join").ok()


@pytest.mark.parametrize("how", ["other key", "revoked", "unreachable"])
def test_offer_nobody_vouches_for_invites_nobody(
    server: Server, alice: User, bob: User, identity: IdentityServer, address: str, how: str
) -> None:
    room_id = alice.create_room()
    invite(alice, room_id, identity, address).ok()
    if how == "other key":
        identity.key = make_key("0")
    elif how == "revoked":
        identity.vouches = False
    else:
        identity.wicked["/pubkey/isvalid"] = (500, b"")
    tell_of_binding(server, identity, bob.user_id).refused(403, "M_FORBIDDEN")
    assert member(alice, room_id, bob.user_id) is None
    bob.post(f"/rooms/{room_id}/join").refused(403, "M_FORBIDDEN")


def test_offer_is_taken_by_joining_with_what_was_signed(
    alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    room_id = alice.create_room()
    invite(alice, room_id, identity, address).ok()
    token = identity.invites[0]["token"]
    said = {"mxid": bob.user_id, "sender": alice.user_id, "token": token}
    # The link in an invite's mail has the ephemeral key.
    signed = sign_json(said, identity.name, identity.ephemeral)
    for wrong in (
        {**signed, "signatures": {}},
        {**signed, "sender": bob.user_id},
        {**signed, "mxid": alice.user_id},
        {**signed, "token": "x"},
        {},
    ):
        refused = bob.post(f"/rooms/{room_id}/join", {"third_party_signed": wrong})
        assert refused.status in (400, 403)
    bob.post(f"/join/{room_id}", {"third_party_signed": signed}).ok()
    told = member(alice, room_id, bob.user_id)
    assert told["membership"] == "join"
    assert "third_party_invite" not in told


def test_banned_user_is_not_let_in_by_an_address(
    server: Server, alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    room_id = alice.create_room()
    invite(alice, room_id, identity, address).ok()
    alice.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id}).ok()
    tell_of_binding(server, identity, bob.user_id).refused(403, "M_FORBIDDEN")
    assert member(alice, room_id, bob.user_id)["membership"] == "ban"


def test_nobody_outside_hears_of_an_invite_that_is_forbidden(
    alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    levels = {"invite": 50}
    room_id = alice.create_room(
        invite=[bob.user_id], power_level_content_override=levels, room_version="11"
    )
    invite(bob, room_id, identity, address).refused(403, "M_FORBIDDEN")
    bob.post(f"/rooms/{room_id}/join").ok()
    invite(bob, room_id, identity, address).refused(403, "M_FORBIDDEN")
    invite(bob, "!nowhere:x.example", identity, address).refused(403, "M_FORBIDDEN")
    assert identity.asked == []
    invite(alice, room_id, identity, address).ok()


def test_user_who_blocks_invites_gets_none_by_address(
    server: Server, alice: User, bob: User, identity: IdentityServer, address: str
) -> None:
    blocking = {"default_action": "block"}
    bob.put(f"/user/{bob.path}/account_data/m.invite_permission_config", blocking).ok()
    room_id = alice.create_room()
    invite(alice, room_id, identity, address).ok()
    tell_of_binding(server, identity, bob.user_id).ok()
    assert member(alice, room_id, bob.user_id) is None
    identity.users[address] = bob.user_id
    invite(alice, room_id, identity, address).refused(403, "M_INVITE_BLOCKED")


def test_identity_server_replaces_no_offer(
    alice: User, identity: IdentityServer, address: str
) -> None:
    room_id = alice.create_room()
    invite(alice, room_id, identity, address).ok()
    before = offers(alice, room_id)
    key = {"public_key": make_key().verify_key_base64, "key_validity_url": "https://x.example/"}
    same = {"token": before[0]["state_key"], "display_name": "x", "public_keys": [key]}
    identity.wicked["/store-invite"] = (200, same)
    invite(alice, room_id, identity, "eve@mail.example").refused(403, "M_FORBIDDEN")
    assert [offer["event_id"] for offer in offers(alice, room_id)] == [before[0]["event_id"]]


def test_identity_server_that_names_nobody_real_invites_nobody(
    alice: User, identity: IdentityServer, address: str
) -> None:
    room_id = alice.create_room()
    identity.users[address] = f"@nobody:{SERVER_NAME}"
    invite(alice, room_id, identity, address).refused(404, "M_NOT_FOUND")
    identity.users[address] = "no user"
    invite(alice, room_id, identity, address).refused(502, "M_UNKNOWN")


@pytest.mark.parametrize(
    "changes",
    [
        {"medium": "pigeon"},
        {"address": "not an address"},
        {"id_access_token": None},
        {"id_access_token": "a\nb"},
    ],
)
def test_odd_wishes_are_refused(
    alice: User, identity: IdentityServer, address: str, changes: dict[str, Any]
) -> None:
    room_id = alice.create_room()
    body = {**wish(identity, address), **changes}
    assert alice.post(f"/rooms/{room_id}/invite", body).status == 400
    assert alice.post("/createRoom", {"invite_3pid": [body]}).status == 400
    assert identity.asked == []


def test_few_addresses_are_invited_at_once(
    alice: User, identity: IdentityServer, address: str
) -> None:
    many = [wish(identity, address)] * 11
    alice.post("/createRoom", {"invite_3pid": many}).refused(400, "M_INVALID_PARAM")
    assert identity.asked == []


def test_few_questions_to_identity_servers_come_from_one_user(
    database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    identity: IdentityServer,
) -> None:
    world = World(
        database_url,
        tmp_path_factory.mktemp("server"),
        outbound=OutboundSettings(ca_file=authority.ca_file, ip_blocklist=()),
        identity=IdentitySettings(trusted_servers=(identity.name,)),
    )
    try:
        alice = world.server.register()
        statuses = [
            bind(alice, identity, f"p{number}@mail.example").status for number in range(25)
        ]
        assert statuses == [200] * 20 + [429] * 5
        room_id = alice.create_room()
        invite(alice, room_id, identity, "x@mail.example").refused(429, "M_LIMIT_EXCEEDED")
    finally:
        stop_server(world.server)
