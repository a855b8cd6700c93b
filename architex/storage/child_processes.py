"""Child processes that die with their parent, wait for its word, and may run as another user.

For Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 4
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAP_SETPCAP = 8
_CAPABILITY_VERSION_3 = 0x20080522

# Looked up before any fork: between fork and exec a child must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int, death_signal: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to send this process `death_signal` once its parent is gone.

    Call it in the child, after any change of user (which makes the kernel forget the wish). The
    kernel watches the *thread* that forked, so fork from one that lives as long as the process.

    Args:
        parent_pid: who the parent was before the fork; if it is gone already, the child exits.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


class Word(Enum):
    """What a parent says to a child that waits for it."""

    MAKE_READY = b"r"
    """The database runs, and nobody has looked at it since the start: do so, then serve."""
    SERVE = b"s"


def give_word(child_input: IO[bytes], word: Word) -> None:
    """Let a child go on that waits for it.

    Args:
        child_input: what the child reads as its standard input; closed afterwards.
    """
    with suppress(OSError), child_input:  # it may be dead already
        child_input.write(word.value)


def wait_for_word() -> Word | None:
    """Wait, in a child, until its parent lets it go on; None when the parent gave up."""
    said = os.read(0, 1)
    return Word(said) if said else None


def find_search_capability() -> int | None:
    """The capability by which we could let another user walk through closed directories.

    None when this process has none to give (it is not root, or a container took them away).
    """
    fields = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    ours = int(fields["CapPrm"], 16) & int(fields["CapBnd"], 16)
    if not ours & (1 << _CAP_SETPCAP):
        return None
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if ours & (1 << capability):
            return capability
    return None


def become_user(uid: int, gid: int, *, capability: int | None = None) -> None:
    """Stop being root for good, keeping at most one capability, also across exec.

    Raises OSError when the kernel does not let us.
    """
    if capability is not None:
        # Capabilities stay as they are when the user changes, and access(2), by which PostgreSQL
        # looks at its own programs, counts them for a user who is not root.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability is not None:
        bit = 1 << capability
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        # Twice (effective, permitted, inheritable): the low and the high 32 capabilities.
        sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
        if _LIBC.capset(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capset")
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _LIBC.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
