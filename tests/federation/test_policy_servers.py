"""Rooms with a policy server: what it does not recommend is neither sent nor shown.

Spec: https://spec.matrix.org/v1.19/server-server-api/#policy-servers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from architex.domain.policy_servers import POLICY_KEY_ID, parse_policy
from architex.domain.room_versions import get_room_version
from architex.domain.signing import SigningKey, add_event_signature, signatures_of
from architex.gateways.errors import RemoteRefused, RemoteUnreachable
from architex.gateways.federation_client import FederationClient
from architex.usecases.policy_servers import PolicyServers
from architex.usecases.timed_cache import TimedCache
from tests.api.client import Answer, User, segment
from tests.conftest import DatabaseFactory
from tests.federation.simulation import Simulation, simulation

VERSION = "11"
KEY = SigningKey.from_seed(b"p" * 32, "policy_server")
OTHER_KEY = SigningKey.from_seed(b"q" * 32, "policy_server")

Json = dict[str, Any]


@dataclass
class FakePolicyServer:
    """What servers ask instead of a policy server: it recommends what has no "spam" in it.

    Attributes:
        asked: the events that it was asked about, by content.
        before: is called before each answer; may raise.
    """

    key: SigningKey = KEY
    asked: list[Json] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def post(
        self, destination: str, path: str, content: Mapping[str, Any], **options: Any
    ) -> Json:
        """See FederationClient."""
        assert path == "/_matrix/policy/v1/sign"
        self.asked.append(dict(content))
        self.before()
        if "spam" in str(content["content"]):
            body = {"errcode": "M_FORBIDDEN", "error": "This looks like spam."}
            raise RemoteRefused(destination, 400, body)
        rules = get_room_version(VERSION)
        signed = add_event_signature(rules, content, destination, self.key)
        return {destination: {POLICY_KEY_ID: signed["signatures"][destination][POLICY_KEY_ID]}}


@dataclass
class Club:
    """A room on two servers, whose policy server has a member in it."""

    run: Simulation
    policy: FakePolicyServer
    room_id: str

    @property
    def alice(self) -> User:
        """Of the first server; founded the room."""
        return self.run.servers[0].users[0]

    @property
    def bob(self) -> User:
        """Of the second server."""
        return self.run.servers[1].users[0]

    def send(self, user: User, body: str) -> Answer:
        path = f"/rooms/{segment(self.room_id)}/send/m.room.message/{body}"
        return user.put(path, {"msgtype": "m.text", "body": body})

    def set_policy(self, content: Json) -> None:
        path = f"/rooms/{segment(self.room_id)}/state/m.room.policy"
        self.alice.put(path, content).ok()

    def read(self, user: User) -> list[str]:
        """The bodies of messages that a user sees."""
        page = user.get(f"/rooms/{segment(self.room_id)}/messages", dir="b", limit=50).ok()
        bodies = [event["content"].get("body") for event in page["chunk"]]
        return [body for body in reversed(bodies) if body is not None]

    def event(self, number: int, event_id: str) -> Json:
        """An event as one of the servers keeps it."""
        rows = self.run.servers[number].query(
            "SELECT s.state FROM event_graph g JOIN stored_events s"
            " ON s.notification_id = g.position WHERE g.event_id = %s",
            event_id,
        )
        return cast(Json, orjson.loads(rows[0][0])["pdu"])


@pytest.fixture
def club(make_database: DatabaseFactory, tmp_path: Path) -> Iterator[Club]:
    with simulation("calm", make_database, tmp_path, count=3) as run:
        policy = FakePolicyServer()
        for server in run.servers:
            core = server.server.core
            core.commits.policy_servers = PolicyServers(
                cast(FederationClient, policy), core.clock, TimedCache(core.clock, max_entries=10)
            )
        one, _, guard = run.servers
        room_id = one.users[0].create_room(preset="public_chat", room_version=VERSION)
        for server in run.servers[1:]:
            run.join(server.users[0], room_id, via=[one.name]).ok()
        run.settle()
        made = Club(run, policy, room_id)
        made.set_policy({"via": guard.name, "public_keys": {"ed25519": KEY.verify_key_base64}})
        run.settle()
        assert policy.asked == []
        yield made


def test_recommended_message_carries_the_signature_of_the_policy_server(club: Club) -> None:
    event_id = club.send(club.alice, "Hello").ok()["event_id"]
    club.run.settle()
    guard = club.run.servers[2].name
    for number in range(2):
        assert POLICY_KEY_ID in signatures_of(club.event(number, event_id), guard)
    assert club.read(club.alice) == club.read(club.bob) == ["Hello"]
    # Whoever got it signed asks for nothing.
    assert len(club.policy.asked) == 1


def test_message_that_is_not_recommended_is_refused_as_the_policy_server_says(
    club: Club,
) -> None:
    answer = club.send(club.alice, "spam")
    answer.refused(400, "M_FORBIDDEN")
    assert answer.json["error"] == "This looks like spam."
    assert club.send(club.alice, "Hello").status == 200
    club.run.settle()
    assert club.read(club.alice) == club.read(club.bob) == ["Hello"]


def test_state_and_memberships_are_asked_about_too(club: Club) -> None:
    path = f"/rooms/{segment(club.room_id)}"
    club.alice.put(f"{path}/state/m.room.topic", {"topic": "spam"}).refused(400, "M_FORBIDDEN")
    club.alice.put(f"{path}/state/m.room.policy/x", {"spam": 1}).refused(400, "M_FORBIDDEN")
    club.alice.post(f"{path}/leave", {"reason": "spam"}).refused(400, "M_FORBIDDEN")
    club.alice.post(f"{path}/leave").ok()


def test_unsigned_event_of_another_server_is_sent_to_the_policy_server(club: Club) -> None:
    # The first server knows nothing of policy servers.
    club.run.servers[0].server.core.commits.policy_servers = None
    club.send(club.alice, "Hello").ok()
    club.send(club.alice, "spam").ok()
    club.send(club.alice, "Bye").ok()
    club.run.settle()
    assert club.read(club.bob) == ["Hello", "Bye"]
    assert club.read(club.alice) == ["Hello", "spam", "Bye"]
    # Each of the two others asked once about each.
    assert len(club.policy.asked) == 6


@pytest.mark.parametrize("server", [0, 1])
def test_silence_of_the_policy_server_lets_nothing_pass(club: Club, server: int) -> None:
    def fail() -> None:
        raise RemoteUnreachable("policy", "no route")

    club.policy.before = fail
    user = club.run.servers[server].users[0]
    club.send(user, "Hello").refused(502, "M_UNKNOWN")
    club.send(user, "Hello?").refused(502, "M_UNKNOWN")
    assert len(club.policy.asked) == 1  # it is left alone for a while
    # Who may, can do without it.
    club.set_policy({})
    club.run.settle()
    club.send(user, "Hello!").ok()


def test_slow_policy_server_holds_nothing_up_for_long(club: Club) -> None:
    club.run.servers[0].server.core.commits.policy_servers = None
    # More than are asked about side by side.
    for number in range(20):
        club.send(club.alice, f"Hello {number}").ok()
    club.policy.before = lambda: club.run.network.clock.pass_seconds(9)
    before = club.run.network.clock.monotonic()
    club.run.servers[0].advance()
    assert club.run.network.clock.monotonic() - before < 200
    asked = {str(event["content"]["body"]) for event in club.policy.asked}
    assert 1 <= len(asked) < 20
    club.send(club.bob, "Hello").ok()
    assert set(club.read(club.bob)) <= {*asked, "Hello"}


def test_signature_by_another_key_counts_for_nothing(club: Club) -> None:
    club.policy.key = OTHER_KEY
    club.send(club.alice, "Hello").refused(502, "M_UNKNOWN")
    club.run.servers[0].server.core.commits.policy_servers = None
    club.send(club.alice, "Hello").ok()
    club.run.settle()
    assert club.read(club.bob) == []


def test_server_without_members_is_no_policy_server(club: Club) -> None:
    guard = club.run.servers[2].users[0]
    guard.post(f"/rooms/{segment(club.room_id)}/leave").ok()
    club.run.settle()
    club.policy.asked.clear()
    club.send(club.alice, "spam").ok()
    club.run.settle()
    assert club.read(club.bob) == ["spam"]
    assert club.policy.asked == []


def test_room_that_moves_on_meanwhile_is_asked_about_again(club: Club) -> None:
    carol = club.run.servers[0].users[1]
    club.run.join(carol, club.room_id, via=[]).ok()
    club.policy.asked.clear()

    def speak_in_between() -> None:
        club.policy.before = lambda: None
        club.send(carol, "First").ok()

    club.policy.before = speak_in_between
    club.send(club.alice, "Second").ok()
    assert club.read(club.alice) == ["First", "Second"]
    assert len(club.policy.asked) == 3
    club.run.settle()
    assert club.read(club.bob) == ["First", "Second"]


def test_repeated_transaction_is_not_asked_about_again(club: Club) -> None:
    first = club.send(club.alice, "Hello").ok()
    assert club.send(club.alice, "Hello").ok() == first
    assert len(club.policy.asked) == 1


def test_invite_to_another_server_is_recommended_before_it_is_sent(club: Club) -> None:
    whom = club.run.servers[1].users[1]
    body = {"user_id": whom.user_id, "reason": "spam"}
    path = f"/rooms/{segment(club.room_id)}/invite"
    club.alice.post(path, body).refused(400, "M_FORBIDDEN")
    assert whom.get("/sync").ok()["rooms"]["invite"] == {}
    club.alice.post(path, {"user_id": whom.user_id}).ok()
    club.run.settle()
    assert club.room_id in whom.get("/sync").ok()["rooms"]["invite"]


def test_user_of_a_server_outside_joins_only_if_recommended(club: Club) -> None:
    club.bob.post(f"/rooms/{segment(club.room_id)}/leave").ok()
    club.run.settle()
    name = f"/profile/{club.bob.path}/displayname"
    via = [club.run.servers[0].name]
    club.bob.put(name, {"displayname": "spammer"}).ok()
    assert club.run.join(club.bob, club.room_id, via=via).status == 403
    club.run.settle()
    assert club.run.servers[0].memberships(club.room_id)[club.bob.user_id] == "leave"
    assert club.bob.get("/joined_rooms").ok() == {"joined_rooms": []}
    club.bob.put(name, {"displayname": "Bob"}).ok()
    club.run.join(club.bob, club.room_id, via=via).ok()
    club.send(club.bob, "Hello").ok()
    club.run.settle()
    assert club.read(club.alice) == ["Hello"]


def test_room_is_replaced_though_the_policy_server_wants_the_old_one_as_it_is(
    club: Club,
) -> None:
    path = f"/rooms/{segment(club.room_id)}"
    levels = club.alice.get(f"{path}/state/m.room.power_levels").ok()
    club.alice.put(f"{path}/state/m.room.power_levels", {**levels, "x": "ham"}).ok()

    def refuse_levels() -> None:
        if club.policy.asked[-1]["type"] == "m.room.power_levels":
            raise RemoteRefused("policy", 400, {"errcode": "M_FORBIDDEN", "error": "No."})

    club.policy.before = refuse_levels
    told = club.alice.post(f"{path}/upgrade", {"new_version": VERSION}).ok()
    tombstone = club.alice.get(f"{path}/state/m.room.tombstone").ok()
    assert tombstone["replacement_room"] == told["replacement_room"]
    kept = club.alice.get(f"{path}/state/m.room.power_levels").ok()
    assert kept["events_default"] == levels["events_default"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": "a.example"},
        {"via": 7, "public_keys": {"ed25519": "a"}},
        {"via": "a b", "public_keys": {"ed25519": "a"}},
        {"via": "a.example", "public_keys": []},
        {"via": "a.example", "public_keys": {"ed25519": None}},
    ],
)
def test_incomplete_policy_names_no_server(content: Json) -> None:
    assert parse_policy(content) is None
