"""MediaFiles in a bucket of any S3-compatible store; files pass through the local disk.

What is written is gathered in `incoming/` on the local disk first, which is also the journal: a
process that ends in the middle leaves a file there that says what must become of the object.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from minio import Minio
from minio.error import S3Error

from architex.gateways.media_files import (
    HASH_NAME,
    LocalAbandoned,
    LocalIncomingFile,
    LocalMediaFiles,
)

BLOCK_BYTES: Final = 4 * 1024 * 1024
"""What is fetched at once while a file is read."""

_PART_BYTES: Final = 8 * 1024 * 1024
_MISSING: Final = frozenset({"NoSuchKey", "NoSuchObject", "NotFound"})


class S3MediaFiles:
    """See architex.gateways.media_files.MediaFiles."""

    def __init__(self, client: Minio, bucket: str, prefix: str, scratch: LocalMediaFiles) -> None:
        """Prepare; asks nothing.

        Args:
            prefix: of the names of all objects; may be empty.
            scratch: where files are gathered before they are sent.
        """
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._scratch = scratch

    def key_of(self, sha256: bytes) -> str:
        """The name of the object that holds content."""
        name = sha256.hex()
        return f"{self._prefix}{name[:2]}/{name[2:4]}/{name}"

    @contextmanager
    def incoming(self) -> Iterator[S3IncomingFile]:
        """See MediaFiles."""
        with self._scratch.incoming() as file:
            yield S3IncomingFile(self, file)

    def open(self, sha256: bytes) -> S3StoredFile | None:
        """See MediaFiles."""
        size = self.find_size(sha256)
        return None if size is None else S3StoredFile(self, sha256, size)

    @contextmanager
    def removing(self, sha256: bytes) -> Iterator[S3Removal]:
        """See MediaFiles."""
        yield S3Removal(self, sha256)

    def list_abandoned(self) -> Sequence[S3Abandoned]:
        """See MediaFiles."""
        return [S3Abandoned(self, local) for local in self._scratch.list_abandoned()]

    def list_stored(self) -> Iterator[bytes]:
        """See MediaFiles."""
        for found in self._client.list_objects(
            self._bucket, prefix=self._prefix or None, recursive=True
        ):
            name = (found.object_name or "").rpartition("/")[2]
            if HASH_NAME.fullmatch(name):
                yield bytes.fromhex(name)

    # ---- the bucket

    def find_size(self, sha256: bytes) -> int | None:
        """The size of an object; None when there is none."""
        try:
            return self._client.stat_object(self._bucket, self.key_of(sha256)).size
        except S3Error as error:
            if error.code in _MISSING:
                return None
            raise

    def send(self, sha256: bytes, path: Path) -> None:
        """Make an object of a file, part by part."""
        self._client.fput_object(
            self._bucket,
            self.key_of(sha256),
            str(path),
            part_size=_PART_BYTES,
            num_parallel_uploads=1,
        )

    def fetch(self, sha256: bytes, offset: int, length: int) -> bytes:
        """Some of the bytes of an object."""
        answer = self._client.get_object(
            self._bucket, self.key_of(sha256), offset=offset, length=length
        )
        try:
            return answer.read()
        finally:
            answer.close()
            answer.release_conn()

    def delete(self, sha256: bytes) -> None:
        """Delete an object, if there is one."""
        self._client.remove_object(self._bucket, self.key_of(sha256))


class S3IncomingFile:
    """See architex.gateways.media_files.IncomingFile."""

    def __init__(self, files: S3MediaFiles, local: LocalIncomingFile) -> None:
        self._files = files
        self._local = local
        self._sha256 = b""

    @property
    def size(self) -> int:
        """See IncomingFile."""
        return self._local.size

    def write(self, piece: bytes) -> None:
        """See IncomingFile."""
        self._local.write(piece)

    def finish(self) -> bytes:
        """See IncomingFile: sends it, as that may take long, and locks are held at `put`."""
        self._sha256 = self._local.finish()
        if self._files.find_size(self._sha256) is None:
            self._files.send(self._sha256, self._local.path)
        return self._sha256

    def put(self) -> None:
        """See IncomingFile: the object is there, unless somebody has just deleted it."""
        if self._files.find_size(self._sha256) is None:
            self._files.send(self._sha256, self._local.path)


class S3StoredFile:
    """See architex.gateways.media_files.StoredFile."""

    def __init__(self, files: S3MediaFiles, sha256: bytes, size: int) -> None:
        self._files = files
        self._sha256 = sha256
        self._block_at = 0
        self._block = b""
        self._copy: IO[bytes] | None = None
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """See StoredFile."""
        if offset >= self.size:
            return b""
        within = offset - self._block_at
        if not 0 <= within < len(self._block):
            wanted = min(max(BLOCK_BYTES, length), self.size - offset)
            self._block_at, within = offset, 0
            self._block = self._files.fetch(self._sha256, offset, wanted)
        return self._block[within : within + length]

    def fileno(self) -> int:
        """See StoredFile: of a copy on the local disk, which has no name."""
        if self._copy is None:
            self._copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this
            offset = 0
            while piece := self.read(offset, BLOCK_BYTES):
                self._copy.write(piece)
                offset += len(piece)
            self._copy.flush()
        return self._copy.fileno()

    def close(self) -> None:
        """See StoredFile."""
        if self._copy is not None:
            self._copy.close()
        self._block = b""


class S3Removal:
    """See architex.gateways.media_files.Removal: done under the lock, or another could put it."""

    def __init__(self, files: S3MediaFiles, sha256: bytes) -> None:
        self._files = files
        self._sha256 = sha256

    def take_away(self) -> None:
        """See Removal."""
        self._files.delete(self._sha256)

    def finish(self) -> None:
        """See Removal: it is gone."""


class S3Abandoned:
    """See architex.gateways.media_files.Abandoned."""

    def __init__(self, files: S3MediaFiles, local: LocalAbandoned) -> None:
        self._files = files
        self._local = local
        self.sha256 = local.sha256

    def settle(self, is_wanted: bool) -> None:
        """See Abandoned."""
        if self._local.is_busy():
            return
        if self.sha256 is not None:
            with contextlib.suppress(FileNotFoundError):
                if not is_wanted:
                    self._files.delete(self.sha256)
                elif self._files.find_size(self.sha256) is None:
                    self._files.send(self.sha256, self._local.path)
        self._local.settle(False)
