"""Media: mxc:// URIs, content types that may be shown in place, sizes of thumbnails.

Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repository
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from architex.domain.errors import InvalidParam, NotFound
from architex.domain.identifiers import ServerName, is_server_name

Method: TypeAlias = Literal["scale", "crop"]

MAX_FILE_NAME_LENGTH: Final = 255
MAX_CONTENT_TYPE_LENGTH: Final = 255
UNKNOWN_TYPE: Final = "application/octet-stream"

INLINE_TYPES: Final = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""Spec: https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content"""

_MEDIA_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_TOKEN: Final = r"[A-Za-z0-9!#$&^_.+-]{1,127}"  # noqa: S105 - of a media type
_CONTENT_TYPE: Final = re.compile(rf"({_TOKEN})/({_TOKEN})\s*(;[\x20-\x7e]*)?")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9 !#$&'()+,.;=@^_`{}~\[\]-]+")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class MediaUri:
    """mxc://server_name/media_id."""

    server_name: ServerName
    media_id: str

    def __str__(self) -> str:
        return f"mxc://{self.server_name}/{self.media_id}"


def check_media_uri(server_name: str, media_id: str) -> MediaUri:
    """The URI of two segments of a path; neither ever becomes a path of ours.

    Raises:
        NotFound: there cannot be such media.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#content-repo-security-considerations
    """
    if not is_server_name(server_name) or _MEDIA_ID.fullmatch(media_id) is None:
        raise NotFound("There is no such media.")
    return MediaUri(server_name, media_id)


def parse_media_uri(text: str) -> MediaUri:
    """Read mxc://server/id.

    Raises:
        InvalidParam: it is none.
    """
    scheme, _, rest = text.partition("://")
    server_name, _, media_id = rest.partition("/")
    is_good = is_server_name(server_name) and _MEDIA_ID.fullmatch(media_id) is not None
    if scheme != "mxc" or not is_good:
        raise InvalidParam(f"{text!r} is not of the form mxc://server/id.")
    return MediaUri(server_name, media_id)


def clean_content_type(given: str | None) -> str:
    """A Content-Type that may be kept and told; what is none becomes UNKNOWN_TYPE."""
    text = (given or "").strip()
    match = _CONTENT_TYPE.fullmatch(text)
    if match is None or len(text) > MAX_CONTENT_TYPE_LENGTH:
        return UNKNOWN_TYPE
    return f"{match[1]}/{match[2]}".lower() + (match[3] or "")


def clean_file_name(given: str | None) -> str | None:
    """A file name that may be kept and told; None when nothing is left of it."""
    text = _SURROGATES.sub("", _CONTROLS.sub("", given or ""))
    return text.strip()[:MAX_FILE_NAME_LENGTH] or None


def is_shown_inline(content_type: str) -> bool:
    """Whether content of a type may be shown in place by a browser."""
    return content_type.partition(";")[0].strip().lower() in INLINE_TYPES


def content_disposition(content_type: str, file_name: str | None) -> str:
    """The Content-Disposition of an answer.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content
    """
    disposition = "inline" if is_shown_inline(content_type) else "attachment"
    if file_name is None:
        return disposition
    if _PLAIN_NAME.fullmatch(file_name):
        return f'{disposition}; filename="{file_name}"'
    return f"{disposition}; filename*=utf-8''{quote(file_name, safe='')}"


# ---- kinds of pictures


def sniff_picture(head: bytes) -> str | None:
    """The format of a picture by its first bytes; None for everything that is not thumbnailed.

    Args:
        head: at least 32 bytes, if there are so many.

    Returns the name that Pillow gives to the format.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return None


# ---- thumbnails

_SCALE_SIZES: Final = ((320, 240), (640, 480), (800, 600), (1600, 1200))
_CROP_STEPS: Final = (32, 96, 160, 240, 320, 480, 640, 800, 1200, 1600)


@dataclass(frozen=True, slots=True)
class ThumbnailSize:
    """What a thumbnail is made to; one of few, however many are asked for.

    Attributes:
        width, height: pixels; a box that "scale" fits into and "crop" fills.
    """

    width: int
    height: int
    method: Method
    animated: bool = False


PREMADE_SIZES: Final = (
    ThumbnailSize(32, 32, "crop"),
    ThumbnailSize(96, 96, "crop"),
    ThumbnailSize(320, 240, "scale"),
    ThumbnailSize(640, 480, "scale"),
    ThumbnailSize(800, 600, "scale"),
)
"""Spec: https://spec.matrix.org/v1.19/client-server-api/#thumbnails"""


def choose_thumbnail_size(
    width: int, height: int, method: Method, *, animated: bool = False
) -> ThumbnailSize | None:
    """The size that is made for a wish: the next one that is not smaller.

    None when the wish is larger than what is ever made: then the content itself is the answer.
    """
    if method == "scale":
        for w, h in _SCALE_SIZES:
            if width <= w and height <= h:
                return ThumbnailSize(w, h, "scale", animated)
        return None
    wide = next((step for step in _CROP_STEPS if width <= step), None)
    high = next((step for step in _CROP_STEPS if height <= step), None)
    if wide is None or high is None:
        return None
    return ThumbnailSize(wide, high, "crop", animated)
