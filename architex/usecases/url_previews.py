"""Previews of web pages: what they say about themselves, with a picture.

Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urldefrag, urljoin, urlsplit

from architex.domain.canonical_json import parse_json
from architex.domain.errors import InvalidParam, NotJson, RemoteFailed, Unrecognized
from architex.domain.identifiers import ServerName
from architex.domain.media import MediaUri, sniff_picture
from architex.gateways.clock import Clock, Randomness
from architex.gateways.errors import RemoteBlocked, RemoteError, RemoteRefused, RemoteTooLarge
from architex.gateways.http import AnswerStream, OutboundHttp
from architex.gateways.media_files import MediaFiles
from architex.gateways.web_pages import MAX_PAGE_BYTES, WebPage, read_page, tidy
from architex.storage.media import Media, MediaStore
from architex.storage.url_previews import UrlPreviewStore
from architex.usecases.rate_limits import RateLimits
from architex.usecases.requester import Requester
from architex.usecases.single_flight import SingleFlight
from architex.usecases.thumbnails import Thumbnails

log = logging.getLogger(__name__)

MAX_URL_LENGTH: Final = 4096
TIMEOUT_S: Final = 30.0
"""For everything that one preview fetches: the page, its description, its picture."""
KEPT_MS: Final = 60 * 60 * 1000
PICTURES_KEPT_MS: Final = 7 * 24 * 60 * 60 * 1000

_MAX_DESCRIPTION_BYTES: Final = 262_144
_HEADERS: Final = {
    "Accept": "text/html,application/xhtml+xml;q=0.9,image/*;q=0.8,*/*;q=0.5",
    "Accept-Language": "en, *;q=0.5",
}
_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What a URL led to: the beginning of a page, or a picture that is kept."""

    url: str
    content_type: str
    body: bytes
    picture: _Picture | None


@dataclass(frozen=True, slots=True)
class _Picture:
    uri: MediaUri
    size: int
    content_type: str
    dimensions: tuple[int, int] | None


@dataclass
class UrlPreviews:
    """Fetches web pages for our users.

    Attributes:
        http: with the networks whose pages are never fetched, looked at for every address.
        is_enabled: the operator wants it.
        max_picture_bytes: larger pictures are left out.
    """

    store: UrlPreviewStore
    media: MediaStore
    files: MediaFiles
    thumbnails: Thumbnails
    http: OutboundHttp
    rate_limits: RateLimits
    clock: Clock
    randomness: Randomness
    server_name: ServerName
    is_enabled: bool
    max_picture_bytes: int
    _flights: SingleFlight[str, dict[str, Any]] = field(default_factory=SingleFlight)

    def preview(self, requester: Requester, url: str) -> dict[str, Any]:
        """What a page says about itself, in the words of OpenGraph.

        Raises:
            Unrecognized: this server makes no previews.
            InvalidParam: it is no URL that may be fetched.
            RemoteFailed: its server does not answer, or with an error.
            LimitExceeded: the requester asked for too many.
        """
        if not self.is_enabled:
            raise Unrecognized("This server makes no previews.")
        url = _checked(url)

        def make() -> dict[str, Any]:
            self.rate_limits.spend("remote_media", requester.user_id)
            made = self._make(url)
            self.store.put(url, made, self.clock.now_ms() + KEPT_MS)
            return made

        known = self.store.find(url, self.clock.now_ms())
        return self._flights.do(url, make, TIMEOUT_S) if known is None else known

    def forget_old(self) -> int:
        """Forget previews that are out of date; how many."""
        return self.store.delete_expired(self.clock.now_ms())

    # ---- making

    def _make(self, url: str) -> dict[str, Any]:
        ends = self.clock.monotonic() + TIMEOUT_S
        try:
            fetched = self._fetch(url, ends)
        except RemoteBlocked as error:
            raise InvalidParam("Pages of that network are never fetched.") from error
        except RemoteRefused as error:
            raise RemoteFailed(f"The page's server answers {error.status}.") from error
        except RemoteError as error:
            log.info("no preview: %s", error)
            raise RemoteFailed("The page cannot be fetched.") from error
        if fetched.picture is not None:
            return {"og:title": tidy(_last_segment(fetched.url)), **_told(fetched.picture)}
        if fetched.content_type.partition(";")[0].strip().lower() not in _HTML:
            return {}
        page = read_page(fetched.body, fetched.content_type, lambda: self.clock.sleep(0))
        self._add_oembed(page, fetched.url, ends)
        preview = _preview_of(page)
        picture = self._find_picture(page, fetched.url, ends)
        return {**preview, **(_told(picture) if picture is not None else {})}

    def _add_oembed(self, page: WebPage, base: str, ends: float) -> None:
        """What a page lacks, from its description in JSON.

        Spec: https://oembed.com/
        """
        address = _joined(base, page.oembed)
        if address is None or {"og:title", "og:image"} <= page.properties.keys():
            return
        try:
            answer = self.http.fetch_url(
                "GET",
                address,
                timeout_s=ends - self.clock.monotonic(),
                max_bytes=_MAX_DESCRIPTION_BYTES,
            )
            told = parse_json(answer.body) if answer.status == 200 else None
        except (RemoteError, NotJson) as error:
            log.info("no description of a page: %s", error)
            return
        if not isinstance(told, dict):
            return
        is_photo = told.get("type") == "photo"
        for name, key in (
            ("og:title", "title"),
            ("og:site_name", "provider_name"),
            ("og:image", "url" if is_photo else "thumbnail_url"),
        ):
            value = told.get(key)
            if isinstance(value, str) and tidy(value):
                page.properties.setdefault(name, tidy(value))

    def _find_picture(self, page: WebPage, base: str, ends: float) -> _Picture | None:
        """The picture that a page shows of itself; None when it has none that we take."""
        properties = page.properties
        addresses = [
            properties[name]
            for name in ("og:image:secure_url", "og:image", "og:image:url", "twitter:image")
            if name in properties
        ]
        for address in dict.fromkeys([*addresses[:2], *page.pictures[:1]]):
            joined = _joined(base, address)
            if joined is None:
                continue
            try:
                fetched = self._fetch(joined, ends)
            except RemoteError as error:
                log.info("no picture for a preview: %s", error)
                continue
            if fetched.picture is not None:
                return fetched.picture
        return None

    def _fetch(self, url: str, ends: float) -> _Fetched:
        """A page's beginning, or a picture."""
        with self.http.stream_url(
            url,
            headers=_HEADERS,
            timeout_s=ends - self.clock.monotonic(),
            max_bytes=max(self.max_picture_bytes, MAX_PAGE_BYTES),
        ) as (answer, final_url):
            if answer.status != 200:
                raise RemoteRefused(url[:200], answer.status)
            content_type = answer.headers.get("Content-Type") or ""
            if content_type.strip().lower().startswith("image/"):
                return _Fetched(final_url, content_type, b"", self._keep_picture(answer, url))
            body = bytearray()
            while len(body) < MAX_PAGE_BYTES and (piece := answer.read()):
                body += piece
            return _Fetched(final_url, content_type, bytes(body), None)

    def _keep_picture(self, answer: AnswerStream, url: str) -> _Picture | None:
        """Keep a picture for a while; None when it is none that browsers show."""
        with self.files.incoming() as file:
            head = b""
            while piece := answer.read():
                head = head if len(head) >= 64 else head + piece[:64]
                file.write(piece)
                if file.size > self.max_picture_bytes:
                    raise RemoteTooLarge(url[:200], "The picture is too large.")
            kind = sniff_picture(head)
            if kind is None:
                return None
            now = self.clock.now_ms()
            media = Media(
                uri=MediaUri(self.server_name, self.randomness.token_urlsafe(18)),
                sha256=file.finish(),
                size=file.size,
                content_type=f"image/{kind.lower()}",
                file_name=None,
                uploader=None,
                is_local=True,
                created_ts=now,
                read_ts=now,
                expires_ts=now + PICTURES_KEPT_MS,
                needs_token=True,
            )
            self.media.insert(media, file.put)
        return _Picture(media.uri, media.size, media.content_type, self._measure(media))

    def _measure(self, media: Media) -> tuple[int, int] | None:
        file = None if media.sha256 is None else self.files.open(media.sha256)
        if file is None:
            return None
        try:
            return self.thumbnails.measure(file)
        finally:
            file.close()


def _preview_of(page: WebPage) -> dict[str, Any]:
    """The OpenGraph data of a page; what it does not say itself is taken from what it shows."""
    own = page.properties
    preview: dict[str, Any] = {
        name: value
        for name, value in own.items()
        if name.startswith("og:") and not name.startswith("og:image")
    }
    title = own.get("twitter:title") or page.title or page.heading
    description = own.get("twitter:description") or page.description or page.paragraph
    if title:
        preview.setdefault("og:title", title)
    if description:
        preview.setdefault("og:description", description)
    return preview


def _told(picture: _Picture) -> dict[str, Any]:
    told: dict[str, Any] = {
        "og:image": str(picture.uri),
        "og:image:type": picture.content_type,
        "matrix:image:size": picture.size,
    }
    if picture.dimensions is not None:
        told["og:image:width"], told["og:image:height"] = picture.dimensions
    return told


def _checked(url: str) -> str:
    """A URL that may be fetched, without its fragment. Raises InvalidParam."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_user = parts.username is not None or parts.password is not None
        _ = parts.port
    except ValueError:
        is_good, has_user = False, False
    if not is_good or has_user or len(url) > MAX_URL_LENGTH:
        raise InvalidParam("This is no http or https URL.")
    return urldefrag(url).url


def _joined(base: str, address: str) -> str | None:
    """Where an address on a page leads; None when it must not be followed."""
    if not address or len(address) > MAX_URL_LENGTH:
        return None
    try:
        return _checked(urljoin(base, address))
    except (InvalidParam, ValueError):
        return None


def _last_segment(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]
