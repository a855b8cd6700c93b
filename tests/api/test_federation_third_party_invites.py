"""Invites by e-mail address, when an identity server has told whose the address is.

Spec: https://spec.matrix.org/v1.19/server-server-api/#third-party-invites
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from architex.domain.canonical_json import Json
from architex.domain.identifiers import ServerName
from architex.domain.signing import sign_json
from architex.gateways.errors import RemoteTimedOut
from architex.gateways.federation_client import federation_path
from tests.api.client import SERVER_NAME, User
from tests.federation.peers import make_key
from tests.federation.visitors import Visitor, World

_numbers = itertools.count()
ONBIND = "/_matrix/federation/v1/3pid/onbind"


@pytest.fixture
def visitor(world: World) -> Visitor:
    return world.meet(f"visitor{next(_numbers)}.example")


@pytest.fixture
def alice(world: World) -> User:
    return world.server.register()


class IdentityServer:
    """Knows whose e-mail addresses are."""

    def __init__(self) -> None:
        self.key = make_key("0")

    def offer(self, user: User, room_id: str) -> str:
        """Let a room know of an offer; its token."""
        token = f"token{next(_numbers)}"
        content = {
            "display_name": "b...@e...",
            # Without an address to ask at, the key holds for ever.
            "public_keys": [{"public_key": self.key.verify_key_base64}],
        }
        user.put(f"/rooms/{room_id}/state/m.room.third_party_invite/{token}", content).ok()
        return token

    def sign(self, user_id: str, token: str, **more: Any) -> Json:
        """What it says when the address is bound."""
        said = {"mxid": user_id, "token": token, **more}
        return sign_json(said, "identity.example", self.key)


@pytest.fixture
def identity() -> IdentityServer:
    return IdentityServer()


def partial_event(room_id: str, sender: str, user_id: str, signed: Json) -> Json:
    return {
        "type": "m.room.member",
        "room_id": room_id,
        "sender": sender,
        "state_key": user_id,
        "content": {
            "membership": "invite",
            "third_party_invite": {"display_name": "somebody", "signed": signed},
        },
    }


def exchange(visitor: Visitor, room_id: str, event: Any) -> Any:
    return visitor.request("PUT", ["v1", "exchange_third_party_invite", room_id], event)


@pytest.fixture
def asked(
    world: World, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[ServerName, str, Json]]:
    """What our server PUTs to others; the visitor signs invites."""
    requests: list[tuple[ServerName, str, Json]] = []

    def put(destination: ServerName, path: str, content: Json, *_: Any, **__: Any) -> Json:
        requests.append((destination, path, content))
        if "/invite/" not in path:
            return {}
        signed, _event_id = visitor.sign(content["room_version"], content["event"])
        return {"event": signed}

    monkeypatch.setattr(world.federation, "put", put)
    return requests


def membership(user: User, room_id: str, member: str) -> Any:
    return user.get(f"/rooms/{room_id}/state/m.room.member/{member}").json.get("membership")


@pytest.mark.parametrize("version", ["1", "10", "11", "12"])
def test_offer_becomes_an_invite_by_who_offered(
    alice: User,
    visitor: Visitor,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
    version: str,
) -> None:
    room_id = alice.create_room(room_version=version)
    bob = visitor.user("bob")
    signed = identity.sign(bob, identity.offer(alice, room_id))
    event = partial_event(room_id, alice.user_id, bob, signed)
    assert exchange(visitor, room_id, event).ok() == {}
    member = alice.get(f"/rooms/{room_id}/state/m.room.member/{bob}").ok()
    assert member == {
        "membership": "invite",
        "third_party_invite": {"display_name": "b...@e...", "signed": signed},
    }
    assert len(asked) == 1
    destination, path, _ = asked[0]
    assert destination == visitor.name
    assert path.startswith("/_matrix/federation/v2/invite/")
    # Again: nothing happens.
    assert exchange(visitor, room_id, event).ok() == {}
    assert len(asked) == 1


def test_what_else_is_in_the_event_does_not_count(
    alice: User,
    visitor: Visitor,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
) -> None:
    room_id, bob = alice.create_room(), visitor.user("bob")
    signed = identity.sign(bob, identity.offer(alice, room_id))
    event = partial_event(room_id, alice.user_id, bob, signed)
    event["content"] |= {"displayname": "Admin", "join_authorised_via_users_server": "@x:y"}
    event |= {"prev_events": [], "auth_events": ["$x"], "depth": 0, "redacts": "$x"}
    exchange(visitor, room_id, event).ok()
    sent = asked[0][2]["event"]
    assert sent["content"].keys() == {"membership", "third_party_invite"}
    assert sent["prev_events"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"type": "m.room.message"}, 400),
        ({"room_id": "!other:test.example"}, 400),
        ({"sender": None}, 400),
        ({"sender": "@nobody:test.example"}, 403),
        ({"sender": "@carol:third.example"}, 403),
        ({"state_key": "@other:visitor.example"}, 400),
        ({"state_key": 5}, 400),
        ({"content": 5}, 400),
        ({"content": {"membership": "join"}}, 400),
        ({"content": {"membership": "invite"}}, 400),
        ({"content": {"membership": "invite", "third_party_invite": {"signed": []}}}, 400),
    ],
)
def test_event_that_offers_nothing_is_refused(
    alice: User,
    visitor: Visitor,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
    change: Json,
    status: int,
) -> None:
    room_id, bob = alice.create_room(), visitor.user("bob")
    signed = identity.sign(bob, identity.offer(alice, room_id))
    event = partial_event(room_id, alice.user_id, bob, signed) | change
    assert exchange(visitor, room_id, event).status == status
    assert asked == []
    assert membership(alice, room_id, bob) is None


def test_identity_server_must_have_signed_for_that_user_and_offer(
    alice: User,
    visitor: Visitor,
    world: World,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
) -> None:
    room_id, bob = alice.create_room(), visitor.user("bob")
    token = identity.offer(alice, room_id)
    good = identity.sign(bob, token)
    for wrong in (
        IdentityServer().sign(bob, token),
        identity.sign(bob, "another token"),
        identity.sign(visitor.user("carol"), token),
        {**good, "mxid": visitor.user("carol")},
        {**good, "token": 5},
        {**good, "token": "a\0b"},
        {**good, "extra": "not signed"},
        {**good, "signatures": {}},
        {**good, "signatures": []},
        {**good, "padding": "x" * 9000},
    ):
        event = partial_event(room_id, alice.user_id, bob, wrong)
        assert exchange(visitor, room_id, event).status in (400, 403), wrong
    third = world.meet(f"third{next(_numbers)}.example")
    event = partial_event(room_id, alice.user_id, bob, good)
    exchange(third, room_id, event).refused(403, "M_FORBIDDEN")
    other = alice.create_room()
    event = partial_event(other, alice.user_id, bob, good)
    exchange(visitor, other, event).refused(403, "M_FORBIDDEN")
    assert asked == []


def test_members_and_banned_users_are_not_invited_by_an_offer(
    alice: User,
    visitor: Visitor,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
) -> None:
    room_id = alice.create_room(preset="public_chat", room_version="11")
    bob, carol = visitor.user("bob"), visitor.user("carol")
    visitor.join(room_id, bob)
    alice.post(f"/rooms/{room_id}/ban", {"user_id": carol}).ok()
    for user_id in (bob, carol):
        signed = identity.sign(user_id, identity.offer(alice, room_id))
        event = partial_event(room_id, alice.user_id, user_id, signed)
        exchange(visitor, room_id, event).refused(403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "join"
    assert asked == []


# ---- a notice of an identity server


def notice(user: User, *invites: Any) -> Json:
    return {
        "medium": "email",
        "address": "bob@example.org",
        "mxid": user.user_id,
        "invites": list(invites),
    }


def waiting(room_id: str, sender: str, user: User, signed: Json) -> Json:
    return {
        "medium": "email",
        "address": "bob@example.org",
        "mxid": user.user_id,
        "room_id": room_id,
        "sender": sender,
        "signed": signed,
    }


def test_user_is_invited_to_rooms_that_we_are_in(
    alice: User, world: World, identity: IdentityServer
) -> None:
    bob, room_id = world.server.register(), alice.create_room()
    signed = identity.sign(bob.user_id, identity.offer(alice, room_id))
    told = notice(bob, waiting(room_id, alice.user_id, bob, signed))
    assert world.server.request("PUT", ONBIND, told).ok() == {}
    assert room_id in bob.get("/sync").ok()["rooms"]["invite"]
    bob.post(f"/join/{room_id}").ok()
    # The same notice again does not make an invited user of a member.
    assert world.server.request("PUT", ONBIND, told).ok() == {}
    assert membership(alice, room_id, bob.user_id) == "join"


def test_inviters_server_is_asked_where_we_are_not_in_the_room(
    world: World,
    visitor: Visitor,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
) -> None:
    bob, room_id = world.server.register(), f"!room:{visitor.name}"
    signed = identity.sign(bob.user_id, "token")
    told = notice(bob, waiting(room_id, visitor.user("carol"), bob, signed))
    assert world.server.request("PUT", ONBIND, told).ok() == {}
    assert len(asked) == 1
    destination, path, content = asked[0]
    assert destination == visitor.name
    assert path == federation_path("v1", "exchange_third_party_invite", room_id)
    assert content["content"]["third_party_invite"]["signed"] == signed
    assert (content["sender"], content["state_key"]) == (visitor.user("carol"), bob.user_id)


def test_who_joins_with_what_was_signed_asks_the_inviters_server_first(
    world: World,
    visitor: Visitor,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
) -> None:
    bob, room_id = world.server.register(), f"!other:{visitor.name}"
    signed = identity.sign(bob.user_id, "token", sender=visitor.user("carol"))
    # The other server does not let us in afterwards; what counts is what it was asked.
    assert bob.post(f"/join/{room_id}", {"third_party_signed": signed}).status >= 400
    assert [path for _, path, _ in asked] == [
        federation_path("v1", "exchange_third_party_invite", room_id)
    ]
    assert asked[0][2]["content"]["third_party_invite"]["signed"] == signed


def test_server_that_does_not_answer_keeps_no_other_invite_back(
    alice: User, world: World, identity: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(destination: ServerName, *_: Any, **__: Any) -> Json:
        raise RemoteTimedOut(destination, "It sleeps.")

    monkeypatch.setattr(world.federation, "put", put)
    bob, room_id = world.server.register(), alice.create_room()
    signed = identity.sign(bob.user_id, identity.offer(alice, room_id))
    asleep = waiting("!r:asleep.example", "@x:asleep.example", bob, signed)
    told = notice(bob, asleep, waiting(room_id, alice.user_id, bob, signed))
    world.server.request("PUT", ONBIND, told).refused(403, "M_FORBIDDEN")
    assert room_id in bob.get("/sync").ok()["rooms"]["invite"]


@pytest.mark.parametrize(
    "change",
    [
        {"mxid": None},
        {"mxid": 5},
        {"mxid": "bob"},
        {"mxid": f"@nobody:{SERVER_NAME}"},
        {"mxid": "@bob:elsewhere.example"},
        {"invites": None},
        {"invites": {}},
    ],
    ids=str,
)
def test_notice_about_nobody_is_refused(world: World, alice: User, change: Json) -> None:
    answer = world.server.request("PUT", ONBIND, notice(alice) | change)
    assert answer.status in (400, 404)


def test_malformed_invites_of_a_notice_are_passed_over(
    world: World,
    alice: User,
    identity: IdentityServer,
    asked: list[tuple[ServerName, str, Json]],
) -> None:
    signed = identity.sign(alice.user_id, "token")
    good = waiting("!room:visitor.example", "@carol:visitor.example", alice, signed)
    broken: list[Any] = [
        5,
        None,
        {},
        {**good, "room_id": "room"},
        {**good, "room_id": 5},
        {**good, "sender": "carol"},
        {**good, "sender": None},
        {**good, "sender": alice.user_id},  # of ours, and we are not in the room
        {**good, "signed": None},
        {**good, "signed": {**signed, "mxid": "@other:test.example"}},
        {**good, "signed": {**signed, "token": None}},
        {**good, "signed": {**signed, "big": 2**80}},
    ]
    assert world.server.request("PUT", ONBIND, notice(alice, *broken)).ok() == {}
    assert asked == []
    world.server.request("PUT", ONBIND, notice(alice, good, good)).ok()
    assert len(asked) == 1
    many = [
        {**good, "signed": identity.sign(alice.user_id, f"token{number}")} for number in range(50)
    ]
    world.server.request("PUT", ONBIND, notice(alice, *many)).ok()
    assert len(asked) <= 21
