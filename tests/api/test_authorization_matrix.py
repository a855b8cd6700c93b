"""The authorization matrix: every endpoint, who asks, history visibility; and the answer.

Tables and rules come from the specification; a cell that differs is a bug in the server, or in
the table. Each test is one endpoint, and names all its cells that differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import orjson
import pytest

from architex.settings import RateLimitSettings, RoomDirectorySettings
from tests.api.authorization import (
    ASKERS,
    BY_NAME,
    FORBIDDEN,
    INTERACTIVE,
    NO_GUESTS,
    NO_TOKEN,
    NOT_FOUND,
    OK,
    PHASES,
    STRANGERS,
    TOGETHER,
    VISIBILITIES,
    Asker,
    Cast,
    Expected,
    Room,
    Rule,
    can_come_in,
    check_account,
    creator_alone,
    creator_or_staff,
    everybody,
    members,
    members_or_staff,
    readers,
)
from tests.api.client import SERVER_NAME, Answer, Server, segment, stop_server
from tests.federation.visitors import Visitor, World
from tests.following import follow_to_the_end
from tests.house.test_routes import read_operations

CLIENT: Final = "/_matrix/client"
FEDERATION: Final = "/_matrix/federation"


@dataclass
class Stage:
    """The server, its cast, and a room per history visibility; servers elsewhere."""

    world: World
    cast: Cast
    rooms: dict[str, Room]
    peers: dict[str, Visitor]

    @property
    def server(self) -> Server:
        return self.world.server


@pytest.fixture(scope="module")
def stage(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    world = World(
        module_database_url,
        tmp_path_factory.mktemp("server"),
        rate_limits=RateLimitSettings(enabled=False),
        room_directory=RoomDirectorySettings(unauthenticated=True, over_federation=True),
    )
    cast = Cast(world.server)
    cast.engage()
    rooms = {visibility: cast.arrange(visibility) for visibility in VISIBILITIES}
    peers = {name: world.meet(f"{name}.example") for name in ("inside", "gone", "denied", "away")}
    for room in rooms.values():
        _visit(cast, room, peers)
        for user in cast.users.values():
            path = f"/user/{user.path}/rooms/{segment(room.room_id)}/account_data/m.kept"
            user.put(path, {}).ok()
    for user in cast.users.values():
        user.put(f"/user/{user.path}/account_data/m.kept", {}).ok()
    cast.restrain()
    follow_to_the_end(world.server.core.database)
    yield Stage(world, cast, rooms, peers)
    stop_server(world.server)


def _visit(cast: Cast, room: Room, peers: Mapping[str, Visitor]) -> None:
    """Let other servers in, one of them out again, and deny another."""
    creator, path = cast.users["creator"], f"/rooms/{segment(room.room_id)}"
    creator.put(path + "/state/m.room.join_rules", {"join_rule": "public"}).ok()
    for name in ("inside", "gone", "denied"):
        peers[name].join(room.room_id, peers[name].user("carol"))
    creator.post(path + "/kick", {"user_id": peers["gone"].user("carol")}).ok()
    creator.put(path + "/state/m.room.join_rules", {"join_rule": "invite"}).ok()
    acl = {"allow": ["*"], "deny": [peers["denied"].name]}
    creator.put(path + "/state/m.room.server_acl", acl).ok()


def find_leaks(asker: Asker, room: Room, answer: Answer) -> list[str]:
    """What an answer tells that the asker may not see."""
    # What one searches for one knows.
    told = re.sub(r'"highlights":\[[^]]*\]', "", orjson.dumps(answer.json).decode())
    return [
        f"{asker.name} reads phase {phase} of {room.visibility}"
        for phase in PHASES
        if room.secrets[phase] in told and not asker.may_see(room.visibility, phase)
    ]


def compare(cells: Sequence[tuple[str, Expected, Answer]]) -> None:
    """Fail with the list of the cells that differ."""
    differing = []
    for cell, expected, answer in cells:
        errcode = answer.json.get("errcode") if isinstance(answer.json, dict) else None
        if (answer.status, errcode) != expected:
            differing.append(f"{cell}: {expected} expected, {answer.status} {errcode}")
    assert not differing, "\n".join(differing)


# ---- what is about a room


@dataclass(frozen=True)
class RoomEndpoint:
    """An endpoint of the client API that is about a room.

    Attributes:
        path: as in the specification, with values for what is not the room.
        query: values may name what `fill` knows.
        guests: whether guests may use it at all.
        suspended: whether suspended users may.
        open_to_all: the history visibilities with which it needs no account.
    """

    method: str
    path: str
    rule: Rule
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    guests: bool = False
    suspended: bool = True
    open_to_all: Sequence[str] = ()
    note: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.note}".strip()

    def expect(self, asker: Asker, visibility: str) -> Expected:
        """What an asker gets."""
        if asker.kind == "anonymous" and visibility in self.open_to_all:
            return OK
        refusal = check_account(asker, guests=self.guests, suspended=self.suspended)
        return refusal or self.rule(asker, visibility)


def sees(phase: int, otherwise: Expected) -> Rule:
    """Who may see the event of a phase; others are answered otherwise."""

    def rule(asker: Asker, visibility: str) -> Expected:
        return OK if asker.may_see(visibility, phase) else otherwise

    return rule


def reads_event(phase: int) -> Rule:
    """Who may read the room, and in it the event of a phase."""

    def rule(asker: Asker, visibility: str) -> Expected:
        if asker.may_see(visibility, phase):
            return OK
        return NOT_FOUND if asker.was_joined else FORBIDDEN

    return rule


def reports(asker: Asker, visibility: str) -> Expected:
    """Who is in the room may report its events."""
    return OK if asker.now == "join" else NOT_FOUND


def summarised(asker: Asker, visibility: str) -> Expected:
    """Rooms that one may not come into are not there."""
    return OK if can_come_in(asker, visibility) == OK else NOT_FOUND


def own_event(asker: Asker, visibility: str) -> Expected:
    """Members may redact what they sent."""
    return members(asker, visibility)


R = RoomEndpoint
PER_EVENT: Final = [
    endpoint
    for phase in PHASES
    for endpoint in (
        R(
            "GET",
            f"/v3/rooms/{{room}}/event/{{event{phase}}}",
            sees(phase, NOT_FOUND),
            guests=True,
        ),
        R("GET", f"/v3/rooms/{{room}}/context/{{event{phase}}}", reads_event(phase), guests=True),
        R("GET", f"/v1/rooms/{{room}}/relations/{{event{phase}}}", sees(phase, NOT_FOUND)),
    )
]
MESSAGE: Final = {"msgtype": "m.text", "body": "hello"}
ROOM_ENDPOINTS: Final = [
    *PER_EVENT,
    R("GET", "/v1/rooms/{room}/relations/{event2}/m.thread", sees(TOGETHER, NOT_FOUND)),
    R("GET", "/v1/rooms/{room}/relations/{event2}/m.thread/m.x", sees(TOGETHER, NOT_FOUND)),
    R("GET", "/v1/rooms/{room}/threads", readers),
    R("GET", "/v1/rooms/{room}/timestamp_to_event", readers, None, {"ts": "1", "dir": "f"}, True),
    R("GET", "/v1/rooms/{room}/hierarchy", can_come_in, guests=True),
    R("GET", "/v1/room_summary/{room}", summarised, guests=True, open_to_all=("world_readable",)),
    R("GET", "/v3/rooms/{room}/state", readers, guests=True),
    R("GET", "/v3/rooms/{room}/state/m.room.topic/", readers, guests=True),
    R("GET", "/v3/rooms/{room}/state/m.room.topic", readers, guests=True),
    R("GET", "/v3/rooms/{room}/members", readers, guests=True),
    R("GET", "/v3/rooms/{room}/messages", readers, None, {"dir": "b"}, True),
    R("GET", "/v3/rooms/{room}/messages", readers, None, {"dir": "f"}, True, note="forwards"),
    R("GET", "/v3/rooms/{room}/messages", readers, None, {"dir": "b", "from": "t999999"}, True,
      note="from beyond"),
    R("GET", "/v3/rooms/{room}/messages", readers, None, {"dir": "f", "from": "t0", "limit": "99"},
      True, note="from the beginning"),
    R("GET", "/v3/rooms/{room}/members", readers, None, {"at": "t999999"}, True, note="later"),
    R("GET", "/v3/events", readers, None,
      {"room_id": "{room}", "timeout": "0", "from": "s0"}, True, note="from the beginning"),
    R("GET", "/v3/rooms/{room}/initialSync", readers, guests=True),
    R("GET", "/v3/events", readers, None, {"room_id": "{room}", "timeout": "0"}, True),
    R("GET", "/v3/rooms/{room}/joined_members", members, guests=True),
    R("GET", "/v3/rooms/{room}/aliases", members_or_staff, guests=True),
        R("PUT", "/v3/directory/list/room/{room}", creator_or_staff, {"visibility": "private"},
      suspended=False),
    R("PUT", "/v3/rooms/{room}/send/m.room.message/{n}", members, MESSAGE,
      guests=True, suspended=False),
    R("PUT", "/v3/rooms/{room}/send/m.x/{n}", members, {}, guests=True, suspended=False),
    R("PUT", "/v3/rooms/{room}/state/m.room.topic/", creator_alone, {"topic": "new"},
      guests=True, suspended=False),
    R("PUT", "/v3/rooms/{room}/state/m.room.topic", creator_alone, {"topic": "new"},
      guests=True, suspended=False),
    R("PUT", "/v3/rooms/{room}/redact/{doomed}/{n}", creator_alone, {}, suspended=False),
    R("PUT", "/v3/rooms/{room}/redact/{own}/{n}", own_event, {}, note="own"),
    R("POST", "/v3/rooms/{room}/invite", creator_alone, {"user_id": "{newcomer}"},
      suspended=False),
    R("POST", "/v3/rooms/{room}/kick", creator_alone, {"user_id": "{victim}"}, suspended=False),
    R("POST", "/v3/rooms/{room}/ban", creator_alone, {"user_id": "@n{n}:test.example"},
      suspended=False),
    R("POST", "/v3/rooms/{room}/unban", creator_alone, {"user_id": "{excluded}"},
      suspended=False),
    R("PUT", "/v3/rooms/{room}/typing/{self}", members, {"typing": True, "timeout": 1000},
      guests=True),
    R("PUT", "/v3/rooms/{room}/typing/{creator}", creator_alone, {"typing": True}, guests=True,
      note="of the creator"),
    R("POST", "/v3/rooms/{room}/receipt/m.read/{event2}", members, {}, guests=True),
    R("POST", "/v3/rooms/{room}/receipt/m.read.private/{event2}", members, {}, guests=True),
    R("POST", "/v3/rooms/{room}/receipt/m.fully_read/{event2}", members, {}, guests=True),
    R("POST", "/v3/rooms/{room}/read_markers", members, {"m.fully_read": "{plain2}"},
      guests=True),
    R("POST", "/v3/rooms/{room}/report", everybody, {"reason": "odd"}),
    R("POST", "/v3/rooms/{room}/report/{event2}", reports, {"reason": "odd"}),
    R("PUT", "/v3/user/{self}/rooms/{room}/account_data/m.x", everybody, {}, guests=True),
    R("GET", "/v3/user/{self}/rooms/{room}/account_data/m.kept", everybody, guests=True),
    R("PUT", "/v3/user/{self}/rooms/{room}/tags/m.favourite", everybody, {}, guests=True),
    R("GET", "/v3/user/{self}/rooms/{room}/tags", everybody, guests=True),
    R("DELETE", "/v3/user/{self}/rooms/{room}/tags/m.favourite", everybody, guests=True),
    R("PUT", "/v3/user/{creator}/rooms/{room}/account_data/m.x", creator_alone, {}, guests=True,
      note="of the creator"),
    R("GET", "/v3/user/{creator}/rooms/{room}/account_data/m.kept", creator_alone, guests=True,
      note="of the creator"),
    R("PUT", "/v3/user/{creator}/rooms/{room}/tags/u.x", creator_alone, {}, guests=True,
      note="of the creator"),
    R("GET", "/v3/user/{creator}/rooms/{room}/tags", creator_alone, guests=True,
      note="of the creator"),
    R("DELETE", "/v3/user/{creator}/rooms/{room}/tags/u.x", creator_alone, guests=True,
      note="of the creator"),
    R("POST", "/v3/rooms/{room}/upgrade", creator_alone, {"new_version": "11"}, suspended=False),
]  # fmt: skip


def fill(stage: Stage, asker: Asker, room: Room, text: str, *, plain: bool = False) -> str:
    """Put what a template names into it."""
    creator = stage.cast.users["creator"]
    user = stage.cast.users.get(asker.name, creator)
    own = room.own_events.get(asker.name, room.events[TOGETHER])
    values = {
        "room": room.room_id,
        "self": user.user_id,
        "creator": creator.user_id,
        "own": own,
        # Those who left cannot redact it any more.
        "doomed": room.own_events["left"],
        "victim": room.victim,
        "newcomer": room.newcomer,
        "excluded": room.excluded,
        "plain2": room.events[TOGETHER],
        "n": str(next(stage.server.numbers)),
        **{f"event{phase}": room.events[phase] for phase in PHASES},
    }
    return text.format(
        **{name: value if plain else segment(value) for name, value in values.items()}
    )


def ask(stage: Stage, endpoint: RoomEndpoint, asker: Asker, room: Room) -> Answer:
    """One cell's request."""
    user = stage.cast.users.get(asker.name)
    put = partial(fill, stage, asker, room)
    body = endpoint.body
    if body is not None:
        body = {
            key: put(value, plain=True) if isinstance(value, str) else value
            for key, value in body.items()
        }
    return stage.server.request(
        endpoint.method,
        CLIENT + put(endpoint.path),
        body,
        token=user.token if user is not None else None,
        params={key: put(value, plain=True) for key, value in endpoint.query.items()},
    )


@pytest.mark.parametrize("endpoint", ROOM_ENDPOINTS, ids=str)
def test_rooms_show_and_take_what_the_spec_says(stage: Stage, endpoint: RoomEndpoint) -> None:
    cells = []
    leaks: list[str] = []
    for visibility, room in stage.rooms.items():
        # The creator comes last: only their requests change what the others' depend on.
        for asker in sorted(ASKERS, key=lambda asker: asker.name == "creator"):
            if endpoint.path.endswith("/upgrade") and asker.name == "creator":
                continue  # An upgrade ends the room for everybody: see the test of its own.
            answer = ask(stage, endpoint, asker, room)
            expected = endpoint.expect(asker, visibility)
            cells.append((f"{asker.name} in {visibility}", expected, answer))
            leaks += find_leaks(asker, room, answer)
    compare(cells)
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_pages_of_history_hold_what_may_be_seen(stage: Stage, visibility: str) -> None:
    room = stage.rooms[visibility]
    differing = []
    for asker in ASKERS:
        if asker.kind in ("anonymous", "locked") or not (
            asker.was_joined or visibility == "world_readable"
        ):
            continue
        path = f"/rooms/{segment(room.room_id)}/messages"
        told = stage.cast.users[asker.name].get(path, dir="b", limit=100).ok()
        seen = {event["event_id"] for event in told["chunk"]}
        for phase, event_id in enumerate(room.events):
            if (event_id in seen) != asker.may_see(visibility, phase):
                differing.append(f"{asker.name}: {event_id in seen} in phase {phase}")
    assert not differing, "\n".join(differing)


_LIMITS: Final = orjson.dumps(
    {"room": {"timeline": {"limit": 50}, "include_leave": True}}
).decode()
Question = tuple[str, str, Mapping[str, str], Any]
LISTS: Final[Sequence[Question]] = (
    ("GET", "/v3/sync", {}, None),
    ("GET", "/v3/sync", {"full_state": "true"}, None),
    ("GET", "/v3/sync", {"since": "s0", "filter": _LIMITS}, None),
    ("GET", "/v3/events", {"from": "s0", "timeout": "0"}, None),
    ("GET", "/v3/sync", {"filter": _LIMITS}, None),
    ("GET", "/v3/sync", {"filter": _LIMITS, "use_state_after": "true"}, None),
    ("GET", "/v3/initialSync", {"limit": "50", "archived": "true"}, None),
    ("GET", "/v3/notifications", {}, None),
)
"""Whatever tells of many rooms at once."""


def search_for(word: str) -> Question:
    """Search for a word, with what is around it."""
    wanted = {"search_term": word, "event_context": {"include_profile": True}}
    return "POST", "/v3/search", {}, {"search_categories": {"room_events": wanted}}


@pytest.mark.parametrize(
    "asker", [asker for asker in ASKERS if asker.kind != "anonymous"], ids=lambda asker: asker.name
)
def test_what_tells_of_all_rooms_tells_no_secrets(stage: Stage, asker: Asker) -> None:
    user = stage.cast.users[asker.name]
    words = [word for room in stage.rooms.values() for word in room.secrets]
    leaks = []
    for method, path, params, body in [*LISTS, *map(search_for, words)]:
        answer = stage.server.request(method, CLIENT + path, body, token=user.token, params=params)
        assert answer.status in (200, 401, 403)
        for room in stage.rooms.values():
            leaks += [f"{leak} by {path} {params}" for leak in find_leaks(asker, room, answer)]
    assert not leaks, "\n".join(leaks)


def test_members_find_by_search_what_they_may_see(stage: Stage) -> None:
    """The words can be found at all: else the test before this one would show nothing."""
    found = []
    for visibility, room in stage.rooms.items():
        for phase, word in enumerate(room.secrets):
            told = stage.cast.users["joined"].post("/search", search_for(word)[3]).ok()
            results = told["search_categories"]["room_events"]
            # What may not be seen is not counted either.
            assert results["count"] == len(results["results"])
            if results["results"]:
                found.append((visibility, phase))
    joined = BY_NAME["joined"]
    assert found == [
        (visibility, phase)
        for visibility in VISIBILITIES
        for phase in PHASES
        if joined.may_see(visibility, phase)
    ]


def test_unknown_rooms_are_told_apart_by_nobody(stage: Stage) -> None:
    """A room that one is not in answers as one that is not there."""
    hidden = stage.rooms["joined"]
    nowhere = replace(hidden, room_id=f"!nowhere:{SERVER_NAME}")
    outsider = BY_NAME["outsider"]
    differing = []
    for endpoint in ROOM_ENDPOINTS:
        if endpoint.path.startswith("/v3/directory/list/room/"):
            continue  # The room directory shall say 404.
        if endpoint.path.endswith("/upgrade"):
            continue  # So shall an upgrade, as SyTest has it.
        if endpoint.path.endswith("m.kept"):
            continue  # Only for the one room is there something kept.
        told = [ask(stage, endpoint, outsider, room) for room in (hidden, nowhere)]
        outcomes = [(one.status, one.json.get("errcode")) for one in told]
        if outcomes[0] != outcomes[1]:
            differing.append(f"{endpoint}: {outcomes}")
    assert not differing, "\n".join(differing)


# ---- coming and going


def joins(asker: Asker, join_rule: str) -> Expected:
    """Who may come in.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#room-membership
    """
    if asker.now in ("join", "invite"):
        return OK
    return OK if join_rule == "public" and asker.now != "ban" else FORBIDDEN


def knocks(asker: Asker, join_rule: str) -> Expected:
    """Who may ask to come in: who is not in yet, where that is what one does."""
    if asker.now == "knock":
        return OK  # Nothing changes.
    return OK if join_rule == "knock" and asker.now == "leave" else FORBIDDEN


def leaves(asker: Asker, join_rule: str) -> Expected:
    """Who is in, invited or knocking; for who has left, nothing changes."""
    touched = any(membership != "leave" for membership in asker.past)
    return OK if touched and asker.now != "ban" else FORBIDDEN


def forgets(asker: Asker, join_rule: str) -> Expected:
    """Who has left, or was made to."""
    if asker.now in ("join", "invite", "knock"):
        return 400, "M_UNKNOWN"
    return OK if any(membership != "leave" for membership in asker.past) else FORBIDDEN


MEMBERSHIP_ENDPOINTS: Final = [
    R("POST", "/v3/rooms/{room}/join", joins, {}, guests=True, suspended=False),
    R("POST", "/v3/join/{room}", joins, {}, guests=True, suspended=False),
    R("POST", "/v3/knock/{room}", knocks, {}, suspended=False),
    R("POST", "/v3/rooms/{room}/leave", leaves, {}, guests=True),
    R("POST", "/v3/rooms/{room}/forget", forgets, {}, guests=True),
]


@pytest.mark.parametrize("join_rule", ["public", "knock", "invite"])
@pytest.mark.parametrize("endpoint", MEMBERSHIP_ENDPOINTS, ids=str)
def test_people_come_and_go_as_the_spec_says(
    stage: Stage, endpoint: RoomEndpoint, join_rule: str
) -> None:
    stage.cast.restrain(False)
    room = stage.cast.arrange("shared", join_rule)
    stage.cast.restrain()
    cells = []
    for asker in ASKERS:
        answer = ask(stage, endpoint, asker, room)
        cells.append((f"{asker.name}, {join_rule}", endpoint.expect(asker, join_rule), answer))
    compare(cells)


@pytest.mark.parametrize("path", ["/v3/rooms/{room}/join", "/v3/join/{room}"])
def test_guests_join_only_where_guests_may(stage: Stage, path: str) -> None:
    stage.cast.restrain(False)
    room = stage.cast.arrange("shared", "public", guests=False)
    stage.cast.restrain()
    endpoint = R("POST", path, joins, {}, guests=True)
    cells = [
        (name, expected, ask(stage, endpoint, BY_NAME[name], room))
        for name, expected in (("guest", NO_GUESTS), ("outsider", OK), ("administrator", OK))
    ]
    compare(cells)


def test_only_who_has_the_power_upgrades(stage: Stage) -> None:
    stage.cast.restrain(False)
    room = stage.cast.arrange()
    stage.cast.restrain()
    endpoint = R("POST", "/v3/rooms/{room}/upgrade", creator_alone, {"new_version": "11"})
    compare([("creator", OK, ask(stage, endpoint, BY_NAME["creator"], room))])


# ---- what is about no room


def own_alone(asker: Asker) -> Expected:
    """Nobody touches what belongs to somebody else."""
    return FORBIDDEN


def staff(asker: Asker) -> Expected:
    """Administrators of the server."""
    return OK if asker.kind == "administrator" else FORBIDDEN


def let_in(asker: Asker) -> Expected:
    """Whoever is let in."""
    return OK


def always(expected: Expected) -> Callable[[Asker], Expected]:
    """Whoever is let in gets the same."""
    return lambda asker: expected


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that is about no room.

    Attributes:
        rule: what those get whom their account does not keep out.
        is_open: it needs no account.
        locked: whether locked users may use it.
    """

    method: str
    path: str
    body: Any = None
    rule: Callable[[Asker], Expected] = let_in
    query: Mapping[str, str] = field(default_factory=dict)
    guests: bool = False
    suspended: bool = True
    is_open: bool = False
    note: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.note}".strip()

    def expect(self, asker: Asker) -> Expected:
        """What an asker gets."""
        refusal = check_account(asker, guests=self.guests, suspended=self.suspended)
        return self.rule(asker) if self.is_open else refusal or self.rule(asker)


E = Endpoint
MISSING: Final = always((400, "M_MISSING_PARAM"))
BAD_JSON: Final = always((400, "M_BAD_JSON"))
ABSENT: Final = always(NOT_FOUND)
AGAIN: Final = always(INTERACTIVE)
ELSEWHERE: Final = "!elsewhere:test.example"
BACKUP: Final = {"algorithm": "m.megolm_backup.v1", "auth_data": {}}


def points_nowhere(asker: Asker) -> Expected:
    """Nobody is in a room that is not there; administrators need not be."""
    return NOT_FOUND if asker.kind == "administrator" else FORBIDDEN


def more_than_a_name(asker: Asker) -> Expected:
    """Guests may have a name, and nothing else."""
    return NO_GUESTS if asker.kind == "guest" else OK


OPEN_ENDPOINTS: Final = [
    E("GET", path, None, rule, is_open=True)
    for path, rule in (
        ("/versions", let_in),
        ("/v3/login", let_in),
        ("/v3/publicRooms", let_in),
        ("/v3/directory/room/%23no:test.example", ABSENT),
        ("/v3/directory/list/room/!no:test.example", ABSENT),
        ("/v3/register/available?username=free", let_in),
        ("/v1/register/m.login.registration_token/validity?token=x", let_in),
        ("/v3/auth/m.login.recaptcha/fallback/web", MISSING),
        ("/v3/profile/{creator}", let_in),
        ("/v3/profile/{creator}/displayname", let_in),
        ("/v3/login/sso/redirect", always((404, "M_UNRECOGNIZED"))),
        ("/v1/auth_metadata", always((404, "M_UNRECOGNIZED"))),
    )
] + [
    E("POST", "/v3/login", {}, MISSING, is_open=True),
    E("POST", "/v3/refresh", {}, MISSING, is_open=True),
    E("POST", "/v3/register", {"username": "free", "password": "long enough 1"}, AGAIN,
      is_open=True),
]  # fmt: skip

ACCOUNT_ENDPOINTS: Final = [
    E("GET", "/v3/capabilities"),
    E("GET", "/v3/account/whoami", guests=True),
    E("GET", "/v3/account/3pid"),
    E("GET", "/v3/devices", guests=True),
    E("GET", "/v3/devices/{device}", guests=True),
    E("PUT", "/v3/devices/{device}", {"display_name": "new"}, guests=True),
    E("GET", "/v3/devices/{other_device}", None, ABSENT, guests=True, note="of another"),
    E("PUT", "/v3/devices/{other_device}", {}, ABSENT, guests=True, note="of another"),
    E("DELETE", "/v3/devices/{device}", {}, AGAIN),
    E("POST", "/v3/delete_devices", {"devices": ["x"]}, AGAIN),
    E("POST", "/v1/login/get_token", {}, AGAIN),
    E("POST", "/v3/publicRooms", {}, guests=True),
    E("GET", "/v3/joined_rooms", guests=True),
    E("GET", "/v3/sync", guests=True),
    E("GET", "/v3/events", query={"timeout": "0"}),
    E("GET", "/v3/initialSync"),
    E("GET", "/v3/events/$no", None, ABSENT),
    E("GET", "/v3/notifications"),
    E("GET", "/v3/pushers"),
    E("POST", "/v3/pushers/set", {"pushkey": "x", "kind": None, "app_id": "y"}),
    E("GET", "/v3/pushrules/"),
    E("GET", "/v3/pushrules/global/"),
    E("GET", "/v3/pushrules/global/override/.m.rule.master"),
    E("GET", "/v3/pushrules/global/override/.m.rule.master/enabled"),
    E("GET", "/v3/pushrules/global/override/.m.rule.master/actions"),
    E("PUT", "/v3/pushrules/global/override/.m.rule.master/enabled", {"enabled": False}),
    E("PUT", "/v3/pushrules/global/override/.m.rule.master/actions", {"actions": []}),
    E("PUT", "/v3/pushrules/global/room/!x:y", {"actions": []}),
    E("DELETE", "/v3/pushrules/global/room/!no:y", None, ABSENT),
    E("POST", "/v3/search", {"search_categories": {"room_events": {"search_term": "x"}}}),
    E("POST", "/v3/user_directory/search", {"search_term": "x"}),
    E("GET", "/v1/mutual_rooms", query={"user_id": "@creator:test.example"}),
    E("GET", "/v3/voip/turnServer", guests=True),
    E("GET", "/v3/thirdparty/protocols"),
    E("GET", "/v3/thirdparty/protocol/irc", None, ABSENT),
    E("GET", "/v3/thirdparty/location", query={"alias": "#x:y"}),
    E("GET", "/v3/thirdparty/location/irc", None, ABSENT),
    E("GET", "/v3/thirdparty/user", query={"userid": "@x:y"}),
    E("GET", "/v3/thirdparty/user/irc", None, ABSENT),
    E("POST", "/v3/createRoom", {}, suspended=False),
    E("POST", "/v3/knock/!no:test.example", {}, ABSENT, suspended=False),
    E("POST", "/v3/join/%23no:test.example", {}, ABSENT, guests=True, suspended=False),
    E("PUT", "/v3/directory/room/%23{n}:test.example", {"room_id": ELSEWHERE}, points_nowhere,
      suspended=False),
    E("DELETE", "/v3/directory/room/%23no:test.example", None, ABSENT, suspended=False),
    E("PUT", "/v3/directory/list/appservice/irc/!no:test.example", {"visibility": "public"},
      own_alone),
    # Their own, and that of others.
    *(
        E(method, path.format(user=user), body, rule if user == "{self}" else own_alone,
          guests=True, note="" if user == "{self}" else "of another")
        for user in ("{self}", "{creator}")
        for method, path, body, rule in (
            ("PUT", "/v3/user/{user}/account_data/m.x", {}, let_in),
            ("GET", "/v3/user/{user}/account_data/m.kept", None, let_in),
            ("POST", "/v3/user/{user}/filter", {}, let_in),
            ("GET", "/v3/user/{user}/filter/0", None, ABSENT),
        )
    ),
    E("POST", "/v3/user/{self}/openid/request_token", {}),
    E("POST", "/v3/user/{creator}/openid/request_token", {}, own_alone, note="of another"),
    E("PUT", "/v3/profile/{self}/displayname", {"displayname": "x"}, guests=True,
      suspended=False),
    E("DELETE", "/v3/profile/{self}/displayname", guests=True, suspended=False),
    E("PUT", "/v3/profile/{self}/avatar_url", {"avatar_url": "mxc://a/b"}, more_than_a_name,
      guests=True, suspended=False),
    E("PUT", "/v3/profile/{self}/m.x", {"m.x": 1}, more_than_a_name, guests=True, suspended=False),
    E("DELETE", "/v3/profile/{self}/m.x", None, more_than_a_name, guests=True, suspended=False),
    E("GET", "/v3/presence/{self}/status"),
    E("PUT", "/v3/presence/{self}/status", {"presence": "online"}),
    E("PUT", "/v3/presence/{creator}/status", {"presence": "online"}, own_alone,
      note="of another"),
    E("GET", "/v3/admin/whois/{self}"),
    E("GET", "/v3/admin/whois/{creator}", None, staff, note="of another"),
    E("GET", "/v1/admin/lock/{creator}", None, staff),
    E("PUT", "/v1/admin/lock/{creator}", {"locked": False}, staff),
    E("GET", "/v1/admin/suspend/{creator}", None, staff),
    E("PUT", "/v1/admin/suspend/{creator}", {"suspended": False}, staff),
    E("POST", "/v3/users/{creator}/report", {"reason": "odd"}),
    E("POST", "/v3/keys/upload", {}, guests=True),
    E("POST", "/v3/keys/query", {"device_keys": {}}, guests=True),
    E("POST", "/v3/keys/claim", {"one_time_keys": {}}, guests=True),
    E("GET", "/v3/keys/changes", None, MISSING, guests=True),
    E("POST", "/v3/keys/device_signing/upload", {}),
    E("POST", "/v3/keys/signatures/upload", {}),
    E("PUT", "/v3/sendToDevice/m.x/{n}", {"messages": {}}, guests=True),
    E("GET", "/v3/room_keys/version", None, ABSENT),
    E("GET", "/v3/room_keys/version/1", None, ABSENT),
    E("PUT", "/v3/room_keys/version/1", BACKUP, ABSENT),
    E("DELETE", "/v3/room_keys/version/1", None, ABSENT),
    *(
        E(method, "/v3/room_keys/keys" + path, body, ABSENT, {"version": "1"})
        for path, put in (
            ("", {"rooms": {}}),
            ("/!x:y", {"sessions": {}}),
            ("/!x:y/session", {"first_message_index": 0, "forwarded_count": 0,
                               "is_verified": True, "session_data": {}}),
        )
        for method, body in (("PUT", put), ("GET", None), ("DELETE", None))
    ),
    E("POST", "/v3/room_keys/version", {}, MISSING),
]  # fmt: skip


def ask_about_no_room(stage: Stage, endpoint: Endpoint, asker: Asker) -> Answer:
    """One cell's request."""
    user, creator = stage.cast.users.get(asker.name), stage.cast.users["creator"]
    asking = user or creator
    path = endpoint.path.format(
        self=asking.path,
        creator=creator.path,
        device=asking.device_id,
        other_device=creator.device_id,
        n=next(stage.server.numbers),
    )
    path, _, query = path.partition("?")
    params = dict(endpoint.query) | dict(pair.split("=") for pair in query.split("&") if pair)
    token = None if user is None else user.token
    return stage.server.request(
        endpoint.method, CLIENT + path, endpoint.body, token=token, params=params
    )


@pytest.mark.parametrize("endpoint", OPEN_ENDPOINTS + ACCOUNT_ENDPOINTS, ids=str)
def test_accounts_are_let_in_and_kept_out(stage: Stage, endpoint: Endpoint) -> None:
    cells = [
        (asker.name, endpoint.expect(asker), ask_about_no_room(stage, endpoint, asker))
        for asker in STRANGERS
    ]
    compare(cells)


@pytest.mark.parametrize("path", ["/v3/logout", "/v3/logout/all"])
@pytest.mark.parametrize("kind", [asker.kind for asker in STRANGERS])
def test_whoever_has_a_token_may_give_it_back(stage: Stage, kind: str, path: str) -> None:
    token, expected = None, NO_TOKEN
    if kind == "guest":
        told = stage.server.request("POST", "/register?kind=guest", {}).ok()
        token, expected = told["access_token"], OK
    elif kind != "anonymous":
        user = stage.server.register()
        token, expected = user.token, OK
        deed = {"locked": "lock", "suspended": "suspend"}.get(kind)
        if deed is not None:
            where = f"{CLIENT}/v1/admin/{deed}/{user.path}"
            stage.cast.users["administrator"].put(where, {kind: True}).ok()
    compare([(kind, expected, stage.server.request("POST", CLIENT + path, {}, token=token))])


# ---- other servers


@dataclass(frozen=True)
class ServerEndpoint:
    """An endpoint of the federation API.

    Attributes:
        path: below /_matrix/federation.
        rule: kind of server, history visibility → answer.
    """

    method: str
    path: str
    rule: Callable[[str, str], Expected]
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.note}".strip()


UNSIGNED: Final[Expected] = (401, "M_UNAUTHORIZED")


def only_inside(kind: str, visibility: str) -> Expected:
    """Servers with members in the room that its list does not deny."""
    return OK if kind == "inside" else FORBIDDEN


def any_server(kind: str, visibility: str) -> Expected:
    """Every server that signs."""
    return OK


def always_for_servers(expected: Expected) -> Callable[[str, str], Expected]:
    """Every server that signs gets the same."""
    return lambda kind, visibility: expected


def denied_first(otherwise: Expected) -> Callable[[str, str], Expected]:
    """Who is denied is told so before anything else; others are told what is wrong."""
    return lambda kind, visibility: FORBIDDEN if kind == "denied" else otherwise


def peeks(kind: str, visibility: str) -> Expected:
    """Summaries of a room by invitation: for its members' servers, and where all may read."""
    may = kind == "inside" or (visibility == "world_readable" and kind != "denied")
    return OK if may else NOT_FOUND


S = ServerEndpoint
VERSION: Final = {"ver": "11"}
SERVER_ENDPOINTS: Final = [
    *(
        S("GET", f"/v1/event/{{event{phase}}}", only_inside, note=str(phase)) for phase in PHASES
    ),
    S("GET", "/v1/state/{room}", only_inside, None, {"event_id": "{event2}"}),
    S("GET", "/v1/state_ids/{room}", only_inside, None, {"event_id": "{event2}"}),
    S("GET", "/v1/event_auth/{room}/{event2}", only_inside),
    S("GET", "/v1/backfill/{room}", only_inside, None, {"v": "{event2}", "limit": "5"}),
    S("POST", "/v1/get_missing_events/{room}", only_inside,
      {"latest_events": [], "earliest_events": []}),
    S("GET", "/v1/timestamp_to_event/{room}", only_inside, None, {"ts": "1", "dir": "f"}),
    S("GET", "/v1/hierarchy/{room}", peeks),
    S("GET", "/v1/make_join/{room}/{carol}", only_inside, None, VERSION),
    S("GET", "/v1/make_leave/{room}/{carol}", only_inside, None, VERSION),
    S("GET", "/v1/make_knock/{room}/{carol}", always_for_servers(FORBIDDEN), None, VERSION),
    S("GET", "/v1/make_join/{room}/{creator}", always_for_servers(FORBIDDEN), None, VERSION),
    S("GET", "/v1/make_leave/{room}/{creator}", always_for_servers(FORBIDDEN), None, VERSION),
    S("GET", "/v1/make_knock/{room}/{creator}", always_for_servers(FORBIDDEN), None, VERSION),
    S("PUT", "/v1/send/{n}", any_server,
      {"origin": "x", "origin_server_ts": 1, "pdus": [], "edus": []}),
    S("GET", "/v1/publicRooms", any_server),
    S("POST", "/v1/publicRooms", any_server, {}),
    S("GET", "/v1/query/profile", any_server, None, {"user_id": "{creator}"}),
    S("GET", "/v1/query/directory", always_for_servers(NOT_FOUND), None,
      {"room_alias": "#no:test.example"}),
    S("GET", "/v1/user/devices/{creator}", any_server),
    S("POST", "/v1/user/keys/query", any_server, {"device_keys": {}}),
    S("POST", "/v1/user/keys/claim", any_server, {"one_time_keys": {}}),
    *(
        # Nothing is no event of a user of theirs.
        S("PUT", path + "/{room}/{event2}", always_for_servers(FORBIDDEN), {})
        for path in ("/v1/send_join", "/v2/send_join", "/v1/send_leave", "/v2/send_leave",
                     "/v1/send_knock")
    ),
    *(
        S("PUT", path + "/{room}/{event2}", rule, {})
        for path, rule in (
            ("/v1/invite", denied_first((400, "M_BAD_JSON"))),
            ("/v2/invite", always_for_servers((400, "M_MISSING_PARAM"))),
        )
    ),
    S("PUT", "/v1/exchange_third_party_invite/{room}",
      always_for_servers((400, "M_INVALID_PARAM")), {}),
]  # fmt: skip


@pytest.mark.parametrize("endpoint", SERVER_ENDPOINTS, ids=str)
def test_servers_are_shown_what_the_spec_says(stage: Stage, endpoint: ServerEndpoint) -> None:
    cells = []
    leaks: list[str] = []
    for visibility, room in stage.rooms.items():
        for kind, peer in stage.peers.items():
            values = {
                "room": room.room_id,
                "carol": peer.user("carol"),
                "creator": stage.cast.users["creator"].user_id,
                "n": str(next(stage.server.numbers)),
                **{f"event{phase}": room.events[phase] for phase in PHASES},
            }
            segments = [part.format(**values) for part in endpoint.path.split("/")[1:]]
            query = {name: value.format(**values) for name, value in endpoint.query.items()}
            answer = peer.request(endpoint.method, segments, endpoint.body, **query)
            expected = endpoint.rule(kind, visibility)
            cells.append((f"{kind} in {visibility}", expected, answer))
            # All that happened did so before any server but ours was there.
            if kind != "inside" or visibility in ("invited", "joined"):
                told = orjson.dumps(answer.json).decode()
                leaks += [f"{kind} in {visibility}" for word in room.secrets if word in told]
        path = FEDERATION + "/" + "/".join(segment(part) for part in segments)
        unsigned = stage.server.request(endpoint.method, path, endpoint.body, params=query)
        cells.append((f"unsigned in {visibility}", UNSIGNED, unsigned))
    compare(cells)
    assert not leaks, "\n".join(leaks)


# ---- the tables themselves


EXEMPT: Final = {
    "/_matrix/client/v1/media/": "tests/api/test_media.py",
    "/_matrix/media/": "tests/api/test_media.py",
    "/_matrix/federation/v1/media/": "tests/api/test_media.py",
    "/_matrix/key/": "public: keys are for everybody",
    "/.well-known/": "public",
    "/_matrix/federation/v1/version": "public",
    "/_matrix/federation/v1/openid/userinfo": "by its own token: tests/api/test_openid.py",
    "/_matrix/federation/v1/3pid/onbind": "unsigned: test_federation_third_party_invites.py",
    "/_matrix/federation/v1/query/{queryType}": "whatever is no known query is unrecognized",
    "/_matrix/client/v3/account/password": "with and without token: tests/api/test_account.py",
    "/_matrix/client/v3/account/deactivate": "likewise",
    "/_matrix/client/v3/account/3pid": "tests/api/test_account.py",
    "/_matrix/client/v3/register/": "open, and by e-mail: tests/api/test_registration.py",
    "/_matrix/client/v3/logout": "above, with users who can spare their tokens",
    "/_matrix/client/v3/login/sso": "not offered",
    "/_matrix/client/v1/appservice/": "for application services",
}
"""Where operations begin that are not in the tables, and why."""


def test_every_operation_of_the_spec_is_in_the_matrix() -> None:
    rows = [
        (endpoint.method, prefix + re.sub(r"[?].*", "", endpoint.path))
        for prefix, table in (
            (CLIENT, [*ROOM_ENDPOINTS, *MEMBERSHIP_ENDPOINTS]),
            (CLIENT, [*OPEN_ENDPOINTS, *ACCOUNT_ENDPOINTS]),
            (FEDERATION, SERVER_ENDPOINTS),
        )
        for endpoint in table
    ]

    def is_there(method: str, path: str) -> bool:
        pattern = re.compile("[^/]*".join(re.escape(part) for part in re.split("{[^}]+}", path)))
        return any(m == method and pattern.fullmatch(p) for m, p in rows)

    missing = [
        f"{operation.method} {operation.path}"
        for operation in read_operations()
        if not operation.path.startswith(tuple(EXEMPT))
        and not is_there(operation.method, operation.path)
    ]
    assert not missing, "\n".join(missing)


def test_the_matrix_has_more_than_a_thousand_cells() -> None:
    cells = (
        len(ROOM_ENDPOINTS) * len(VISIBILITIES) * len(ASKERS)
        + len(MEMBERSHIP_ENDPOINTS) * 3 * len(ASKERS)
        + len(OPEN_ENDPOINTS + ACCOUNT_ENDPOINTS) * len(STRANGERS)
        + len(SERVER_ENDPOINTS) * len(VISIBILITIES) * 5
    )
    assert cells > 4000
