"""Bad input: each kind with the status and errcode it gets; never a 500, and the server goes on.

Two tables against the whole application: precise ones for what the spec names, and a sweep that
throws everything at every route.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import falcon.inspect
import orjson
import pytest

from tests.api.client import Server, User, segment
from tests.api.raw_requests import RawAnswer, call

CLIENT: Final = "/_matrix/client/v3"
MIB: Final = 1024 * 1024

Outcome = tuple[int, str | None]
NOT_JSON: Final = (400, "M_NOT_JSON")
BAD_JSON: Final = (400, "M_BAD_JSON")
TOO_LARGE: Final = (413, "M_TOO_LARGE")
INVALID: Final = (400, "M_INVALID_PARAM")
FORBIDDEN: Final = (403, "M_FORBIDDEN")

BAD_BODIES: Final[dict[str, tuple[bytes, Outcome]]] = {
    "cut off": (b'{"body": "x', NOT_JSON),
    "no JSON": (b"body=x&msgtype=m.text", NOT_JSON),
    "text after it": (b'{"body": "x"} {"body": "y"}', NOT_JSON),
    "comment": (b'{"body": "x"} // hi', NOT_JSON),
    "single quotes": (b"{'body': 'x'}", NOT_JSON),
    "comma at the end": (b'{"body": "x",}', NOT_JSON),
    "byte order mark": (b'\xef\xbb\xbf{"body": "x"}', NOT_JSON),
    "UTF-16": ('{"body": "x"}'.encode("utf-16"), NOT_JSON),
    "invalid UTF-8": (b'{"body": "\xff\xfe"}', NOT_JSON),
    "overlong UTF-8": (b'{"body": "\xc0\x80"}', NOT_JSON),
    "surrogate in UTF-8": (b'{"body": "\xed\xa0\x80"}', NOT_JSON),
    "lone high surrogate": (b'{"body": "\\ud800"}', NOT_JSON),
    "lone low surrogate": (b'{"body": "\\udc00"}', NOT_JSON),
    "surrogate in a key": (b'{"\\ud800": "x"}', NOT_JSON),
    "raw NUL": (b'{"body": "\x00"}', NOT_JSON),
    "raw newline in a string": (b'{"body": "\n"}', NOT_JSON),
    "NaN": (b'{"body": NaN}', NOT_JSON),
    "infinity": (b'{"body": -Infinity}', NOT_JSON),
    "nested 10,000 deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, NOT_JSON),
    "nested 300 deep": (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", NOT_JSON),
    "nested and cut off": (b"[" * 100_000, NOT_JSON),
    "list": (b"[]", BAD_JSON),
    "string": (b'"x"', BAD_JSON),
    "number": (b"1", BAD_JSON),
    "null": (b"null", BAD_JSON),
    "true": (b"true", BAD_JSON),
    "ten megabytes": (b'{"body": "' + b"x" * (10 * MIB) + b'"}', TOO_LARGE),
}
"""Bodies that no endpoint takes."""

BAD_CONTENTS: Final[dict[str, tuple[bytes, Outcome]]] = {
    "float": (b'{"x": 1.5}', BAD_JSON),
    "float inside": (b'{"a": [{"x": 0.5}]}', BAD_JSON),
    "integer as a float": (b'{"x": 1.0}', BAD_JSON),
    "exponent": (b'{"x": 1e3}', BAD_JSON),
    "float beyond all": (b'{"x": 1e400}', (400, None)),
    "2^53": (b'{"x": 9007199254740992}', BAD_JSON),
    "-2^53": (b'{"x": -9007199254740992}', BAD_JSON),
    "2^64": (b'{"x": 18446744073709551616}', BAD_JSON),
    "5,000 digits": (b'{"x": ' + b"9" * 5000 + b"}", (400, None)),
    "100 kB": (b'{"body": "' + b"x" * 100_000 + b'"}', TOO_LARGE),
    "65,536 bytes with the envelope": (b'{"body": "' + b"x" * 65_300 + b'"}', TOO_LARGE),
}
"""JSON objects that cannot be the content of an event."""

GOOD_CONTENTS: Final[dict[str, bytes]] = {
    "NUL as an escape": b'{"body": "\\u0000"}',
    "surrogate pair": b'{"body": "\\ud83d\\ude00"}',
    "2^53 - 1": b'{"x": 9007199254740991}',
    "-0": b'{"x": -0}',
    "equal keys": b'{"body": "x", "body": "y"}',
    "empty key": b'{"": ""}',
    "60,000 bytes": b'{"body": "' + b"x" * 60_000 + b'"}',
    "nested 100 deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "U+FFFF": '{"body": "\uffff"}'.encode(),
    "white space around": b' \n\t{"body": "x"}\r\n',
}
"""Contents that look odd and are allowed."""


@dataclass(frozen=True)
class Place:
    """Alice, and the paths of her room."""

    alice: User
    room_id: str

    @property
    def app(self) -> Any:
        return self.alice.server.app

    @property
    def room(self) -> str:
        return f"{CLIENT}/rooms/{segment(self.room_id)}"

    def send_path(self) -> str:
        """The path of a message with a fresh transaction ID."""
        return f"{self.room}/send/m.room.message/{next(self.alice.server.numbers)}"

    def call(self, method: str, target: str, body: bytes = b"", **more: Any) -> RawAnswer:
        """One request of Alice's."""
        target = target if target.startswith("/_") else CLIENT + target
        return call(self.app, method, target, body, **{"token": self.alice.token, **more})

    def serves_on(self) -> None:
        """Fail unless the server still takes a message."""
        told = self.call("PUT", self.send_path(), b'{"msgtype": "m.text", "body": "still here"}')
        assert told.status == 200, told


@pytest.fixture(scope="module")
def place(server: Server) -> Place:
    alice = server.register()
    return Place(alice, alice.create_room(preset="public_chat"))


def _json_endpoints(place: Place) -> list[tuple[str, str]]:
    """Endpoints that need a body, one of each kind."""
    user = place.alice.path
    room = segment(place.room_id)
    return [
        ("POST", "/login"),
        ("POST", "/createRoom"),
        ("POST", f"/rooms/{room}/invite"),
        ("PUT", f"/rooms/{room}/send/m.room.message/bad{next(place.alice.server.numbers)}"),
        ("PUT", f"/rooms/{room}/state/m.room.topic"),
        ("PUT", f"/rooms/{room}/state/m.room.topic/"),
        ("PUT", f"/profile/{user}/displayname"),
        ("PUT", f"/user/{user}/account_data/org.example.x"),
        ("POST", f"/user/{user}/filter"),
    ]


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_bodies_that_are_no_json_objects_are_refused(place: Place, kind: str) -> None:
    body, expected = BAD_BODIES[kind]
    for method, path in _json_endpoints(place):
        assert (path, place.call(method, path, body).outcome) == (path, expected)
    place.serves_on()


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_bad_bodies_in_chunks_are_refused_alike(place: Place, kind: str) -> None:
    body, expected = BAD_BODIES[kind]
    assert place.call("PUT", place.send_path(), body, chunked=True).outcome == expected


def test_message_without_a_body_is_not_json(place: Place) -> None:
    for chunked in (False, True):
        assert place.call("PUT", place.send_path(), chunked=chunked).outcome == NOT_JSON


@pytest.mark.parametrize("kind", BAD_CONTENTS)
def test_contents_beyond_canonical_json_are_refused(place: Place, kind: str) -> None:
    body, (status, errcode) = BAD_CONTENTS[kind]
    for path in (place.send_path(), f"{place.room}/state/org.example.state/key"):
        told = place.call("PUT", path, body)
        assert told.status == status, told
        assert errcode in (None, told.outcome[1]), told
    place.serves_on()


@pytest.mark.parametrize("kind", GOOD_CONTENTS)
def test_odd_contents_that_are_allowed_come_back_as_they_were(place: Place, kind: str) -> None:
    body = GOOD_CONTENTS[kind]
    told = place.call("PUT", place.send_path(), body)
    assert told.status == 200, told
    event_id = told.json["event_id"]
    read = place.call("GET", f"{place.room}/event/{segment(event_id)}")
    assert read.status == 200, read
    assert read.json["content"] == orjson.loads(body)


CONTENT_TYPES: Final = ("", "text/plain", "application/x-www-form-urlencoded", "a/b; charset=x")


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_content_type_is_not_looked_at(place: Place, content_type: str) -> None:
    # Clients and tests of many ages send anything here; the spec asks us not to care.
    told = place.call(
        "PUT", place.send_path(), b'{"body": "x"}', headers={"Content-Type": content_type}
    )
    assert told.status == 200, told


# What is not of its type, endpoint by endpoint


WRONG_TYPES: Final[list[tuple[str, str, dict[str, Any], Outcome]]] = [
    ("POST", "/createRoom", {"name": 1}, BAD_JSON),
    ("POST", "/createRoom", {"topic": ["x"]}, BAD_JSON),
    ("POST", "/createRoom", {"invite": "@bob:test.example"}, BAD_JSON),
    ("POST", "/createRoom", {"invite": [1]}, BAD_JSON),
    ("POST", "/createRoom", {"invite": ["bob"]}, INVALID),
    ("POST", "/createRoom", {"initial_state": {}}, BAD_JSON),
    ("POST", "/createRoom", {"initial_state": [1]}, BAD_JSON),
    ("POST", "/createRoom", {"creation_content": []}, BAD_JSON),
    ("POST", "/createRoom", {"power_level_content_override": "x"}, BAD_JSON),
    ("POST", "/createRoom", {"room_version": 10}, BAD_JSON),
    ("POST", "/createRoom", {"room_version": "x"}, (400, "M_UNSUPPORTED_ROOM_VERSION")),
    ("POST", "/createRoom", {"is_direct": "yes"}, BAD_JSON),
    ("POST", "/createRoom", {"visibility": 1}, BAD_JSON),
    ("POST", "/createRoom", {"initial_state": [{"type": "a\0b", "content": {}}]}, (400, None)),
    (
        "POST",
        "/createRoom",
        {"initial_state": [{"type": "a", "state_key": "\0", "content": {}}]},
        (400, None),
    ),
    ("POST", "/createRoom", {"initial_state": [{"type": "m.x", "content": 1}]}, (400, None)),
    ("POST", "/createRoom", {"initial_state": [{"type": "m.x", "content": {"x": 1.5}}]}, BAD_JSON),
    ("POST", "/createRoom", {"creation_content": {"x": 1.5}}, BAD_JSON),
    (
        "POST",
        "/createRoom",
        {"room_version": "12", "creation_content": {"additional_creators": [{}]}},
        (400, None),
    ),
    (
        "POST",
        "/createRoom",
        {"room_version": "12", "creation_content": {"additional_creators": "bob"}},
        (400, None),
    ),
    ("POST", "/createRoom", {"power_level_content_override": {"users": {"x": 1}}}, (400, None)),
    ("POST", "/createRoom", {"power_level_content_override": {"ban": []}}, (400, None)),
    ("POST", "/createRoom", {"room_alias_name": "a\0b"}, (400, None)),
    ("POST", "/createRoom", {"room_alias_name": "a:b"}, (400, None)),
    ("POST", "/createRoom", {"room_alias_name": "x" * 300}, (400, None)),
    ("POST", "/createRoom", {"name": "x" * 70_000}, TOO_LARGE),
    ("POST", "/createRoom", {"preset": "odd"}, BAD_JSON),
    ("POST", "/createRoom", {"invite": ["@x\0:test.example"]}, INVALID),
    ("POST", "/createRoom", {"invite": ["@x:"]}, INVALID),
    ("POST", "/rooms/{room}/invite", {"user_id": "@x\0:test.example"}, INVALID),
    ("POST", "/rooms/{room}/invite", {}, (400, "M_MISSING_PARAM")),
    ("POST", "/rooms/{room}/invite", {"user_id": 1}, BAD_JSON),
    ("POST", "/rooms/{room}/invite", {"user_id": "bob"}, INVALID),
    ("POST", "/rooms/{room}/kick", {}, (400, "M_MISSING_PARAM")),
    ("POST", "/rooms/{room}/kick", {"user_id": "bob"}, INVALID),
    ("POST", "/rooms/{room}/ban", {"user_id": {}}, BAD_JSON),
    ("POST", "/rooms/{room}/leave", {"reason": 1}, BAD_JSON),
    ("PUT", "/rooms/{room}/state/m.room.power_levels", {"users": []}, (400, None)),
    ("PUT", "/rooms/{room}/state/m.room.power_levels", {"users": {"x": 1}}, (400, None)),
    ("PUT", "/rooms/{room}/state/m.room.power_levels", {"ban": "50"}, (400, None)),
    ("PUT", "/rooms/{room}/state/m.room.power_levels", {"events": {"m.x": None}}, (400, None)),
    ("PUT", "/rooms/{room}/state/m.room.member/bob", {"membership": "join"}, (400, None)),
    ("PUT", "/rooms/{room}/state/m.room.create", {}, (400, None)),
    ("PUT", "/profile/{user}/displayname", {"displayname": 1}, (400, None)),
    ("POST", "/login", {}, (400, None)),
    ("POST", "/login", {"type": 1}, (400, None)),
    ("POST", "/login", {"type": "m.login.password", "identifier": "alice"}, (400, None)),
    ("POST", "/login", {"type": "m.login.magic"}, (400, "M_UNKNOWN")),
    (
        "POST",
        "/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "a\0b"},
            "password": "x",
        },
        (400, None),
    ),
    (
        "POST",
        "/login",
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "x\0" * 10_000,
        },
        (400, None),
    ),
    ("POST", "/register", {"auth": {"session": []}}, (400, None)),
    (
        "POST",
        "/register",
        {"auth": {"type": "m.login.dummy"}, "username": "n1", "password": "x", "device_id": "\0"},
        (400, None),
    ),
    ("POST", "/register", {"username": ["x"]}, BAD_JSON),
    ("POST", "/register", {"username": "no spaces", "auth": {}}, (400, "M_INVALID_USERNAME")),
    ("PUT", "/devices/nosuch", {"display_name": 1}, (400, None)),
    ("PUT", "/rooms/{room}/typing/{user}", {"typing": "yes"}, BAD_JSON),
    ("PUT", "/rooms/{room}/typing/{user}", {"typing": True, "timeout": "x"}, BAD_JSON),
    ("POST", "/rooms/{room}/read_markers", {"m.fully_read": 1}, BAD_JSON),
    ("POST", "/user/{user}/filter", {"room": 1}, BAD_JSON),
    ("POST", "/user/{user}/filter", {"room": {"timeline": {"limit": "x"}}}, BAD_JSON),
    ("POST", "/user/{user}/filter", {"room": {"rooms": [1]}}, BAD_JSON),
    ("POST", "/user/{user}/filter", {"event_format": "odd"}, BAD_JSON),
]
"""Method, path, body, outcome; None where the spec leaves the errcode open."""


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    WRONG_TYPES,
    ids=[f"{path} {orjson.dumps(body).decode()}" for _, path, body, _ in WRONG_TYPES],
)
def test_values_of_wrong_types_are_refused(
    place: Place, method: str, path: str, body: dict[str, Any], expected: Outcome
) -> None:
    target = path.format(room=segment(place.room_id), user=place.alice.path)
    told = place.call(method, target, orjson.dumps(body))
    status, errcode = expected
    # Forbidden is right, too, for events that the authorization rules refuse.
    assert told.status in ((status, 403) if errcode is None else (status,)), told
    assert told.outcome[1] is not None, told
    assert errcode in (None, told.outcome[1]), told
    place.serves_on()


# Tokens, methods, paths


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (401, "M_MISSING_TOKEN")),
        ({"Authorization": ""}, (401, "M_MISSING_TOKEN")),
        ({"Authorization": "Bearer"}, (401, "M_MISSING_TOKEN")),
        ({"Authorization": "Bearer "}, (401, "M_MISSING_TOKEN")),
        ({"Authorization": "Basic YTpi"}, (401, "M_MISSING_TOKEN")),
        ({"Authorization": "Bearer nonsense"}, (401, "M_UNKNOWN_TOKEN")),
        ({"Authorization": "Bearer " + "x" * 10_000}, (401, "M_UNKNOWN_TOKEN")),
        ({"Authorization": "Bearer \x00"}, (401, "M_UNKNOWN_TOKEN")),
        ({"Authorization": "Bearer \xff\xfe"}, (401, "M_UNKNOWN_TOKEN")),
    ],
    ids=repr,
)
def test_requests_without_a_valid_token_are_refused(
    place: Place, headers: dict[str, str], expected: Outcome
) -> None:
    for method, path, body in (
        ("GET", "/account/whoami", b""),
        ("PUT", place.send_path(), b'{"body": "x"}'),
        ("PUT", place.send_path(), b"{not json"),
        ("POST", "/createRoom", b"{}"),
    ):
        told = place.call(method, path, body, token=None, headers=headers)
        assert (path, told.outcome) == (path, expected)


def test_token_in_the_query_may_be_anything(place: Place) -> None:
    for token in ("nonsense", "%00", "%FF", "%ED%A0%80", "a&access_token=b"):
        told = place.call("GET", f"/account/whoami?access_token={token}", token=None)
        assert told.outcome == (401, "M_UNKNOWN_TOKEN"), token


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_matrix/client/v3/no/such/endpoint", 404),
        ("GET", "/_matrix/client/v9/sync", 404),
        ("GET", "/_matrix/nothing", 404),
        ("GET", "/_matrix/client/v3/rooms//send", 404),
        ("POST", "/_matrix/client/v3/account/whoami", 405),
        ("DELETE", "/_matrix/client/v3/createRoom", 405),
        ("PATCH", "/_matrix/client/v3/login", 405),
        ("TRACE", "/_matrix/client/v3/login", 405),
    ],
)
def test_unknown_endpoints_and_methods_are_unrecognized(
    place: Place, method: str, path: str, status: int
) -> None:
    assert place.call(method, path).outcome == (status, "M_UNRECOGNIZED")


def test_unknown_methods_are_refused(place: Place) -> None:
    for method in ("BREW", "get", "X" * 1000, "PROPFIND"):
        told = place.call(method, "/account/whoami")
        assert told.status in (400, 405), (method, told)
        assert told.outcome[1] is not None


FOREIGN_ROOMS: Final = {
    "unknown here": "!nowhere:test.example",
    "of another server": "!nowhere:other.example",
    "without a server": "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM",
    "no room ID": "room",
    "an alias": "#room:test.example",
    "a user": "@alice:test.example",
    "long": "!" + "x" * 5000 + ":test.example",
    "two dots": "..",
    "empty server": "!x:",
    "Cyrillic": "!комната:test.example",
    "quote": "!' OR 1=1 --:test.example",
}


@pytest.mark.parametrize("kind", FOREIGN_ROOMS)
def test_foreign_rooms_are_refused(place: Place, kind: str) -> None:
    room = segment(FOREIGN_ROOMS[kind])
    event = segment("$31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM")
    asked = [
        ("PUT", f"/rooms/{room}/send/m.room.message/1", b'{"body": "x"}'),
        ("PUT", f"/rooms/{room}/state/m.room.topic", b'{"topic": "x"}'),
        ("PUT", f"/rooms/{room}/redact/{event}/1", b"{}"),
        ("POST", f"/rooms/{room}/join", b"{}"),
        ("POST", f"/rooms/{room}/leave", b"{}"),
        ("POST", f"/rooms/{room}/invite", b'{"user_id": "@bob:test.example"}'),
        ("GET", f"/rooms/{room}/state", b""),
        ("GET", f"/rooms/{room}/state/m.room.topic", b""),
        ("GET", f"/rooms/{room}/messages?dir=b", b""),
        ("GET", f"/rooms/{room}/members", b""),
        ("GET", f"/rooms/{room}/joined_members", b""),
        ("GET", f"/rooms/{room}/event/{event}", b""),
        ("GET", f"/rooms/{room}/context/{event}", b""),
        ("GET", f"/rooms/{room}/aliases", b""),
    ]
    for method, path, body in asked:
        told = place.call(method, path, body)
        assert told.status in (400, 403, 404), (method, path, told)
        assert told.outcome[1] in ("M_FORBIDDEN", "M_NOT_FOUND", "M_INVALID_PARAM"), (path, told)


def test_rooms_one_is_not_in_are_forbidden(place: Place, server: Server) -> None:
    stranger = server.register()
    room = segment(stranger.create_room(preset="private_chat"))
    for method, path, body in (
        ("PUT", f"/rooms/{room}/send/m.room.message/1", b'{"body": "x"}'),
        ("PUT", f"/rooms/{room}/state/m.room.topic", b'{"topic": "x"}'),
        ("POST", f"/rooms/{room}/join", b"{}"),
        ("POST", f"/rooms/{room}/invite", orjson.dumps({"user_id": stranger.user_id})),
        ("GET", f"/rooms/{room}/state", b""),
        ("GET", f"/rooms/{room}/messages?dir=b", b""),
        ("GET", f"/rooms/{room}/members", b""),
        ("GET", f"/rooms/{room}/joined_members", b""),
    ):
        assert (path, place.call(method, path, body).outcome) == (path, FORBIDDEN)


def test_slashes_in_encoded_segments_stay_in_them(place: Place) -> None:
    for state_key in ("a/b", "/", "..", "../..", "a b", "%", "%2F", "é", "😀", "?#&=+"):
        path = f"{place.room}/state/org.example.odd/{segment(state_key)}"
        assert place.call("PUT", path, orjson.dumps({"key": state_key})).status == 200
        told = place.call("GET", path)
        assert (state_key, told.status) == (state_key, 200)
        assert told.json == {"key": state_key}


@pytest.mark.parametrize("odd", ["%00", "%FF", "%ED%A0%80", "%C0%80", "a%00b"])
def test_segments_that_are_no_text_are_invalid(place: Place, odd: str) -> None:
    for method, path in (
        ("PUT", f"{place.room}/send/m.room.message/{odd}"),
        ("PUT", f"{place.room}/send/{odd}/1"),
        ("PUT", f"{place.room}/state/org.example.odd/{odd}"),
        ("POST", f"/join/{odd}"),
        ("GET", f"/profile/{odd}"),
    ):
        assert (path, place.call(method, path, b"{}").outcome) == (path, INVALID)


def test_long_types_and_keys_are_refused(place: Place) -> None:
    for path in (
        f"{place.room}/send/{'x' * 256}/1",
        f"{place.room}/state/{'x' * 256}/",
        f"{place.room}/state/org.example.long/{'x' * 256}",
        f"{place.room}/state/org.example.long/{segment('é' * 128)}",
    ):
        told = place.call("PUT", path, b"{}")
        assert told.status in (400, 413), (path, told)
        assert told.outcome[1] in ("M_TOO_LARGE", "M_INVALID_PARAM", "M_BAD_JSON"), told


def test_same_transaction_id_with_another_body_makes_no_second_event(place: Place) -> None:
    path = place.send_path()
    first = place.call("PUT", path, b'{"body": "first"}')
    second = place.call("PUT", path, b'{"body": "second"}')
    assert first.status == second.status == 200
    assert first.json == second.json


BAD_QUERIES: Final = [
    ("/rooms/{room}/messages?dir=b&limit=abc", INVALID),
    ("/rooms/{room}/messages?dir=b&limit=-1", INVALID),
    ("/rooms/{room}/messages?dir=b&limit=99999999999999999999999", INVALID),
    ("/rooms/{room}/messages?dir=b&limit=1_0", INVALID),
    ("/rooms/{room}/messages?dir=b&limit=%D9%A1", INVALID),
    ("/rooms/{room}/messages?dir=x", (400, None)),
    ("/rooms/{room}/messages?dir=b&from=nonsense", (400, None)),
    ("/rooms/{room}/messages?dir=b&from=%00", (400, None)),
    ("/rooms/{room}/messages?dir=b&filter={{", (400, None)),
    ("/rooms/{room}/messages?dir=b&filter=[]", (400, None)),
    ("/rooms/{room}/messages?dir=b&filter=%7B%22types%22:1%7D", (400, None)),
    ("/rooms/{room}/members?at=nonsense", (400, None)),
    ("/rooms/{room}/members?membership=odd", (400, None)),
    ("/sync?since=nonsense", (400, None)),
    ("/sync?since=%00", (400, None)),
    ("/sync?timeout=abc", INVALID),
    ("/sync?timeout=-1", INVALID),
    ("/sync?full_state=maybe", INVALID),
    ("/sync?timeout=0&filter={{", (400, None)),
    ("/sync?timeout=0&filter=nonsense", (400, None)),
    ("/sync?timeout=0&filter=999999", (400, None)),
    ("/sync?timeout=0&filter=%7B%22room%22:1%7D", (400, None)),
    ("/sync?timeout=0&set_presence=odd", (400, None)),
    ("/publicRooms?limit=abc", INVALID),
    ("/publicRooms?since=nonsense", (400, None)),
    ("/register/available?username=no%20spaces", (400, "M_INVALID_USERNAME")),
    ("/register/available", (400, "M_MISSING_PARAM")),
]


@pytest.mark.parametrize(("target", "expected"), BAD_QUERIES, ids=[t for t, _ in BAD_QUERIES])
def test_bad_parameters_of_the_query_are_refused(
    place: Place, target: str, expected: Outcome
) -> None:
    told = place.call("GET", target.format(room=segment(place.room_id)))
    status, errcode = expected
    assert told.status == status, told
    assert told.outcome[1] is not None, told
    assert errcode in (None, told.outcome[1]), told


# Everything at every route

VARIABLE: Final = re.compile(r"{([^}]+)}")

ODD_SEGMENTS: Final = (
    "x",
    segment("!nowhere:test.example"),
    segment("@nobody:test.example"),
    segment("#nowhere:test.example"),
    segment("$31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"),
    "%00",
    "%FF",
    "%ED%A0%80",
    "%2F",
    "..%2F..",
    "%F0%9F%98%80",
    "x" * 3000,
    "-1",
    "99999999999999999999",
    "%25",
)

ODD_BODIES: Final = (
    b"",
    b"{}",
    b"{",
    b"[]",
    b"null",
    b'{"\xff": 1}',
    b'{"a": "\\ud800"}',
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
)

ODD_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "\0",
    "x",
    "@a:b\0",
    "!" * 300,
    [],
    [None],
    [{}],
    [[["x"]]],
    {},
    {"": None},
    {"\0": "\0"},
    {"x": {"x": []}},
)

KNOWN_KEYS: Final = tuple(
    re.findall(
        r"\S+",
        """
        account_data additional_creators algorithm auth auth_chain auth_data avatar_url
        creation_content device_id device_keys devices display_name displayname fallback_keys
        first_message_index forwarded_count is_verified master_key messages one_time_keys
        self_signing_key session_data sessions user_signing_key version
        event_fields event_format event_id filter flows
        generic_search_term identifier ids include_all_networks inhibit_login
        initial_device_display_name initial_state invite invite_3pid is_direct limit
        logout_devices m.fully_read m.read m.read.private m.tag membership name network
        new_password order password power_level_content_override presence preset reason
        refresh_token room room_alias_name room_id room_version rooms search_term server servers
        since status_msg third_party_instance_id third_party_signed thread_id timeout token topic
        type typing user user_id username visibility x_show_msisdn
        """,
    )
)
"""Keys of request bodies; each gets values that are not of its type."""

ODD_QUERIES: Final = (
    "limit=abc",
    "limit=-5",
    "from=%00&dir=b",
    "from=x&dir=f&to=y",
    "dir=b&limit=0",
    "filter=%00",
    "filter={%22room%22:{%22timeline%22:[]}}&timeout=0",
    "since=s0&timeout=0",
    "since=-1&timeout=0",
    "since=99999999999999999999&timeout=0",
    "at=%FF&timeout=0",
    "ts=1&user_id=@x:y&timeout=0",
    "limit=1&limit=2&timeout=0",
    "%00=%00&timeout=0",
    "&&&==&timeout=0",
    "server=%00&via=%00&server_name=%FF&timeout=0",
    "username=%00",
    "kind=odd&guest_access_token=1&timeout=0",
    "version=%00",
    "version=99999999999999999999&from=s1_2",
    "from=s5_1&to=s0_0&version=1",
)


def _routes(place: Place) -> Iterator[tuple[str, str]]:
    """Method and path template of every route under the v3 prefix, and those without versions."""
    for route in falcon.inspect.inspect_routes(cast(Any, place.app)._app):
        if re.match(r"/_matrix/client/(v1|r0|unstable)/", route.path):
            continue
        for method in route.methods:
            if not method.internal and method.method in ("GET", "POST", "PUT", "DELETE"):
                yield method.method, route.path


def _fill(template: str, place: Place, segment_: str | None = None) -> str:
    """The path with a value for each variable: `segment_`, or one that fits."""
    fitting = {
        "room_id": segment(place.room_id),
        "room_id_or_alias": segment(place.room_id),
        "user_id": place.alice.path,
        "event_type": "m.room.topic",
        "type": "org.example.type",
    }
    return VARIABLE.sub(lambda m: segment_ or fitting.get(m[1].split(":")[0], "x"), template)


def _assert_answered(told: RawAnswer, what: object) -> None:
    # 502: another server does not answer, and there is none in these tests.
    assert told.status < 500 or told.outcome in ((501, "M_UNRECOGNIZED"), (502, "M_UNKNOWN")), (
        what,
        told,
    )
    is_page = told.headers.get("content-type", "").startswith("text/html")
    if told.status >= 400 and not is_page:
        assert told.outcome[1] is not None or "flows" in (told.json or {}), (what, told)


@pytest.fixture
def throwaway(server: Server) -> Place:
    """A user and a room that a test may ruin."""
    user = server.register()
    return Place(user, user.create_room())


def _is_last_word(path: str) -> bool:
    """Whether a success there ends the session the test speaks with."""
    return path.endswith(("/logout", "/logout/all", "/account/deactivate"))


def test_odd_segments_never_fail_the_server(throwaway: Place) -> None:
    for (method, template), odd in itertools.product(list(_routes(throwaway)), ODD_SEGMENTS):
        if "{" in template:
            path = _fill(template, throwaway, odd)
            told = throwaway.call(method, path + "?timeout=0", b"{}")
            _assert_answered(told, (method, path))
    throwaway.serves_on()


def test_odd_bodies_never_fail_the_server(throwaway: Place) -> None:
    for (method, template), body in itertools.product(list(_routes(throwaway)), ODD_BODIES):
        if not _is_last_word(template):
            path = _fill(template, throwaway)
            told = throwaway.call(method, path + "?timeout=0", body)
            _assert_answered(told, (method, path, body[:40]))


def test_odd_queries_never_fail_the_server(throwaway: Place) -> None:
    for (method, template), query in itertools.product(list(_routes(throwaway)), ODD_QUERIES):
        if method == "GET":
            path = f"{_fill(template, throwaway)}?{query}"
            _assert_answered(throwaway.call(method, path), path)
    throwaway.serves_on()


def test_odd_values_under_known_keys_never_fail_the_server(throwaway: Place) -> None:
    routes = falcon.inspect.inspect_routes(cast(Any, throwaway.app)._app)
    sources = {route.path: route.source_info.rpartition(":")[0] for route in routes}
    for method, template in _routes(throwaway):
        if method == "GET" or _is_last_word(template):
            continue
        path = _fill(template, throwaway) + "?timeout=0"
        for key, value in itertools.product(_keys_read_at(template, sources), ODD_VALUES):
            told = throwaway.call(method, path, json.dumps({key: value}).encode())
            _assert_answered(told, (method, path, key, value))


def _keys_read_at(template: str, sources: dict[str, str]) -> list[str]:
    """Keys of bodies that the module of a route's resource names, and `auth`."""
    named = set(re.findall(r"[\w.]+", Path(sources[template]).read_text()))
    return [key for key in KNOWN_KEYS if key == "auth" or key in named]


def test_requests_without_a_token_never_fail_the_server(throwaway: Place) -> None:
    for (method, template), body in itertools.product(
        list(_routes(throwaway)), (b"", b"{}", b"{", b'{"type": {}}')
    ):
        told = throwaway.call(method, _fill(template, throwaway), body, token=None)
        _assert_answered(told, (method, template, body))
