"""What web pages say about themselves, however they are written."""

from __future__ import annotations

import pytest

from architex.gateways.web_pages import (
    MAX_PAGE_BYTES,
    MAX_TEXT_LENGTH,
    WebPage,
    decode_page,
    is_known_encoding,
    read_page,
)


def read(html: str | bytes, content_type: str = "text/html; charset=utf-8") -> WebPage:
    body = html if isinstance(html, bytes) else html.encode()
    return read_page(body, content_type, lambda: None)


def test_opengraph_comes_first_and_once() -> None:
    page = read(
        '<html><head><title>T</title><meta property="og:title" content=" The\n Rock ">'
        '<meta property="og:title" content="Another"><meta name="twitter:title" content="Tw">'
        '<META PROPERTY="OG:Type" CONTENT="video.movie"/></head></html>'
    )
    assert page.properties == {
        "og:title": "The Rock",
        "twitter:title": "Tw",
        "og:type": "video.movie",
    }
    assert page.title == "T"


def test_page_without_opengraph_has_its_title_and_first_words() -> None:
    page = read(
        "<title>A &amp; B</title><body><script>var p = '<p>no</p>';</script><nav><p>"
        + "n" * 30
        + "</p></nav><h1>Head <b>line</b></h1><p>short</p>"
        "<p>The first words that say something.</p><p>The second words of it all.</p>"
        "<img src=data:image/png;base64,xx><img src='/a.png'>"
    )
    assert (page.title, page.heading) == ("A & B", "Head line")
    assert page.paragraph == "The first words that say something."
    assert page.pictures == ["/a.png"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<title>日本語</title>".encode("shift_jis"), "text/html; charset=Shift_JIS"),
        ("<meta charset=euc-jp><title>日本語</title>".encode("euc_jp"), "text/html"),
        ("<title>日本語</title>".encode("utf-16"), "text/html"),
        ("<title>日本語</title>".encode(), "text/html"),
        ("<title>日本語</title>".encode(), "text/html; charset=nonsense"),
        ("<title>日本語</title>".encode(), 'text/html; charset="unicode_escape"'),
        ("<meta charset=shift_jis><title>日本語</title>".encode(), "text/html; charset=utf-8"),
        (
            b'<meta http-equiv=Content-Type content="text/html; charset=gb2312">'
            + "<title>日本</title>".encode("gb2312"),
            "text/html",
        ),
    ],
)
def test_pages_are_read_in_their_encoding(body: bytes, content_type: str) -> None:
    assert read(body, content_type).title.startswith("日本")


def test_bytes_that_fit_nothing_are_read_anyway() -> None:
    assert decode_page(b"caf\xe9 au lait, s'il vous plait", "text/html").startswith("café")


def test_page_that_is_cut_off_in_a_character_is_read() -> None:
    assert decode_page("日本語".encode()[:-1], "text/html").startswith("日本")


@pytest.mark.parametrize(
    "name", ["hex", "zip", "punycode", "idna", "unicode_escape", "utf-7", "rot13", "", "x\x00y"]
)
def test_odd_encodings_are_none(name: str) -> None:
    assert not is_known_encoding(name)


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 300_000,
        "<a href=" * 100_000,
        "<title>" * 100_000,
        "<!--" + "x" * 1_000_000,
        "<p " + "a=b " * 200_000 + ">",
        "<p a='" + "x" * 1_000_000,
        "&amp;" * 200_000,
        "<svg>" * 100_000 + "</svg>" * 100_000,
        "<table><td>" * 100_000,
        "\x00" * 1000 + "<title>\x00</title>",
        "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'bbbbbbbb'>]>" + "&b;" * 100_000,
        "<![CDATA[" * 10_000,
        "",
    ],
    ids=range(13),
)
def test_deep_long_and_broken_pages_are_read_in_bounds(html: str) -> None:
    page = read(html[:MAX_PAGE_BYTES])
    assert len(page.title) <= MAX_TEXT_LENGTH
    assert len(page.paragraph) <= MAX_TEXT_LENGTH


def test_entities_of_documents_are_not_expanded_nor_fetched() -> None:
    page = read("<!DOCTYPE html [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><title>&x; root</title>")
    assert "root:" not in page.title


def test_what_is_found_is_bounded() -> None:
    many = "".join(f'<meta property="og:x{n}" content="{"y" * 5000}">' for n in range(200))
    page = read(many)
    assert len(page.properties) == 50
    assert max(map(len, page.properties.values())) == MAX_TEXT_LENGTH


def test_others_go_on_while_a_page_is_read() -> None:
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    read_page(b"<p>x</p>" * 20_000, "text/html", pause)
    assert pauses > 5
