"""The key ring: whom it asks, what it believes, and when a key counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from architex.domain.room_versions import get_room_version
from architex.domain.signing import SigningKey, sign_json, verify_signed_json
from architex.gateways.errors import RemoteRefused
from architex.storage.pool import Database
from architex.storage.server_keys import ServerKeyStore
from architex.usecases.server_keys import KeyRing, OldKey
from tests.fakes.clock import FakeClock
from tests.fakes.federation_client import FakeFederation
from tests.federation.peers import Peer, make_key

OURS = "ours.example"
KEYS = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"
HOUR_MS = 3_600_000
WEEK_MS = 7 * 24 * HOUR_MS


class World:
    """A key ring, the servers it may ask, and a clock."""

    def __init__(self, database: Database, **more: Any) -> None:
        self.clock = FakeClock()
        self.federation = FakeFederation()
        self.own_key = make_key("own")
        self.store = ServerKeyStore(database)
        self.ring = self.restart(**more)

    def restart(self, **more: Any) -> KeyRing:
        """The same database, nothing in memory."""
        self.ring = KeyRing(
            self.store,
            self.federation,
            self.clock,
            server_name=OURS,
            signing_key=self.own_key,
            **more,
        )
        return self.ring

    def tells(self, peer: Peer, in_ms: int = 24 * HOUR_MS, **more: Any) -> dict[str, Any]:
        """A peer tells its keys, valid for so long from now."""
        told = peer.tell_keys(self.clock.now_ms() + in_ms, **more)
        self.federation.replies[peer.server_name, KEYS] = told
        return told

    def asked(self, peer: Peer) -> int:
        """How often a peer was asked for its keys."""
        return sum(one[1:3] == (peer.server_name, KEYS) for one in self.federation.asked)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def peer() -> Peer:
    return Peer("peer.example")


def event_by(peer: Peer, made_ts: int) -> dict[str, Any]:
    return {
        "sender": f"@u:{peer.server_name}",
        "origin_server_ts": made_ts,
        "signatures": {peer.server_name: {peer.key.key_id: "…"}},
    }


def test_key_is_asked_of_its_server_once(world: World, peer: Peer) -> None:
    world.tells(peer)
    for _ in range(3):
        found = world.ring.find_request_key(peer.server_name, peer.key.key_id)
        assert found == peer.key.verify_key
    world.restart()
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) == peer.key.verify_key
    assert world.asked(peer) == 1


def test_expired_key_is_asked_for_again_and_else_no_request_key(world: World, peer: Peer) -> None:
    world.tells(peer, in_ms=HOUR_MS)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id)
    world.clock.pass_seconds(3601)
    world.federation.replies[peer.server_name, KEYS] = RemoteRefused(peer.server_name, 500)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) is None
    world.tells(peer, in_ms=HOUR_MS)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) == peer.key.verify_key


def test_validity_is_a_week_at_most(world: World, peer: Peer) -> None:
    world.tells(peer, in_ms=1000 * WEEK_MS)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id)
    world.clock.pass_seconds(WEEK_MS / 1000 + 1)
    world.federation.replies.clear()
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) is None


def test_old_key_signs_events_of_its_time_but_no_requests(world: World, peer: Peer) -> None:
    before = Peer(peer.server_name, make_key("old"))
    expired_ts = world.clock.now_ms() - HOUR_MS
    old = {before.key.key_id: {"key": before.key.verify_key_base64, "expired_ts": expired_ts}}
    world.tells(peer, old_verify_keys=old)
    assert world.ring.find_request_key(peer.server_name, before.key.key_id) is None
    events = [event_by(before, expired_ts - 1), event_by(before, expired_ts + 1)]
    find = world.ring.for_events(get_room_version("5"), events)
    assert find(peer.server_name, before.key.key_id, expired_ts - 1) == before.key.verify_key
    assert find(peer.server_name, before.key.key_id, expired_ts + 1) is None


@pytest.mark.parametrize(("version", "counts"), [("4", True), ("5", False), ("11", False)])
def test_key_counts_beyond_its_validity_only_before_version_5(
    world: World, peer: Peer, version: str, counts: bool
) -> None:
    world.tells(peer, in_ms=-HOUR_MS)
    made_ts = world.clock.now_ms()
    find = world.ring.for_events(get_room_version(version), [event_by(peer, made_ts)])
    assert (find(peer.server_name, peer.key.key_id, made_ts) is not None) is counts
    assert find(peer.server_name, peer.key.key_id, made_ts - 2 * HOUR_MS) == peer.key.verify_key


def test_events_of_many_servers_cost_each_one_question(world: World) -> None:
    peers = [Peer(f"peer{number}.example") for number in range(30)]
    for one in peers:
        world.tells(one)
    now_ms = world.clock.now_ms()
    events = [event_by(one, now_ms) for one in peers * 3]
    find = world.ring.for_events(get_room_version("11"), events)
    for one in peers:
        assert find(one.server_name, one.key.key_id, now_ms) == one.key.verify_key
        assert world.asked(one) == 1


def test_malformed_events_ask_nobody(world: World) -> None:
    events: list[dict[str, Any]] = [
        {},
        {"sender": 5, "signatures": {"a.example": {"ed25519:1": "x"}}},
        {"sender": "@u:a.example", "signatures": ["a.example"]},
        {"sender": "@u:a.example", "signatures": {"a.example": {"rsa:1": "x"}}},
        {"sender": "@u:a b", "signatures": {"a b": {"ed25519:1": "x"}}},
        {"sender": "@u:b.example", "signatures": {"a.example": {"ed25519:1": "x"}}},
    ]
    world.ring.for_events(get_room_version("11"), events)
    assert world.federation.asked == []


def test_made_up_key_ids_do_not_flood_a_server(world: World, peer: Peer) -> None:
    world.tells(peer)
    for number in range(100):
        assert world.ring.find_request_key(peer.server_name, f"ed25519:x{number}") is None
    assert world.asked(peer) <= 10
    world.clock.pass_seconds(60)
    world.ring.find_request_key(peer.server_name, "ed25519:y")
    assert world.asked(peer) <= 11


def test_many_requests_at_once_wait_for_one_answer(world: World, peer: Peer) -> None:
    told = world.tells(peer)
    go = threading.Event()

    def reply(_: Any) -> dict[str, Any]:
        assert go.wait(10)
        return told

    world.federation.replies[peer.server_name, KEYS] = reply
    with ThreadPoolExecutor(40) as workers:
        found = [
            workers.submit(world.ring.find_request_key, peer.server_name, peer.key.key_id)
            for _ in range(40)
        ]
        go.set()
        assert {one.result() for one in found} == {peer.key.verify_key}
    assert world.asked(peer) <= 5  # those who looked just before the answer came ask again


def test_key_forgotten_by_its_server_is_still_known(world: World, peer: Peer) -> None:
    world.tells(peer)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id)
    successor = Peer(peer.server_name, make_key("k2"))
    world.tells(successor)
    assert world.ring.find_request_key(peer.server_name, successor.key.key_id)
    made_ts = world.clock.now_ms()
    find = world.ring.for_events(get_room_version("11"), [event_by(peer, made_ts)])
    assert find(peer.server_name, peer.key.key_id, made_ts) == peer.key.verify_key


def notary_answer(notary: Peer, *told: dict[str, Any], key: SigningKey | None = None) -> Any:
    signed = [sign_json(one, notary.server_name, key or notary.key) for one in told]
    return {"server_keys": signed}


def test_notary_is_asked_about_servers_that_are_gone(database: Database, peer: Peer) -> None:
    notary = Peer("notary.example")
    world = World(database, notaries=[notary.server_name])
    told = peer.tell_keys(world.clock.now_ms() + HOUR_MS)
    world.tells(notary)
    world.federation.replies[notary.server_name, QUERY] = notary_answer(notary, told)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) == peer.key.verify_key


def test_notary_is_asked_first_about_the_servers_of_a_large_room(database: Database) -> None:
    notary, members = Peer("notary.example"), [Peer(f"s{n}.example") for n in range(120)]
    world = World(database, notaries=[notary.server_name])
    world.tells(notary)
    world.tells(members[7])
    told = [peer.tell_keys(HOUR_MS * 500_000) for peer in members if peer is not members[7]]

    def answer(content: Any) -> Any:
        asked = [one for one in told if one["server_name"] in content["server_keys"]]
        return notary_answer(notary, *asked)

    world.federation.replies[notary.server_name, QUERY] = answer
    events = [
        sign_json({"sender": f"@u:{peer.server_name}"}, peer.server_name, peer.key)
        for peer in members
    ]
    find = world.ring.for_events(get_room_version("4"), events)
    for peer in members:
        assert find(peer.server_name, peer.key.key_id, 0) == peer.key.verify_key
    asked = [server for _, server, *_ in world.federation.asked]
    # Twice for all, once for its own key; and who the notary does not know is asked itself.
    assert sorted(asked) == ["notary.example"] * 3 + ["s7.example"]


def test_notary_is_believed_only_with_its_signature(database: Database, peer: Peer) -> None:
    notary = Peer("notary.example")
    world = World(database, notaries=[notary.server_name])
    told = peer.tell_keys(world.clock.now_ms() + HOUR_MS)
    world.tells(notary)
    replies = world.federation.replies
    replies[notary.server_name, QUERY] = notary_answer(notary, told, key=make_key())
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) is None
    # Nor is it believed about what the server itself did not sign.
    forged = {**told, "valid_until_ts": told["valid_until_ts"] + 1}
    replies[notary.server_name, QUERY] = notary_answer(notary, forged)
    assert world.ring.find_request_key(peer.server_name, peer.key.key_id) is None


def test_own_keys_are_signed_and_name_the_old_ones(database: Database) -> None:
    world = World(database, old_keys=[OldKey("ed25519:old", "AAAA", 17)])
    told = world.ring.own_keys()
    key = world.own_key
    verify_signed_json(told, OURS, key.key_id, key.verify_key)
    assert told["verify_keys"] == {key.key_id: {"key": key.verify_key_base64}}
    assert told["old_verify_keys"] == {"ed25519:old": {"key": "AAAA", "expired_ts": 17}}
    assert told["valid_until_ts"] >= world.clock.now_ms() + HOUR_MS


def test_as_notary_we_sign_what_the_server_told(world: World, peer: Peer) -> None:
    world.tells(peer)
    (answer,) = world.ring.notarise({peer.server_name: {}})
    verify_signed_json(answer, peer.server_name, peer.key.key_id, peer.key.verify_key)
    verify_signed_json(answer, OURS, world.own_key.key_id, world.own_key.verify_key)
    assert world.ring.notarise({"gone.example": {}}) == []


def test_as_notary_we_ask_again_for_a_later_validity_and_else_answer_from_memory(
    world: World, peer: Peer
) -> None:
    told = world.tells(peer, in_ms=-HOUR_MS)
    until = told["valid_until_ts"]
    key_id = peer.key.key_id
    for _ in range(2):
        (answer,) = world.ring.notarise({peer.server_name: {key_id: until}})
        assert answer["valid_until_ts"] == until
    assert world.asked(peer) == 1
    world.federation.replies[peer.server_name, KEYS] = RemoteRefused(peer.server_name, 400)
    (answer,) = world.ring.notarise({peer.server_name: {key_id: until + 1}})
    assert answer["valid_until_ts"] == until
    assert world.asked(peer) == 2


def test_as_notary_we_do_not_lose_a_key_that_its_server_no_longer_tells(
    world: World, peer: Peer
) -> None:
    until = world.tells(peer, in_ms=-HOUR_MS)["valid_until_ts"]
    key_id = peer.key.key_id
    world.ring.notarise({peer.server_name: {key_id: until}})
    world.tells(Peer(peer.server_name, make_key("k2")))
    world.ring.notarise({peer.server_name: {key_id: world.clock.now_ms()}})
    (answer,) = world.ring.notarise({peer.server_name: {key_id: until}})
    assert key_id in answer["verify_keys"]
