"""Devices, keys and messages to devices between two servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from architex.domain.signing import sign_json
from architex.gateways.federation_client import SignedFederationClient
from tests.api.client import User, segment
from tests.api.test_device_lists import news, token
from tests.api.test_encryption_keys import (
    claim,
    device_of,
    query,
    sign_in,
    upload_device_keys,
)
from tests.api.test_to_device import received, send
from tests.conftest import DatabaseFactory
from tests.fakes.randomness import SeededRandomness
from tests.federation.simulation import Simulation, simulation


@pytest.fixture
def two(make_database: DatabaseFactory, tmp_path: Path) -> Iterator[Simulation]:
    """Two servers and a network in which nothing fails."""
    with simulation("calm", make_database, tmp_path, count=2) as run:
        yield run


@pytest.fixture
def alice(two: Simulation) -> User:
    """Somebody on one server."""
    return two.servers[0].users[0]


@pytest.fixture
def bob(two: Simulation) -> User:
    """Somebody on the other."""
    return two.servers[1].users[0]


def share_room(two: Simulation, owner: User, other: User) -> str:
    room_id = owner.create_room(preset="public_chat")
    two.join(other, room_id, via=[owner.user_id.partition(":")[2]]).ok()
    two.settle()
    return room_id


def settle(two: Simulation) -> None:
    """Let everything arrive, and what it occasions be done."""
    two.settle()
    two.network.clock.pass_seconds(1)
    two.timers.run_due()


def asked(two: Simulation, part: str) -> int:
    """How often servers were asked for something."""
    return sum(number for kind, number in two.network.asked.items() if part in str(kind))


def client_of(two: Simulation) -> SignedFederationClient:
    """Asks as the second server."""
    key = two.servers[1].server.core.signing_key
    return two.network.client("s1.test", key, SeededRandomness("client"))


def test_keys_are_asked_of_the_users_server(alice: User, bob: User) -> None:
    device, keys = upload_device_keys(bob), sign_in(bob)
    told = query(alice, bob.user_id)
    assert told["failures"] == {}
    assert told["device_keys"] == {
        bob.user_id: {bob.device_id: {**device.device_keys, "unsigned": {}}}
    }
    assert told["master_keys"][bob.user_id] == keys.public("master")
    assert told["self_signing_keys"][bob.user_id] == keys.public("self_signing")
    assert told["user_signing_keys"] == {}


def test_name_of_a_device_stays_on_its_server(alice: User, bob: User) -> None:
    upload_device_keys(bob)
    bob.put(f"/devices/{bob.device_id}", {"display_name": "secret name"}).ok()
    assert query(alice, bob.user_id)["device_keys"][bob.user_id][bob.device_id]["unsigned"] == {}


def test_one_time_keys_are_claimed_of_the_users_server(alice: User, bob: User) -> None:
    device = upload_device_keys(bob)
    keys = device.one_time_keys(["k"])
    bob.post("/keys/upload", {"one_time_keys": keys}).ok()
    assert claim(alice, bob) == keys
    assert claim(alice, bob) == {}


def test_unreachable_servers_are_named(two: Simulation, alice: User) -> None:
    user_id = "@carol:down.test"
    told = query(alice, user_id)
    assert told["device_keys"] == {}
    assert set(told["failures"]) == {"down.test"}
    wanted = {user_id: {"D": "signed_curve25519"}}
    told = alice.post("/keys/claim", {"one_time_keys": wanted}).ok()
    assert (told["one_time_keys"], set(told["failures"])) == ({}, {"down.test"})


def test_list_of_somebody_in_a_shared_room_is_asked_for_once(
    two: Simulation, alice: User, bob: User
) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    first = query(alice, bob.user_id)
    two.network.asked.clear()
    assert query(alice, bob.user_id) == first
    assert query(two.servers[0].users[1], bob.user_id) == first
    assert not two.network.asked


def test_new_keys_reach_whoever_shares_a_room(two: Simulation, alice: User, bob: User) -> None:
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    since = token(alice)
    device = upload_device_keys(bob)
    settle(two)
    assert news(alice, since) == ([bob.user_id], [])
    keys = query(alice, bob.user_id)["device_keys"][bob.user_id][bob.device_id]
    assert keys == {**device.device_keys, "unsigned": {}}


def test_chain_of_updates_is_followed_without_asking(
    two: Simulation, alice: User, bob: User
) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    settle(two)
    query(alice, bob.user_id)
    two.network.asked.clear()
    other = bob.log_in_again(device_id="SECOND")
    settle(two)
    upload_device_keys(other)
    settle(two)
    told = query(alice, bob.user_id)["device_keys"][bob.user_id]
    assert set(told) == {bob.device_id, "SECOND"}
    other.post("/logout").ok()
    settle(two)
    assert set(query(alice, bob.user_id)["device_keys"][bob.user_id]) == {bob.device_id}
    assert asked(two, "user") == 0


def test_list_is_asked_for_anew_when_an_update_was_missed(
    two: Simulation, alice: User, bob: User
) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    settle(two)
    bob.log_in_again(device_id="LOST")
    since = token(alice)
    upload_device_keys(bob.log_in_again(device_id="THIRD"))
    # The first of the updates is lost.
    forget = "DELETE FROM device_list_updates WHERE device_id = 'LOST' RETURNING 1"
    assert len(two.servers[1].query(forget)) == 1
    settle(two)
    assert news(alice, since) == ([bob.user_id], [])
    told = query(alice, bob.user_id)["device_keys"][bob.user_id]
    assert set(told) == {bob.device_id, "THIRD"}


def test_updates_wait_for_a_server_that_is_away(two: Simulation, alice: User, bob: User) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    two.network.separate(["s0.test"])
    upload_device_keys(bob.log_in_again(device_id="SECOND"))
    two.servers[1].advance()
    since = token(alice)
    # What is held is better than nothing.
    assert set(query(alice, bob.user_id)["device_keys"][bob.user_id]) == {bob.device_id}
    settle(two)
    assert news(alice, since) == ([bob.user_id], [])
    told = query(alice, bob.user_id)["device_keys"][bob.user_id]
    assert set(told) == {bob.device_id, "SECOND"}


def test_a_missed_update_is_told_to_clients_once(two: Simulation, alice: User, bob: User) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    settle(two)
    bob.log_in_again(device_id="LOST")
    upload_device_keys(bob.log_in_again(device_id="THIRD"))
    two.servers[1].query("DELETE FROM device_list_updates WHERE device_id = 'LOST' RETURNING 1")
    two.network.asked.clear()
    two.settle()
    since = token(alice)
    # The list is asked for: who was told of the change already asks by themselves.
    settle(two)
    assert asked(two, "v1/user") == 1
    assert news(alice, since) == ([], [])
    assert set(query(alice, bob.user_id)["device_keys"][bob.user_id]) == {bob.device_id, "THIRD"}


def test_who_asked_in_vain_is_told_when_the_server_has_answered(
    two: Simulation, alice: User, bob: User
) -> None:
    share_room(two, alice, bob)
    settle(two)
    two.servers[0].query("DELETE FROM remote_device_lists RETURNING 1")
    device = upload_device_keys(bob)
    two.servers[1].query("DELETE FROM device_list_updates RETURNING 1")
    two.network.separate(["s0.test"])
    since = token(alice)
    assert set(query(alice, bob.user_id)["failures"]) == {"s1.test"}
    two.settle()
    # Somebody else asks, and is answered.
    told = query(two.servers[0].users[1], bob.user_id)["device_keys"][bob.user_id]
    assert told == {bob.device_id: {**device.device_keys, "unsigned": {}}}
    assert news(alice, since) == ([bob.user_id], [])
    assert news(alice, token(alice)) == ([], [])


def test_list_is_asked_for_anew_after_having_been_apart(
    two: Simulation, alice: User, bob: User
) -> None:
    upload_device_keys(bob)
    room_id = share_room(two, alice, bob)
    query(alice, bob.user_id)
    bob.post(f"/rooms/{segment(room_id)}/leave").ok()
    settle(two)
    since = token(alice)
    upload_device_keys(bob.log_in_again(device_id="SECOND"))
    settle(two)
    assert news(alice, since) == ([], [])
    two.join(bob, room_id, via=["s0.test"]).ok()
    settle(two)
    assert news(alice, since) == ([bob.user_id], [])
    told = query(alice, bob.user_id)["device_keys"][bob.user_id]
    assert set(told) == {bob.device_id, "SECOND"}


def test_new_signing_keys_and_signatures_reach_whoever_shares_a_room(
    two: Simulation, alice: User, bob: User
) -> None:
    device = upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    since = token(alice)
    keys = sign_in(bob)
    settle(two)
    assert news(alice, since) == ([bob.user_id], [])
    assert query(alice, bob.user_id)["master_keys"][bob.user_id] == keys.public("master")
    since = token(alice)
    signed = sign_json(device.device_keys, bob.user_id, keys.secret("self_signing"))
    bob.post("/keys/signatures/upload", {bob.user_id: {bob.device_id: signed}}).ok()
    settle(two)
    assert news(alice, since) == ([bob.user_id], [])
    told = query(alice, bob.user_id)["device_keys"][bob.user_id][bob.device_id]
    assert keys.secret("self_signing").key_id in told["signatures"][bob.user_id]


def test_master_key_of_a_user_elsewhere_can_be_signed(alice: User, bob: User) -> None:
    keys, theirs = sign_in(alice), sign_in(bob)
    name = theirs.secret("master").verify_key_base64
    signed = sign_json(theirs.public("master"), alice.user_id, keys.secret("user_signing"))
    answer = alice.post("/keys/signatures/upload", {bob.user_id: {name: signed}})
    assert answer.ok() == {"failures": {}}
    told = query(alice, bob.user_id)["master_keys"][bob.user_id]
    assert set(told["signatures"]) == {alice.user_id}


def test_messages_reach_devices_on_other_servers(two: Simulation, alice: User, bob: User) -> None:
    other = bob.log_in_again()
    send(alice, bob.user_id, bob.device_id, 1)
    send(alice, bob.user_id, "*", 2)
    settle(two)
    told = bob.get("/sync").ok()
    assert received(told) == [1, 2]
    assert told["to_device"]["events"][0]["sender"] == alice.user_id
    assert received(other.get("/sync").ok()) == [2]
    assert two.servers[0].query("SELECT 1 FROM to_device_outbox") == []


def test_messages_wait_for_a_server_that_is_away_and_come_once(
    two: Simulation, alice: User, bob: User
) -> None:
    two.network.separate(["s0.test"])
    for number in range(250):
        send(alice, bob.user_id, bob.device_id, number)
    two.servers[0].advance()
    two.network.heal()
    two.network.weather = type(two.network.weather)(answer_lost=0.5, twice=0.3)
    for _ in range(20):
        two.servers[0].advance()
        two.network.clock.pass_seconds(60)
    settle(two)
    seen: list[int] = []
    since = None
    while True:
        told = bob.get("/sync", **({"since": since} if since else {})).ok()
        if not received(told):
            break
        seen += received(told)
        since = told["next_batch"]
    assert seen == list(range(250))


def test_devices_are_told_of_own_users_only(two: Simulation, alice: User, bob: User) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    client = client_of(two)
    path = f"/_matrix/federation/v1/user/devices/{segment(bob.user_id)}"
    with pytest.raises(Exception, match="404"):
        client.get("s0.test", path)
    told = client.post(
        "s0.test", "/_matrix/federation/v1/user/keys/query", {"device_keys": {bob.user_id: []}}
    )
    assert told["device_keys"] == {}


# ---- what other servers may not say


def edu(two: Simulation, type_: str, content: Any, number: int = 0) -> None:
    """The second server sends the first one an EDU."""
    client = client_of(two)
    client.put(
        "s0.test",
        f"/_matrix/federation/v1/send/t{number}{abs(hash(str(content)))}",
        {
            "origin": "s1.test",
            "origin_server_ts": 1,
            "pdus": [],
            "edus": [{"edu_type": type_, "content": content}],
        },
    )


def test_update_that_is_not_the_origins_to_tell_is_ignored(
    two: Simulation, alice: User, bob: User
) -> None:
    share_room(two, alice, bob)
    settle(two)
    since = token(alice)
    content = {"user_id": bob.user_id, "device_id": "D", "stream_id": 5, "keys": {}}
    for changes in (
        {"user_id": "@a0:s0.test"},
        {"user_id": "@carol:s2.test"},
        {"user_id": 5},
        {"user_id": "@x\0:s1.test"},
        {"device_id": None},
        {"device_id": "\0"},
        {"stream_id": "1"},
        {"stream_id": 2**70},
        {"stream_id": True},
    ):
        edu(two, "m.device_list_update", {**content, **changes})
        assert news(alice, since) == ([], []), changes


def test_update_about_a_stranger_is_ignored(two: Simulation, alice: User, bob: User) -> None:
    since = token(alice)
    content = {"user_id": bob.user_id, "device_id": "D", "stream_id": 5, "keys": {}}
    edu(two, "m.device_list_update", content)
    edu(two, "m.signing_key_update", {"user_id": bob.user_id})
    assert news(alice, since) == ([], [])
    assert two.servers[0].query("SELECT 1 FROM remote_device_lists") == []


def test_keys_that_cannot_be_handed_on_are_left_out(
    two: Simulation, alice: User, bob: User
) -> None:
    upload_device_keys(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    settle(two)
    query(alice, bob.user_id)
    evil: list[Any] = [
        None,
        [],
        {"user_id": "@a0:s0.test"},
        {"device_id": "OTHER"},
        {"keys": 1.5},
        {"keys": "x" * 70_000},
    ]
    for keys in evil:
        ((known,),) = two.servers[0].query("SELECT stream_id FROM remote_device_lists")
        content = {
            "user_id": bob.user_id,
            "device_id": "EVIL",
            "stream_id": known + 1,
            "prev_id": [known],
            "keys": keys,
        }
        edu(two, "m.device_list_update", content)
        told = query(alice, bob.user_id)["device_keys"][bob.user_id]
        assert set(told) == {bob.device_id}, keys


def test_self_signing_key_that_the_master_key_did_not_sign_is_not_taken(
    two: Simulation, alice: User, bob: User
) -> None:
    keys = sign_in(bob)
    share_room(two, alice, bob)
    query(alice, bob.user_id)
    other = type(keys)(bob.user_id, "2")
    content = {
        "user_id": bob.user_id,
        "master_key": keys.public("master"),
        "self_signing_key": other.public("self_signing"),
    }
    edu(two, "m.signing_key_update", content)
    settle(two)
    told = query(alice, bob.user_id)
    assert told["self_signing_keys"][bob.user_id] == keys.public("self_signing")


def test_malformed_messages_of_other_servers_are_ignored(
    two: Simulation, alice: User, bob: User
) -> None:
    content = {
        "sender": bob.user_id,
        "type": "m.test",
        "message_id": "m",
        "messages": {alice.user_id: {"*": {"n": 1}}},
    }
    malformed: list[dict[str, Any]] = [
        {"sender": "@a0:s0.test"},
        {"sender": "nobody"},
        {"type": 5},
        {"type": "x" * 300},
        {"message_id": None},
        {"message_id": "x" * 300},
        {"messages": []},
        {"messages": {"@a0:s0.test": []}},
        {"messages": {"@a0:s0.test": {"*": "x"}}},
    ]
    for changes in malformed:
        edu(two, "m.direct_to_device", {**content, **changes})
        assert received(alice.get("/sync").ok()) == [], changes
    edu(two, "m.direct_to_device", content)
    edu(two, "m.direct_to_device", content, 1)
    assert received(alice.get("/sync").ok()) == [1]


def test_large_messages_go_in_several_transactions(
    two: Simulation, alice: User, bob: User
) -> None:
    numbers = list(range(80))
    for number in numbers:
        content = {"n": number, "large": "x" * 60_000}
        messages = {"messages": {bob.user_id: {bob.device_id: content}}}
        alice.put(f"/sendToDevice/m.test/{number}", messages).ok()
    two.network.asked.clear()
    settle(two)
    assert asked(two, "v1/send") == 2
    first = bob.get("/sync").ok()
    second = bob.get("/sync", since=first["next_batch"]).ok()
    assert received(first) + received(second) == numbers


def test_uploaded_keys_never_stop_the_sender(two: Simulation, alice: User, bob: User) -> None:
    share_room(two, alice, bob)
    odd = {
        **device_of(bob).device_keys,
        "algorithms": [],
        "keys": {"ed25519:x": "", "a:b": "\ud7ff"},
        "signatures": {},
        "nested": {"a": [{"b": None}]},
    }
    bob.post("/keys/upload", {"device_keys": odd}).ok()
    settle(two)
    send(bob, alice.user_id, alice.device_id, 3)
    settle(two)
    assert received(alice.get("/sync").ok()) == [3]
    told = query(alice, bob.user_id)["device_keys"][bob.user_id][bob.device_id]
    assert told["nested"] == odd["nested"]
