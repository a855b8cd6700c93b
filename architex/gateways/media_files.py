"""MediaFiles: content by its SHA-256, on the local disk.

No name from outside ever becomes a path: files are named by hashes and by our own chance.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from architex.gateways.clock import Randomness
from architex.gateways.off_loop import OffLoop

PIECE_BYTES: Final = 65_536
"""What is read at once: what a slow connection takes within its time-out."""

HASH_NAME: Final = re.compile(r"[0-9a-f]{64}")
"""What a file or object in its place is called: the SHA-256 of its content."""

_BUFFER_BYTES: Final = 1024 * 1024
_ABANDONED_AT_ONCE: Final = 1000
_COMPLETE: Final = re.compile(r"([0-9a-f]{64})-[A-Za-z0-9_-]+")


class IncomingFile(Protocol):
    """A file that is being written; gone when its block ends, unless put into its place."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def write(self, piece: bytes) -> None:
        """Add to its end."""

    def finish(self) -> bytes:
        """Make it safe against loss of power; its SHA-256."""

    def put(self) -> None:
        """Put it into its place. Call it under the lock of its hash."""


class StoredFile(Protocol):
    """A file open for reading."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Some of its bytes."""

    def fileno(self) -> int:
        """A descriptor, for a child process to read from."""

    def close(self) -> None:
        """Read no more."""


class Removal(Protocol):
    """A file on its way out."""

    def take_away(self) -> None:
        """Move it out of its place. Call it under the lock of its hash."""

    def finish(self) -> None:
        """Delete it for good."""


class MediaFiles(Protocol):
    """Keeps content by its hash.

    What is interrupted at any moment leaves something that `list_abandoned` finds.
    """

    def incoming(self) -> contextlib.AbstractContextManager[IncomingFile]:
        """A new file, to be written inside the block."""

    def open(self, sha256: bytes) -> StoredFile | None:
        """The file with that hash; None when it is not there."""

    def removing(self, sha256: bytes) -> contextlib.AbstractContextManager[Removal]:
        """The removal of a file; what the block does not finish is put right later."""

    def list_abandoned(self) -> Sequence[Abandoned]:
        """What writers and removers left behind that are no more."""

    def list_stored(self) -> Iterator[bytes]:
        """The hashes of all files that are in their place."""


class Abandoned(Protocol):
    """A file that a process left behind when it ended."""

    @property
    def sha256(self) -> bytes | None:
        """Its hash, if it was complete."""

    def settle(self, is_wanted: bool) -> None:
        """Put it (back) into its place or out of the world. Call it under the lock of its hash."""


class LocalMediaFiles:
    """See MediaFiles: below a directory; several processes may share it.

    `incoming/` holds what is being written or removed, each file locked (flock) by the process
    that works on it: a file there that nobody locks is abandoned. A complete file has its hash in
    its name there, and gets a second link in its place; so the moment of a crash never matters.
    """

    def __init__(self, directory: Path, randomness: Randomness, off_loop: OffLoop) -> None:
        """Prepare; makes no directory before there is something to keep."""
        self._directory = directory
        self._incoming = directory / "incoming"
        self._randomness = randomness
        self._off_loop = off_loop

    def path_of(self, sha256: bytes) -> Path:
        """Where content has its place."""
        name = sha256.hex()
        return self._directory / name[:2] / name[2:4] / name

    @contextmanager
    def incoming(self) -> Iterator[LocalIncomingFile]:
        """See MediaFiles."""
        name = self._randomness.token_urlsafe(12)
        path = self._incoming / f"new-{name}"
        descriptor = self._off_loop(lambda: _create(path))
        file = LocalIncomingFile(self, self._off_loop, path, descriptor, name)
        try:
            yield file
        finally:
            self._off_loop(file.discard)

    def open(self, sha256: bytes) -> LocalStoredFile | None:
        """See MediaFiles."""
        path = self.path_of(sha256)

        def open_it() -> tuple[int, int] | None:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            return descriptor, os.fstat(descriptor).st_size

        opened = self._off_loop(open_it)
        return None if opened is None else LocalStoredFile(*opened, self._off_loop)

    @contextmanager
    def removing(self, sha256: bytes) -> Iterator[LocalRemoval]:
        """See MediaFiles."""
        name = f"{sha256.hex()}-{self._randomness.token_urlsafe(12)}"
        removal = LocalRemoval(self.path_of(sha256), self._incoming / name, self._off_loop)
        try:
            yield removal
        finally:
            self._off_loop(removal.close)

    def list_abandoned(self) -> Sequence[LocalAbandoned]:
        """See MediaFiles."""
        return self._off_loop(self._list_abandoned)

    def list_stored(self) -> Iterator[bytes]:
        """See MediaFiles."""
        for number in range(256):
            directory = self._directory / f"{number:02x}"
            yield from self._off_loop(functools.partial(_hashes_below, directory))

    def _list_abandoned(self) -> Sequence[LocalAbandoned]:
        found: list[LocalAbandoned] = []
        if not self._incoming.exists():
            return found
        with os.scandir(self._incoming) as entries:
            for entry in entries:
                if len(found) >= _ABANDONED_AT_ONCE:
                    break
                if not _is_locked(Path(entry.path)):
                    match = _COMPLETE.fullmatch(entry.name)
                    sha256 = None if match is None else bytes.fromhex(match[1])
                    place = None if sha256 is None else self.path_of(sha256)
                    found.append(LocalAbandoned(Path(entry.path), place, sha256, self._off_loop))
        return found


class LocalIncomingFile:
    """See IncomingFile."""

    def __init__(
        self, files: LocalMediaFiles, off_loop: OffLoop, path: Path, descriptor: int, name: str
    ) -> None:
        self._files = files
        self._off_loop = off_loop
        self._path = path
        self._descriptor = descriptor
        self._name = name
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self.size = 0

    @property
    def path(self) -> Path:
        """Where it is until it is put."""
        return self._path

    def write(self, piece: bytes) -> None:
        """See IncomingFile."""
        self._buffer += piece
        self.size += len(piece)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._off_loop(self._flush)

    def finish(self) -> bytes:
        """See IncomingFile."""
        self._off_loop(self._finish)
        return self._hash.digest()

    def put(self) -> None:
        """See IncomingFile."""
        place = self._files.path_of(self._hash.digest())
        self._off_loop(lambda: _link(self._path, place))

    def discard(self) -> None:
        """Remove what is not in its place. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)

    def _flush(self) -> None:
        held, self._buffer = bytes(self._buffer), bytearray()
        self._hash.update(held)
        _write_all(self._descriptor, held)

    def _finish(self) -> None:
        self._flush()
        os.fsync(self._descriptor)
        complete = self._path.with_name(f"{self._hash.hexdigest()}-{self._name}")
        self._path.rename(complete)
        self._path = complete


class LocalStoredFile:
    """See StoredFile."""

    def __init__(self, descriptor: int, size: int, off_loop: OffLoop) -> None:
        self._descriptor = descriptor
        self._off_loop = off_loop
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """See StoredFile."""
        return self._off_loop(lambda: os.pread(self._descriptor, length, offset))

    def fileno(self) -> int:
        """See StoredFile."""
        return self._descriptor

    def close(self) -> None:
        """See StoredFile."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LocalRemoval:
    """See Removal."""

    def __init__(self, place: Path, aside: Path, off_loop: OffLoop) -> None:
        self._place = place
        self._aside = aside
        self._off_loop = off_loop
        self._descriptor: int | None = None

    def take_away(self) -> None:
        """See Removal."""
        self._off_loop(self._take_away)

    def finish(self) -> None:
        """See Removal."""
        self._off_loop(lambda: self._aside.unlink(missing_ok=True))

    def close(self) -> None:
        """Let go of the file. Blocks."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _take_away(self) -> None:
        self._aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._descriptor = os.open(self._place, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            self._place.rename(self._aside)


class LocalAbandoned:
    """See Abandoned."""

    def __init__(
        self, path: Path, place: Path | None, sha256: bytes | None, off_loop: OffLoop
    ) -> None:
        self.path = path
        self._place = place
        self._off_loop = off_loop
        self.sha256 = sha256

    def is_busy(self) -> bool:
        """Whether somebody works on it after all, or it is gone."""
        return self._off_loop(lambda: _is_locked(self.path))

    def settle(self, is_wanted: bool) -> None:
        """See Abandoned."""
        self._off_loop(lambda: self._settle(is_wanted))

    def _settle(self, is_wanted: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            # Whoever was just making it when it seemed abandoned has locked it by now.
            if _is_locked(self.path):
                return
            if self._place is not None and is_wanted:
                _link(self.path, self._place)
            elif self._place is not None:
                self._place.unlink(missing_ok=True)
            self.path.unlink()


def _hashes_below(directory: Path) -> Sequence[bytes]:
    return [bytes.fromhex(p.name) for p in directory.glob("*/*") if HASH_NAME.fullmatch(p.name)]


def _create(path: Path) -> int:
    """A new file that we alone have and have locked."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between the two, somebody who cleans up may have taken it for abandoned.
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    """Whether somebody works on a file of `incoming`, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _link(path: Path, place: Path) -> None:
    """Give a file its place, for good; the same content may have it already."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.link(path, place)
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
