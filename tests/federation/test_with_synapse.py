"""We and a real Synapse in the same rooms: each hosts, each is guest.

`ARCHITEX_SYNAPSE=all` does all of it in rooms of every kind of version and with large numbers;
without it one version and small numbers must do.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from architex.domain.room_versions import get_room_version
from tests.federation.authority import Authority
from tests.federation.homeserver import (
    Homeserver,
    Person,
    architex,
    assert_same_room,
    until_same,
)
from tests.federation.moving_clock import MovingClock
from tests.federation.synapse import Synapse, is_installed
from tests.waiting import eventually

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="matrix-synapse is not installed"),
]

_ALL = os.environ.get("ARCHITEX_SYNAPSE") == "all"
_VERSIONS = ("1", "6", "9", "10", "11", "12") if _ALL else ("12",)
_MESSAGES = 500 if _ALL else 40
_HISTORY = 1000 if _ALL else 150
# Synapse fetches one by one what it missed.
_PATIENCE_S = 600.0 if _ALL else 90.0
# Pairs of other people who talk elsewhere at the same time, and how much.
_CROWD = 3 if _ALL else 0
_CHATTER = 100
# Who was away for an hour has everything in another one.
_CATCHING_UP_MIN = 60
_HOSTS = ("architex", "synapse")
_LONG = [(host, version) for version in _VERSIONS for host in (_HOSTS if _ALL else ("synapse",))]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> MovingClock:
    """The time of day for both servers."""
    return MovingClock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, clock: MovingClock
) -> Iterator[dict[str, Homeserver]]:
    """One of ours and a Synapse, both started."""
    directory = tmp_path_factory.mktemp("synapse")
    authority = Authority(directory)
    synapse = Synapse(directory, authority, clock)
    starting = threading.Thread(target=synapse.start)
    starting.start()
    try:
        with architex(directory, authority, environment=clock.environment) as ours:
            starting.join()
            yield {"architex": ours, "synapse": synapse}
    finally:
        starting.join()
        synapse.stop()


@dataclass
class Encounter:
    """A person of the server that hosts a room, and one of the other server."""

    host: Person
    guest: Person
    version: str

    def room(self, **options: Any) -> str:
        """A room of the host's."""
        given = {"preset": "public_chat", "room_version": self.version, **options}
        return self.host.create_room(**given)

    def shared_room(self, **options: Any) -> str:
        """A room that the guest is in already."""
        room_id = self.room(**options)
        self.guest.join(room_id, self.host.server)
        self.until(room_id, "join")
        return room_id

    def until(self, room_id: str, membership: str, whom: Person | None = None) -> None:
        """Wait until both see a membership: the guest's unless another is named."""
        whom = whom or self.guest
        for person in (self.host, self.guest):
            if person is not whom or membership == "join":
                person.await_membership(room_id, whom, membership)

    def has(self, what: str) -> None:
        """Skip versions of rooms that lack something."""
        if not getattr(get_room_version(self.version), what):
            pytest.skip(f"rooms of version {self.version} know no {what}")


@pytest.fixture(params=[(host, version) for version in _VERSIONS for host in _HOSTS], ids=str)
def meeting(request: pytest.FixtureRequest, servers: dict[str, Homeserver]) -> Encounter:
    """Two new people, in each direction and each version."""
    return _introduce(servers, *request.param)


@pytest.fixture(params=_LONG, ids=str)
def long_meeting(request: pytest.FixtureRequest, servers: dict[str, Homeserver]) -> Encounter:
    """The same, for what takes its time."""
    return _introduce(servers, *request.param)


def _introduce(servers: dict[str, Homeserver], host: str, version: str) -> Encounter:
    guest = next(name for name in _HOSTS if name != host)
    return Encounter(servers[host].register(), servers[guest].register(), version)


def test_guest_joins_and_both_talk(meeting: Encounter) -> None:
    room_id = meeting.shared_room(name="Tea")
    meeting.host.send(room_id, "from the host")
    meeting.guest.send(room_id, "from the guest")
    eventually(lambda: len(meeting.host.messages(room_id)) == 2)
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_join_by_alias(meeting: Encounter) -> None:
    name = f"alias{meeting.host.user_id.partition(':')[0][1:]}v{meeting.version}"
    room_id = meeting.room(room_alias_name=name)
    meeting.guest.join(f"#{name}:{meeting.host.server.name}")
    meeting.until(room_id, "join")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_invite_is_accepted(meeting: Encounter) -> None:
    room_id = meeting.room(preset="private_chat", invite=[meeting.guest.user_id], name="Secret")
    eventually(lambda: room_id in meeting.guest.room_sections("invite"))
    invited = meeting.guest.sync()["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {"type": "m.room.name", "content": {"name": "Secret"}} in [
        {"type": event["type"], "content": event["content"]} for event in invited
    ]
    meeting.guest.join(room_id)
    meeting.until(room_id, "join")
    meeting.guest.send(room_id, "Thanks")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_invite_is_declined(meeting: Encounter) -> None:
    room_id = meeting.room(preset="private_chat")
    meeting.host.act(room_id, "invite", meeting.guest)
    eventually(lambda: room_id in meeting.guest.room_sections("invite"))
    meeting.guest.act(room_id, "leave")
    eventually(lambda: meeting.host.membership(room_id, meeting.guest) == "leave")
    assert room_id not in meeting.guest.room_sections("invite")


def test_invite_is_taken_back(meeting: Encounter) -> None:
    room_id = meeting.room(preset="private_chat", invite=[meeting.guest.user_id])
    eventually(lambda: room_id in meeting.guest.room_sections("invite"))
    meeting.host.act(room_id, "kick", meeting.guest)
    eventually(lambda: room_id not in meeting.guest.room_sections("invite"))


def test_knock_is_answered_with_an_invite(meeting: Encounter) -> None:
    meeting.has("knocking")
    room_id = meeting.room()
    meeting.host.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    meeting.guest.knock(room_id, meeting.host.server)
    eventually(lambda: meeting.host.membership(room_id, meeting.guest) == "knock")
    assert room_id in meeting.guest.room_sections("knock")
    meeting.host.act(room_id, "invite", meeting.guest)
    eventually(lambda: room_id in meeting.guest.room_sections("invite"))
    meeting.guest.join(room_id, meeting.host.server)
    meeting.until(room_id, "join")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_restricted_room_lets_members_of_another_in(meeting: Encounter) -> None:
    meeting.has("restricted_joins")
    club_id = meeting.room()
    room_id = meeting.room()
    rule = {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": club_id}],
    }
    meeting.host.set_state(room_id, "m.room.join_rules", rule)
    path = f"/join/{room_id}?server_name={meeting.host.server.name}"
    query = f"{path}&via={meeting.host.server.name}"
    status, told = meeting.guest.ask("POST", query, {})
    assert (status, told["errcode"]) == (403, "M_FORBIDDEN")
    meeting.guest.join(club_id, meeting.host.server)
    meeting.guest.join(room_id, meeting.host.server)
    meeting.until(room_id, "join")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_guest_leaves_and_comes_back(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    meeting.guest.send(room_id, "here")
    meeting.guest.act(room_id, "leave")
    eventually(lambda: meeting.host.membership(room_id, meeting.guest) == "leave")
    for number in range(5):
        meeting.host.send(room_id, f"alone {number}")
    meeting.host.set_state(room_id, "m.room.topic", {"topic": "Where are you?"})
    meeting.guest.join(room_id, meeting.host.server)
    meeting.until(room_id, "join")
    meeting.guest.send(room_id, "back")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_guest_is_kicked_and_comes_back(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    meeting.host.act(room_id, "kick", meeting.guest)
    eventually(lambda: room_id not in meeting.guest.room_sections("join"))
    meeting.guest.join(room_id, meeting.host.server)
    meeting.until(room_id, "join")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_guest_is_banned_until_unbanned(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    meeting.host.act(room_id, "ban", meeting.guest)
    eventually(lambda: room_id not in meeting.guest.room_sections("join"))
    via = meeting.host.server.name
    path = f"/join/{room_id}?server_name={via}&via={via}"
    status, _ = meeting.guest.ask("POST", path, {})
    assert status == 403
    meeting.host.act(room_id, "unban", meeting.guest)
    meeting.guest.join(room_id, meeting.host.server)
    meeting.until(room_id, "join")
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_guest_with_power_kicks_the_host(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    other = meeting.host.server.register()
    other.join(room_id)
    meeting.until(room_id, "join", other)
    levels = meeting.host.do("GET", f"/rooms/{room_id}/state/m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), meeting.guest.user_id: 50}
    meeting.host.set_state(room_id, "m.room.power_levels", levels)
    until_same(lambda person: dict(person.state_ids(room_id)), meeting.host, meeting.guest)
    meeting.guest.act(room_id, "kick", other)
    eventually(lambda: meeting.host.membership(room_id, other) == "leave")
    meeting.guest.set_state(room_id, "m.room.topic", {"topic": "Mine"})
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_redactions_reach_the_other_side(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    ids = {}
    for person in (meeting.host, meeting.guest):
        ids[person.user_id] = person.send(room_id, "a mistake")
    until_same(lambda person: set(person.messages(room_id)), meeting.host, meeting.guest)
    for person in (meeting.host, meeting.guest):
        person.redact(room_id, ids[person.user_id])
    for person in (meeting.host, meeting.guest):
        person.await_messages(
            room_id, lambda seen: all(event["content"] == {} for event in seen.values())
        )
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_names_reach_the_other_side(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    for person in (meeting.host, meeting.guest):
        path = f"/profile/{person.user_id}/displayname"
        person.do("PUT", path, {"displayname": f"New {person.user_id}"})
    for viewer, seen in ((meeting.host, meeting.guest), (meeting.guest, meeting.host)):
        eventually(_sees_name(viewer, seen, room_id), f"{viewer.user_id} sees an old name")
        told = viewer.do("GET", f"/profile/{seen.user_id}/displayname")
        assert told == {"displayname": f"New {seen.user_id}"}
    assert_same_room(room_id, meeting.host, meeting.guest)


def _sees_name(viewer: Person, seen: Person, room_id: str) -> Callable[[], bool]:
    """Whether the room tells somebody another's new name."""

    def look() -> bool:
        member = viewer.state(room_id)["m.room.member", seen.user_id]
        return bool(member["content"].get("displayname") == f"New {seen.user_id}")

    return look


def test_typing_receipts_and_presence_reach_the_other_side(meeting: Encounter) -> None:
    room_id = meeting.shared_room()
    event_id = meeting.host.send(room_id, "Look")
    until_same(lambda person: set(person.messages(room_id)), meeting.host, meeting.guest)
    for person in (meeting.host, meeting.guest):
        person.do(
            "PUT",
            f"/rooms/{room_id}/typing/{person.user_id}",
            {"typing": True, "timeout": 60_000},
        )
        person.do("POST", f"/rooms/{room_id}/receipt/m.read/{event_id}", {})
        person.do(
            "PUT",
            f"/presence/{person.user_id}/status",
            {"presence": "online", "status_msg": "Here"},
        )
    for viewer, seen in ((meeting.host, meeting.guest), (meeting.guest, meeting.host)):
        eventually(_sees(viewer, seen, room_id, event_id), f"{viewer.user_id} sees not all")


def _sees(viewer: Person, seen: Person, room_id: str, event_id: str) -> Callable[[], bool]:
    """Whether somebody sees another's typing, receipt and presence."""
    left = {"typing", "receipt", "presence"}
    since: list[str | None] = [None]

    def look() -> bool:
        told = viewer.sync(since[0])
        since[0] = told["next_batch"]
        joined = told.get("rooms", {}).get("join", {}).get(room_id, {})
        for event in joined.get("ephemeral", {}).get("events", []):
            content = event["content"]
            if event["type"] == "m.typing" and seen.user_id in content["user_ids"]:
                left.discard("typing")
            read = content.get(event_id, {}).get("m.read", {})
            if event["type"] == "m.receipt" and seen.user_id in read:
                left.discard("receipt")
        for event in told.get("presence", {}).get("events", []):
            if event["sender"] == seen.user_id and event["content"].get("status_msg") == "Here":
                left.discard("presence")
        return not left

    return look


def test_history_is_read_back_to_the_beginning(meeting: Encounter) -> None:
    room_id = meeting.room()
    for number in range(_HISTORY):
        meeting.host.send(room_id, f"before {number}")
    meeting.guest.join(room_id, meeting.host.server)
    meeting.until(room_id, "join")
    assert len(meeting.guest.messages(room_id)) == _HISTORY
    assert_same_room(room_id, meeting.host, meeting.guest)


def test_both_talk_at_once(meeting: Encounter, servers: dict[str, Homeserver]) -> None:
    room_id = meeting.shared_room()
    talks = [(meeting.host, room_id), (meeting.guest, room_id)]
    for number in range(_CROWD):
        host, guest = (_HOSTS, _HOSTS[::-1])[number % 2]
        others = Encounter(servers[host].register(), servers[guest].register(), meeting.version)
        elsewhere = others.shared_room()
        talks += [(others.host, elsewhere), (others.guest, elsewhere)]
    problems: list[BaseException] = []

    def talk(person: Person, where: str) -> None:
        try:
            for number in range(_MESSAGES if where == room_id else _CHATTER):
                person.send(where, f"{person.user_id} {number}")
        except BaseException as error:  # noqa: BLE001 - told to the test below
            problems.append(error)

    started = time.monotonic()
    threads = [threading.Thread(target=talk, args=one) for one in talks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent_s = time.monotonic() - started
    assert problems == []
    for person, where in talks:
        number = 2 * (_MESSAGES if where == room_id else _CHATTER)
        person.await_messages(where, _as_many_as(number), patience_s=_PATIENCE_S)
    log.info(
        "Two people sent %s messages each in %.1f s while %s others talked; all had them %.1f s"
        " later",
        _MESSAGES,
        sent_s,
        2 * _CROWD,
        time.monotonic() - started - sent_s,
    )
    for one, other in zip(talks[::2], talks[1::2], strict=True):
        assert_same_room(one[1], one[0], other[0])


def _as_many_as(number: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda seen: len(seen) == number


def test_what_happened_during_an_outage_arrives_later(
    long_meeting: Encounter, clock: MovingClock
) -> None:
    meeting = long_meeting
    room_id = meeting.shared_room()
    expected = 0
    for down, awake in ((meeting.guest, meeting.host), (meeting.host, meeting.guest)):
        down.server.stop()
        for number in range(_MESSAGES):
            awake.send(room_id, f"while {down.user_id} is away {number}")
        if awake is meeting.host:
            awake.set_state(room_id, "m.room.topic", {"topic": "Where are you?"})
        clock.pass_minutes(60)
        down.server.start()
        awake.send(room_id, "Hello again")
        expected += _MESSAGES + 1
        minutes = _catch_up(down, room_id, expected, clock)
        log.info(
            "%s had %s messages %s minutes after its outage",
            type(down.server).__name__,
            _MESSAGES + 1,
            minutes,
        )
    meeting.guest.send(room_id, "And hello")
    for person in (meeting.host, meeting.guest):
        person.await_messages(
            room_id, lambda seen: len(seen) == expected + 1, patience_s=_PATIENCE_S
        )
    assert_same_room(room_id, meeting.host, meeting.guest)


def _catch_up(person: Person, room_id: str, expected: int, clock: MovingClock) -> int:
    """How many minutes passed until somebody could read so many messages."""
    for minutes in range(_CATCHING_UP_MIN):
        seen = _count_when_quiet(person, room_id)
        if seen == expected:
            return minutes
        clock.pass_minutes(1)
    raise AssertionError(f"{person.user_id} sees {seen} messages of {expected}")


def _count_when_quiet(person: Person, room_id: str) -> int:
    """How many messages somebody can read once what is under way has come."""
    seen = -1
    while (now := len(person.messages(room_id))) != seen:
        seen = now
        time.sleep(0.5)
    return seen


def test_restarts_in_the_middle_lose_nothing(long_meeting: Encounter) -> None:
    meeting = long_meeting
    room_id = meeting.shared_room()
    stop = threading.Event()
    sent: list[str] = []
    problems: list[BaseException] = []

    def talk(person: Person) -> None:
        number = 0
        try:
            while not stop.is_set() or number < _MESSAGES:
                try:
                    sent.append(person.send(room_id, f"{person.user_id} {number}"))
                    number += 1
                except OSError:
                    stop.wait(0.2)  # it is being restarted
                except AssertionError:
                    if stop.is_set():
                        raise
                    stop.wait(0.2)
        except BaseException as error:  # noqa: BLE001 - told to the test below
            problems.append(error)

    threads = [threading.Thread(target=talk, args=(p,)) for p in (meeting.host, meeting.guest)]
    for thread in threads:
        thread.start()
    for person in (meeting.host, meeting.guest):
        stop.wait(0.5)
        person.server.kill9()
        person.server.start()
    if _ALL:
        for person in (meeting.guest, meeting.host):
            stop.wait(2.0)
            person.server.stop()
            person.server.start()
    stop.wait(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    meeting.host.send(room_id, "The end")
    meeting.guest.send(room_id, "Indeed")
    for person in (meeting.host, meeting.guest):
        person.await_messages(room_id, lambda seen: set(sent) <= set(seen), patience_s=_PATIENCE_S)
    assert_same_room(room_id, meeting.host, meeting.guest)
