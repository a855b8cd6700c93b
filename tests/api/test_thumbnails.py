"""Thumbnails: their sizes, their kinds, and pictures that are traps."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path

import falcon.testing
import pytest
from PIL import Image

from architex.settings import MediaSettings, RateLimitSettings
from tests.api.client import User, settings_for, start_server, stop_server
from tests.media_files import download, moving_picture, open_picture, picture, thumbnail, upload


def refused(result: falcon.testing.Result, status: int, errcode: str) -> None:
    assert (result.status_code, result.json["errcode"]) == (status, errcode), result.text


def size_of(result: falcon.testing.Result) -> tuple[int, int]:
    assert result.status_code == 200, result.text
    return open_picture(result.content).size


def png_that_says(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises a size that its data does not have."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_scaled_thumbnail_keeps_the_aspect_and_fits_the_box(alice: User) -> None:
    media = upload(alice, picture(1000, 500))
    assert size_of(thumbnail(alice, media, width=320, height=240, method="scale")) == (320, 160)
    assert size_of(thumbnail(alice, media, width=640, height=480)) == (640, 320)


def test_cropped_thumbnail_has_the_aspect_that_was_asked_for(alice: User) -> None:
    media = upload(alice, picture(1000, 500))
    assert size_of(thumbnail(alice, media, width=96, height=96, method="crop")) == (96, 96)


def test_thumbnail_is_not_smaller_than_asked_for_and_of_few_sizes(alice: User) -> None:
    media = upload(alice, picture(3000, 3000))
    for wanted in (33, 50, 70, 95):
        size = size_of(thumbnail(alice, media, width=wanted, height=wanted, method="crop"))
        assert size == (96, 96)


def test_small_picture_is_its_own_thumbnail(alice: User) -> None:
    original = picture(20, 10)
    media = upload(alice, original)
    result = thumbnail(alice, media, width=32, height=32, method="crop")
    assert result.content == original
    assert result.headers["content-type"] == "image/png"
    assert result.headers["content-disposition"] == 'inline; filename="thumbnail.png"'


def test_thumbnail_is_shown_inline_whatever_its_picture_was_uploaded_as(alice: User) -> None:
    media = upload(alice, picture(500, 400, "JPEG"), "application/x-unknown")
    for wanted in (32, 5000):
        result = thumbnail(alice, media, width=wanted, height=wanted)
        assert result.headers["content-type"] == "image/jpeg"
        assert result.headers["content-disposition"] == 'inline; filename="thumbnail.jpeg"'


def test_thumbnail_is_never_larger_than_the_picture(alice: User) -> None:
    media = upload(alice, picture(500, 20, "JPEG"), "image/jpeg")
    width, height = size_of(thumbnail(alice, media, width=96, height=96, method="crop"))
    assert (width, height) == (96, 20)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
def test_usual_formats_have_thumbnails(alice: User, kind: str) -> None:
    media = upload(alice, picture(900, 600, kind), f"image/{kind.lower()}")
    result = thumbnail(alice, media, width=320, height=240)
    assert size_of(result) == (320, 213)
    assert result.headers["content-type"] in ("image/png", "image/jpeg")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "CMYK"])
def test_odd_colours_have_thumbnails(alice: User, mode: str) -> None:
    data = io.BytesIO()
    image = open_picture(picture(400, 400)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = image.convert("I;16")
    image.save(data, "TIFF" if mode == "never" else ("JPEG" if mode == "CMYK" else "PNG"))
    media = upload(alice, data.getvalue())
    assert size_of(thumbnail(alice, media, width=96, height=96, method="crop")) == (96, 96)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_pictures_move_only_where_that_is_asked_for(alice: User, kind: str) -> None:
    media = upload(alice, moving_picture(kind=kind), f"image/{kind.lower()}")
    still = thumbnail(alice, media, width=320, height=240)
    assert getattr(open_picture(still.content), "n_frames", 1) == 1
    still = thumbnail(alice, media, width=320, height=240, animated="false")
    assert getattr(open_picture(still.content), "n_frames", 1) == 1
    moving = thumbnail(alice, media, width=320, height=240, animated="true")
    assert getattr(open_picture(moving.content), "n_frames", 1) == 3
    assert moving.headers["content-type"] == "image/webp"


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_even_a_small_or_huge_thumbnail_stands_still(alice: User, kind: str) -> None:
    media = upload(alice, moving_picture(20, 20, kind), f"image/{kind.lower()}")
    for wanted in (32, 5000):
        still = thumbnail(alice, media, width=wanted, height=wanted)
        assert getattr(open_picture(still.content), "n_frames", 1) == 1


def test_picture_that_lies_on_its_side_is_put_upright(alice: User) -> None:
    data = io.BytesIO()
    image = open_picture(picture(600, 300, "JPEG"))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(data, "JPEG", exif=exif)
    media = upload(alice, data.getvalue(), "image/jpeg")
    width, height = size_of(thumbnail(alice, media, width=96, height=240, method="scale"))
    assert width < height


def test_thumbnail_tells_nothing_of_where_a_picture_was_taken(alice: User) -> None:
    data = io.BytesIO()
    image = open_picture(picture(600, 300, "JPEG"))
    exif = image.getexif()
    exif[0x010E] = "my kitchen"
    image.save(data, "JPEG", exif=exif)
    media = upload(alice, data.getvalue(), "image/jpeg")
    assert b"my kitchen" not in thumbnail(alice, media, width=96, height=96).content


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"width": 10},
        {"width": "x", "height": 10},
        {"width": -1, "height": 10},
        {"width": 0, "height": 0},
        {"width": 10, "height": 10, "method": "stretch"},
        {"width": 10, "height": 10, "animated": "perhaps"},
    ],
)
def test_wishes_that_make_no_sense_are_refused(alice: User, params: dict[str, object]) -> None:
    media = upload(alice, picture())
    assert thumbnail(alice, media, **params).status_code == 400


# ---- traps


@pytest.mark.parametrize(
    "trap",
    [
        b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"II*\x00" + b"\x00" * 64,
        b"BM" + b"\x00" * 64,
        b"\x00\x00\x01\x00" + b"\x00" * 64,
        b"gimp xcf v001",
        b"hello",
        b"",
    ],
    ids=["ps", "pdf", "svg", "tiff", "bmp", "ico", "xcf", "text", "nothing"],
)
@pytest.mark.parametrize("content_type", ["image/png", "image/svg+xml"])
def test_only_known_formats_reach_a_decoder(alice: User, trap: bytes, content_type: str) -> None:
    media = upload(alice, trap, content_type)
    refused(thumbnail(alice, media, width=32, height=32), 400, "M_UNKNOWN")


@pytest.mark.parametrize(
    "trap",
    [
        picture()[:60],
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 100,
        b"\xff\xd8\xff\xe0" + b"\xff" * 1000,
        b"GIF89a" + b"\xff" * 100,
        b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"\xff" * 100,
        b"\x00\x00\x00\x1cftypavif" + b"\x00" * 100,
        b"GIF89a<script>alert(1)</script>",
    ],
    ids=["cut off", "png", "jpeg", "gif", "webp", "avif", "script"],
)
def test_broken_pictures_have_no_thumbnails(alice: User, trap: bytes) -> None:
    media = upload(alice, trap)
    refused(thumbnail(alice, media, width=32, height=32), 400, "M_UNKNOWN")


def test_picture_that_is_too_large_is_refused_by_its_header(alice: User) -> None:
    media = upload(alice, png_that_says(100_000, 100_000, b"\x00" * 100))
    refused(thumbnail(alice, media, width=32, height=32), 413, "M_TOO_LARGE")


def test_bomb_that_unpacks_to_gigabytes_harms_nobody(alice: User) -> None:
    bomb = png_that_says(5000, 5000, b"\x00" * 50_000_000)
    media = upload(alice, bomb)
    assert thumbnail(alice, media, width=32, height=32).status_code in (200, 400, 413)


def test_text_that_unpacks_to_gigabytes_harms_nobody(alice: User) -> None:
    packed = zlib.compress(b"x" * 50_000_000)
    body = b"zTXt" + b"Comment\x00\x00" + packed
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    plain = picture()
    media = upload(alice, plain[:33] + chunk + plain[33:])
    assert thumbnail(alice, media, width=32, height=32).status_code in (200, 400, 413)


def test_picture_that_never_stops_moving_is_shown_still(alice: User) -> None:
    frames = [Image.new("L", (200, 200), n) for n in range(200)]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=10)
    media = upload(alice, data.getvalue(), "image/gif")
    result = thumbnail(alice, media, width=96, height=96, method="crop", animated="true")
    assert getattr(open_picture(result.content), "n_frames", 1) == 1


def test_polyglot_is_told_as_the_picture_that_it_is(alice: User) -> None:
    media = upload(alice, picture(20, 20) + b"<script>alert(1)</script>", "text/html")
    result = thumbnail(alice, media, width=32, height=32)
    assert result.headers["content-type"] == "image/png"
    assert download(alice, media).headers["content-disposition"] == "attachment"


def test_limit_of_pixels_is_the_operators(database_url: str, tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path,
        rate_limits=RateLimitSettings(enabled=False),
        media=MediaSettings(max_thumbnail_pixels=10_000),
    )
    server = start_server(database_url, settings)
    try:
        user = server.register()
        large, small = upload(user, picture(101, 100)), upload(user, picture(100, 100))
        refused(thumbnail(user, large, width=32, height=32), 413, "M_TOO_LARGE")
        assert thumbnail(user, small, width=32, height=32).status_code == 200
    finally:
        stop_server(server)


def test_many_who_want_the_same_thumbnail_get_it(alice: User) -> None:
    media = upload(alice, picture(1200, 900), "application/octet-stream")
    results: list[falcon.testing.Result] = []

    def look() -> None:
        results.append(thumbnail(alice, media, width=640, height=480))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {result.status_code for result in results} == {200}
    assert len({result.content for result in results}) == 1
