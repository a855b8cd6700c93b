"""Thumbnails: made when they are asked for, or right after the upload; kept beside the content.

Spec: https://spec.matrix.org/v1.19/client-server-api/#thumbnails
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from architex.domain.errors import (
    CannotThumbnail,
    LimitExceeded,
    TooLarge,
    TooLargeElsewhere,
)
from architex.domain.media import (
    PREMADE_SIZES,
    MediaUri,
    Method,
    ThumbnailSize,
    choose_thumbnail_size,
    sniff_picture,
)
from architex.gateways.media_files import MediaFiles, StoredFile
from architex.gateways.thumbnailer import (
    MadeThumbnail,
    PictureRefused,
    Thumbnailer,
    ThumbnailerBusy,
)
from architex.gateways.timers import CallLater
from architex.storage.media import Media, MediaStore, Thumbnail
from architex.usecases.media_reading import Content, MediaReading, Reader, etag_of

log = logging.getLogger(__name__)

MAX_PREPARING: Final = 20
"""Pictures of one process that wait for their thumbnails; of others they are made when wanted."""

_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for: pixels, and how."""

    width: int
    height: int
    method: Method
    animated: bool


@dataclass
class _Making:
    """Thumbnails being made of one file in one size, and those who wait for them."""

    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Thumbnails:
    """Finds and makes thumbnails.

    Attributes:
        call_later: runs a function after so many seconds, beside what goes on.
    """

    store: MediaStore
    files: MediaFiles
    reading: MediaReading
    thumbnailer: Thumbnailer
    call_later: CallLater
    _making: dict[tuple[bytes, ThumbnailSize], _Making] = field(default_factory=dict)
    _preparing: int = 0

    def open(self, uri: MediaUri, wish: Wish, reader: Reader) -> Content:
        """A thumbnail of what a URI leads to; the content itself where that is small enough.

        Raises:
            CannotThumbnail: it is no picture, or a broken one.
            TooLarge, TooLargeElsewhere: it has too many pixels; ours, another server's.
            LimitExceeded: too many thumbnails are being made.
            NotFound, NotYetUploaded, RemoteFailed: as for the content.
        """
        media, file = self.reading.open_media(uri, reader)
        try:
            return self._open(media, file, wish)
        except BaseException:
            file.close()
            raise

    def prepare(self, media: Media) -> None:
        """Have the usual thumbnails of a new picture made, if there is time for it."""
        if media.sha256 is None or self._preparing >= MAX_PREPARING:
            return
        if not media.content_type.startswith("image/"):
            return
        self._preparing += 1
        self.call_later(0.0, lambda: self._prepare(media))

    def measure(self, file: StoredFile) -> tuple[int, int] | None:
        """Width and height of a picture in pixels; None when it is none that we know."""
        kind = sniff_picture(file.read(0, _HEAD_BYTES))
        if kind is None:
            return None
        try:
            picture = self.thumbnailer.make(file, kind, [])
        except (PictureRefused, ThumbnailerBusy):
            return None
        return picture.width, picture.height

    def _prepare(self, media: Media) -> None:
        try:
            assert media.sha256 is not None  # noqa: S101 - prepare() has looked
            file = self.files.open(media.sha256)
            if file is None:
                return
            try:
                kind = sniff_picture(file.read(0, _HEAD_BYTES))
                if kind is not None:
                    self._make(media, file, kind, PREMADE_SIZES)
            finally:
                file.close()
        except (PictureRefused, ThumbnailerBusy) as error:
            log.debug("no thumbnails of %s: %s", media.uri, error)
        finally:
            self._preparing -= 1

    def _open(self, media: Media, file: StoredFile, wish: Wish) -> Content:
        """The thumbnail; what of `file` it does not give back is closed."""
        head = file.read(0, _HEAD_BYTES)
        kind = sniff_picture(head)
        if kind is None:
            raise CannotThumbnail("There are no thumbnails of this kind of content.")
        # As what it is, whatever it was uploaded as: thumbnails are always shown inline.
        as_it_is = _named(f"image/{kind.lower()}", file, etag_of(media))
        wanted = choose_thumbnail_size(
            wish.width, wish.height, wish.method, animated=wish.animated
        )
        if wanted is None:
            # Larger than whatever is made. What moves must not, unless that is asked for.
            is_still = kind == "JPEG" or (kind == "PNG" and b"acTL" not in head)
            if wish.animated or is_still:
                return as_it_is
            wanted = ThumbnailSize(1600, 1200, "scale")
        thumbnail = self._find_or_make(media, file, kind, wanted)
        if thumbnail.sha256 is None:
            return as_it_is
        opened = self.files.open(thumbnail.sha256)
        if opened is None:
            raise CannotThumbnail("The thumbnail was lost; ask once more.")
        file.close()
        return _named(thumbnail.content_type, opened, f'"{thumbnail.sha256.hex()[:32]}"')

    def _find_or_make(
        self, media: Media, file: StoredFile, kind: str, wanted: ThumbnailSize
    ) -> Thumbnail:
        assert media.sha256 is not None  # noqa: S101 - there is an open file
        key = (media.sha256, wanted)
        while True:
            known = self._find(media.sha256, wanted)
            if known is not None:
                return known
            making = self._making.get(key)
            if making is None:
                break
            making.done.wait(60.0)
        making = self._making[key] = _Making()
        try:
            return self._make_told(media, file, kind, wanted)
        finally:
            del self._making[key]
            making.done.set()

    def _find(self, source: bytes, wanted: ThumbnailSize) -> Thumbnail | None:
        """A thumbnail whose file is there."""
        known = self.store.find_thumbnail(source, wanted)
        if known is None or known.sha256 is None:
            return known
        file = self.files.open(known.sha256)
        if file is None:
            return None
        file.close()
        return known

    def _make_told(
        self, media: Media, file: StoredFile, kind: str, wanted: ThumbnailSize
    ) -> Thumbnail:
        try:
            return self._make(media, file, kind, [wanted])[0]
        except PictureRefused as refused:
            if not refused.is_too_large:
                raise CannotThumbnail(str(refused)) from refused
            if media.is_local:
                raise TooLarge(str(refused)) from refused
            raise TooLargeElsewhere(str(refused)) from refused
        except ThumbnailerBusy as busy:
            raise LimitExceeded(str(busy), retry_after_ms=5000) from busy

    def _make(
        self, media: Media, file: StoredFile, kind: str, wanted: Sequence[ThumbnailSize]
    ) -> Sequence[Thumbnail]:
        assert media.sha256 is not None  # noqa: S101 - there is an open file
        picture = self.thumbnailer.make(file, kind, wanted)
        return [self._keep(media.sha256, made) for made in picture.thumbnails]

    def _keep(self, source: bytes, made: MadeThumbnail) -> Thumbnail:
        if made.data is None:
            thumbnail = Thumbnail(made.wanted, None, 0, made.content_type)
            self.store.insert_thumbnail(source, thumbnail, lambda: None)
            return thumbnail
        with self.files.incoming() as file:
            file.write(made.data)
            thumbnail = Thumbnail(made.wanted, file.finish(), file.size, made.content_type)
            self.store.insert_thumbnail(source, thumbnail, file.put)
        return thumbnail


def _named(content_type: str, file: StoredFile, etag: str) -> Content:
    """A picture under the name of a thumbnail."""
    return Content(content_type, f"thumbnail.{content_type.partition('/')[2]}", file, etag)
