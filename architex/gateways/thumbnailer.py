"""Thumbnailer: makes small pictures of large ones, in child processes with tight limits."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from architex.domain.media import ThumbnailSize
from architex.gateways.media_files import StoredFile

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""Children of one process; whoever finds none free waits."""

_CPU_S: Final = 12
# The machine may be busy, and a child is nice to all others.
_WALL_S: Final = 60.0
_WAIT_S: Final = 90.0
_MAX_LINE_BYTES: Final = 4096
_MAX_OUTPUT_BYTES: Final = 32 * 1024 * 1024
_CHILD: Final = str(Path(__file__).with_name("thumbnail_child.py"))


class PictureRefused(Exception):
    """There is no thumbnail of it.

    Attributes:
        is_too_large: it has too many pixels, or decoding it takes too much memory or time.
    """

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


class ThumbnailerBusy(Exception):
    """Too many are being made; later it will work."""


@dataclass(frozen=True, slots=True)
class MadeThumbnail:
    """A thumbnail.

    Attributes:
        data: its bytes; None when the picture itself is small enough.
    """

    wanted: ThumbnailSize
    content_type: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Picture:
    """What was found out about a picture, and its thumbnails."""

    width: int
    height: int
    thumbnails: Sequence[MadeThumbnail]


class Thumbnailer(Protocol):
    """Makes thumbnails."""

    def make(self, file: StoredFile, kind: str, wanted: Sequence[ThumbnailSize]) -> Picture:
        """Thumbnails of a picture, one per size; also for none: its size is found out.

        Args:
            kind: its format, as `architex.domain.media.sniff_picture` says.

        Raises:
            PictureRefused: it cannot be decoded within the limits.
            ThumbnailerBusy: too many others are waiting.
        """


class ChildThumbnailer:
    """See Thumbnailer: by `thumbnail_child.py`, which is killed when it takes too long."""

    def __init__(self, max_pixels: int) -> None:
        """Prepare.

        Args:
            max_pixels: width times height of what is decoded at all.
        """
        self._max_pixels = max_pixels
        self._slots = threading.Semaphore(AT_ONCE)

    def make(self, file: StoredFile, kind: str, wanted: Sequence[ThumbnailSize]) -> Picture:
        """See Thumbnailer."""
        if not self._slots.acquire(timeout=_WAIT_S):
            raise ThumbnailerBusy("Too many thumbnails are being made.")
        try:
            return self._run(file, kind, wanted)
        finally:
            self._slots.release()

    def _run(self, file: StoredFile, kind: str, wanted: Sequence[ThumbnailSize]) -> Picture:
        job = {
            "format": kind,
            "max_pixels": self._max_pixels,
            "cpu_s": _CPU_S,
            "wanted": [
                {"width": w.width, "height": w.height, "method": w.method, "animated": w.animated}
                for w in wanted
            ],
        }
        # Its own open file, or two children would share one place in it.
        source = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            child = subprocess.Popen(  # noqa: S603 - our own program; the job is data
                [sys.executable, "-I", _CHILD, json.dumps(job)],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
        finally:
            os.close(source)
        killer = threading.Timer(_WALL_S, child.kill)
        killer.daemon = True
        killer.start()
        assert child.stdout is not None  # noqa: S101 - it is a pipe, as asked for above
        try:
            with contextlib.closing(child.stdout) as output:
                return _read_results(output, wanted)
        except _EndedEarly as early:
            status = child.wait()
            is_limit = status in (-signal.SIGXCPU, -signal.SIGKILL)
            log.info("no thumbnail: the child ended with status %d", status)
            raise PictureRefused(
                "The picture cannot be decoded within bounds.", is_too_large=is_limit
            ) from early
        finally:
            killer.cancel()
            child.kill()
            child.wait()


class _EndedEarly(Exception):
    """The child said less than it was to say."""


def _read_results(output: Any, wanted: Sequence[ThumbnailSize]) -> Picture:
    head = _read_line(output)
    made: list[MadeThumbnail] = []
    left = _MAX_OUTPUT_BYTES
    for line in _lines(output, len(wanted)):
        size = int(line["size"])
        left -= size
        if left < 0 or size < 0:
            raise PictureRefused("Its thumbnails are too large.", is_too_large=True)
        one = line["wanted"]
        made.append(
            MadeThumbnail(
                ThumbnailSize(one["width"], one["height"], one["method"], one["animated"]),
                str(line.get("content_type", "")),
                None if line.get("is_source") else _read_exactly(output, size),
            )
        )
    return Picture(int(head["width"]), int(head["height"]), made)


def _lines(output: BinaryIO, count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        yield _read_line(output)


def _read_line(output: BinaryIO) -> dict[str, Any]:
    raw = output.readline(_MAX_LINE_BYTES)
    if not raw.endswith(b"\n"):
        raise _EndedEarly
    line: dict[str, Any] = json.loads(raw)
    if "error" in line:
        is_too_large = line["error"] == "too_large"
        said = "has too many pixels" if is_too_large else "cannot be decoded"
        raise PictureRefused(f"The picture {said}.", is_too_large=is_too_large)
    return line


def _read_exactly(output: BinaryIO, size: int) -> bytes:
    data = output.read(size)
    if len(data) != size:
        raise _EndedEarly
    return data
