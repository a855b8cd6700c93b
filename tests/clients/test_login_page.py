"""The page that logs somebody in for a client that knows no way to, in Chromium.

Spec: https://spec.matrix.org/v1.19/client-server-api/#login-fallback
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.cinny import CHROMIUM, PATIENCE_MS
from tests.server import RunningServer, start_server

playwright: Final[Any] = pytest.importorskip(
    "playwright.sync_api", reason="pip install playwright; see docs/howto/run-the-tests.md"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="apt install chromium"),
    # The library's own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PASSWORD = "correct horse"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with start_server(tmp_path) as running:
        body = {"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        assert running.request("POST", "/_matrix/client/v3/register", body)[0] == 200
        yield running


def test_page_hands_what_the_login_answers_to_the_client(server: RunningServer) -> None:
    with playwright.sync_playwright() as started:
        # Chromium refuses to sandbox for root; it sees nothing but our own server.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script("window.matrixLogin = {onLogin: (told) => { window.told = told; }};")
        query = "device_id=PHONE&initial_device_display_name=My%20phone&refresh_token=true"
        page.goto(f"{server.url}/_matrix/static/client/login/?{query}")
        page.fill("#user", "alice")
        page.fill("#password", "wrong")
        page.click("button")
        page.wait_for_selector("[role=alert]:not(:empty)")
        page.fill("#password", PASSWORD)
        page.click("button")
        page.get_by_role("heading", name="You are logged in").wait_for()
        told = page.evaluate("window.told")
        browser.close()
    assert told["user_id"] == "@alice:localhost"
    assert told["device_id"] == "PHONE"
    assert told["refresh_token"]
    device = server.request("GET", "/_matrix/client/v3/devices/PHONE", token=told["access_token"])[
        1
    ]
    assert device["display_name"] == "My phone"
