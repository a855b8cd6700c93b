"""People who use Cinny, a web client, unmodified, each in a Chromium of their own.

Where Cinny and Chromium come from: docs/howto/run-the-tests.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request, Response

CINNY: Final = Path(os.environ.get("CINNY", "~/.local/share/cinny")).expanduser()
CHROMIUM: Final = shutil.which("chromium") or shutil.which("google-chrome")
PASSWORD: Final = "correct horse battery staple"
PATIENCE_MS: Final = 30_000

# What the specification answers with an error in the course of things.
_EXPECTED: Final = {
    (401, "POST", "/_matrix/client/v3/register"),  # which stages are there?
    (404, "GET", "/_matrix/client/v3/room_keys/version"),  # no backup yet
}


class _CinnyFiles(SimpleHTTPRequestHandler):
    """Serves Cinny's files as its manual says: unknown paths are index.html."""

    def __init__(self, homeserver: str, *args: Any) -> None:
        self._homeserver = homeserver
        super().__init__(*args, directory=str(CINNY))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/config.json":
            self._send_config()
            return
        if path.endswith("/olm.wasm"):  # asked for beside whatever page one is on
            self.path = "/olm.wasm"
        elif not (CINNY / path.lstrip("/")).is_file():
            self.path = "/index.html"
        super().do_GET()

    def _send_config(self) -> None:
        config = {
            "defaultHomeserver": 0,
            "homeserverList": [self._homeserver],
            "allowCustomHomeservers": True,
            "hashRouter": {"enabled": False, "basename": "/"},
        }
        body = json.dumps(config).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serve_cinny(homeserver: str) -> Iterator[str]:
    """Serve Cinny for users of a homeserver; gives its URL.

    Args:
        homeserver: the base URL of its client API.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_CinnyFiles, homeserver)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class WebPerson:
    """Somebody with Cinny in a browser profile of their own.

    Attributes:
        name: the localpart.
        page: what they look at.
        findings: answers of the server and errors in the browser that should not have been.
    """

    def __init__(self, browser: Browser, cinny: str, name: str) -> None:
        self.name = name
        self.findings: list[str] = []
        self._cinny = cinny
        context = browser.new_context(viewport={"width": 1000, "height": 700})
        context.set_default_timeout(PATIENCE_MS)
        context.on("response", self._look_at_response)
        context.on("requestfailed", self._look_at_failure)
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.findings.append(f"in the browser: {error}"))

    def _look_at_response(self, response: Response) -> None:
        path = response.url.partition("://")[2].partition("?")[0]
        told = (response.status, response.request.method, path[path.find("/") :])
        if response.status >= 400 and told not in _EXPECTED:
            self.findings.append(" ".join(map(str, told)))

    def _look_at_failure(self, request: Request) -> None:
        # A page that is left ends its own requests.
        if request.failure != "net::ERR_ABORTED":
            self.findings.append(f"{request.failure} {request.method} {request.url}")

    # Accounts

    def sign_up(self) -> None:
        """Register, which logs in."""
        self.page.goto(f"{self._cinny}/register/")
        self.page.fill("input[name=usernameInput]", self.name)
        self.page.fill("input[name=passwordInput]", PASSWORD)
        self.page.fill("input[name=confirmPasswordInput]", PASSWORD)
        self.page.click("button[type=submit]")
        self._wait_until_in()

    def log_in(self) -> None:
        """Log in by password."""
        self.page.goto(f"{self._cinny}/login/")
        self.page.fill("input[name=usernameInput]", self.name)
        self.page.fill("input[name=passwordInput]", PASSWORD)
        self.page.click("button[type=submit]")
        self._wait_until_in()

    def log_out(self) -> None:
        """Log out; what the browser knew is gone."""
        self._open_settings()
        self._dialog().get_by_role("button", name="Logout").click()
        self._dialog().get_by_role("button", name="Logout").click()
        self.page.wait_for_url(re.compile("/login"))

    def token(self) -> str:
        """The access token Cinny uses."""
        token: str = self.page.evaluate("localStorage.getItem('cinny_access_token')")
        return token

    def _wait_until_in(self) -> None:
        self.page.wait_for_url(re.compile("/(home|direct)/"))
        self._settings_button().wait_for()

    # The profile

    def set_profile(self, display_name: str, avatar: Path) -> None:
        """Set the display name and the avatar."""
        self._open_settings()
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(".img-upload__wrapper button").first.click()
        chooser.value.set_files(avatar)
        self.page.locator(".profile-editor img").wait_for()
        self.page.locator(".profile-editor__info button").click()
        self.page.locator(".profile-editor__form input").fill(display_name)
        self.page.locator(".profile-editor__form button[type=submit]").click()
        self.page.locator(".profile-editor__info h2", has_text=display_name).wait_for()
        self._dialog().locator(".header button").last.click()

    def _settings_button(self) -> Locator:
        # The last of the sidebar, below its second line; it has no name.
        below = self.page.locator("[role=separator]").nth(1).locator("xpath=following-sibling::*")
        return below.locator("button").last

    def _open_settings(self) -> None:
        self._settings_button().click()
        self.page.locator(".profile-editor").wait_for()

    # Rooms

    def create_room(self, name: str, topic: str) -> None:
        """Create a private room without encryption, and open it."""
        self.page.goto(f"{self._cinny}/home/")
        self.page.get_by_role("button", name="Create Room").click()
        self.page.fill("input[name=name]", name)
        self.page.fill("textarea[name=topic]", topic)
        self.page.locator(".create-room .toggle").click()
        self.page.locator(".create-room button[type=submit]").click()
        self.page.get_by_role("button", name="Invite Member").wait_for()

    def open_room(self, name: str) -> None:
        """Open a room that is no conversation of two."""
        self.page.goto(f"{self._cinny}/home/")
        self.page.locator("a[href*='/home/!']", has_text=name).click()

    def invite(self, user_id: str) -> None:
        """Invite somebody to the room on the screen."""
        self.page.get_by_role("button", name="Invite Member").click()
        self._find_person(user_id).get_by_role("button", name="Invite").click()
        self.page.locator(".invite-user__content").get_by_text("Invited").wait_for()
        self._dialog().locator(".header button").click()

    def write_to(self, search_term: str) -> None:
        """Find somebody in the user directory and begin an encrypted conversation."""
        self.page.goto(f"{self._cinny}/direct/")
        self.page.get_by_role("button", name=re.compile("Create Chat|Direct Message")).click()
        found = self._find_person(search_term)
        found.get_by_role("button", name="Message").click()
        found.get_by_role("button", name="Open").wait_for()
        self._open_conversation()

    def accept_invite(self) -> None:
        """Accept the one invite there is, and go where it leads."""
        self.page.goto(f"{self._cinny}/inbox/invites/")
        self.page.get_by_role("button", name="Accept").click()
        self._composer().wait_for()

    def accept_conversation(self) -> None:
        """Accept the one invite there is, which is to a conversation of two."""
        self.page.goto(f"{self._cinny}/inbox/invites/")
        # Only then the room is where Cinny has its conversations.
        with self.page.expect_response(
            lambda told: told.request.method == "PUT" and told.url.endswith("/m.direct")
        ):
            self.page.get_by_role("button", name="Accept").click()
        self._open_conversation()

    def _open_conversation(self) -> None:
        self.page.goto(f"{self._cinny}/direct/")
        self.page.locator("a[href*='/direct/!']").click()

    def _find_person(self, search_term: str) -> Locator:
        self.page.locator(".invite-user__form input").fill(search_term)
        self.page.locator(".invite-user__form button[type=submit]").click()
        return self.page.locator(".invite-user__content")

    def _dialog(self) -> Locator:
        return self.page.locator(".ReactModalPortal > div").last

    # Messages

    def say(self, text: str) -> None:
        """Send a text to the room on the screen."""
        self._composer().click()
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def message(self, text: str) -> Locator:
        """The newest message on the screen with this text."""
        return self.page.locator("[data-message-id]", has_text=text).last

    def edit(self, text: str, better: str) -> None:
        """Replace an own message."""
        self._button(text, "button[data-event-id] + button").click()
        self.page.locator("[data-message-id] [data-slate-editor]").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(better)
        self.page.get_by_role("button", name="Save").click()

    def reply(self, text: str, answer: str) -> None:
        """Answer a message."""
        self._button(text, "button[data-event-id]").click()
        self.say(answer)

    def react(self, text: str, shortcode: str) -> None:
        """React to a message; emoji by the name that emojibase gives them."""
        self._button(text, "[aria-pressed]").first.click()
        self.page.get_by_placeholder("Search or Text Reaction").fill(shortcode)
        self.page.locator(f"[data-emoji-shortcode='{shortcode}']").first.click()

    def who_read(self, text: str) -> Locator:
        """Those whose receipts are at the message or after it."""
        self._button(text, "[aria-pressed]").nth(1).click()
        self.page.get_by_text("Read Receipts").click()
        return self.page.get_by_text("Seen by").locator("xpath=following::p")

    def send_file(self, file: Path) -> None:
        """Upload a file and send it."""
        with self.page.expect_file_chooser() as chooser:
            # The plus left of where one writes.
            self._composer().locator("xpath=ancestor::*[4]").locator("button").first.click()
        chooser.value.set_files(file)
        self.page.get_by_role("button", name="Send", exact=True).click()

    def pictures(self) -> Locator:
        """The pictures in the room on the screen."""
        return self.page.locator("[data-message-id] img[alt$='.png']")

    def search(self, word: str) -> Locator:
        """Search all messages; the texts found that hold the word."""
        self.page.goto(f"{self._cinny}/home/search/")
        self.page.fill("input[name=searchInput]", word)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Open").first.wait_for()  # beside each result
        return self.page.get_by_text(word)

    def _composer(self) -> Locator:
        return self.page.locator("[data-editable-name=RoomInput]")

    def _button(self, text: str, selector: str) -> Locator:
        """A button of a message's bar, which is there while one points at the message."""
        self.message(text).hover()
        return self.message(text).locator(selector)
