"""What a web page says about itself: OpenGraph, title, description, pictures.

The parser is libxml2's, fed piece by piece; it tells of tags as they come and builds no tree, so
neither depth nor length of a page matters.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Final, cast

from lxml import etree

MAX_PAGE_BYTES: Final = 1024 * 1024
MAX_TAGS: Final = 20_000
MAX_TEXT_LENGTH: Final = 1000

_PIECE_LENGTH: Final = 16_384
_MAX_PROPERTIES: Final = 50
_MAX_COLLECTED: Final = 4000
_SHORTEST_PARAGRAPH: Final = 20
_CHARSET: Final = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)
# Those that browsers know. Some of Python's others take time in squares, or are no encodings.
_KNOWN: Final = re.compile(
    r"utf-8|utf-16(-[lb]e)?|ascii|iso8859-\d{1,2}|cp125\d|cp874|cp866|koi8-[ru]|mac-roman"
    r"|gb2312|gbk|gb18030|big5|big5hkscs|euc_jp|euc_kr|shift_jis|iso2022_jp"
)
_BLANKS: Final = re.compile(r"\s+")
_SILENT: Final = frozenset({"script", "style", "noscript", "svg", "nav", "template", "iframe"})


@dataclass
class WebPage:
    """What was found; all texts are bounded and in one line.

    Attributes:
        properties: the first value of each `og:…` and `twitter:…` property.
        oembed: where the page says that it is described in JSON.
        pictures: addresses of pictures, the best first.
    """

    properties: dict[str, str] = field(default_factory=dict)
    title: str = ""
    heading: str = ""
    description: str = ""
    paragraph: str = ""
    oembed: str = ""
    pictures: list[str] = field(default_factory=list)


def read_page(body: bytes, content_type: str, pause: Callable[[], None]) -> WebPage:
    """What a page says about itself.

    Args:
        body: the first MAX_PAGE_BYTES of it.
        content_type: as its server says.
        pause: called now and then, to let others go on.
    """
    target = _Target()
    parser = etree.HTMLParser(target=cast(Any, target), encoding="utf-8", no_network=True)
    text = decode_page(body[:MAX_PAGE_BYTES], content_type)
    try:
        for at in range(0, len(text), _PIECE_LENGTH):
            parser.feed(text[at : at + _PIECE_LENGTH].encode("utf-8", "replace"))
            if target.tags > MAX_TAGS:
                break
            pause()
        parser.close()
    except (etree.LxmlError, ValueError, AssertionError):
        pass  # what was found before it is good enough
    return target.page


def decode_page(body: bytes, content_type: str) -> str:
    """The text of a page: in the encoding it says to have, or one that fits."""
    header = Message()
    header["Content-Type"] = content_type
    declared = _CHARSET.search(body[:4096])
    said = [header.get_content_charset(), declared[1].decode("ascii") if declared else None]
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        said.insert(0, "utf-16")
    for name in (*said, "utf-8"):
        if name is not None and is_known_encoding(name):
            try:
                return body.decode(name)
            except UnicodeDecodeError as error:
                # The end may be cut off in the middle of a character.
                if len(body) - error.start < 8:
                    return body.decode(name, "replace")
    return body.decode("cp1252", "replace")


def is_known_encoding(name: str) -> bool:
    """Whether a name is that of an encoding of web pages."""
    try:
        return _KNOWN.fullmatch(codecs.lookup(name).name) is not None
    except (LookupError, ValueError):
        return False


class _Target:
    """Hears of tags and text as they come."""

    def __init__(self) -> None:
        self.page = WebPage()
        self.tags = 0
        self._within: str | None = None
        self._silent = 0
        self._text: list[str] = []
        self._length = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """A tag begins."""
        self.tags += 1
        if self.tags > MAX_TAGS:
            return
        if tag in _SILENT:
            self._silent += 1
        elif tag == "meta":
            self._meta(attributes)
        elif tag == "link":
            self._link(attributes)
        elif tag == "img" and len(self.page.pictures) < 3 and not self._silent:
            self._picture(attributes.get("src"))
        elif tag in ("title", "h1", "p") and not self._silent:
            self._within, self._text, self._length = tag, [], 0

    def end(self, tag: str) -> None:
        """A tag ends."""
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == self._within:
            self._collected(tag, tidy("".join(self._text)))
            self._within = None

    def data(self, text: str) -> None:
        """Text inside the current tag."""
        if self._within is not None and not self._silent and self._length < _MAX_COLLECTED:
            self._text.append(text)
            self._length += len(text)

    def comment(self, text: str) -> None:
        """A comment: nothing."""

    def close(self) -> None:
        """The end of the page."""

    def _collected(self, tag: str, text: str) -> None:
        page = self.page
        if tag == "title":
            page.title = page.title or text
        elif tag == "h1":
            page.heading = page.heading or text
        elif len(text) >= _SHORTEST_PARAGRAPH:
            page.paragraph = page.paragraph or text

    def _meta(self, attributes: Mapping[str, str]) -> None:
        name = (attributes.get("property") or attributes.get("name") or "").strip().lower()
        content = tidy(attributes.get("content") or "")
        if not content:
            return
        if name == "description":
            self.page.description = self.page.description or content
        elif (
            name.startswith(("og:", "twitter:"))
            and len(name) < 100
            and len(self.page.properties) < _MAX_PROPERTIES
        ):
            self.page.properties.setdefault(name, content)

    def _link(self, attributes: Mapping[str, str]) -> None:
        relation = (attributes.get("rel") or "").lower().split()
        href = (attributes.get("href") or "").strip()
        kind = (attributes.get("type") or "").strip().lower()
        if "alternate" in relation and kind == "application/json+oembed":
            self.page.oembed = self.page.oembed or href
        elif "image_src" in relation:
            self.page.pictures.insert(0, href)

    def _picture(self, source: str | None) -> None:
        if source and not source.strip().startswith("data:"):
            self.page.pictures.append(source.strip())


def tidy(text: str) -> str:
    """A text in one line, bounded."""
    return _BLANKS.sub(" ", text.replace("\x00", "")[:_MAX_COLLECTED]).strip()[:MAX_TEXT_LENGTH]
