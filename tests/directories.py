"""Directories for the databases of tests: in memory if there is room, and open to PostgreSQL."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - directories of our own are made in it
_ROOM_BYTES = 2_000_000_000


def make_directory() -> Path:
    """A new directory with a short path; whoever asked for it removes it.

    Not below pytest's own, which is closed to the user that PostgreSQL runs as under root.
    """
    is_roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    place = str(_MEMORY) if is_roomy and os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="architex-test-", dir=place))
    directory.chmod(0o711)
    return directory
