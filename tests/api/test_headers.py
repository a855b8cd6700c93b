"""What every answer says beside its body: to browsers of other sites, to caches, to guessers."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest

from tests.api.client import PASSWORD, Answer, Server, User, segment

CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH",
    "access-control-allow-headers": "X-Requested-With, Content-Type, Authorization, Date",
}
UNKNOWN = "/_matrix/client/v3/nothing/here"


def answers(server: Server, alice: User) -> dict[str, Answer]:
    """One answer of each kind."""
    room = f"/rooms/{segment(alice.create_room())}"
    return {
        "success": alice.get("/account/whoami"),
        "no token": server.request("GET", "/account/whoami"),
        "forbidden": alice.get("/rooms/!x:test.example/state"),
        "not JSON": server.request("POST", "/login", raw=b"{"),
        "authentication": alice.post("/delete_devices", {"devices": []}),
        "unknown": server.request("GET", UNKNOWN),
        "unknown below a known one": alice.get(f"{room}/nothing"),
        "method": server.request("DELETE", "/login"),
        "bad path": server.request("GET", "/profile/%ff"),
        "too large": server.request("POST", "/login", raw=b" " * (1024 * 1024 + 1)),
        "preflight": server.request("OPTIONS", f"{room}/send/m.room.message/1"),
        "preflight of nothing": server.request("OPTIONS", UNKNOWN),
        "no media": alice.get("/_matrix/client/v1/media/download/test.example/nothing"),
        "outside": server.request("GET", "/nothing"),
        "federation": server.request("GET", "/_matrix/federation/v1/version"),
        "key": server.request("GET", "/_matrix/key/v2/server"),
        "well-known": server.request("GET", "/.well-known/matrix/client"),
    }


def test_pages_of_other_sites_may_read_every_answer(server: Server, alice: User) -> None:
    for name, answer in answers(server, alice).items():
        told = {key: answer.headers.get(key) for key in CORS}
        assert told == CORS, name


def test_nothing_is_taken_for_what_it_is_not(server: Server, alice: User) -> None:
    for name, answer in answers(server, alice).items():
        assert answer.headers["x-content-type-options"] == "nosniff", name


def test_answers_for_one_user_are_kept_by_no_cache(server: Server, alice: User) -> None:
    body: dict[str, Any] = {"type": "m.login.password", "password": PASSWORD}
    body |= {"identifier": {"type": "m.id.user", "user": alice.user_id}, "refresh_token": True}
    told = server.request("POST", "/login", body)
    refreshed = server.request("POST", "/refresh", {"refresh_token": told.ok()["refresh_token"]})
    openid = alice.post(f"/user/{alice.path}/openid/request_token")
    for answer in (told, refreshed, openid, alice.get("/sync"), alice.get("/account/whoami")):
        answer.ok()
        assert answer.headers["cache-control"] == "no-store"
    # Other servers keep this one for as long as they like.
    assert "cache-control" not in server.request("GET", "/_matrix/key/v2/server").headers


@pytest.mark.parametrize(
    "prefix", ["client/v3", "client/v1", "federation/v1", "media/v3", "key/v2"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_unknown_endpoints_are_unrecognized(server: Server, prefix: str, method: str) -> None:
    answer = server.request(method, f"/_matrix/{prefix}/no_such_thing")
    answer.refused(404, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/_matrix/client/v3/login"),
        ("PUT", "/_matrix/client/v3/sync"),
        ("PATCH", "/_matrix/client/v3/account/whoami"),
        ("POST", "/_matrix/client/v3/rooms/!x:y/messages"),
        ("DELETE", "/_matrix/media/v3/upload"),
        ("POST", "/_matrix/key/v2/server"),
        ("GET", "/_matrix/federation/v1/send/1"),
    ],
)
def test_unknown_methods_are_unrecognized(server: Server, method: str, path: str) -> None:
    server.request(method, path).refused(405, "M_UNRECOGNIZED")


def test_pages_run_nothing_of_others_and_stand_in_no_frame(server: Server) -> None:
    begun = server.request("POST", "/register", {"password": PASSWORD}).json["session"]
    fallback = "/_matrix/client/v3/auth/m.login.dummy/fallback/web"
    login = "/_matrix/static/client/login/"
    for path, query in (("/", {}), (login, {}), (fallback, {"session": begun})):
        page = falcon.testing.simulate_get(
            server.app, path, params=query, extras={"RAW_URI": path}
        )
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
