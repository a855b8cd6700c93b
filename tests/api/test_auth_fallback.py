"""Stages of user-interactive authentication in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import falcon.testing
import pytest

from tests.api.client import PASSWORD, Server, User


def page(
    server: Server, method: str, stage: str, session: str, form: Mapping[str, str] | None = None
) -> Any:
    """What a browser is answered."""
    path = f"/_matrix/client/v3/auth/{stage}/fallback/web"
    return falcon.testing.simulate_request(
        server.app,
        method,
        path,
        params={"session": session},
        body=None if form is None else urlencode(form),
        extras={"RAW_URI": path},
    )


@pytest.fixture
def begun(alice: User) -> str:
    """The session of a deletion of a device."""
    alice.log_in_again(device_id="gone")
    return str(alice.delete("/devices/gone", {}).json["session"])


def test_dummy_stage_is_completed_by_a_click(server: Server) -> None:
    first = server.request("POST", "/register", {"username": "clicker", "password": PASSWORD})
    session = first.json["session"]
    form = page(server, "GET", "m.login.dummy", session)
    assert form.status_code == 200
    assert form.headers["content-type"].startswith("text/html")
    assert "<form" in form.text
    assert "script" not in form.text
    again = {"auth": {"session": session}}
    assert server.request("POST", "/register", again).json["completed"] == []
    done = page(server, "POST", "m.login.dummy", session, {})
    assert "window.onAuthDone()" in done.text
    assert "window.onAuthDone()" in page(server, "GET", "m.login.dummy", session).text
    told = server.request("POST", "/register", again).ok()
    assert told["user_id"] == "@clicker:test.example"


def test_password_is_given_in_the_browser(server: Server, alice: User, begun: str) -> None:
    wrong = page(
        server, "POST", "m.login.password", begun, {"user": alice.user_id, "password": "x"}
    )
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    assert alice.delete("/devices/gone", {"auth": {"session": begun}}).status == 401
    right = {"user": alice.user_id, "password": PASSWORD}
    assert page(server, "POST", "m.login.password", begun, right).status_code == 200
    alice.delete("/devices/gone", {"auth": {"session": begun}}).ok()
    alice.get("/devices/gone").refused(404, "M_NOT_FOUND")


def test_password_of_another_user_completes_nothing(
    server: Server, alice: User, bob: User, begun: str
) -> None:
    form = {"user": bob.user_id, "password": PASSWORD}
    assert page(server, "POST", "m.login.password", begun, form).status_code == 403
    assert alice.delete("/devices/gone", {"auth": {"session": begun}}).status == 401


def test_stage_of_no_flow_is_not_found(server: Server, begun: str) -> None:
    for method in ("GET", "POST"):
        for stage in ("m.login.dummy", "m.login.sso"):
            answer = page(server, method, stage, begun, {} if method == "POST" else None)
            assert answer.status_code == 404


def test_unknown_session_is_not_found(server: Server) -> None:
    for session in ("never-was", '"><script>'):
        for method in ("GET", "POST"):
            answer = page(server, method, "m.login.dummy", session)
            assert answer.status_code == 404
            assert "<script>" not in answer.text
    assert page(server, "GET", "m.login.dummy", "").status_code == 400


def test_broken_form_is_refused(server: Server, begun: str) -> None:
    path = "/_matrix/client/v3/auth/m.login.password/fallback/web"
    for body in (b"\xff", b"&a=" * 100, b"", b"user=x"):
        answer = server.request("POST", path, raw=body, params={"session": begun})
        assert answer.status == 400
