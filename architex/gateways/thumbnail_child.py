"""The program that decodes pictures: a process of its own, with little memory and little time.

Reads a picture from standard input and a JobJson from its only argument. Writes one line of JSON
about the picture, then for each thumbnail a line of JSON and its bytes. It imports nothing of
Architex: it is started as a file.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, TypeAlias

from PIL import Image, ImageOps, ImageSequence

Json: TypeAlias = dict[str, Any]

MAX_FRAMES: Final = 150
# Decoded, converted and resized pictures are in memory together: 4 bytes each.
_BYTES_PER_PIXEL: Final = 16
_SPARE_BYTES: Final = 128 * 1024 * 1024
_JPEG_QUALITY: Final = 82
_WEBP_QUALITY: Final = 78
# What clients may be given as it is when it is small enough.
_WEB_FORMATS: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif"}


class Refused(Exception):
    """The picture is not decoded; the argument says why in one word."""


def main() -> None:
    """Do the job; exits with 0 also when the picture is refused, with what is wrong."""
    job: Json = json.loads(sys.argv[1])
    _limit_ourselves(job["max_pixels"], job["cpu_s"])
    out = sys.stdout.buffer
    try:
        for line, data in _results(sys.stdin.buffer, job):
            out.write(json.dumps(line).encode() + b"\n" + data)
    except Refused as refused:
        out.write(json.dumps({"error": str(refused)}).encode() + b"\n")
    except MemoryError:
        out.write(b'{"error": "too_large"}\n')
    except Exception as error:  # noqa: BLE001 - decoders raise anything at broken pictures
        out.write(json.dumps({"error": "broken", "why": str(error)[:200]}).encode() + b"\n")
    out.flush()


def _limit_ourselves(max_pixels: int, cpu_s: int) -> None:
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    memory = now + max_pixels * _BYTES_PER_PIXEL + _SPARE_BYTES
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(what, (limit, limit))
    os.nice(10)
    # Ours is in the job, and is compared before anything is decoded.
    Image.MAX_IMAGE_PIXELS = None


def _results(source: BinaryIO, job: Json) -> Iterator[tuple[Json, bytes]]:
    with Image.open(source, formats=[job["format"]]) as image:
        width, height = image.size
        if width * height > job["max_pixels"]:
            raise Refused("too_large")
        frames = int(getattr(image, "n_frames", 1))
        if image.getexif().get(0x0112) in (5, 6, 7, 8):  # it lies on its side
            width, height = height, width
        yield {"width": width, "height": height, "frames": frames}, b""
        wanted: list[Json] = job["wanted"]
        for one in wanted:
            if one["animated"] and 1 < frames <= MAX_FRAMES:
                yield _animated(image, one, (width, height), job)
        still = [one for one in wanted if not (one["animated"] and 1 < frames <= MAX_FRAMES)]
        if still:
            yield from _stills(image, still, (width, height), frames)


def _stills(
    image: Image.Image, wanted: list[Json], size: tuple[int, int], frames: int
) -> Iterator[tuple[Json, bytes]]:
    kind = image.format or ""
    largest = max(max(one["width"], one["height"]) for one in wanted)
    if kind == "JPEG":
        image.draft("RGB", (largest * 2, largest * 2))
    if frames > 1:
        image.seek(0)
    is_plain = frames == 1 and kind in _WEB_FORMATS
    upright: Image.Image | None = None
    for one in wanted:
        if is_plain and size[0] <= one["width"] and size[1] <= one["height"]:
            yield {"wanted": one, "is_source": True, "size": 0}, b""
            continue
        if upright is None:
            upright = _in_true_colour(ImageOps.exif_transpose(image))
        small = _resized(upright, one)
        data = io.BytesIO()
        if small.mode == "RGBA":
            small.save(data, "PNG")
            content_type = "image/png"
        else:
            small.save(data, "JPEG", quality=_JPEG_QUALITY, optimize=True)
            content_type = "image/jpeg"
        yield _told(one, content_type, small.size, data.getvalue())


def _animated(
    image: Image.Image, one: Json, size: tuple[int, int], job: Json
) -> tuple[Json, bytes]:
    if size[0] <= one["width"] and size[1] <= one["height"] and image.format == "GIF":
        return {"wanted": one, "is_source": True, "size": 0}, b""
    frames: list[Image.Image] = []
    durations: list[int] = []
    held = 0
    for frame in ImageSequence.Iterator(image):
        small = _resized(frame.convert("RGBA"), one)
        held += small.width * small.height
        if held > job["max_pixels"]:
            raise Refused("too_large")
        frames.append(small)
        durations.append(int(frame.info.get("duration", 100)) or 100)
    data = io.BytesIO()
    frames[0].save(
        data,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=int(image.info.get("loop", 0)),
        quality=_WEBP_QUALITY,
        method=1,
    )
    return _told(one, "image/webp", frames[0].size, data.getvalue())


def _told(one: Json, content_type: str, size: tuple[int, int], data: bytes) -> tuple[Json, bytes]:
    line = {
        "wanted": one,
        "content_type": content_type,
        "width": size[0],
        "height": size[1],
        "size": len(data),
    }
    return line, data


def _in_true_colour(image: Image.Image) -> Image.Image:
    """The picture as RGBA if it has transparency, else RGB."""
    if image.mode in ("RGB", "RGBA"):
        return image
    has_alpha = image.has_transparency_data
    if image.mode.startswith("I"):  # 16 and 32 bits of grey
        image = image.point(lambda value: value / 256).convert("L")
    return image.convert("RGBA" if has_alpha else "RGB")


def _resized(image: Image.Image, one: Json) -> Image.Image:
    """A smaller copy; never larger than the picture itself."""
    box = (int(one["width"]), int(one["height"]))
    if one["method"] == "crop":
        return ImageOps.fit(image, (min(box[0], image.width), min(box[1], image.height)))
    small = image.copy()
    small.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return small


if __name__ == "__main__":
    main()
