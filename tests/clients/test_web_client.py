"""Two people with a web client in Chromium: from signing up to logging out, nothing fails.

Cinny, unmodified, from another origin than the server's, which has two workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image, ImageDraw

from tests.clients.cinny import CHROMIUM, CINNY, PATIENCE_MS, WebPerson, serve_cinny
from tests.server import RunningServer, start_server

playwright: Final[Any] = pytest.importorskip(
    "playwright.sync_api", reason="pip install playwright; see docs/howto/run-the-tests.md"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="apt install chromium"),
    pytest.mark.skipif(
        not (CINNY / "index.html").exists(),
        reason=f"no Cinny in {CINNY}; see docs/howto/run-the-tests.md",
    ),
    # The library's own affairs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with start_server(tmp_path, web_workers=2) as running:
        yield running


@pytest.fixture
def people(server: RunningServer) -> Iterator[tuple[WebPerson, WebPerson]]:
    """Alice and Bob, signed up."""
    with serve_cinny(server.url) as cinny, playwright.sync_playwright() as started:
        # Chromium refuses to sandbox for root; it sees nothing but our own server.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        alice, bob = (WebPerson(browser, cinny, name) for name in ("alice", "bob"))
        alice.sign_up()
        bob.sign_up()
        yield alice, bob
        browser.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "tea.png"
    image = Image.new("RGB", (480, 270), (240, 225, 200))
    draw = ImageDraw.Draw(image)
    draw.ellipse((140, 60, 340, 240), fill=(180, 70, 40))
    draw.ellipse((155, 70, 325, 120), fill=(120, 60, 20))
    image.save(file)
    return file


def see(locator: Any) -> None:
    """Wait until it is on the screen."""
    playwright.expect(locator.first).to_be_visible(timeout=PATIENCE_MS)


def test_two_people_find_nothing_missing_in_daily_use(
    server: RunningServer, people: tuple[WebPerson, WebPerson], picture: Path
) -> None:
    alice, bob = people
    alice.set_profile("Alice", picture)
    alice.create_room("Tea", "Which, when, and with what")
    alice.invite("@bob:localhost")
    bob.accept_invite()

    alice.say("Shall we have tea?")
    see(bob.message("Shall we have tea?"))
    bob.say("Plese.")
    see(alice.message("Plese."))
    bob.edit("Plese.", "Please.")
    see(alice.message("Please. (edited)"))
    alice.react("Please.", "tea")
    see(bob.message("Please.").get_by_text("🍵"))
    bob.reply("Shall we have tea?", "With milk")
    see(alice.message("With milk").get_by_text("Shall we have tea?"))

    alice.send_file(picture)
    for person in (alice, bob):
        see(person.pictures())
        width = person.pictures().first.evaluate("async i => (await i.decode(), i.naturalWidth)")
        assert width == 480
    see(alice.page.get_by_text("bob is following the conversation"))
    playwright.expect(alice.page.get_by_text("is typing")).to_have_count(0, timeout=PATIENCE_MS)
    _keep_picture(alice)
    see(alice.who_read("Please.").filter(has_text="bob"))
    see(bob.search("milk"))

    alice.write_to("bob")  # whom the user directory knows now
    bob.accept_conversation()
    alice.say("A secret")
    see(bob.message("A secret"))
    bob.say("Well kept")
    see(alice.message("Well kept"))

    bob.log_out()
    bob.log_in()
    bob.open_room("Tea")
    see(bob.message("With milk"))
    token = bob.token()
    bob.log_out()
    assert server.request("GET", "/_matrix/client/v3/account/whoami", token=token)[0] == 401
    assert alice.findings == bob.findings == []


def _keep_picture(person: WebPerson) -> None:
    """For the documentation: CINNY_PICTURE says where to."""
    if "CINNY_PICTURE" in os.environ:
        person.page.mouse.move(0, 0)
        person.pictures().last.scroll_into_view_if_needed()
        person.page.screenshot(path=os.environ["CINNY_PICTURE"])
