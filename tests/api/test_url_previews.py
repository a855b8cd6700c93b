"""Previews of web pages, and pages that are traps."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import falcon.testing
import orjson
import pytest

from architex.settings import PRIVATE_NETWORKS, MediaSettings, RateLimitSettings
from tests.api.client import Server, User, settings_for, start_server, stop_server
from tests.gateways.loopback import Loopback, Request, Respond, reply, serving
from tests.media_files import AUTHED, OLD, ask, download, picture

CLOSE = "Connection: close\r\n"

Pages = dict[str, Respond | tuple[str, bytes]]


@contextmanager
def website(pages: Pages) -> Iterator[Loopback]:
    """A web server with these pages."""

    def respond(request: Request, connection: socket.socket) -> None:
        page = pages.get(request.target.partition("?")[0])
        if page is None:
            reply(b"", 404, CLOSE)(request, connection)
        elif callable(page):
            page(request, connection)
        else:
            reply(page[1], headers=f"Content-Type: {page[0]}\r\n{CLOSE}")(request, connection)

    with serving(respond) as server:
        yield server


def at(server: Loopback, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def redirect(url: str) -> Respond:
    return reply(b"", 302, f"Location: {url}\r\n{CLOSE}")


@contextmanager
def previewing(database_url: str, directory: Path, **media: Any) -> Iterator[User]:
    settings = settings_for(
        directory,
        rate_limits=RateLimitSettings(enabled=False),
        media=MediaSettings(**{"url_previews": True, "url_preview_ip_blocklist": (), **media}),
    )
    server = start_server(database_url, settings)
    try:
        yield server.register("reader")
    finally:
        stop_server(server)


@pytest.fixture(scope="module")
def open_server(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """A user of a server that fetches pages from anywhere, also from this machine."""
    with previewing(module_database_url, tmp_path_factory.mktemp("open")) as user:
        yield user


@pytest.fixture
def careful(database_url: str, tmp_path: Path) -> Iterator[User]:
    """A user of a server that never fetches from private networks."""
    networks = tuple(PRIVATE_NETWORKS)
    with previewing(database_url, tmp_path, url_preview_ip_blocklist=networks) as user:
        yield user


def preview(user: User, url: str, path: str = AUTHED) -> falcon.testing.Result:
    return ask(user.server, "GET", f"{path}/preview_url", token=user.token, params={"url": url})


def test_page_is_previewed_with_its_picture(open_server: User) -> None:
    image = picture(279, 129)
    html = (
        b'<html prefix="og: http://ogp.me/ns#"><head><title>The Rock (1996)</title>'
        b'<meta property="og:title" content="The Rock" />'
        b'<meta property="og:url" content="http://www.imdb.com/title/tt0117500/" />'
        b'<meta property="og:image" content="test.png" /></head></html>'
    )
    pages: Pages = {"/films/a.html": ("text/html", html), "/films/test.png": ("image/png", image)}
    with website(pages) as server:
        told = preview(open_server, at(server, "/films/a.html"), OLD).json
        assert told["og:title"] == "The Rock"
        assert told["og:url"] == "http://www.imdb.com/title/tt0117500/"
        assert told["matrix:image:size"] == len(image)
        assert (told["og:image:width"], told["og:image:height"]) == (279, 129)
        assert told["og:image:type"] == "image/png"
        media = told["og:image"].removeprefix("mxc://")
        assert download(open_server, media).content == image
        # Once more: nothing is fetched again.
        assert preview(open_server, at(server, "/films/a.html#part")).json == told
        assert len(server.requests) == 2


def test_page_that_says_nothing_is_previewed_by_what_it_shows(open_server: User) -> None:
    html = "<title>Ein Café</title><p>Kuchen gibt es jeden Tag bis um fünf.</p>".encode("latin-1")
    with website({"/": ("text/html; charset=iso-8859-1", html)}) as server:
        assert preview(open_server, at(server)).json == {
            "og:title": "Ein Café",
            "og:description": "Kuchen gibt es jeden Tag bis um fünf.",
        }


def test_picture_is_its_own_preview(open_server: User) -> None:
    with website({"/p/cat.jpg": ("image/jpeg", picture(kind="JPEG"))}) as server:
        told = preview(open_server, at(server, "/p/cat.jpg")).json
    assert told["og:title"] == "cat.jpg"
    assert told["og:image"].startswith("mxc://")


def test_description_elsewhere_is_read(open_server: User) -> None:
    link = b'<link rel="alternate" type="application/json+oembed" href="/oembed?x=1">'
    about = {
        "type": "video",
        "title": "A film",
        "provider_name": "Tube",
        "thumbnail_url": "/t.png",
    }
    pages: Pages = {
        "/": ("text/html", link),
        "/oembed": ("application/json", orjson.dumps(about)),
        "/t.png": ("image/png", picture()),
    }
    with website(pages) as server:
        told = preview(open_server, at(server)).json
    assert (told["og:title"], told["og:site_name"]) == ("A film", "Tube")
    assert told["og:image"].startswith("mxc://")


@pytest.mark.parametrize("answer", [b"[]", b"{", b'{"title": 1}', b"x" * 300_000])
def test_bad_description_is_left_out(open_server: User, answer: bytes) -> None:
    link = b'<title>T</title><link rel=alternate type="application/json+oembed" href=/oembed>'
    pages: Pages = {"/": ("text/html", link), "/oembed": ("application/json", answer)}
    with website(pages) as server:
        assert preview(open_server, at(server)).json == {"og:title": "T"}


def test_what_is_no_page_has_an_empty_preview(open_server: User) -> None:
    with website({"/": ("application/zip", b"PK\x03\x04")}) as server:
        assert preview(open_server, at(server)).json == {}


def test_picture_that_is_none_is_left_out(open_server: User) -> None:
    html = b'<title>T</title><meta property="og:image" content="/x.svg">'
    pages: Pages = {
        "/": ("text/html", html),
        "/x.svg": ("image/svg+xml", b"<svg onload='alert(1)'/>"),
    }
    with website(pages) as server:
        assert preview(open_server, at(server)).json == {"og:title": "T"}


def test_redirects_are_followed_five_times(open_server: User) -> None:
    pages: Pages = {f"/{n}": redirect(f"/{n + 1}") for n in range(20)}
    pages["/5"] = ("text/html", b"<title>Here</title>")
    with website(pages) as server:
        assert preview(open_server, at(server, "/0")).json == {"og:title": "Here"}
        result = preview(open_server, at(server, "/6"))
        assert result.status_code == 502


@pytest.mark.parametrize("status", [403, 404, 500])
def test_page_that_is_refused_has_no_preview(open_server: User, status: int) -> None:
    with website({"/": reply(b"", status, CLOSE)}) as server:
        assert preview(open_server, at(server)).status_code == 502


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http://u:p@h.org/",
        "http://[::1",
        "http://h:99999/",
        "javascript:alert(1)",
        "http://h/" + "x" * 5000,
    ],
)
def test_only_urls_of_the_web_are_fetched(open_server: User, url: str) -> None:
    assert preview(open_server, url).status_code == 400


def test_previews_are_for_our_users_and_only_if_wanted(server: Server, alice: User) -> None:
    assert ask(server, "GET", f"{AUTHED}/preview_url?url=http://h/").status_code == 401
    result = preview(alice, "http://example.org/")
    assert (result.status_code, result.json["errcode"]) == (404, "M_UNRECOGNIZED")


# ---- traps


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1.2.3", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]",  # noqa: S104 - where we must not go
     "[64:ff9b::127.0.0.1]", "[2002:7f00:1::1]", "[2001:0:7f00:1::]", "10.0.0.1",
     "169.254.169.254", "[fe80::1]", "[fc00::1]", "[::ffff:a9fe:a9fe]", "localhost",
     "2130706433", "0x7f000001", "0177.0.0.1", "127.1"],
)  # fmt: skip
def test_private_networks_are_never_asked(careful: User, host: str) -> None:
    with website({"/": ("text/html", b"<title>secret</title>")}) as server:
        result = preview(careful, f"http://{host}:{server.port}/")
        assert result.status_code in (400, 502)
        assert server.connections == 0


def test_every_hop_is_looked_at(database_url: str, tmp_path: Path) -> None:
    # Only 127.0.0.1 may be asked; 127.0.0.2 is somebody else's.
    with (
        previewing(
            database_url, tmp_path, url_preview_ip_blocklist=("127.0.0.2/32", "::1/128")
        ) as user,
        website({"/": ("text/html", b"<title>secret</title>")}) as hidden,
    ):
        inside = f"http://127.0.0.2:{hidden.port}/"
        leading: list[tuple[bytes, dict[str, str]]] = [
            (b'<title>T</title><meta property="og:image" content="%s">' % inside.encode(), {}),
            (b"<title>T</title><link rel=alternate type=application/json+oembed href=%s>"
             % inside.encode(), {}),
            (b"<title>T</title><img src=%s>" % inside.encode(), {}),
            (b'<title>T</title><meta property="og:image" content="/hop">', {}),
        ]  # fmt: skip
        for number, (html, _) in enumerate(leading):
            pages: Pages = {f"/{number}": ("text/html", html), "/hop": redirect(inside)}
            with website(pages) as server:
                assert preview(user, at(server, f"/{number}")).json == {"og:title": "T"}
        with website({"/": redirect(inside)}) as server:
            assert preview(user, at(server)).status_code == 400
        assert hidden.connections == 0


def dribble(head: bytes, piece: bytes) -> Callable[[Request, socket.socket], None]:
    """Sends without end."""

    def respond(request: Request, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(head)
            while True:
                connection.sendall(piece)

    return respond


def test_page_without_end_is_read_to_a_point(open_server: User) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>Endless</title>"
    with website({"/": dribble(head, b"<p>x</p>" * 1000)}) as server:
        assert preview(open_server, at(server)).json["og:title"] == "Endless"


def test_picture_without_end_is_left_out(open_server: User) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + picture()
    pages: Pages = {
        "/": ("text/html", b'<title>T</title><meta property="og:image" content="/i">'),
        "/i": dribble(head, b"x" * 65_536),
    }
    with website(pages) as server:
        assert preview(open_server, at(server)).json == {"og:title": "T"}
    stored = open_server.server.core.database.fetch_one("SELECT max(size) FROM media_files")
    assert stored is not None
    assert (stored[0] or 0) < 10_000_000


def test_deep_page_is_previewed(open_server: User) -> None:
    html = b"<title>Deep</title>" + b"<div>" * 150_000
    with website({"/": ("text/html", html)}) as server:
        assert preview(open_server, at(server)).json["og:title"] == "Deep"


def test_packed_page_is_not_unpacked(open_server: User) -> None:
    bomb = gzip.compress(b"<title>Boom</title>" + b"\x00" * 50_000_000)
    answer = reply(bomb, headers=f"Content-Type: text/html\r\nContent-Encoding: gzip\r\n{CLOSE}")
    with website({"/": answer}) as server:
        result = preview(open_server, at(server))
        assert server.requests[0].headers["accept-encoding"] == "identity"
    assert result.status_code == 200
    assert result.json.get("og:title") != "Boom"
